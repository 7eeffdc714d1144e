//! Target `aic` has the interface of the reference's exports: what a compiler and a runtime see of the two is the same.
//!
//! Each golden (`tests/goldens/README.md`) is built again from its config. Inputs, outputs, operator sets, the custom
//! functions to the last node, and every call of them must be equal. The standard nodes between the calls are our own, so
//! they are only held to the rules that any file must keep, and to the contract's rule on INT32_MAX.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use qeff::describe_with;
use qeff::golden::{Golden, goldens};
use qeff_core::lower::{Lowered, Target};
use qeff_core::weights::{Facets, TensorSource as _};
use qeff_host::prepare::prepare;
use qeff_plugin_api::DType;
use qeff_plugin_api::onnx::{
    AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, attribute_type,
    data_type, dtype, tensor_shape_proto, type_proto,
};
use serde_json::{Map, Value as Json, json};

/// The index that means "no row here".
const INVALID: i64 = i32::MAX as i64;

#[test]
fn every_golden() {
    let goldens = goldens().unwrap();
    assert_eq!(goldens.len(), 23, "goldens found");
    let mut failures = vec![];
    for golden in &goldens {
        let found = check(golden).unwrap_or_else(|error| vec![format!("{error:#}")]);
        failures.extend(found.into_iter().map(|failure| format!("{}: {failure}", golden.name)));
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Everything in which our lowering differs from a golden or breaks a rule.
fn check(golden: &Golden) -> Result<Vec<String>> {
    let tensors = golden.tensors()?;
    let model = describe_with(&golden.config()?, tensors.index())?;
    let prepared = prepare(model, &Facets::new(&tensors), &golden.features, Target::Aic)?;
    let [lowered] = prepared.programs.as_slice() else {
        anyhow::bail!("{} programs, expected one", prepared.programs.len());
    };
    let mut failures = vec![];
    compare_interface(golden, lowered, &mut failures)?;
    compare_functions(golden, lowered, &mut failures)?;
    compare_calls(golden, lowered, &mut failures)?;
    compare_blocks(golden, lowered, &mut failures);
    well_formed(lowered, &mut failures);
    // Without a cache there are no rows to be invalid.
    if lowered.functions.iter().any(|function| function.name.starts_with("Ctx")) {
        invalid_index(golden, lowered, &mut failures);
    }
    Ok(failures)
}

// --- what the reference wrote

fn compare_interface(golden: &Golden, lowered: &Lowered, failures: &mut Vec<String>) -> Result<()> {
    let facts = &golden.facts;
    equal("ir_version", &facts["ir_version"], &json!(lowered.ir_version), failures);
    // The order of imports has no meaning, and the recording has none.
    equal("opset_import", &facts["opset_import"], &opsets(&lowered.opset_import), failures);
    let graph = &lowered.graph;
    equal_lists("input", list(facts, "inputs")?, &graph.input.iter().map(port).collect::<Vec<_>>(), failures);
    let outputs = list(facts, "outputs")?.iter().map(|output| meant(golden, output)).collect::<Result<Vec<_>>>()?;
    equal_lists("output", &outputs, &graph.output.iter().map(port).collect::<Vec<_>>(), failures);
    Ok(())
}

/// An output of the golden with the dimensions it means.
///
/// The tracer lost the dimensions of `logits` at the final `Cast` and named them after it; of a quantised model it lost more.
/// What they are follows from
/// what the graph computes: one row of logits for each row of the batch, taken at the largest position; or, for a
/// speculation target, as many as input `num_logits_to_keep` is long.
///
/// | in the golden | means |
/// |---|---|
/// | `Castlogits_dim_0` | `batch_size`, also under continuous batching: rows of the call, not slots |
/// | `Castlogits_dim_1` | 1; of a speculation target, `num_logits_to_keep` |
/// | `MatMullogits_dim_0`, `MatMullogits_dim_1` | `batch_size`, `seq_len`: Whisper scores every token of a call |
/// | `Addlogits_dim_1` | `frames`, those of a CTC model |
/// | `Castlogits_dim_2` | the vocabulary, where the tracer did not know what a product with quantised weights gives |
/// | `CtxScatterpast_…_dim_…` | the same dimension of the state that goes in, likewise |
fn meant(golden: &Golden, output: &Json) -> Result<Json> {
    let mut meant = output.clone();
    let name = meant["name"].as_str().context("an output without a name")?.to_owned();
    if let Some(state) = name.strip_suffix("_RetainedState") {
        let inputs = list(&golden.facts, "inputs")?;
        let input = inputs.iter().find(|input| input["name"] == state).context("a state that does not go in")?;
        let dims = meant["shape"].as_array_mut().context("a state without a shape")?;
        for (axis, dim) in dims.iter_mut().enumerate() {
            if *dim == json!(format!("CtxScatter{name}_dim_{axis}")) {
                *dim = input["shape"][axis].clone();
            }
        }
    }
    if meant["name"] == "logits" {
        let dims = meant["shape"].as_array_mut().context("logits without a shape")?;
        for dim in dims {
            *dim = match dim.as_str() {
                Some("Castlogits_dim_0" | "MatMullogits_dim_0") => json!("batch_size"),
                Some("MatMullogits_dim_1") => json!("seq_len"),
                Some("Addlogits_dim_1") => json!("frames"),
                Some("Castlogits_dim_1") if golden.features.last_k => json!("num_logits_to_keep"),
                Some("Castlogits_dim_1") => json!(1),
                Some("Castlogits_dim_2") => golden.facts["config"]["vocab_size"].clone(),
                _ => continue,
            };
        }
    }
    Ok(meant)
}

fn compare_functions(golden: &Golden, lowered: &Lowered, failures: &mut Vec<String>) -> Result<()> {
    let expected = list(&golden.facts, "functions")?;
    let names = |functions: &[Json]| -> Vec<Json> {
        functions.iter().map(|function| json!([function["domain"], function["name"]])).collect()
    };
    let found: Vec<Json> = lowered.functions.iter().map(function).collect();
    equal_lists("function", &names(expected), &names(&found), failures);
    for (expected, found) in expected.iter().zip(&found) {
        let name = expected["name"].as_str().context("function without a name")?;
        for part in ["inputs", "outputs", "attributes", "opset_import"] {
            equal(&format!("{name} {part}"), &expected[part], &found[part], failures);
        }
        // The reference's norm multiplies f16 by f32, which is no ONNX; ours is held to its interface.
        if name == "CustomRMSNorm" && golden.features.act.is_some() {
            continue;
        }
        equal_lists(&format!("{name} node"), list(expected, "nodes")?, list(found, "nodes")?, failures);
    }
    Ok(())
}

/// Calls of custom operators in file order: operator, attributes, and which inputs, states and weights they touch.
fn compare_calls(golden: &Golden, lowered: &Lowered, failures: &mut Vec<String>) -> Result<()> {
    let expected = list(&golden.facts, "custom_op_calls")?;
    let found: Vec<Json> = lowered.graph.node.iter().filter(|node| !node.domain.is_empty()).map(call).collect();
    let fixed: BTreeSet<&str> = lowered
        .graph
        .input
        .iter()
        .chain(&lowered.graph.output)
        .map(|port| port.name.as_str())
        .chain(lowered.weights.iter().map(|weight| weight.name.as_str()))
        .collect();
    let placed = |call: &Json| {
        let mut placed = call.clone();
        for side in ["in", "out"] {
            for name in placed[side].as_array_mut().into_iter().flatten() {
                if !name.as_str().is_some_and(|name| fixed.contains(name)) {
                    *name = json!("(computed)");
                }
            }
        }
        placed
    };
    let counts = |calls: &[Json]| {
        let mut counts = BTreeMap::new();
        calls.iter().for_each(|call| *counts.entry(call["op"].to_string()).or_insert(0) += 1);
        json!(counts)
    };
    equal("numbers of custom calls", &counts(expected), &counts(&found), failures);
    let [mut expected, mut found] = [expected, &found].map(|calls| calls.iter().map(placed).collect::<Vec<_>>());
    // The reference writes the states of all late layers before the first of them; here each layer writes its own, so that a
    // card that has the layer has all of it. The calls are the same in another order.
    if golden.facts["config"]["model_type"] == "llama_swiftkv" {
        expected.sort_by_key(Json::to_string);
        found.sort_by_key(Json::to_string);
    }
    equal_lists("custom call", &expected, &found, failures);
    Ok(())
}

/// What holds the blocks of quantised weights: name, element type, dimensions.
fn compare_blocks(golden: &Golden, lowered: &Lowered, failures: &mut Vec<String>) {
    let Some(expected) = golden.facts["quantised"].as_array() else { return };
    let ends = ["qweight", "scales", "qzeros"];
    let held = lowered.weights.iter().filter(|weight| ends.iter().any(|end| weight.name.ends_with(end)));
    let mut found: Vec<Json> =
        held.map(|weight| json!([weight.name, type_name(data_type(weight.dtype)), weight.shape])).collect();
    found.sort_by_key(|entry| entry[0].to_string());
    equal_lists("operand", expected, &found, failures);
}

fn list<'a>(facts: &'a Json, key: &str) -> Result<&'a Vec<Json>> {
    facts[key].as_array().with_context(|| format!("no list `{key}`"))
}

