//! Files in a format that a plugin reads: its header becomes an index here, its blocks are decoded while they are lent.
//!
//! A plugin says what a file holds and decodes what it is handed; it never opens a file. What it says is checked before it
//! is believed: every block lies in the file, blocks make up whole tensors, and none is so large that decoding one would
//! not fit into memory. So a lent range costs its own numbers and those of two blocks more, however large the tensor is.
//!
//! This module does not know which plugin it talks to, nor in which process that lives.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use qeff_plugin_api::TensorInfo;
use qeff_plugin_api::plugin::{HeaderNeed, PluginError, StoredTensor, WeightFormat};

use super::source::SourceError;
use crate::mapping::Mapping;

/// Bytes of a file that a format is shown first.
const FIRST_LOOK: u64 = 64 << 10;

/// Longest header that a format is given.
const MAX_HEADER: u64 = 256 << 20;

/// How often a format may ask for a longer header.
const MAX_LOOKS: usize = 64;

/// Most bytes that one block may become.
const MAX_BLOCK: u64 = 16 << 20;

/// Why a file of a foreign format cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// The format refuses it.
    #[error(transparent)]
    Refused(#[from] PluginError),
    /// The format asks for a header that there is not.
    #[error(
        "the format asks for a header of {asked} bytes; expected more than the {shown} it was shown, and at most {most}"
    )]
    Header {
        /// Bytes asked for.
        asked: u64,
        /// Bytes it had seen.
        shown: u64,
        /// The length of the file, or the longest header that is read.
        most: u64,
    },
    /// The format says something of a tensor that cannot be.
    #[error("tensor `{tensor}`: expected {expected}, found {found}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What would have been right.
        expected: String,
        /// What the format says.
        found: String,
    },
    /// The format lists a name twice.
    #[error("tensor `{0}` is listed twice")]
    Twice(String),
}

/// How a tensor of a foreign file is to be had.
pub(super) enum Stored {
    /// As it lies there.
    Plain(Range<u64>),
    /// By decoding.
    Encoded(Encoded),
}

/// A tensor that a format decodes.
#[derive(Clone)]
pub(super) struct Encoded {
    format: Arc<dyn WeightFormat>,
    mapping: Arc<Mapping>,
    /// What the format calls its encoding.
    encoding: String,
    range: Range<u64>,
    /// Elements and bytes of a block, neither of them 0.
    block: (u64, u64),
    count: u64,
    size: u64,
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} of {}", self.encoding, self.range, self.mapping.path().display())
    }
}

impl Encoded {
    /// The elements `elements` of the tensor, which is called `name`.
    pub(super) fn lend(&self, name: &str, elements: Range<u64>) -> Result<Vec<u8>, SourceError> {
        if elements.start > elements.end || elements.end > self.count {
            return Err(SourceError::OutOfRange { tensor: name.to_owned(), range: elements, count: self.count });
        }
        if elements.is_empty() {
            return Ok(vec![]);
        }
        let (length, _) = self.block;
        let read =
            |error: Box<dyn std::error::Error + Send + Sync>| SourceError::Read { tensor: name.to_owned(), error };
        let blocks = elements.start / length..elements.end.div_ceil(length);
        let bytes = self.mapping.bytes(self.bytes(&blocks)).map_err(|error| read(error.into()))?;
        let first = blocks.start * length;
        let mut out = vec![0; ((blocks.end * length - first) * self.size) as usize];
        self.format.decode(&self.encoding, bytes, &mut out).map_err(|error| read(error.into()))?;
        out.truncate(((elements.end - first) * self.size) as usize);
        out.drain(..((elements.start - first) * self.size) as usize);
        Ok(out)
    }

    /// Gives the pages of elements back.
    pub(super) fn release(&self, elements: Range<u64>) {
        let (length, _) = self.block;
        self.mapping.release(self.bytes(&(elements.start / length..elements.end.min(self.count).div_ceil(length))));
    }

