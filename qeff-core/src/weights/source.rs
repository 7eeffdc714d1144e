//! Where tensors come from, as far as evaluation is concerned.
//!
//! Evaluation asks for runs of elements in the stored type and gives them back; it must not know whether they lie in a
//! mapped file or are decoded block by block (GGUF, quantised checkpoints, a plugin's own format).

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use qeff_plugin_api::{DType, TensorIndex, TensorInfo};

use super::blocks::{BlockPart, Encoding};

/// Why a source does not give a tensor.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no tensor of this name.
    #[error("the checkpoint has no tensor `{0}`")]
    Missing(String),
    /// The tensor is there, in a type that cannot be evaluated.
    #[error("tensor `{tensor}` in {place} is stored as {dtype}, which cannot be read as numbers here")]
    Unsupported {
        /// The tensor.
        tensor: String,
        /// File, or whatever holds it.
        place: String,
        /// The type by its name in the file.
        dtype: String,
    },
    /// More elements were asked for than the tensor has.
    #[error("tensor `{tensor}` has {count} elements; elements {}..{} were asked for", range.start, range.end)]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// The elements asked for.
        range: Range<u64>,
        /// Elements in the tensor.
        count: u64,
    },
    /// A part of blocks was asked for that the tensor does not have: no blocks at all, or none with that part.
    #[error("tensor `{tensor}` has no {part} in blocks")]
    NoSuchPart {
        /// The tensor.
        tensor: String,
        /// The part.
        part: &'static str,
    },
    /// The bytes could not be read or decoded.
    #[error("cannot read tensor `{tensor}`: {error}")]
    Read {
        /// The tensor.
        tensor: String,
        /// What went wrong.
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Where a stored tensor lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorView<'a> {
    /// Element type as stored.
    pub dtype: DType,
    /// Dimensions as stored, slowest first.
    pub shape: &'a [u64],
    /// Position in [`Checkpoint::files`](super::Checkpoint::files).
    pub file: usize,
    /// That file.
    pub path: &'a Path,
    /// First byte, counted from the beginning of the file.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

impl TensorView<'_> {
    /// The bytes of the tensor, counted from the beginning of the file.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.length
    }

    /// Whether it begins at a multiple of its element's size, counted from the beginning of the file.
    pub fn is_aligned(&self) -> bool {
        self.offset.is_multiple_of(self.dtype.size() as u64)
    }
}

/// A set of stored tensors that can be read in runs.
///
/// Implementations are shared by all workers of a write and have to be cheap to ask repeatedly: a transposed weight is
/// asked for in runs of rows, front to back.
pub trait TensorSource: Sync {
    /// Names, types and shapes of all tensors that can be read.
    fn index(&self) -> &TensorIndex;

    /// Type and shape of `name`.
    ///
    /// # Errors
    /// [`SourceError::Missing`]; sources that know more about a name outside their index (a type they cannot read) say it
    /// here.
    fn info(&self, name: &str) -> Result<&TensorInfo, SourceError> {
        self.index().get(name).ok_or_else(|| SourceError::Missing(name.to_owned()))
    }

    /// Where `name` lies in a file as the numbers that the index says it has; `None` if nothing lies anywhere that could be
    /// read without decoding it.
    fn stored(&self, name: &str) -> Option<TensorView<'_>> {
        let _ = name;
        None
    }

    /// Elements `elements` of tensor `name` in row-major order: little-endian, in the type the index states, of any
    /// alignment.
    ///
    /// A source that decodes may be asked for a range that cuts its blocks; it decodes those that the range touches and
    /// lends the part asked for. Evaluation keeps one lent range at a time and bounds its length.
    ///
    /// # Errors
    /// As [`Self::info`], [`SourceError::OutOfRange`], and [`SourceError::Read`] for whatever the storage says.
    fn lend(&self, name: &str, elements: Range<u64>) -> Result<Cow<'_, [u8]>, SourceError>;

    /// Copies elements `elements` of tensor `name`, as [`Self::lend`] lends them, into `to`, which they fill exactly.
    ///
    /// # Errors
    /// As [`Self::lend`].
    fn read(&self, name: &str, elements: Range<u64>, to: &mut [u8]) -> Result<(), SourceError> {
        copy_lent(self, name, elements, to)
    }

    /// Says that elements lent before are not needed for now. Only memory depends on it: they may be asked for again.
    fn release(&self, name: &str, elements: Range<u64>) {
        let _ = (name, elements);
    }

    /// How `name` is stored, if that is not as plain numbers. What is said here never changes what [`Self::lend`] gives.
    fn encoding(&self, name: &str) -> Option<Encoding<'_>> {
        let _ = name;
        None
    }

    /// Writes a part of the blocks `blocks` of `name`; see [`blocks`](super::blocks) for what blocks are and how they are
    /// numbered.
    ///
    /// # Errors
    /// As [`Self::lend`]; [`SourceError::NoSuchPart`] if [`Self::encoding`] states no blocks, or none with such a part.
    fn read_blocks(&self, name: &str, blocks: Range<u64>, part: BlockPart<'_>) -> Result<(), SourceError> {
        let _ = blocks;
        Err(SourceError::NoSuchPart { tensor: name.to_owned(), part: part.name() })
    }
}

/// [`TensorSource::read`] for what is only lent.
pub(super) fn copy_lent(
    source: &(impl TensorSource + ?Sized),
    name: &str,
    elements: Range<u64>,
    to: &mut [u8],
) -> Result<(), SourceError> {
    to.copy_from_slice(&source.lend(name, elements.clone())?);
    source.release(name, elements);
    Ok(())
}
