//! Experts on AI 100: each token gathers the matrices of the experts it is sent to, as the reference's exports do.

use qeff_plugin_api::graph::{Experts, Node, ValueId, Weigh};

use super::{Aic, Attr, operand};

impl Aic<'_> {
    pub(super) fn experts(&mut self, node: &Node, op: &Experts) {
        let (x, ids, out) = (operand(node, Experts::X), operand(node, Experts::IDS), node.outputs[0]);
        let (width, chosen) = (self.w.width(x) as i64, self.w.width(ids) as i64);
        let ids = self.w.name(ids);
        let ids = self.w.reshape(&ids, &[-1]);
        let weights = self.w.name(operand(node, Experts::WEIGHTS));
        let weights = self.w.reshape(&weights, &[-1, 1, 1]);

        // [R, 1, N]: a token once for each of its experts.
        let tokens = self.w.name(x);
        let tokens = self.w.reshape(&tokens, &[-1, 1, 1, width]);
        let copies = self.w.ints(&[1, chosen, 1, 1]);
        let tokens = self.w.node("Expand", &[&tokens, &copies], &[]);
        let mut rows = self.w.reshape(&tokens, &[-1, 1, width]);
        if op.weigh == Weigh::Input {
            rows = self.w.node("Mul", &[&rows, &weights], &[]);
        }

        let gate = node.operand(Experts::GATE);
        let gate = gate.map(|gate| self.product(&rows, &ids, (gate, node.operand(Experts::GATE_BIAS)), "gate_proj"));
        let up = (operand(node, Experts::UP), node.operand(Experts::UP_BIAS));
        let up = self.product(&rows, &ids, up, "up_proj");
        let rows = self.w.expert_activation(op.activation, gate.as_deref(), &up);
        let down = (operand(node, Experts::DOWN), node.operand(Experts::DOWN_BIAS));
        let mut rows = self.product(&rows, &ids, down, "down_proj");
        if op.weigh == Weigh::Output {
            rows = self.w.node("Mul", &[&rows, &weights], &[]);
        }

        let y = self.w.reshape(&rows, &[-1, chosen, width]);
        let y = self.w.sum(&y, 1);
        let lead = self.w.program.ty(x).rank() - 1;
        let shape = self.w.shape_like(x, lead, &[width]);
        self.w.node_for(out, "", "Reshape", &[&y, &shape], &[]);
    }

    /// Each row `[R, 1, in]` by the matrix of its expert, and its bias: `[R, 1, out]`.
    fn product(&mut self, rows: &str, ids: &str, (weight, bias): (ValueId, Option<ValueId>), name: &str) -> String {
        let weight = self.w.operand(weight, name);
        let weight = self.w.node("Gather", &[&weight, ids], &[("axis", Attr::Int(0))]);
        let y = self.w.node("MatMul", &[rows, &weight], &[]);
        let Some(bias) = bias else { return y };
        let bias = self.w.operand(bias, &format!("{name}_bias"));
        let bias = self.w.node("Gather", &[&bias, ids], &[("axis", Attr::Int(0))]);
        let bias = self.w.unsqueeze(&bias, &[1]);
        self.w.node("Add", &[&y, &bias], &[])
    }
}
