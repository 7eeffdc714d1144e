//! What is wrong with the stored parts of a quantised checkpoint.

use std::path::PathBuf;

/// A stored tensor that is missing, left over, or not what the others need.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tensor `{tensor}` in {}: expected {expected}, found {found}", file.display())]
pub struct QuantisedError {
    /// The stored tensor.
    pub tensor: String,
    /// The file that holds it, or that would hold it.
    pub file: PathBuf,
    /// What would have been right.
    pub expected: String,
    /// What is there.
    pub found: String,
}
