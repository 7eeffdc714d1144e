//! Operators that both targets write with the same nodes.

use std::fmt;

use qeff_plugin_api::graph::{
    Attention, AttentionMask, Dim, Embedding, Linear, NegativeIds, Node, Op, RmsNorm, Select, SelectMode, StateKind,
    StateRead, ValueId,
};
use qeff_plugin_api::{DType, Elem, WeightExpr};

use super::LowerError;
use super::quantised::Link;
use super::writer::{Attr, Writer};

/// An operand that a valid node has.
pub(super) fn operand(node: &Node, index: usize) -> ValueId {
    node.operand(index).unwrap_or_else(|| unreachable!("a valid {} has operand {index}", node.op.name()))
}

/// Which rows of a state are read: all along its axis, or as many as an input is long. It prints as what tells it apart.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reach {
    /// Symbol of the axis.
    pub(super) axis: Dim,
    /// The input.
    pub(super) context: Option<ValueId>,
}

impl Reach {
    /// All rows along an axis.
    pub(super) fn whole(axis: &Dim) -> Self {
        Reach { axis: axis.clone(), context: None }
    }
}

/// In what order keys and values have their axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[B, S′, heads, width]`, as a call computes them.
    TokensFirst,
    /// `[slots, heads, rows, width]`, as a state holds them.
    HeadsFirst,
}

/// Where the keys and values of attention are.
pub(super) enum Keys {
    /// In the call, or in a state that is read as a whole.
    InCall(Layout),
    /// In a state of this kind, as far as the positions of the queries let them see.
    AtPositions(StateKind, ValueId),
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.context {
            Some(context) => write!(f, "{} {context:?}", self.axis),
            None => write!(f, "{}", self.axis),
        }
    }
}

