//! Target `aic`: the graph that the AI 100 compiler is known to accept.
//!
//! Inputs, outputs, states, custom functions and the rules for invalid indices are those of the reference's exports;
//! inside, shapes are constants where the reference traces them. Softmax, norms and rotary tables are f32 whatever the
//! activations are.
//!
//! A position of −1 marks padding. Plain writes keep it (the device drops it); batched writes and all reads turn it into
//! INT32_MAX, which the compiler knows as "no row here".

mod experts;
mod functions;

use std::collections::HashMap;

use qeff_plugin_api::graph::{
    Attention, Linear, Node, Op, RmsNorm, Rotary, RotaryLayout, StateKind, StateWrite, ValueId,
};
use qeff_plugin_api::{DType, Elem, WeightExpr};

use super::common::{Keys, Reach, operand};
use super::quantised::{Link, MICROSOFT};
use super::writer::{Attr, Writer};
use super::{LowerError, Lowered};
use crate::weights::{BlockLayout, CodeBits, Facet, Kept, ZeroPoint};

/// The index that means "no row": the compiler skips the access.
const INVALID: i64 = i32::MAX as i64;
/// Domain of the cache functions.
const CLOUD: &str = "com.qualcomm.cloud";
/// Domain of the norm function.
const AISW: &str = "com.qti.aisw.onnx";

pub(super) fn lower(w: Writer<'_>) -> Result<Lowered, LowerError> {
    let mut aic = Aic { w, heads_first: HeadsFirst::default() };
    for (_, node) in aic.w.program.nodes() {
        aic.w.enter(node.scope);
        aic.node(node)?;
    }
    // Which functions are used decides which domains are imported.
    let used = aic.w.custom_ops();
    let functions = functions::of(&used, aic.w.program.act);
    let mut opsets = vec![("", functions::OPSET)];
    for domain in [AISW, CLOUD, MICROSOFT] {
        if used.iter().any(|(of, _)| of == domain) {
            opsets.push((domain, 1));
        }
    }
    Ok(Lowered { functions, ..aic.w.finish(&opsets, 8) })
}

struct Aic<'a> {
    w: Writer<'a>,
    heads_first: HeadsFirst,
}

/// `[B, heads, S, D]` form of values that are `[B, S, heads, D]` in the program.
#[derive(Default)]
struct HeadsFirst(HashMap<ValueId, String>);

impl HeadsFirst {
    fn of(&mut self, w: &mut Writer<'_>, value: ValueId) -> String {
        if let Some(name) = self.0.get(&value) {
            return name.clone();
        }
        let name = w.name(value);
        let name = w.transpose(&name, &[0, 2, 1, 3]);
        self.0.insert(value, name.clone());
        name
    }
}

