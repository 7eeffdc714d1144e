//! Engine rten: pure Rust, linked in, nothing to download.
//!
//! It takes states by value and gives them back as results, and so updates them in place; a vector's memory is moved in
//! and out, not its numbers.

use std::sync::Arc;

use prost::Message as _;
use qeff_core::mapping::Mapping;
use qeff_core::onnx;
use rten::{Model, ModelOptions, NodeId, Value, ValueOrView};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;

use super::engine::{Engine, Executable, Integers, Source, StateBuffer};
use crate::runtime::{Logits, RuntimeError};

const NAME: &str = "rten";

/// The engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rten;

impl Engine for Rten {
    fn name(&self) -> &'static str {
        NAME
    }

    fn load(&self, source: &Source<'_>) -> Result<Box<dyn Executable>, RuntimeError> {
        let refused = |error: &dyn std::fmt::Display| RuntimeError::Load { engine: NAME, why: error.to_string() };
        let mut options = ModelOptions::with_all_ops();
        for file in source.files {
            options.external_data_static(&file.name, keep(Arc::clone(&file.mapping)));
        }
        let bytes = onnx::model(source.lowered, source.places, &[]).encode_to_vec();
        let model = options.load(bytes).map_err(|error| refused(&error))?;
        let find = |name: &str| model.node_id(name).map_err(|error| refused(&error));
        let ports = source.ports;
        let inputs = ports.inputs.iter().map(|port| find(&port.name)).collect::<Result<_, _>>()?;
        let states = ports.states.iter().map(|port| find(&port.name)).collect::<Result<_, _>>()?;
        let retained = ports.states.iter().map(|port| find(&port.retained));
        let outputs = [find(&ports.logits)].into_iter().chain(retained).collect::<Result<_, _>>()?;
        Ok(Box::new(Loaded { model, inputs, states, outputs }))
    }
}

/// Keeps a mapping for as long as the process lives: the engine holds on to static bytes only.
fn keep(mapping: Arc<Mapping>) -> &'static [u8] {
    Box::leak(Box::new(mapping)).all()
}

struct Loaded {
    model: Model,
    inputs: Vec<NodeId>,
    states: Vec<NodeId>,
    /// Logits, then the states in order.
    outputs: Vec<NodeId>,
}

impl Executable for Loaded {
    fn run(&mut self, inputs: &[&Integers], states: &mut [StateBuffer]) -> Result<Logits, RuntimeError> {
        let mut feeds: Vec<(NodeId, ValueOrView<'_>)> = Vec::with_capacity(inputs.len() + states.len());
        for (&node, integers) in self.inputs.iter().zip(inputs) {
            // The engine computes with 32 bits where ONNX says 64.
            let data: Vec<i32> = integers.data.iter().map(|&number| number as i32).collect();
            feeds.push((node, Value::from(tensor(&integers.shape, data)?).into()));
        }
        for (&node, state) in self.states.iter().zip(states.iter_mut()) {
            let data = std::mem::take(&mut state.data);
            feeds.push((node, Value::from(tensor(&state.shape, data)?).into()));
        }
        let mut results = self.model.run(feeds, &self.outputs, None).map_err(failed)?.into_iter().map(floats);
        let logits = results.next().ok_or_else(|| failed("there are no logits"))??;
        for (state, result) in states.iter_mut().zip(results) {
            state.data = result?.into_data();
        }
        let vocab = logits.shape().last().copied().unwrap_or(0);
        Ok(Logits::new(logits.into_data(), vocab))
    }
}

fn failed(why: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Run { engine: NAME, why: why.to_string() }
}

fn tensor<T>(shape: &[usize], data: Vec<T>) -> Result<Tensor<T>, RuntimeError> {
    Tensor::try_from_data(shape, data).map_err(|error| failed(format!("{error:?}")))
}

fn floats(value: Value) -> Result<Tensor<f32>, RuntimeError> {
    value.try_into().map_err(|_| failed("a result is not f32"))
}
