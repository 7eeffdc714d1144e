//! The machine of qeff.

pub mod lower;
pub mod mapping;
pub mod onnx;
pub mod passes;
pub mod weights;
