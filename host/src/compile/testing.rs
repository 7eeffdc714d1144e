//! Interfaces for unit tests, one port a line: `name type dim dim …`.

use std::collections::BTreeMap;

use qeff_plugin_api::DType;
use qeff_plugin_api::graph::Dim;
use qeff_plugin_api::onnx::GraphProto;

use super::{Interface, Port, Program, Weights};

fn ports(text: &str) -> Vec<Port> {
    let port = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a name").to_owned();
        let elem = words.next().and_then(|word| DType::ALL.iter().find(|dtype| dtype.name() == word));
        let dims = words.map(|dim| dim.parse().map_or_else(|_| Dim::symbol(dim), Dim::Fixed)).collect();
        Port { name, elem: *elem.expect("a type"), dims }
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(port).collect()
}

/// A program with these inputs and outputs, and no node.
pub(super) fn program(inputs: &str, outputs: &str) -> Program {
    Program {
        stem: "Test".into(),
        interface: Interface { inputs: ports(inputs), outputs: ports(outputs) },
        graph: GraphProto::default(),
        functions: vec![],
        weights: Weights::default(),
        windows: BTreeMap::new(),
        symbols: Default::default(),
    }
}

/// A decoder with one layer whose cache has elements of type `elem`.
pub(super) fn decoder(elem: &str, more: &str) -> Program {
    let cache = format!("{elem} batch_size 2 ctx_len 16");
    program(
        &format!("input_ids i64 batch_size seq_len\nposition_ids i64 batch_size seq_len\npast_key.0 {cache}\n{more}"),
        &format!("logits f32 batch_size 1 64\npast_key.0_RetainedState {cache}"),
    )
}
