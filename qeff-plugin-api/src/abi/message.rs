//! Requests and answers as bytes: small protobuf messages, so that either side may add a field that the other skips.
//!
//! Models inside them are in the wire form. This module knows no function of the boundary and does not trust what it reads.

use prost::Message;

use crate::plugin::{HeaderNeed, PluginError, StoredBlock, StoredTensor};
use crate::{TensorIndex, TensorInfo, onnx};

/// Longest answer about a file's tensors.
const MAX_INDEX_BYTES: usize = 16 << 20;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Tensor {
    #[prost(string, tag = "1")]
    name: String,
    /// ONNX's number.
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(uint64, repeated, tag = "3")]
    shape: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DescribeRequest {
    #[prost(string, tag = "1")]
    pub(super) config: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) tensors: Vec<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) model: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub(super) tensors: Vec<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelAnswer {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) model: Vec<u8>,
    /// Fields of the config that were read, as a JSON list: the host warns of the others.
    #[prost(string, tag = "2")]
    pub(super) read: String,
}

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(message, optional, tag = "1")]
    tensor: Option<Tensor>,
    #[prost(uint64, tag = "2")]
    offset: u64,
    #[prost(uint64, tag = "3")]
    length: u64,
    #[prost(string, tag = "4")]
    encoding: String,
    #[prost(uint64, tag = "5")]
    block_elements: u64,
    #[prost(uint64, tag = "6")]
    block_bytes: u64,
}

#[derive(Clone, PartialEq, Message)]
struct IndexAnswer {
    #[prost(uint64, optional, tag = "1")]
    more: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    tensors: Vec<Stored>,
}

/// Bytes as a message.
pub(super) fn read<M: Message + Default>(bytes: &[u8]) -> Result<M, PluginError> {
    let unread = |error| PluginError::Other(format!("what came over the plugin boundary cannot be read: {error}"));
    M::decode(bytes).map_err(unread)
}

fn tensor(name: &str, info: &TensorInfo) -> Tensor {
    Tensor { name: name.to_owned(), data_type: onnx::data_type(info.dtype), shape: info.shape.clone() }
}

fn tensor_info(tensor: Tensor) -> Result<(String, TensorInfo), PluginError> {
    let Tensor { name, data_type, shape } = tensor;
    match onnx::dtype(data_type) {
        Some(dtype) => Ok((name, TensorInfo { dtype, shape })),
        None => Err(PluginError::Other(format!("tensor `{name}` has the unknown element type {data_type}"))),
    }
}

pub(super) fn tensors(index: &TensorIndex) -> Vec<Tensor> {
    index.iter().map(|(name, info)| tensor(name, info)).collect()
}

pub(super) fn tensor_index(tensors: Vec<Tensor>) -> Result<TensorIndex, PluginError> {
    tensors.into_iter().map(tensor_info).collect()
}

pub(super) fn write_index(need: HeaderNeed) -> Vec<u8> {
    let answer = match need {
        HeaderNeed::More(bytes) => IndexAnswer { more: Some(bytes), tensors: vec![] },
        HeaderNeed::Tensors(all) => IndexAnswer {
            more: None,
            tensors: all
                .into_iter()
                .map(|stored| Stored {
                    tensor: Some(tensor(&stored.name, &stored.info)),
                    offset: stored.offset,
                    length: stored.length,
                    encoding: stored.encoding,
                    block_elements: stored.block.elements,
                    block_bytes: stored.block.bytes,
                })
                .collect(),
        },
    };
    answer.encode_to_vec()
}

pub(super) fn read_index(bytes: &[u8]) -> Result<HeaderNeed, PluginError> {
    if bytes.len() > MAX_INDEX_BYTES {
        return Err(PluginError::Other(format!("the list of tensors takes {} bytes", bytes.len())));
    }
    let answer: IndexAnswer = read(bytes)?;
    if let Some(more) = answer.more {
        return Ok(HeaderNeed::More(more));
    }
    let stored = answer.tensors.into_iter().map(|stored| {
        let tensor = stored.tensor.ok_or_else(|| PluginError::Other("a stored tensor has no name".into()))?;
        let (name, info) = tensor_info(tensor)?;
        let Stored { offset, length, encoding, block_elements: elements, block_bytes: bytes, .. } = stored;
        Ok(StoredTensor { name, info, offset, length, encoding, block: StoredBlock { elements, bytes } })
    });
    Ok(HeaderNeed::Tensors(stored.collect::<Result<_, PluginError>>()?))
}
