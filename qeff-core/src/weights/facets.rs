//! Facets: the parts of tensors in blocks, as tensors of their own.
//!
//! Whatever leaves the last axis of a weight alone (rows taken, joined, repeated, reordered) does to each part of its
//! blocks what it does to the weight. So a kept weight is the weight's own expression over another tensor, and everything
//! that is there for weights (tiles, budgets, sharing of equal content) is there for it, too.
//!
//! A facet has the leading axes of its tensor and one axis in place of the last one. It is derived here, so a source has
//! to know nothing but the parts. This module does not know who asks for which facet: that is the business of lowering.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use qeff_plugin_api::{DType, TensorIndex, TensorInfo};

use super::blocks::{BlockLayout, BlockPart, CodeBits, Encoding, ZeroPoint};
use super::keep::{BlockIndex, Dense};
use super::source::{SourceError, TensorSource, TensorView};

/// Blocks whose parts are in memory at once.
const CHUNK: u64 = 1 << 12;

/// A part of a tensor in blocks; `g` blocks a row, `n` elements a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Facet {
    /// The low four bits of every code, two codes a byte, the earlier one in the low half: u8 `[…, n / 2]`.
    LowBits,
    /// The high four bits of codes of eight, packed alike: u8 `[…, n / 2]`.
    HighBits,
    /// f32 `[…, g]`.
    Scales,
    /// Integer zero points of four-bit codes, two a byte; a row with an odd number of them ends with 0: u8
    /// `[…, ⌈g / 2⌉]`.
    Zeros,
    /// What `scale · (code − center)` lacks, f32 `[…, g]`; see [`CodeBits::center`](super::CodeBits::center).
    Offsets,
    /// The column of every element of a row, i64 `[n]`; see [`BlockLayout::ordered`].
    Order,
    /// [`Self::LowBits`] of four-bit codes with the columns of a row where they were before they were ordered: u8
    /// `[…, n / 2]`.
    ColumnBits,
    /// The block of every column of a row, i32 `[n]`: what goes with [`Self::ColumnBits`].
    Groups,
}

impl Facet {
    const ALL: [Facet; 8] = [
        Facet::LowBits,
        Facet::HighBits,
        Facet::Scales,
        Facet::Zeros,
        Facet::Offsets,
        Facet::Order,
        Facet::ColumnBits,
        Facet::Groups,
    ];

    /// The name of this facet of `tensor`.
    pub fn of(self, tensor: &str) -> String {
        let facet = match self {
            Facet::LowBits => "low_bits",
            Facet::HighBits => "high_bits",
            Facet::Scales => "scales",
            Facet::Zeros => "zeros",
            Facet::Offsets => "offsets",
            Facet::Order => "order",
            Facet::ColumnBits => "column_bits",
            Facet::Groups => "groups",
        };
        format!("{tensor}#{facet}")
    }

    /// Element type.
    pub fn dtype(self) -> DType {
        match self {
            Facet::LowBits | Facet::HighBits | Facet::Zeros | Facet::ColumnBits => DType::U8,
            Facet::Scales | Facet::Offsets => DType::F32,
            Facet::Order => DType::I64,
            Facet::Groups => DType::I32,
        }
    }

    /// Whether a tensor in these blocks has it.
    pub fn is_of(self, layout: &BlockLayout) -> bool {
        match self {
            Facet::LowBits | Facet::Scales => true,
            Facet::HighBits => layout.bits == CodeBits::Eight,
            Facet::Zeros => layout.bits == CodeBits::Four && layout.zero == ZeroPoint::PerBlock,
            Facet::Offsets => !layout.is_centered(),
            Facet::Order | Facet::Groups => layout.ordered,
            Facet::ColumnBits => layout.ordered && layout.bits == CodeBits::Four,
        }
    }

    /// Whether it is the same for every row, and has no leading axes.
    pub(super) fn is_of_row(self) -> bool {
        matches!(self, Facet::Order | Facet::Groups)
    }

    /// Elements in place of a row of `per_row` blocks.
    pub(super) fn width(self, layout: &BlockLayout, per_row: u64) -> u64 {
        match self {
            Facet::LowBits | Facet::HighBits | Facet::ColumnBits => per_row * layout.length / 2,
            Facet::Scales | Facet::Offsets => per_row,
            Facet::Zeros => per_row.div_ceil(2),
            Facet::Order | Facet::Groups => per_row * layout.length,
        }
    }
}

