//! Models of whole texts: several lengths in one program, and calls of the smallest that fits.

use qeff::cards::{of, several};
use qeff::{fixture, rows};
use serde_json::Value as Json;

use crate::{cards, ids, join, qeff, run};

/// What Hugging Face computes for each case of a fixture, and its ids.
fn expected(name: &str, what: &str) -> Vec<(Vec<u32>, Vec<f32>)> {
    let dir = fixture(name);
    let json: Json = serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap();
    let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let cases = json["cases"].as_array().unwrap().iter().enumerate();
    // The reference's graphs have one segment; so have these.
    let cases = cases.filter(|(i, case)| *i == 0 || case["segments"].is_null());
    cases.map(|(i, case)| (ids(&case["ids"]), rows(&tensors, &format!("{i}.{what}")).unwrap().concat())).collect()
}

/// Compares with Hugging Face, and counts calls.
fn check(name: &str, what: &str, words: &str, calls: usize) {
    let sdk = cards(&several(2));
    let all = expected(name, what);
    let mut command = run(name, &sdk).words("--json").words(words);
    for (ids, _) in &all {
        command = command.arg("--prompt-ids").arg(join(ids));
    }
    let outputs = command.succeeds().json()["outputs"].clone();
    let key = if what == "logits" { "logits" } else { "embedding" };
    for (i, (_, expected)) in all.iter().enumerate() {
        let found: Vec<f32> = outputs[i][key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        let worst = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(found.len() == expected.len() && worst <= 8e-3 * largest, "{name} {i}: {worst} of {largest}");
    }
    let called = sdk.clean_calls();
    assert_eq!(of(&called, "qaicLoadProgram").len(), 1, "{name}: one program for all lengths");
    assert_eq!(of(&called, "run").len(), calls, "{name}");
}

#[test]
fn vectors_from_the_smallest_length_that_fits() {
    // Texts of 3, 11 and 29 tokens.
    check("encoders/bert", "mean", "--task embed --pooling mean --seq-len 4,16,32 --device-group 1", 3);
    check(
        "encoders/deberta-v2",
        "cls",
        "--task embed --pooling cls --seq-len 16,32 --batch-size 2 --device-group 0",
        2,
    );
    check(
        "encoders/modernbert",
        "max",
        "--task embed --pooling max --seq-len 32,64 --batch-size 4 --device-group 0",
        1,
    );
    check("encoders/qwen3", "last", "--task embed --pooling last --seq-len 32 --device-group 0", 3);
}

#[test]
fn classes() {
    check("encoders/roberta-cls", "logits", "--task classify --seq-len 32 --device-group 0", 3);
    check("encoders/llama-cls", "logits", "--seq-len 32 --batch-size 3 --device-group 0", 1);
}

/// A pair needs to be told which of its tokens belong to the second text: then the program has an input for it.
#[test]
fn pairs_are_those_of_the_cpu() {
    let sdk = cards(&several(1));
    let logits = |words: &str| -> Vec<f64> {
        let command = qeff("classify", &sdk).model(&fixture("encoders/bert-cls")).arg("the fox");
        let command = command.arg("--text-pair").arg("a dog").words("--json").words(words);
        let command = if words.is_empty() { command } else { command.path("--sdk", sdk.root(), "SDK") };
        let found = command.succeeds().json()["outputs"][0]["logits"].clone();
        found.as_array().expect("logits").iter().map(|x| x.as_f64().expect("a number")).collect()
    };
    let (there, here) = (logits("--seq-len 16 --device-group 0"), logits(""));
    let largest = here.iter().fold(0f64, |max, x| max.max(x.abs()));
    let worst = there.iter().zip(&here).map(|(a, b)| (a - b).abs()).fold(0f64, f64::max);
    assert!(there.len() == here.len() && worst <= 8e-3 * largest, "{there:?}, expected {here:?}");
}

#[test]
fn texts_longer_than_every_length_are_refused_or_cut() {
    let sdk = cards(&several(1));
    let embed = || qeff("embed", &sdk).model(&fixture("encoders/bert")).path("--sdk", sdk.root(), "SDK");
    let said = embed().arg("the fox and the dog and the fox").words("--seq-len 4,8").refuses();
    assert!(said.contains("expected at most 8: shorten it, or cut it with --truncate"), "{said}");
    let cut = embed().arg("the fox and the dog and the fox").words("--seq-len 4,8 --truncate --json").succeeds().json();
    assert_eq!(cut["outputs"][0]["prompt_ids"].as_array().unwrap().len(), 8);
    assert_eq!(cut["metrics"]["engine"], "qaic");
    // Without lengths, those up to the checkpoint's longest text are compiled.
    assert!(embed().arg("the fox").succeeds().stderr.contains("1 text of"));
    let said = qeff("embed", &sdk).model(&fixture("encoders/bert")).words("fox --seq-len 8").refuses();
    assert!(said.contains("--seq-len is about AI 100"), "{said}");
}
