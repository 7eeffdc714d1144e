//! `run --json`: the form that tools rely on.

use qeff::command::Outcome;
use qeff::{Case, cases, compare, fixture, root};
use qeff_host::generate::{Completion, Finish};
use serde_json::Value as Json;

use crate::{demo, llama, qeff};

fn ids(json: &Json) -> Vec<u32> {
    json.as_array().expect("a list of ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn join(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn completion(output: &Json) -> Completion {
    let row = |row: &Json| row.as_array().expect("a row").iter().map(|x| x.as_f64().expect("a logit") as f32).collect();
    Completion {
        ids: ids(&output["generated_ids"]),
        logits: output["step_logits"].as_array().expect("logits").iter().map(row).collect(),
        finish: Finish::Length,
    }
}

/// Runs the prompts of a fixture by ids, with more flags, and compares every answer with the reference.
fn check(name: &str, cases: &[Case], more: &str) -> Outcome {
    let mut command = qeff("run").model(&fixture(name)).words("--json --logits --ignore-eos").words(more);
    for case in cases {
        command = command.arg("--prompt-ids").arg(join(&case.prompt));
    }
    let new = cases[0].greedy.len();
    let outcome = command.args(["--max-new-tokens", &new.to_string()]).succeeds();
    let json = outcome.json();
    let outputs = json["outputs"].as_array().expect("outputs");
    assert_eq!(outputs.len(), cases.len());
    for (case, output) in cases.iter().zip(outputs) {
        assert_eq!(ids(&output["prompt_ids"]), case.prompt);
        assert_eq!(output["finish"], "length");
        let got = completion(output);
        assert_eq!((got.ids.len(), got.logits.len()), (new, new), "one row of logits for each id");
        compare(case, &got).unwrap_or_else(|error| panic!("{name} {more}: {error:#}"));
    }
    outcome
}

#[test]
fn equals_the_reference_however_it_is_batched() {
    let ways = [
        "",
        "--ctx-len 48 --prompt-len 32 --batch-size 1",
        "--ctx-len 40 --prompt-len 4 --batch-size 2",
        "--prompt-len 1 --batch-size 3",
        "--batch-size 1 --full-batch-size 2",
        "--full-batch-size 5 --prompt-len 7",
    ];
    for name in ["llama/base", "gpt2/base", "llama/sharded"] {
        let cases = cases(&fixture(name)).expect("a fixture");
        for way in ways {
            check(name, &cases, way);
        }
    }
}

#[test]
fn quantised_checkpoints_equal_the_reference() {
    let names = qeff::fixtures_of("quantised");
    for name in names.iter().filter(|name| fixture(name).is_dir()) {
        let cases = cases(&fixture(name)).expect("a fixture");
        check(name, &cases, "--prompt-len 8 --batch-size 2 --quantized dequantize");
        check(name, &cases, "--prompt-len 8 --batch-size 2 --quantized keep");
    }
}

#[test]
fn shape_of_the_document() {
    let outcome = qeff("run").model(&llama()).words("--json --prompt-ids 1,2 --max-new-tokens 2").succeeds();
    assert_eq!(outcome.stdout.lines().count(), 1, "nothing but the document");
    assert_eq!(outcome.stderr, "", "a tool is not talked to");
    let json = outcome.json();
    let keys = |json: &Json| json.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&json), ["outputs", "metrics"]);
    assert_eq!(keys(&json["outputs"][0]), ["text", "prompt_ids", "generated_ids", "finish"]);
    assert!(json["outputs"][0]["text"].is_string());
    let metrics = keys(&json["metrics"]);
    for metric in ["time_to_first_token_seconds", "decode_tokens_per_second", "peak_memory_bytes"] {
        assert!(metrics.iter().any(|key| key == metric), "{metric} is missing from {metrics:?}");
    }
}

/// What the reference says about the demo model.
fn demo_cases() -> Vec<Json> {
    let text = std::fs::read_to_string(root().join("demo/expected.json")).expect("demo/expected.json");
    let json: Json = serde_json::from_str(&text).expect("JSON");
    json["cases"].as_array().expect("cases").clone()
}

