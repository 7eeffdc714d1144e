//! Target `cpu`: one inlined graph of standard operators that rten and ONNX Runtime both execute.
//!
//! States lie where the runtime put them and are updated in place; attention reads them as they lie, without gathering
//! rows or repeating heads. A state has one row more than positions (the slack row): a write at position −1 resolves, as
//! negative indices do, to that last row, which no mask admits. Masked scores are f32::MIN rather than −∞, so a row of
//! padding averages instead of becoming NaN, and `exp(MIN − max)` is exactly 0 for every other row.
//!
//! Weights keep the orientation in which the checkpoint stores them, so that they can be used where they lie.

mod experts;
mod kept;

use std::collections::HashMap;

use qeff_plugin_api::graph::{
    Attention, AttentionMask, Linear, Node, Op, RmsNorm, Rotary, RotaryLayout, StateKind, StateWrite, ValueId,
};
use qeff_plugin_api::{DType, Elem, WeightExpr};

use super::common::{Keys, Reach, operand};
use super::quantised::MICROSOFT;
use super::writer::{Attr, Writer};
use super::{LowerError, Lowered, Products};

/// The first operator set with `RMSNormalization` and `RotaryEmbedding`.
const OPSET: i64 = 23;

pub(super) fn lower(w: Writer<'_>, products: Products) -> Result<Lowered, LowerError> {
    let mut cpu = Cpu { w, products, rows: HashMap::new(), operands: HashMap::new() };
    for (_, node) in cpu.w.program.nodes() {
        cpu.w.enter(node.scope);
        match &node.op {
            Op::Embedding(op) => cpu.w.embedding(node, op),
            Op::Linear(op) => cpu.linear(node, op),
            Op::RmsNorm(op) => cpu.rms_norm(node, op),
            Op::Rotary(op) => cpu.rotary(node, op),
            Op::StateWrite(op) => cpu.state_write(node, op)?,
            Op::StateRead(_) => cpu.w.state_read(node),
            Op::Attention(op) => cpu.attention(node, op)?,
            Op::Experts(op) => cpu.experts(node, op)?,
            Op::Select(op) => cpu.w.select(node, op),
            Op::Onnx(op) => cpu.w.onnx(node, op),
        }
    }
    let contrib = (!cpu.w.custom_ops().is_empty()).then_some((MICROSOFT, 1));
    let opsets: Vec<_> = [("", OPSET)].into_iter().chain(contrib).collect();
    Ok(cpu.w.finish(&opsets, 10))
}

struct Cpu<'a> {
    w: Writer<'a>,
    products: Products,
    /// Values as matrices of their last axis.
    rows: HashMap<ValueId, String>,
    /// What products with kept weights are made of besides weights, by what it is.
    operands: HashMap<kept::Operand, String>,
}

