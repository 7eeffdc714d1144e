//! The operators of domain `qeff`, and the door for every other ONNX operator.
//!
//! An operator is in the domain if a pass must find or edit it, or if the targets spell it differently; all else is
//! standard ONNX. Operands are positional; an absent optional operand is `None`. The constants on each operator name the
//! positions, so no pass counts.

use std::collections::BTreeMap;

use crate::DType;

/// What a node does.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `(part…, new…, positions?, batch_index?, guard?) -> part′…`: a new version of a state.
    StateWrite(StateWrite),
    /// `(part, batch_index?) -> value`: what a state without positions holds, for operators that know no states.
    StateRead(StateRead),
    /// `(ids, table) -> rows`.
    Embedding(Embedding),
    /// `(x, weight[out, in], bias?) -> x·Wᵀ + b`.
    Linear(Linear),
    /// `(x, weight?) -> y`.
    RmsNorm(RmsNorm),
    /// `(x[B,S,h,D], cos, sin, positions) -> x′`.
    Rotary(Rotary),
    /// `(q[B,S,H,D], k, v, positions?, key_mask?, batch_index?, sinks?, context?, bias?) -> o[B,S,H·D]`.
    Attention(Attention),
    /// `(x[…, N], ids[…, K], weights[…, K], gate?, up, down, gate_bias?, up_bias?, down_bias?) -> y[…, N]`.
    Experts(Experts),
    /// `(h[B,S,N], positions, keep?) -> h′[B,S′,N], positions′[B,S′]`.
    Select(Select),
    /// An ONNX operator as it stands.
    Onnx(OnnxOp),
}

/// See [`Op::StateWrite`]. Row `s` of `new[B, S, heads, dim]` goes to slot position `positions[b, s]`; position −1
/// writes nothing that a valid position can read. A [`StateKind::Fill`](super::StateKind::Fill) state has no positions: it
/// becomes `new` where the guard holds, and stays as it is where not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateWrite {
    /// Each head is written this often, interleaved: head `j` to `j·repeat … j·repeat + repeat − 1`.
    pub repeat: u64,
}

impl Default for StateWrite {
    fn default() -> Self {
        StateWrite { repeat: 1 }
    }
}

impl StateWrite {
    /// Operand of part `i` among `parts` parts.
    pub fn part(i: usize) -> usize {
        i
    }

    /// Operand of the new rows of part `i` among `parts` parts.
    pub fn new_rows(i: usize, parts: usize) -> usize {
        parts + i
    }

    /// Operand of the positions of a write of `parts` parts.
    pub fn positions(parts: usize) -> usize {
        2 * parts
    }

    /// Operand of the batch index of a write of `parts` parts.
    pub fn batch_index(parts: usize) -> usize {
        2 * parts + 1
    }

    /// Operand of the guard of a write of `parts` parts, a `bool[]`.
    pub fn guard(parts: usize) -> usize {
        2 * parts + 2
    }
}

/// See [`Op::StateRead`]. Only for states that have no positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateRead;

impl StateRead {
    /// Operand: the newest version of a part.
    pub const PART: usize = 0;
    /// Operand, optional: state slot of each row, `i64[B, 1]`.
    pub const BATCH_INDEX: usize = 1;
}

/// See [`Op::Embedding`]: `y = scale · table[ids + offset]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Factor on the row.
    pub scale: f32,
    /// Added to every id.
    pub offset: i64,
    /// Which row a negative id reads.
    pub negative: NegativeIds,
}

impl Embedding {
    /// Operand: ids, `i64[…]`.
    pub const IDS: usize = 0;
    /// Operand: the table, `[rows, width]`.
    pub const TABLE: usize = 1;
}

impl Default for Embedding {
    fn default() -> Self {
        Embedding { scale: 1.0, offset: 0, negative: NegativeIds::Any }
    }
}

/// What a negative id reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NegativeIds {
    /// Any row: the result is never used.
    Any,
    /// Row 0 (learned positions, where −1 marks padding).
    Zero,
}

/// See [`Op::Linear`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Linear {
    /// If not 0, the last axis of the result is split into this many heads.
    pub heads: u64,
}

