//! Quantised blocks as the numbers they stand for.
//!
//! A type is described by its parts: a code for each element, and a scale (and perhaps a shift) for each run of elements
//! that share one. Dense numbers follow from the parts, so both forms are equal by construction; and they are those of the
//! public reference (gguf-py's `quants`) bit for bit, because every product and sum is rounded to f32 in its order.
//!
//! A *stored block* is what the format calls a block; those of 256 elements hold several blocks in the sense of
//! [`crate::weights::blocks`]. Notation in the comments: `d` is a stored block's scale, `m` its offset.

use std::ops::Range;

use half::f16;

use super::types::BlockType;
use crate::weights::blocks::{self, BlockLayout, BlockPart, CodeBits, ZeroPoint};

/// Elements of the longest stored block.
const LONGEST: usize = 256;

/// Most blocks in a stored block.
const MOST: usize = 16;

/// What an index of four bits means in the non-linear types.
const NON_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// E2M1 numbers, doubled: their scale is halved instead.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Where codes of eight bits begin that could begin anywhere.
const CENTER: u8 = CodeBits::Eight.center();

impl BlockType {
    /// The form of its blocks: every type has one.
    pub(in crate::weights) fn layout(self) -> BlockLayout {
        use BlockType::*;
        let (bits, length, zero) = match self {
            Q4_0 => (CodeBits::Four, 32, ZeroPoint::Constant(8)),
            Q4_1 | Q4_K => (CodeBits::Four, 32, ZeroPoint::Shift),
            Q2_K => (CodeBits::Four, 16, ZeroPoint::Shift),
            Q3_K => (CodeBits::Four, 16, ZeroPoint::Constant(8)),
            Q5_0 | IQ4_NL | IQ4_XS | MXFP4 => (CodeBits::Eight, 32, ZeroPoint::Constant(CENTER)),
            Q5_1 | Q5_K => (CodeBits::Eight, 32, ZeroPoint::Shift),
            Q6_K => (CodeBits::Eight, 16, ZeroPoint::Constant(CENTER)),
            Q8_0 => (CodeBits::Eight, 32, ZeroPoint::Constant(128)),
            Q8_K => (CodeBits::Eight, 256, ZeroPoint::Constant(128)),
        };
        BlockLayout { bits, length, zero, ordered: false }
    }

    /// The elements `before..before + count` of whole stored blocks, as little-endian f32.
    pub(in crate::weights) fn decode_run(self, stored: &[u8], before: usize, count: usize) -> Vec<u8> {
        let (elements, bytes) = self.stored();
        let mut run = Vec::with_capacity(count * 4);
        let mut numbers = [0f32; LONGEST];
        let (mut skip, mut left) = (before, count);
        for block in stored.chunks_exact(bytes) {
            let numbers = &mut numbers[..elements];
            self.decode(block, numbers);
            let wanted = &numbers[skip..elements.min(skip + left)];
            run.extend_from_slice(bytemuck::cast_slice(wanted));
            left -= wanted.len();
            skip = 0;
        }
        run
    }

    /// Writes `part` of the blocks `wanted`, counted from the first of the `stored` ones, which are whole. False if the
    /// type has no such part.
    pub(in crate::weights) fn read_part(self, stored: &[u8], wanted: Range<usize>, part: BlockPart<'_>) -> bool {
        let length = self.layout().length as usize;
        let elements = self.stored().0;
        match part {
            BlockPart::Codes(out) => {
                let wanted = wanted.start * length..wanted.end * length;
                self.copy(stored, Items { each: elements, wanted, read: Self::codes }, out);
            }
            BlockPart::Scales(out) => {
                self.copy(stored, Items { each: elements / length, wanted, read: Self::scales }, out);
            }
            BlockPart::Shifts(out) if self.layout().zero == ZeroPoint::Shift => {
                self.copy(stored, Items { each: elements / length, wanted, read: Self::shifts }, out);
            }
            BlockPart::Shifts(_) | BlockPart::Zeros(_) | BlockPart::Order(_) => return false,
        }
        true
    }

