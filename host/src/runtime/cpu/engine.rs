//! The seam between sessions and engines.
//!
//! An engine gets a lowered program with its weights where they lie, and afterwards calls: tensors in, tensors out, states
//! updated in place. It need not know what a position or a slot is.

use std::sync::Arc;

use qeff_core::lower::{Lowered, retained_name};
use qeff_core::mapping::Mapping;
use qeff_core::weights::Placement;
use qeff_plugin_api::graph::{Declaration, Program, Role, SlotId, StateKind};

use crate::runtime::{RuntimeError, Tensor};

/// Something that executes lowered programs.
pub trait Engine {
    /// The word of the command line, and of messages.
    fn name(&self) -> &'static str;

    /// Loads a program.
    ///
    /// # Errors
    /// If the engine refuses it.
    fn load(&self, source: &Source<'_>) -> Result<Box<dyn Executable>, RuntimeError>;
}

/// A loaded program.
pub trait Executable {
    /// One call. `inputs`, `states` and the result stand in the order of the program's [`Ports`].
    ///
    /// # Errors
    /// If the engine fails; the states are then undefined.
    fn run(&mut self, inputs: &[&Tensor], states: &mut [StateBuffer]) -> Result<Vec<Tensor>, RuntimeError>;
}

/// A program, and where its weights lie.
pub struct Source<'a> {
    /// The program.
    pub lowered: &'a Lowered,
    /// How it is called.
    pub ports: &'a Ports,
    /// The place of each of [`Lowered::weights`], in one of `files`.
    pub places: &'a [Placement],
    /// Files of weights.
    pub files: &'a [WeightFile],
}

/// A file of weights under the name by which a program's external data refers to it.
pub struct WeightFile {
    /// The name.
    pub name: String,
    /// The file. An engine that reads from it keeps it.
    pub mapping: Arc<Mapping>,
}

/// Memory of one part of a state: f32 `[slots, heads, rows, width]`, the last axis densest.
#[derive(Debug, Clone, PartialEq)]
pub struct StateBuffer {
    /// The shape.
    pub shape: [usize; 4],
    /// The numbers.
    pub data: Vec<f32>,
}

impl StateBuffer {
    /// Zeros.
    pub fn zeros(shape: [usize; 4]) -> Self {
        StateBuffer { shape, data: vec![0.0; shape.iter().product()] }
    }

    /// A buffer of `rows` rows which begins with the first `kept` of this one; the others are zeros.
    pub fn with_rows(&self, rows: usize, kept: usize) -> Self {
        let [slots, heads, old, width] = self.shape;
        let mut larger = StateBuffer::zeros([slots, heads, rows, width]);
        let from = self.data.chunks_exact((old * width).max(1));
        let to = larger.data.chunks_exact_mut((rows * width).max(1));
        for (from, to) in from.zip(to) {
            to[..kept * width].copy_from_slice(&from[..kept * width]);
        }
        larger
    }
}

/// What a program takes and gives, by the names of its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Ports {
    /// What a call hands over: inputs, and states that no call of this program changes.
    pub inputs: Vec<Port>,
    /// What a call gives back: outputs, and states that a call makes as a whole.
    pub outputs: Vec<Port>,
    /// Every part of every state that positions are written to.
    pub states: Vec<StatePort>,
}

/// An input or an output.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// Meaning; none for a state.
    pub role: Option<Role>,
    /// Name in the file.
    pub name: String,
}

/// One part of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePort {
    /// Name of the input.
    pub name: String,
    /// Name of the output that holds it after the call.
    pub retained: String,
    /// Length of axis 1.
    pub heads: usize,
    /// Length of axis 3.
    pub width: usize,
    /// For a rolling state, how many positions back it is read; the program finds position p in row p modulo the rows
    /// before the last. `None` for a state with a row for each position.
    pub window: Option<usize>,
}

impl Ports {
    /// The ports of a program and of the file it was lowered to.
    ///
    /// # Errors
    /// If the program has a state of positions whose heads or width are not fixed.
    pub fn new(program: &Program, lowered: &Lowered) -> Result<Self, RuntimeError> {
        let port = |role, name: &str| Port { role, name: name.to_owned() };
        let outputs = program.outputs.iter().map(|output| port(Some(output.role), &output.name)).collect();
        let mut ports = Ports { inputs: vec![], outputs, states: vec![] };
        let taken = |name: &str| lowered.graph.input.iter().any(|input| input.name == name);
        let given = |name: &str| lowered.graph.output.iter().any(|output| output.name == name);
        for declaration in program.declarations() {
            match *declaration {
                Declaration::Input(i) => {
                    let input = &program.inputs[i];
                    ports.inputs.extend(taken(&input.name).then(|| port(Some(input.role), &input.name)));
                }
                Declaration::State(slot) => {
                    let state = program.state(slot);
                    if matches!(state.kind, StateKind::Fill | StateKind::Row) {
                        ports.inputs.extend(state.names.iter().filter(|name| taken(name)).map(|name| port(None, name)));
                        let retained = state.names.iter().map(|name| retained_name(name));
                        ports.outputs.extend(retained.filter(|name| given(name)).map(|name| port(None, &name)));
                    } else {
                        ports.states.extend(position_ports(program, slot)?);
                    }
                }
            }
        }
        Ok(ports)
    }

    /// The name of the input of a role.
    pub fn input(&self, role: Role) -> Option<String> {
        self.inputs.iter().find(|port| port.role == Some(role)).map(|port| port.name.clone())
    }
}

/// The ports of a state that positions are written to.
fn position_ports(program: &Program, slot: SlotId) -> Result<Vec<StatePort>, RuntimeError> {
    let state = program.state(slot);
    let looks_back = program.window(slot).and_then(|window| usize::try_from(window).ok());
    let window = (state.kind == StateKind::Rolling).then(|| looks_back.unwrap_or(usize::MAX));
    let parts = state.names.iter().zip(&state.parts).map(|(name, &part)| {
        let dim = |axis: usize| {
            let fixed = program.ty(part).dims.get(axis).and_then(|dim| dim.fixed());
            fixed.and_then(|n| usize::try_from(n).ok())
        };
        let (Some(heads), Some(width)) = (dim(1), dim(3)) else {
            return Err(RuntimeError::Program { why: format!("state {name} has no fixed heads and width") });
        };
        Ok(StatePort { name: name.clone(), retained: retained_name(name), heads, width, window })
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_grows_row_by_row_and_keeps_what_is_asked_for() {
        // Two slots of two heads of two rows; the second row of each is not to be kept.
        let data = (0..16).map(|n| n as f32).collect();
        let state = StateBuffer { shape: [2, 2, 2, 2], data };
        let larger = state.with_rows(3, 1);
        assert_eq!(larger.shape, [2, 2, 3, 2]);
        let rows: Vec<&[f32]> = larger.data.chunks(6).collect();
        assert_eq!(rows[0], [0., 1., 0., 0., 0., 0.]);
        assert_eq!(rows[1], [4., 5., 0., 0., 0., 0.]);
        assert_eq!(rows[3], [12., 13., 0., 0., 0., 0.]);
    }
}
