//! Attention that needs no positions: over keys and values of one call, or over a state that is read as a whole.

use qeff_plugin_api::graph::{Attention, AttentionMask, Node, ValueId};

use super::LowerError;
use super::common::{Layout, operand};
use super::writer::{Attr, Writer};

impl Writer<'_> {
    /// Attention over all of `node`'s keys. `heads_first` names a value `[B, S, heads, width]` as `[B, heads, S, width]`.
    pub(super) fn attention_in_call(
        &mut self,
        node: &Node,
        op: &Attention,
        layout: Layout,
        mut heads_first: impl FnMut(&mut Self, ValueId) -> String,
    ) -> Result<(), LowerError> {
        let (q, k, v) = (operand(node, Attention::Q), operand(node, Attention::K), operand(node, Attention::V));
        let heads = self.fixed(q, 2);
        let kv_heads = self.fixed(k, if layout == Layout::HeadsFirst { 1 } else { 2 });
        let slots = node.operand(Attention::BATCH_INDEX).map(|batch_index| self.slots(batch_index));
        let [keys, values] = [k, v].map(|part| {
            let width = self.width(part);
            let name = match layout {
                Layout::HeadsFirst => self.name(part),
                Layout::TokensFirst => heads_first(self, part),
            };
            let name = match &slots {
                Some(slots) => self.node("Gather", &[&name, slots], &[("axis", Attr::Int(0))]),
                None => name,
            };
            self.repeat_heads(&name, kv_heads, heads / kv_heads, width)
        });
        let q = heads_first(self, q);
        let keys = self.transpose(&keys, &[0, 1, 3, 2]);
        let scores = self.node("MatMul", &[&q, &keys], &[]);
        let weights = self.weights_in_call(node, op, &scores)?;
        let context = self.node("MatMul", &[&weights, &values], &[]);
        let context = self.transpose(&context, &[0, 2, 1, 3]);
        let shape = self.ints(&[0, 0, (heads * self.width(v)) as i64]);
        self.node_for(node.outputs[0], "", "Reshape", &[&context, &shape], &[]);
        Ok(())
    }

    /// The product of queries and keys that belong to one call, `[B, H, S, S′]`, as weights of the keys: scaled, biased, masked.
    /// A hidden key gets the lowest finite score on every target: a row of padding hides all keys, and must not become NaN.
    fn weights_in_call(&mut self, node: &Node, op: &Attention, scores: &str) -> Result<String, LowerError> {
        if node.operand(Attention::SINKS).is_some() {
            return Err(self.refuse(node, "sinks are lowered over a state only"));
        }
        let mut scores = self.scaled(scores, op.scale, op.softcap);
        if let Some(bias) = node.operand(Attention::BIAS) {
            let bias = self.operand(bias, "bias");
            scores = self.node("Add", &[&scores, &bias], &[]);
        }
        if let Some(hidden) = self.hidden_in_call(node, op.mask) {
            let lowest = self.scalar(f32::MIN);
            scores = self.node("Where", &[&hidden, &lowest, &scores], &[]);
        }
        Ok(self.key_weights(&scores, None))
    }

    /// `[B | 1, 1, S | 1, S′]`, true where a key of this call is hidden from a query; `None` if none is.
    fn hidden_in_call(&mut self, node: &Node, mask: AttentionMask) -> Option<String> {
        let by_index = self.hidden_by_index(node, mask);
        let by_mask = node.operand(Attention::KEY_MASK).map(|mask| {
            self.shared(format!("hidden by {mask:?}"), |w| {
                let name = w.name(mask);
                if w.program.ty(mask).rank() == 4 {
                    return w.node("Not", &[&name], &[]);
                }
                let zero = w.int(0);
                let hidden = w.node("Equal", &[&name, &zero], &[]);
                w.unsqueeze(&hidden, &[1, 2])
            })
        });
        match (by_index, by_mask) {
            (Some(a), Some(b)) => Some(self.shared(format!("{a} or {b}"), |w| w.node("Or", &[&a, &b], &[]))),
            (one, None) | (None, one) => one,
        }
    }

    /// `[1, 1, S, S′]`, true where a key is hidden from a query by where the two stand in the call.
    fn hidden_by_index(&mut self, node: &Node, mask: AttentionMask) -> Option<String> {
        let reach = |keys: u64| i64::try_from(keys).unwrap_or(i64::MAX);
        let (left, right) = match mask {
            AttentionMask::Bidirectional => return None,
            AttentionMask::Causal => (None, 0),
            AttentionMask::Sliding(window) => (Some(reach(window).saturating_sub(1)), 0),
            AttentionMask::Band { left, right } => (Some(reach(left)), reach(right)),
        };
        let [queries, keys] = [Attention::Q, Attention::K].map(|side| self.indices(operand(node, side)));
        Some(self.shared(format!("hidden {queries} {keys} {mask:?}"), |w| {
            let (queries, keys) = (w.unsqueeze(&queries, &[0, 1, 3]), w.unsqueeze(&keys, &[0, 1, 2]));
            let later = if right == 0 {
                w.node("Greater", &[&keys, &queries], &[])
            } else {
                let right = w.int(right);
                let last = w.node("Add", &[&queries, &right], &[]);
                w.node("Greater", &[&keys, &last], &[])
            };
            let Some(left) = left else { return later };
            let left = w.int(left);
            let first = w.node("Sub", &[&queries, &left], &[]);
            let earlier = w.node("Less", &[&keys, &first], &[]);
            w.node("Or", &[&later, &earlier], &[])
        }))
    }

    /// Where the rows of `x[B, S, …]` stand, `[S]`.
    fn indices(&mut self, x: ValueId) -> String {
        let program = self.program;
        let length = program.ty(x).dims[1].clone();
        // An input that is as long knows it before anything is computed, and `x` may exist with heads first only.
        let input = program.inputs.iter().find_map(|input| {
            let axis = program.ty(input.value).dims.iter().position(|dim| *dim == length)?;
            Some((input.name.clone(), axis as i64))
        });
        let (name, axis) = match (length.fixed(), input) {
            (Some(_), _) => (String::new(), 0),
            (None, Some(input)) => input,
            (None, None) => (self.name(x), 1),
        };
        self.shared(format!("indices {length}"), |w| {
            let (zero, one) = (w.int(0), w.int(1));
            let length = match length.fixed() {
                Some(length) => w.int(i64::try_from(length).unwrap_or(i64::MAX)),
                None => w.dim(&name, axis),
            };
            w.node("Range", &[&zero, &length, &one], &[])
        })
    }
}
