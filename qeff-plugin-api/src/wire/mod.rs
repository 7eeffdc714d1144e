//! The wire form: a model as the bytes of an ONNX file.
//!
//! A plugin's answer must cross a process boundary, outlive both sides' releases and be looked at by people, so it is not
//! a private encoding but a `ModelProto`: operators of domain `qeff` are nodes, weights are external tensors whose
//! "location" is an expression over the checkpoint, and any ONNX viewer opens it. The host re-reads every description
//! through [`decode`], its own plugins' included, so there is one truth about what a description can say.
//!
//! | in the model | on the wire |
//! |---|---|
//! | a program | the graph, or the attribute `body` of a node `Program` if there are several |
//! | a node | a node called `{scope}/{operator}_{number}`; attributes that have their default are left out |
//! | a state | a node `State` with an output for each part, before all other nodes |
//! | an output | a node `Output` whose result has the output's name, after all other nodes |
//! | a weight | an initializer: `location=checkpoint`, `qeff.weight=` the expression |
//! | a type nobody infers | an entry of `value_info` |
//! | roles, task, limits, links | `metadata_props` named `qeff.…` |
//! | the activation type | what it resolves to; values that are f32 regardless are listed in `qeff.f32` |
//!
//! Equal models give equal bytes, and `encode(decode(encode(m))) == encode(m)`: what is numbered is numbered in file order.
//!
//! [`decode`] takes bytes from strangers: it bounds what it allocates, believes no stated type that it can infer, and never
//! panics. It does not judge whether a graph makes sense to run (the validator does), and knows no file and no lowering.

mod attrs;
mod decode;
mod encode;
mod scan;
#[cfg(test)]
mod tests;

pub use decode::decode;
pub use encode::encode;

use crate::infer::Mismatch;
use crate::weight::{ParseWeightError, WeightError};

/// Domain of the semantic operators.
pub const DOMAIN: &str = "qeff";
/// The version of [`DOMAIN`] that this crate knows.
pub const DOMAIN_VERSION: i64 = 3;
/// The layout of the wire form (metadata keys, helper nodes), counted apart from the operators.
pub const SCHEMA: i64 = 1;
/// The standard operator set in which ONNX nodes of a description are meant.
pub const ONNX_OPSET: i64 = 17;
/// ONNX's file version.
const IR_VERSION: i64 = 10;

/// Longest wire form that is read.
pub const MAX_BYTES: usize = 64 << 20;
/// Protobuf fields in one wire form: bounds the memory that parsing takes, which the length in bytes does not.
const MAX_RECORDS: u64 = 1 << 20;
const MAX_PROGRAMS: usize = 64;
const MAX_LINKS: usize = 4096;
const MAX_NODES: usize = 200_000;
const MAX_ATTRIBUTES: usize = 64;
const MAX_RANK: usize = 16;
const MAX_DIM: u64 = 1 << 40;
const MAX_NAME: usize = 4096;
const MAX_EXPRESSION: usize = 1 << 20;

/// Why bytes are no model, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError {
    /// Program, node, weight or metadata key; empty for the whole.
    pub place: String,
    /// What is wrong there.
    pub fault: WireFault,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.place.as_str() {
            "" => write!(f, "wire form: {}", self.fault),
            place => write!(f, "wire form: {place}: {}", self.fault),
        }
    }
}

impl std::error::Error for WireError {}

/// A fault of a wire form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireFault {
    /// More than is read.
    #[error("{found} {what}; at most {limit} are read")]
    TooMany {
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many would have been read.
        limit: u64,
    },
    /// The bytes are no ONNX model.
    #[error("not an ONNX model: {0}")]
    NotOnnx(String),
    /// Made for a later version.
    #[error("needs {what} {needs}, this host has {has}")]
    Newer {
        /// What has versions.
        what: String,
        /// The version it was made for.
        needs: i64,
        /// The latest version known here.
        has: i64,
    },
    /// A node in domain `qeff` that does not exist.
    #[error("there is no operator `{0}` in qeff {DOMAIN_VERSION}")]
    UnknownOp(String),
    /// An attribute that the operator does not have.
    #[error("there is no such attribute: `{0}`")]
    UnknownAttribute(String),
    /// Something has not the form it must have.
    #[error("{what}: expected {expected}, found {found}")]
    Expected {
        /// What is wrong.
        what: String,
        /// What would have been right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Two things of one name.
    #[error("`{0}` is defined twice")]
    Twice(String),
    /// A name that nothing before it defines.
    #[error("`{0}` is not defined here")]
    Undefined(String),
    /// An operator and its operands do not fit.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// A weight expression cannot be read.
    #[error(transparent)]
    Expression(#[from] ParseWeightError),
    /// A weight expression does not fit the checkpoint.
    #[error(transparent)]
    Weight(#[from] WeightError),
}

impl WireFault {
    fn at(self, place: impl Into<String>) -> WireError {
        WireError { place: shorten(&place.into()), fault: self }
    }

    fn expected(what: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        WireFault::Expected { what: shorten(&what.into()), expected: expected.into(), found: shorten(&found.into()) }
    }
}

/// A stranger's text in a message: enough to find it, not enough to fill a screen.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