/// A source with the facets of its tensors beside them; see the module documentation.
///
/// A tensor whose shape does not fit its blocks, or with a facet whose name is taken, has none.
pub struct Facets<'s> {
    source: &'s dyn TensorSource,
    index: TensorIndex,
    facets: BTreeMap<String, Derived>,
    blocks: BlockIndex,
}

/// Where a facet comes from.
#[derive(Debug, Clone)]
struct Derived {
    tensor: String,
    facet: Facet,
    layout: BlockLayout,
    /// Blocks of a row.
    per_row: u64,
}

impl<'s> Facets<'s> {
    /// The facets of all tensors of `source`.
    pub fn new(source: &'s dyn TensorSource) -> Self {
        Self::keeping(source, &|_| true)
    }

    /// The facets of the tensors for which `keep` holds; the others shall be dense.
    pub fn keeping(source: &'s dyn TensorSource, keep: &dyn Fn(&str) -> bool) -> Self {
        let mut facets =
            Self { source, index: source.index().clone(), facets: BTreeMap::new(), blocks: BlockIndex::default() };
        for (tensor, info) in source.index().iter() {
            let Some(encoding) = source.encoding(tensor) else { continue };
            let layout = match encoding.blocks {
                _ if !keep(tensor) => Err(Dense::Asked),
                Some(layout) if facets.add(tensor, &info.shape, layout) => Ok(layout),
                _ => Err(Dense::NoBlocks),
            };
            facets.blocks.insert(tensor, &encoding.name, layout);
        }
        facets
    }

    /// Adds the facets of a tensor; false if it has none.
    fn add(&mut self, tensor: &str, shape: &[u64], layout: BlockLayout) -> bool {
        let Some((&width, leading)) = shape.split_last() else { return false };
        let Some(per_row) = layout.blocks_per_row(width) else { return false };
        let own: Vec<_> = Facet::ALL.into_iter().filter(|facet| facet.is_of(&layout)).collect();
        if own.iter().any(|facet| self.index.contains(&facet.of(tensor))) {
            return false;
        }
        for facet in own {
            let leading = if facet.is_of_row() { &[] } else { leading };
            let shape = [leading, &[facet.width(&layout, per_row)]].concat();
            self.index.insert(facet.of(tensor), TensorInfo { dtype: facet.dtype(), shape });
            self.facets.insert(facet.of(tensor), Derived { tensor: tensor.to_owned(), facet, layout, per_row });
        }
        true
    }

    /// How the tensors of the source are stored, and which of them have facets.
    pub fn blocks(&self) -> &BlockIndex {
        &self.blocks
    }

    /// The elements `elements` of a facet, all of them known to exist, into `out`, which they fill.
    fn derive(&self, of: &Derived, elements: Range<u64>, out: &mut [u8]) -> Result<(), SourceError> {
        match of.facet {
            Facet::LowBits => self.halves(of, elements, out, |code| code & 15),
            Facet::HighBits => self.halves(of, elements, out, |code| code >> 4),
            Facet::Scales => self.numbers(of, elements, out, &|scale, _| scale, false),
            Facet::Offsets => {
                let center = f32::from(of.layout.bits.center());
                let offset = |scale: f32, zero: f32| match of.layout.zero {
                    ZeroPoint::Shift => zero + center * scale,
                    ZeroPoint::Constant(_) | ZeroPoint::PerBlock => scale * (center - zero),
                };
                self.numbers(of, elements, out, &offset, true)
            }
            Facet::Zeros => self.zeros(of, elements, out),
            Facet::ColumnBits => self.column_bits(of, elements, out),
            Facet::Order => {
                let order = self.order(of)?;
                let wanted = &order[elements.start as usize..elements.end as usize];
                let places = out.as_chunks_mut::<8>().0.iter_mut();
                places.zip(wanted).for_each(|(to, &column)| *to = i64::from(column).to_le_bytes());
                Ok(())
            }
            Facet::Groups => {
                let order = self.order(of)?;
                let mut groups = vec![0i32; order.len()];
                for (at, &column) in order.iter().enumerate() {
                    groups[column as usize] = (at as u64 / of.layout.length) as i32;
                }
                let wanted = &groups[elements.start as usize..elements.end as usize];
                out.copy_from_slice(bytemuck::cast_slice(wanted));
                Ok(())
            }
        }
    }