    /// Copies the wanted items of `stored` blocks to `out`.
    fn copy<T: Copy + Default>(self, stored: &[u8], items: Items<T>, out: &mut [T]) {
        let Items { each, wanted, read } = items;
        let mut whole = [T::default(); LONGEST];
        let (mut skip, mut out) = (wanted.start, out);
        for block in stored.chunks_exact(self.stored().1) {
            let count = (each - skip).min(out.len());
            let (now, later) = out.split_at_mut(count);
            if count == each {
                read(self, block, now);
            } else {
                read(self, block, &mut whole[..each]);
                now.copy_from_slice(&whole[skip..skip + count]);
            }
            (skip, out) = (0, later);
        }
    }

    /// Elements and bytes of a stored block.
    fn stored(self) -> (usize, usize) {
        let (elements, bytes) = self.sizes();
        (elements as usize, bytes as usize)
    }

    /// Decodes one stored block into as many numbers as it has elements.
    fn decode(self, block: &[u8], out: &mut [f32]) {
        let layout = self.layout();
        let (mut codes, mut scales, mut shifts) = ([0; LONGEST], [0.0; MOST], [0.0; MOST]);
        let count = out.len() / layout.length as usize;
        self.codes(block, &mut codes[..out.len()]);
        self.scales(block, &mut scales[..count]);
        if layout.zero == ZeroPoint::Shift {
            self.shifts(block, &mut shifts[..count]);
        }
        blocks::decode(&layout, &codes[..out.len()], &scales[..count], &shifts[..count], out);
    }

    /// The code of each element of a stored block.
    fn codes(self, block: &[u8], out: &mut [u8]) {
        match self {
            BlockType::Q4_0 => nibbles(&block[2..18], out, |q| q),
            BlockType::Q4_1 => nibbles(&block[4..20], out, |q| q),
            BlockType::Q5_0 => five_bits(&block[2..6], &block[6..22], out, |q| q + (CENTER - 16)),
            BlockType::Q5_1 => five_bits(&block[4..8], &block[8..24], out, |q| q),
            BlockType::Q8_0 => signed(&block[2..34], out),
            BlockType::Q8_K => signed(&block[4..260], out),
            BlockType::Q2_K => {
                let qs = &block[16..80];
                out.iter_mut().enumerate().for_each(|(at, out)| *out = two_bits(qs, at));
            }
            BlockType::Q3_K => {
                let (mask, qs) = (&block[..32], &block[32..96]);
                for (at, out) in out.iter_mut().enumerate() {
                    // A third bit that is set adds the four that are taken away without it.
                    *out = two_bits(qs, at) + 4 + ((mask[at % 32] >> (at / 32) & 1) << 2);
                }
            }
            BlockType::Q4_K => {
                let qs = &block[16..144];
                eight_groups(out, |group, i| qs[group / 2 * 32 + i] >> (group % 2 * 4) & 15);
            }
            BlockType::Q5_K => {
                let (top, qs) = (&block[16..48], &block[48..176]);
                eight_groups(out, |group, i| {
                    qs[group / 2 * 32 + i] >> (group % 2 * 4) & 15 | (top[i] >> group & 1) << 4
                });
            }
            BlockType::Q6_K => {
                let (low, high) = (&block[..128], &block[128..192]);
                for (at, out) in out.iter_mut().enumerate() {
                    let nibble = low[at / 128 * 64 + at % 64] >> (at / 64 % 2 * 4) & 15;
                    *out = (nibble | two_bits(high, at) << 4) + (CENTER - 32);
                }
            }
            BlockType::IQ4_NL => nibbles(&block[2..18], out, |q| from_center(NON_LINEAR[usize::from(q)])),
            BlockType::IQ4_XS => {
                for (out, qs) in out.chunks_exact_mut(32).zip(block[8..136].chunks_exact(16)) {
                    nibbles(qs, out, |q| from_center(NON_LINEAR[usize::from(q)]));
                }
            }
            BlockType::MXFP4 => nibbles(&block[1..17], out, |q| from_center(E2M1[usize::from(q)])),
        }
    }

