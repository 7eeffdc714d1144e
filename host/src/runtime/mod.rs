//! Runtimes: where a program is executed.
//!
//! Everything above speaks of slots, tokens and positions; only a runtime knows buffers. A [`Session`] holds the retained
//! state of some slots, each the place of one sequence. What is in a slot is never cleared: a position is visible only to
//! positions that are written after it, so a slot is reused by starting at position 0.

pub mod cpu;
pub mod qaic;
mod tensor;

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use self::qaic::QaicError;
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
    scores: Scores,
    vocab: usize,
}

/// Where scores lie.
#[derive(Clone)]
enum Scores {
    /// Row after row.
    Own(Vec<f32>),
    /// In memory of a runtime's, each row from its own start.
    Lent { memory: Arc<dyn AsRef<[f32]> + Send + Sync>, starts: Vec<usize> },
}

impl fmt::Debug for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scores::Own(data) => f.debug_tuple("Own").field(&data.len()).finish(),
            Scores::Lent { starts, .. } => f.debug_tuple("Lent").field(starts).finish(),
        }
    }
}

impl Logits {
    /// Rows of `vocab` scores each.
    pub fn new(data: Vec<f32>, vocab: usize) -> Self {
        Logits { scores: Scores::Own(data), vocab }
    }

    /// Rows of `vocab` scores each that lie in somebody's memory from these places on. A batch of a large vocabulary has
    /// megabytes of them, which nobody should copy for every token.
    pub fn lent(memory: Arc<dyn AsRef<[f32]> + Send + Sync>, vocab: usize, starts: Vec<usize>) -> Self {
        Logits { scores: Scores::Lent { memory, starts }, vocab }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        match &self.scores {
            Scores::Own(data) => data.len().checked_div(self.vocab).unwrap_or(0),
            Scores::Lent { starts, .. } => starts.len(),
        }
    }

    /// The scores of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        let (data, start) = match &self.scores {
            Scores::Own(data) => (data.as_slice(), row * self.vocab),
            Scores::Lent { memory, starts } => ((**memory).as_ref(), starts[row]),
        };
        &data[start..start + self.vocab]
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
    /// Cards failed, or do not go together with the program.
    #[error(transparent)]
    Cards(#[from] QaicError),
    /// A sequence outgrew its slot.
    #[error("position {position} is past the context of {context} positions")]
    Full {
        /// The position.
        position: usize,
        /// Positions of a slot.
        context: usize,
    },
}

impl RuntimeError {
    /// Whether a card failed, so that what was not on it may go on.
    pub fn is_of_cards(&self) -> bool {
        matches!(self, RuntimeError::Cards(error) if error.is_external())
    }

    /// Whether nothing more can come of the session.
    pub fn is_final(&self) -> bool {
        match self {
            RuntimeError::Cards(error) => error.is_lost(),
            _ => false,
        }
    }
}

/// What became of two calls at once.
#[derive(Debug)]
pub struct Both {
    /// Of the prompt's row.
    pub prompt: Result<Logits, RuntimeError>,
    /// Of the rows of running sequences.
    pub rows: Result<Logits, RuntimeError>,
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

    /// Writes tokens of one sequence, at most a chunk, while others in other slots advance by one token each. `None` if the
    /// runtime does one thing after the other; then it has done nothing.
    fn both(&mut self, _prompt: Row<'_>, _rows: &[Row<'_>]) -> Option<Both> {
        None
    }
}