    /// Refuses elements that the facet `name` does not have.
    fn check(&self, name: &str, elements: &Range<u64>) -> Result<(), SourceError> {
        let count = self.info(name)?.shape.iter().product();
        if elements.start > elements.end || elements.end > count {
            return Err(SourceError::OutOfRange { tensor: name.to_owned(), range: elements.clone(), count });
        }
        Ok(())
    }

    /// Bytes `bytes` of halves of codes, two codes a byte.
    fn halves(
        &self,
        of: &Derived,
        bytes: Range<u64>,
        out: &mut [u8],
        half: impl Fn(u8) -> u8,
    ) -> Result<(), SourceError> {
        let per_block = of.layout.length / 2;
        let mut codes = Vec::new();
        let mut at = bytes.start;
        let mut out = out;
        while at < bytes.end {
            let first = at / per_block;
            let last = bytes.end.div_ceil(per_block).min(first + CHUNK);
            codes.resize(((last - first) * of.layout.length) as usize, 0);
            self.source.read_blocks(&of.tensor, first..last, BlockPart::Codes(&mut codes))?;
            let end = bytes.end.min(last * per_block);
            let (now, later) = out.split_at_mut((end - at) as usize);
            let pairs = codes.as_chunks::<2>().0;
            let pairs = &pairs[(at - first * per_block) as usize..];
            now.iter_mut().zip(pairs).for_each(|(to, [low, high])| *to = half(*low) | half(*high) << 4);
            (at, out) = (end, later);
        }
        Ok(())
    }

    /// A number for each of `blocks`, from its scale and, if asked for, its zero point or shift.
    fn numbers(
        &self,
        of: &Derived,
        blocks: Range<u64>,
        out: &mut [u8],
        number: &dyn Fn(f32, f32) -> f32,
        with_zeros: bool,
    ) -> Result<(), SourceError> {
        let mut at = blocks.start;
        for out in out.chunks_mut(CHUNK as usize * 4) {
            let count = out.len() / 4;
            let now = at..at + count as u64;
            let (mut scales, mut zeros) = (vec![0.0; count], vec![0.0; count]);
            self.source.read_blocks(&of.tensor, now.clone(), BlockPart::Scales(&mut scales))?;
            match of.layout.zero {
                ZeroPoint::Constant(zero) => zeros.fill(f32::from(zero)),
                ZeroPoint::Shift if with_zeros => {
                    self.source.read_blocks(&of.tensor, now.clone(), BlockPart::Shifts(&mut zeros))?;
                }
                ZeroPoint::PerBlock if with_zeros => {
                    let mut integers = vec![0; count];
                    self.source.read_blocks(&of.tensor, now.clone(), BlockPart::Zeros(&mut integers))?;
                    zeros.iter_mut().zip(integers).for_each(|(to, zero)| *to = f32::from(zero));
                }
                ZeroPoint::Shift | ZeroPoint::PerBlock => {}
            }
            let pairs = scales.iter().zip(&zeros);
            let places = out.as_chunks_mut::<4>().0.iter_mut();
            places.zip(pairs).for_each(|(to, (&scale, &zero))| *to = number(scale, zero).to_le_bytes());
            at = now.end;
        }
        Ok(())
    }

    /// Bytes `bytes` of integer zero points, two a byte; no byte has those of two rows.
    fn zeros(&self, of: &Derived, bytes: Range<u64>, out: &mut [u8]) -> Result<(), SourceError> {
        let per_row = of.per_row.div_ceil(2);
        let mut at = bytes.start;
        let mut out = out;
        while at < bytes.end {
            let (row, column) = (at / per_row, at % per_row);
            let end = bytes.end.min((row + 1) * per_row);
            let first = row * of.per_row + 2 * column;
            let last = (row * of.per_row + 2 * (end - row * per_row)).min((row + 1) * of.per_row);
            // A row with an odd number of blocks is filled up with a zero.
            let mut zeros = vec![0; 2 * (end - at) as usize];
            let count = (last - first) as usize;
            self.source.read_blocks(&of.tensor, first..last, BlockPart::Zeros(&mut zeros[..count]))?;
            let (now, later) = out.split_at_mut((end - at) as usize);
            let pairs = zeros.as_chunks::<2>().0;
            now.iter_mut().zip(pairs).for_each(|(to, [low, high])| *to = low & 15 | high << 4);
            (at, out) = (end, later);
        }
        Ok(())
    }

