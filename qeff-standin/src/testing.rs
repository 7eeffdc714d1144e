//! Small models for the stand-in's own tests, and a way to write them down.

use qeff_plugin_api::DType;
use qeff_plugin_api::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_type, data_type, tensor_shape_proto, type_proto,
};

/// `result = Operator(input, input) name=1 name=[1,2]`, as in a listing. An operator may carry its domain: `a.b::Operator`.
///
/// # Panics
/// If the line has another form.
pub fn node(line: &str) -> NodeProto {
    let (outputs, call) = line.split_once(" = ").expect("outputs = call");
    let (op, rest) = call.split_once('(').expect("Operator(");
    let (inputs, attributes) = rest.split_once(')').expect(")");
    let (domain, op_type) = op.rsplit_once("::").unwrap_or(("", op));
    let names = |list: &str| list.split(", ").map(str::to_owned).collect::<Vec<_>>();
    NodeProto {
        name: format!("/{outputs}"),
        op_type: op_type.into(),
        domain: domain.into(),
        input: if inputs.is_empty() { vec![] } else { names(inputs) },
        output: names(outputs),
        attribute: attributes.split_whitespace().map(attribute).collect(),
    }
}

fn attribute(text: &str) -> AttributeProto {
    let (name, value) = text.split_once('=').expect("name=value");
    let base = AttributeProto { name: name.into(), ..AttributeProto::default() };
    if let Some(outer) = value.strip_prefix('@') {
        return AttributeProto { r#type: attribute_type::FLOAT, ref_attr_name: outer.into(), ..base };
    }
    if let Some(list) = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let ints: Vec<i64> = list.split(',').filter(|n| !n.is_empty()).map(|n| n.parse().expect("a number")).collect();
        if name != "value" {
            return AttributeProto { r#type: attribute_type::INTS, ints, ..base };
        }
        return AttributeProto { r#type: attribute_type::TENSOR, t: Some(ints_tensor("", &ints)), ..base };
    }
    if value.contains('.') {
        let f = Some(value.parse().expect("a number"));
        return AttributeProto { r#type: attribute_type::FLOAT, f, ..base };
    }
    AttributeProto { r#type: attribute_type::INT, i: Some(value.parse().expect("a number")), ..base }
}

/// A tensor of 64-bit integers with one dimension.
pub fn ints_tensor(name: &str, ints: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![ints.len() as i64],
        data_type: data_type(DType::I64),
        raw_data: Some(ints.iter().flat_map(|int| int.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

/// An input or output: `name`, its type, and dimensions that are numbers or symbols.
pub fn port(name: &str, dtype: DType, dims: &[&str]) -> ValueInfoProto {
    use tensor_shape_proto::dimension::Value;
    let dims = dims.iter().map(|dim| {
        let value = dim.parse().map_or_else(|_| Value::DimParam((*dim).into()), Value::DimValue);
        tensor_shape_proto::Dimension { value: Some(value) }
    });
    let shape = Some(TensorShapeProto { dim: dims.collect() });
    let tensor = type_proto::Tensor { elem_type: data_type(dtype), shape };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)) }) }
}

/// A model of opset 17.
pub fn model(
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    nodes: &[&str],
    functions: Vec<FunctionProto>,
) -> ModelProto {
    let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
    let mut opset_import = vec![opset("", 17)];
    opset_import.extend(functions.iter().map(|function| opset(&function.domain, 1)));
    let graph = GraphProto {
        name: "main".into(),
        node: nodes.iter().map(|line| node(line)).collect(),
        input: inputs,
        output: outputs,
        ..GraphProto::default()
    };
    ModelProto { ir_version: 8, graph: Some(graph), opset_import, functions, ..ModelProto::default() }
}

/// A local function.
pub fn function(name: &str, inputs: &[&str], outputs: &[&str], attributes: &[&str], nodes: &[&str]) -> FunctionProto {
    let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let (domain, name) = name.rsplit_once("::").expect("a domain");
    FunctionProto {
        name: name.into(),
        domain: domain.into(),
        input: texts(inputs),
        output: texts(outputs),
        attribute: texts(attributes),
        node: nodes.iter().map(|line| node(line)).collect(),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: 17 }],
    }
}

/// A decoder that adds: it writes each id to the row of its position, and its one logit is the sum of all rows up to the
/// newest. Ids `[1, seq_len]`, one state `[1, 1, ctx_len, 1]`, logits `[1, 1, 1]`. Padding is dropped by the scatter.
pub fn adder() -> ModelProto {
    let (ids, f32) = (DType::I64, DType::F32);
    let state = &["1", "1", "ctx_len", "1"];
    let scatter = function(
        "com.qualcomm.cloud::CtxScatter",
        &["data", "position_ids", "updates"],
        &["written"],
        &[],
        &[
            "flat = Constant() value=[-1,1]",
            "rows = Reshape(data, flat)",
            "indices = Reshape(position_ids, flat)",
            "new = Reshape(updates, flat)",
            "scattered = ScatterND(rows, indices, new)",
            "shape = Shape(data)",
            "written = Reshape(scattered, shape)",
        ],
    );
    model(
        vec![
            port("input_ids", ids, &["1", "seq_len"]),
            port("position_ids", ids, &["1", "seq_len"]),
            port("past_key.0", f32, state),
        ],
        vec![port("logits", f32, &["1", "1", "1"]), port("past_key.0_RetainedState", f32, state)],
        &[
            "numbers = Cast(input_ids) to=1",
            "past_key.0_RetainedState = com.qualcomm.cloud::CtxScatter(past_key.0, position_ids, numbers)",
            "newest = ReduceMax(position_ids) keepdims=0",
            "flat = Constant() value=[-1]",
            "state = Reshape(past_key.0_RetainedState, flat)",
            "count = Shape(state)",
            "zero = Constant() value=[0]",
            "one = Constant() value=[1]",
            "rows = Range(zero, count, one)",
            "unseen = Greater(rows, newest)",
            "nothing = Cast(zero) to=1",
            "seen = Where(unseen, nothing, state)",
            "sum = ReduceSum(seen) keepdims=1",
            "cube = Constant() value=[1,1,1]",
            "logits = Reshape(sum, cube)",
        ],
        vec![scatter],
    )
}
