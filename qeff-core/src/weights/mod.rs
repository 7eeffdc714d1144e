//! The weights room: from a checkpoint's files to the tensors a graph wants.
//!
//! Reading is behind [`TensorSource`], so that formats do not know who evaluates and evaluation does not know formats.

mod checkpoint;
mod safetensors;
mod source;

pub use checkpoint::{Checkpoint, CheckpointError, CheckpointFile, TensorView};
pub use safetensors::HeaderError;
pub use source::{SourceError, TensorSource};
