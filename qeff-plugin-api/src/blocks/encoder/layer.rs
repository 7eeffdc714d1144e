//! The parts a layer of an encoder is made of.

use super::Encoder;
use crate::blocks::{InCall, Linear, attention_in_call, linear};
use crate::build::{Scope, Value};
use crate::graph::AttentionMask;

/// One layer: its place, and all it reads beside the hidden states.
#[derive(Clone, Copy)]
pub struct Layer<'c, 'g> {
    /// Number of the layer, from 0.
    pub index: usize,
    pub(super) encoder: &'c Encoder,
    pub(super) scope: Scope<'g>,
    pub(super) mask: Value<'g>,
}

impl<'g> Layer<'_, 'g> {
    /// A place within the layer.
    pub fn at(self, path: &str) -> Scope<'g> {
        self.scope.at(path)
    }

    /// The number of heads, and the width of one.
    pub fn heads_and_width(self) -> (u64, u64) {
        (self.encoder.heads, self.encoder.hidden / self.encoder.heads)
    }

    /// The encoder's norm, with the tensors that this layer calls `name`.
    pub fn norm(self, name: &str, x: Value<'g>) -> Value<'g> {
        self.encoder.norm.apply(self.at(name), x)
    }

    /// Queries, keys and values, `[B, S, heads, width]` each, by the projections at these places.
    pub fn heads(self, places: [Scope<'g>; 3], x: Value<'g>) -> [Value<'g>; 3] {
        let (heads, width) = self.heads_and_width();
        places.map(|at| linear(at, x, &Linear::heads(heads, width).bias(true)))
    }

    /// Attention of each token to all that `mask` lets it see, padding never; scores get `bias[B|1, heads|1, S, S]` added.
    pub fn attend(self, path: &str, heads: [Value<'g>; 3], mask: AttentionMask, bias: Option<Value<'g>>) -> Value<'g> {
        let scale = (self.heads_and_width().1 as f32).powf(-0.5);
        self.attend_as(path, heads, InCall { mask, bias, ..InCall::all(scale) })
    }

    /// As [`Layer::attend`], with everything about it; padding is hidden as well.
    pub fn attend_as(self, path: &str, [q, k, v]: [Value<'g>; 3], how: InCall<'g>) -> Value<'g> {
        attention_in_call(self.at(path), q, [k, v], InCall { key_mask: Some(self.mask), ..how })
    }

    /// A projection to the hidden width, with a bias.
    pub fn dense(self, path: &str, x: Value<'g>) -> Value<'g> {
        linear(self.at(path), x, &Linear::to(self.encoder.hidden).bias(true))
    }

    /// `second(act(first(x)))`.
    pub fn feed_forward(self, [first, second]: [&str; 2], x: Value<'g>) -> Value<'g> {
        let wide = linear(self.at(first), x, &Linear::to(self.encoder.inner).bias(true));
        self.dense(second, self.encoder.act.apply(self.at(first).at("act"), wide))
    }

    /// `a + b`.
    pub fn add(self, a: Value<'g>, b: Value<'g>) -> Value<'g> {
        self.scope.add(a, b)
    }
}
