//! Attention over a key-value slot.

use crate::build::{Scope, Slot, Value};
use crate::graph::{Attention, AttentionMask, Op};

/// What differs between families.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attn {
    /// Factor on query · key, usually `width^-0.5`.
    pub scale: f32,
    /// Which keys a query sees.
    pub mask: AttentionMask,
    /// If not 0, scores become `softcap · tanh(scores / softcap)`.
    pub softcap: f32,
}

impl Attn {
    /// Causal attention.
    pub fn causal(scale: f32) -> Self {
        Attn { scale, mask: AttentionMask::Causal, softcap: 0.0 }
    }
}

/// Queries `[B, S, H, D]` against what `slot` holds now: `[B, S, H·D]`.
pub fn attention<'g>(at: Scope<'g>, q: Value<'g>, slot: Slot<'g>, positions: Value<'g>, how: Attn) -> Value<'g> {
    let parts = slot.current();
    let op = Op::Attention(Attention { scale: how.scale, mask: how.mask, softcap: how.softcap });
    at.node(op, &[Some(q), parts.first().copied(), parts.get(1).copied(), Some(positions)])
}
