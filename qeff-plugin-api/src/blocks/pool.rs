//! One vector of the hidden states of a text: what pooling heads and heads for classes are made of.
//!
//! Padding never takes part, whatever stands in its rows; a text without a token becomes zeros, or the lowest number.

use crate::DType;
use crate::Elem;
use crate::build::{Scope, Value};
use crate::graph::{AttrValue, Type};

/// The lowest number that a maximum begins with, as the reference has it.
const LOWEST: f32 = -1e9;

/// The first token of each text: `[B, N]` of `h[B, S, N]`.
pub fn first<'g>(at: Scope<'g>, h: Value<'g>) -> Value<'g> {
    at.squeeze(at.slice(h, 1, 0, 1, 1), &[1])
}

/// The last token of each text that `mask[B, S]` keeps: `[B, N]` of `h[B, S, N]`.
pub fn last<'g>(at: Scope<'g>, h: Value<'g>, mask: Value<'g>) -> Value<'g> {
    let (Some(tokens), Some(of)) = (mask.ty(), h.ty()) else { return h };
    let ([batch, _], [_, _, width]) = (tokens.dims.as_slice(), of.dims.as_slice()) else { return h };
    // Places from 1, so that the largest is one alone.
    let places = at.mul(at.add(at.indices(mask, 1), at.integer(1)), mask);
    let attrs = [("axis", AttrValue::Int(1)), ("keepdims", AttrValue::Int(1))];
    let place = at.onnx("ArgMax", &[at.cast(places, DType::I32)], &attrs);
    let ty = Type::new(of.elem, [batch.clone(), width.clone()]);
    at.typed("GatherND", &[h, place], &[("batch_dims", AttrValue::Int(1))], ty)
}

/// The largest number of each place among the tokens that `mask[B, S]` keeps: `[B, N]` of `h[B, S, N]`.
pub fn max<'g>(at: Scope<'g>, h: Value<'g>, mask: Value<'g>) -> Value<'g> {
    let kept = at.choose(kept(at, mask), h, at.scalar(LOWEST));
    at.squeeze(at.reduce("ReduceMax", kept, &[1]), &[1])
}

/// The mean of the tokens that `mask[B, S]` keeps: `[B, N]` of `h[B, S, N]`.
pub fn mean<'g>(at: Scope<'g>, h: Value<'g>, mask: Value<'g>) -> Value<'g> {
    let [total, count] = weighed(at, h, mask, at.scalar(1.0));
    at.div(total, count)
}

/// The sum of the tokens that `mask[B, S]` keeps by the root of their number: `[B, N]` of `h[B, S, N]`.
pub fn mean_by_root<'g>(at: Scope<'g>, h: Value<'g>, mask: Value<'g>) -> Value<'g> {
    let [total, count] = weighed(at, h, mask, at.scalar(1.0));
    at.div(total, at.unary("Sqrt", count))
}

/// The mean of the tokens that `mask[B, S]` keeps, each weighing as much as its place in the call, from 1: `[B, N]` of
/// `h[B, S, N]`.
pub fn weighted_mean<'g>(at: Scope<'g>, h: Value<'g>, mask: Value<'g>) -> Value<'g> {
    let places = at.add(at.indices(mask, 1), at.integer(1));
    let weight = at.unsqueeze(as_activations(at, places), &[0, 2]);
    let [total, count] = weighed(at, h, mask, weight);
    at.div(total, count)
}

/// Sums over the tokens that are kept, `[B, N]` and `[B, 1]`: of `weight · h`, and of `weight`, which is at least 1.
fn weighed<'g>(at: Scope<'g>, h: Value<'g>, mask: Value<'g>, weight: Value<'g>) -> [Value<'g>; 2] {
    let (kept, zero) = (kept(at, mask), at.scalar(0.0));
    // Chosen, not multiplied: a row of padding may hold anything.
    let total = at.reduce("ReduceSum", at.choose(kept, at.mul(h, weight), zero), &[1]);
    let count = at.reduce("ReduceSum", at.choose(kept, weight, zero), &[1]);
    let count = at.onnx("Max", &[at.squeeze(count, &[1]), at.scalar(1.0)], &[]);
    [at.squeeze(total, &[1]), count]
}

/// `[B, S, 1]`, true for a token.
fn kept<'g>(at: Scope<'g>, mask: Value<'g>) -> Value<'g> {
    at.unsqueeze(at.cast(mask, DType::Bool), &[2])
}

/// Small integers as activations.
fn as_activations<'g>(at: Scope<'g>, x: Value<'g>) -> Value<'g> {
    let Some(ty) = x.ty() else { return x };
    at.typed("CastLike", &[x, at.scalar(1.0)], &[], ty.with_elem(Elem::Act))
}
