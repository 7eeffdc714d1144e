//! Flags about quantised weights.

use std::path::PathBuf;

use qeff::fixture;

use crate::{demo, llama, qeff};

fn gguf(name: &str) -> PathBuf {
    fixture(&format!("gguf/{name}")).join("model.gguf")
}

#[test]
fn what_was_kept_is_said() {
    let run = || qeff("run").model(&gguf("llama-q4_0")).words("--prompt-ids 5,6,7 --max-new-tokens 2");
    let said = run().succeeds().stderr;
    assert!(said.contains("kept 15 weights: Q4_0 as 4-bit blocks of 32\n"), "{said}");
    assert!(said.contains("dequantised 1 weight: Q4_0 is looked up by rows"), "{said}");
    let dense = run().words("--quantized dequantize").succeeds().stderr;
    assert!(!dense.contains("kept") && dense.contains("dequantised 15 weights: Q4_0 was to be dequantised"), "{dense}");

    let json = run().words("--json").succeeds().json();
    assert_eq!(json["weights"]["kept"]["Q4_0 as 4-bit blocks of 32"], 15);
    assert_eq!(json["weights"]["dequantized"].as_object().map(serde_json::Map::len), Some(1));
    // A checkpoint of floats has nothing to say about it.
    let plain = qeff("run").model(&llama()).words("--prompt-ids 5,6,7 --max-new-tokens 2 --json").succeeds().json();
    assert!(plain.get("weights").is_none());
}

#[test]
fn an_export_keeps_and_is_smaller() {
    let place = tempfile::tempdir().expect("a folder");
    let export = |words: &str, name: &str| {
        let output = place.path().join(name);
        qeff("export").model(&gguf("llama-q4_0")).path("--output", &output, "OUTPUT").words(words).words("--json")
    };
    for target in ["cpu", "aic"] {
        let flags = format!("--target {target}");
        let kept = export(&flags, &format!("{target}-kept")).succeeds().json();
        let dense = export(&format!("{flags} --quantized dequantize"), &format!("{target}-dense")).succeeds().json();
        assert_eq!(kept["weights"]["kept"]["Q4_0 as 4-bit blocks of 32"], 15, "{kept}");
        assert_eq!(dense["weights"]["kept"], serde_json::json!({}));
        let size = |json: &serde_json::Value| json["bytes_written"].as_u64().expect("a number");
        assert!(size(&kept) < size(&dense), "{} {}", size(&kept), size(&dense));
    }
    let eight = qeff("export").model(&gguf("llama-q8_0")).path("--output", &place.path().join("8"), "OUTPUT");
    let said = eight.succeeds().stderr;
    assert!(said.contains("Q8_0 has codes of more than four bits, which AI 100 is not known to take"), "{said}");
}

#[test]
fn weights_quantised_on_the_way() {
    let place = tempfile::tempdir().expect("a folder");
    let export = |words: &str, name: &str| {
        let output = place.path().join(name);
        qeff("export").model(&demo()).path("--output", &output, "OUTPUT").words("--target cpu").words(words)
    };
    let size = |name: &str| std::fs::metadata(place.path().join(name).join("LlamaForCausalLM_0.onnx.data"));
    let said = export("--weights int4", "int4").succeeds().stderr;
    assert!(said.contains("int4 as 4-bit blocks of 32\n") && said.contains("int8 as 8-bit blocks of 32\n"), "{said}");
    export("--weights int8 --weights-zero asymmetric --weights-block 64", "int8").succeeds();
    export("", "f32").succeeds();
    let [four, eight, dense] = ["int4", "int8", "f32"].map(|name| size(name).expect("a file").len());
    assert!(four < eight && eight < dense, "{four} {eight} {dense}");
    // The same bytes whatever the memory.
    export("--weights int4 --memory-budget 8", "again").succeeds();
    let bytes =
        |name: &str| std::fs::read(place.path().join(name).join("LlamaForCausalLM_0.onnx.data")).expect("a file");
    assert!(bytes("int4") == bytes("again"));
    qeff("run").model(&demo()).words("--weights int4 --activations int8 --prompt God --max-new-tokens 2").succeeds();
}

#[test]
fn refusals() {
    let cases = [
        ("--weights int4", "error: --weights: expected keep for target aic"),
        ("--activations int8", "error: --activations: expected f32 for target aic"),
        ("--target cpu --weights-block 32", "error: --weights-zero and --weights-block say how"),
        ("--target cpu --weights int4 --weights-block 24", "expected 16, 32, 64, 128 or 256"),
        ("--weights int3", "[possible values: keep, int4, int8]"),
    ];
    for (words, reason) in cases {
        let place = tempfile::tempdir().expect("a folder");
        let output = place.path().join("new");
        let said = qeff("export").model(&llama()).path("--output", &output, "OUTPUT").words(words).refuses();
        assert!(said.contains(reason), "{words}: {said}");
        assert!(!output.exists(), "{words}");
    }
}

#[test]
fn rows_that_are_no_whole_blocks_are_said() {
    // The inner width of this fixture is 48.
    let run = qeff("run").model(&llama()).words("--prompt-ids 5,6,7 --max-new-tokens 2 --weights int4").succeeds();
    assert!(run.warnings().iter().any(|line| line.contains("2 projections stay as they are")), "{}", run.stderr);
    let run = qeff("run").model(&llama());
    let run = run.words("--prompt-ids 5,6,7 --max-new-tokens 2 --weights int4 --weights-block 16").succeeds();
    assert!(run.warnings().is_empty(), "{}", run.stderr);
}