impl Aic<'_> {
    fn node(&mut self, node: &Node) -> Result<(), LowerError> {
        match &node.op {
            Op::Embedding(op) => self.w.embedding(node, op),
            Op::Linear(op) => self.linear(node, op),
            Op::RmsNorm(op) => self.rms_norm(node, op),
            Op::Rotary(op) => self.rotary(node, op),
            Op::StateWrite(op) => return self.state_write(node, op),
            Op::StateRead(_) => self.w.state_read(node),
            Op::Attention(op) => return self.attention(node, op),
            Op::Experts(op) => self.experts(node, op),
            Op::Select(op) => self.w.select(node, op),
            Op::Onnx(op) => self.w.onnx(node, op),
        }
        Ok(())
    }

    fn linear(&mut self, node: &Node, op: &Linear) {
        let weight = operand(node, Linear::WEIGHT);
        let mut links = match self.w.kept(weight, not_taken) {
            Some(kept) => self.kept_product(node, &kept),
            None => {
                let weight = match self.w.program.weight(weight) {
                    Some(expr) => self.w.weight(expr.clone().transposed(), self.w.program.ty(weight).elem, "weight"),
                    None => {
                        let weight = self.w.name(weight);
                        self.w.transpose(&weight, &[1, 0])
                    }
                };
                let x = self.w.name(operand(node, Linear::X));
                vec![Link { domain: "", op: "MatMul", inputs: vec![Some(x), Some(weight)], attrs: vec![] }]
            }
        };
        links.extend(self.w.after_product(node, op));
        self.w.chain(node, &links);
    }

    /// The product as the reference writes it: scales and zero points have one axis, and zero points are always there.
    fn kept_product(&mut self, node: &Node, kept: &Kept) -> Vec<Link<'static>> {
        let x = operand(node, Linear::X);
        let (columns, rows) = (self.w.width(x), self.w.rows_of(operand(node, Linear::WEIGHT)));
        let (per_row, length) = (kept.per_row(), kept.layout.length);
        let codes = if kept.layout.ordered { Facet::ColumnBits } else { Facet::LowBits };
        let x = self.w.as_f32(x);
        let mut inputs = vec![
            Some(x),
            Some(self.w.facet(kept, codes, "qweight", &[rows, per_row, length / 2])),
            Some(self.w.facet(kept, Facet::Scales, "scales", &[rows * per_row])),
        ];
        let zeros = [rows * per_row.div_ceil(2)];
        inputs.push(Some(match kept.layout.zero {
            ZeroPoint::Constant(zero) => {
                let pair = WeightExpr::Fill { value: f32::from(zero & 15 | zero << 4), shape: zeros.to_vec() };
                self.w.tensor(pair, DType::U8, "qzeros")
            }
            ZeroPoint::PerBlock | ZeroPoint::Shift => self.w.facet(kept, Facet::Zeros, "qzeros", &zeros),
        }));
        if kept.layout.ordered {
            inputs.push(Some(self.w.facet(kept, Facet::Groups, "g_idx", &[columns])));
        }
        let attrs = Writer::nbits_attrs(columns, rows, length).to_vec();
        let mut links = vec![Link { domain: MICROSOFT, op: "MatMulNBits", inputs, attrs }];
        links.extend(self.w.back_from_f32());
        links
    }

    fn rms_norm(&mut self, node: &Node, op: &RmsNorm) {
        let weight = self.w.norm_weight(node);
        let x = self.w.name(operand(node, RmsNorm::X));
        self.w.node_for(node.outputs[0], AISW, "CustomRMSNorm", &[&x, &weight], &[("epsilon", Attr::Float(op.eps))]);
    }

    /// The `[B, heads, S, D]` form of a value, made once.
    fn heads_first(&mut self, value: ValueId) -> String {
        self.heads_first.of(&mut self.w, value)
    }

    fn rotary(&mut self, node: &Node, op: &Rotary) {
        let positions = operand(node, Rotary::POSITIONS);
        let cos = self.rope_rows(node, Rotary::COS, op.layout, positions, "cos_cached");
        let sin = self.rope_rows(node, Rotary::SIN, op.layout, positions, "sin_cached");
        let value = operand(node, Rotary::X);
        let x = self.heads_first(value);
        let width = self.w.width(value) as i64;
        let rotated = 2 * self.w.width(operand(node, Rotary::COS)) as i64;
        let turned = if rotated < width { self.slice(&x, 0, rotated, 1) } else { x.clone() };
        let other = match op.layout {
            RotaryLayout::Half => {
                let (low, high) =
                    (self.slice(&turned, 0, rotated / 2, 1), self.slice(&turned, rotated / 2, rotated, 1));
                let high = self.w.node("Neg", &[&high], &[]);
                self.w.node("Concat", &[&high, &low], &[("axis", Attr::Int(-1))])
            }
            RotaryLayout::Interleaved => {
                let (even, odd) = (self.slice(&turned, 0, rotated, 2), self.slice(&turned, 1, rotated, 2));
                let odd = self.w.node("Neg", &[&odd], &[]);
                let (odd, even) = (self.w.unsqueeze(&odd, &[-1]), self.w.unsqueeze(&even, &[-1]));
                let pairs = self.w.node("Concat", &[&odd, &even], &[("axis", Attr::Int(-1))]);
                self.w.reshape(&pairs, &[0, 0, 0, rotated])
            }
        };
        let straight = self.w.node("Mul", &[&turned, &cos], &[]);
        let crossed = self.w.node("Mul", &[&other, &sin], &[]);
        let mut result = self.w.node("Add", &[&straight, &crossed], &[]);
        if rotated < width {
            let rest = self.slice(&x, rotated, width, 1);
            result = self.w.node("Concat", &[&result, &rest], &[("axis", Attr::Int(-1))]);
        }
        self.bind_heads_first(node.outputs[0], result);
    }

    /// Binds a value that exists heads-first; its own form is made only if something else than attention reads it.
    fn bind_heads_first(&mut self, value: ValueId, name: String) {
        let direct = self.w.program.nodes().any(|(_, user)| {
            user.operands.contains(&Some(value))
                && !matches!(user.op, Op::Attention(_) | Op::StateWrite(_) | Op::Rotary(_))
        });
        if direct {
            let plain = self.w.transpose(&name, &[0, 2, 1, 3]);
            self.w.bind(value, plain);
        }
        self.heads_first.0.insert(value, name);
    }

    /// Rows of half a rotary table at the positions, `[B, 1, S, R]`, gathered once for all layers.
    fn rope_rows(&mut self, node: &Node, part: usize, layout: RotaryLayout, positions: ValueId, name: &str) -> String {
        let table = operand(node, part);
        self.w.shared(format!("rope {table:?} {positions:?} {layout:?}"), |w| {
            let expr = w.program.weight(table).cloned().unwrap_or_else(|| unreachable!("rotary tables are weights"));
            let half = w.width(table);
            // The reference stores each number twice, where the rotation needs it.
            let expr = match layout {
                RotaryLayout::Half => WeightExpr::Concat { axis: 1, parts: vec![expr.clone(), expr] },
                RotaryLayout::Interleaved => expr.repeat(1, half, 2),
            };
            let table = w.weight(expr, Elem::Act, name);
            let positions = w.name(positions);
            let rows = w.node("Gather", &[&table, &positions], &[]);
            w.unsqueeze(&rows, &[1])
        })
    }

    /// Elements `from..to` of the last axis, every `step`-th.
    fn slice(&mut self, x: &str, from: i64, to: i64, step: i64) -> String {
        let (from, to, axis, step) =
            (self.w.ints(&[from]), self.w.ints(&[to]), self.w.ints(&[-1]), self.w.ints(&[step]));
        self.w.node("Slice", &[x, &from, &to, &axis, &step], &[])
    }

    fn state_write(&mut self, node: &Node, op: &StateWrite) -> Result<(), LowerError> {
        let parts = node.outputs.len();
        let Some(positions) = node.operand(StateWrite::positions(parts)) else {
            return self.fill(node, op);
        };
        let batch_index = node.operand(StateWrite::batch_index(parts)).map(|value| self.w.name(value));
        for (i, &output) in node.outputs.iter().enumerate() {
            let kind = self.w.state_kind(node, output)?;
            let axis = self.w.program.ty(output).dims[2].clone();
            let rows =
                if kind == StateKind::Rolling { self.w.rolling_rows(&axis, positions) } else { self.w.name(positions) };
            let part = self.w.name(operand(node, StateWrite::part(i)));
            let new = operand(node, StateWrite::new_rows(i, parts));
            let (heads, width) = (self.w.fixed(new, 2), self.w.width(new));
            let new = self.heads_first(new);
            let new = self.w.repeat_heads(&new, heads, op.repeat, width);
            match &batch_index {
                None => self.w.node_for(output, CLOUD, "CtxScatter", &[&part, &rows, &new], &[]),
                Some(batch_index) => {
                    let rows = self.valid_rows(&rows);
                    let inputs = [part.as_str(), batch_index, &rows, &new];
                    self.w.node_for(output, CLOUD, "CtxScatterCB", &inputs, &[]);
                }
            }
        }
        Ok(())
    }

    /// Rows to be written, with negative ones turned into the index the compiler drops.
    fn valid_rows(&mut self, rows: &str) -> String {
        self.w.shared(format!("valid {rows}"), |w| {
            let (zero, invalid) = (w.int(0), w.int(INVALID));
            let padding = w.node("Less", &[rows, &zero], &[]);
            w.node("Where", &[&padding, &invalid, rows], &[])
        })
    }

    /// A state that is made anew where the guard holds, and stays as it is where not: the compiler knows the guard of each
    /// specialization.
    fn fill(&mut self, node: &Node, op: &StateWrite) -> Result<(), LowerError> {
        let parts = node.outputs.len();
        if node.operand(StateWrite::batch_index(parts)).is_some() {
            return Err(self.w.refuse(node, "a state that is made as a whole has no slots"));
        }
        let guard = node.operand(StateWrite::guard(parts)).map(|guard| self.w.name(guard));
        for (i, &output) in node.outputs.iter().enumerate() {
            let part = self.w.name(operand(node, StateWrite::part(i)));
            let new = operand(node, StateWrite::new_rows(i, parts));
            let (heads, width) = (self.w.fixed(new, 2), self.w.width(new));
            let new = self.heads_first(new);
            let new = self.w.repeat_heads(&new, heads, op.repeat, width);
            let rows = self.all_slots(&part);
            match &guard {
                Some(guard) => {
                    let made = self.w.node("ScatterND", &[&part, &rows, &new], &[]);
                    self.w.node_for(output, "", "Where", &[guard, &made, &part], &[]);
                }
                None => self.w.node_for(output, "", "ScatterND", &[&part, &rows, &new], &[]),
            }
        }
        Ok(())
    }

    /// `[B, 1]`: the number of each slot of a state.
    fn all_slots(&mut self, part: &str) -> String {
        let (zero, one) = (self.w.int(0), self.w.int(1));
        let slots = self.w.dim(part, 0);
        let numbers = self.w.node("Range", &[&zero, &slots, &one], &[]);
        self.w.unsqueeze(&numbers, &[1])
    }

    fn attention(&mut self, node: &Node, op: &Attention) -> Result<(), LowerError> {
        let (q, k, v) = (operand(node, Attention::Q), operand(node, Attention::K), operand(node, Attention::V));
        let (kind, positions) = match self.w.keys_of(node)? {
            Keys::AtPositions(kind, positions) => (kind, positions),
            Keys::InCall(layout) => {
                let Aic { w, heads_first } = self;
                return w.attention_in_call(node, op, layout, |w, value| heads_first.of(w, value));
            }
        };
        let (heads, kv_heads, width, v_width) =
            (self.w.fixed(q, 2), self.w.fixed(k, 1), self.w.width(k), self.w.width(v));
        let reach = self.w.reach(node, k);

        let rows = self.read_rows(&reach, positions);
        let mask = self.w.hidden_keys(&reach, kind, positions, op.mask);
        let batch_index = node.operand(Attention::BATCH_INDEX).map(|value| self.w.name(value));
        let gather = |aic: &mut Self, part: ValueId| {
            let part = aic.w.name(part);
            match &batch_index {
                None => aic.w.node_in(CLOUD, "CtxGather", &[&part, &rows.index, &rows.length], &[], None),
                Some(batch) => {
                    aic.w.node_in(CLOUD, "CtxGatherCB", &[&part, batch, &rows.index, &rows.length], &[], None)
                }
            }
        };
        let keys = gather(self, k);
        let values = gather(self, v);
        // Rows that were never written may hold NaN; 0 · NaN would reach every output.
        let zero = self.w.scalar(0.0);
        let values = self.w.node("Where", &[&rows.absent, &zero, &values], &[]);
        let keys = self.w.repeat_heads(&keys, kv_heads, heads / kv_heads, width);
        let values = self.w.repeat_heads(&values, kv_heads, heads / kv_heads, v_width);

        let q = self.heads_first(q);
        let keys = self.w.transpose(&keys, &[0, 1, 3, 2]);
        let scores = self.w.node("MatMul", &[&q, &keys], &[]);
        let mut scores = self.w.scaled(&scores, op.scale, op.softcap);
        if let Some(mask) = mask {
            let hidden = self.w.scalar(f32::NEG_INFINITY);
            scores = self.w.node("Where", &[&mask, &hidden, &scores], &[]);
        }
        let sinks = node.operand(Attention::SINKS);
        let sinks = sinks.map(|sinks| self.w.sink_column(sinks, positions, &[heads as i64]));
        let weights = self.w.key_weights(&scores, sinks.as_deref());
        let context = self.w.node("MatMul", &[&weights, &values], &[]);
        let context = self.w.transpose(&context, &[0, 2, 1, 3]);
        let shape = self.w.ints(&[0, 0, (heads * v_width) as i64]);
        self.w.node_for(node.outputs[0], "", "Reshape", &[&context, &shape], &[]);
        Ok(())
    }

    /// Which rows of a state a call reads; shared by all layers.
    fn read_rows(&mut self, reach: &Reach, positions: ValueId) -> Rows {
        let length = self.w.rows_read(reach);
        let index = self.w.state_rows(reach);
        let newest = self.w.newest(positions);
        let absent = self.w.shared(format!("absent {reach} {positions:?}"), |w| {
            let limit = w.unsqueeze(&newest, &[1]);
            let index = w.unsqueeze(&index, &[0, 1]);
            w.node("Greater", &[&index, &limit], &[])
        });
        let valid = self.w.shared(format!("valid {reach} {positions:?}"), |w| {
            let index = w.unsqueeze(&index, &[0, 1]);
            let invalid = w.int(INVALID);
            w.node("Where", &[&absent, &invalid, &index], &[])
        });
        let absent = self.w.shared(format!("absent rows {reach} {positions:?}"), |w| w.unsqueeze(&absent, &[-1]));
        Rows { index: valid, absent, length }
    }
}

/// Why a weight in these blocks becomes dense: the compiler is known to take four bits with integer zero points.
fn not_taken(layout: &BlockLayout) -> Option<&'static str> {
    if layout.bits != CodeBits::Four {
        return Some("has codes of more than four bits, which AI 100 is not known to take");
    }
    (layout.zero == ZeroPoint::Shift).then_some("has shifts instead of integer zero points, which AI 100 does not take")
}

/// See [`Aic::read_rows`].
struct Rows {
    /// `[B, 1, L]`: row numbers, INT32_MAX for rows that hold nothing yet.
    index: String,
    /// `[B, 1, L, 1]`: true where a row holds nothing.
    absent: String,
    /// L, 0-dimensional.
    length: String,
}
