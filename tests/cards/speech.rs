//! Models that listen: the features of a window with its first call, then a token a call; and frames labelled in one.

use std::path::{Path, PathBuf};

use qeff::cards::{Cards, of};
use qeff::command::Command;
use qeff::speech::{Fixture, worst};
use qeff::{describe, fixture, fixtures_of, tensor_rows};
use qeff_host::runtime::qaic::QaicProgram;
use qeff_host::speech::called::CalledDecoder;
use qeff_host::speech::ctc::Labeller;
use qeff_standin::config::SimConfig;
use serde_json::Value as Json;

use crate::{FULL, HALF, Held, calls, cards, ids, qeff};

fn jfk() -> PathBuf {
    fixture("audio/jfk.wav")
}

fn listen(verb: &str, name: &str, cards: &Cards) -> Command {
    hear(verb, name, cards, &jfk())
}

fn hear(verb: &str, name: &str, cards: &Cards, recording: &Path) -> Command {
    qeff(verb, cards).model(&fixture(name)).path("--audio", recording, "RECORDING")
}

/// The same on cards.
fn on_cards(verb: &str, name: &str, cards: &Cards, held: Held) -> Command {
    listen(verb, name, cards).path("--sdk", cards.root(), "SDK").words(held.words)
}

/// A fixture, compiled and opened.
fn opened(name: &str, cards: &Cards, words: &str) -> QaicProgram {
    let command = qeff("compile", cards).model(&fixture(name)).path("--sdk", cards.root(), "SDK").words(words);
    let qpc = PathBuf::from(command.succeeds().stdout.trim_end());
    cards.calls();
    calls::open(cards.root(), &qpc, 0).expect("a program")
}

fn list<'j>(json: &'j Json, key: &str) -> &'j [Json] {
    json[key].as_array().unwrap_or_else(|| panic!("no {key}"))
}

/// Ids, logits, and segments of whole recordings, in every case of the reference.
#[test]
fn whisper_hears_what_hugging_face_hears() {
    for name in &fixtures_of("whisper") {
        let cards = cards(&SimConfig::default()).with_own_library();
        let case = Fixture::open(name).expect("a fixture");
        let (settings, model) = (case.settings().expect("settings"), describe(&case.checkpoint).expect("a model"));
        let program = opened(name, &cards, &format!("--ctx-len {} {}", settings.max_length, FULL.words));
        let decoder = CalledDecoder::new(Box::new(program), &model.programs[0], settings.mels);
        let mut decoder = decoder.expect("a decoder");
        case.check_sentences(&settings, &mut decoder).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        drop(decoder);
        assert!(of(&cards.clean_calls(), "run").len() > 100, "{name}: a call for each token");
    }
}

/// Frames of recordings of several lengths. Nothing of such a program stays on the card, so nothing is f16 there either way.
#[test]
fn wav2vec2_labels_as_hugging_face_labels() {
    for name in &fixtures_of("wav2vec2") {
        let case = Fixture::open(name).expect("a fixture");
        let model = describe(&case.checkpoint).expect("a model");
        let lengths: Vec<_> = case.lengths().expect("lengths").iter().map(usize::to_string).collect();
        for held in [FULL, HALF] {
            let cards = cards(&SimConfig::default()).with_own_library();
            let program = opened(name, &cards, &format!("--seq-len {} {}", lengths.join(","), held.words));
            let mut labeller = Labeller::new(program, &model.programs[0]).expect("a labeller");
            case.check_labels(&mut labeller).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            drop(labeller);
            assert_eq!(of(&cards.clean_calls(), "run").len(), lengths.len(), "{name}");
        }
    }
}

/// With keys, values and features in f16, what is said first is said alike. `run` says it.
#[test]
fn the_plain_form_in_half() {
    for name in &fixtures_of("whisper") {
        let cards = cards(&SimConfig::default());
        let text = std::fs::read_to_string(fixture(name).join("expected.json")).expect("a file");
        let expected: Json = serde_json::from_str(&text).expect("JSON");
        let case = &list(&expected, "cases")[0];
        let (language, label) = (case["language"].as_str().expect("a code"), case["name"].as_str().expect("a name"));
        let flags =
            format!("--json --logits --ignore-eos --device-group [0] --max-new-tokens 12 --language {language}");
        let json = on_cards("run", name, &cards, HALF).words(&flags).succeeds().json();
        let output = &json["outputs"][0];
        assert_eq!((&json["metrics"]["engine"], &output["prompt_ids"]), (&"qaic".into(), &case["prompt_ids"]));
        let rows = tensor_rows(&fixture(name), &format!("{label}.step_logits")).expect("logits");
        let (found, greedy) = (ids(&output["generated_ids"]), ids(&case["greedy_ids"]));
        // What follows another choice cannot be compared.
        let same = found.iter().zip(&greedy).take_while(|(a, b)| a == b).count();
        let compared = (same + 1).min(rows.len());
        let off = worst(&list(output, "step_logits")[..compared], &rows[..compared]);
        assert!(off <= HALF.tolerance, "{name}: {off} after {same} ids");
        assert!(same >= 4, "{name}: only {same} ids are those of the reference");
        cards.clean_calls();
    }
}

