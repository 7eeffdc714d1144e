//! What can be wrong with a GGUF file, and where.

/// A file that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {fault}")]
pub struct GgufError {
    /// Where in the file, counted from its beginning.
    pub offset: u64,
    /// What is wrong there.
    pub fault: GgufFault,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufFault {
    /// Another format.
    #[error("the file begins with {found:?}, not with \"GGUF\"; it is no GGUF file")]
    Magic {
        /// The first bytes.
        found: String,
    },
    /// Written for big-endian machines.
    #[error("the file is big-endian; convert it again for little-endian machines")]
    BigEndian,
    /// A version that is not read.
    #[error("the file is of GGUF version {found}; versions 2 and 3 are read")]
    Version {
        /// The version.
        found: u32,
    },
    /// The file ends inside of something.
    #[error(
        "{what} takes {needed} bytes and {remaining} remain; the download or copy stopped early, or the file is damaged"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes it takes.
        needed: u64,
        /// Bytes up to the end of the file.
        remaining: u64,
    },
    /// More of something than the rest of the file can hold.
    #[error("{claimed} {what} are claimed; the {remaining} bytes that remain cannot hold them")]
    Count {
        /// Of what.
        what: &'static str,
        /// The claim.
        claimed: u64,
        /// Bytes up to the end of the file.
        remaining: u64,
    },
    /// Bytes that are no text.
    #[error("{what} is not UTF-8")]
    NotText {
        /// What was being read.
        what: &'static str,
    },
    /// A flag that is neither.
    #[error("a flag has the value {found}; 0 or 1 was expected")]
    Flag {
        /// The value.
        found: u8,
    },
    /// A type of metadata that does not exist.
    #[error("metadata has the type {found}; types end at {}", super::value::LAST_KIND)]
    ValueType {
        /// The number of the type.
        found: u32,
    },
    /// Lists within lists within lists.
    #[error("lists are nested more than {limit} deep")]
    Nesting {
        /// The most that is read.
        limit: usize,
    },
    /// A key that was there before.
    #[error("the key `{key}` stands twice in the metadata")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A tensor that was there before.
    #[error("tensor `{tensor}` is listed twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// `general.alignment` is no alignment.
    #[error("`general.alignment` is {found}; a power of two was expected")]
    Alignment {
        /// What stands there.
        found: String,
    },
    /// More dimensions than the format has.
    #[error("tensor `{tensor}` has {found} dimensions; at most {limit} are read")]
    Rank {
        /// The tensor.
        tensor: String,
        /// The claim.
        found: u32,
        /// The most that is read.
        limit: u32,
    },
    /// Dimensions whose product is nothing, or too much.
    #[error("tensor `{tensor}` has dimensions {dims:?}, of no elements or of more than can be counted")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// Dimensions in the order of the file.
        dims: Vec<u64>,
    },
    /// Rows that are no whole number of blocks.
    #[error("tensor `{tensor}` is of type {ty}, in blocks of {block}; its rows of {row} are no whole number of them")]
    PartialBlock {
        /// The tensor.
        tensor: String,
        /// Its type.
        ty: &'static str,
        /// Elements of a block.
        block: u64,
        /// Elements of a row.
        row: u64,
    },
    /// A tensor that begins between two multiples of the alignment.
    #[error("tensor `{tensor}` begins {at} bytes into the data; a multiple of {alignment} was expected")]
    Unaligned {
        /// The tensor.
        tensor: String,
        /// Its place in the data.
        at: u64,
        /// What it should be a multiple of.
        alignment: u64,
    },
    /// A tensor that reaches past the end of the file.
    #[error(
        "tensor `{tensor}` ends at byte {expected} and the file at {found}; the download or copy stopped early, fetch it again"
    )]
    Outside {
        /// The tensor.
        tensor: String,
        /// Where it ends; the largest number if it cannot be counted.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors `{first}` and `{second}` share bytes")]
    Overlap {
        /// A tensor.
        first: String,
        /// One that begins before its end.
        second: String,
    },
}
