//! One checkpoint, asked about in several ways that must not matter.

use std::collections::BTreeMap;

use qeff_plugin_api::graph::{Model, Op};
use qeff_plugin_api::plugin::Architecture;
use qeff_plugin_api::{DType, TensorIndex, TensorInfo, wire};
use serde_json::Value as Json;

use super::{Rows, Verdict, describe, invalid};
use crate::checkpoint::Checkpoint;
use crate::plugins::Entry;

/// The description, unless it is none; and whether it depends on what it must not depend on.
pub(super) fn check(entry: &Entry<dyn Architecture>, checkpoint: &Checkpoint, rows: &mut Rows<'_>) -> Option<Model> {
    let (text, tensors) = (checkpoint.config.to_text(), checkpoint.weights.index());
    let (model, asked) = match describe(entry, &text, tensors) {
        Ok(described) => described,
        Err(error) => {
            rows.fail("described", error.to_string());
            return None;
        }
    };
    if let Some(findings) = invalid(&model, tensors) {
        rows.fail("described", format!("the answer is invalid: {findings}"));
        return None;
    }
    let nodes: usize = model.programs.iter().map(|program| program.nodes().len()).sum();
    let programs = model.programs.len();
    rows.pass("described", format!("{programs} program{}, {nodes} operators", if programs == 1 { "" } else { "s" }));
    same_answers(entry, &text, tensors, &model, rows);
    let unread: Vec<_> = asked.unread.iter().map(|field| format!("`{field}` is not read")).collect();
    rows.judge(
        "config fields",
        &unread,
        format!("all are read, or known to change nothing; {} asked for", asked.read.len()),
    );
    unused(checkpoint, &model, rows);
    operators(&model, rows);
    Some(model)
}

/// The same request, spelled otherwise, has the same answer.
fn same_answers(
    entry: &Entry<dyn Architecture>,
    text: &str,
    tensors: &TensorIndex,
    model: &Model,
    rows: &mut Rows<'_>,
) {
    let first = wire::encode(model);
    let mut beside = tensors.clone();
    beside.insert("qeff.conformance.beside", TensorInfo { dtype: DType::F32, shape: vec![1] });
    let reversed = serde_json::from_str(text).map(reversed).unwrap_or_default().to_string();
    let mut problems = vec![];
    for (what, text, tensors) in [
        ("asked again", text, tensors),
        ("with config fields in another order", reversed.as_str(), tensors),
        ("with a tensor beside that is nobody's", text, &beside),
    ] {
        match describe(entry, text, tensors) {
            Ok((again, _)) if wire::encode(&again) == first => {}
            Ok(_) => problems.push(format!("{what}, it answers otherwise")),
            Err(error) => problems.push(format!("{what}, it refuses: {error}")),
        }
    }
    rows.judge(
        "deterministic",
        &problems,
        "asked again, fields in another order, other tensors beside: the same bytes",
    );
}

/// The same JSON with the fields of every object in reversed order.
fn reversed(json: Json) -> Json {
    match json {
        Json::Object(fields) => {
            Json::Object(fields.into_iter().rev().map(|(key, value)| (key, reversed(value))).collect())
        }
        Json::Array(list) => Json::Array(list.into_iter().map(reversed).collect()),
        other => other,
    }
}

/// Stored tensors that the model does not read.
fn unused(checkpoint: &Checkpoint, model: &Model, rows: &mut Rows<'_>) {
    let unused: Vec<_> =
        crate::describe::unused(checkpoint, model).map(|name| format!("`{name}` is not used")).collect();
    rows.judge("tensors", &unused, format!("all {} are used", checkpoint.weights.index().len()));
}

/// Operators that a pass must find. A description that spells one of them out in ONNX loses the features beside it.
const SPELLED_OUT: &[(&str, &str)] = &[
    ("MatMul", "quantisation, and adapters: a product with a weight is `linear`"),
    ("Gemm", "quantisation, and adapters: a product with a weight is `linear`"),
    ("Gather", "wide tables on AI 100: rows of a table are `embed`"),
    ("ScatterND", "batching and context lengths: what is kept between calls is a state"),
    ("ScatterElements", "batching and context lengths: what is kept between calls is a state"),
];

/// How much of the description is plain ONNX, and what that costs.
fn operators(model: &Model, rows: &mut Rows<'_>) {
    let mut raw: BTreeMap<&str, usize> = BTreeMap::new();
    let mut total = 0;
    for node in model.programs.iter().flat_map(|program| program.nodes().map(|(_, node)| node)) {
        total += 1;
        if let Op::Onnx(op) = &node.op {
            *raw.entry(&op.op_type).or_default() += 1;
        }
    }
    let count: usize = raw.values().sum();
    let list: Vec<_> = raw.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let share = (count * 100).checked_div(total).unwrap_or(0);
    let mut detail = format!("{count} of {total} are plain ONNX, {share} %");
    if count > 0 {
        detail.push_str(&format!(": {}", list.join(", ")));
    }
    let costs: Vec<_> = SPELLED_OUT
        .iter()
        .filter(|(name, _)| raw.contains_key(name))
        .map(|(name, cost)| format!("{name} costs {cost}"))
        .collect();
    let verdict = if costs.is_empty() { Verdict::Pass } else { Verdict::Note };
    rows.add("operators", verdict, std::iter::once(detail).chain(costs).collect::<Vec<_>>().join("; "));
}
