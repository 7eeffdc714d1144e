//! The seam between sessions and engines.
//!
//! An engine gets a lowered program with its weights where they lie, and afterwards calls: integers in, logits out, states
//! updated in place. It need not know what a position or a slot is.

use std::sync::Arc;

use qeff_core::lower::Lowered;
use qeff_core::mapping::Mapping;
use qeff_core::weights::Placement;
use qeff_plugin_api::graph::{Declaration, Program, Role, StateKind};

use crate::runtime::{Logits, RuntimeError};

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
    /// One call. `inputs` and `states` stand in the order of the program's [`Ports`].
    ///
    /// # Errors
    /// If the engine fails; the states are then undefined.
    fn run(&mut self, inputs: &[&Integers], states: &mut [StateBuffer]) -> Result<Logits, RuntimeError>;
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

/// An integer input of a call, `[rows, columns]`, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integers {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The numbers.
    pub data: Vec<i64>,
}

impl Integers {
    /// `number` everywhere.
    pub fn filled(shape: [usize; 2], number: i64) -> Self {
        Integers { shape, data: vec![number; shape[0] * shape[1]] }
    }
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
    /// Integer inputs.
    pub inputs: Vec<InputPort>,
    /// Every part of every state.
    pub states: Vec<StatePort>,
    /// The output that holds the logits.
    pub logits: String,
}

/// An integer input.
#[derive(Debug, Clone, PartialEq)]
pub struct InputPort {
    /// Meaning.
    pub role: Role,
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
    /// The ports of a program.
    ///
    /// # Errors
    /// If the program has no logits, or a state whose heads or width are not fixed.
    pub fn new(program: &Program) -> Result<Self, RuntimeError> {
        let missing = |what: &str| RuntimeError::Program { why: format!("it has no {what}") };
        let logits = program.output(Role::Logits).ok_or_else(|| missing("logits"))?.name.clone();
        let mut ports = Ports { inputs: vec![], states: vec![], logits };
        for declaration in program.declarations() {
            match *declaration {
                Declaration::Input(i) => {
                    let input = &program.inputs[i];
                    ports.inputs.push(InputPort { role: input.role, name: input.name.clone() });
                }
                Declaration::State(slot) => {
                    let state = program.state(slot);
                    let looks_back = program.window(slot).and_then(|window| usize::try_from(window).ok());
                    let window = match state.kind {
                        StateKind::Full => None,
                        StateKind::Rolling => Some(looks_back.unwrap_or(usize::MAX)),
                    };
                    for (name, &part) in state.names.iter().zip(&state.parts) {
                        let dim = |axis: usize| {
                            let fixed = program.ty(part).dims.get(axis).and_then(|dim| dim.fixed());
                            fixed.and_then(|n| usize::try_from(n).ok())
                        };
                        let (Some(heads), Some(width)) = (dim(1), dim(3)) else {
                            return Err(missing(&format!("fixed heads and width in state {name}")));
                        };
                        let retained = format!("{name}_RetainedState");
                        ports.states.push(StatePort { name: name.clone(), retained, heads, width, window });
                    }
                }
            }
        }
        Ok(ports)
    }
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
