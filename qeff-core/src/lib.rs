//! The machine of qeff.

pub mod lower;
pub mod onnx;
pub mod passes;
