//! Feed-forward parts.

use super::{Activation, Linear, linear};
use crate::build::{Scope, Value};

/// `down(act(gate(x)) · up(x))` through `inner` numbers, with `gate_proj`, `up_proj`, `down_proj` of this scope laid out
/// by `spec`.
pub fn gated<'g>(at: Scope<'g>, x: Value<'g>, inner: u64, act: Activation, spec: &Linear<'_>) -> Value<'g> {
    let wide = Linear { out: inner, ..spec.clone() };
    let gate = act.apply(at.at("act_fn"), linear(at.at("gate_proj"), x, &wide));
    let up = linear(at.at("up_proj"), x, &wide);
    linear(at.at("down_proj"), at.mul(gate, up), spec)
}

/// `second(act(first(x)))` through `inner` numbers.
pub fn plain<'g>(
    at: Scope<'g>,
    x: Value<'g>,
    inner: u64,
    names: [&str; 2],
    act: Activation,
    spec: &Linear<'_>,
) -> Value<'g> {
    let wide = Linear { out: inner, ..spec.clone() };
    let h = act.apply(at.at("act"), linear(at.at(names[0]), x, &wide));
    linear(at.at(names[1]), h, spec)
}
