//! Linked exports: the checkpoint's own files are the weights, and the numbers are those of Hugging Face.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use qeff::{TOLERANCE, cases, describe, fixture};
use qeff_core::lower::{self, Lowered, Target, WeightsAs, lower};
use qeff_core::onnx::{self, Export, Exported, Storage, WEIGHT_SPEC_FILE, WEIGHT_SPEC_KEY};
use qeff_core::passes::Features;
use qeff_core::weights::{NotStored, PackOptions, TensorSource, evaluate_to_vec};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::linking::{Linking, Remainder};
use qeff_host::prepare::Prepared;
use qeff_host::runtime::cpu::engine::Ports;
use qeff_plugin_api::graph::{Program, Role, Type};
use qeff_plugin_api::onnx::{EXTERNAL, ModelProto, dtype, tensor_shape_proto::dimension, type_proto};
use qeff_plugin_api::{DType, TensorIndex, TensorInfo, WeightExpr};
use rten::{Model, NodeId, Value, ValueOrView};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;

/// A fixture, a family's folder or a GGUF file.
fn open(name: &str) -> Result<Checkpoint> {
    let dir = fixture(name);
    let gguf = dir.join("model.gguf");
    Checkpoint::open(if gguf.exists() { &gguf } else { &dir })
}

fn export(
    checkpoint: &Checkpoint,
    target: Target,
    remainder: Option<Remainder>,
    dir: &Path,
) -> Result<(Prepared, Exported)> {
    let weights = &checkpoint.weights;
    let linking = Linking::new(checkpoint, weights, target, remainder)?;
    let prepared = linking.prepare(describe(checkpoint)?, weights.index(), &Features::default(), target.into())?;
    let what = Export {
        lowered: &prepared.programs[0],
        stem: "M",
        source: &checkpoint.weights,
        storage: linking.storage(&prepared.model),
        metadata: &[],
        options: PackOptions::default(),
    };
    let exported = onnx::export(what, dir)?;
    Ok((prepared, exported))
}

/// Logits after the last token of `prompt`, computed by rten from the file as it is.
fn last_logits(model: &Path, prepared: &Prepared, prompt: &[u32]) -> Result<Vec<f32>> {
    let model = Model::load_file(model)?;
    let ports = Ports::new(&prepared.model.programs[0], &prepared.programs[0])?;
    let mut feeds: Vec<(NodeId, ValueOrView<'_>)> = vec![];
    for port in &ports.inputs {
        let numbers: Vec<i32> = match port.role {
            Some(Role::Tokens) => prompt.iter().map(|&id| id as i32).collect(),
            _ => (0..prompt.len() as i32).collect(),
        };
        feeds.push((model.node_id(&port.name)?, Value::from(Tensor::from_data(&[1, prompt.len()], numbers)).into()));
    }
    for state in &ports.states {
        let zeros = Tensor::<f32>::zeros(&[1, state.heads, prompt.len() + 1, state.width]);
        feeds.push((model.node_id(&state.name)?, Value::from(zeros).into()));
    }
    let result = model.run(feeds, &[model.node_id(&ports.outputs[0].name)?], None)?;
    let logits: Tensor<f32> = result.into_iter().next().context("no result")?.try_into()?;
    let vocab = *logits.shape().last().context("no axis")?;
    let data = logits.to_vec();
    Ok(data[data.len() - vocab..].to_vec())
}

/// Logits of every prompt are Hugging Face's.
fn computes(name: &str, model: &Path, prepared: &Prepared) -> Result<()> {
    for case in cases(&fixture(name))? {
        let found = last_logits(model, prepared, &case.prompt)?;
        let expected = &case.step_logits[0];
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        let worst = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        ensure!(expected.len() == found.len() && worst <= TOLERANCE * largest, "{name} case {}: {worst}", case.name);
    }
    Ok(())
}

fn reasons(exported: &Exported) -> Vec<NotStored> {
    exported.not_linked.iter().map(|(why, _)| *why).collect()
}

#[test]
fn rten_runs_linked_files_as_they_are_written() -> Result<()> {
    use NotStored::{Encoded, Generated, OtherType};
    let bf16 = OtherType { stored: DType::BF16, wanted: DType::F32 };
    let rows: [(&str, &[NotStored]); 10] = [
        ("llama/f32", &[Generated]),
        ("llama/f16", &[Generated]),
        ("gpt2/sharded-f32", &[]),
        ("llama/sharded", &[bf16, Generated]),
        ("granite/multipliers", &[bf16, Generated]),
        ("gguf/llama-f32", &[Generated]),
        ("gguf/llama-f16", &[Generated]),
        ("gguf/gpt2-f32", &[]),
        ("gpt_oss/sharded-f32", &[Generated]),
        ("gguf/llama-q8_0", &[Encoded, NotStored::Computed, Generated]),
    ];
    for (name, why) in rows {
        let place = tempfile::tempdir()?;
        let (prepared, exported) = export(&open(name)?, Target::Cpu, None, place.path())?;
        computes(name, &exported.model, &prepared)?;
        assert_eq!(reasons(&exported), why, "{name}");
        assert!(why.len() > 1 || exported.packed.bytes < exported.linked.bytes / 2, "{name}: {exported:?}");
    }
    Ok(())
}

#[test]
fn what_is_not_as_it_is_wanted_may_be_packed_by_choice() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (prepared, exported) = export(&open("llama/f16")?, Target::Cpu, Some(Remainder::Packed), place.path())?;
    computes("llama/f16", &exported.model, &prepared)?;
    let f16 = NotStored::OtherType { stored: DType::F16, wanted: DType::F32 };
    assert_eq!((reasons(&exported), exported.linked.weights), (vec![f16, NotStored::Generated], 0));

    // GPT-2's projections are slices of a fused tensor; the others are used as they lie.
    let (prepared, exported) = export(&open("gpt2/sharded-f32")?, Target::Cpu, Some(Remainder::Packed), place.path())?;
    computes("gpt2/sharded-f32", &exported.model, &prepared)?;
    assert_eq!(reasons(&exported), [NotStored::Computed]);
    assert!(exported.linked.weights > 0);
    Ok(())
}