impl Writer<'_> {
    /// A fixed dimension of a value; types of valid programs fix every axis that lowering asks about.
    pub(super) fn fixed(&self, value: ValueId, axis: usize) -> u64 {
        self.program
            .ty(value)
            .dims
            .get(axis)
            .and_then(Dim::fixed)
            .unwrap_or_else(|| unreachable!("axis {axis} is fixed"))
    }

    /// The last dimension of a value.
    pub(super) fn width(&self, value: ValueId) -> u64 {
        self.fixed(value, self.program.ty(value).rank() - 1)
    }

    pub(super) fn embedding(&mut self, node: &Node, op: &Embedding) {
        let table = self.operand(operand(node, Embedding::TABLE), "weight");
        let ids = operand(node, Embedding::IDS);
        let mut index = match op.negative {
            NegativeIds::Any => self.name(ids),
            NegativeIds::Zero => self.not_negative(ids),
        };
        if op.offset != 0 {
            let offset = self.int(op.offset);
            index = self.node("Add", &[&index, &offset], &[]);
        }
        if op.scale == 1.0 {
            self.node_for(node.outputs[0], "", "Gather", &[&table, &index], &[]);
        } else {
            let rows = self.node("Gather", &[&table, &index], &[]);
            let scale = self.scalar(op.scale);
            self.node_for(node.outputs[0], "", "Mul", &[&rows, &scale], &[]);
        }
    }

    /// Ids with 0 in place of negative ones.
    pub(super) fn not_negative(&mut self, ids: ValueId) -> String {
        self.shared(format!("not negative {ids:?}"), |w| {
            let (ids, zero) = (w.name(ids), w.int(0));
            let negative = w.node("Less", &[&ids, &zero], &[]);
            w.node("Where", &[&negative, &zero, &ids], &[])
        })
    }

    /// What follows the product of a projection: its bias, and the split into heads.
    pub(super) fn after_product(&mut self, node: &Node, op: &Linear) -> Vec<Link<'static>> {
        let out = node.outputs[0];
        let mut links = vec![];
        if let Some(bias) = node.operand(Linear::BIAS) {
            links.push(Link::onto("Add", self.operand(bias, "bias")));
        }
        if op.heads > 0 {
            let mut shape = vec![0; self.program.ty(out).rank() - 2];
            shape.extend([op.heads as i64, self.width(out) as i64]);
            links.push(Link::onto("Reshape", self.ints(&shape)));
        }
        links
    }

    /// The weight of a norm; ones if it has none.
    pub(super) fn norm_weight(&mut self, node: &Node) -> String {
        match node.operand(RmsNorm::WEIGHT) {
            Some(weight) => self.operand(weight, "weight"),
            None => {
                let width = self.width(operand(node, RmsNorm::X));
                self.weight(WeightExpr::Fill { value: 1.0, shape: vec![width] }, Elem::Act, "weight")
            }
        }
    }

    /// `scores · scale`, then softly capped.
    pub(super) fn scaled(&mut self, scores: &str, scale: f32, softcap: f32) -> String {
        let scale = self.scalar(scale);
        let scores = self.node("Mul", &[scores, &scale], &[]);
        if softcap == 0.0 {
            return scores;
        }
        let cap = self.scalar(softcap);
        let small = self.node("Div", &[&scores, &cap], &[]);
        let small = self.node("Tanh", &[&small], &[]);
        self.node("Mul", &[&small, &cap], &[])
    }

    /// What a state holds, as a value of its own.
    pub(super) fn state_read(&mut self, node: &Node) {
        let part = self.name(operand(node, StateRead::PART));
        match node.operand(StateRead::BATCH_INDEX) {
            Some(batch_index) => {
                let slots = self.slots(batch_index);
                self.node_for(node.outputs[0], "", "Gather", &[&part, &slots], &[("axis", Attr::Int(0))]);
            }
            None => self.bind(node.outputs[0], part),
        }
    }

    /// The state slot of each row of a call, `[B]`.
    pub(super) fn slots(&mut self, batch_index: ValueId) -> String {
        self.shared(format!("slots {batch_index:?}"), |w| {
            let batch_index = w.name(batch_index);
            w.reshape(&batch_index, &[-1])
        })
    }

    /// Where the keys of an attention are.
    pub(super) fn keys_of(&self, node: &Node) -> Result<Keys, LowerError> {
        let keys = operand(node, Attention::K);
        if self.program.version(keys).is_none() {
            return Ok(Keys::InCall(Layout::TokensFirst));
        }
        let kind = self.state_kind(node, keys)?;
        match node.operand(Attention::POSITIONS) {
            Some(positions) if kind.has_positions() => Ok(Keys::AtPositions(kind, positions)),
            _ if kind == StateKind::Fill => Ok(Keys::InCall(Layout::HeadsFirst)),
            _ => Err(self.refuse(node, "attention over a cache needs the positions of its queries")),
        }
    }

    /// The kind of the state that a value is a version of; an error if the lowering of `node` needs one and there is none.
    pub(super) fn state_kind(&self, node: &Node, version: ValueId) -> Result<StateKind, LowerError> {
        let Some(version) = self.program.version(version) else {
            return Err(self.refuse(node, "its operand is no state"));
        };
        match (self.program.state(version.slot), &node.op) {
            (state, Op::Attention(Attention { mask: AttentionMask::Bidirectional, .. }))
                if state.kind == StateKind::Rolling =>
            {
                let why = format!("it looks at every row of `{}`, which is rolling: some hold nothing", state.slot);
                Err(self.refuse(node, why))
            }
            (state, _) => Ok(state.kind),
        }
    }

    /// The shape tensor `[leading dimensions of x, tail]`; shared by all values of these dimensions.
    pub(super) fn shape_like(&mut self, x: ValueId, lead: usize, tail: &[i64]) -> String {
        let program = self.program;
        let dims = &program.ty(x).dims[..lead];
        // An input of these dimensions knows them before anything is computed.
        let input = program.inputs.iter().find(|input| program.ty(input.value).dims.get(..lead) == Some(dims));
        let name = self.name(input.map_or(x, |input| input.value));
        let leading = self.shared(format!("leading {dims:?}"), |w| {
            let shape = w.node("Shape", &[&name], &[]);
            let (from, to) = (w.ints(&[0]), w.ints(&[lead as i64]));
            w.node("Slice", &[&shape, &from, &to], &[])
        });
        self.shared(format!("shape {dims:?} {tail:?}"), |w| {
            let tail = w.ints(tail);
            w.node("Concat", &[&leading, &tail], &[("axis", Attr::Int(0))])
        })
    }

    /// The sinks of attention as a column for its scores: `[B, groups…, S, 1]` of `sinks[product of groups]`.
    pub(super) fn sink_column(&mut self, sinks: ValueId, positions: ValueId, groups: &[i64]) -> String {
        let sinks = self.operand(sinks, "sinks");
        let ones = vec![1; groups.len()];
        let column = self.reshape(&sinks, &[&[1], groups, &[1, 1]].concat());
        let shape = self.shared(format!("queries {positions:?} {}", groups.len()), |w| {
            let positions = w.name(positions);
            let shape = w.node("Shape", &[&positions], &[]);
            let (zero, one, two) = (w.ints(&[0]), w.ints(&[1]), w.ints(&[2]));
            let batch = w.node("Slice", &[&shape, &zero, &one], &[]);
            let queries = w.node("Slice", &[&shape, &one, &two], &[]);
            let groups = w.ints(&ones);
            w.node("Concat", &[&batch, &groups, &queries, &one], &[("axis", Attr::Int(0))])
        });
        self.node("Expand", &[&column, &shape], &[])
    }

    /// The softmax of scores, of which a column of sinks takes its share; computed in f32 whatever they are.
    pub(super) fn key_weights(&mut self, scores: &str, sinks: Option<&str>) -> String {
        let softmax = |w: &mut Self, scores: &str| {
            let act = w.program.act;
            if act == DType::F32 {
                return w.node("Softmax", &[scores], &[("axis", Attr::Int(-1))]);
            }
            let wide = w.node("Cast", &[scores], &[("to", Attr::To(DType::F32))]);
            let weights = w.node("Softmax", &[&wide], &[("axis", Attr::Int(-1))]);
            w.node("Cast", &[&weights], &[("to", Attr::To(act))])
        };
        let Some(sinks) = sinks else { return softmax(self, scores) };
        let all = self.node("Concat", &[scores, sinks], &[("axis", Attr::Int(-1))]);
        let all = softmax(self, &all);
        let (from, to) = (self.ints(&[0]), self.ints(&[-1]));
        self.node("Slice", &[&all, &from, &to, &to], &[])
    }

    /// Length of the states whose rows run along `axis`, 0-dimensional.
    pub(super) fn state_length(&mut self, axis: &Dim) -> String {
        // An input's shape is known before anything is computed, so the first state along the axis is asked.
        let mut states = self.program.states().flat_map(|(_, state)| state.parts.iter().zip(&state.names));
        let found = states.find(|(part, _)| self.program.ty(**part).dims.get(2) == Some(axis));
        let first = found.map(|(_, name)| name.clone()).unwrap_or_else(|| unreachable!("a state runs along {axis}"));
        self.shared(format!("length {axis}"), |w| w.dim(&first, 2))
    }

    /// The rows of a state that attention reads.
    pub(super) fn reach(&self, node: &Node, state: ValueId) -> Reach {
        Reach { axis: self.program.ty(state).dims[2].clone(), context: node.operand(Attention::CONTEXT) }
    }

    /// How many rows are read, 0-dimensional.
    pub(super) fn rows_read(&mut self, reach: &Reach) -> String {
        match reach.context {
            Some(context) => {
                let context = self.name(context);
                self.shared(format!("length {reach}"), |w| w.dim(&context, 0))
            }
            None => self.state_length(&reach.axis),
        }
    }

    /// Numbers of the rows that are read, `[L]`.
    pub(super) fn state_rows(&mut self, reach: &Reach) -> String {
        let length = self.rows_read(reach);
        self.shared(format!("rows {reach}"), |w| {
            let (zero, one) = (w.int(0), w.int(1));
            w.node("Range", &[&zero, &length, &one], &[])
        })
    }

    /// `[B, 1, S, L]`, true where a key is hidden from a query; `None` if none is.
    pub(super) fn hidden_keys(
        &mut self,
        reach: &Reach,
        kind: StateKind,
        positions: ValueId,
        mask: AttentionMask,
    ) -> Option<String> {
        let window = match mask {
            AttentionMask::Bidirectional | AttentionMask::Band { .. } => return None,
            AttentionMask::Causal => None,
            AttentionMask::Sliding(window) => Some(window),
        };
        let rolling = kind == StateKind::Rolling;
        let keys = if rolling { self.rolling_keys(&reach.axis, positions) } else { self.state_rows(reach) };
        Some(self.shared(format!("hidden {reach} {kind:?} {positions:?} {mask:?}"), |w| {
            let keys = if rolling { w.unsqueeze(&keys, &[1, 2]) } else { w.unsqueeze(&keys, &[0, 1, 2]) };
            let positions = w.name(positions);
            let queries = w.unsqueeze(&positions, &[1, 3]);
            let later = w.node("Greater", &[&keys, &queries], &[]);
            let oldest = window.map(|window| {
                let reach = w.int(i64::try_from(window).unwrap_or(i64::MAX) - 1);
                w.node("Sub", &[&queries, &reach], &[])
            });
            let oldest = match (oldest, rolling) {
                (None, false) => return later,
                (Some(oldest), false) => oldest,
                // A row that holds nothing has a negative position.
                (None, true) => w.int(0),
                (Some(oldest), true) => {
                    let zero = w.int(0);
                    w.node("Max", &[&oldest, &zero], &[])
                }
            };
            let earlier = w.node("Less", &[&keys, &oldest], &[]);
            w.node("Or", &[&later, &earlier], &[])
        }))
    }

    pub(super) fn select(&mut self, node: &Node, op: &Select) {
        let h = self.name(operand(node, Select::HIDDEN));
        let positions = self.name(operand(node, Select::POSITIONS));
        if op.mode == SelectMode::All {
            self.bind(node.outputs[0], h);
            self.bind(node.outputs[1], positions);
            return;
        }
        let small = self.node("Cast", &[&positions], &[("to", Attr::To(DType::I32))]);
        let mut rows = self.node("ArgMax", &[&small], &[("axis", Attr::Int(1)), ("keepdims", Attr::Int(1))]);
        if op.mode == SelectMode::LastK {
            let keep = self.name(operand(node, Select::KEEP));
            let (zero, one) = (self.int(0), self.int(1));
            let count = self.dim(&keep, 0);
            let early = self.node("Less", &[&rows, &count], &[]);
            let after = self.node("Add", &[&rows, &one], &[]);
            let first = self.node("Sub", &[&after, &count], &[]);
            let first = self.node("Where", &[&early, &zero, &first], &[]);
            let offsets = self.node("Range", &[&zero, &count, &one], &[]);
            rows = self.node("Add", &[&first, &offsets], &[]);
        }
        let index = self.unsqueeze(&rows, &[-1]);
        self.node_for(node.outputs[0], "", "GatherND", &[&h, &index], &[("batch_dims", Attr::Int(1))]);
        if self.is_used(node.outputs[1]) {
            let attrs = [("axis", Attr::Int(1))];
            self.node_for(node.outputs[1], "", "GatherElements", &[&positions, &rows], &attrs);
        }
    }
}