    /// The scale of each block of a stored block.
    fn scales(self, block: &[u8], out: &mut [f32]) {
        match self {
            BlockType::Q4_0
            | BlockType::Q4_1
            | BlockType::Q5_0
            | BlockType::Q5_1
            | BlockType::Q8_0
            | BlockType::IQ4_NL => out[0] = half(block, 0),
            BlockType::Q8_K => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
            BlockType::MXFP4 => out[0] = half_power(block[0]),
            BlockType::Q2_K => {
                let d = half(block, 80);
                each(out, |group| d * f32::from(block[group] & 15));
            }
            BlockType::Q3_K => {
                let (scales, d) = (&block[96..108], half(block, 108));
                each(out, |group| {
                    let low = scales[group % 8] >> (group / 8 * 4) & 15;
                    let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
                    d * f32::from((low | high << 4) as i8 - 32)
                });
            }
            BlockType::Q4_K | BlockType::Q5_K => {
                let d = half(block, 0);
                each(out, |group| d * six_bit_pair(&block[4..16], group).0);
            }
            BlockType::Q6_K => {
                let d = half(block, 208);
                each(out, |group| d * f32::from(block[192 + group] as i8));
            }
            BlockType::IQ4_XS => {
                let d = half(block, 0);
                let high = u16::from_le_bytes([block[2], block[3]]);
                each(out, |group| {
                    let scale = block[4 + group / 2] >> (group % 2 * 4) & 15 | ((high >> (group * 2) & 3) as u8) << 4;
                    d * f32::from(scale as i8 - 32)
                });
            }
        }
    }

    /// What is added to each block of a stored block, for types with [`ZeroPoint::Shift`].
    fn shifts(self, block: &[u8], out: &mut [f32]) {
        match self {
            BlockType::Q4_1 | BlockType::Q5_1 => out[0] = half(block, 2),
            BlockType::Q2_K => {
                let m = half(block, 82);
                each(out, |group| -(m * f32::from(block[group] >> 4)));
            }
            BlockType::Q4_K | BlockType::Q5_K => {
                let m = half(block, 2);
                each(out, |group| -(m * six_bit_pair(&block[4..16], group).1));
            }
            _ => unreachable!("asked of types with shifts only"),
        }
    }
}

/// Items that stored blocks have `each` of: those that are wanted of all together, and how a block is read.
struct Items<T> {
    each: usize,
    wanted: Range<usize>,
    read: fn(BlockType, &[u8], &mut [T]),
}

/// Fills `out` by the number of each block.
fn each(out: &mut [f32], number: impl Fn(usize) -> f32) {
    out.iter_mut().enumerate().for_each(|(group, out)| *out = number(group));
}

/// The code of a signed integer, measured from [`CENTER`].
fn from_center(q: i8) -> u8 {
    CENTER.wrapping_add_signed(q)
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `2^(e − 128)`: half of what the exponent `e` of an MX block means.
fn half_power(e: u8) -> f32 {
    match e {
        0 | 1 => f32::from_bits(0x0020_0000 << e),
        e => f32::from_bits(u32::from(e - 1) << 23),
    }
}

/// Low halves of the bytes first, then the high ones.
fn nibbles(bytes: &[u8], out: &mut [u8], code: impl Fn(u8) -> u8) {
    let (low, high) = out.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = code(byte & 15);
        *high = code(byte >> 4);
    }
}

/// As [`nibbles`], with bit `i` of `top` as the fifth bit of element `i`.
fn five_bits(top: &[u8], bytes: &[u8], out: &mut [u8], code: impl Fn(u8) -> u8) {
    let fifth = |i: usize| (top[i / 8] >> (i % 8) & 1) << 4;
    let (low, high) = out.split_at_mut(bytes.len());
    for (i, ((byte, low), high)) in bytes.iter().zip(low).zip(high).enumerate() {
        *low = code(byte & 15 | fifth(i));
        *high = code(byte >> 4 | fifth(i + bytes.len()));
    }
}

/// Signed integers, measured from 128.
fn signed(bytes: &[u8], out: &mut [u8]) {
    bytes.iter().zip(out).for_each(|(byte, out)| *out = byte ^ 128);
}

/// Element `at` of two bits: 32 bytes hold four runs of 32 elements, low bits first.
fn two_bits(qs: &[u8], at: usize) -> u8 {
    qs[at / 128 * 32 + at % 32] >> (at / 32 % 4 * 2) & 3
}

/// Scale and offset of eight groups, six bits each in twelve bytes.
fn six_bit_pair(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, offset) = match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => {
            let low = packed[group + 4];
            (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
        }
    };
    (f32::from(scale), f32::from(offset))
}

/// Eight groups of 32 elements.
fn eight_groups(out: &mut [u8], code: impl Fn(usize, usize) -> u8) {
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        out.iter_mut().enumerate().for_each(|(i, out)| *out = code(group, i));
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