/// A linked file for AI 100, taken apart.
struct Spec {
    model: ModelProto,
    json: serde_json::Value,
}

fn spec(dir: &Path) -> Result<Spec> {
    let model = ModelProto::decode(&*std::fs::read(dir.join("M.onnx"))?)?;
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join(WEIGHT_SPEC_FILE))?)?;
    Ok(Spec { model, json })
}

#[test]
fn a_weight_spec_binds_every_stored_weight() -> Result<()> {
    for name in
        ["llama/base", "llama/tied", "llama/sharded", "gpt2/base", "gpt2/sharded-f32", "qwen3/base", "gpt_oss/base"]
    {
        let place = tempfile::tempdir()?;
        let checkpoint = open(name)?;
        let (prepared, exported) = export(&checkpoint, Target::Aic, None, place.path())?;
        let program = &prepared.model.programs[0];
        let Spec { model, json } = spec(place.path())?;
        let metadata = model.metadata_props.iter().find(|entry| entry.key == WEIGHT_SPEC_KEY).context("no metadata")?;
        // Keys are sorted, so a parser that keeps them apart from their order gives the same text again.
        assert_eq!(metadata.value, serde_json::to_string(&sorted(&json))?, "{name}");
        assert_eq!((&json["version"], &json["model_name"]), (&5.into(), &describe(&checkpoint)?.architecture.into()));

        let files: Vec<_> = json["files"].as_array().context("files")?.iter().collect();
        let graph = model.graph.context("a graph")?;
        let ports = program.inputs.len() + program.states().map(|(_, state)| state.names.len()).sum::<usize>();
        let inputs = json["inputs"].as_array().context("inputs")?;
        assert_eq!(graph.input.len() - ports, inputs.len(), "{name}: every input is a port or bound");
        for (input, bound) in graph.input[ports..].iter().zip(inputs) {
            assert_eq!(bound["name"], input.name);
            let file = files[bound["location"]["file"].as_u64().context("a number")? as usize];
            assert_eq!(file["format"], "safetensors");
            let bytes = std::fs::read(place.path().join(file["path"].as_str().context("a path")?))?;
            let tensors = safetensors::SafeTensors::deserialize(&bytes)?;
            let stored = tensors.tensor(bound["location"]["key"].as_str().context("a key")?)?;
            let Some(type_proto::Value::TensorType(ty)) = input.r#type.as_ref().and_then(|ty| ty.value.as_ref()) else {
                anyhow::bail!("{name}: {} is no tensor", input.name);
            };
            let dims: Vec<usize> = ty
                .shape
                .iter()
                .flat_map(|shape| &shape.dim)
                .filter_map(|dim| match dim.value {
                    Some(dimension::Value::DimValue(n)) => Some(n as usize),
                    _ => None,
                })
                .collect();
            assert_eq!(dims, stored.shape(), "{name}: {}", input.name);
            let stored = format!("{:?}", stored.dtype()).to_lowercase();
            assert_eq!(dtype(ty.elem_type).map(|dtype| dtype.to_string()), Some(stored), "{name}: {}", input.name);
        }
        // Nothing of the checkpoint is written again.
        let packed: Vec<_> = graph.initializer.iter().filter(|tensor| tensor.data_location == EXTERNAL).collect();
        assert!(packed.iter().all(|tensor| tensor.name.ends_with("_cached")), "{name}");
        assert!(reasons(&exported).iter().all(|why| *why == NotStored::Generated), "{name}");
    }
    Ok(())
}

