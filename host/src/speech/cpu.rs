//! A decoder over CPU programs: one for the first call of a window, which runs the encoder, one for all others.

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::retained_name;
use qeff_core::passes::{FILLED, KEPT};
use qeff_plugin_api::graph::Role;

use super::Decoder;
use crate::audio::Features;
use crate::prepare::CpuPrograms;
use crate::runtime::cpu::CpuProgram;
use crate::runtime::cpu::engine::{Port, StateBuffer};
use crate::runtime::{Logits, Tensor};

/// An encoder-decoder on the CPU.
pub struct CpuDecoder {
    /// Runs the encoder, and makes of it what decoder layers look at.
    filled: CpuProgram,
    /// Takes that as it is.
    kept: CpuProgram,
    /// The window that no call has brought yet.
    window: Option<Tensor>,
    /// What was made of the last window, by the names of the inputs that take it.
    heard: Vec<(String, Tensor)>,
    states: Vec<StateBuffer>,
}

impl CpuDecoder {
    /// A decoder for transcripts of up to `positions` tokens.
    ///
    /// # Errors
    /// If the programs are not those of an encoder-decoder.
    pub fn new(programs: &mut CpuPrograms, positions: usize) -> Result<Self> {
        let (filled, kept) = (programs.take(FILLED)?, programs.take(KEPT)?);
        if filled.states() != kept.states() {
            bail!("the programs of the encoder-decoder keep different states");
        }
        // One row more than positions: where writes at position −1 go.
        let zeros = |port: &crate::runtime::cpu::engine::StatePort| {
            StateBuffer::zeros([1, port.heads, positions + 1, port.width])
        };
        let states = kept.states().iter().map(zeros).collect();
        Ok(CpuDecoder { filled, kept, window: None, heard: vec![], states })
    }
}

impl Decoder for CpuDecoder {
    fn listen(&mut self, window: &Features) -> Result<()> {
        self.window = Some(Tensor::floats([1, window.mels, window.frames], window.data.clone()));
        Ok(())
    }

    fn step(&mut self, tokens: &[u32], position: usize) -> Result<Logits> {
        let window = self.window.take();
        let program = if window.is_some() { &mut self.filled } else { &mut self.kept };
        let name = |role: Role| program.ports().input(role).with_context(|| format!("nothing takes {}", role.name()));
        let (ids, positions) = (name(Role::Tokens)?, name(Role::Positions)?);
        let count = tokens.len();
        let given_ids = Tensor::integers([1, count], tokens.iter().map(|&id| i64::from(id)).collect());
        let given_positions = Tensor::integers([1, count], (position..).map(|p| p as i64).take(count).collect());
        let features = window.map(|window| Ok::<_, anyhow::Error>((name(Role::Features)?, window))).transpose()?;
        let mut inputs = vec![(ids.as_str(), &given_ids), (positions.as_str(), &given_positions)];
        match &features {
            Some((name, window)) => inputs.push((name, window)),
            None => inputs.extend(self.heard.iter().map(|(name, heard)| (name.as_str(), heard))),
        }
        let results = program.call(&inputs, &mut self.states)?;
        let mut logits = None;
        let mut heard = vec![];
        for (port, result) in program.ports().outputs.clone().into_iter().zip(results) {
            match port.role {
                Some(Role::Logits) => logits = Some(result),
                _ => heard.push((port, result)),
            }
        }
        if features.is_some() {
            self.heard = heard.into_iter().map(|(port, result)| self.taken(&port, result)).collect::<Result<_>>()?;
        }
        Ok(logits.context("the program has no logits")?.try_into()?)
    }
}

impl CpuDecoder {
    /// What a call made, under the name of the input that takes it.
    fn taken(&self, made: &Port, tensor: Tensor) -> Result<(String, Tensor)> {
        let taker = self.kept.ports().inputs.iter().find(|port| retained_name(&port.name) == made.name);
        Ok((taker.with_context(|| format!("nothing takes `{}`", made.name))?.name.clone(), tensor))
    }
}
