//! Where the code of a row and a column is stored.
//!
//! A row is an output of the matrix and a column an input, however a file lays them out.

use std::ops::Range;

use super::error::QuantisedError;
use super::part::{Part, word};
use crate::mapping::MappingError;

/// Place of output `i` of eight within a word of AutoAWQ.
const AWQ_PLACES: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// How codes follow each other in 32-bit words, lowest bits first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// As many whole codes as fit; bits that are left stay empty.
    Whole {
        /// Bits of a code, 1 to 8.
        bits: u32,
    },
    /// Without gaps: a code may begin in one word and end in the next.
    Dense {
        /// Bits of a code, 1 to 8.
        bits: u32,
    },
    /// Eight codes of four bits in AutoAWQ's order.
    Awq,
}

impl Packing {
    pub(super) fn bits(self) -> u32 {
        match self {
            Packing::Whole { bits } | Packing::Dense { bits } => bits,
            Packing::Awq => 4,
        }
    }

    /// Words that `count` codes take.
    pub(super) fn words(self, count: u64) -> u64 {
        match self {
            Packing::Whole { bits } => count.div_ceil(32 / u64::from(bits)),
            Packing::Dense { bits } => count.saturating_mul(bits.into()).div_ceil(32),
            Packing::Awq => count.div_ceil(8),
        }
    }

    /// The word in which code `at` begins, and its lowest bit there.
    pub(super) fn locate(self, at: u64) -> (u64, u32) {
        match self {
            Packing::Whole { bits } => {
                let per = 32 / u64::from(bits);
                (at / per, (at % per) as u32 * bits)
            }
            Packing::Dense { bits } => (at * u64::from(bits) / 32, (at * u64::from(bits) % 32) as u32),
            Packing::Awq => (at / 8, AWQ_PLACES[(at % 8) as usize] * 4),
        }
    }

    /// Whether a code from bit `shift` on ends in the next word.
    pub(super) fn spills(self, shift: u32) -> bool {
        shift + self.bits() > 32
    }

    fn mask(self) -> u32 {
        (1 << self.bits()) - 1
    }

    /// `code + plus`, which wraps like a code.
    pub(super) fn wrap(self, code: u8, plus: u8) -> u8 {
        ((u32::from(code) + u32::from(plus)) & self.mask()) as u8
    }

    /// The code whose lowest bit is `shift` of `low`; `high` is the next word, if it spills.
    pub(super) fn code(self, low: u32, high: u32, shift: u32) -> u8 {
        let wide = u64::from(low) | u64::from(high) << 32;
        ((wide >> shift) as u32 & self.mask()) as u8
    }
}

/// How the codes of a matrix are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A byte each, `[rows, columns]`.
    Bytes,
    /// Two to a byte, low half first: `[rows, columns / 2]` bytes.
    Halves,
    /// Words along the columns: `[rows, words]`.
    Rows(Packing),
    /// Words along the columns, transposed: `[words, rows]`.
    Columns(Packing),
    /// Words along the rows: `[columns, words]`.
    Across(Packing),
}

/// The codes of a matrix.
#[derive(Debug, Clone)]
pub(super) struct Codes {
    pub(super) part: Part,
    pub(super) layout: Layout,
    pub(super) rows: u64,
    pub(super) columns: u64,
}

impl Codes {
    /// A matrix of bytes.
    pub(super) fn bytes(part: Part) -> Result<Self, QuantisedError> {
        let part = part.ranked(2)?;
        let (rows, columns) = (part.shape[0], part.shape[1]);
        Ok(Codes { part, layout: Layout::Bytes, rows, columns })
    }

    /// Whether neighbours in a row are neighbours in the file.
    pub(super) fn along_rows(&self) -> bool {
        matches!(self.layout, Layout::Bytes | Layout::Halves | Layout::Rows(_))
    }

