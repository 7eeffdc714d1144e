//! A tensor of codes: small whole numbers or tiny floats, decoded while they are lent.
//!
//! Every scheme comes to the same sum, `weight = scale · (number − zero)`, with one scale and one zero point for a group of
//! inputs of an output. They differ in where the three are stored. Differences and products are rounded to f32 one by
//! one, which is what the schemes' own libraries compute in f32.
//!
//! Files are laid out for the kernels of their time: many store the matrix transposed, so that a row of it is spread over
//! all of its pages. Codes are read in boxes that touch each page once for many rows, and pages are given back while
//! reading: a lent range costs its numbers and a few megabytes, however large the tensor is.

use std::ops::Range;

use super::codes::{Codes, Layout};
use super::error::QuantisedError;
use super::grid::{Groups, Scales, Zeros};
use super::numbers::{Float8, Numbers};
use super::part::Part;
use crate::mapping::MappingError;
use crate::weights::source::SourceError;

/// Codes of a box that are unpacked at a time.
const STAGE: usize = 4096;

/// Rows, and columns, of such a box where neighbours in a row are not neighbours in the file.
const SIDE: u64 = 64;

/// Most rows whose scales are held.
const ROWS: u64 = 1024;

/// Scales that are held, roughly.
const HELD: u64 = 128 << 10;

/// Codes after which their pages are given back.
const SWEPT: u64 = 4 << 20;

/// A matrix of codes, or a stack of such matrices; see the module documentation.
#[derive(Debug, Clone)]
pub(in crate::weights) struct Coded {
    /// What its scheme is called.
    pub(super) scheme: &'static str,
    pub(super) codes: Codes,
    pub(super) numbers: Numbers,
    pub(super) scales: Scales,
    pub(super) zeros: Zeros,
    pub(super) groups: Groups,
    /// How many groups there are.
    pub(super) group_count: u64,
    pub(super) order: Order,
}

/// How the logical tensor relates to the rows and columns of the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Its last axis is the columns.
    Rows,
    /// It is a stack of matrices of so many rows, each of them transposed.
    Transposed(u64),
}

/// How a box of codes is gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    /// Row by row, where the file has it so.
    Lines,
    /// In squares, for a result whose neighbours are in a column.
    Squares,
}

/// Where the numbers of a box go: the distances between rows and between columns.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    column: usize,
}

impl Coded {
    /// A tensor of one-byte floats as it stands.
    pub(in crate::weights) fn plain(part: Part, float: Float8) -> Self {
        let columns = part.shape.last().copied().unwrap_or(1).max(1);
        let rows = part.count() / columns;
        Coded {
            scheme: float.name(),
            codes: Codes { part, layout: Layout::Bytes, rows, columns },
            numbers: Numbers::Float(float),
            scales: Scales::One,
            zeros: Zeros::Fixed(0.0),
            groups: Groups::Runs(columns),
            group_count: 1,
            order: Order::Rows,
        }
    }

    /// A matrix with a scale for each `block` of rows and columns; without one, with a scale for each row, or a single one.
    pub(super) fn scaled(
        scheme: &'static str,
        codes: Codes,
        numbers: Numbers,
        scale: Part,
        block: Option<[u64; 2]>,
    ) -> Result<Self, QuantisedError> {
        let (rows, columns) = (codes.rows, codes.columns);
        let (step, group) = match block {
            Some([step, group]) => (step, group),
            None if scale.count() == 1 => (rows, columns),
            None => (1, columns),
        };
        let (lines, width) = (rows.div_ceil(step), columns.div_ceil(group));
        // A single scale has any shape; a column of them may lack its second axis.
        let scale = match block {
            None if scale.count() == 1 || scale.shape == [rows] => scale,
            _ => scale.shaped(&[lines, width], format!("for a weight of {rows} by {columns}"))?,
        };
        Ok(Coded {
            scheme,
            codes,
            numbers,
            scales: Scales::Rows { part: scale, step, width },
            zeros: Zeros::Fixed(0.0),
            groups: Groups::Runs(group),
            group_count: width,
            order: Order::Rows,
        })
    }

    /// The tensor that holds the codes.
    pub(in crate::weights) fn part(&self) -> &Part {
        &self.codes.part
    }

    /// How many elements there are.
    pub(super) fn count(&self) -> u64 {
        self.codes.rows * self.codes.columns
    }

    /// The elements `elements` of the logical tensor, which is called `name`, as little-endian f32.
    pub(in crate::weights) fn lend(&self, name: &str, elements: Range<u64>) -> Result<Vec<u8>, SourceError> {
        let count = self.count();
        if elements.start > elements.end || elements.end > count {
            return Err(SourceError::OutOfRange { tensor: name.to_owned(), range: elements, count });
        }
        let mut out = vec![0; (elements.end - elements.start) as usize * 4];
        match self.decode(elements, &mut out) {
            Ok(()) => Ok(out),
            Err(error) => Err(SourceError::Read { tensor: name.to_owned(), error: error.into() }),
        }
    }

