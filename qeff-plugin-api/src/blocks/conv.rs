//! Convolutions over time, as audio encoders begin with them.

use super::Bias;
use crate::WeightExpr;
use crate::build::{Scope, Value};
use crate::graph::{AttrValue, Dim, Type};

/// A convolution over the last axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Channels of the result.
    pub out: u64,
    /// Places that a place of the result sees.
    pub kernel: u64,
    /// Places from one of these to the next.
    pub stride: u64,
    /// Zeros on either side.
    pub padding: u64,
    /// Groups of channels that do not see each other.
    pub groups: u64,
    /// Whether a bias is added.
    pub bias: Bias,
}

impl Conv {
    /// Every place, without padding or bias.
    pub fn new(out: u64, kernel: u64) -> Self {
        Conv { out, kernel, stride: 1, padding: 0, groups: 1, bias: Bias::No }
    }
}

/// `x[B, C, L]` with `weight[out, C / groups, kernel]` of this scope: `[B, out, length]`.
pub fn conv<'g>(at: Scope<'g>, x: Value<'g>, spec: &Conv, length: impl Into<Dim>) -> Value<'g> {
    conv_with(at, x, at.tensor("weight"), spec, length)
}

/// The same with a weight that is made of something.
pub fn conv_with<'g>(
    at: Scope<'g>,
    x: Value<'g>,
    weight: WeightExpr,
    spec: &Conv,
    length: impl Into<Dim>,
) -> Value<'g> {
    let Conv { out, kernel, stride, padding, groups, bias } = *spec;
    let Some(ty) = x.ty() else { return x };
    let channels = ty.dims.get(1).and_then(Dim::fixed).unwrap_or(0);
    let weight = at.weight_of_shape(weight, &[out, channels / groups.max(1), kernel]);
    let bias = (bias == Bias::Yes).then(|| at.weight_of_shape(at.tensor("bias"), &[out]));
    let operands: Vec<_> = [x, weight].into_iter().chain(bias).collect();
    let int = |n: u64| n as i64;
    let attrs = [
        ("dilations", AttrValue::Ints(vec![1])),
        ("group", AttrValue::Int(int(groups))),
        ("kernel_shape", AttrValue::Ints(vec![int(kernel)])),
        ("pads", AttrValue::Ints(vec![int(padding); 2])),
        ("strides", AttrValue::Ints(vec![int(stride)])),
    ];
    let dims = [ty.dims[0].clone(), Dim::Fixed(out), length.into()];
    at.typed("Conv", &operands, &attrs, Type::new(ty.elem, dims))
}

/// Each channel of `x[B, C, L]` at mean 0 and variance 1 over its places, then scaled and shifted by `weight[C]` and `bias[C]` of
/// this scope: a group norm with a group for each channel.
pub fn channel_norm<'g>(at: Scope<'g>, x: Value<'g>, eps: f32) -> Value<'g> {
    let Some(ty) = x.ty() else { return x };
    let channels = ty.dims.get(1).and_then(Dim::fixed).unwrap_or(0);
    let [weight, bias] = ["weight", "bias"].map(|leaf| at.weight_of_shape(at.tensor(leaf), &[channels]));
    at.typed("InstanceNormalization", &[x, weight, bias], &[("epsilon", AttrValue::Float(eps))], ty)
}
