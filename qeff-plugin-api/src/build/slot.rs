//! Key-value slots: state that a layer writes and attends to.
//!
//! The builder keeps each slot's current version, so a description cannot read a version that was already replaced.

use super::{GraphBuilder, Scope, Value};
use crate::graph::{Op, SlotId, StateKind, StateRead, StateWrite};

/// Shape of a key-value slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kv {
    /// Key-value heads.
    pub heads: u64,
    /// Width of a key.
    pub key_dim: u64,
    /// Width of a value.
    pub value_dim: u64,
    /// How positions map to rows.
    pub kind: StateKind,
}

impl Kv {
    /// A slot with one row a position, keys and values of the same width.
    pub fn full(heads: u64, dim: u64) -> Self {
        Kv { heads, key_dim: dim, value_dim: dim, kind: StateKind::Full }
    }

    /// The same for a layer that looks at a window only, and keeps no more rows than that takes.
    pub fn rolling(self) -> Self {
        Kv { kind: StateKind::Rolling, ..self }
    }
}

/// A declared slot.
#[derive(Clone, Copy)]
pub struct Slot<'g> {
    pub(crate) builder: &'g GraphBuilder<'g>,
    pub(crate) id: SlotId,
}

impl<'g> Slot<'g> {
    /// Writes rows `[B, S, heads, dim]` of each part at `positions`; later reads see them.
    pub fn write(self, at: Scope<'g>, new: [Value<'g>; 2], positions: Value<'g>) {
        let parts = self.current();
        let operands: Vec<_> = parts.into_iter().chain(new).chain([positions]).map(Some).collect();
        self.written(at.nodes(Op::StateWrite(StateWrite::default()), &operands));
    }

    /// What a part of a state without positions holds now, as a value for any operator.
    pub fn read(self, at: Scope<'g>, part: usize) -> Value<'g> {
        match self.current().get(part) {
            Some(&part) => at.node(Op::StateRead(StateRead), &[Some(part)]),
            None => Value { builder: self.builder, id: None },
        }
    }

    /// Replaces each part by `[B, S, heads, dim]`, where `guard` holds; without one, always. For a state that is written as a
    /// whole.
    pub fn fill(self, at: Scope<'g>, new: [Value<'g>; 2], guard: Option<Value<'g>>) {
        let parts = self.current();
        let operands = parts.into_iter().chain(new).map(Some).chain([None, None, guard]);
        self.written(at.nodes(Op::StateWrite(StateWrite::default()), &operands.collect::<Vec<_>>()));
    }

    fn written(self, outputs: Vec<Value<'g>>) {
        if outputs.len() == 2 {
            self.builder.advance(self.id, outputs.into_iter().filter_map(|value| value.id).collect());
        }
    }

    /// The current version of each part.
    pub(crate) fn current(self) -> Vec<Value<'g>> {
        self.builder.current(self.id).into_iter().map(|id| Value { builder: self.builder, id: Some(id) }).collect()
    }
}
