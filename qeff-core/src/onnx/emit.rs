//! From a lowered program and the places of its weights to a model file.
//!
//! The model file holds the graph and constants of a few bytes; weights are external data, so neither the size of a
//! protobuf message (2 GiB at most) nor memory limits a model.

use qeff_plugin_api::onnx::{EXTERNAL, ModelProto, StringStringEntryProto, TensorProto, data_type};

use crate::lower::Lowered;
use crate::weights::Placement;

/// The model of a program whose weights lie at `places`, one for each of [`Lowered::weights`] in their order.
pub fn model(lowered: &Lowered, places: &[Placement], metadata: &[(&str, String)]) -> ModelProto {
    let mut graph = lowered.graph.clone();
    for (weight, place) in lowered.weights.iter().zip(places) {
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        graph.initializer.push(TensorProto {
            dims: weight.shape.iter().map(|&n| n as i64).collect(),
            data_type: data_type(weight.dtype),
            name: weight.name.clone(),
            data_location: EXTERNAL,
            external_data: vec![
                entry("location", place.file.clone()),
                entry("offset", place.offset.to_string()),
                entry("length", place.length.to_string()),
            ],
            ..TensorProto::default()
        });
    }
    ModelProto {
        ir_version: lowered.ir_version,
        producer_name: "qeff".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph),
        opset_import: lowered.opset_import.clone(),
        metadata_props: metadata
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: (*key).into(), value: value.clone() })
            .collect(),
        functions: lowered.functions.clone(),
    }
}
