//! Sequences in progress on the CPU, whatever executes them.
//!
//! States begin small and grow with the longest sequence: attention reads every row of a state, so rows that nobody needs
//! would cost time. Each state has one row more than positions, the slack row, where writes at position −1 go.
//!
//! A rolling state has as many rows from the beginning as its window and the widest call take: a later position takes the
//! row of an earlier one, which queries of the same call must still find.
//!
//! With several slots there are two programs over the same weights: *indexed* writes one sequence into its slot, *plain*
//! advances all slots at once without moving any state.

use qeff_plugin_api::graph::Role;

use super::CpuProgram;
use super::engine::{StateBuffer, StatePort};
use crate::runtime::{Logits, Row, RuntimeError, Session, Tensor};

/// Rows that a state begins with, unless it is rolling.
const FIRST_ROWS: usize = 256;

/// How much a session is for.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Sequences at once.
    pub slots: usize,
    /// Most positions of a sequence.
    pub context: usize,
    /// Most tokens of a sequence in one call, at least one; more are written in several.
    pub chunk: usize,
}

/// What accompanies every call of a sequence, by the names of the program: rows of its images, say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Beside {
    /// Inputs.
    pub inputs: Vec<(String, Tensor)>,
    /// Outputs that are an input of the next call: the output, then the input.
    pub carried: Vec<(String, String)>,
}

/// Retained state of some sequences on the CPU.
pub struct CpuSession {
    /// Advances all slots at once.
    plain: CpuProgram,
    /// Writes one slot; only needed if there are several.
    indexed: Option<CpuProgram>,
    extent: Extent,
    /// Positions that the states have rows for, those that are not rolling.
    rows: usize,
    states: Vec<StateBuffer>,
    beside: Beside,
}

impl CpuSession {
    /// A session; `indexed` is needed for more than one slot.
    pub fn new(plain: CpuProgram, indexed: Option<CpuProgram>, extent: Extent) -> Self {
        let extent = Extent { chunk: extent.chunk.max(1), ..extent };
        let Extent { slots, context, chunk } = extent;
        let rows = FIRST_ROWS.min(context);
        let zeros = |port: &StatePort| {
            let rows = port.window.map_or(rows, |window| window.saturating_add(chunk - 1).min(context));
            StateBuffer::zeros([slots, port.heads, rows + 1, port.width])
        };
        let states = plain.states().iter().map(zeros).collect();
        CpuSession { plain, indexed, extent, rows, states, beside: Beside::default() }
    }

    /// Says what accompanies the calls to come. Only for a session of one slot: rows of one call cannot have different ones.
    pub fn accompany(&mut self, beside: Beside) {
        self.beside = beside;
    }

    /// Makes room for positions up to `position`.
    fn reserve(&mut self, position: usize) -> Result<(), RuntimeError> {
        if position >= self.extent.context {
            return Err(RuntimeError::Full { position, context: self.extent.context });
        }
        if position < self.rows {
            return Ok(());
        }
        let rows = (2 * self.rows).max(position + 1).min(self.extent.context);
        for (state, _) in self.states.iter_mut().zip(self.plain.states()).filter(|(_, port)| port.window.is_none()) {
            *state = state.with_rows(rows + 1, self.rows);
        }
        self.rows = rows;
        Ok(())
    }

    /// Writes tokens of one sequence in one call.
    fn write(&mut self, Row { slot, tokens, position }: Row<'_>) -> Result<Logits, RuntimeError> {
        let count = tokens.len();
        let program = self.indexed.as_mut().unwrap_or(&mut self.plain);
        let inputs = [
            (Role::Tokens, Tensor::integers([1, count], tokens.iter().map(|&id| i64::from(id)).collect())),
            (Role::Positions, Tensor::integers([1, count], (position..).map(|p| p as i64).take(count).collect())),
            (Role::BatchIndex, Tensor::filled([1, 1], slot as i64)),
        ];
        accompanied(program, &inputs, &mut self.beside, &mut self.states)
    }
}

/// One call for the logits, and for what the next call gets of this one.
fn accompanied(
    program: &mut CpuProgram,
    inputs: &[(Role, Tensor)],
    beside: &mut Beside,
    states: &mut [StateBuffer],
) -> Result<Logits, RuntimeError> {
    if beside.inputs.is_empty() {
        return program.run(inputs, states);
    }
    let names: Vec<Option<String>> = inputs.iter().map(|(role, _)| program.ports().input(*role)).collect();
    let own = names.iter().zip(inputs).filter_map(|(name, (_, tensor))| Some((name.as_deref()?, tensor)));
    let more = beside.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let named: Vec<_> = own.chain(more).collect();
    let results = program.call(&named, states)?;
    let mut logits = None;
    for (port, result) in program.ports().outputs.iter().zip(results) {
        if port.role == Some(Role::Logits) {
            logits = Some(result);
        } else if let Some((_, input)) = beside.carried.iter().find(|(output, _)| *output == port.name)
            && let Some((_, next)) = beside.inputs.iter_mut().find(|(name, _)| name == input)
        {
            *next = result;
        }
    }
    logits.ok_or_else(|| RuntimeError::Program { why: "it has no logits".into() })?.try_into()
}

impl Session for CpuSession {
    fn slots(&self) -> usize {
        self.extent.slots
    }

    fn context(&self) -> usize {
        self.extent.context
    }

    fn prefill(&mut self, row: Row<'_>) -> Result<Logits, RuntimeError> {
        let Row { slot, mut tokens, mut position } = row;
        self.reserve(position + tokens.len().max(1) - 1)?;
        while tokens.len() > self.extent.chunk {
            let (first, rest) = tokens.split_at(self.extent.chunk);
            self.write(Row { slot, tokens: first, position })?;
            (tokens, position) = (rest, position + first.len());
        }
        self.write(Row { slot, tokens, position })
    }

    fn decode(&mut self, rows: &[Row<'_>]) -> Result<Logits, RuntimeError> {
        // One sequence among several slots costs less in the program that touches its slot only.
        if let [row] = rows
            && self.extent.slots > 1
        {
            return self.prefill(*row);
        }
        for row in rows {
            self.reserve(row.position)?;
        }
        // Slots without a row are idle: position −1 writes to the slack row.
        let (mut tokens, mut positions) = (vec![0; self.extent.slots], vec![-1; self.extent.slots]);
        for row in rows {
            tokens[row.slot] = i64::from(row.tokens[0]);
            positions[row.slot] = row.position as i64;
        }
        let [tokens, positions] = [tokens, positions].map(|column| Tensor::integers([column.len(), 1], column));
        let inputs = [(Role::Tokens, tokens), (Role::Positions, positions)];
        let all = accompanied(&mut self.plain, &inputs, &mut self.beside, &mut self.states)?;
        let data = rows.iter().flat_map(|row| all.row(row.slot).iter().copied()).collect();
        Ok(Logits::new(data, all.vocab))
    }
}