impl Linear {
    /// Operand: `[…, in]`.
    pub const X: usize = 0;
    /// Operand: `[out, in]`, always in this orientation.
    pub const WEIGHT: usize = 1;
    /// Operand, optional: `[out]`.
    pub const BIAS: usize = 2;
}

/// See [`Op::RmsNorm`]: `w · x / sqrt(mean(x²) + eps)` over the last axis, statistics in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
    /// Where the weight is multiplied.
    pub product: NormProduct,
}

impl RmsNorm {
    /// Operand: any rank.
    pub const X: usize = 0;
    /// Operand, optional: as long as the last axis.
    pub const WEIGHT: usize = 1;
}

/// Where a norm multiplies its weight; the two differ only when activations are not f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormProduct {
    /// After the cast back to the activation type (Llama).
    AfterCast,
    /// In f32, before it (Gemma, Olmo2).
    InF32,
}

/// See [`Op::Rotary`]. The first `2 · width(cos)` elements of the last axis are rotated, the rest passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotary {
    /// Which elements form a pair.
    pub layout: RotaryLayout,
}

impl Rotary {
    /// Operand: `[B, S, heads, D]`.
    pub const X: usize = 0;
    /// Operand: `[positions, R/2]`.
    pub const COS: usize = 1;
    /// Operand: `[positions, R/2]`.
    pub const SIN: usize = 2;
    /// Operand: `i64[B, S]`.
    pub const POSITIONS: usize = 3;
}

/// Which elements a rotary embedding pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryLayout {
    /// `i` with `i + R/2`.
    Half,
    /// `2i` with `2i + 1`.
    Interleaved,
}

/// See [`Op::Attention`]. Query head `h` reads kv head `h / (H / Hk)`. Keys and values are the parts of one state, or
/// tensors `[B, S′, Hk, D]` of this call.
///
/// Over a state of positions, masks go by positions; over tensors of this call by index, and there are no positions. A
/// [`StateKind::Fill`](super::StateKind::Fill) state is read as a whole, so the mask is [`AttentionMask::Bidirectional`].
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Factor on query · key.
    pub scale: f32,
    /// Which keys a query sees.
    pub mask: AttentionMask,
    /// If not 0, scores become `softcap · tanh(scores / softcap)`.
    pub softcap: f32,
}

impl Attention {
    /// Operand: `[B, S, H, D]`.
    pub const Q: usize = 0;
    /// Operand: keys.
    pub const K: usize = 1;
    /// Operand: values.
    pub const V: usize = 2;
    /// Operand, optional: positions of the queries, `i64[B, S]`.
    pub const POSITIONS: usize = 3;
    /// Operand, optional, without a state only: `i64[B, S′]`, 0 hides a key; or `bool[B | 1, 1, S, S′]`, false hides one from
    /// a query.
    pub const KEY_MASK: usize = 4;
    /// Operand, optional: state slot of each row, `i64[B, 1]`.
    pub const BATCH_INDEX: usize = 5;
    /// Operand, optional: a score for each query head, `[H]`, that takes part in the softmax like that of one key more, whose
    /// value is zero.
    pub const SINKS: usize = 6;
    /// Operand, optional, with a full state only: `i64[N]`, whose length is how many rows of the state are read, the first
    /// ones. No query may be later than that.
    pub const CONTEXT: usize = 7;
    /// Operand, optional, without a state only: added to the scores, `[B | 1, H | 1, S, S′]`. Not together with a soft cap.
    pub const BIAS: usize = 8;
}

/// Which keys a query sees, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionMask {
    /// Keys up to the query.
    Causal,
    /// The last `n` keys up to and with the query.
    Sliding(u64),
    /// All keys.
    Bidirectional,
    /// Keys at most so far before and after the query, without a state only.
    Band {
        /// Keys before the query.
        left: u64,
        /// Keys after it.
        right: u64,
    },
}

/// See [`Op::Experts`]: `y = Σⱼ weights[j] · expert(ids[j], x)` over the K experts that a token was sent to, where an expert
/// is `activation(x·gate + gate_bias, x·up + up_bias) · down + down_bias`.
///
/// Who is sent where is decided outside, by standard operators. Matrices stand `[E, in, out]`, one for each of E experts: all
/// lowerings pick experts by the first axis, and a row of tokens multiplies one as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// What stands between the matrices.
    pub activation: ExpertActivation,
    /// Where the weight of an expert is multiplied.
    pub weigh: Weigh,
}