#[test]
fn the_demo_model_says_what_the_reference_says() {
    for case in demo_cases() {
        let prompt = case["prompt"].as_str().expect("a prompt");
        let greedy = ids(&case["greedy_ids"]);
        let new = greedy.len().to_string();
        let run = || qeff("run").model(&demo()).args(["--json", "--prompt", prompt, "--max-new-tokens", &new]);

        let json = run().arg("--ignore-eos").succeeds().json();
        let output = &json["outputs"][0];
        assert_eq!(output["prompt_ids"], case["prompt_ids"], "{prompt}");
        assert_eq!(ids(&output["generated_ids"]), greedy, "{prompt}");
        assert_eq!(output["finish"], "length");

        let json = run().succeeds().json();
        let output = &json["outputs"][0];
        match case["stop_at"].as_u64() {
            // The ending EOS stays among the ids; it is not part of the text.
            Some(stop) => {
                assert_eq!(ids(&output["generated_ids"]), greedy[..=stop as usize]);
                assert_eq!(output["finish"], "eos");
                assert!(!output["text"].as_str().expect("text").contains("endoftext"));
            }
            None => assert_eq!(output["finish"], "length"),
        }
    }
}

#[test]
fn every_id_of_generation_config_ends_a_sequence() {
    let cases = cases(&fixture("llama/eos-list")).expect("a fixture");
    let expected = std::fs::read_to_string(fixture("llama/eos-list").join("expected.json")).expect("a file");
    let expected: Json = serde_json::from_str(&expected).expect("JSON");
    let mut ended = 0;
    for (case, expected) in cases.iter().zip(expected["cases"].as_array().expect("cases")) {
        let new = case.greedy.len().to_string();
        let command = qeff("run").model(&fixture("llama/eos-list")).args(["--json", "--max-new-tokens", &new]);
        let output = &command.arg("--prompt-ids").arg(join(&case.prompt)).succeeds().json()["outputs"][0];
        let (length, finish) = match expected["stop_at"].as_u64() {
            Some(stop) => (stop as usize + 1, "eos"),
            None => (case.greedy.len(), "length"),
        };
        ended += usize::from(finish == "eos");
        assert_eq!(
            (ids(&output["generated_ids"]), &output["finish"]),
            (case.greedy[..length].to_vec(), &finish.into())
        );
    }
    assert!(ended > 0, "the fixture ends somewhere");
}

/// The ids that a command with these words generates on the demo model.
fn generated(words: &str) -> Vec<Vec<u32>> {
    let json = qeff("run").model(&demo()).words("--json --max-new-tokens 12").words(words).succeeds().json();
    json["outputs"].as_array().expect("outputs").iter().map(|output| ids(&output["generated_ids"])).collect()
}

#[test]
fn spellings_of_flags() {
    let plain = generated("--prompt-ids 0,41,78 --ctx-len 32 --prompt-len 2");
    assert_eq!(generated("--prompt_ids 0,41,78 --ctx_len=32 --prompt_len 2 --batch_size 1"), plain);
    assert_eq!(generated("--prompt-ids [0,41,78]"), plain);
    let model = demo();
    for verb in ["run", "infer"] {
        for flag in ["--model", "--model-name", "--model_name"] {
            let command = qeff(verb).path(flag, &model, "CHECKPOINT").words("--json --prompt-ids 0,41,78");
            let json = command.words("--generation-len 12").succeeds().json();
            assert_eq!(ids(&json["outputs"][0]["generated_ids"]), plain[0], "{verb} {flag}");
        }
    }
}

