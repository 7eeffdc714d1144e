//! The weights room: from a checkpoint's files to the tensors a graph wants, as a stream.
//!
//! A [`WeightExpr`](qeff_plugin_api::WeightExpr) says what a weight is made of. Here it becomes bytes, tile by tile, so
//! that memory is bounded by a budget and not by the largest tensor. Reading is behind [`TensorSource`], writing behind
//! [`TileSink`]: formats on one side and files on the other do not know of each other.
//!
//! This room knows nothing of graphs, ONNX or targets. [`pack`] writes an external-data file because every target wants
//! one, and hands back where each tensor landed; who refers to it is the emitter's business.

pub mod blocks;
mod checkpoint;
mod convert;
mod error;
mod eval;
mod facets;
mod foreign;
pub mod gguf;
mod keep;
mod kernel;
mod located;
mod plan;
mod quantise;
pub mod quantised;
mod region;
mod safetensors;
mod source;
mod tile;
mod writer;

pub use blocks::{BlockLayout, BlockPart, CodeBits, Encoding, ZeroPoint};
pub use checkpoint::{Checkpoint, CheckpointError, CheckpointFile};
pub use convert::{Clipped, clip};
pub use error::EvalError;
pub use eval::{Evaluation, Scratch, TileSink, Traffic, evaluate_to_vec, write};
pub use facets::{Facet, Facets};
pub use foreign::ForeignError;
pub use keep::{BlockIndex, Dense, Kept};
pub use located::{NotStored, StoredRun, find, locate};
pub use quantise::{Quantised, QuantisedTensor, Scheme};
pub use safetensors::HeaderError;
pub use source::{SourceError, TensorSource, TensorView};
pub use tile::Tiling;
pub use writer::{PackError, PackOptions, PackRequest, Packed, Placement, Progress, pack};
