//! Codes as blocks with scales, so that an engine may keep them; see [`blocks`](super::super::blocks).
//!
//! Files pack codes for kernels of their own, so they are unpacked and handed on in the one order that all formats share.
//! What fits no blocks (floats, groups of odd length, a weight that is stored transposed) is decoded instead.

use std::ops::Range;

use super::coded::{Coded, Order, Sweep};
use super::codes::Layout;
use super::grid::{Groups, Zeros};
use super::numbers::Numbers;
use crate::mapping::MappingError;
use crate::weights::blocks::{BlockLayout, BlockPart, CodeBits, Encoding, ZeroPoint};
use crate::weights::source::SourceError;

/// Longest block of a group that is a whole row: engines have kernels for blocks, not for rows.
const LONGEST: u64 = 128;

/// What is added to signed bytes to make them codes: half of what a byte holds.
const MIDDLE: u8 = 128;

impl Coded {
    /// How the tensor is stored.
    pub(in crate::weights) fn encoding(&self) -> Encoding<'_> {
        Encoding { name: self.scheme.into(), blocks: self.layout() }
    }

    fn layout(&self) -> Option<BlockLayout> {
        if self.order != Order::Rows {
            return None;
        }
        let bits = match (self.numbers, self.codes.layout) {
            (Numbers::Unsigned, Layout::Rows(packing) | Layout::Columns(packing) | Layout::Across(packing)) => {
                if packing.bits() <= 4 {
                    CodeBits::Four
                } else {
                    CodeBits::Eight
                }
            }
            (Numbers::Signed, Layout::Bytes) => CodeBits::Eight,
            _ => return None,
        };
        let zero = match (&self.zeros, self.numbers) {
            (Zeros::Fixed(_), Numbers::Signed) => ZeroPoint::Constant(MIDDLE),
            (Zeros::Fixed(zero), _) => ZeroPoint::Constant(*zero as u8),
            (Zeros::Signed { .. }, Numbers::Signed) => ZeroPoint::PerBlock,
            (Zeros::Packed { .. }, Numbers::Unsigned) => match self.zeros.same() {
                Ok(Some(zero)) => ZeroPoint::Constant(zero),
                _ => ZeroPoint::PerBlock,
            },
            // Stored beside the middle of the codes, such a zero point may lie outside of them.
            _ => return None,
        };
        let columns = self.codes.columns;
        let (length, ordered) = match &self.groups {
            Groups::Runs(size) => {
                let whole = *size >= columns;
                let odd =
                    if whole { columns.trailing_zeros() } else { size.trailing_zeros().min(columns.trailing_zeros()) };
                let length = 1u64 << odd.min(32);
                (if whole { length.min(LONGEST) } else { length }, false)
            }
            Groups::Listed(_) => (self.members()?, true),
        };
        let layout = BlockLayout { bits, length, zero, ordered };
        layout.blocks_per_row(columns).map(|_| layout)
    }

    /// How many inputs each group has, if all have the same number.
    fn members(&self) -> Option<u64> {
        let groups = self.groups.of(0..self.codes.columns, self.group_count).ok()?;
        let mut members = vec![0; self.group_count as usize];
        groups.iter().for_each(|&group| members[group as usize] += 1);
        members.iter().all(|&count| count == members[0]).then_some(members[0])
    }

    /// Writes a part of the blocks `blocks` of the tensor, which is called `name`.
    pub(in crate::weights) fn read_blocks(
        &self,
        name: &str,
        blocks: Range<u64>,
        part: BlockPart<'_>,
    ) -> Result<(), SourceError> {
        let missing = SourceError::NoSuchPart { tensor: name.to_owned(), part: part.name() };
        let Some(layout) = self.layout() else { return Err(missing) };
        let elements = blocks.start.saturating_mul(layout.length)..blocks.end.saturating_mul(layout.length);
        if elements.start > elements.end || elements.end > self.count() {
            return Err(SourceError::OutOfRange { tensor: name.to_owned(), range: elements, count: self.count() });
        }
        let read = match part {
            BlockPart::Codes(out) => self.read_codes(&layout, blocks, out),
            BlockPart::Scales(out) => {
                self.cells(&layout, blocks, out, |rows, groups, out| self.scales.read(rows, groups, out))
            }
            BlockPart::Zeros(out) if layout.zero == ZeroPoint::PerBlock => {
                let base = if self.numbers == Numbers::Signed { f32::from(MIDDLE) } else { 0.0 };
                let mut zeros = vec![0.0; out.len()];
                let read =
                    self.cells(&layout, blocks, &mut zeros, |rows, groups, out| self.zeros.read(rows, groups, out));
                out.iter_mut().zip(zeros).for_each(|(out, zero)| *out = (zero + base) as u8);
                read
            }
            BlockPart::Order(out) if layout.ordered => self.input_order().map(|order| {
                let wanted = order.iter().skip((blocks.start * layout.length) as usize);
                out.iter_mut().zip(wanted).for_each(|(out, &column)| *out = column as u32);
            }),
            _ => return Err(missing),
        };
        read.map_err(|error| SourceError::Read { tensor: name.to_owned(), error: error.into() })
    }

    /// The inputs, those of a group together.
    fn input_order(&self) -> Result<Vec<u64>, MappingError> {
        let groups = self.groups.of(0..self.codes.columns, self.group_count)?;
        let mut order: Vec<u64> = (0..self.codes.columns).collect();
        order.sort_by_key(|&column| groups[column as usize]);
        Ok(order)
    }

    fn read_codes(&self, layout: &BlockLayout, blocks: Range<u64>, out: &mut [u8]) -> Result<(), MappingError> {
        let (columns, length) = (self.codes.columns, layout.length);
        let flip = if self.numbers == Numbers::Signed { MIDDLE } else { 0 };
        // With act-order, where each input stands among the blocks.
        let mut places = vec![];
        if layout.ordered {
            places = vec![0; columns as usize];
            for (place, column) in self.input_order()?.into_iter().enumerate() {
                places[column as usize] = place;
            }
        }
        let mut at = 0;
        for (rows, across) in lines(blocks, columns / length) {
            let (first, last) = ((across.start * length) as usize, (across.end * length) as usize);
            let width = last - first;
            let out = &mut out[at..];
            if !layout.ordered {
                self.sweep(rows.clone(), first as u64..last as u64, Sweep::Lines, &mut |row, column, codes| {
                    let to = (row - rows.start) as usize * width + column as usize - first;
                    out[to..][..codes.len()].iter_mut().zip(codes).for_each(|(out, code)| *out = code ^ flip);
                })?;
            } else {
                self.sweep(rows.clone(), 0..columns, Sweep::Lines, &mut |row, column, codes| {
                    let line = (row - rows.start) as usize * width;
                    for (&place, code) in places[column as usize..].iter().zip(codes) {
                        if (first..last).contains(&place) {
                            out[line + place - first] = code ^ flip;
                        }
                    }
                })?;
            }
            at += (rows.end - rows.start) as usize * width;
        }
        Ok(())
    }

    /// A number for each of `blocks`; `read` gives those of some rows and groups.
    fn cells(
        &self,
        layout: &BlockLayout,
        blocks: Range<u64>,
        out: &mut [f32],
        read: impl Fn(Range<u64>, Range<u64>, &mut [f32]) -> Result<(), MappingError>,
    ) -> Result<(), MappingError> {
        let group_of = |block: u64| match self.groups {
            Groups::Runs(size) => block * layout.length / size,
            Groups::Listed(_) => block,
        };
        let mut out = out;
        for (rows, across) in lines(blocks, self.codes.columns / layout.length) {
            let groups = group_of(across.start)..group_of(across.end - 1) + 1;
            let (count, width) = ((groups.end - groups.start) as usize, (across.end - across.start) as usize);
            let mut cells = vec![0.0; (rows.end - rows.start) as usize * count];
            read(rows.clone(), groups.clone(), &mut cells)?;
            let (now, later) = out.split_at_mut((rows.end - rows.start) as usize * width);
            for (out, cells) in now.chunks_exact_mut(width).zip(cells.chunks_exact(count)) {
                let cell = |block| cells[(group_of(block) - groups.start) as usize];
                out.iter_mut().zip(across.clone()).for_each(|(out, block)| *out = cell(block));
            }
            out = later;
        }
        Ok(())
    }
}

/// A range of blocks, numbered through all rows, as boxes: rows, and blocks of each of them.
fn lines(blocks: Range<u64>, per_row: u64) -> impl Iterator<Item = (Range<u64>, Range<u64>)> {
    let mut at = blocks.start;
    std::iter::from_fn(move || {
        let left = blocks.end.checked_sub(at).filter(|&left| left > 0)?;
        let (row, within) = (at / per_row, at % per_row);
        let (rows, across) = match within == 0 && left >= per_row {
            true => (row..row + left / per_row, 0..per_row),
            false => (row..row + 1, within..(within + left).min(per_row)),
        };
        at += (rows.end - rows.start) * (across.end - across.start);
        Some((rows, across))
    })
}