    /// Reads a box of codes into `out`, row after row.
    pub(super) fn read(&self, rows: Range<u64>, columns: Range<u64>, out: &mut [u8]) -> Result<(), MappingError> {
        let width = (columns.end - columns.start) as usize;
        let lines = out.chunks_exact_mut(width);
        match self.layout {
            Layout::Bytes => {
                for (row, out) in rows.zip(lines) {
                    out.copy_from_slice(self.part.bytes(row * self.columns + columns.start, width as u64)?);
                }
            }
            Layout::Halves => {
                let (first, last) = (columns.start / 2, columns.end.div_ceil(2));
                for (row, out) in rows.zip(lines) {
                    let bytes = self.part.bytes(row * self.columns.div_ceil(2) + first, last - first)?;
                    for (out, column) in out.iter_mut().zip(columns.clone()) {
                        *out = bytes[(column / 2 - first) as usize] >> (column % 2 * 4) & 15;
                    }
                }
            }
            Layout::Rows(packing) => {
                let (first, skip) = packing.locate(columns.start);
                let (last, shift) = packing.locate(columns.end - 1);
                let end = last + 1 + u64::from(packing.spills(shift));
                for (row, out) in rows.zip(lines) {
                    let words = self.part.bytes(row * packing.words(self.columns) + first, end - first)?;
                    unpack(packing, words, skip, columns.start, first, out);
                }
            }
            Layout::Columns(packing) => {
                let count = rows.end - rows.start;
                for (at, column) in columns.enumerate() {
                    let (line, shift) = packing.locate(column);
                    let low = self.part.bytes(line * self.rows + rows.start, count)?;
                    let spills = packing.spills(shift);
                    let high = if spills { self.part.bytes((line + 1) * self.rows + rows.start, count)? } else { low };
                    for row in 0..count as usize {
                        let high = if spills { word(high, row) } else { 0 };
                        out[row * width + at] = packing.code(word(low, row), high, shift);
                    }
                }
            }
            Layout::Across(packing) => {
                let (first, _) = packing.locate(rows.start);
                let (last, shift) = packing.locate(rows.end - 1);
                let end = last + 1 + u64::from(packing.spills(shift));
                let places: Vec<_> = rows.map(|row| packing.locate(row)).collect();
                for (at, column) in columns.enumerate() {
                    let words = self.part.bytes(column * packing.words(self.rows) + first, end - first)?;
                    for (row, &(line, shift)) in places.iter().enumerate() {
                        let line = (line - first) as usize;
                        let high = if packing.spills(shift) { word(words, line + 1) } else { 0 };
                        out[row * width + at] = packing.code(word(words, line), high, shift);
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives back the memory of the codes of `rows` and `columns`, rounded to whole lines of the file.
    pub(super) fn release(&self, rows: Range<u64>, columns: Range<u64>) {
        let lines = |first: u64, last: u64, width: u64| self.part.release(first * width, (last - first) * width);
        match self.layout {
            Layout::Bytes => lines(rows.start, rows.end, self.columns),
            Layout::Halves => lines(rows.start, rows.end, self.columns.div_ceil(2)),
            Layout::Rows(packing) => lines(rows.start, rows.end, packing.words(self.columns)),
            Layout::Columns(packing) => {
                lines(packing.locate(columns.start).0, packing.locate(columns.end).0 + 1, self.rows);
            }
            Layout::Across(packing) => lines(columns.start, columns.end, packing.words(self.rows)),
        }
    }
}

/// Unpacks the codes from `column` on, which stand in `words` from bit `skip`; `first` is the number of the first word.
fn unpack(packing: Packing, words: &[u8], skip: u32, column: u64, first: u64, out: &mut [u8]) {
    let Packing::Whole { bits } = packing else {
        for (at, out) in out.iter_mut().enumerate() {
            let (line, shift) = packing.locate(column + at as u64);
            let line = (line - first) as usize;
            let high = if packing.spills(shift) { word(words, line + 1) } else { 0 };
            *out = packing.code(word(words, line), high, shift);
        }
        return;
    };
    let per = (32 / bits) as usize;
    let mask = packing.mask();
    let (head, tail) = out.split_at_mut((per - (skip / bits) as usize).min(out.len()));
    let begun = word(words, 0) >> skip;
    head.iter_mut().enumerate().for_each(|(i, out)| *out = (begun >> (i as u32 * bits) & mask) as u8);
    for (at, codes) in tail.chunks_mut(per).enumerate() {
        let whole = word(words, at + 1);
        codes.iter_mut().enumerate().for_each(|(i, out)| *out = (whole >> (i as u32 * bits) & mask) as u8);
    }
}
