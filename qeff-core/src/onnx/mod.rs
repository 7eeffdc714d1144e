//! ONNX files: writing them, and a text form of them for review.

mod emit;
mod export;
pub mod text;

pub use emit::model;
pub use export::{Export, ExportError, Exported, export};
