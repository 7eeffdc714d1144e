//! Runtimes: where a program is executed.
//!
//! Everything above speaks of slots, tokens and positions; only a runtime knows buffers. A [`Session`] holds the retained
//! state of some slots, each the place of one sequence. What is in a slot is never cleared: a position is visible only to
//! positions that are written after it, so a slot is reused by starting at position 0.

pub mod cpu;
mod tensor;

use thiserror::Error;

pub use tensor::{Data, Tensor};

/// New tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Where the sequence lives.
    pub slot: usize,
    /// Token ids, at least one.
    pub tokens: &'a [u32],
    /// Position of the first of them; all earlier positions of the slot have been written.
    pub position: usize,
}

/// Scores over the vocabulary, one row for each row of the call: those of its last token.
#[derive(Debug, Clone)]
pub struct Logits {
    data: Vec<f32>,
    vocab: usize,
}

impl Logits {
    /// Rows of `vocab` scores each.
    pub fn new(data: Vec<f32>, vocab: usize) -> Self {
        Logits { data, vocab }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.vocab).unwrap_or(0)
    }

    /// The scores of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.vocab..(row + 1) * self.vocab]
    }
}

impl TryFrom<Tensor> for Logits {
    type Error = RuntimeError;

    /// Scores `[…, vocab]`, a row for each combination of the other axes.
    fn try_from(tensor: Tensor) -> Result<Self, RuntimeError> {
        let vocab = tensor.shape.last().copied().unwrap_or(0);
        match tensor.data {
            Data::F32(data) => Ok(Logits::new(data, vocab)),
            other => Err(RuntimeError::Program { why: format!("its logits are {}, not f32", other.name()) }),
        }
    }
}

/// A program that is called by the names of its file, wherever it is executed. What it retains between calls stays inside.
pub trait Callable {
    /// One call: a tensor for every input that is no retained state; a retained one may be given to be replaced. The result
    /// has every output that is no retained state, in the order of the file.
    ///
    /// # Errors
    /// See [`RuntimeError`]; what is retained is then undefined.
    fn call(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>, RuntimeError>;
}

/// Why a call failed.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The program cannot be loaded.
    #[error("the {engine} engine cannot load the program: {why}")]
    Load {
        /// Name of the engine.
        engine: &'static str,
        /// What it said.
        why: String,
    },
    /// A run failed.
    #[error("the {engine} engine failed: {why}")]
    Run {
        /// Name of the engine.
        engine: &'static str,
        /// What it said.
        why: String,
    },
    /// The runtime has no use for a program of this form.
    #[error("the runtime cannot call the program: {why}")]
    Program {
        /// What is missing.
        why: String,
    },
    /// A sequence outgrew its slot.
    #[error("position {position} is past the context of {context} positions")]
    Full {
        /// The position.
        position: usize,
        /// Positions of a slot.
        context: usize,
    },
}

/// Sequences in progress.
pub trait Session {
    /// Number of slots.
    fn slots(&self) -> usize;

    /// Positions of a slot.
    fn context(&self) -> usize;

    /// Writes the first tokens of a sequence, or more of them.
    ///
    /// # Errors
    /// See [`RuntimeError`]; the state of the slot is then undefined.
    fn prefill(&mut self, row: Row<'_>) -> Result<Logits, RuntimeError>;

    /// Writes one token of each of several sequences in different slots.
    ///
    /// # Errors
    /// See [`RuntimeError`]; the state of the slots is then undefined.
    fn decode(&mut self, rows: &[Row<'_>]) -> Result<Logits, RuntimeError>;
}
