//! Projections: where a weight lives in the checkpoint, and how it is laid out there.

use std::ops::Range;

use crate::build::{Scope, Value};
use crate::graph::{self, Dim, Op};

/// Whether a projection adds a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bias {
    /// No.
    #[default]
    No,
    /// Yes; its absence from the checkpoint is an error.
    Yes,
}

impl From<bool> for Bias {
    fn from(yes: bool) -> Self {
        if yes { Bias::Yes } else { Bias::No }
    }
}

/// Rows of a fused tensor that make up one projection: the output axis seen as `groups × width`, `columns` of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Number of groups.
    pub groups: u64,
    /// Rows of a group.
    pub width: u64,
    /// Which rows of each group.
    pub columns: Range<u64>,
}

/// How a projection is stored and what it yields; [`Linear::default`] is `weight[out, in]` of its own scope, no bias.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Linear<'a> {
    /// The part of a fused tensor that is this projection. The tensor belongs to the scope `from` beside the projection,
    /// or to the scope that holds the projection if `from` is empty.
    pub part: Option<(&'a str, Rows)>,
    /// Whether the weight is stored `[in, out]` (GPT-2's Conv1D).
    pub conv1d: bool,
    /// Whether a bias is added.
    pub bias: Bias,
    /// Rows of the weight, which the checkpoint must agree with; 0 takes what is stored.
    pub out: u64,
    /// If not 0, the result is split into this many heads.
    pub heads: u64,
}

impl<'a> Linear<'a> {
    /// A projection to `out` numbers.
    pub fn to(out: u64) -> Self {
        Linear { out, ..Linear::default() }
    }

    /// A projection to `heads` heads of `width` numbers.
    pub fn heads(heads: u64, width: u64) -> Self {
        Linear { heads, out: heads.saturating_mul(width), ..Linear::default() }
    }

    /// With or without a bias.
    pub fn bias(self, bias: impl Into<Bias>) -> Self {
        Linear { bias: bias.into(), ..self }
    }

    /// Stored `[in, out]`.
    pub fn conv1d(self) -> Self {
        Linear { conv1d: true, ..self }
    }

    /// Rows of the fused tensor of scope `from`; see [`Linear::part`].
    pub fn part_of(self, from: &'a str, rows: Rows) -> Self {
        Linear { part: Some((from, rows)), ..self }
    }
}

/// `x · Wᵀ + b`.
pub fn linear<'g>(at: Scope<'g>, x: Value<'g>, spec: &Linear<'_>) -> Value<'g> {
    let path = match &spec.part {
        Some((from, _)) => at.beside(from),
        None => at.path(),
    };
    let rows = |expr: crate::WeightExpr| match &spec.part {
        Some((_, Rows { groups, width, columns })) => expr.take(0, *groups, *width, columns.clone()),
        None => expr,
    };
    let stored = at.named_tensor(&format!("{path}.weight"));
    let weight = rows(if spec.conv1d { stored.transposed() } else { stored });
    let width = x.ty().and_then(|ty| ty.last().and_then(Dim::fixed));
    let weight = match width {
        Some(width) if spec.out > 0 => at.weight_of_shape(weight, &[spec.out, width]),
        _ => at.weight(weight),
    };
    let bias = (spec.bias == Bias::Yes).then(|| {
        let bias = rows(at.named_tensor(&format!("{path}.bias")));
        if spec.out > 0 { at.weight_of_shape(bias, &[spec.out]) } else { at.weight(bias) }
    });
    at.node(Op::Linear(graph::Linear { heads: spec.heads }), &[Some(x), Some(weight), bias])
}
