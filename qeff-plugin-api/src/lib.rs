//! The vocabulary of a qeff plugin.
mod dtype;
mod index;
pub mod weight;

pub use dtype::{DType, Elem, UnknownType};
pub use index::{TensorIndex, TensorInfo};
pub use weight::WeightExpr;
