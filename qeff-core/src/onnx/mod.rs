//! ONNX files: writing them, and a text form of them for review.

pub mod text;
