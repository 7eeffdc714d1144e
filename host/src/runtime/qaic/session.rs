//! Sequences in progress on cards.
//!
//! A decoder's program has a few kinds of calls, its specializations: so many rows of so many tokens. Whatever is to be
//! written goes into the cheapest kind that takes it, and what is left of it is padding, at position −1, which the device
//! does not write. With continuous batching a row says which slot it belongs to, otherwise row and slot are the same.
//!
//! Prompts and running sequences have an execution each, so that both can be in progress at once.

use std::sync::Arc;

use bytemuck::{Pod, cast_slice, cast_slice_mut, try_cast_slice};
use half::f16;
use qeff_core::qpc::{Direction, Elem, Interface};

use super::error::QaicError;
use super::objects::{Execution, Memory};
use super::program::{QaicProgram, Ticket};
use crate::runtime::{Both, Logits, Row, RuntimeError, Session};

/// The execution of calls that advance running sequences.
const DECODE: usize = 0;
/// The execution of calls that write prompts.
const PREFILL: usize = 1;
/// Executions that a session needs.
pub const EXECUTIONS: usize = 2;

/// A kind of call.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    /// Sequences.
    batch: usize,
    /// Tokens of each.
    tokens: usize,
    /// Positions that attention looks at; `None` if at all of them.
    looks_at: Option<usize>,
    /// Last tokens of each sequence whose logits it gives.
    keeps: usize,
    /// Dimensions of each binding.
    row: usize,
}

/// A binding, with the type of its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    binding: usize,
    elem: Elem,
}

/// The bindings of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    ids: Port,
    positions: Port,
    slots: Option<Port>,
    looks_at: Option<Port>,
    keeps: Option<Port>,
    lora: Option<Port>,
    logits: Port,
}

/// A decoder on cards.
#[derive(Debug)]
pub struct QaicSession {
    program: QaicProgram,
    ports: Ports,
    kinds: Vec<Kind>,
    slots: usize,
    context: usize,
    vocab: usize,
}

fn unfit(why: impl Into<String>) -> QaicError {
    QaicError::Unfit(why.into())
}

impl Ports {
    fn of(interface: &Interface) -> Result<Self, QaicError> {
        let port = |binding: usize| Port { binding, elem: interface.bindings[binding].elem };
        let input = |name: &str| interface.input(name).map(port);
        let needed = |name: &str, found: Option<Port>| {
            found.ok_or_else(|| unfit(format!("the program is no decoder that can be run: it has no `{name}`")))
        };
        if interface.output("next_tokens").is_some() {
            return Err(unfit(
                "the program chooses tokens itself (output `next_tokens`), which is not supported yet; compile it without \
                 an on-device sampler",
            ));
        }
        let ports = Ports {
            ids: needed("input_ids", input("input_ids"))?,
            positions: needed("position_ids", input("position_ids"))?,
            slots: input("batch_index"),
            looks_at: input("comp_ctx_lengths"),
            keeps: input("num_logits_to_keep"),
            lora: input("lora_ids"),
            logits: needed("logits", interface.output("logits").map(port))?,
        };
        let states = interface.states();
        if states.is_empty() {
            return Err(unfit(
                "the program is no decoder that can be run: nothing of it is retained; was it compiled with -retained-state?",
            ));
        }
        let used = [Some(ports.ids), Some(ports.positions), ports.slots, ports.looks_at, ports.keeps, ports.lora];
        for (i, binding) in interface.bindings.iter().enumerate() {
            let state = states.iter().any(|state| state.input == i || state.output == i);
            if state && !binding.partial {
                return Err(unfit(format!(
                    "the state `{}` would have to be handed over with every call; compile with -retained-state",
                    binding.name
                )));
            }
            if binding.direction == Direction::Input && !state && !used.iter().flatten().any(|port| port.binding == i) {
                return Err(unfit(format!(
                    "the program has an input `{}`, which text alone does not fill; it cannot be run on prompts",
                    binding.name
                )));
            }
        }
        Ok(ports)
    }

