//! Attention over a key-value slot.

use crate::build::{Scope, Slot, Value};
use crate::graph::{Attention, AttentionMask, Dim, Op};

/// What differs between families.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attn {
    /// Factor on query · key, usually `width^-0.5`.
    pub scale: f32,
    /// Which keys a query sees.
    pub mask: AttentionMask,
    /// If not 0, scores become `softcap · tanh(scores / softcap)`.
    pub softcap: f32,
    /// The tensor of the attention's scope that holds a score for each query head, `[H]`, for keys to compete with
    /// ([`Attention::SINKS`]); `None` if the family has none.
    pub sinks: Option<&'static str>,
}

impl Attn {
    /// Causal attention.
    pub fn causal(scale: f32) -> Self {
        Attn { scale, mask: AttentionMask::Causal, softcap: 0.0, sinks: None }
    }
}

/// Queries `[B, S, H, D]` against what `slot` holds now: `[B, S, H·D]`.
pub fn attention<'g>(at: Scope<'g>, q: Value<'g>, slot: Slot<'g>, positions: Value<'g>, how: Attn) -> Value<'g> {
    let parts = slot.current();
    let heads = q.ty().and_then(|ty| ty.dims.get(2).and_then(Dim::fixed)).unwrap_or(0);
    let sinks = how.sinks.map(|name| at.weight_of_shape(at.tensor(name), &[heads]));
    let op = Op::Attention(Attention { scale: how.scale, mask: how.mask, softcap: how.softcap });
    at.node(op, &[Some(q), parts.first().copied(), parts.get(1).copied(), Some(positions), None, None, sinks])
}

/// What differs between families whose keys and values belong to the call.
#[derive(Clone, Copy)]
pub struct InCall<'g> {
    /// Factor on query · key, usually `width^-0.5`.
    pub scale: f32,
    /// Which keys a query sees, by index.
    pub mask: AttentionMask,
    /// Which keys are there at all ([`Attention::KEY_MASK`]).
    pub key_mask: Option<Value<'g>>,
    /// What is added to the scores ([`Attention::BIAS`]).
    pub bias: Option<Value<'g>>,
}

impl<'g> InCall<'g> {
    /// Every query sees every key.
    pub fn all(scale: f32) -> Self {
        InCall { scale, mask: AttentionMask::Bidirectional, key_mask: None, bias: None }
    }
}

/// Queries `[B, S, H, D]` against keys and values `[B, S′, Hk, D]` of the same call: `[B, S, H·D]`.
pub fn attention_in_call<'g>(at: Scope<'g>, q: Value<'g>, [k, v]: [Value<'g>; 2], how: InCall<'g>) -> Value<'g> {
    let op = Op::Attention(Attention { scale: how.scale, mask: how.mask, softcap: 0.0 });
    at.node(op, &[Some(q), Some(k), Some(v), None, how.key_mask, None, None, None, how.bias])
}

/// Queries `[B, S, H, D]` against all that a slot holds which is written as a whole: `[B, S, H·D]`.
pub fn cross_attention<'g>(at: Scope<'g>, q: Value<'g>, slot: Slot<'g>, scale: f32) -> Value<'g> {
    let parts = slot.current();
    let op = Op::Attention(Attention { scale, mask: AttentionMask::Bidirectional, softcap: 0.0 });
    at.node(op, &[Some(q), parts.first().copied(), parts.get(1).copied()])
}
