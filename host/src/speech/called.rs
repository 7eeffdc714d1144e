//! A decoder over one program that is called by names and retains what it heard, as a compiled program does.
//!
//! The first call of a window brings its features; later ones bring features of length 1, by which the program knows that it is to keep
//! what it has. Such a program takes one token a call.

use anyhow::{Context as _, Result};
use qeff_plugin_api::graph::{Program, Role};

use super::Decoder;
use crate::audio::Features;
use crate::runtime::{Callable, Logits, Tensor};

/// An encoder-decoder wherever it is called.
pub struct CalledDecoder {
    program: Box<dyn Callable>,
    features: String,
    tokens: String,
    positions: String,
    logits: String,
    /// The window that no call has brought yet.
    window: Option<Tensor>,
    /// What calls bring that bring none.
    nothing: Tensor,
}

impl CalledDecoder {
    /// A decoder over a program that was made of `described` and takes features of `mels` bands.
    ///
    /// # Errors
    /// If the description is not that of an encoder-decoder.
    pub fn new(program: Box<dyn Callable>, described: &Program, mels: usize) -> Result<Self> {
        let input = |role: Role| {
            let input = described.input(role).with_context(|| format!("nothing takes {}", role.name()))?;
            Ok::<_, anyhow::Error>(input.name.clone())
        };
        let logits = described.output(Role::Logits).context("the program has no logits")?.name.clone();
        Ok(CalledDecoder {
            program,
            features: input(Role::Features)?,
            tokens: input(Role::Tokens)?,
            positions: input(Role::Positions)?,
            logits,
            window: None,
            nothing: Tensor::floats([1, mels, 1], vec![0.0; mels]),
        })
    }
}

impl Decoder for CalledDecoder {
    fn listen(&mut self, window: &Features) -> Result<()> {
        self.window = Some(Tensor::floats([1, window.mels, window.frames], window.data.clone()));
        Ok(())
    }

    fn step(&mut self, tokens: &[u32], position: usize) -> Result<Logits> {
        let (mut rows, mut vocab) = (vec![], 0);
        for (&token, position) in tokens.iter().zip(position..) {
            let token = Tensor::filled([1, 1], i64::from(token));
            let position = Tensor::filled([1, 1], position as i64);
            let window = self.window.take();
            let features = window.as_ref().unwrap_or(&self.nothing);
            let inputs = [
                (self.features.as_str(), features),
                (self.tokens.as_str(), &token),
                (self.positions.as_str(), &position),
            ];
            let results = self.program.call(&inputs)?;
            let logits = results.into_iter().find(|(name, _)| *name == self.logits).context("there are no logits")?.1;
            vocab = logits.shape.last().copied().unwrap_or(0);
            rows.extend_from_slice(logits.as_f32().context("logits are no numbers")?);
        }
        Ok(Logits::new(rows, vocab))
    }
}
