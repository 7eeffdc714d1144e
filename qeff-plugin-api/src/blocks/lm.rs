//! The tail of a language model: norm, selection, head.

use super::{Bias, Norm};
use crate::build::{Scope, Value};
use crate::graph::{self, Dim, Op, Role, Select, SelectMode};
use crate::{DType, Elem};

/// The projection to the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head<'a> {
    /// Scope of the head's own tensors.
    pub scope: &'a str,
    /// Size of the vocabulary.
    pub vocab: u64,
    /// Scope of the embedding whose table is the head's weight, if it is tied.
    pub tied_to: Option<&'a str>,
    /// Whether a bias is added.
    pub bias: Bias,
    /// If not 0, scores become `softcap · tanh(scores / softcap)`.
    pub softcap: f32,
    /// What the scores are divided by, after that.
    pub divisor: f32,
}

impl Default for Head<'_> {
    /// A head of its own in scope `lm_head` that puts out what it computes; the vocabulary is left to say.
    fn default() -> Self {
        Head { scope: "lm_head", vocab: 0, tied_to: None, bias: Bias::No, softcap: 0.0, divisor: 1.0 }
    }
}

/// Final norm over every position, then the last position, then the head; declares the output `logits` in f32.
///
/// The norm comes before the selection as in the reference's graphs, so that a pass may keep more positions.
pub fn tail<'g>(root: Scope<'g>, h: Value<'g>, positions: Value<'g>, norm: (&str, Norm), head: &Head<'_>) {
    let h = norm.1.apply(root.at(norm.0), h);
    let (rows, _) = last(root.at("select"), h, positions);
    self::head(root, rows, head);
}

/// The row of the largest position of each sequence in `h[B, S, N]`, and that position: `[B, 1, N]` and `i64[B, 1]`.
pub fn last<'g>(at: Scope<'g>, h: Value<'g>, positions: Value<'g>) -> (Value<'g>, Value<'g>) {
    let select = Op::Select(Select { mode: SelectMode::Last });
    match at.nodes(select, &[Some(h), Some(positions)])[..] {
        [rows, positions] => (rows, positions),
        // The description has failed, and whatever follows does nothing.
        _ => (h, positions),
    }
}

/// The head over rows `[B, S′, N]` that are to be scored; declares the output `logits` in f32.
pub fn head<'g>(root: Scope<'g>, rows: Value<'g>, head: &Head<'_>) {
    let at = root.at(head.scope);
    let table = head.tied_to.map_or_else(|| at.tensor("weight"), |embedding| root.at(embedding).tensor("weight"));
    let bias = (head.bias == Bias::Yes).then(|| at.weight(at.tensor("bias")));
    let width = rows.ty().and_then(|ty| ty.last().and_then(Dim::fixed)).unwrap_or(0);
    let table = at.weight_of_shape(table, &[head.vocab, width]);
    let linear = Op::Linear(graph::Linear::default());
    let logits = at.node(linear, &[Some(rows), Some(table), bias]);
    let logits = finish(root.at("logits"), logits, head);
    let logits = match logits.ty() {
        Some(ty) if ty.elem != Elem::F32 => root.at("logits").cast(logits, DType::F32),
        _ => logits,
    };
    root.builder().output("logits", Role::Logits, logits);
}

/// What a head does to its scores.
fn finish<'g>(at: Scope<'g>, mut scores: Value<'g>, head: &Head<'_>) -> Value<'g> {
    if head.softcap != 0.0 {
        let cap = at.scalar(head.softcap);
        scores = at.mul(at.unary("Tanh", at.div(scores, cap)), cap);
    }
    if head.divisor != 1.0 {
        scores = at.div(scores, at.scalar(head.divisor));
    }
    scores
}
