//! Where and why a text is not a model.

use qeff_plugin_api::infer::Mismatch;
use qeff_plugin_api::weight::WeightError;

/// The first place of a text that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {kind}")]
pub struct ParseError {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub kind: ParseErrorKind,
}

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseErrorKind {
    /// Something else should stand here.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// What would have fitted.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A value is used that no line before defines.
    #[error("`{label}` is not defined before it is used")]
    Undefined {
        /// The value as the text spells it.
        label: String,
    },
    /// A value is defined a second time.
    #[error("`{label}` is defined already")]
    Redefined {
        /// The value as the text spells it.
        label: String,
    },
    /// A weight has no shape.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// Operands do not fit their operator.
    #[error("{op}: {mismatch}")]
    Mismatch {
        /// The operator.
        op: String,
        /// What it demanded and got.
        mismatch: Mismatch,
    },
}
