//! Activation functions, by the names of transformers' `ACT2FN`.
//!
//! They are written out in standard ONNX as the reference's exports spell them; engines fuse the spellings back.

use crate::build::{Scope, Value};
use crate::config::{Config, ConfigError};

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are transformers'
pub enum Activation {
    Silu,
    Gelu,
    GeluTanh,
    QuickGelu,
    Relu,
    Relu2,
    Sigmoid,
    Tanh,
    Linear,
}

const NAMES: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    // Four spellings of one polynomial; they differ by rounding only.
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
    ("relu2", Activation::Relu2),
    ("sigmoid", Activation::Sigmoid),
    ("tanh", Activation::Tanh),
    ("linear", Activation::Linear),
];

impl Activation {
    /// Reads the field `key` of a config, or `default` if it is absent.
    ///
    /// # Errors
    /// If it names a function that is not supported; the error lists those that are.
    pub fn read(config: &Config, key: &str, default: Activation) -> Result<Self, ConfigError> {
        match config.opt_text(key)? {
            None => Ok(default),
            Some(name) => NAMES.iter().find(|(known, _)| *known == name).map(|(_, act)| *act).ok_or_else(|| {
                let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
                config.unsupported(key, format!("one of {}", names.join(", ")))
            }),
        }
    }

    /// The function of `x`.
    pub fn apply<'g>(self, at: Scope<'g>, x: Value<'g>) -> Value<'g> {
        match self {
            Activation::Silu => at.mul(x, at.unary("Sigmoid", x)),
            // x/2 · (1 + erf(x/√2))
            Activation::Gelu => {
                let erf = at.unary("Erf", at.div(x, at.scalar(std::f32::consts::SQRT_2)));
                at.scale(at.mul(x, at.add(erf, at.scalar(1.0))), 0.5)
            }
            // x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))
            Activation::GeluTanh => {
                let inner = at.add(x, at.scale(at.pow(x, 3.0), 0.044_715));
                let tanh = at.unary("Tanh", at.scale(inner, (2.0 / std::f32::consts::PI).sqrt()));
                at.mul(at.scale(x, 0.5), at.add(tanh, at.scalar(1.0)))
            }
            Activation::QuickGelu => at.mul(x, at.unary("Sigmoid", at.scale(x, 1.702))),
            Activation::Relu => at.unary("Relu", x),
            Activation::Relu2 => at.pow(at.unary("Relu", x), 2.0),
            Activation::Sigmoid => at.unary("Sigmoid", x),
            Activation::Tanh => at.unary("Tanh", x),
            Activation::Linear => x,
        }
    }
}
