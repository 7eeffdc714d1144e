//! The CPU runtime: one session over whichever engine executes.
//!
//! | module | knows | does not know |
//! |---|---|---|
//! | [`session`] | slots, positions, when states grow | which engine executes |
//! | [`engine`] | what a call hands to an engine and gets back | slots |
//! | `weights` | where each weight lies: in the checkpoint, or converted | what executes |
//! | [`rten`] | the calls of that engine | what a state means |
//!
//! States are plain memory that the session owns and every call updates in place; so growing them, and whatever else
//! concerns sequences, is written once.

pub mod engine;
pub mod ort;
pub mod rten;
pub mod session;
mod weights;

use qeff_core::lower::Lowered;
use qeff_plugin_api::graph::{Program, Role};

use self::engine::{Engine, Executable, Integers, Ports, Source, StateBuffer};
use self::weights::Placed;
pub use self::weights::{Residence, Tensors};
use super::{Logits, RuntimeError};

/// A program that an engine has loaded, with the ports by which it is called.
pub struct CpuProgram {
    ports: Ports,
    executable: Box<dyn Executable>,
}

impl CpuProgram {
    /// The states of the program, in the order in which calls take them.
    pub fn states(&self) -> &[engine::StatePort] {
        &self.ports.states
    }

    /// One call. Inputs that the program does not have are left out; states are updated in place.
    ///
    /// # Errors
    /// If an input of the program is missing, or the engine fails; the states are then undefined.
    pub fn run(&mut self, inputs: &[(Role, Integers)], states: &mut [StateBuffer]) -> Result<Logits, RuntimeError> {
        let given = |role: Role| inputs.iter().find(|(other, _)| *other == role).map(|(_, integers)| integers);
        let ordered: Vec<&Integers> = self
            .ports
            .inputs
            .iter()
            .map(|port| {
                given(port.role).ok_or_else(|| RuntimeError::Program { why: format!("nobody gives `{}`", port.name) })
            })
            .collect::<Result<_, _>>()?;
        self.executable.run(&ordered, states)
    }
}

/// Loads programs over the same weights into an engine.
///
/// # Errors
/// If a weight cannot be converted, or the engine refuses a program.
pub fn load<'a>(
    engine: &dyn Engine,
    tensors: impl Into<Tensors<'a>>,
    programs: &[(&Program, &Lowered)],
) -> anyhow::Result<(Vec<CpuProgram>, Residence)> {
    let lowered: Vec<&Lowered> = programs.iter().map(|(_, lowered)| *lowered).collect();
    let placed = Placed::new(tensors.into(), &lowered)?;
    let mut loaded = vec![];
    for ((program, lowered), places) in programs.iter().zip(&placed.places) {
        let ports = Ports::new(program)?;
        let executable = engine.load(&Source { lowered, ports: &ports, places, files: &placed.files })?;
        loaded.push(CpuProgram { ports, executable });
    }
    Ok((loaded, placed.residence))
}
