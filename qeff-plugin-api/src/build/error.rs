//! What a description can get wrong.

use crate::DType;
use crate::infer::Mismatch;
use crate::weight::WeightError;

/// The first mistake of a description, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError {
    /// Scope path, e.g. `model.layers.0.self_attn.q_proj`; empty for the top.
    pub scope: String,
    /// The mistake.
    pub kind: BuildErrorKind,
}

/// A mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildErrorKind {
    /// A weight expression has no shape: a tensor is missing, or a step does not fit.
    Weight(WeightError),
    /// A stored tensor holds integers: weights of a quantised checkpoint, whose numbers mean something else.
    Integers {
        /// Name of the tensor.
        tensor: String,
        /// The type it is stored in.
        dtype: DType,
    },
    /// A weight has another shape than the config says.
    Shape {
        /// The weight as text.
        weight: String,
        /// The shape that follows from the config.
        expected: Vec<u64>,
        /// The shape it has.
        found: Vec<u64>,
    },
    /// An operator and its operands do not fit.
    Mismatch {
        /// Name of the operator.
        op: String,
        /// What it demanded and got.
        mismatch: Mismatch,
    },
    /// A value of another builder was used.
    ForeignValue,
}

impl std::fmt::Display for BuildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.scope.as_str() {
            "" => f.write_str("at the top: ")?,
            scope => write!(f, "in {scope}: ")?,
        }
        match &self.kind {
            BuildErrorKind::Weight(error) => error.fmt(f),
            BuildErrorKind::Integers { tensor, dtype } => write!(
                f,
                "tensor `{tensor}` is stored as {dtype}; expected a float type (is this a quantised checkpoint?)"
            ),
            BuildErrorKind::Shape { weight, expected, found } => {
                write!(f, "{weight} has shape {found:?}; by config.json it should be {expected:?}")
            }
            BuildErrorKind::Mismatch { op, mismatch } => write!(f, "{op}: {mismatch}"),
            BuildErrorKind::ForeignValue => f.write_str("a value of another graph is used here"),
        }
    }
}

impl std::error::Error for BuildError {}
