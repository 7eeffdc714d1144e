//! Weight files that are not what config.json or their own headers say.

use qeff::scratch::Scratch;
use safetensors::Dtype;
use serde_json::json;

use crate::{qeff, refusals, snapshot};

const NORM: &str = "model.norm.weight";

/// A copy of a fixture with something done to it.
fn with(name: &str, spoil: impl FnOnce(&Scratch)) -> Scratch {
    let scratch = Scratch::new(name);
    spoil(&scratch);
    scratch
}

/// A copy of `llama/base` whose final norm is stored in another way.
fn with_norm(dtype: Dtype, shape: &[usize], bytes: usize) -> Scratch {
    with("llama/base", |dir| {
        dir.edit_tensors(|tensors| {
            let norm = tensors.iter_mut().find(|tensor| tensor.name == NORM).expect("a norm");
            (norm.dtype, norm.shape, norm.data) = (dtype, shape.to_vec(), vec![0; bytes]);
        });
    })
}

#[test]
fn weights_that_do_not_fit() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 12345\n";
    let index = "model.safetensors.index.json";
    let cases = [
        ("no weights", with("llama/base", |dir| dir.remove("model.safetensors"))),
        (
            "PyTorch weights only",
            with("llama/base", |dir| {
                std::fs::rename(dir.file("model.safetensors"), dir.file("pytorch_model.bin")).expect("a rename");
            }),
        ),
        ("missing tensor", with("llama/base", |dir| dir.remove_tensor("model.layers.1.mlp.up_proj.weight"))),
        (
            "missing head, embeddings not said to be tied",
            with("llama/base", |dir| {
                dir.remove_tensor("lm_head.weight");
                dir.set(&json!({ "tie_word_embeddings": "(absent)" }));
            }),
        ),
        ("missing bias", with("llama/bias", |dir| dir.remove_tensor("model.layers.0.self_attn.q_proj.bias"))),
        ("missing tensor of gpt2", with("gpt2/base", |dir| dir.remove_tensor("transformer.h.1.attn.c_attn.bias"))),
        ("too short", with_norm(Dtype::BF16, &[16], 32)),
        (
            "norm bias of another width",
            with("gpt2/base", |dir| {
                dir.edit_tensors(|tensors| {
                    let bias =
                        tensors.iter_mut().find(|tensor| tensor.name == "transformer.ln_f.bias").expect("a bias");
                    (bias.shape, bias.data) = (vec![1], vec![0; 2]);
                });
            }),
        ),
        ("too many axes", with_norm(Dtype::BF16, &[32, 1], 64)),
        ("integers", with_norm(Dtype::I32, &[32], 128)),
        ("a type nobody reads", with_norm(Dtype::F8_E4M3FNUZ, &[32], 32)),
        ("fp8 with a scale, and not said to be", {
            with("llama/base", |dir| {
                dir.edit_tensors(|tensors| {
                    let name = "model.layers.0.mlp.up_proj.weight";
                    let weight = tensors.iter_mut().find(|tensor| tensor.name == name).expect("a projection");
                    (weight.dtype, weight.data) = (Dtype::F8_E4M3, vec![0; weight.data.len() / 2]);
                });
                dir.add_tensor("model.layers.0.mlp.up_proj.weight_scale");
            })
        }),
        (
            "packed weights of a quantised checkpoint",
            with("llama/base", |dir| {
                dir.remove_tensor("model.layers.0.mlp.up_proj.weight");
                dir.add_tensor("model.layers.0.mlp.up_proj.qweight");
                dir.set(&json!({ "quantization_config": { "quant_method": "awq" } }));
            }),
        ),
        (
            "cut short",
            with("llama/base", |dir| {
                let bytes = std::fs::read(dir.file("model.safetensors")).expect("weights");
                dir.write("model.safetensors", &bytes[..5000]);
            }),
        ),
        (
            "cut inside the header",
            with("llama/base", |dir| {
                let bytes = std::fs::read(dir.file("model.safetensors")).expect("weights");
                dir.write("model.safetensors", &bytes[..100]);
            }),
        ),
        ("empty file", with("llama/base", |dir| dir.write("model.safetensors", ""))),
        ("garbage", with("llama/base", |dir| dir.write("model.safetensors", [0xff; 64]))),
        (
            "garbage of a plausible length",
            with("llama/base", |dir| {
                dir.write("model.safetensors", [&8u64.to_le_bytes()[..], b"no JSON!"].concat());
            }),
        ),
        ("a git-lfs pointer", with("llama/base", |dir| dir.write("model.safetensors", pointer))),
        ("a shard is missing", with("llama/sharded", |dir| dir.remove("model-00002-of-00003.safetensors"))),
        ("a shard is cut short", with("llama/sharded", |dir| dir.write("model-00002-of-00003.safetensors", [0; 20]))),
        (
            "the index names a tensor that is not there",
            with("llama/sharded", |dir| {
                dir.edit_json(index, |index| {
                    index["weight_map"]["x.weight"] = "model-00001-of-00003.safetensors".into()
                });
            }),
        ),
        (
            "the index names a file outside",
            with("llama/sharded", |dir| {
                dir.edit_json(index, |index| index["weight_map"]["x.weight"] = "../../secret.safetensors".into());
            }),
        ),
        ("the index is cut short", with("llama/sharded", |dir| dir.write(index, "{\"weight_map\": {"))),
        ("the index maps nothing", with("llama/sharded", |dir| dir.write(index, "{}"))),
    ];
    snapshot("weights", &refusals(cases));
}

/// Weights that overflow are found when the first id has to be chosen; an export cannot know.
#[test]
fn weights_that_are_no_numbers() {
    let scratch = with("llama/base", |dir| {
        dir.edit_tensors(|tensors| {
            let norm = tensors.iter_mut().find(|tensor| tensor.name == NORM).expect("a norm");
            norm.data.fill(0xff);
        });
    });
    let said = qeff("run").model(scratch.dir()).words("--prompt-ids 1,2").refuses();
    assert!(said.contains("300 are NaN"), "{said}");
}

#[test]
fn unused_tensors() {
    let scratch = Scratch::new("llama/base");
    scratch.add_tensor("model.layers.0.self_attn.spare.weight");
    let run = || qeff("run").model(scratch.dir()).words("--prompt-ids 1 --max-new-tokens 1");
    let said = "1 stored tensor is not used: `model.layers.0.self_attn.spare.weight`";
    assert_eq!(run().succeeds().warnings(), [said]);
    assert_eq!(run().arg("--strict").refuses(), format!("error: --strict: {said}\n"));

    for i in 0..7 {
        scratch.add_tensor(&format!("spare.{i}"));
    }
    let outcome = run().succeeds();
    let warnings = outcome.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("and 3 more"), "{warnings:?}");

    let place = tempfile::tempdir().expect("a folder");
    let output = place.path().join("new");
    qeff("export").model(scratch.dir()).path("--output", &output, "OUTPUT").arg("--strict").refuses();
    assert!(!output.exists());
}

#[test]
fn stale_buffers_are_not_worth_a_word() {
    let rows: [(&str, &[&str]); 2] = [
        ("llama/base", &["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]),
        ("gpt2/base", &["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias", "transformer.h.1.attn.bias"]),
    ];
    for (fixture, stale) in rows {
        let scratch = Scratch::new(fixture);
        for tensor in stale {
            scratch.add_tensor(tensor);
        }
        let outcome = qeff("inspect").model(scratch.dir()).arg("--strict").succeeds();
        assert_eq!(outcome.stderr, "", "{fixture}");
    }
}