#[test]
fn sampling() {
    let prompts = "--prompt-ids 0,41,78 --prompt-ids 0,41,78 --prompt-ids 0,300";
    let greedy = generated(prompts);
    assert_eq!(greedy[0], greedy[1], "greedy choice knows nothing but the prompt");
    for flags in ["--temperature 0", "--top-k 1", "--top-k 1 --temperature 2.5 --seed 9", "--top-p 0.0001"] {
        assert_eq!(generated(&format!("{prompts} {flags}")), greedy, "{flags}");
    }
    let hot = format!("{prompts} --temperature 1.5 --top-k 50 --top-p 0.95 --min-p 0.01");
    let drawn = generated(&format!("{hot} --seed 7"));
    assert_ne!(drawn, greedy);
    assert_ne!(drawn[0], drawn[1], "equal prompts of one call draw from streams of their own");
    for batch in ["--batch-size 1", "--batch-size 2", "--full-batch-size 3"] {
        assert_eq!(generated(&format!("{hot} --seed 7 {batch}")), drawn, "{batch}");
    }
    assert_ne!(generated(&format!("{hot} --seed 8")), drawn);
    assert_ne!(generated(&format!("{prompts} --repetition-penalty 1.5")), greedy);
}

#[test]
fn a_context_bounds_the_answer() {
    // Five positions hold the prompt and all ids but the last, which is chosen and not written.
    let outcome = qeff("run").model(&demo()).words("--json --prompt-ids 0,41,78 --ctx-len 5").succeeds();
    assert_eq!(ids(&outcome.json()["outputs"][0]["generated_ids"]).len(), 3);
    assert_eq!(outcome.warnings(), Vec::<&str>::new());

    let outcome =
        qeff("run").model(&demo()).words("--json --prompt-ids 0,41,78 --ctx-len 5 --max-new-tokens 9").succeeds();
    assert_eq!(ids(&outcome.json()["outputs"][0]["generated_ids"]).len(), 3);
    assert_eq!(outcome.warnings(), ["prompt 0: the context leaves room for 3 of 9 new tokens"]);
}

/// A model may be made for many more positions than anybody asks for; its rotary table has rows for those asked for.
#[test]
fn positions_that_nobody_reaches_cost_nothing() {
    let run = |dir: &std::path::Path| {
        let command = qeff("run").model(dir).words("--json --prompt-ids 1,2,3 --max-new-tokens 8");
        ids(&command.succeeds().json()["outputs"][0]["generated_ids"])
    };
    let scratch = qeff::scratch::Scratch::new("llama/base");
    scratch.set(&serde_json::json!({ "max_position_embeddings": 2_000_000_000 }));
    assert_eq!(run(scratch.dir()), run(&llama()));
}

#[test]
fn stop_strings() {
    let run = |words: &[&str]| {
        let command = qeff("run").model(&demo()).words("--json --max-new-tokens 48 --prompt").arg("In the beginning");
        command.args(words).succeeds().json()["outputs"][0].clone()
    };
    let free = run(&[]);
    let text = free["text"].as_str().expect("text");
    let stopped = run(&["--stop", "zzz", "--stop", " thirty"]);
    assert_eq!(stopped["text"], text[..text.find(" thirty").expect("thirty")]);
    assert_eq!(stopped["finish"], "stop");
    assert!(ids(&stopped["generated_ids"]).len() < ids(&free["generated_ids"]).len());
    assert_eq!(run(&["--stop", "zzz"])["text"], free["text"]);
}

#[test]
fn without_a_tokenizer_there_are_ids_and_no_text() {
    let run =
        |dir: &std::path::Path| qeff("run").model(dir).words("--json --prompt-ids 1,2 --max-new-tokens 2").succeeds();
    let bare = run(&fixture("llama/bias"));
    assert_eq!(bare.json()["outputs"][0]["text"], Json::Null);
    assert_eq!(bare.warnings(), Vec::<&str>::new());

    let scratch = qeff::scratch::Scratch::new("llama/base");
    scratch.write("tokenizer.json", "{");
    let broken = run(scratch.dir());
    assert_eq!(broken.json()["outputs"][0]["text"], Json::Null);
    assert_eq!(broken.warnings().len(), 1, "{}", broken.stderr);
}