    fn kind(&self, interface: &Interface, row: usize) -> Result<Kind, QaicError> {
        let dims = |port: Port| interface.rows[row][port.binding].as_slice();
        let length = |port: Port| dims(port).first().map_or(0, |&n| n as usize);
        let (&[batch, tokens], &[rows, columns]) = (dims(self.ids), dims(self.positions)) else {
            return Err(unfit("input_ids and position_ids: expected two dimensions, sequences and tokens"));
        };
        let logits = dims(self.logits);
        let fits = (batch, tokens) == (rows, columns) && batch > 0 && tokens > 0;
        let keeps = logits.get(1).copied().unwrap_or(1);
        if !fits || logits.first() != Some(&batch) || logits.len() != 3 || keeps == 0 {
            return Err(unfit(format!(
                "specialization {row}: input_ids {:?}, position_ids {:?} and logits {logits:?} do not go together",
                dims(self.ids),
                dims(self.positions)
            )));
        }
        Ok(Kind {
            batch: batch as usize,
            tokens: tokens as usize,
            looks_at: self.looks_at.map(length),
            keeps: keeps as usize,
            row,
        })
    }
}

impl Kind {
    fn cost(&self) -> (usize, usize) {
        (self.batch.saturating_mul(self.tokens), self.looks_at.unwrap_or(0))
    }
}

/// Rows of a call in progress: for each, its place in the call and its last token.
struct Placed {
    ticket: Ticket,
    at: Vec<(usize, usize)>,
    kind: usize,
    execution: usize,
}

impl QaicSession {
    /// A session of a decoder with at least [`EXECUTIONS`] executions. `context` is the number of positions that it was
    /// compiled for, if somebody knows; otherwise it is read off the states, whose longest has a row for each.
    ///
    /// # Errors
    /// If the program is no decoder that text alone can run.
    pub fn new(program: QaicProgram, context: Option<usize>) -> Result<Self, QaicError> {
        let interface = program.interface();
        let ports = Ports::of(interface)?;
        if program.executions() < EXECUTIONS {
            return Err(QaicError::Misuse(format!("a session needs {EXECUTIONS} executions")));
        }
        let kinds = (0..interface.rows.len()).map(|row| ports.kind(interface, row)).collect::<Result<Vec<_>, _>>()?;
        let slots = kinds.iter().map(|kind| kind.batch).max().unwrap_or(1);
        if let Some(kind) = kinds.iter().find(|kind| ports.slots.is_none() && kind.batch != slots) {
            return Err(unfit(format!(
                "specialization {} takes {} sequences and others take {slots}; without an input `batch_index` all have to \
                 take the same",
                kind.row, kind.batch
            )));
        }
        let rows = program.states().iter().map(|state| &interface.bindings[state.input].dims);
        let longest = rows.filter(|dims| dims.len() == 4).map(|dims| dims[2] as usize).max();
        let context = context.or(longest).ok_or_else(|| {
            unfit("nothing says how many positions a sequence has: there is no specializations.json beside the QPC, and no \
                   state has a row for each")
        })?;
        let vocab = interface.bindings[ports.logits.binding].dims.last().map_or(0, |&n| n as usize);
        for kind in &kinds {
            let of_kind = interface.rows[kind.row][ports.logits.binding].last().map_or(0, |&n| n as usize);
            if of_kind != vocab || vocab == 0 {
                return Err(unfit(format!("specialization {}: {of_kind} logits a token, elsewhere {vocab}", kind.row)));
            }
        }
        Ok(QaicSession { program, ports, kinds, slots, context, vocab })
    }

    /// Most tokens of a sequence in one call.
    pub fn chunk(&self) -> usize {
        self.kinds.iter().map(|kind| kind.tokens).max().unwrap_or(1)
    }

    /// Number of logits of a token.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Whether the program chooses among adapters; calls take none.
    pub fn has_adapters(&self) -> bool {
        self.ports.lora.is_some()
    }

