//! ONNX's file schema as Rust types.
//!
//! `generated.rs` is made from `onnx.proto` by prost and checked in, so that nobody needs a protobuf compiler; a test
//! keeps the two in step. The schema has only the fields that qeff reads or writes.

#[rustfmt::skip]
#[allow(missing_docs, clippy::doc_markdown)]
mod generated;

pub use generated::*;

use crate::DType;

/// `AttributeProto.type` of each kind of attribute.
pub mod attribute_type {
    /// A number.
    pub const FLOAT: i32 = 1;
    /// An integer.
    pub const INT: i32 = 2;
    /// A text.
    pub const STRING: i32 = 3;
    /// A tensor.
    pub const TENSOR: i32 = 4;
    /// A graph.
    pub const GRAPH: i32 = 5;
    /// Numbers.
    pub const FLOATS: i32 = 6;
    /// Integers.
    pub const INTS: i32 = 7;
}

/// `TensorProto.data_location` of a tensor whose bytes are in another file.
pub const EXTERNAL: i32 = 1;

/// ONNX's number for an element type.
pub fn data_type(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I8 => 3,
        DType::I16 => 5,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bool => 9,
        DType::F16 => 10,
        DType::F64 => 11,
        DType::BF16 => 16,
    }
}

/// The element type of an ONNX number.
pub fn dtype(data_type: i32) -> Option<DType> {
    DType::ALL.iter().copied().find(|&dtype| self::data_type(dtype) == data_type)
}
