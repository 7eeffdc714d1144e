//! Engine ONNX Runtime: a shared library of somebody else's, found at run time.
//!
//! | module | knows |
//! |---|---|
//! | [`library`] | one shared library: whether it fits, how it is loaded |
//! | `session` | the calls that `ort` has no safe form of; the only `unsafe` of the engine |
//!
//! Nothing is copied that can be used where it lies. A weight that only matrix products and look-ups read is an *input*
//! of the session, bound to the mapped file on every call: the engine repacks every initializer of a product for itself, a
//! second copy of the model, for a tenth to a quarter of speed with one sequence. Other weights are initializers: they are
//! small, or their operators want them constant (blockwise quantised ones are ten times slower otherwise).
//!
//! States are updated in place: the memory that a call reads as `X` is the memory into which it writes `X_RetainedState`.

pub mod library;
mod session;

use std::collections::HashSet;

use prost::Message as _;
use qeff_core::lower::Lowered;
use qeff_core::onnx;
use qeff_plugin_api::onnx::tensor_shape_proto::{Dimension, dimension};
use qeff_plugin_api::onnx::{TensorShapeProto, TypeProto, ValueInfoProto, data_type, type_proto};

use self::library::Library;
use self::session::{LoadedSession, Model, Names, Weight};
use super::engine::{Engine, Executable, Source, StateBuffer};
use crate::runtime::{RuntimeError, Tensor};

const NAME: &str = "ort";

/// The engine over a loaded library.
#[derive(Debug, Clone)]
pub struct Ort {
    library: &'static Library,
}

impl Ort {
    /// The engine over `library`.
    pub fn new(library: &'static Library) -> Self {
        Ort { library }
    }
}

impl Engine for Ort {
    fn name(&self) -> &'static str {
        NAME
    }

    fn load(&self, source: &Source<'_>) -> Result<Box<dyn Executable>, RuntimeError> {
        let refused = |error: session::SessionError| RuntimeError::Load { engine: NAME, why: error.to_string() };
        let constant = constants(source.lowered);
        let (mut inputs, mut initializers) = (vec![], vec![]);
        let mut model = onnx::model(source.lowered, source.places, &[]);
        for (weight, place) in source.lowered.weights.iter().zip(source.places) {
            let file = source.files.iter().find(|file| file.name == place.file).ok_or_else(|| RuntimeError::Load {
                engine: NAME,
                why: format!("weight {} lies in {}, which was not handed over", weight.name, place.file),
            })?;
            let (name, shape) = (weight.name.as_str(), weight.shape.as_slice());
            let bound = Weight { name, dtype: weight.dtype, shape, file: &file.mapping, place };
            if constant.contains(name) { initializers.push(bound) } else { inputs.push(bound) }
        }
        if let Some(graph) = &mut model.graph {
            let fed: HashSet<&str> = inputs.iter().map(|weight| weight.name).collect();
            graph.initializer.retain(|tensor| !fed.contains(tensor.name.as_str()));
            graph.input.extend(inputs.iter().map(declared));
        }
        let bytes = model.encode_to_vec();
        let model = Model { bytes: &bytes, inputs, initializers };
        let session = LoadedSession::new(self.library.environment(), &model).map_err(refused)?;
        let ports = source.ports;
        let taken = ports.inputs.iter().map(|port| &port.name).chain(ports.states.iter().map(|port| &port.name));
        let given = ports.outputs.iter().map(|port| &port.name).chain(ports.states.iter().map(|port| &port.retained));
        let names = Names::new(taken, given).map_err(refused)?;
        Ok(Box::new(Loaded { session, names }))
    }
}

/// Operators that work as well on an input as on a constant, if their operand has the size of a matrix.
const READ_IN_PLACE: &[&str] = &["Gather", "Gemm", "MatMul"];

/// Weights that have to be constants of the graph.
fn constants(lowered: &Lowered) -> HashSet<&str> {
    let nodes = lowered.graph.node.iter();
    let others = nodes.filter(|node| !node.domain.is_empty() || !READ_IN_PLACE.contains(&node.op_type.as_str()));
    let mut constants: HashSet<&str> = others.flat_map(|node| &node.input).map(String::as_str).collect();
    // A bias is no matrix; a weight that is put out as it is has no reader at all.
    constants.extend(lowered.weights.iter().filter(|weight| weight.shape.len() < 2).map(|weight| weight.name.as_str()));
    constants.extend(lowered.graph.output.iter().map(|output| output.name.as_str()));
    constants
}

/// A weight as the graph declares an input.
fn declared(weight: &Weight<'_>) -> ValueInfoProto {
    let dim = |&n: &u64| Dimension { value: Some(dimension::Value::DimValue(n as i64)) };
    let shape = TensorShapeProto { dim: weight.shape.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: data_type(weight.dtype), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)) };
    ValueInfoProto { name: weight.name.to_owned(), r#type: Some(ty) }
}

struct Loaded {
    session: LoadedSession,
    names: Names,
}

impl Executable for Loaded {
    fn run(&mut self, inputs: &[&Tensor], states: &mut [StateBuffer]) -> Result<Vec<Tensor>, RuntimeError> {
        let result = self.session.run(&self.names, inputs, states);
        result.map_err(|error| RuntimeError::Run { engine: NAME, why: error.to_string() })
    }
}