fn equal(what: &str, expected: &Json, found: &Json, failures: &mut Vec<String>) {
    if expected != found {
        failures.push(format!("{what}: expected {expected}, found {found}"));
    }
}

fn equal_lists(what: &str, expected: &[Json], found: &[Json], failures: &mut Vec<String>) {
    for i in 0..expected.len().max(found.len()) {
        let [expected, found] = [expected, found].map(|list| list.get(i).unwrap_or(&Json::Null));
        equal(&format!("{what} {i}"), expected, found, failures);
    }
}

// --- our files in the words of the recordings

fn port(info: &ValueInfoProto) -> Json {
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) else {
        return json!({ "name": info.name });
    };
    let dims = tensor.shape.iter().flat_map(|shape| &shape.dim).map(|dim| match &dim.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(n)) => json!(n),
        Some(tensor_shape_proto::dimension::Value::DimParam(symbol)) => json!(symbol),
        None => Json::Null,
    });
    json!({ "name": info.name, "dtype": type_name(tensor.elem_type), "shape": dims.collect::<Vec<_>>() })
}

fn type_name(elem_type: i32) -> Json {
    match dtype(elem_type) {
        Some(DType::F32) => json!("FLOAT"),
        Some(DType::F16) => json!("FLOAT16"),
        Some(DType::I64) => json!("INT64"),
        Some(DType::I32) => json!("INT32"),
        Some(DType::Bool) => json!("BOOL"),
        Some(DType::U8) => json!("UINT8"),
        _ => json!(elem_type),
    }
}

