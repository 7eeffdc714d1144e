//! A quantised checkpoint computes what its dequantised weights compute in Hugging Face transformers.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use qeff::scratch::{Scratch, Stored as StoredTensor};
use qeff::{check_stored, fixture, fixtures_of};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::describe::DescribeOptions;
use qeff_host::forms::Stored;
use qeff_host::plugins::Registry;
use safetensors::Dtype;
use serde_json::{Value as Json, json};

fn for_each(check: impl Fn(&str) -> Result<()>) {
    let names: Vec<_> = fixtures_of("quantised").into_iter().filter(|name| fixture(name).is_dir()).collect();
    qeff::for_each(&names, 15, check);
}

/// Dense and in blocks, the checkpoint in `dir` gives the logits of the fixture.
fn check(dir: &Path, name: &str) -> Result<()> {
    let checkpoint = Checkpoint::open(dir)?;
    check_stored(&checkpoint, name, Stored::Dequantise).context("dense")?;
    check_stored(&checkpoint, name, Stored::Keep).context("kept").map(drop)
}

#[test]
fn logits_are_those_of_the_dequantised_weights() {
    for_each(|name| check(&fixture(name), name));
}

/// What can be kept is; the rest is floats, or a table.
#[test]
fn integers_are_kept() -> Result<()> {
    for (name, all) in [
        ("quantised/awq", 14),
        ("quantised/gptq", 14),
        ("quantised/gptq-8-bits", 14),
        ("quantised/gptq-act-order", 14),
        ("quantised/gptq-act-order-symmetric", 7),
        ("quantised/gptq-symmetric", 14),
        ("quantised/gptq-v2-act-order-8-bits", 14),
        ("quantised/gptq-v2-sharded", 14),
        ("quantised/ct-int4", 14),
        ("quantised/ct-int8", 14),
        ("quantised/fp8-block", 0),
        ("quantised/mxfp4", 0),
    ] {
        let kept = check_stored(&Checkpoint::open(&fixture(name))?, name, Stored::Keep)?;
        ensure!(kept == all, "{name}: {kept} weights were kept, expected {all}");
    }
    Ok(())
}

#[test]
fn nothing_of_the_file_is_left_unread() {
    for_each(|name| {
        let described = qeff_host::describe::describe(
            &Checkpoint::open(&fixture(name))?,
            &Registry::builtin(),
            DescribeOptions { strict: true, ..Default::default() },
        )?;
        ensure!(described.warnings.is_empty());
        Ok(())
    });
}

#[test]
fn quantised_activations_are_told_of() -> Result<()> {
    let notes = |name: &str| -> Result<Vec<String>> {
        let checkpoint = Checkpoint::open(&fixture(name))?;
        Ok(qeff_host::describe::describe(&checkpoint, &Registry::builtin(), DescribeOptions::default())?.notes)
    };
    ensure!(notes("quantised/gptq")?.is_empty());
    for (name, field) in [
        ("quantised/fp8-block", "activation_scheme"),
        ("quantised/fbgemm-fp8", "activation_scale_ub"),
        ("quantised/ct-int8", "input_activations"),
    ] {
        let notes = notes(name)?;
        ensure!(notes.len() == 1 && notes[0].contains(field), "{name}: {notes:?}");
    }
    Ok(())
}

/// Old checkpoints say how they are quantised in a file of their own.
#[test]
fn a_file_may_stand_in_for_the_field() -> Result<()> {
    for (name, file, method) in
        [("quantised/gptq", "quantize_config.json", true), ("quantised/awq", "quant_config.json", false)]
    {
        let scratch = Scratch::new(name);
        let config: Json = serde_json::from_slice(&std::fs::read(scratch.file("config.json"))?)?;
        let mut fields = config["quantization_config"].clone();
        if !method {
            // The names of AutoAWQ's own file.
            fields = json!({ "zero_point": true, "q_group_size": fields["group_size"], "w_bit": 4, "version": "GEMM" });
        } else {
            fields.as_object_mut().context("fields")?.remove("quant_method");
        }
        scratch.set(&json!({ "quantization_config": "(absent)" }));
        scratch.write(file, fields.to_string());
        check(scratch.dir(), name)?;
    }
    Ok(())
}

