//! What can stop an evaluation: the expression, the source, or the sink.

use qeff_plugin_api::DType;
use qeff_plugin_api::weight::WeightError;

use super::source::SourceError;

/// Why an expression cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// It has no shape.
    #[error(transparent)]
    Shape(#[from] WeightError),
    /// A tensor cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A tensor of one type is wanted in another that it does not convert to.
    #[error(
        "tensor `{tensor}` is stored as {from} and wanted as {to}: floats convert to floats, and other types are only \
         copied as they are, without arithmetic"
    )]
    NotConvertible {
        /// The tensor.
        tensor: String,
        /// As stored.
        from: DType,
        /// As wanted.
        to: DType,
    },
    /// A fill with a number that the wanted type does not hold.
    #[error("fill({value}) is wanted as {to}, which does not hold that number")]
    Fill {
        /// The number.
        value: f32,
        /// As wanted.
        to: DType,
    },
    /// A rotary table that cannot be computed.
    #[error("rotary table: {why}")]
    Rope {
        /// What is wrong.
        why: String,
    },
    /// A normalised weight that is too large to be held, which it has to be: a length is known when all of it has been seen.
    #[error("a normalised weight of shape {shape:?} has more than {limit} elements")]
    Normalised {
        /// The shape.
        shape: Vec<u64>,
        /// The most that are held.
        limit: u64,
    },
    /// Steps within steps within steps.
    #[error("the expression is nested more than {limit} steps deep")]
    TooDeep {
        /// The most that is evaluated.
        limit: usize,
    },
    /// More bytes than can be counted.
    #[error("a result of shape {shape:?} has more bytes than can be addressed")]
    TooLarge {
        /// The shape.
        shape: Vec<u64>,
    },
    /// The sink refused bytes.
    #[error("cannot write: {0}")]
    Sink(#[source] std::io::Error),
}
