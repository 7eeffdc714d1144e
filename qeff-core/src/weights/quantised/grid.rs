//! Scales, zero points and groups: what turns the codes of a matrix into its weights.
//!
//! A group is the run of inputs, or with act-order the set of them, that share a scale within an output.

use std::ops::Range;

use qeff_plugin_api::DType;

use super::codes::Packing;
use super::error::QuantisedError;
use super::part::{Part, Stored, word};
use crate::mapping::MappingError;

/// To which group an input belongs.
#[derive(Debug, Clone)]
pub(super) enum Groups {
    /// Groups of so many neighbours; the last one may be shorter.
    Runs(u64),
    /// As a tensor says, input by input (act-order). [`Groups::listed`] has seen that every number in it is a group.
    Listed(Part),
}

impl Groups {
    /// The groups that `part` lists, of which there are `count`; runs of `size`, if that is what it lists.
    pub(super) fn listed(part: Part, size: u64, count: u64) -> Result<Self, QuantisedError> {
        let part = part.typed(&[Stored::Plain(DType::I32)])?;
        let groups = part.integers()?;
        if let Some((input, group)) = groups.iter().enumerate().find(|(_, group)| !(0..count as i64).contains(group)) {
            return Err(
                part.refuse(format!("groups from 0 to {}", count - 1), format!("group {group} for input {input}"))
            );
        }
        let runs = groups.iter().enumerate().all(|(input, &group)| input as u64 / size == group.unsigned_abs());
        Ok(if runs { Groups::Runs(size) } else { Groups::Listed(part) })
    }

    /// The groups of `columns`, of which there are `count` in all.
    pub(super) fn of(&self, columns: Range<u64>, count: u64) -> Result<Vec<u64>, MappingError> {
        match self {
            Groups::Runs(size) => Ok(columns.map(|column| column / size).collect()),
            Groups::Listed(part) => {
                let words = part.bytes(columns.start, columns.end - columns.start)?;
                // Were the file changed since, a number would be wrong, and nothing worse.
                let group = |at| u64::from(word(words, at)).min(count - 1);
                Ok((0..words.len() / 4).map(group).collect())
            }
        }
    }
}

/// The scales of a matrix.
#[derive(Debug, Clone)]
pub(super) enum Scales {
    /// None: the codes are the numbers.
    One,
    /// `[rows / step, groups]`: so many rows share a line.
    Rows {
        /// The stored scales.
        part: Part,
        /// Rows of the matrix to a line.
        step: u64,
        /// Numbers in a line, at least as many as there are groups.
        width: u64,
    },
    /// `[groups, rows]`.
    Groups {
        /// The stored scales.
        part: Part,
        /// Rows of the matrix.
        rows: u64,
    },
}

/// The zero points of a matrix, in the units of its codes.
#[derive(Debug, Clone)]
pub(super) enum Zeros {
    /// The same everywhere.
    Fixed(f32),
    /// Packed in words.
    Packed {
        /// The stored zero points.
        part: Part,
        /// How they follow each other.
        packing: Packing,
        /// Along which axis.
        axis: ZeroAxis,
        /// What is added to the stored number, which wraps.
        plus: u8,
    },
    /// Signed bytes, `[rows, groups]`, or a single one.
    Signed {
        /// The stored zero points.
        part: Part,
        /// Groups of a row; 0 for a single zero point.
        width: u64,
        /// What is added to the stored number.
        base: f32,
    },
}

/// What a stored line of packed zero points is of, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZeroAxis {
    /// Along the rows, `[groups, words]`; of so many words.
    Groups(u64),
    /// Along the rows, transposed: `[words, groups]`; of so many groups.
    Words(u64),
    /// Along the groups, `[rows, words]`; of so many words.
    Rows(u64),
}

impl Scales {
    /// Reads the scales of `rows` and `groups` into `out`, row after row.
    pub(super) fn read(&self, rows: Range<u64>, groups: Range<u64>, out: &mut [f32]) -> Result<(), MappingError> {
        let count = (groups.end - groups.start) as usize;
        match self {
            Scales::One => out.fill(1.0),
            Scales::Rows { part, step, width } => {
                for (row, out) in rows.zip(out.chunks_exact_mut(count)) {
                    part.floats(row / step * width + groups.start, out)?;
                }
            }
            Scales::Groups { part, rows: all } => {
                let mut line = vec![0.0; (rows.end - rows.start) as usize];
                for (at, group) in groups.enumerate() {
                    part.floats(group * all + rows.start, &mut line)?;
                    out[at..].iter_mut().step_by(count).zip(&line).for_each(|(out, scale)| *out = *scale);
                }
            }
        }
        Ok(())
    }

    pub(super) fn part(&self) -> Option<&Part> {
        match self {
            Scales::One => None,
            Scales::Rows { part, .. } | Scales::Groups { part, .. } => Some(part),
        }
    }
}

impl Zeros {
    /// Reads the zero points of `rows` and `groups` into `out`, row after row.
    pub(super) fn read(&self, rows: Range<u64>, groups: Range<u64>, out: &mut [f32]) -> Result<(), MappingError> {
        let count = groups.end - groups.start;
        let cells = rows.flat_map(|row| groups.clone().map(move |group| (row, group)));
        match self {
            Zeros::Fixed(zero) => out.fill(*zero),
            Zeros::Packed { part, packing, axis, plus } => {
                for ((row, group), out) in cells.zip(out) {
                    let (line, shift) = packing.locate(if matches!(axis, ZeroAxis::Rows(_)) { group } else { row });
                    let index = |line: u64| match axis {
                        ZeroAxis::Groups(words) => group * words + line,
                        ZeroAxis::Words(groups) => line * groups + group,
                        ZeroAxis::Rows(words) => row * words + line,
                    };
                    let high = if packing.spills(shift) { part.word(index(line + 1))? } else { 0 };
                    let stored = packing.code(part.word(index(line))?, high, shift);
                    *out = f32::from(packing.wrap(stored, *plus));
                }
            }
            Zeros::Signed { part, width: 0, base } => {
                let zero = part.bytes(0, 1)?[0] as i8;
                out.fill(base + f32::from(zero));
            }
            Zeros::Signed { part, width, base } => {
                let mut lines = cells.step_by(count as usize);
                for out in out.chunks_exact_mut(count as usize) {
                    let Some((row, group)) = lines.next() else { break };
                    let bytes = part.bytes(row * width + group, count)?;
                    out.iter_mut().zip(bytes).for_each(|(out, &zero)| *out = base + f32::from(zero as i8));
                }
            }
        }
        Ok(())
    }

    /// The zero point, if packed ones are all the same: symmetric weights are often stored so.
    pub(super) fn same(&self) -> Result<Option<u8>, MappingError> {
        let Zeros::Packed { part, packing, plus, .. } = self else { return Ok(None) };
        let words = part.bytes(0, part.count())?;
        let first = word(words, 0);
        let code = packing.code(first, 0, 0);
        let uniform = |at: u32| packing.code(first, first, at * packing.bits()) == code;
        // A width that does not divide a word has no two words alike.
        let even = 32 % packing.bits() == 0 && (0..32 / packing.bits()).all(uniform);
        let same = even && words.chunks_exact(4).all(|word| word == &words[..4]);
        Ok(same.then(|| packing.wrap(code, *plus)))
    }

    pub(super) fn part(&self) -> Option<&Part> {
        match self {
            Zeros::Fixed(_) => None,
            Zeros::Packed { part, .. } | Zeros::Signed { part, .. } => Some(part),
        }
    }
}