/// The same document with the keys of every object in order.
fn sorted(json: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match json {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[test]
fn tied_weights_are_two_names_for_one_tensor() -> Result<()> {
    let place = tempfile::tempdir()?;
    export(&open("llama/tied")?, Target::Aic, None, place.path())?;
    let Spec { json, .. } = spec(place.path())?;
    let of = |name: &str| {
        let inputs = json["inputs"].as_array().into_iter().flatten();
        inputs.filter(|input| input["name"] == name).map(|input| input["location"]["key"].clone()).next()
    };
    assert_eq!(of("lm_head.weight"), Some("model.embed_tokens.weight".into()));
    assert_eq!(of("lm_head.weight"), of("model.embed_tokens.weight"));
    Ok(())
}

/// A source of two tensors.
struct Stored {
    index: TensorIndex,
    tensors: std::collections::BTreeMap<String, Vec<u8>>,
}

impl TensorSource for Stored {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn lend(
        &self,
        name: &str,
        elements: std::ops::Range<u64>,
    ) -> Result<std::borrow::Cow<'_, [u8]>, qeff_core::weights::SourceError> {
        let size = self.info(name)?.dtype.size();
        Ok((&self.tensors[name][elements.start as usize * size..elements.end as usize * size]).into())
    }
}

/// Every step as nodes gives, element by element, what evaluation writes.
#[test]
fn nodes_make_what_evaluation_writes() -> Result<()> {
    let numbers = |count: usize| (0..count).map(|i| (i as f32 * 0.37 - 3.0).sin() * 9.0);
    let f32s: Vec<u8> = numbers(24).flat_map(f32::to_le_bytes).collect();
    let f64s: Vec<u8> = numbers(24).map(f64::from).flat_map(f64::to_le_bytes).collect();
    let tensor = |dtype| TensorInfo { dtype, shape: vec![6, 4] };
    let source = Stored {
        index: [("a".to_owned(), tensor(DType::F32)), ("d".to_owned(), tensor(DType::F64))].into_iter().collect(),
        tensors: [("a".to_owned(), f32s), ("d".to_owned(), f64s)].into_iter().collect(),
    };
    let texts = [
        r#"w"d""#,
        r#"w"a".transpose(1, 0)"#,
        r#"w"d".transpose(1, 0)"#,
        r#"w"a".reshape(2, 12)"#,
        r#"w"a".take(0, 1, 6, 2..5)"#,
        r#"w"a".take(0, 3, 2, 1..2)"#,
        r#"w"a".take(1, 2, 2, 0..1)"#,
        r#"concat(0, w"a".take(0, 1, 6, 4..6), w"d")"#,
        r#"concat(1, w"a", fill(2, [6, 3]))"#,
        r#"stack(1, w"a", w"d")"#,
        r#"w"a".repeat(0, 3, 2)"#,
        r#"w"a".repeat(1, 1, 3)"#,
        r#"w"a".affine(1, 1)"#,
        r#"w"d".affine(0.3, 0).transpose(1, 0)"#,
        r#"concat(0, w"a".reshape(3, 2, 4).transpose(1, 0, 2).reshape(6, 4), w"a".affine(2, -1))"#,
    ];
    for text in texts {
        let expr = WeightExpr::parse(text)?;
        let shape = expr.shape(source.index())?;
        let mut program = Program::new("main");
        let value = program.add_weight(expr.clone(), Type::weight(&shape));
        program.add_output("made", Role::Hidden, value);
        let weights = WeightsAs::Stored { usable: &|_, _| true, runs: false };
        let lowered = lower(&program, source.index(), lower::Options { weights, ..Target::Cpu.into() })?;
        for weight in &lowered.weights {
            let plain = matches!(weight.expr, WeightExpr::Tensor(_)) || weight.expr.is_generated();
            assert!(plain, "{text}: {weight:?}");
        }
        let made = run(&lowered, &source)?;
        let expected = evaluate_to_vec(&expr, DType::F32, &source)?;
        let expected: Vec<f32> = expected.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(made.shape().iter().map(|&n| n as u64).collect::<Vec<_>>(), shape, "{text}");
        assert_eq!(made.to_vec(), expected, "{text}");
    }
    Ok(())
}

/// The only output of a program without inputs.
fn run(lowered: &Lowered, source: &Stored) -> Result<Tensor<f32>> {
    let place = tempfile::tempdir()?;
    let what =
        Export { lowered, stem: "M", source, storage: Storage::Packed, metadata: &[], options: PackOptions::default() };
    let model = Model::load_file(onnx::export(what, place.path())?.model)?;
    let result = model.run(vec![], &[model.node_id("made")?], None)?;
    Ok(result.into_iter().next().context("no result")?.try_into()?)
}

#[test]
fn a_type_that_cannot_be_converted_is_refused_and_not_cast() -> Result<()> {
    let index = [("i".to_owned(), TensorInfo { dtype: DType::I32, shape: vec![2] })];
    let source = Stored { index: index.into_iter().collect(), tensors: [("i".to_owned(), vec![0; 8])].into() };
    let mut program = Program::new("main");
    let value = program.add_weight(WeightExpr::tensor("i"), Type::weight(&[2]));
    program.add_output("made", Role::Hidden, value);
    let lowered = lower(&program, source.index(), Target::Cpu)?;
    assert!(run(&lowered, &source).is_err_and(|error| format!("{error:#}").contains("stored as i32")));
    Ok(())
}