    fn decode(&self, elements: Range<u64>, out: &mut [u8]) -> Result<(), MappingError> {
        // A line is what lies together in the logical tensor: a row, or with `Transposed` a column within one matrix.
        let (line, lines) = match self.order {
            Order::Rows => (self.codes.columns, self.codes.rows),
            Order::Transposed(rows) => (rows, self.codes.columns),
        };
        let mut at = elements.start;
        while at < elements.end {
            let (first, within) = (at / line, at % line);
            let whole = (elements.end - at) / line;
            let (count, width) = match whole > 0 && within == 0 {
                // Lines of one matrix only.
                true => (whole.min(lines - first % lines), line),
                false => (1, (line - within).min(elements.end - at)),
            };
            let across = within..within + width;
            let from = (at - elements.start) as usize;
            let out = &mut out[from * 4..][..(count * width) as usize * 4];
            match self.order {
                Order::Rows => {
                    let place = Place { row: width as usize, column: 1 };
                    self.decode_box(first..first + count, across, place, out)?;
                }
                Order::Transposed(rows) => {
                    let (matrix, column) = (first / lines, first % lines);
                    let place = Place { row: 1, column: width as usize };
                    let rows = matrix * rows + across.start..matrix * rows + across.end;
                    self.decode_box(rows, column..column + count, place, out)?;
                }
            }
            at += count * width;
        }
        Ok(())
    }

    /// Decodes a box of codes into `out`.
    fn decode_box(
        &self,
        rows: Range<u64>,
        columns: Range<u64>,
        place: Place,
        out: &mut [u8],
    ) -> Result<(), MappingError> {
        let group_of = self.groups.of(columns.clone(), self.group_count)?;
        let groups = match self.groups {
            Groups::Runs(_) => group_of[0]..group_of[group_of.len() - 1] + 1,
            Groups::Listed(_) => 0..self.group_count,
        };
        let per_row = (groups.end - groups.start) as usize;
        let held = (HELD / per_row as u64).clamp(1, ROWS);
        let held = if held > SIDE { held / SIDE * SIDE } else { held };
        let cells = held as usize * per_row;
        let (mut scales, mut zeros) = (vec![0.0; cells], vec![0.0; cells]);
        let mut numbers = [0.0; STAGE];
        let sweep = if place.column == 1 { Sweep::Lines } else { Sweep::Squares };
        for block in cut(rows.clone(), held) {
            let cells = (block.end - block.start) as usize * per_row;
            self.scales.read(block.clone(), groups.clone(), &mut scales[..cells])?;
            self.zeros.read(block.clone(), groups.clone(), &mut zeros[..cells])?;
            self.sweep(block.clone(), columns.clone(), sweep, &mut |row, first, codes| {
                let cells = (row - block.start) as usize * per_row;
                let column = (first - columns.start) as usize;
                let numbers = &mut numbers[..codes.len()];
                let mut from = 0;
                for run in group_of[column..][..codes.len()].chunk_by(|a, b| a == b) {
                    let cell = cells + (run[0] - groups.start) as usize;
                    let to = from + run.len();
                    self.numbers.decode(&codes[from..to], zeros[cell], scales[cell], &mut numbers[from..to]);
                    from = to;
                }
                let first = (row - rows.start) as usize * place.row + column * place.column;
                put(numbers, place.column, &mut out[first * 4..]);
            })?;
        }
        Ok(())
    }

    /// Unpacks the codes of a box, and gives `visit` pieces of rows: the row, the first column, and the codes from there
    /// on.
    pub(super) fn sweep(
        &self,
        rows: Range<u64>,
        columns: Range<u64>,
        sweep: Sweep,
        visit: &mut dyn FnMut(u64, u64, &[u8]),
    ) -> Result<(), MappingError> {
        let straight = self.codes.along_rows() && sweep == Sweep::Lines;
        let (tall, wide) = if straight { (1, STAGE as u64) } else { (SIDE, SIDE) };
        let mut codes = [0; STAGE];
        let mut swept = columns.start;
        for strip in cut(columns.clone(), wide) {
            let width = (strip.end - strip.start) as usize;
            for tile in cut(rows.clone(), tall) {
                let size = (tile.end - tile.start) as usize * width;
                self.codes.read(tile.clone(), strip.clone(), &mut codes[..size])?;
                tile.zip(codes[..size].chunks_exact(width)).for_each(|(row, codes)| visit(row, strip.start, codes));
            }
            if !self.codes.along_rows() && (strip.end - swept) * self.codes.rows >= SWEPT {
                self.codes.release(rows.clone(), swept..strip.end);
                swept = strip.end;
            }
        }
        if !straight {
            self.codes.release(rows, swept..columns.end);
        }
        Ok(())
    }

    /// Gives back the memory of what was read for `elements`.
    pub(in crate::weights) fn release(&self, elements: Range<u64>) {
        let elements = elements.start..elements.end.min(self.count());
        if self.order == Order::Rows && elements.start < elements.end && self.codes.along_rows() {
            let columns = self.codes.columns;
            self.codes.release(elements.start / columns..elements.end.div_ceil(columns), 0..columns);
        }
        for part in self.scales.part().into_iter().chain(self.zeros.part()) {
            part.release(0, part.count());
        }
    }
}

/// `range` in pieces of `size`.
fn cut(range: Range<u64>, size: u64) -> impl Iterator<Item = Range<u64>> {
    range.clone().step_by(size as usize).map(move |start| start..(start + size).min(range.end))
}

/// Writes numbers with `step` elements from one to the next.
fn put(numbers: &[f32], step: usize, out: &mut [u8]) {
    if step == 1 {
        out[..numbers.len() * 4].copy_from_slice(bytemuck::cast_slice(numbers));
        return;
    }
    for (out, number) in out.chunks_mut(step * 4).zip(numbers) {
        out[..4].copy_from_slice(&number.to_le_bytes());
    }
}