    /// The cheapest kind of call that takes these rows.
    fn choose(&self, rows: &[Row<'_>]) -> Result<usize, RuntimeError> {
        let tokens = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(1);
        let reach = rows.iter().map(|row| row.position.saturating_add(row.tokens.len())).max().unwrap_or(1);
        if reach > self.context {
            return Err(RuntimeError::Full { position: reach - 1, context: self.context });
        }
        let takes = |kind: &Kind| {
            let batch = kind.batch == self.slots || (self.ports.slots.is_some() && kind.batch >= rows.len());
            batch && kind.tokens >= tokens && kind.looks_at.is_none_or(|length| length >= reach)
        };
        let kinds = self.kinds.iter().enumerate().filter(|(_, kind)| takes(kind));
        let chosen = kinds.min_by_key(|(_, kind)| kind.cost());
        chosen.map(|(number, _)| number).ok_or_else(|| {
            let most = self.kinds.iter().filter_map(|kind| kind.looks_at).max();
            match most {
                Some(most) if most < reach => RuntimeError::Full { position: reach - 1, context: most },
                _ => unfit(format!("no specialization takes {} rows of {tokens} tokens", rows.len())).into(),
            }
        })
    }

    /// Hands a call over.
    fn submit(&mut self, execution: usize, rows: &[Row<'_>]) -> Result<Placed, RuntimeError> {
        let number = self.choose(rows)?;
        let Kind { batch, tokens: width, looks_at, keeps, row } = self.kinds[number];
        let whole = batch == self.slots;
        // Rows of a call that takes fewer sequences than there are slots stand in any order.
        let at: Vec<usize> = rows.iter().enumerate().map(|(i, row)| if whole { row.slot } else { i }).collect();
        if let Some(row) = rows.iter().find(|row| row.slot >= self.slots || row.tokens.is_empty()) {
            let why = format!("slot {} of {} with {} tokens cannot be called", row.slot, self.slots, row.tokens.len());
            return Err(QaicError::Misuse(why).into());
        }
        let ports = self.ports;
        let logits_dims = self.program.interface().rows[row][ports.logits.binding].clone();
        let dims = [batch as u32, width as u32];
        let exec = self.program.execution(execution)?;
        integers(exec, ports.ids, &dims, |to| {
            for (row, &at) in rows.iter().zip(&at) {
                to.row(at, width, row.tokens.iter().map(|&id| i64::from(id)), 0);
            }
        })?;
        integers(exec, ports.positions, &dims, |to| {
            to.fill(-1);
            for (row, &at) in rows.iter().zip(&at) {
                to.row(at, width, (row.position..row.position + row.tokens.len()).map(|p| p as i64), -1);
            }
        })?;
        if let Some(slots) = ports.slots {
            integers(exec, slots, &[batch as u32, 1], |to| {
                // Rows that nobody uses write nothing, so any slot will do.
                (0..batch).for_each(|i| to.row(i, 1, [i as i64].into_iter(), 0));
                rows.iter().zip(&at).for_each(|(row, &at)| to.row(at, 1, [row.slot as i64].into_iter(), 0));
            })?;
        }
        if let (Some(lengths), Some(length)) = (ports.looks_at, looks_at) {
            integers(exec, lengths, &[length as u32], |_| {})?;
        }
        if let Some(keep) = ports.keeps {
            integers(exec, keep, &[keeps as u32, 1], |_| {})?;
        }
        if let Some(lora) = ports.lora {
            integers(exec, lora, &[batch as u32, 1], |to| to.fill(0))?;
        }
        exec.set(ports.logits.binding, &logits_dims)?;
        let at = at.iter().zip(rows).map(|(&at, row)| (at, row.tokens.len() - 1)).collect();
        let ticket = self.program.submit(execution)?;
        Ok(Placed { ticket, at, kind: number, execution })
    }

    /// Waits for a call; its logits in the order of its rows.
    fn complete(&mut self, placed: Placed) -> Result<Logits, RuntimeError> {
        let Placed { ticket, at, kind, execution } = placed;
        let (vocab, Port { binding: logits, elem }) = (self.vocab, self.ports.logits);
        let keeps = self.kinds[kind].keeps;
        self.program.complete(ticket)?;
        let exec = self.program.execution(execution)?;
        let starts = at.iter().map(|&(row, last)| (row * keeps + last.min(keeps - 1)) * vocab);
        match elem {
            Elem::F32 => {
                let (memory, bytes) = exec.share(logits)?;
                Ok(Logits::lent(Arc::new(Lent { memory, bytes }), vocab, starts.collect()))
            }
            Elem::F16 => {
                let all: &[f16] = try_cast_slice(exec.bytes(logits)?)
                    .map_err(|error| QaicError::Misuse(format!("logits cannot be read: {error}")))?;
                let rows = starts.flat_map(|start| all.iter().skip(start).take(vocab));
                Ok(Logits::new(rows.map(|x| x.to_f32()).collect(), vocab))
            }
            other => Err(unfit(format!("logits of {} are not supported", other.name())).into()),
        }
    }

    fn call(&mut self, execution: usize, rows: &[Row<'_>]) -> Result<Logits, RuntimeError> {
        let placed = self.submit(execution, rows)?;
        self.complete(placed)
    }

    /// Whether a call of so many tokens at this position would have padding beside the last position of the context, in a
    /// program whose rows have no slots. There a −1 may mean the last row, should the device take it for an index.
    fn pads_beside_the_last(&self, row: &Row<'_>) -> Result<bool, RuntimeError> {
        let reaches = row.position + row.tokens.len() == self.context;
        let padded = || Ok::<_, RuntimeError>(self.kinds[self.choose(&[*row])?].tokens > row.tokens.len());
        Ok(self.ports.slots.is_none() && row.tokens.len() > 1 && reaches && padded()?)
    }
}

impl Session for QaicSession {
    fn slots(&self) -> usize {
        self.slots
    }

    fn context(&self) -> usize {
        self.context
    }

    fn prefill(&mut self, row: Row<'_>) -> Result<Logits, RuntimeError> {
        let Row { slot, mut tokens, mut position } = row;
        let chunk = self.chunk();
        while tokens.len() > chunk {
            let (first, rest) = tokens.split_at(chunk);
            self.call(PREFILL, &[Row { slot, tokens: first, position }])?;
            (tokens, position) = (rest, position + first.len());
        }
        while self.pads_beside_the_last(&Row { slot, tokens, position })? {
            let (first, rest) = tokens.split_at(1);
            self.call(PREFILL, &[Row { slot, tokens: first, position }])?;
            (tokens, position) = (rest, position + 1);
        }
        self.call(PREFILL, &[Row { slot, tokens, position }])
    }

    fn decode(&mut self, rows: &[Row<'_>]) -> Result<Logits, RuntimeError> {
        self.call(DECODE, rows)
    }

    fn both(&mut self, prompt: Row<'_>, rows: &[Row<'_>]) -> Option<Both> {
        let simple = prompt.tokens.len() <= self.chunk() && !self.pads_beside_the_last(&prompt).unwrap_or(true);
        if !simple {
            return None;
        }
        // The shorter call first: whoever waits for its next token waits less.
        let running = self.submit(DECODE, rows);
        let prompt = self.submit(PREFILL, &[prompt]);
        let rows = running.and_then(|placed| self.complete(placed));
        let prompt = prompt.and_then(|placed| self.complete(placed));
        Some(Both { prompt, rows })
    }
}

/// Integers of a binding, in its type.
enum Integers<'a> {
    Wide(&'a mut [i64]),
    Narrow(&'a mut [i32]),
}

impl Integers<'_> {
    fn fill(&mut self, number: i64) {
        match self {
            Integers::Wide(all) => all.fill(number),
            Integers::Narrow(all) => all.fill(number as i32),
        }
    }

    /// Writes a row of `width` numbers, with `rest` where there are fewer. All are ids, positions and slots, which fit.
    fn row(&mut self, row: usize, width: usize, numbers: impl Iterator<Item = i64>, rest: i64) {
        let range = row * width..(row + 1) * width;
        let mut numbers = numbers.chain(std::iter::repeat(rest));
        match self {
            Integers::Wide(all) => {
                all.get_mut(range).into_iter().flatten().zip(&mut numbers).for_each(|(to, n)| *to = n)
            }
            Integers::Narrow(all) => {
                all.get_mut(range).into_iter().flatten().zip(&mut numbers).for_each(|(to, n)| *to = n as i32);
            }
        }
    }
}

/// Sets an input of integers.
fn integers(
    execution: &mut Execution,
    Port { binding, elem }: Port,
    dims: &[u32],
    write: impl FnOnce(&mut Integers<'_>),
) -> Result<(), QaicError> {
    fn cast<T: Pod>(bytes: &mut [u8]) -> &mut [T] {
        cast_slice_mut(bytes)
    }
    let bytes = execution.set(binding, dims)?;
    match elem {
        Elem::I64 => write(&mut Integers::Wide(cast(bytes))),
        Elem::I32 => write(&mut Integers::Narrow(cast(bytes))),
        other => return Err(unfit(format!("binding {binding}: expected integers, found {}", other.name()))),
    }
    Ok(())
}

/// Logits in the memory of a call.
struct Lent {
    memory: Arc<Memory>,
    bytes: usize,
}

impl AsRef<[f32]> for Lent {
    fn as_ref(&self) -> &[f32] {
        cast_slice(self.memory.bytes(self.bytes))
    }
}
