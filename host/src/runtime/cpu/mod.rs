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

use self::engine::{Engine, Executable, Ports, Source, StateBuffer};
use self::weights::Placed;
pub use self::weights::{Residence, Tensors};
use super::{Callable, Logits, RuntimeError, Tensor};

/// A program that an engine has loaded, with the ports by which it is called.
pub struct CpuProgram {
    ports: Ports,
    executable: Box<dyn Executable>,
}

impl CpuProgram {
    /// How the program is called.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The states of the program that grow with a sequence, in the order in which calls take them.
    pub fn states(&self) -> &[engine::StatePort] {
        &self.ports.states
    }

    /// One call by names, results in the order of [`Ports::outputs`]; states are updated in place. What the program does not
    /// take is left out.
    ///
    /// # Errors
    /// If an input of the program is missing, or the engine fails; the states are then undefined.
    pub fn call(
        &mut self,
        inputs: &[(&str, &Tensor)],
        states: &mut [StateBuffer],
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let given = |name: &str| inputs.iter().find(|(other, _)| *other == name).map(|(_, tensor)| *tensor);
        let missing = |name: &str| RuntimeError::Program { why: format!("nobody gives `{name}`") };
        let taken = self.ports.inputs.iter().map(|port| given(&port.name).ok_or_else(|| missing(&port.name)));
        let ordered: Vec<&Tensor> = taken.collect::<Result<_, _>>()?;
        self.executable.run(&ordered, states)
    }

    /// One call by roles that asks for the logits alone.
    ///
    /// # Errors
    /// As [`Self::call`], and if the program has no logits.
    pub fn run(&mut self, inputs: &[(Role, Tensor)], states: &mut [StateBuffer]) -> Result<Logits, RuntimeError> {
        let logits = self.ports.outputs.iter().position(|port| port.role == Some(Role::Logits));
        let logits = logits.ok_or_else(|| RuntimeError::Program { why: "it has no logits".into() })?;
        let names: Vec<Option<String>> = inputs.iter().map(|(role, _)| self.ports.input(*role)).collect();
        let named: Vec<(&str, &Tensor)> =
            names.iter().zip(inputs).filter_map(|(name, (_, tensor))| Some((name.as_deref()?, tensor))).collect();
        self.call(&named, states)?.swap_remove(logits).try_into()
    }
}

impl Callable for CpuProgram {
    /// Only for programs that keep no positions: those are a session's.
    fn call(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>, RuntimeError> {
        if let Some(state) = self.ports.states.first() {
            return Err(RuntimeError::Program {
                why: format!("it keeps `{}`, which only a session can hold", state.name),
            });
        }
        let results = CpuProgram::call(self, inputs, &mut [])?;
        Ok(self.ports.outputs.iter().map(|port| port.name.clone()).zip(results).collect())
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
        let ports = Ports::new(program, lowered)?;
        let executable = engine.load(&Source { lowered, ports: &ports, places, files: &placed.files })?;
        loaded.push(CpuProgram { ports, executable });
    }
    Ok((loaded, placed.residence))
}
