//! What stands between the matrices of an expert, as both targets write it.

use qeff_plugin_api::graph::ExpertActivation;

use super::writer::Writer;

impl Writer<'_> {
    /// The activation of `gate` and `up`, or of `up` alone. The caller has made sure that there is a gate where one is needed.
    pub(super) fn expert_activation(&mut self, how: ExpertActivation, gate: Option<&str>, up: &str) -> String {
        let through = gate.unwrap_or(up);
        let active = match how {
            ExpertActivation::Silu => {
                let sigmoid = self.node("Sigmoid", &[through], &[]);
                self.node("Mul", &[through, &sigmoid], &[])
            }
            // x/2 · (1 + erf(x/√2))
            ExpertActivation::Gelu => {
                let (root, one, half) = (self.scalar(std::f32::consts::SQRT_2), self.scalar(1.0), self.scalar(0.5));
                let x = self.node("Div", &[through, &root], &[]);
                let x = self.node("Erf", &[&x], &[]);
                let x = self.node("Add", &[&x, &one], &[]);
                let x = self.node("Mul", &[through, &x], &[]);
                self.node("Mul", &[&x, &half], &[])
            }
            // x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))
            ExpertActivation::GeluTanh => {
                let (three, one, half) = (self.scalar(3.0), self.scalar(1.0), self.scalar(0.5));
                let (cubic, root) = (self.scalar(0.044_715), self.scalar((2.0 / std::f32::consts::PI).sqrt()));
                let x = self.node("Pow", &[through, &three], &[]);
                let x = self.node("Mul", &[&x, &cubic], &[]);
                let x = self.node("Add", &[through, &x], &[]);
                let x = self.node("Mul", &[&x, &root], &[]);
                let x = self.node("Tanh", &[&x], &[]);
                let x = self.node("Add", &[&x, &one], &[]);
                let x = self.node("Mul", &[through, &x], &[]);
                self.node("Mul", &[&x, &half], &[])
            }
            ExpertActivation::Relu => self.node("Relu", &[through], &[]),
            ExpertActivation::ClampedSwiglu { limit, alpha } => return self.clamped_swiglu(through, up, limit, alpha),
        };
        match gate {
            Some(_) => self.node("Mul", &[&active, up], &[]),
            None => active,
        }
    }

    fn clamped_swiglu(&mut self, gate: &str, up: &str, limit: f32, alpha: f32) -> String {
        let (most, least) = (self.scalar(limit), self.scalar(-limit));
        let (alpha, one) = (self.scalar(alpha), self.scalar(1.0));
        let gate = self.node("Clip", &[gate, "", &most], &[]);
        let up = self.node("Clip", &[up, &least, &most], &[]);
        let sigmoid = self.node("Mul", &[&gate, &alpha], &[]);
        let sigmoid = self.node("Sigmoid", &[&sigmoid], &[]);
        let gate = self.node("Mul", &[&gate, &sigmoid], &[]);
        let up = self.node("Add", &[&up, &one], &[]);
        self.node("Mul", &[&up, &gate], &[])
    }
}
