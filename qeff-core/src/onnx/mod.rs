//! ONNX files: writing them, and a text form of them for review.

mod emit;
mod export;
mod link;
mod staging;
pub mod text;

pub use emit::{Place, model};
pub use export::{Export, ExportError, Exported, Shared, Storage, Tally, export, export_sharing};
pub use link::{Link, LinkKind, WEIGHT_SPEC_FILE, WEIGHT_SPEC_KEY};