fn opsets(imports: &[OperatorSetIdProto]) -> Json {
    imports.iter().map(|import| (import.domain.clone(), json!(import.version))).collect::<Map<_, _>>().into()
}

fn function(function: &FunctionProto) -> Json {
    json!({
        "domain": function.domain,
        "name": function.name,
        "inputs": function.input,
        "outputs": function.output,
        "attributes": function.attribute,
        "opset_import": opsets(&function.opset_import),
        "nodes": function.node.iter().map(call).collect::<Vec<_>>(),
    })
}

fn call(node: &NodeProto) -> Json {
    let op = if node.domain.is_empty() { node.op_type.clone() } else { format!("{}::{}", node.domain, node.op_type) };
    let mut call = json!({ "op": op, "in": node.input, "out": node.output });
    if !node.attribute.is_empty() {
        let attributes = node.attribute.iter().map(|attribute| (attribute.name.clone(), value(attribute)));
        call["attr"] = attributes.collect::<Map<_, _>>().into();
    }
    call
}

fn value(attribute: &AttributeProto) -> Json {
    if !attribute.ref_attr_name.is_empty() {
        return json!({ "ref": attribute.ref_attr_name });
    }
    match attribute.r#type {
        attribute_type::INT => json!(attribute.i),
        attribute_type::INTS => json!(attribute.ints),
        // The recordings hold f32 numbers widened to f64, digit by digit.
        attribute_type::FLOAT => json!(attribute.f.map(f64::from)),
        attribute_type::TENSOR => attribute.t.as_ref().map_or(
            Json::Null,
            |tensor| json!({ "tensor": type_name(tensor.data_type), "dims": tensor.dims, "value": integers(tensor) }),
        ),
        other => json!({ "type": other }),
    }
}

/// Elements of an i64 tensor that holds its bytes itself; empty for any other.
fn integers(tensor: &TensorProto) -> Vec<i64> {
    let bytes = tensor.raw_data.as_deref().filter(|_| tensor.data_type == data_type(DType::I64)).unwrap_or_default();
    bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
}

// --- rules for any file

fn well_formed(lowered: &Lowered, failures: &mut Vec<String>) {
    let graph = &lowered.graph;
    let mut names = BTreeSet::new();
    for node in &graph.node {
        if node.name.is_empty() || !names.insert(&node.name) {
            failures.push(format!("node name `{}` is empty or not unique", node.name));
        }
    }
    let inputs = graph.input.iter().map(|input| &input.name);
    let constants = graph.initializer.iter().map(|constant| &constant.name);
    let weights = lowered.weights.iter().map(|weight| &weight.name);
    let given: Vec<&String> = inputs.chain(constants).chain(weights).collect();
    let defined = in_order("graph", &given, &graph.node, failures);
    for output in &graph.output {
        if !defined.contains(output.name.as_str()) || given.contains(&&output.name) {
            failures.push(format!("output `{}` is made by no node", output.name));
        }
    }
    let used: BTreeSet<&String> = graph.node.iter().flat_map(|node| &node.input).collect();
    for name in given {
        if !used.contains(name) {
            failures.push(format!("input or initializer `{name}` is not used"));
        }
    }
    for function in &lowered.functions {
        let given: Vec<&String> = function.input.iter().collect();
        let defined = in_order(&function.name, &given, &function.node, failures);
        for output in function.output.iter().filter(|output| !defined.contains(output.as_str())) {
            failures.push(format!("{}: output `{output}` is made by no node", function.name));
        }
    }
}

