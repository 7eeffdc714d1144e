//! Tensors that are stored as small integers with a scale for each block of them.
//!
//! Quantised formats differ in how they pack bits and in what they call things; what an engine can keep of them is one
//! form. The last axis is cut into blocks of [`BlockLayout::length`] elements, each with its own scale, and an element is
//!
//! | [`ZeroPoint`] | value |
//! |---|---|
//! | `Constant(c)` | `scale · (code − c)` |
//! | `PerBlock` | `scale · (code − zero)` |
//! | `Shift` | `scale · code + shift` |
//!
//! in f32, the difference exact and every other operation rounded once: the same bits as the dense tensor has. Blocks are
//! numbered through all rows, so block `b` of a tensor with `g` blocks a row is block `b mod g` of row `b / g`.
//!
//! A [`TensorSource`](super::TensorSource) says with `encoding` which of its tensors are stored so, and hands out parts of
//! their blocks with `read_blocks`; [`Facets`](super::Facets) makes tensors of the parts. This module knows the form, not
//! where blocks lie nor who wants them.

use std::borrow::Cow;

/// How a tensor that is no plain numbers is stored. Its dense form is what `lend` gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding<'a> {
    /// What the format calls it (`Q4_0`, `awq`), for reports.
    pub name: Cow<'a, str>,
    /// Its blocks, if its numbers are exactly those of the form above.
    pub blocks: Option<BlockLayout>,
}

/// How the blocks of a tensor are laid out; see the module documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockLayout {
    /// Width of a code.
    pub bits: CodeBits,
    /// Elements of a block: a power of two from 16 on. The last axis has a whole number of blocks.
    pub length: u64,
    /// What a code is measured from.
    pub zero: ZeroPoint,
    /// Whether blocks gather columns from all over a row (act-order): element `i` of the blocks of a row is then column
    /// [`BlockPart::Order`]`[i]`, in every row the same.
    pub ordered: bool,
}

/// Width of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeBits {
    /// 0 to 15.
    Four,
    /// 0 to 255.
    Eight,
}

impl CodeBits {
    /// As a number.
    pub fn count(self) -> u64 {
        match self {
            CodeBits::Four => 4,
            CodeBits::Eight => 8,
        }
    }

    /// The zero point that engines know without being told.
    ///
    /// For eight bits this is the zero point at which both halves of a code are 8: `code − 136 = 16 · (high − 8) + (low −
    /// 8)`, which is how a kernel for four bits computes with eight. A source that is free to choose where its codes begin
    /// does well to choose this.
    pub const fn center(self) -> u8 {
        match self {
            CodeBits::Four => 8,
            CodeBits::Eight => 136,
        }
    }
}

/// What a code is measured from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ZeroPoint {
    /// One number for the whole tensor.
    Constant(u8),
    /// An integer for each block, of as many bits as a code.
    PerBlock,
    /// A number that is added, for each block.
    Shift,
}

/// A part of some blocks, to be written to a slice of exactly as many elements as the blocks have of it.
#[derive(Debug)]
pub enum BlockPart<'o> {
    /// The code of each element, one a byte.
    Codes(&'o mut [u8]),
    /// The scale of each block.
    Scales(&'o mut [f32]),
    /// The zero point of each block; for [`ZeroPoint::PerBlock`] only.
    Zeros(&'o mut [u8]),
    /// The shift of each block; for [`ZeroPoint::Shift`] only.
    Shifts(&'o mut [f32]),
    /// The column of each element; for [`BlockLayout::ordered`] only, and for blocks of the first row.
    Order(&'o mut [u32]),
}

impl BlockPart<'_> {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            BlockPart::Codes(_) => "codes",
            BlockPart::Scales(_) => "scales",
            BlockPart::Zeros(_) => "zero points",
            BlockPart::Shifts(_) => "shifts",
            BlockPart::Order(_) => "order of columns",
        }
    }
}

impl BlockLayout {
    /// Whether a code minus [`CodeBits::center`], scaled, is all there is.
    pub fn is_centered(&self) -> bool {
        self.zero == ZeroPoint::Constant(self.bits.center())
    }

    /// Blocks of a row of `width` elements; `None` unless they are whole, and such as engines take.
    pub fn blocks_per_row(&self, width: u64) -> Option<u64> {
        let takes = self.length >= 16 && self.length.is_power_of_two() && width > 0;
        (takes && width.is_multiple_of(self.length)).then(|| width / self.length)
    }
}

/// The dense numbers of blocks of which all parts are given; `offsets` are zero points (as numbers) or shifts.
///
/// Bit for bit what the table of the module documentation says. The slices hold the same blocks.
pub(super) fn decode(layout: &BlockLayout, codes: &[u8], scales: &[f32], offsets: &[f32], out: &mut [f32]) {
    let length = layout.length as usize;
    let blocks = out.chunks_exact_mut(length).zip(codes.chunks_exact(length)).zip(scales);
    for (at, ((out, codes), &scale)) in blocks.enumerate() {
        let numbers = out.iter_mut().zip(codes.iter().map(|&code| f32::from(code)));
        match layout.zero {
            ZeroPoint::Constant(c) => {
                let c = f32::from(c);
                numbers.for_each(|(out, code)| *out = scale * (code - c));
            }
            ZeroPoint::PerBlock => {
                let zero = offsets[at];
                numbers.for_each(|(out, code)| *out = scale * (code - zero));
            }
            ZeroPoint::Shift => {
                let shift = offsets[at];
                numbers.for_each(|(out, code)| *out = scale * code + shift);
            }
        }
    }
}