#[test]
fn the_older_name_of_the_field_is_read() -> Result<()> {
    let scratch = Scratch::new("quantised/ct-int4");
    scratch.edit_json("config.json", |config| {
        let mut fields = config["quantization_config"].take();
        fields["quant_method"].take();
        config["compression_config"] = json!({ "quantization_config": fields });
    });
    check(scratch.dir(), "quantised/ct-int4")
}

/// Modules that are not quantised, named or by pattern, are used as they are stored: here, the dense weights that the
/// quantised ones stand for.
#[test]
fn ignored_modules_stay_as_stored() -> Result<()> {
    for (name, ignored) in [
        ("quantised/ct-int8", json!(["lm_head", "re:.*layers\\.0\\.mlp\\.(up|down)_proj$"])),
        ("quantised/fp8-static", json!(["lm_head", "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"])),
        ("quantised/awq", json!(["mlp.up_proj"])),
    ] {
        let scratch = Scratch::new(name);
        let dense = std::fs::read(fixture(name).join("expected.safetensors"))?;
        let dense = safetensors::SafeTensors::deserialize(&dense)?;
        for module in ["model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"] {
            let weight = format!("{module}.weight");
            let view = dense.tensor(&format!("weight.{weight}"))?;
            scratch.edit_tensors(|tensors| {
                tensors.retain(|tensor| !tensor.name.starts_with(&format!("{module}.")));
                let (shape, data) = (view.shape().to_vec(), view.data().to_vec());
                tensors.push(StoredTensor { name: weight, dtype: Dtype::F32, shape, data });
            });
        }
        scratch.edit_json("config.json", |config| {
            let fields = &mut config["quantization_config"];
            let field = ["ignore", "ignored_layers"].into_iter().find(|field| fields.get(field).is_some());
            fields[field.unwrap_or("modules_to_not_convert")] = ignored;
        });
        check(scratch.dir(), name).with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// AutoAWQ's other layout, made of the first: `[out, in]`, eight inputs to a word in order, rows padded.
#[test]
fn awq_for_vectors() -> Result<()> {
    const PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
    let scratch = Scratch::new("quantised/awq");
    scratch.edit_tensors(|tensors| {
        let words = |data: &[u8]| -> Vec<u32> {
            data.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
        };
        for tensor in tensors {
            let (lines, width) = match tensor.shape[..] {
                [lines, width] => (lines, width),
                _ => continue,
            };
            if tensor.name.ends_with(".scales") {
                // [groups, out] to [out, groups], padded to eight times the words of the zero points.
                let padded = lines.div_ceil(8).next_multiple_of(4) * 8;
                let halves = tensor.data.as_chunks::<2>().0;
                let mut turned = vec![[0; 2]; width * padded];
                for (at, half) in halves.iter().enumerate() {
                    turned[at % width * padded + at / width] = *half;
                }
                (tensor.data, tensor.shape) = (turned.concat(), vec![width, padded]);
            } else if tensor.name.ends_with(".qweight") || tensor.name.ends_with(".qzeros") {
                let packed = words(&tensor.data);
                let rows = width * 8;
                let mut padded = lines.div_ceil(8);
                if tensor.name.ends_with(".qzeros") {
                    padded = padded.next_multiple_of(4);
                }
                let mut turned = vec![0u32; rows * padded];
                for line in 0..lines {
                    for row in 0..rows {
                        let code = packed[line * width + row / 8] >> (PLACES[row % 8] * 4) & 15;
                        turned[row * padded + line / 8] |= code << (line % 8 * 4);
                    }
                }
                tensor.data = turned.iter().flat_map(|word| word.to_le_bytes()).collect();
                tensor.shape = vec![rows, padded];
            }
        }
    });
    scratch.edit_json("config.json", |config| config["quantization_config"]["version"] = "gemv".into());
    check(scratch.dir(), "quantised/awq")
}

/// The tensors that a spoiled checkpoint is about.
const UP: &str = "model.layers.0.mlp.up_proj";

/// A copy of a fixture with something done to it.
fn with(name: &str, spoil: impl FnOnce(&Scratch)) -> Scratch {
    let scratch = Scratch::new(&format!("quantised/{name}"));
    spoil(&scratch);
    scratch
}

/// A copy of a fixture with other values of fields of `quantization_config`.
fn with_fields(name: &str, fields: Json) -> Scratch {
    with(name, |scratch| {
        scratch.edit_json("config.json", |config| {
            let config = config["quantization_config"].as_object_mut().expect("an object");
            config.extend(fields.as_object().expect("an object").clone());
        });
    })
}

/// A copy of a fixture with other `weights` of the first group of compressed-tensors.
fn with_weights(name: &str, fields: Json) -> Scratch {
    with(name, |scratch| {
        scratch.edit_json("config.json", |config| {
            let weights = config.pointer_mut("/quantization_config/config_groups/group_0/weights").expect("a group");
            weights.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        });
    })
}

/// A copy of a fixture with something done to the part of a weight that has this ending.
fn with_part(name: &str, ending: &str, spoil: impl FnOnce(&mut StoredTensor)) -> Scratch {
    with(name, |scratch| {
        scratch.edit_tensors(|tensors| {
            let name = format!("{UP}.{ending}");
            spoil(tensors.iter_mut().find(|tensor| tensor.name == name).expect("a part"));
        });
    })
}

/// A copy of a fixture without a part.
fn without(name: &str, ending: &str) -> Scratch {
    with(name, |scratch| scratch.remove_tensor(&format!("{UP}.{ending}")))
}

/// What is said of each spoiled checkpoint, as one text.
fn refusals(cases: Vec<(&str, Scratch)>) -> String {
    let say = |(title, scratch): (&str, Scratch)| {
        let said = match Checkpoint::open(scratch.dir()) {
            Ok(_) => "(opened)".into(),
            Err(error) => format!("{error:#}").replace(&scratch.dir().display().to_string(), "CHECKPOINT"),
        };
        format!("## {title}\n{said}\n")
    };
    cases.into_iter().map(say).collect::<Vec<_>>().join("\n")
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(qeff::root().join("snapshots/quantised_checkpoints"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn configs_that_ask_for_something_else() {
    let with_group = |fields: Json| {
        with("ct-int4", |scratch| {
            scratch.edit_json("config.json", |config| {
                let group = config.pointer_mut("/quantization_config/config_groups/group_0").expect("a group");
                group.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
            });
        })
    };
    let cases = vec![
        ("no object", with("awq", |scratch| scratch.set(&json!({ "quantization_config": "awq" })))),
        ("no method", with("awq", |scratch| scratch.set(&json!({ "quantization_config": { "bits": 4 } })))),
        ("unknown method", with_fields("awq", json!({ "quant_method": "hqq" }))),
        ("bitsandbytes", with_fields("awq", json!({ "quant_method": "bitsandbytes", "load_in_4bit": true }))),
        (
            "two fields",
            with("awq", |scratch| scratch.set(&json!({ "compression_config": { "format": "int-quantized" } }))),
        ),
        ("awq: bits", with_fields("awq", json!({ "bits": 3 }))),
        ("awq: no zero points", with_fields("awq", json!({ "zero_point": false }))),
        ("awq: version", with_fields("awq", json!({ "version": "gemv_fast" }))),
        ("awq: backend", with_fields("awq", json!({ "backend": "llm-awq" }))),
        ("awq: group size", with_fields("awq", json!({ "group_size": 0 }))),
        ("gptq: bits", with_fields("gptq", json!({ "bits": 5 }))),
        ("gptq: no bits", with_fields("gptq", json!({ "bits": null }))),
        ("gptq: format", with_fields("gptq", json!({ "checkpoint_format": "marlin" }))),
        ("gptq: two formats", with_fields("gptq", json!({ "format": "gptq_v2" }))),
        ("gptq: marlin", with_fields("gptq", json!({ "is_marlin_format": true }))),
        ("gptq: words", with_fields("gptq", json!({ "pack_dtype": "int16" }))),
        ("gptq: adapter", with_fields("gptq", json!({ "adapter": { "type": "lora" } }))),
        ("gptq: rotation", with_fields("gptq", json!({ "rotation": "hadamard" }))),
        (
            "gptq: modules of other widths",
            with_fields("gptq", json!({ "dynamic": { "-:head": {}, "+:.*up.*": { "bits": 8 } } })),
        ),
        ("gptq: group size", with_fields("gptq", json!({ "group_size": -2 }))),
        ("compressed: format", with_fields("ct-int4", json!({ "format": "marlin-24" }))),
        ("compressed: several formats", with_fields("ct-int4", json!({ "format": "mixed-precision" }))),
        ("compressed: status", with_fields("ct-int4", json!({ "quantization_status": "calibration" }))),
        ("compressed: no groups", with_fields("ct-int4", json!({ "config_groups": null }))),
        ("compressed: preset", with_fields("ct-int4", json!({ "config_groups": { "W4A16": ["Linear"] } }))),
        ("compressed: sparse", with_fields("ct-int4", json!({ "sparsity_config": { "format": "sparse-24-bitmask" } }))),
        (
            "compressed: rotated",
            with_fields("ct-int4", json!({ "transform_config": { "config_groups": { "a": {} } } })),
        ),
        ("compressed: pattern", with_fields("ct-int4", json!({ "ignore": ["re:(?!lm_head).*"] }))),
        ("compressed: no module is meant", with_group(json!({ "targets": ["re:.*attn.*"] }))),
        ("compressed: group of another format", with_group(json!({ "format": "nvfp4-pack-quantized" }))),
        ("compressed: type", with_weights("ct-int4", json!({ "type": "complex" }))),
        ("compressed: bits", with_weights("ct-int4", json!({ "num_bits": 9 }))),
        ("compressed: packed floats", with_weights("ct-int4", json!({ "type": "float", "num_bits": 8 }))),
        ("compressed: dynamic weights", with_weights("ct-int4", json!({ "dynamic": true }))),
        ("compressed: strategy", with_weights("ct-int4", json!({ "strategy": "tensor_group" }))),
        ("compressed: group without a size", with_weights("ct-int4", json!({ "group_size": null }))),
        ("compressed: floats with a zero point", with_weights("ct-fp8-channel", json!({ "symmetric": false }))),
        ("fp8: scheme of activations", with_fields("fp8-block", json!({ "activation_scheme": "guess" }))),
        ("fp8: format", with_fields("fp8-block", json!({ "fmt": "e5m2" }))),
        ("fp8: block", with_fields("fp8-block", json!({ "weight_block_size": [20] }))),
        ("fp8: empty block", with_fields("fp8-block", json!({ "weight_block_size": [20, 0] }))),
    ];
    snapshot("configs", &refusals(cases));
}

#[test]
fn parts_that_do_not_fit() {
    let ignored = |name: &str, field: &str| with_fields(name, json!({ field: ["model.layers.0.mlp.up_proj"] }));
    let words = |words: &[i32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let cases = vec![
        ("awq: no zero points", without("awq", "qzeros")),
        ("awq: no scales", without("awq", "scales")),
        ("awq: no codes", without("awq", "qweight")),
        ("awq: codes of another type", with_part("awq", "qweight", |part| part.dtype = Dtype::F32)),
        ("awq: codes of another rank", with_part("awq", "qweight", |part| part.shape.insert(0, 1))),
        ("awq: scales of another shape", with_part("awq", "scales", |part| part.shape.reverse())),
        ("awq: scales that are no floats", with_part("awq", "scales", |part| part.dtype = Dtype::I16)),
        ("awq: groups of another size", with_fields("awq", json!({ "group_size": 32 }))),
        ("awq: dense weight beside it", with("awq", |scratch| scratch.add_tensor(&format!("{UP}.weight")))),
        (
            "awq: nothing quantised",
            with("awq", |scratch| {
                scratch.edit_tensors(|tensors| tensors.retain(|tensor| !tensor.name.contains("_proj")));
            }),
        ),
        ("awq: empty", with_part("awq", "qweight", |part| (part.shape, part.data) = (vec![0, 6], vec![]))),
        ("gptq: no groups", without("gptq-act-order", "g_idx")),
        (
            "gptq: group out of range",
            with_part("gptq-act-order", "g_idx", |part| part.data[..8].copy_from_slice(&words(&[0, 99]))),
        ),
        ("gptq: negative group", with_part("gptq-act-order", "g_idx", |part| part.data[..4].fill(0xff))),
        (
            "gptq: groups of too few inputs",
            with_part("gptq-act-order", "g_idx", |part| {
                part.shape[0] -= 9;
                part.data.truncate(part.shape[0] * 4);
            }),
        ),
        ("gptq: other bits", with_fields("gptq", json!({ "bits": 8 }))),
        ("gptq: zero points of another shape", with_part("gptq", "qzeros", |part| part.shape.reverse())),
        (
            "gptq: sharded, scales are missing",
            with("gptq-v2-sharded", |scratch| {
                let file = scratch.file("model.safetensors.index.json");
                let index: Json = serde_json::from_slice(&std::fs::read(file).expect("an index")).expect("JSON");
                let shard = index["weight_map"][format!("{UP}.scales")].as_str().expect("a shard").to_owned();
                std::fs::rename(scratch.file(&shard), scratch.file("model.safetensors")).expect("a rename");
                scratch.remove_tensor(&format!("{UP}.scales"));
                std::fs::rename(scratch.file("model.safetensors"), scratch.file(&shard)).expect("a rename");
                scratch.edit_json("model.safetensors.index.json", |index| {
                    index["weight_map"].as_object_mut().expect("a map").remove(&format!("{UP}.scales"));
                });
            }),
        ),
        ("compressed: no shape", without("ct-int4", "weight_shape")),
        (
            "compressed: shape that lies",
            with_part("ct-int4", "weight_shape", |part| part.data[..8].copy_from_slice(&49i64.to_le_bytes())),
        ),
        ("compressed: negative shape", with_part("ct-int4", "weight_shape", |part| part.data[8..].fill(0xff))),
        ("compressed: no scale", without("ct-int4", "weight_scale")),
        ("compressed: no zero points", with_weights("ct-int4", json!({ "symmetric": false }))),
        (
            "compressed: a scale for each output expected",
            with_weights("ct-int4", json!({ "strategy": "channel", "group_size": null })),
        ),
        ("compressed: floats expected", with_fields("ct-int4", json!({ "format": "float-quantized" }))),
        ("compressed: codes of another type", with_part("ct-int8", "weight", |part| part.dtype = Dtype::U8)),
        ("compressed: ignored, with a scale", ignored("ct-int8", "ignore")),
        ("fp8: no scale", without("fp8-static", "weight_scale")),
        ("fp8: ignored, with a scale", ignored("fp8-static", "ignored_layers")),
        ("fp8: scales of other blocks", with_fields("fp8-block", json!({ "weight_block_size": [8, 8] }))),
        ("fp8: a scale without its weight", without("fp8-static", "weight")),
        ("fbgemm: scales of another shape", with_part("fbgemm-fp8", "weight_scale", |part| part.shape.reverse())),
        (
            "mxfp4: no scales",
            with("mxfp4", |scratch| scratch.remove_tensor("model.layers.0.mlp.experts.down_proj_scales")),
        ),
        (
            "mxfp4: another block",
            with("mxfp4", |scratch| {
                scratch.edit_tensors(|tensors| {
                    let name = "model.layers.0.mlp.experts.down_proj_blocks";
                    let blocks = tensors.iter_mut().find(|tensor| tensor.name == name).expect("blocks");
                    blocks.shape = vec![blocks.shape[0], blocks.shape[1], 2, 8];
                })
            }),
        ),
    ];
    snapshot("parts", &refusals(cases));
}

/// Fields that nobody knows may change a weight: they are told of, as those of config.json itself are.
#[test]
fn fields_that_nobody_reads() -> Result<()> {
    let scratch = with_fields("gptq", json!({ "spin": 1 }));
    let checkpoint = Checkpoint::open(scratch.dir())?;
    let described = qeff_host::describe::describe(&checkpoint, &Registry::builtin(), DescribeOptions::default())?;
    ensure!(described.warnings.len() == 1 && described.warnings[0].contains("`quantization_config.spin`"));
    Ok(())
}
