//! Experts on the CPU: tokens are sorted by expert, and each expert multiplies its own.
//!
//! Nothing is gathered but activations. Every matrix of an expert is an initializer of its own, used as and where it is
//! stored, by a product over as many rows as tokens were sent to it. With none it is a product of no rows, which engines
//! answer without looking at the matrix: a decode step reads the experts of its tokens and no others.

use qeff_plugin_api::WeightExpr;
use qeff_plugin_api::graph::{Experts, Node, ValueId, Weigh};

use super::{Attr, Cpu, LowerError, operand};

/// Every pair of a token and one of its experts is a row; rows are sorted by expert.
struct Rows {
    /// `[R]`: the number of each row's pair, counted token by token.
    pair: String,
    /// `[R]`: the expert of each row.
    expert: String,
    /// `[E]`: how many rows each expert has.
    counts: String,
    /// E.
    experts: u64,
}

/// Two projections that one stored tensor holds: each group of `width` columns has `first` of the first, then the second's.
struct Fused {
    weight: WeightExpr,
    bias: Option<WeightExpr>,
    groups: u64,
    width: u64,
    first: u64,
}

impl Cpu<'_> {
    pub(super) fn experts(&mut self, node: &Node, op: &Experts) -> Result<(), LowerError> {
        self.w.note_experts(node);
        let (x, up, out) = (operand(node, Experts::X), operand(node, Experts::UP), node.outputs[0]);
        let (experts, width) = (self.w.fixed(up, 0), self.w.fixed(up, 1));
        let (ids, weights) = (operand(node, Experts::IDS), operand(node, Experts::WEIGHTS));
        let chosen = self.w.width(ids);
        let sent = self.sort(ids, experts);

        let weights = self.w.name(weights);
        let weights = self.w.reshape(&weights, &[-1, 1]);
        let weights = self.w.node("Gather", &[&weights, &sent.pair], &[("axis", Attr::Int(0))]);
        let tokens = self.rows(x);
        let chosen_by = self.w.int(chosen as i64);
        let token = self.w.node("Div", &[&sent.pair, &chosen_by], &[]);
        let mut rows = self.w.node("Gather", &[&tokens, &token], &[("axis", Attr::Int(0))]);
        if op.weigh == Weigh::Input {
            rows = self.w.node("Mul", &[&rows, &weights], &[]);
        }

        let (gate, up) = self.inner(node, &rows, &sent)?;
        let rows = self.w.expert_activation(op.activation, gate.as_deref(), &up);
        let down = (operand(node, Experts::DOWN), node.operand(Experts::DOWN_BIAS));
        let mut rows = self.project(node, &rows, &sent, down, "down_proj")?;
        if op.weigh == Weigh::Output {
            rows = self.w.node("Mul", &[&rows, &weights], &[]);
        }

        // Back to the order of the tokens: row `pair[r]` of the result is row r.
        let (zero, one) = (self.w.int(0), self.w.int(1));
        let count = self.w.dim(&sent.pair, 0);
        let numbers = self.w.node("Range", &[&zero, &count, &one], &[]);
        let places = self.w.unsqueeze(&sent.pair, &[-1]);
        let row = self.w.node("ScatterND", &[&sent.pair, &places, &numbers], &[]);
        let y = self.w.node("Gather", &[&rows, &row], &[("axis", Attr::Int(0))]);
        let y = self.w.reshape(&y, &[-1, chosen as i64, width as i64]);
        let y = self.w.sum(&y, 1);
        let lead = self.w.program.ty(x).rank() - 1;
        let shape = self.w.shape_like(x, lead, &[width as i64]);
        self.w.node_for(out, "", "Reshape", &[&y, &shape], &[]);
        Ok(())
    }

    /// Sorts the pairs of `ids[…, K]`.
    fn sort(&mut self, ids: ValueId, experts: u64) -> Rows {
        let ids = self.w.name(ids);
        let ids = self.w.reshape(&ids, &[1, -1]);
        let all = self.w.shared(format!("experts {experts}"), |w| {
            let (zero, one, count) = (w.int(0), w.int(1), w.int(experts as i64));
            let all = w.node("Range", &[&zero, &count, &one], &[]);
            w.unsqueeze(&all, &[1])
        });
        // [E, R]; what is true is found expert by expert.
        let hits = self.w.node("Equal", &[&all, &ids], &[]);
        let found = self.w.node("NonZero", &[&hits], &[]);
        let (first, second) = (self.w.int(0), self.w.int(1));
        let expert = self.w.node("Gather", &[&found, &first], &[("axis", Attr::Int(0))]);
        let pair = self.w.node("Gather", &[&found, &second], &[("axis", Attr::Int(0))]);
        let counts = self.w.node("Cast", &[&hits], &[("to", Attr::To(qeff_plugin_api::DType::I64))]);
        let counts = self.w.sum(&counts, 1);
        Rows { pair, expert, counts, experts }
    }

    /// What the first matrices make of the rows: gate, if there is one, and up.
    fn inner(&mut self, node: &Node, rows: &str, sent: &Rows) -> Result<(Option<String>, String), LowerError> {
        let up = (operand(node, Experts::UP), node.operand(Experts::UP_BIAS));
        let Some(gate) = node.operand(Experts::GATE) else {
            return Ok((None, self.project(node, rows, sent, up, "up_proj")?));
        };
        let gate = (gate, node.operand(Experts::GATE_BIAS));
        let Some(fused) = self.fused(gate, up) else {
            let gate = self.project(node, rows, sent, gate, "gate_proj")?;
            return Ok((Some(gate), self.project(node, rows, sent, up, "up_proj")?));
        };
        // One product by the tensor as it is stored, whose results are then told apart.
        let elem = self.w.program.ty(up.0).elem;
        let mut both = self.product(node, rows, sent, &fused.weight, "gate_up_proj")?;
        if let Some(bias) = fused.bias {
            let bias = self.w.weight(bias, elem, "gate_up_proj_bias");
            both = self.add_bias(&both, &bias, sent);
        }
        let inner = self.w.width(up.0) as i64;
        let both = self.w.reshape(&both, &[-1, fused.groups as i64, fused.width as i64]);
        let sizes = self.w.ints(&[fused.first as i64, (fused.width - fused.first) as i64]);
        let halves = self.w.node_with("Split", &[&both, &sizes], &[("axis", Attr::Int(2))], 2);
        let gate = self.w.reshape(&halves[0], &[-1, inner]);
        Ok((Some(gate), self.w.reshape(&halves[1], &[-1, inner])))
    }

    /// Two projections as one, if together they are a stored tensor.
    fn fused(&self, gate: (ValueId, Option<ValueId>), up: (ValueId, Option<ValueId>)) -> Option<Fused> {
        let part = |value: ValueId, axis: usize| match self.w.program.weight(value)? {
            WeightExpr::Take { of, axis: at, groups, width, columns } if *at == axis => {
                Some((of.as_ref(), *groups, *width, columns.clone()))
            }
            _ => None,
        };
        let joined = |a: ValueId, b: ValueId, axis| {
            let ((of, groups, width, a), (of_b, groups_b, width_b, b)) = (part(a, axis)?, part(b, axis)?);
            let whole = a.start == 0 && a.end == b.start && b.end == width;
            (whole && of == of_b && (groups, width) == (groups_b, width_b)).then_some((of, groups, width, a.end))
        };
        let (weight, groups, width, first) = joined(gate.0, up.0, 2)?;
        let bias = match (gate.1, up.1) {
            (None, None) => None,
            (Some(gate), Some(up)) => match joined(gate, up, 1)? {
                (bias, g, w, f) if (g, w, f) == (groups, width, first) => Some(bias.clone()),
                _ => return None,
            },
            _ => return None,
        };
        Some(Fused { weight: weight.clone(), bias, groups, width, first })
    }

    /// Each row by the matrix of its expert, and its bias.
    fn project(
        &mut self,
        node: &Node,
        rows: &str,
        sent: &Rows,
        (weight, bias): (ValueId, Option<ValueId>),
        name: &str,
    ) -> Result<String, LowerError> {
        let Some(expr) = self.w.program.weight(weight).cloned() else {
            return Err(self.w.refuse(node, "the matrices of experts are computed; only weights are lowered"));
        };
        let y = self.product(node, rows, sent, &expr, name)?;
        Ok(match bias {
            Some(bias) => {
                let bias = self.w.operand(bias, &format!("{name}_bias"));
                self.add_bias(&y, &bias, sent)
            }
            None => y,
        })
    }

    /// Each row by the matrix of its expert, one of `weights[E, in, out]`.
    fn product(
        &mut self,
        node: &Node,
        rows: &str,
        sent: &Rows,
        weights: &WeightExpr,
        name: &str,
    ) -> Result<String, LowerError> {
        let elem = self.w.program.ty(operand(node, Experts::UP)).elem;
        let parts = self.w.node_with("Split", &[rows, &sent.counts], &[("axis", Attr::Int(0))], sent.experts as usize);
        let mut products = Vec::with_capacity(parts.len());
        for (expert, part) in (0..).zip(&parts) {
            let matrix = weights
                .element(expert, self.w.tensors.index)
                .map_err(|error| self.w.refuse(node, error.to_string()))?;
            let (matrix, turned) = self.stored(matrix, elem, &format!("{expert}.{name}"));
            let attrs = if turned { vec![("transB", Attr::Int(1))] } else { vec![] };
            products.push(self.w.node("Gemm", &[part, &matrix], &attrs));
        }
        let products: Vec<_> = products.iter().map(String::as_str).collect();
        Ok(self.w.node("Concat", &products, &[("axis", Attr::Int(0))]))
    }

    fn add_bias(&mut self, rows: &str, bias: &str, sent: &Rows) -> String {
        let bias = self.w.node("Gather", &[bias, &sent.expert], &[("axis", Attr::Int(0))]);
        self.w.node("Add", &[rows, &bias], &[])
    }
}
