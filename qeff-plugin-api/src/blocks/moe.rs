//! Mixtures of experts: a router that sends each token to some of them, and the experts themselves.
//!
//! A family is one router and one [`Experts`]; what all tokens go through beside them (shared experts) is an ordinary
//! feed-forward part, added outside. Routers differ much and are a few standard operators each, so they are functions
//! here, and one that is not is written with the same operators.

use super::linear::Rows;
use super::{Bias, Linear, linear};
use crate::WeightExpr;
use crate::build::{Scope, Value};
use crate::graph::{self, Dim, ExpertActivation, Op, Weigh};

/// Where tokens are sent.
#[derive(Clone, Copy)]
pub struct Routing<'g> {
    /// The experts of each token, `i64[B, S, K]`.
    pub ids: Value<'g>,
    /// How much each of them counts, `[B, S, K]`.
    pub weights: Value<'g>,
}

/// Sends each token to the `chosen` of `experts` experts that a projection of `x[B, S, N]` scores highest, and weighs them
/// by the softmax of these scores alone. The projection's tensors are those of this scope.
pub fn top_then_softmax<'g>(at: Scope<'g>, x: Value<'g>, [experts, chosen]: [u64; 2], bias: Bias) -> Routing<'g> {
    let scores = linear(at, x, &Linear::to(experts).bias(bias));
    let [best, ids] = at.top(scores, u32::try_from(chosen).unwrap_or(u32::MAX));
    Routing { ids, weights: at.softmax(best) }
}

/// A projection that each expert has its own of.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// `[E, in, out]`; per-expert tensors `[out, in]` are stacked, each transposed.
    pub weight: WeightExpr,
    /// `[E, out]`.
    pub bias: Option<WeightExpr>,
}

impl Projection {
    /// The projection that some of these outputs make up; see [`Rows`].
    pub fn part(&self, Rows { groups, width, columns }: &Rows) -> Self {
        let part = |expr: &WeightExpr, axis| expr.clone().take(axis, *groups, *width, columns.clone());
        Projection { weight: part(&self.weight, 2), bias: self.bias.as_ref().map(|bias| part(bias, 1)) }
    }
}

/// The experts of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// Number of experts, E.
    pub count: u64,
    /// Width within an expert, I.
    pub inner: u64,
    /// To the width within, through the activation; `None` if `up` goes through it.
    pub gate: Option<Projection>,
    /// To the width within.
    pub up: Projection,
    /// Back to the width of the tokens.
    pub down: Projection,
    /// What stands between them.
    pub activation: ExpertActivation,
    /// Where the weight of an expert is multiplied.
    pub weigh: Weigh,
}

/// What the experts make of `x[B, S, N]`, weighed and summed: `[B, S, N]`.
pub fn experts<'g>(at: Scope<'g>, x: Value<'g>, sent: Routing<'g>, experts: &Experts) -> Value<'g> {
    let Experts { count, inner, activation, weigh, .. } = *experts;
    let width = x.ty().and_then(|ty| ty.last().and_then(Dim::fixed)).unwrap_or(0);
    let matrix = |part: &Projection, from, to| at.weight_of_shape(part.weight.clone(), &[count, from, to]);
    let bias = |part: &Projection, to| part.bias.clone().map(|bias| at.weight_of_shape(bias, &[count, to]));
    let Experts { gate, up, down, .. } = experts;
    let operands = [
        Some(x),
        Some(sent.ids),
        Some(sent.weights),
        gate.as_ref().map(|gate| matrix(gate, width, inner)),
        Some(matrix(up, width, inner)),
        Some(matrix(down, inner, width)),
        gate.as_ref().and_then(|gate| bias(gate, inner)),
        bias(up, inner),
        bias(down, width),
    ];
    at.node(Op::Experts(graph::Experts { activation, weigh }), &operands)
}