impl Experts {
    /// Operand: tokens, `[…, N]`.
    pub const X: usize = 0;
    /// Operand: the experts of each token, `i64[…, K]`, no two alike.
    pub const IDS: usize = 1;
    /// Operand: how much each of them counts, `[…, K]`.
    pub const WEIGHTS: usize = 2;
    /// Operand, optional: `[E, N, I]`; without it the activation is of `up` alone.
    pub const GATE: usize = 3;
    /// Operand: `[E, N, I]`.
    pub const UP: usize = 4;
    /// Operand: `[E, I, N]`.
    pub const DOWN: usize = 5;
    /// Operand, optional: `[E, I]`.
    pub const GATE_BIAS: usize = 6;
    /// Operand, optional: `[E, I]`.
    pub const UP_BIAS: usize = 7;
    /// Operand, optional: `[E, N]`.
    pub const DOWN_BIAS: usize = 8;
}

/// The activation of an expert, of its gate `g` and its `u`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertActivation {
    /// `silu(g) · u`, and so the three that follow with their function; of `u` alone without a gate.
    Silu,
    /// The exact one, by the error function.
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    /// The positive part.
    Relu,
    /// `(u + 1) · g · sigmoid(alpha · g)` with g at most `limit` and u within ±`limit` (GPT-OSS).
    ClampedSwiglu {
        /// Where g and u are cut off, above 0.
        limit: f32,
        /// Factor within the sigmoid.
        alpha: f32,
    },
}

/// Where the weight of an expert is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weigh {
    /// What the expert puts out.
    Output,
    /// What it takes in (Llama 4).
    Input,
}

/// See [`Op::Select`]: which positions go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select {
    /// The rule.
    pub mode: SelectMode,
}

impl Select {
    /// Operand: `[B, S, N]`.
    pub const HIDDEN: usize = 0;
    /// Operand: `i64[B, S]`.
    pub const POSITIONS: usize = 1;
    /// Operand, for [`SelectMode::LastK`]: its first axis is the number of rows to keep.
    pub const KEEP: usize = 2;
}

/// The rule of a [`Select`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectMode {
    /// The row of the largest position.
    Last,
    /// The last k valid rows.
    LastK,
    /// Every row.
    All,
}

/// Any operator that is not in domain `qeff`; passes leave it alone and targets emit it as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxOp {
    /// Operator domain; empty for standard ONNX.
    pub domain: String,
    /// Operator name.
    pub op_type: String,
    /// Attributes by name.
    pub attrs: BTreeMap<String, AttrValue>,
}

/// Value of an ONNX attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum AttrValue {
    /// An integer.
    Int(i64),
    /// A number.
    Float(f32),
    /// A text.
    Text(String),
    /// Integers.
    Ints(Vec<i64>),
    /// An element type, written as ONNX's number for it (`Cast.to`).
    DType(DType),
}

impl Op {
    /// The operator's name as text forms and node names spell it.
    pub fn name(&self) -> &str {
        match self {
            Op::StateWrite(_) => "StateWrite",
            Op::StateRead(_) => "StateRead",
            Op::Embedding(_) => "Embedding",
            Op::Linear(_) => "Linear",
            Op::RmsNorm(_) => "RmsNorm",
            Op::Rotary(_) => "Rotary",
            Op::Attention(_) => "Attention",
            Op::Experts(_) => "Experts",
            Op::Select(_) => "Select",
            Op::Onnx(op) => &op.op_type,
        }
    }

    /// Position of the optional batch index among the operands of an operator that has one, for a node that writes
    /// `outputs` values.
    pub fn batch_index(&self, outputs: usize) -> Option<usize> {
        match self {
            Op::StateWrite(_) => Some(StateWrite::batch_index(outputs)),
            Op::StateRead(_) => Some(StateRead::BATCH_INDEX),
            Op::Attention(_) => Some(Attention::BATCH_INDEX),
            _ => None,
        }
    }
}
