//! GGUF files: one file with a model's metadata, vocabulary and tensors, most of them quantised in blocks.
//!
//! [`Header::read`] borrows from the bytes of the file: a vocabulary of hundreds of thousands of tokens is validated once
//! where it lies and copied by whoever wants it. Every count and length is a stranger's claim and is measured against the
//! bytes that remain before anything follows from it, so no claim costs memory, and each refusal says at which byte.
//!
//! Numbers are checked before they are believed here and nowhere else; `blocks` decodes what `header` has measured.
//! This module does not know what a key or a tensor means: config, tokenizer and names are other people's business.

mod blocks;
mod error;
mod header;
mod types;
mod value;

pub use error::{GgufError, GgufFault};
pub use header::{Header, Tensor};
pub use types::{BlockType, Storage};
pub use value::{Array, Value};
