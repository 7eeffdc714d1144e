//! A lowered program as text: one line a node, so that a change of a lowering is a diff that can be discussed.

use std::fmt::Write as _;

use qeff_plugin_api::DType;
use qeff_plugin_api::onnx::{
    AttributeProto, NodeProto, TensorProto, ValueInfoProto, attribute_type, dtype, tensor_shape_proto, type_proto,
};

use crate::lower::Lowered;

/// The graph, its weights and its functions.
pub fn print(lowered: &Lowered) -> String {
    let mut out = String::new();
    let opsets: Vec<_> = lowered
        .opset_import
        .iter()
        .map(|opset| format!("{} {}", if opset.domain.is_empty() { "onnx" } else { &opset.domain }, opset.version))
        .collect();
    let _ = writeln!(out, "ir {} opsets {}", lowered.ir_version, opsets.join(", "));
    for input in &lowered.graph.input {
        let _ = writeln!(out, "input {}", port(input));
    }
    for output in &lowered.graph.output {
        let _ = writeln!(out, "output {}", port(output));
    }
    for weight in &lowered.weights {
        let _ = writeln!(out, "weight {} : {}{:?} = {}", weight.name, weight.dtype, weight.shape, weight.expr);
    }
    for tensor in &lowered.graph.initializer {
        let _ = writeln!(out, "constant {} = {}", tensor.name, constant(tensor));
    }
    lowered.graph.node.iter().for_each(|one| node(&mut out, one, "  "));
    for function in &lowered.functions {
        let _ = writeln!(out, "function {}::{}({})", function.domain, function.name, function.input.join(", "));
        for attribute in &function.attribute {
            let _ = writeln!(out, "  attribute {attribute}");
        }
        function.node.iter().for_each(|one| node(&mut out, one, "  "));
    }
    out
}

/// Name, element type and dimensions of an input or output.
pub fn port(info: &ValueInfoProto) -> String {
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) else {
        return format!("{} : ?", info.name);
    };
    let dims: Vec<_> = tensor
        .shape
        .iter()
        .flat_map(|shape| &shape.dim)
        .map(|dim| match &dim.value {
            Some(tensor_shape_proto::dimension::Value::DimValue(n)) => n.to_string(),
            Some(tensor_shape_proto::dimension::Value::DimParam(symbol)) => symbol.clone(),
            None => "?".into(),
        })
        .collect();
    let elem = dtype(tensor.elem_type).map_or_else(|| format!("type {}", tensor.elem_type), |dtype| dtype.to_string());
    format!("{} : {elem}[{}]", info.name, dims.join(", "))
}

fn node(out: &mut String, node: &NodeProto, indent: &str) {
    // The name says the operator already, unless the node is inside a function.
    let domain = if node.domain.is_empty() { String::new() } else { format!("{}::", node.domain) };
    let usual = node.output.len() == 1 && node.output[0] == format!("{}_output_0", node.name);
    let target = if usual { node.name.clone() } else { node.output.join(", ") };
    let inputs: Vec<_> = node.input.iter().map(|input| input.strip_suffix("_output_0").unwrap_or(input)).collect();
    let _ = write!(out, "{indent}{target} = {domain}{}({})", node.op_type, inputs.join(", "));
    for attribute in &node.attribute {
        let _ = write!(out, " {}={}", attribute.name, value(attribute));
    }
    out.push('\n');
}

fn value(attribute: &AttributeProto) -> String {
    if !attribute.ref_attr_name.is_empty() {
        return format!("@{}", attribute.ref_attr_name);
    }
    match attribute.r#type {
        attribute_type::FLOAT => attribute.f.unwrap_or_default().to_string(),
        attribute_type::INT => attribute.i.unwrap_or_default().to_string(),
        attribute_type::STRING => String::from_utf8_lossy(attribute.s.as_deref().unwrap_or_default()).into_owned(),
        attribute_type::INTS => format!("{:?}", attribute.ints),
        attribute_type::TENSOR => attribute.t.as_ref().map_or_else(String::new, constant),
        other => format!("(type {other})"),
    }
}

fn constant(tensor: &TensorProto) -> String {
    let bytes = tensor.raw_data.as_deref().unwrap_or_default();
    let numbers: Vec<String> = match dtype(tensor.data_type) {
        Some(DType::F32) => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).to_string()).collect()
        }
        Some(DType::I64) => bytes
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]).to_string())
            .collect(),
        _ => vec![format!("{} bytes", bytes.len())],
    };
    if tensor.dims.is_empty() { numbers.join(", ") } else { format!("[{}]", numbers.join(", ")) }
}
