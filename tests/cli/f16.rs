//! `export --dtype f16`: who it is for, and what is said of numbers that f16 has no room for.

use qeff::command::Command;
use qeff::scratch::Scratch;
use safetensors::Dtype;
use serde_json::json;
use tempfile::TempDir;

use crate::{llama, qeff};

fn export(model: &std::path::Path, place: &TempDir) -> Command {
    qeff("export").model(model).path("--output", &place.path().join("new"), "OUTPUT").words("--dtype f16")
}

#[test]
fn it_is_for_the_card_and_for_packed_weights() {
    let place = tempfile::tempdir().expect("a folder");
    let said = export(&llama(), &place).words("--target cpu").refuses();
    assert!(said.contains("--dtype f16 is for --target aic"), "{said}");
    let said = export(&llama(), &place).words("--storage linked").refuses();
    assert!(said.contains("--storage linked leaves them as they are"), "{said}");
    let said = export(&qeff::fixture("gpt_oss/base"), &place).refuses();
    assert!(said.contains("pass dtype cannot be applied") && said.contains("Experts in model.layers.0"), "{said}");
    assert!(!place.path().join("new").exists());
}

/// The data of an export has half the bytes, and nobody is told of anything.
#[test]
fn numbers_that_fit_are_converted_without_a_word() {
    let place = tempfile::tempdir().expect("a folder");
    let json = export(&llama(), &place).arg("--json").succeeds().json();
    assert_eq!((&json["dtype"], &json["clipped"]), (&json!("f16"), &json!([])));
    let full = tempfile::tempdir().expect("a folder");
    let json_f32 =
        qeff("export").model(&llama()).path("--output", full.path(), "OUTPUT").arg("--json").succeeds().json();
    let bytes = |place: &std::path::Path| {
        std::fs::metadata(place.join("LlamaForCausalLM_0.onnx.data")).expect("data").len() as f64
    };
    let ratio = bytes(&place.path().join("new")) / bytes(full.path());
    assert!((0.49..0.52).contains(&ratio), "{ratio}");
    assert_eq!(json_f32["dtype"], "f32");
}

#[test]
fn numbers_that_do_not_fit_become_the_largest_and_are_told_of() {
    let scratch = Scratch::new("llama/base");
    let huge = [1e6f32, -70000.0, f32::INFINITY, f32::NEG_INFINITY];
    scratch.edit_tensors(|tensors| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == "model.norm.weight").expect("a norm");
        let width = tensor.data.len() / if tensor.dtype == Dtype::F32 { 4 } else { 2 };
        let numbers = huge.into_iter().chain(std::iter::repeat(1.0)).take(width);
        tensor.data = numbers.flat_map(f32::to_le_bytes).collect();
        tensor.dtype = Dtype::F32;
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == "lm_head.weight").expect("a head");
        let width = tensor.shape.iter().product();
        tensor.data =
            std::iter::once(65505f32).chain(std::iter::repeat(1.0)).take(width).flat_map(f32::to_le_bytes).collect();
        tensor.dtype = Dtype::F32;
    });
    let place = tempfile::tempdir().expect("a folder");
    let json = export(scratch.dir(), &place).arg("--json").succeeds().json();
    let mut clipped = json["clipped"].as_array().expect("a list").clone();
    clipped.sort_by_key(|entry| entry["weight"].to_string());
    let expected = [
        json!({ "weight": "lm_head.weight", "count": 1, "largest": 65505.0 }),
        json!({ "weight": "model.norm.weight", "count": 3, "largest": null }),
    ];
    assert_eq!(clipped, expected);
    let data = std::fs::read(place.path().join("new/LlamaForCausalLM_0.onnx.data")).expect("data");
    // 65504, −65504, 65504 and −∞, next to each other.
    let norm: Vec<u8> = [0x7bffu16, 0xfbff, 0x7bff, 0xfc00].into_iter().flat_map(u16::to_le_bytes).collect();
    assert!(data.windows(norm.len()).any(|bytes| bytes == norm), "the clipped numbers");

    let said = export(scratch.dir(), &place).succeeds();
    assert_eq!(said.warnings(), ["4 numbers of 2 weights are too large for f16 and became ±65504"], "{}", said.stderr);
    assert!(said.stderr.contains("lm_head.weight: 1 numbers, the largest 6.5505e4"), "{}", said.stderr);
}