    /// Where blocks lie that there are.
    fn bytes(&self, blocks: &Range<u64>) -> Range<u64> {
        let (_, bytes) = self.block;
        self.range.start + blocks.start * bytes..self.range.start + blocks.end * bytes
    }
}

/// Asks a format for the tensors of a file, and checks what it says.
pub(super) fn read(
    mapping: &Arc<Mapping>,
    format: &Arc<dyn WeightFormat>,
) -> Result<Vec<(String, TensorInfo, Stored)>, ForeignError> {
    let mut names = std::collections::BTreeSet::new();
    let mut tensors = vec![];
    for tensor in header(mapping, &**format)? {
        if !names.insert(tensor.name.clone()) {
            return Err(ForeignError::Twice(tensor.name));
        }
        let stored = stored(&tensor, mapping, format)?;
        tensors.push((tensor.name, tensor.info, stored));
    }
    Ok(tensors)
}

fn header(mapping: &Mapping, format: &dyn WeightFormat) -> Result<Vec<StoredTensor>, ForeignError> {
    let most = mapping.len().min(MAX_HEADER);
    let mut shown = most.min(FIRST_LOOK);
    for _ in 0..MAX_LOOKS {
        let head = mapping.all().get(..shown as usize).unwrap_or_default();
        match format.index(head, mapping.len())? {
            HeaderNeed::Tensors(tensors) => return Ok(tensors),
            HeaderNeed::More(asked) if asked > shown && asked <= most => shown = asked,
            HeaderNeed::More(asked) => return Err(ForeignError::Header { asked, shown, most }),
        }
    }
    Err(ForeignError::Header { asked: shown, shown, most })
}

/// Where a tensor is, if all that is said of it agrees.
fn stored(
    tensor: &StoredTensor,
    mapping: &Arc<Mapping>,
    format: &Arc<dyn WeightFormat>,
) -> Result<Stored, ForeignError> {
    let StoredTensor { name, info, offset, length, encoding, block } = tensor;
    let wrong = |expected: String, found: String| Err(ForeignError::Tensor { tensor: name.clone(), expected, found });
    let size = info.dtype.size() as u64;
    let count = info.shape.iter().try_fold(1u64, |count, &dim| count.checked_mul(dim));
    let Some((count, total)) = count.and_then(|count| Some((count, count.checked_mul(size)?))) else {
        return wrong("a shape whose bytes can be counted".into(), format!("{:?}", info.shape));
    };
    let Some(end) = offset.checked_add(*length).filter(|&end| end <= mapping.len()) else {
        return wrong(
            format!("bytes within the file's {}", mapping.len()),
            format!("{length} bytes from byte {offset} on"),
        );
    };
    if encoding.is_empty() {
        if total != *length {
            return wrong(
                format!("{total} bytes, as {}{:?} has without an encoding", info.dtype, info.shape),
                length.to_string(),
            );
        }
        return Ok(Stored::Plain(*offset..end));
    }
    if block.elements == 0 || block.bytes == 0 {
        return wrong("a block of at least one element and one byte".into(), format!("{block:?}"));
    }
    match block.elements.checked_mul(size) {
        Some(bytes) if bytes <= MAX_BLOCK => {}
        _ => {
            return wrong(
                format!("a block of at most {} {} numbers", MAX_BLOCK / size.max(1), info.dtype),
                format!("one of {}", block.elements),
            );
        }
    }
    let blocks = count / block.elements;
    if !count.is_multiple_of(block.elements) || blocks.checked_mul(block.bytes) != Some(*length) {
        return wrong(
            format!("whole blocks of {} elements and {} bytes", block.elements, block.bytes),
            format!("{count} elements in {length} bytes"),
        );
    }
    Ok(Stored::Encoded(Encoded {
        format: Arc::clone(format),
        mapping: Arc::clone(mapping),
        encoding: encoding.clone(),
        range: *offset..end,
        block: (block.elements, block.bytes),
        count,
        size,
    }))
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
