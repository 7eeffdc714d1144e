//! Norms.

use crate::build::{Scope, Value};
use crate::graph::{Dim, NormProduct, Op, RmsNorm};

/// A kind of norm with its constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// Root mean square.
    Rms {
        /// Added to the mean square.
        eps: f32,
        /// Where the weight is multiplied.
        product: NormProduct,
    },
    /// Layer norm with weight and bias.
    Layer {
        /// Added to the variance.
        eps: f32,
    },
    /// Layer norm with a weight alone.
    LayerWithoutBias {
        /// Added to the variance.
        eps: f32,
    },
}

impl Norm {
    /// The norm of `x` over its last axis, with the tensors of this scope.
    pub fn apply<'g>(self, at: Scope<'g>, x: Value<'g>) -> Value<'g> {
        let width = x.ty().and_then(|ty| ty.last().and_then(Dim::fixed));
        let stored = |leaf: &str| match width {
            Some(width) => at.weight_of_shape(at.tensor(leaf), &[width]),
            None => at.weight(at.tensor(leaf)),
        };
        // BERT's first files have TensorFlow's names, and transformers still reads them.
        let [weight, bias] = if at.has_tensor("gamma") { ["gamma", "beta"] } else { ["weight", "bias"] };
        let weight = stored(weight);
        match self {
            Norm::Rms { eps, product } => at.node(Op::RmsNorm(RmsNorm { eps, product }), &[Some(x), Some(weight)]),
            Norm::Layer { eps } => at.layer_norm(x, weight, Some(stored(bias)), eps),
            Norm::LayerWithoutBias { eps } => at.layer_norm(x, weight, None, eps),
        }
    }
}
