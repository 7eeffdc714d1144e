//! From a lowered program and the places of its weights to a model file.
//!
//! The model file holds the graph and constants of a few bytes; weights are external data or inputs, so neither the size of
//! a protobuf message (2 GiB at most) nor memory limits a model.

use qeff_plugin_api::onnx::{
    EXTERNAL, ModelProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, data_type,
    tensor_shape_proto, type_proto,
};

use crate::lower::{Initializer, Lowered};
use crate::weights::Placement;

/// Where a model file says that a weight is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file beside the model.
    Data(Placement),
    /// Nowhere: it is an input of the graph, and whoever reads the file binds it.
    Input,
}

impl From<Placement> for Place {
    fn from(placement: Placement) -> Self {
        Place::Data(placement)
    }
}

/// The model of a program whose weights are at `places`, one for each of [`Lowered::weights`] in their order.
pub fn model(lowered: &Lowered, places: &[impl Clone + Into<Place>], metadata: &[(&str, String)]) -> ModelProto {
    let mut graph = lowered.graph.clone();
    for (weight, place) in lowered.weights.iter().zip(places) {
        match place.clone().into() {
            Place::Data(place) => graph.initializer.push(external(weight, place)),
            Place::Input => graph.input.push(input(weight)),
        }
    }
    ModelProto {
        ir_version: lowered.ir_version,
        producer_name: "qeff".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import: lowered.opset_import.clone(),
        metadata_props: metadata.iter().map(|(key, value)| entry(key, value.clone())).collect(),
        functions: lowered.functions.clone(),
    }
}

fn external(weight: &Initializer, place: Placement) -> TensorProto {
    TensorProto {
        dims: weight.shape.iter().map(|&n| n as i64).collect(),
        data_type: data_type(weight.dtype),
        name: weight.name.clone(),
        data_location: EXTERNAL,
        external_data: vec![
            entry("location", place.file),
            entry("offset", place.offset.to_string()),
            entry("length", place.length.to_string()),
        ],
        ..TensorProto::default()
    }
}

fn input(weight: &Initializer) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |&n: &u64| Dimension { value: Some(Value::DimValue(n as i64)) };
    let shape = TensorShapeProto { dim: weight.shape.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: data_type(weight.dtype), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)) };
    ValueInfoProto { name: weight.name.clone(), r#type: Some(ty) }
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: key.into(), value }
}