/// What decides about passes, windows and forms is one code: the same on either side, higher temperatures included.
#[test]
fn transcripts_are_those_of_the_cpu() {
    let (name, cards) = ("whisper/base", cards(&SimConfig::default()));
    // More than a window, and not as much as would take long.
    let recording = beginning(36_000, &cards.folder("sounds"));
    // Random weights say what no terminal should see, so it goes into files.
    let both = |words: &str, file: &str| {
        let (here, there) = (cards.folder("here"), cards.folder("there"));
        let command = || hear("transcribe", name, &cards, &recording).words(words);
        command().path("--output", &here, "FOLDER").succeeds();
        let command = command().path("--sdk", cards.root(), "SDK").words(FULL.words).words("--device-group 0");
        command.path("--output", &there, "FOLDER").succeeds();
        [here, there].map(|folder| std::fs::read_to_string(folder.join(file)).expect(words))
    };
    for (words, file) in [
        ("", "36000.txt"),
        ("--timestamps --max-new-tokens 20", "36000.txt"),
        ("--format srt --language de --condition-on-prev-tokens", "36000.srt"),
        ("--format vtt --task translate --no-fallback", "36000.vtt"),
    ] {
        let [here, there] = both(words, file);
        assert_eq!(here, there, "{words}");
        assert!(!here.trim().is_empty(), "{words}: nothing was said");
    }
    // No pass of random weights is as dull as this asks for: every window goes through all temperatures.
    let dull = "--compression-ratio-threshold 0.1 --temperature 0,0.4,0.8 --no-speech-threshold 1 --seed 7";
    let segments = both(&format!("--json {dull} --initial-prompt quick"), "36000.json").map(|text| {
        let json: Json = serde_json::from_str(&text).expect("JSON");
        let of = |segment: &Json| ["start", "end", "tokens", "temperature"].map(|key| segment[key].clone());
        list(&json, "segments").iter().map(of).collect::<Vec<_>>()
    });
    assert_eq!(segments[0], segments[1]);
    let hot = |[.., temperature]: &[Json; 4]| temperature.as_f64().is_some_and(|t| (t - 0.8).abs() < 1e-6);
    assert!(!segments[0].is_empty() && segments[0].iter().all(hot), "{:?}", segments[0]);
}

/// One program hears all recordings, window by window.
#[test]
fn several_recordings() {
    let (name, cards) = ("whisper/base", cards(&SimConfig::default()));
    let folder = cards.folder("out");
    on_cards("transcribe", name, &cards, HALF)
        .path("--audio", &fixture("audio/float.wav"), "ANOTHER")
        .path("--output", &folder, "FOLDER")
        .words("--format vtt --language en --no-fallback")
        .succeeds();
    for name in ["jfk.vtt", "float.vtt"] {
        assert!(std::fs::read_to_string(folder.join(name)).expect(name).starts_with("WEBVTT"), "{name}");
    }
    assert_eq!(of(&cards.clean_calls(), "qaicLoadProgram").len(), 1, "one program for all recordings");
}

/// The beginning of the recording, as a file of its own.
fn beginning(samples: usize, folder: &Path) -> PathBuf {
    let whole = std::fs::read(jfk()).expect("a recording");
    // 16 bits a sample, behind a header that ends with their length in bytes.
    let length = (2 * samples as u32).to_le_bytes();
    let path = folder.join(format!("{samples}.wav"));
    std::fs::write(&path, [&whole[..40], &length, &whole[44..44 + 2 * samples]].concat()).expect("a file");
    path
}

/// Lines that part at pauses, and labels, of recordings of two lengths.
#[test]
fn labels_are_those_of_the_cpu() {
    let (name, cards) = ("wav2vec2/base", cards(&SimConfig::default()));
    let short = beginning(20_000, &cards.folder("sounds"));
    for (verb, key) in [("transcribe", "segments"), ("run", "ids")] {
        let both = [listen(verb, name, &cards), on_cards(verb, name, &cards, HALF)].map(|command| {
            let json = command.path("--audio", &short, "ANOTHER").words("--json").succeeds().json();
            list(&json, "outputs")
                .iter()
                .map(|output| (output["text"].clone(), output[key].clone()))
                .collect::<Vec<_>>()
        });
        assert_eq!(both[0], both[1], "{verb}");
        assert!(both[0].iter().all(|(_, all)| all.as_array().is_some_and(|all| !all.is_empty())), "{verb}");
        let calls = cards.clean_calls();
        assert_eq!((of(&calls, "qaicLoadProgram").len(), of(&calls, "run").len()), (1, 2), "{verb}");
    }
}

#[test]
fn flags_of_cards_need_cards() {
    let cards = cards(&SimConfig::default());
    for flags in ["--precision f32", "--device-timeout 5"] {
        let said = listen("transcribe", "whisper/base", &cards).words(flags).refuses();
        let flag = flags.split(' ').next().expect("a flag");
        assert!(said.contains(&format!("{flag} is about AI 100, and this is on the CPU")), "{said}");
    }
    let said = on_cards("transcribe", "wav2vec2/base", &cards, HALF).words("--language en").refuses();
    assert!(said.contains("--language is for models that write sentences"), "{said}");
}
