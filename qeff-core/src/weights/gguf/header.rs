//! Everything in front of the data of a GGUF file, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::error::{GgufError, GgufFault};
use super::types::Storage;
use super::value::{Reader, Value};

/// Dimensions of a tensor that are read; the format's own implementation has this limit.
const MAX_RANK: u32 = 4;

/// Alignment of the data where the file does not say otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// Bytes of the shortest key with its value, and of the shortest tensor.
const LEAST_PAIR: u64 = 8 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 4 + 4 + 8;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<'a> {
    /// Name.
    pub name: &'a str,
    /// Dimensions, slowest first: the reverse of the file's order.
    pub shape: Vec<u64>,
    /// How the elements are stored.
    pub storage: Storage,
    /// Bytes of the tensor, counted from the beginning of the file; without an end that means anything if the storage is
    /// [`Storage::Unknown`].
    pub range: Range<u64>,
}

/// What a file says before its data.
#[derive(Debug, Clone, PartialEq)]
pub struct Header<'a> {
    /// Version of the format.
    pub version: u32,
    /// Metadata by key.
    pub metadata: BTreeMap<&'a str, Value<'a>>,
    /// Tensors in the order of the file.
    pub tensors: Vec<Tensor<'a>>,
}

impl<'a> Header<'a> {
    /// Reads the header of the file that consists of `bytes`, and measures every tensor against them.
    ///
    /// # Errors
    /// See [`GgufFault`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let mut reader = Reader::new(bytes);
        let version = version(&mut reader)?;
        let tensors = reader.count("tensors", LEAST_TENSOR)?;
        let pairs = reader.count("keys", LEAST_PAIR)?;
        let mut metadata = BTreeMap::new();
        let mut alignment = DEFAULT_ALIGNMENT;
        for _ in 0..pairs {
            let before = reader.clone();
            let key = reader.text("a key")?;
            let value = reader.typed()?;
            if key == "general.alignment" {
                alignment = match value.as_u64() {
                    Some(n) if n.is_power_of_two() => n,
                    found => {
                        let found = found.map_or_else(|| value.kind().to_owned(), |n| n.to_string());
                        return before.fault(GgufFault::Alignment { found });
                    }
                };
            }
            if metadata.insert(key, value).is_some() {
                return before.fault(GgufFault::DuplicateKey { key: key.to_owned() });
            }
        }
        let mut claims = Vec::new();
        let mut names = BTreeSet::new();
        for _ in 0..tensors {
            let claim = Claim::read(&mut reader)?;
            if !names.insert(claim.name) {
                let fault = GgufFault::DuplicateTensor { tensor: claim.name.to_owned() };
                return Err(GgufError { offset: claim.at, fault });
            }
            claims.push(claim);
        }
        // A file without tensors may end before its data would begin.
        let data = reader.at().checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        let found = bytes.len() as u64;
        let tensors: Vec<_> =
            claims.into_iter().map(|claim| claim.place(data, alignment, found)).collect::<Result<_, _>>()?;
        refuse_overlap(&tensors)?;
        Ok(Header { version, metadata, tensors })
    }
}

fn version(reader: &mut Reader<'_>) -> Result<u32, GgufError> {
    let begin = reader.clone();
    let magic = reader.take(4, "the format's mark")?;
    if magic != b"GGUF" {
        // What an unreversed reader on a big-endian machine wrote would begin so.
        let fault = if magic == b"FUGG" {
            GgufFault::BigEndian
        } else {
            GgufFault::Magic { found: magic.escape_ascii().to_string() }
        };
        return begin.fault(fault);
    }
    let begin = reader.clone();
    match reader.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        version if matches!(version.swap_bytes(), 1..=0xffff) => begin.fault(GgufFault::BigEndian),
        found => begin.fault(GgufFault::Version { found }),
    }
}

/// A tensor as the file describes it.
struct Claim<'a> {
    at: u64,
    name: &'a str,
    shape: Vec<u64>,
    storage: Storage,
    /// Place in the data.
    begin: u64,
    length: u64,
}

impl<'a> Claim<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, GgufError> {
        let at = reader.at();
        let refuse = |fault| Err(GgufError { offset: at, fault });
        let name = reader.text("the name of a tensor")?;
        let tensor = || name.to_owned();
        let rank = reader.u32("the number of dimensions")?;
        if rank > MAX_RANK {
            return refuse(GgufFault::Rank { tensor: tensor(), found: rank, limit: MAX_RANK });
        }
        let dims = (0..rank).map(|_| reader.u64("a dimension")).collect::<Result<Vec<_>, _>>()?;
        let storage = Storage::of(reader.u32("the type of a tensor")?);
        let begin = reader.u64("the place of a tensor")?;
        let elements = dims.iter().try_fold(1u64, |count, &dim| count.checked_mul(dim)).filter(|&count| count > 0);
        // Readers multiply by the width of the elements they decode to, 8 at most.
        let Some(elements) = elements.filter(|count| count.checked_mul(8).is_some()) else {
            return refuse(GgufFault::Dimensions { tensor: tensor(), dims });
        };
        let length = match storage.row() {
            None => 0,
            Some(row) => {
                let width = dims.first().copied().unwrap_or(1);
                if !width.is_multiple_of(row.block) {
                    let (ty, block) = (row.name, row.block);
                    return refuse(GgufFault::PartialBlock { tensor: tensor(), ty, block, row: width });
                }
                // No block takes more bytes than eight for each of its elements.
                elements / row.block * row.bytes
            }
        };
        let shape = dims.into_iter().rev().collect();
        Ok(Claim { at, name, shape, storage, begin, length })
    }

    fn place(self, data: u64, alignment: u64, found: u64) -> Result<Tensor<'a>, GgufError> {
        let Claim { at, name, shape, storage, begin, length } = self;
        let refuse = |fault| Err(GgufError { offset: at, fault });
        if !begin.is_multiple_of(alignment) {
            return refuse(GgufFault::Unaligned { tensor: name.to_owned(), at: begin, alignment });
        }
        let start = data.checked_add(begin);
        let end = start.and_then(|start| start.checked_add(length));
        match (start, end) {
            (Some(start), Some(end)) if end <= found => Ok(Tensor { name, shape, storage, range: start..end }),
            (_, end) => {
                refuse(GgufFault::Outside { tensor: name.to_owned(), expected: end.unwrap_or(u64::MAX), found })
            }
        }
    }
}

fn refuse_overlap(tensors: &[Tensor<'_>]) -> Result<(), GgufError> {
    let mut order: Vec<&Tensor<'_>> = tensors.iter().filter(|tensor| !tensor.range.is_empty()).collect();
    order.sort_by_key(|tensor| tensor.range.start);
    for pair in order.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let fault = GgufFault::Overlap { first: pair[0].name.to_owned(), second: pair[1].name.to_owned() };
            return Err(GgufError { offset: pair[1].range.start, fault });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
