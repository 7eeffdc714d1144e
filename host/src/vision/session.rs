//! Sequences that are shown images.
//!
//! The language program takes the rows of all images of a text as an input of each call, and counts in another how many of
//! them earlier calls have used. An answer needs no images any more: what was seen is in the cache.

use std::collections::VecDeque;

use super::encoder::Embeds;
use crate::runtime::cpu::session::{Beside, CpuSession};
use crate::runtime::{Logits, Row, RuntimeError, Session, Tensor};

/// Names by which a language program takes images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePorts {
    /// Token ids.
    pub tokens: String,
    /// Their positions.
    pub positions: String,
    /// Scores of the next token.
    pub logits: String,
    /// Rows of images.
    pub embeds: String,
    /// How many of them were used before.
    pub index: String,
    /// How many were used with this call.
    pub next_index: String,
    /// Numbers of a row.
    pub width: usize,
}

/// A session of one slot that shows each sequence its images.
pub struct ImageSession {
    session: CpuSession,
    ports: ImagePorts,
    /// Rows of the sequences to come, in the order in which they begin.
    waiting: VecDeque<Vec<f32>>,
    /// Whether the last call wrote a prompt.
    reading: bool,
}

impl ImageSession {
    /// A session whose sequences, in the order in which they begin, are shown these images each.
    pub fn new<'a, I: IntoIterator<Item = &'a Embeds>>(
        session: CpuSession,
        ports: ImagePorts,
        sequences: impl IntoIterator<Item = I>,
    ) -> Self {
        let rows = |images: I| images.into_iter().flat_map(|image| image.data.iter().copied()).collect();
        let waiting = sequences.into_iter().map(rows).collect();
        ImageSession { session, ports, waiting, reading: false }
    }

    /// What accompanies the calls of a sequence; one row that nobody looks at, where there are none.
    fn beside(&self, mut rows: Vec<f32>, used: i64) -> Beside {
        let width = self.ports.width;
        if rows.is_empty() {
            rows = vec![0.0; width];
        }
        let shape = [1, rows.len() / width.max(1), width];
        Beside {
            inputs: vec![
                (self.ports.embeds.clone(), Tensor::floats(shape, rows)),
                (self.ports.index.clone(), Tensor::integers([1, 1], vec![used])),
            ],
            carried: vec![(self.ports.next_index.clone(), self.ports.index.clone())],
        }
    }
}

impl Session for ImageSession {
    fn slots(&self) -> usize {
        1
    }

    fn context(&self) -> usize {
        self.session.context()
    }

    fn prefill(&mut self, row: Row<'_>) -> Result<Logits, RuntimeError> {
        if row.position == 0 {
            let rows = self.waiting.pop_front().unwrap_or_default();
            let beside = self.beside(rows, 0);
            self.session.accompany(beside);
        }
        self.reading = true;
        self.session.prefill(row)
    }

    fn decode(&mut self, rows: &[Row<'_>]) -> Result<Logits, RuntimeError> {
        if std::mem::take(&mut self.reading) {
            // Any number past the one row there is: an image token in an answer is a token like any other.
            let beside = self.beside(vec![], 1);
            self.session.accompany(beside);
        }
        self.session.decode(rows)
    }
}
