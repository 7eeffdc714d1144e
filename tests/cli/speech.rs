//! Recordings on the command line: labels, transcripts, subtitles, and what is refused.

use std::path::PathBuf;

use qeff::command::Command;
use qeff::speech::worst;
use qeff::{fixture, tensor_rows};
use serde_json::Value as Json;

use crate::{llama, qeff, snapshot};

fn jfk() -> PathBuf {
    fixture("audio/jfk.wav")
}

fn listen(verb: &str, name: &str) -> Command {
    qeff(verb).model(&fixture(name)).path("--audio", &jfk(), "RECORDING")
}

fn expected(name: &str) -> Json {
    serde_json::from_str(&std::fs::read_to_string(fixture(name).join("expected.json")).unwrap()).unwrap()
}

fn rows(json: &Json) -> &[Json] {
    json.as_array().expect("rows")
}

#[test]
fn ctc_labels_each_frame() {
    let name = "wav2vec2/base";
    let output = listen("run", name).words("--json --task ctc").succeeds().json()["outputs"][0].clone();
    let case = expected(name)["cases"][0].clone();
    assert_eq!((&output["ids"], &output["text"]), (&case["ids"], &case["text"]));
    assert!(worst(rows(&output["logits"]), &tensor_rows(&fixture(name), "whole.logits").unwrap()) < 1e-4);
    // The task follows from the model, and text is what people get.
    let text = listen("run", name).succeeds().stdout;
    assert_eq!(text.trim_end(), case["text"].as_str().unwrap());
}

#[test]
fn a_transcript_in_the_machine_form() {
    let name = "whisper/base";
    let flags = "--json --logits --language en --max-new-tokens 12 --ignore-eos";
    let outcome = listen("run", name).words(flags).succeeds();
    let case = &expected(name)["cases"][0];
    let output = &outcome.json()["outputs"][0];
    assert_eq!(output["prompt_ids"], case["prompt_ids"]);
    assert_eq!(output["generated_ids"], case["greedy_ids"]);
    assert_eq!(output["finish"], "length");
    assert!(worst(rows(&output["step_logits"]), &tensor_rows(&fixture(name), "english.step_logits").unwrap()) < 1e-4);
    assert_eq!(
        outcome.warnings(),
        ["RECORDING lasts 5.0 s; only the first 1 s are listened to: `transcribe` does all of it"]
    );
}

#[test]
fn transcripts_in_every_form() {
    let whole = |words: &str| {
        let words = format!("--language en --task transcribe --no-fallback {words}");
        listen("transcribe", "whisper/base").words(&words).succeeds()
    };
    let json = whole("--json").json()["outputs"][0].clone();
    let segments = json["segments"].as_array().unwrap();
    let expected = expected("whisper/base");
    let tokens: Vec<_> = expected["transcripts"][0]["segments"].as_array().unwrap().iter().map(|s| &s[2]).collect();
    assert_eq!(segments.iter().map(|segment| &segment["tokens"]).collect::<Vec<_>>(), tokens);
    assert_eq!((&json["language"], &json["duration"]), (&"en".into(), &5.0.into()));
    let text = json["text"].as_str().unwrap();
    assert_eq!(whole("").stdout.trim_end(), text.trim_end());
    let stamped = whole("--timestamps").stdout;
    assert!(stamped.starts_with("[00:00:00.020 --> 00:00:00.300] "), "{stamped}");
    let spoken = segments.iter().filter(|segment| !segment["text"].as_str().unwrap().trim().is_empty()).count();
    let (srt, vtt) = (whole("--format srt").stdout, whole("--format vtt").stdout);
    assert!(srt.starts_with("1\n00:00:00,020 --> 00:00:00,300\n"), "{srt}");
    assert!(vtt.starts_with("WEBVTT\n\n00:00:00.020 --> 00:00:00.300\n"), "{vtt}");
    assert_eq!((srt.matches(" --> ").count(), vtt.matches(" --> ").count()), (spoken, spoken));
}

#[test]
fn each_recording_gets_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = listen("transcribe", "wav2vec2/base")
        .path("--audio", &fixture("audio/float.wav"), "ANOTHER")
        .path("--output", folder.path(), "FOLDER")
        .words("--format vtt")
        .succeeds();
    assert_eq!(outcome.stdout, "");
    for name in ["jfk.vtt", "float.vtt"] {
        assert!(std::fs::read_to_string(folder.path().join(name)).unwrap().starts_with("WEBVTT"), "{name}");
    }
}

#[test]
fn what_a_model_that_listens_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let hear = |path: PathBuf| qeff("run").model(&fixture("whisper/base")).path("--audio", &path, "RECORDING");
    let whole = std::fs::read(jfk()).unwrap();
    let whisper = || listen("run", "whisper/base");
    let said = [
        ("no recording", qeff("run").model(&fixture("whisper/base")).refuses()),
        ("a folder that is not there", hear(folder.path().join("none.wav")).refuses()),
        ("an empty file", hear(file("empty.wav", b"")).refuses()),
        ("text", hear(file("text.wav", b"these are words, not sounds, and there are many of them")).refuses()),
        ("half a file", hear(file("half.wav", &whole[..whole.len() / 2])).refuses()),
        ("an unknown language", whisper().words("--language klingon").refuses()),
        ("a prompt", whisper().words("--prompt hello").refuses()),
        ("a temperature", whisper().words("--temperature 0.5").refuses()),
        (
            "a recording for a model that reads",
            qeff("run").model(&llama()).path("--audio", &jfk(), "RECORDING").refuses(),
        ),
        (
            "transcripts by a model that reads",
            qeff("transcribe").model(&llama()).path("--audio", &jfk(), "RECORDING").refuses(),
        ),
        ("a language for labels", listen("transcribe", "wav2vec2/base").words("--language en").refuses()),
        ("labels of hardly any sound", {
            let short = [&whole[..44], &whole[44..44 + 200]].concat();
            let short = [&short[..40], &200u32.to_le_bytes(), &short[44..]].concat();
            qeff("run")
                .model(&fixture("wav2vec2/base"))
                .path("--audio", &file("short.wav", &short), "RECORDING")
                .refuses()
        }),
    ];
    let said: String = said.iter().map(|(case, said)| format!("## {case}\n{said}\n")).collect();
    snapshot("speech-refused", &said);
}

#[test]
fn a_checkpoint_without_a_preprocessor_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("whisper/base")).unwrap().flatten() {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let hear = || qeff("transcribe").model(folder.path()).path("--audio", &jfk(), "RECORDING");
    let config = folder.path().join("preprocessor_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"chunk_length\": 1", "\"chunk_length\": 2")).unwrap();
    let longer = hear().refuses();
    std::fs::remove_file(&config).unwrap();
    snapshot("speech-preprocessor", &format!("{longer}\n{}", hear().refuses()));
}