impl Cpu<'_> {
    fn linear(&mut self, node: &Node, op: &Linear) {
        let act = self.w.program.act;
        let refuses = |_: &_| (act != DType::F32).then_some("is multiplied with activations that are not f32");
        match self.w.kept(operand(node, Linear::WEIGHT), refuses) {
            Some(kept) => self.kept_linear(node, op, &kept),
            None => self.dense_linear(node, op),
        }
    }

    /// `Gemm` reads its weight in either orientation, so it is used where and as it is stored; behind a `Transpose` node
    /// an engine would fold the constant into a second copy of all weights.
    fn dense_linear(&mut self, node: &Node, op: &Linear) {
        let (x, weight, out) = (operand(node, Linear::X), operand(node, Linear::WEIGHT), node.outputs[0]);
        let x_rows = self.rows(x);
        let (weight, turned) = self.matrix(weight);
        let bias = node.operand(Linear::BIAS).map(|bias| self.w.operand(bias, "bias"));
        let inputs: Vec<&str> = [x_rows.as_str(), &weight].into_iter().chain(bias.as_deref()).collect();
        let attrs = if turned { vec![] } else { vec![("transB", Attr::Int(1))] };
        let y = self.w.node("Gemm", &inputs, &attrs);
        let shape = self.shape_of_projection(x, out);
        debug_assert!(op.heads == 0 || self.w.program.ty(out).rank() == self.w.program.ty(x).rank() + 1);
        self.w.node_for(out, "", "Reshape", &[&y, &shape], &[]);
    }

    /// The shape tensor in which the rows of `[batch · seq, out]` are `[batch, seq, (heads, width | out)]` again.
    fn shape_of_projection(&mut self, x: ValueId, out: ValueId) -> String {
        let lead = self.w.program.ty(x).rank() - 1;
        let tail: Vec<i64> = (lead..self.w.program.ty(out).rank()).map(|axis| self.w.fixed(out, axis) as i64).collect();
        self.w.shape_like(x, lead, &tail)
    }

    /// A value as a matrix of its last axis, made once for all projections of it.
    fn rows(&mut self, value: ValueId) -> String {
        if let Some(name) = self.rows.get(&value) {
            return name.clone();
        }
        let (name, width) = (self.w.name(value), self.w.width(value) as i64);
        let name = self.w.reshape(&name, &[-1, width]);
        self.rows.insert(value, name.clone());
        name
    }

    /// A projection's weight as it is stored, and whether that is `[in, out]` rather than `[out, in]`.
    fn matrix(&mut self, weight: ValueId) -> (String, bool) {
        match self.w.program.weight(weight) {
            Some(expr) => self.stored(expr.clone(), self.w.program.ty(weight).elem, "weight"),
            None => (self.w.name(weight), false),
        }
    }

    /// The initializer of a matrix, called after `operand`, and whether it is the matrix transposed, because that is how the
    /// checkpoint stores it.
    fn stored(&mut self, expr: WeightExpr, elem: Elem, operand: &str) -> (String, bool) {
        let expr = expr.simplified(self.w.tensors.index);
        let turned = expr.clone().transposed().simplified(self.w.tensors.index);
        let stored_turned = transposes(&turned) < transposes(&expr);
        (self.w.weight(if stored_turned { turned } else { expr }, elem, operand), stored_turned)
    }

    fn rms_norm(&mut self, node: &Node, op: &RmsNorm) {
        let weight = self.w.norm_weight(node);
        let x = self.w.name(operand(node, RmsNorm::X));
        let attrs = [("axis", Attr::Int(-1)), ("epsilon", Attr::Float(op.eps))];
        self.w.node_for(node.outputs[0], "", "RMSNormalization", &[&x, &weight], &attrs);
    }

    fn rotary(&mut self, node: &Node, op: &Rotary) {
        let (x, positions) = (operand(node, Rotary::X), operand(node, Rotary::POSITIONS));
        let positions = self.w.not_negative(positions);
        let [cos, sin] = [(Rotary::COS, "cos_cached"), (Rotary::SIN, "sin_cached")].map(|(part, name)| {
            let table = operand(node, part);
            self.w.shared(format!("rope {table:?}"), |w| w.operand(table, name))
        });
        let (heads, width) = (self.w.fixed(x, 2), self.w.width(x));
        let rotated = 2 * self.w.width(operand(node, Rotary::COS));
        // Three-dimensional operands keep heads beside the width, where projections leave them: no transpose.
        let x = self.w.name(x);
        let x = self.w.reshape(&x, &[0, 0, (heads * width) as i64]);
        let mut attrs = vec![("num_heads", Attr::Int(heads as i64))];
        if rotated < width {
            attrs.push(("rotary_embedding_dim", Attr::Int(rotated as i64)));
        }
        if op.layout == RotaryLayout::Interleaved {
            attrs.push(("interleaved", Attr::Int(1)));
        }
        let y = self.w.node("RotaryEmbedding", &[&x, &cos, &sin, &positions], &attrs);
        let shape = self.w.ints(&[0, 0, heads as i64, width as i64]);
        self.w.node_for(node.outputs[0], "", "Reshape", &[&y, &shape], &[]);
    }

    fn state_write(&mut self, node: &Node, op: &StateWrite) -> Result<(), LowerError> {
        let parts = node.outputs.len();
        let Some(positions) = node.operand(StateWrite::positions(parts)) else {
            return self.fill(node, op);
        };
        let batch_index = node.operand(StateWrite::batch_index(parts));
        for (i, &output) in node.outputs.iter().enumerate() {
            let kind = self.w.state_kind(node, output)?;
            let part = operand(node, StateWrite::part(i));
            let heads = self.w.fixed(part, 1);
            let axis = self.w.program.ty(part).dims[2].clone();
            let new = operand(node, StateWrite::new_rows(i, parts));
            let (new_heads, width) = (self.w.fixed(new, 2), self.w.width(new));
            let new = self.w.name(new);
            let new = self.w.transpose(&new, &[0, 2, 1, 3]);
            let new = self.w.repeat_heads(&new, new_heads, op.repeat, width);
            let rows =
                if kind == StateKind::Rolling { self.w.rolling_rows(&axis, positions) } else { self.w.name(positions) };
            let index = self.write_index(&rows, batch_index, heads);
            let part = self.w.name(part);
            self.w.node_for(output, "", "ScatterND", &[&part, &index, &new], &[]);
        }
        Ok(())
    }

    /// A state that is made anew. Guards are gone: there is a program for each of their values.
    fn fill(&mut self, node: &Node, op: &StateWrite) -> Result<(), LowerError> {
        let parts = node.outputs.len();
        if node.operand(StateWrite::guard(parts)).is_some() {
            return Err(self.w.refuse(node, "it has a guard, which the pass `guards` resolves"));
        }
        if node.operand(StateWrite::batch_index(parts)).is_some() {
            return Err(self.w.refuse(node, "a state that is made as a whole has no slots"));
        }
        for (i, &output) in node.outputs.iter().enumerate() {
            let new = operand(node, StateWrite::new_rows(i, parts));
            let (heads, width) = (self.w.fixed(new, 2), self.w.width(new));
            let name = self.w.name(new);
            if op.repeat == 1 {
                self.w.node_for(output, "", "Transpose", &[&name], &[("perm", Attr::Ints(&[0, 2, 1, 3]))]);
            } else {
                let new = self.w.transpose(&name, &[0, 2, 1, 3]);
                let new = self.w.repeat_heads(&new, heads, op.repeat, width);
                self.w.bind(output, new);
            }
        }
        Ok(())
    }

    /// `[B, heads, S, 3]`: slot, head and row of every new row, for `rows[B, S]`; shared by all layers.
    fn write_index(&mut self, rows: &str, batch_index: Option<ValueId>, heads: u64) -> String {
        self.w.shared(format!("write {rows} {batch_index:?} {heads}"), |w| {
            let shape = w.node("Shape", &[rows], &[]);
            let (zero, one, two) = (w.ints(&[0]), w.ints(&[1]), w.ints(&[2]));
            let batch = w.node("Slice", &[&shape, &zero, &one], &[]);
            let seq = w.node("Slice", &[&shape, &one, &two], &[]);
            let count = w.ints(&[heads as i64]);
            let shape = w.node("Concat", &[&batch, &count, &seq, &one], &[("axis", Attr::Int(0))]);
            let slots = match batch_index {
                Some(batch_index) => {
                    let slots = w.name(batch_index);
                    w.unsqueeze(&slots, &[2, 3])
                }
                None => {
                    let (from, step) = (w.int(0), w.int(1));
                    let batch = w.dim(rows, 0);
                    let slots = w.node("Range", &[&from, &batch, &step], &[]);
                    w.unsqueeze(&slots, &[1, 2, 3])
                }
            };
            let (from, to, step) = (w.int(0), w.int(heads as i64), w.int(1));
            let head = w.node("Range", &[&from, &to, &step], &[]);
            let head = w.unsqueeze(&head, &[0, 2, 3]);
            let rows = w.unsqueeze(rows, &[1, 3]);
            let [slots, head, rows] = [slots, head, rows].map(|index| w.node("Expand", &[&index, &shape], &[]));
            w.node("Concat", &[&slots, &head, &rows], &[("axis", Attr::Int(3))])
        })
    }

    fn attention(&mut self, node: &Node, op: &Attention) -> Result<(), LowerError> {
        let (q, k, v) = (operand(node, Attention::Q), operand(node, Attention::K), operand(node, Attention::V));
        let (kind, positions) = match self.w.keys_of(node)? {
            Keys::AtPositions(kind, positions) => (kind, positions),
            Keys::InCall(layout) => {
                return self.w.attention_in_call(node, op, layout, |w, value| {
                    let name = w.name(value);
                    w.transpose(&name, &[0, 2, 1, 3])
                });
            }
        };
        if node.operand(Attention::CONTEXT).is_some() {
            return Err(self
                .w
                .refuse(node, "context lengths are for cards; here a state is as long as a request needs"));
        }
        let [heads, kv_heads, width, v_width] =
            [self.w.fixed(q, 2), self.w.fixed(k, 1), self.w.width(q), self.w.width(v)].map(|n| n as i64);
        let group = heads / kv_heads;

        let slots = node.operand(Attention::BATCH_INDEX).map(|batch_index| self.w.slots(batch_index));
        let [keys, values] = [k, v].map(|part| {
            let part = self.w.name(part);
            match &slots {
                Some(slots) => self.w.node("Gather", &[&part, slots], &[("axis", Attr::Int(0))]),
                None => part,
            }
        });
        // The query heads of one key head are rows of one product: [B, Hk, g·S, D] against [B, Hk, D, T].
        let q = self.w.name(q);
        let q = self.w.transpose(&q, &[0, 2, 1, 3]);
        let q = if group > 1 { self.w.reshape(&q, &[0, kv_heads, -1, width]) } else { q };
        let keys = self.w.transpose(&keys, &[0, 1, 3, 2]);
        let scores = self.w.node("MatMul", &[&q, &keys], &[]);
        let mut scores = self.w.scaled(&scores, op.scale, op.softcap);
        if let Some(mask) = self.mask(k, kind, positions, op.mask, group) {
            let hidden = self.w.scalar(f32::MIN);
            scores = self.w.node("Where", &[&mask, &hidden, &scores], &[]);
        }
        let sinks = node.operand(Attention::SINKS).map(|sinks| {
            let column = self.w.sink_column(sinks, positions, &[kv_heads, group]);
            self.w.reshape(&column, &[0, kv_heads, -1, 1])
        });
        let weights = self.w.key_weights(&scores, sinks.as_deref());
        let context = self.w.node("MatMul", &[&weights, &values], &[]);
        let context = if group > 1 { self.w.reshape(&context, &[0, heads, -1, v_width]) } else { context };
        let context = self.w.transpose(&context, &[0, 2, 1, 3]);
        let shape = self.w.ints(&[0, 0, heads * v_width]);
        self.w.node_for(node.outputs[0], "", "Reshape", &[&context, &shape], &[]);
        Ok(())
    }

    /// `[B, 1, g·S, T]`, true where a key is hidden from a query; shared by all layers.
    fn mask(
        &mut self,
        state: ValueId,
        kind: StateKind,
        positions: ValueId,
        mask: AttentionMask,
        group: i64,
    ) -> Option<String> {
        let axis = self.w.program.ty(state).dims[2].clone();
        let hidden = self.w.hidden_keys(&Reach::whole(&axis), kind, positions, mask)?;
        if group == 1 {
            return Some(hidden);
        }
        // Row r of a product is query r mod S: the mask is written once for each head of the group.
        Some(self.w.shared(format!("mask {hidden} ×{group}"), |w| {
            let copies: Vec<_> = (0..group).map(|_| hidden.as_str()).collect();
            w.node("Concat", &copies, &[("axis", Attr::Int(2))])
        }))
    }
}

/// How many layout changes stand between an expression and what is stored.
fn transposes(expr: &WeightExpr) -> usize {
    let own = usize::from(matches!(expr, WeightExpr::Transpose { .. }));
    own + expr.operands().iter().map(transposes).sum::<usize>()
}
