//! Stored parts: the tensors of a file that together make up one logical tensor.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use qeff_plugin_api::DType;

use super::error::QuantisedError;
use super::numbers::Float8;
use crate::mapping::{Mapping, MappingError};
use crate::weights::convert::Converter;

/// How the elements of a stored tensor are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::weights) enum Stored {
    /// As numbers that a graph can hold, too.
    Plain(DType),
    /// As numbers of one byte.
    Float8(Float8),
}

impl Stored {
    fn size(self) -> u64 {
        match self {
            Stored::Plain(dtype) => dtype.size() as u64,
            Stored::Float8(_) => 1,
        }
    }

    /// Whether the elements are floating-point numbers.
    pub(super) fn is_float(self) -> bool {
        match self {
            Stored::Plain(dtype) => dtype.is_float(),
            Stored::Float8(_) => true,
        }
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stored::Plain(dtype) => dtype.fmt(f),
            Stored::Float8(float) => f.write_str(float.name()),
        }
    }
}

/// A stored tensor and where it lies.
#[derive(Debug, Clone)]
pub(in crate::weights) struct Part {
    pub(in crate::weights) name: String,
    pub(in crate::weights) stored: Stored,
    pub(in crate::weights) shape: Vec<u64>,
    pub(in crate::weights) mapping: Arc<Mapping>,
    /// Its bytes in the file.
    pub(in crate::weights) range: Range<u64>,
}

impl Part {
    /// Number of elements.
    pub(super) fn count(&self) -> u64 {
        (self.range.end - self.range.start) / self.stored.size()
    }

    /// The bytes of `count` elements from `first`.
    pub(super) fn bytes(&self, first: u64, count: u64) -> Result<&[u8], MappingError> {
        let size = self.stored.size();
        let at = |element: u64| element.checked_mul(size)?.checked_add(self.range.start);
        let (start, end) = (at(first), first.checked_add(count).and_then(at));
        let range = start.unwrap_or(u64::MAX)..end.unwrap_or(u64::MAX);
        match range.end <= self.range.end {
            true => self.mapping.bytes(range),
            false => Err(MappingError::Outside { path: self.mapping.path().to_owned(), range, length: self.range.end }),
        }
    }

    /// The numbers from `first`, as many as `out` holds.
    ///
    /// The elements have to be floating-point numbers.
    pub(super) fn floats(&self, first: u64, out: &mut [f32]) -> Result<(), MappingError> {
        let bytes = self.bytes(first, out.len() as u64)?;
        match self.stored {
            Stored::Float8(float) => {
                let table = float.table();
                bytes.iter().zip(out).for_each(|(&byte, out)| *out = table[usize::from(byte)]);
            }
            Stored::Plain(dtype) => match Converter::new(dtype, DType::F32, &[]) {
                Some(converter) => converter.run(bytes, bytemuck::cast_slice_mut(out)),
                None => unreachable!("checked by `float`"),
            },
        }
        Ok(())
    }

    /// The 32-bit word at `index`; the elements have to be such words.
    pub(super) fn word(&self, index: u64) -> Result<u32, MappingError> {
        Ok(word(self.bytes(index, 1)?, 0))
    }

    /// All elements, which have to be 32-bit or 64-bit integers; for small tensors.
    pub(super) fn integers(&self) -> Result<Vec<i64>, QuantisedError> {
        let bytes = self.bytes(0, self.count());
        let bytes = bytes.map_err(|error| self.refuse("a tensor within its file".into(), error.to_string()))?;
        let integer = |bytes: &[u8]| match *bytes {
            [a, b, c, d] => i32::from_le_bytes([a, b, c, d]).into(),
            [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => unreachable!("checked by `typed`"),
        };
        Ok(bytes.chunks_exact(self.stored.size() as usize).map(integer).collect())
    }

    /// Gives back the memory of `count` elements from `first`.
    pub(super) fn release(&self, first: u64, count: u64) {
        let size = self.stored.size();
        let start = self.range.start.saturating_add(first.saturating_mul(size));
        let end = start.saturating_add(count.saturating_mul(size)).min(self.range.end);
        if start < end {
            self.mapping.release(start..end);
        }
    }

    /// Refuses another shape than `expected`.
    pub(super) fn shaped(self, expected: &[u64], why: impl fmt::Display) -> Result<Self, QuantisedError> {
        match self.shape == expected {
            true => Ok(self),
            false => Err(self.refuse(format!("shape {expected:?}, {why}"), format!("{:?}", self.shape))),
        }
    }

    /// Refuses elements other than `expected`.
    pub(super) fn typed(self, expected: &[Stored]) -> Result<Self, QuantisedError> {
        if expected.contains(&self.stored) {
            return Ok(self);
        }
        let names: Vec<_> = expected.iter().map(Stored::to_string).collect();
        Err(self.refuse(names.join(" or "), self.stored.to_string()))
    }

    /// Refuses elements that are no floating-point numbers.
    pub(super) fn float(self) -> Result<Self, QuantisedError> {
        match self.stored.is_float() {
            true => Ok(self),
            false => Err(self.refuse("floating-point numbers".into(), self.stored.to_string())),
        }
    }

    /// Refuses another number of axes than `rank`, or an empty tensor.
    pub(super) fn ranked(self, rank: usize) -> Result<Self, QuantisedError> {
        match self.shape.len() == rank && self.count() > 0 {
            true => Ok(self),
            false => Err(self.refuse(format!("{rank} axes and no empty one"), format!("shape {:?}", self.shape))),
        }
    }

    /// An error about this tensor.
    pub(super) fn refuse(&self, expected: String, found: String) -> QuantisedError {
        let file = self.mapping.path().to_owned();
        QuantisedError { tensor: self.name.clone(), file, expected, found }
    }
}

/// Word `index` of little-endian bytes.
pub(super) fn word(bytes: &[u8], index: usize) -> u32 {
    let at = index * 4;
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
