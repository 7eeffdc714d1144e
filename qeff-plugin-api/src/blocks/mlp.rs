//! Feed-forward parts.

use super::{Activation, Linear, linear};
use crate::build::{Scope, Value};

/// `down(act(gate(x)) · up(x))`, with `gate_proj`, `up_proj`, `down_proj` of this scope laid out by `spec`.
pub fn gated<'g>(at: Scope<'g>, x: Value<'g>, act: Activation, spec: &Linear<'_>) -> Value<'g> {
    let gate = act.apply(at.at("act_fn"), linear(at.at("gate_proj"), x, spec));
    let up = linear(at.at("up_proj"), x, spec);
    linear(at.at("down_proj"), at.mul(gate, up), spec)
}

/// `second(act(first(x)))`.
pub fn plain<'g>(at: Scope<'g>, x: Value<'g>, names: [&str; 2], act: Activation, spec: &Linear<'_>) -> Value<'g> {
    let inner = act.apply(at.at("act"), linear(at.at(names[0]), x, spec));
    linear(at.at(names[1]), inner, spec)
}