/// Checks that every value is defined once, before it is used; returns the values.
fn in_order<'a>(
    place: &str,
    given: &[&'a String],
    nodes: &'a [NodeProto],
    failures: &mut Vec<String>,
) -> BTreeSet<&'a str> {
    let mut defined = BTreeSet::new();
    for name in given {
        if !defined.insert(name.as_str()) {
            failures.push(format!("{place}: `{name}` is given twice"));
        }
    }
    for node in nodes {
        for input in node.input.iter().filter(|input| !input.is_empty() && !defined.contains(input.as_str())) {
            failures.push(format!("{place}: `{}` uses `{input}` before it is defined", node.name));
        }
        for output in &node.output {
            if !defined.insert(output) {
                failures.push(format!("{place}: `{}` defines `{output}` again", node.name));
            }
        }
    }
    defined
}

// --- the contract on INT32_MAX

/// INT32_MAX stands in the graph as one scalar, the middle operand of the `Where`s that make the row numbers of every read
/// and, under continuous batching, the positions of every write; it is nowhere else, and not in functions.
fn invalid_index(golden: &Golden, lowered: &Lowered, failures: &mut Vec<String>) {
    let graph = &lowered.graph;
    let holds = |tensor: &TensorProto| integers(tensor).contains(&INVALID);
    let holders: Vec<&TensorProto> = graph.initializer.iter().filter(|tensor| holds(tensor)).collect();
    if holders.len() != 1 || !holders[0].dims.is_empty() {
        failures.push(format!("{} constants hold INT32_MAX, expected one scalar", holders.len()));
    }
    let bodies = lowered.functions.iter().flat_map(|function| &function.node);
    for node in graph.node.iter().chain(bodies) {
        let hidden = node.attribute.iter().any(|attribute| {
            attribute.t.as_ref().is_some_and(holds) || attribute.i == Some(INVALID) || attribute.ints.contains(&INVALID)
        });
        if hidden {
            failures.push(format!("an attribute of `{}` holds INT32_MAX", node.name));
        }
    }
    let narrow = |dtype| matches!(dtype, DType::F32 | DType::F16 | DType::U8);
    if let Some(weight) = lowered.weights.iter().find(|weight| !narrow(weight.dtype)) {
        failures.push(format!("weight `{}` is {}, and may hold INT32_MAX", weight.name, weight.dtype));
    }

    let made_by = |value: &str| graph.node.iter().find(|node| node.output.iter().any(|output| output == value));
    let op = |value: &str| made_by(value).map_or("nothing", |node| node.op_type.as_str());
    let invalid = holders.first().map_or("", |tensor| tensor.name.as_str());
    let mut reads = BTreeSet::new();
    let mut writes = BTreeSet::new();
    for node in graph.node.iter().filter(|node| node.input.iter().any(|input| input == invalid)) {
        let [condition, chosen, other] = node.input.as_slice() else {
            failures.push(format!("`{}` uses INT32_MAX", node.name));
            continue;
        };
        if node.op_type != "Where" || chosen != invalid {
            failures.push(format!("`{}` uses INT32_MAX, expected a Where that chooses it", node.name));
        }
        let compared = op(condition);
        let padding = compared == "Less" && other == "position_ids";
        if padding {
            writes.insert(node.output[0].as_str());
        } else if compared == "Greater" {
            reads.insert(node.output[0].as_str());
        } else {
            failures.push(format!("`{}` chooses INT32_MAX by {compared}", node.name));
        }
    }
    for node in &graph.node {
        for (i, input) in node.input.iter().enumerate() {
            let (read, write) = match (node.op_type.as_str(), i) {
                ("CtxGather", 1) | ("CtxGatherCB", 2) => (true, false),
                ("CtxScatterCB", 2) => (false, true),
                _ => (false, false),
            };
            let input = input.as_str();
            if read != reads.contains(input) || write != writes.contains(input) {
                failures.push(format!(
                    "operand {i} of `{}`, made by {}, breaks the rule of INT32_MAX",
                    node.name,
                    op(input)
                ));
            }
        }
    }
    if writes.is_empty() == golden.features.batching {
        failures.push(format!("{} writes mark padding with INT32_MAX", writes.len()));
    }
}
