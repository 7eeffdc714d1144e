//! Norms.

use crate::build::{Scope, Value};
use crate::graph::{NormProduct, Op, RmsNorm};

/// A kind of norm with its constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// Root mean square, weight multiplied after the cast (Llama).
    Rms {
        /// Added to the mean square.
        eps: f32,
    },
    /// Layer norm with weight and bias.
    Layer {
        /// Added to the variance.
        eps: f32,
    },
}

impl Norm {
    /// The norm of `x` over its last axis, with the tensors of this scope.
    pub fn apply<'g>(self, at: Scope<'g>, x: Value<'g>) -> Value<'g> {
        let weight = at.weight(at.tensor("weight"));
        match self {
            Norm::Rms { eps } => {
                at.node(Op::RmsNorm(RmsNorm { eps, product: NormProduct::AfterCast }), &[Some(x), Some(weight)])
            }
            Norm::Layer { eps } => at.layer_norm(x, weight, Some(at.weight(at.tensor("bias"))), eps),
        }
    }
}
