//! Engine rten: pure Rust, linked in, nothing to download.
//!
//! It takes states by value and gives them back as results, and so updates them in place; a vector's memory is moved in
//! and out, not its numbers.

use std::sync::Arc;

use prost::Message as _;
use qeff_core::mapping::Mapping;
use qeff_core::onnx;
use rten::{Model, ModelOptions, NodeId, Value, ValueOrView, ValueView};
use rten_tensor::prelude::*;
use rten_tensor::{Tensor as RtenTensor, TensorView};

use super::engine::{Engine, Executable, Source, StateBuffer};
use crate::runtime::{Data, RuntimeError, Tensor};

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
        let given = ports.outputs.iter().map(|port| find(&port.name));
        let outputs = given.chain(retained).collect::<Result<_, _>>()?;
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
    /// Outputs, then the states in order.
    outputs: Vec<NodeId>,
}

impl Executable for Loaded {
    fn run(&mut self, inputs: &[&Tensor], states: &mut [StateBuffer]) -> Result<Vec<Tensor>, RuntimeError> {
        let mut feeds: Vec<(NodeId, ValueOrView<'_>)> = Vec::with_capacity(inputs.len() + states.len());
        for (&node, input) in self.inputs.iter().zip(inputs) {
            feeds.push((node, fed(input)?));
        }
        for (&node, state) in self.states.iter().zip(states.iter_mut()) {
            let data = std::mem::take(&mut state.data);
            feeds.push((node, Value::from(tensor(&state.shape, data)?).into()));
        }
        let mut results = self.model.run(feeds, &self.outputs, None).map_err(failed)?;
        let retained = results.split_off(results.len().saturating_sub(states.len()));
        for (state, result) in states.iter_mut().zip(retained) {
            let floats: RtenTensor<f32> = result.try_into().map_err(|_| failed("a state is not f32"))?;
            state.data = floats.into_data();
        }
        results.into_iter().map(given).collect()
    }
}

/// An input as the engine takes it. It computes with 32 bits where ONNX says 64, and with integers for flags.
fn fed(input: &Tensor) -> Result<ValueOrView<'_>, RuntimeError> {
    let shape = input.shape.as_slice();
    Ok(match &input.data {
        Data::F32(data) => {
            let view =
                TensorView::try_from_data(shape, data.as_slice()).map_err(|error| failed(format!("{error:?}")))?;
            ValueView::from(view).into()
        }
        Data::I64(data) => Value::from(tensor(shape, data.iter().map(|&n| n as i32).collect())?).into(),
        Data::Bool(data) => Value::from(tensor(shape, data.iter().map(|&flag| i32::from(flag)).collect())?).into(),
    })
}

/// A result of the engine.
fn given(value: Value) -> Result<Tensor, RuntimeError> {
    Ok(match value {
        Value::FloatTensor(floats) => {
            let shape = floats.shape().to_vec();
            Tensor::floats(shape, floats.into_data())
        }
        Value::Int32Tensor(integers) => {
            let shape = integers.shape().to_vec();
            Tensor::integers(shape, integers.into_data().into_iter().map(i64::from).collect())
        }
        other => return Err(failed(format!("a result has the type {}", other.dtype()))),
    })
}

fn failed(why: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Run { engine: NAME, why: why.to_string() }
}

fn tensor<T>(shape: &[usize], data: Vec<T>) -> Result<RtenTensor<T>, RuntimeError> {
    RtenTensor::try_from_data(shape, data).map_err(|error| failed(format!("{error:?}")))
}