    /// The column of every element of a row; columns are checked here, once.
    fn order(&self, of: &Derived) -> Result<Vec<u32>, SourceError> {
        let mut order = vec![0; (of.per_row * of.layout.length) as usize];
        self.source.read_blocks(&of.tensor, 0..of.per_row, BlockPart::Order(&mut order))?;
        let mut seen = vec![false; order.len()];
        let once = |&column: &u32| seen.get_mut(column as usize).is_some_and(|seen| !std::mem::replace(seen, true));
        if order.iter().all(once) {
            return Ok(order);
        }
        Err(SourceError::Read { tensor: of.tensor.clone(), error: "its order of columns has a column twice".into() })
    }

    /// Bytes `bytes` of codes in the order of columns, two codes a byte.
    fn column_bits(&self, of: &Derived, bytes: Range<u64>, out: &mut [u8]) -> Result<(), SourceError> {
        let order = self.order(of)?;
        let (mut stored, mut codes) = (vec![0; order.len()], vec![0; order.len()]);
        let per_row = order.len() as u64 / 2;
        let mut at = bytes.start;
        let mut out = out;
        while at < bytes.end {
            let row = at / per_row;
            let blocks = row * of.per_row..(row + 1) * of.per_row;
            self.source.read_blocks(&of.tensor, blocks, BlockPart::Codes(&mut stored))?;
            order.iter().zip(&stored).for_each(|(&column, &code)| codes[column as usize] = code);
            let end = bytes.end.min((row + 1) * per_row);
            let (now, later) = out.split_at_mut((end - at) as usize);
            let pairs = &codes.as_chunks::<2>().0[(at - row * per_row) as usize..];
            now.iter_mut().zip(pairs).for_each(|(to, [low, high])| *to = low & 15 | high << 4);
            (at, out) = (end, later);
        }
        Ok(())
    }

    /// The elements of the tensor behind elements of a facet, rounded to whole blocks or rows.
    fn behind(&self, of: &Derived, elements: &Range<u64>) -> Range<u64> {
        let length = of.layout.length;
        let each = match of.facet {
            Facet::LowBits | Facet::HighBits | Facet::ColumnBits => 2,
            Facet::Scales | Facet::Offsets => length,
            Facet::Zeros => {
                let (per_row, row) = (of.per_row.div_ceil(2), of.per_row * length);
                return elements.start / per_row * row..elements.end.div_ceil(per_row) * row;
            }
            Facet::Order | Facet::Groups => return 0..0,
        };
        elements.start * each..elements.end * each
    }
}

impl TensorSource for Facets<'_> {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, SourceError> {
        // What is no facet is the source's, which may know more about a name than that it is not there.
        if self.facets.contains_key(name) {
            return self.index.get(name).ok_or_else(|| SourceError::Missing(name.to_owned()));
        }
        self.source.info(name)
    }

    fn stored(&self, name: &str) -> Option<TensorView<'_>> {
        // A facet lies nowhere, even if a tensor of its name should.
        if self.facets.contains_key(name) { None } else { self.source.stored(name) }
    }

    fn read(&self, name: &str, elements: Range<u64>, to: &mut [u8]) -> Result<(), SourceError> {
        let Some(of) = self.facets.get(name) else { return self.source.read(name, elements, to) };
        self.check(name, &elements)?;
        self.derive(of, elements.clone(), to)?;
        self.release(name, elements);
        Ok(())
    }

    fn lend(&self, name: &str, elements: Range<u64>) -> Result<Cow<'_, [u8]>, SourceError> {
        let Some(of) = self.facets.get(name) else { return self.source.lend(name, elements) };
        self.check(name, &elements)?;
        let mut lent = vec![0; (elements.end - elements.start) as usize * of.facet.dtype().size()];
        self.derive(of, elements, &mut lent)?;
        Ok(Cow::Owned(lent))
    }

    fn release(&self, name: &str, elements: Range<u64>) {
        match self.facets.get(name) {
            Some(of) => self.source.release(&of.tensor, self.behind(of, &elements)),
            None => self.source.release(name, elements),
        }
    }

    fn encoding(&self, name: &str) -> Option<Encoding<'_>> {
        self.source.encoding(name)
    }

    fn read_blocks(&self, name: &str, blocks: Range<u64>, part: BlockPart<'_>) -> Result<(), SourceError> {
        self.source.read_blocks(name, blocks, part)
    }
}

#[cfg(test)]
#[path = "facets_tests.rs"]
mod tests;
