//! Sequences in progress on the CPU, whatever executes them.
//!
//! States begin small and grow with the longest sequence: attention reads every row of a state, so rows that nobody needs
//! would cost time. Each state has one row more than positions, the slack row, where writes at position −1 go.
//!
//! With several slots there are two programs over the same weights: *indexed* writes one sequence into its slot, *plain*
//! advances all slots at once without moving any state.

use qeff_plugin_api::graph::Role;

use super::CpuProgram;
use super::engine::{Integers, StateBuffer};
use crate::runtime::{Logits, Row, RuntimeError, Session};

/// Rows that a state begins with.
const FIRST_ROWS: usize = 256;

/// Retained state of some sequences on the CPU.
pub struct CpuSession {
    /// Advances all slots at once.
    plain: CpuProgram,
    /// Writes one slot; only needed if there are several.
    indexed: Option<CpuProgram>,
    slots: usize,
    context: usize,
    /// Positions that the states have rows for.
    rows: usize,
    states: Vec<StateBuffer>,
}

impl CpuSession {
    /// A session of `slots` sequences of at most `context` positions. `indexed` is needed for more than one slot.
    pub fn new(plain: CpuProgram, indexed: Option<CpuProgram>, slots: usize, context: usize) -> Self {
        let rows = FIRST_ROWS.min(context);
        let zeros = |port: &super::engine::StatePort| StateBuffer::zeros([slots, port.heads, rows + 1, port.width]);
        let states = plain.states().iter().map(zeros).collect();
        CpuSession { plain, indexed, slots, context, rows, states }
    }

    /// Makes room for positions up to `position`.
    fn reserve(&mut self, position: usize) -> Result<(), RuntimeError> {
        if position >= self.context {
            return Err(RuntimeError::Full { position, context: self.context });
        }
        if position < self.rows {
            return Ok(());
        }
        let rows = (2 * self.rows).max(position + 1).min(self.context);
        for state in &mut self.states {
            *state = state.with_rows(rows + 1, self.rows);
        }
        self.rows = rows;
        Ok(())
    }
}

impl Session for CpuSession {
    fn slots(&self) -> usize {
        self.slots
    }

    fn context(&self) -> usize {
        self.context
    }

    fn prefill(&mut self, row: Row<'_>) -> Result<Logits, RuntimeError> {
        let count = row.tokens.len();
        self.reserve(row.position + count.max(1) - 1)?;
        let tokens = row.tokens.iter().map(|&id| i64::from(id)).collect();
        let positions = (row.position..row.position + count).map(|position| position as i64).collect();
        let inputs = [
            (Role::Tokens, Integers { shape: [1, count], data: tokens }),
            (Role::Positions, Integers { shape: [1, count], data: positions }),
            (Role::BatchIndex, Integers::filled([1, 1], row.slot as i64)),
        ];
        self.indexed.as_mut().unwrap_or(&mut self.plain).run(&inputs, &mut self.states)
    }

    fn decode(&mut self, rows: &[Row<'_>]) -> Result<Logits, RuntimeError> {
        // One sequence among several slots costs less in the program that touches its slot only.
        if let [row] = rows
            && self.slots > 1
        {
            return self.prefill(*row);
        }
        for row in rows {
            self.reserve(row.position)?;
        }
        // Slots without a row are idle: position −1 writes to the slack row.
        let mut tokens = Integers::filled([self.slots, 1], 0);
        let mut positions = Integers::filled([self.slots, 1], -1);
        for row in rows {
            tokens.data[row.slot] = i64::from(row.tokens[0]);
            positions.data[row.slot] = row.position as i64;
        }
        let all = self.plain.run(&[(Role::Tokens, tokens), (Role::Positions, positions)], &mut self.states)?;
        let data = rows.iter().flat_map(|row| all.row(row.slot).iter().copied()).collect();
        Ok(Logits::new(data, all.vocab))
    }
}
