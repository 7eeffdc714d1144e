//! The descriptors, as protobuf: the one inside of a QPC (`aicnwdesc`) and the one that a runtime hands out (`aicapi`).
//!
//! Fields that nothing here uses are left out; a decoder skips them.

/// `networkdesc.bin`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NetworkDescriptor {
    #[prost(uint32, tag = "1")]
    pub(super) major: u32,
    #[prost(uint32, tag = "2")]
    pub(super) minor: u32,
    #[prost(string, tag = "3")]
    pub(super) network_name: String,
    #[prost(message, repeated, tag = "4")]
    pub(super) inputs: Vec<NetworkBinding>,
    #[prost(message, repeated, tag = "5")]
    pub(super) outputs: Vec<NetworkBinding>,
    #[prost(uint32, tag = "7")]
    pub(super) num_cores: u32,
    #[prost(int32, tag = "14")]
    pub(super) batch_size: i32,
    #[prost(message, repeated, tag = "18")]
    pub(super) allowed_shapes: Vec<Shapes>,
}

/// An input or output with its forms before and after the host's conversions.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NetworkBinding {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) initial: Option<Form>,
    #[prost(message, optional, tag = "3")]
    pub(super) transformed: Option<Form>,
    #[prost(bool, tag = "5")]
    pub(super) is_partial_allowed: bool,
}

/// `IODescriptor`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Form {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(int32, repeated, tag = "4")]
    pub(super) dims: Vec<i32>,
}

/// The shapes of all bindings in one specialization.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Shapes {
    #[prost(message, repeated, tag = "1")]
    pub(super) shapes: Vec<Shape>,
}

/// `tensorShape`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Shape {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(int32, repeated, tag = "2")]
    pub(super) dims: Vec<i32>,
}

/// `IoDesc`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct IoDesc {
    #[prost(message, optional, tag = "2")]
    pub(super) selected_set: Option<IoSet>,
    #[prost(string, tag = "3")]
    pub(super) program_name: String,
    #[prost(message, repeated, tag = "8")]
    pub(super) allowed_shapes: Vec<Shapes>,
}

/// `IoSet`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct IoSet {
    #[prost(message, repeated, tag = "2")]
    pub(super) bindings: Vec<IoBinding>,
}

/// `IoBinding`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct IoBinding {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint32, tag = "2")]
    pub(super) index: u32,
    #[prost(int32, tag = "3")]
    pub(super) kind: i32,
    #[prost(int32, tag = "4")]
    pub(super) dir: i32,
    #[prost(int32, repeated, tag = "7")]
    pub(super) dims: Vec<i32>,
    #[prost(bool, tag = "10")]
    pub(super) is_partial_buf_allowed: bool,
}
