//! Encoders for AI 100: the interface is the reference's, and the graph computes what Hugging Face computes.

use anyhow::{Context as _, Result, ensure};
use qeff::{TOLERANCE, describe, engines, fixture, fixtures_of, root, rows};
use qeff_core::lower::{Lowered, Target};
use qeff_core::passes::Features;
use qeff_host::checkpoint::Checkpoint;
use qeff_host::encode::Encoder;
use qeff_host::encode::batches::Shapes;
use qeff_host::encode::pooling::pooled;
use qeff_host::plugins::Registry;
use qeff_host::prepare::{Prepared, prepare};
use qeff_host::runtime::cpu::engine::Engine;
use qeff_host::runtime::cpu::{Tensors, load};
use qeff_host::text::Framed;
use qeff_plugin_api::DType;
use qeff_plugin_api::onnx::{ValueInfoProto, data_type, tensor_shape_proto::dimension, type_proto};
use serde_json::Value as Json;

/// A fixture for AI 100, with a pooling head if one is named.
fn prepared(checkpoint: &Checkpoint, pooling: Option<&str>) -> Result<Prepared> {
    let heads: Vec<String> = pooling.into_iter().map(str::to_owned).collect();
    let model = pooled(describe(checkpoint)?, &heads, &Registry::builtin(), checkpoint.weights.index())?;
    prepare(model, checkpoint.weights.index(), &Features::default(), Target::Aic)
}

/// `name dtype [dims]`, numbers that are the hidden width as `N`.
fn port(name: &str, dtype: &str, dims: &[String], hidden: &str) -> String {
    let dims: Vec<_> = dims.iter().map(|dim| if dim == hidden { "N" } else { dim }).collect();
    format!("{name} {dtype} [{}]", dims.join(", "))
}

fn ours(port: &ValueInfoProto) -> Option<(String, &'static str, Vec<String>)> {
    let type_proto::Value::TensorType(tensor) = port.r#type.as_ref()?.value.as_ref()?;
    let names = [(DType::I64, "INT64"), (DType::F32, "FLOAT")];
    let dtype = names.into_iter().find(|(dtype, _)| data_type(*dtype) == tensor.elem_type)?.1;
    let dim = |dim: &dimension::Value| match dim {
        dimension::Value::DimValue(n) => n.to_string(),
        dimension::Value::DimParam(name) => name.clone(),
    };
    let dims = tensor.shape.as_ref()?.dim.iter().map(|d| Some(dim(d.value.as_ref()?))).collect::<Option<_>>()?;
    Some((port.name.clone(), dtype, dims))
}

/// The dims of an output: what tracing calls `…output_dim_0` is the batch, `…output_dim_1` before a width the length.
fn meant(dims: &[String]) -> Vec<String> {
    let meant = |dim: &String| match dim.rsplit_once("_dim_") {
        Some((_, "0")) => "batch_size".to_owned(),
        Some((_, "1")) if dims.len() == 3 => "seq_len".to_owned(),
        Some(_) => "N".to_owned(),
        None => dim.clone(),
    };
    dims.iter().map(meant).collect()
}

fn interface(lowered: &Lowered, hidden: &str) -> Result<[Vec<String>; 2]> {
    let ports = |ports: &[ValueInfoProto]| -> Result<Vec<String>> {
        ports
            .iter()
            .map(|info| ours(info).map(|(name, dtype, dims)| port(&name, dtype, &dims, hidden)).context("a port"))
            .collect()
    };
    Ok([ports(&lowered.graph.input)?, ports(&lowered.graph.output)?])
}

#[test]
fn interfaces_are_the_references() {
    let text = std::fs::read_to_string(root().join("tests/goldens/encoders/interfaces.json")).expect("a file");
    let goldens: Vec<Json> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(goldens.len(), 9);
    for golden in &goldens {
        let checkpoint = Checkpoint::open(&fixture(golden["fixture"].as_str().unwrap())).unwrap();
        let prepared = prepared(&checkpoint, golden["pooling"].as_str()).unwrap();
        let lowered = &prepared.programs[0];
        let hidden = checkpoint.config.count("hidden_size").unwrap().to_string();
        let recorded = |ports: &Json, count: usize| -> Vec<String> {
            let text = |json: &Json| json.as_str().map_or_else(|| json.to_string(), str::to_owned);
            let one = |of: &Json| {
                let dims: Vec<_> = of["shape"].as_array().unwrap().iter().map(text).collect();
                port(&text(&of["name"]), &text(&of["dtype"]), &meant(&dims), &golden["hidden_size"].to_string())
            };
            ports.as_array().unwrap().iter().take(count).map(one).collect()
        };
        let expected = [recorded(&golden["inputs"], usize::MAX), recorded(&golden["outputs"], 1)];
        assert_eq!(interface(lowered, &hidden).unwrap(), expected, "{}", golden["case"]);
        assert_eq!(lowered.functions.len() as u64, golden["functions"].as_u64().unwrap());
        assert_eq!(lowered.opset_import[0].version, golden["opset_import"][""].as_i64().unwrap());
    }
}

/// Runs the graph for AI 100 on a CPU engine, which knows all of its operators.
fn check(name: &str, engine: &dyn Engine) -> Result<()> {
    let dir = fixture(name);
    let checkpoint = Checkpoint::open(&dir)?;
    let prepared = prepared(&checkpoint, None)?;
    let weights = Tensors::from(&checkpoint.weights);
    let (mut programs, _) = load(engine, weights, &[(&prepared.model.programs[0], &prepared.programs[0])])?;
    let json: Json = serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json"))?)?;
    let lengths = json["cases"].as_array().into_iter().flatten().filter_map(|case| Some(case["ids"].as_array()?.len()));
    let longest = lengths.max().context("no cases")?;
    let shapes = Shapes::Compiled(vec![[1, 16], [4, longest + 2]]);
    let mut encoder = Encoder::new(&prepared.model, Box::new(programs.remove(0)), shapes, 1)?;
    let bytes = std::fs::read(dir.join("expected.safetensors"))?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes)?;
    let what = if name.ends_with("-cls") { "logits" } else { "hidden" };
    for (case, text) in json["cases"].as_array().context("cases")?.iter().enumerate() {
        let ids: Vec<u32> =
            text["ids"].as_array().context("ids")?.iter().map(|id| id.as_u64().unwrap_or(0) as u32).collect();
        // The reference's graph has one segment; so has the first case.
        if case > 0 && !text["segments"].is_null() {
            continue;
        }
        let texts = [Framed { segments: vec![0; ids.len()], whole: ids.len(), ids }];
        let found = encoder.encode(&texts, &|_| {})?.0.remove(0).numbers;
        let expected = rows(&tensors, &format!("{case}.{what}"))?.concat();
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        let worst = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        ensure!(found.len() == expected.len() && worst <= TOLERANCE * largest, "case {case}: differs by {worst}");
    }
    Ok(())
}

#[test]
fn graphs_for_ai_100_compute_the_same() {
    let decoders = ["llama", "mistral", "qwen"];
    let names: Vec<_> = fixtures_of("encoders")
        .into_iter()
        .filter(|name| fixture(name).is_dir() && !decoders.iter().any(|family| name.contains(family)))
        .collect();
    assert!(names.len() > 20, "{names:?}");
    for engine in engines().expect("engines") {
        let failures: Vec<_> =
            names.iter().filter_map(|name| Some(format!("{name}: {:#}", check(name, &*engine).err()?))).collect();
        assert!(failures.is_empty(), "{}:\n{}", engine.name(), failures.join("\n"));
    }
}
