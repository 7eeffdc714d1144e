//! Quantised blocks as the numbers they stand for.
//!
//! Every product and sum is rounded to f32 in the order of the public reference (gguf-py's `quants`), so results are equal
//! bit for bit; a fused or reassociated operation here would be a difference nobody can explain later.
//!
//! Notation in the comments: `d` is a block's scale, `m` its offset, `q` an element's small integer.

use half::f16;

use super::types::BlockType;

/// Elements of the longest block.
const LONGEST: usize = 256;

/// What an index of four bits means in the non-linear types.
const NON_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// E2M1 numbers, doubled: their scale is halved instead.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl BlockType {
    /// The elements `before..before + count` of whole blocks, as little-endian f32.
    pub(in crate::weights) fn decode_run(self, blocks: &[u8], before: usize, count: usize) -> Vec<u8> {
        let (elements, bytes) = self.sizes();
        let (elements, bytes) = (elements as usize, bytes as usize);
        let mut run = Vec::with_capacity(count * 4);
        let mut numbers = [0f32; LONGEST];
        let (mut skip, mut left) = (before, count);
        for block in blocks.chunks_exact(bytes) {
            let numbers = &mut numbers[..elements];
            self.decode(block, numbers);
            let wanted = &numbers[skip..elements.min(skip + left)];
            run.extend_from_slice(bytemuck::cast_slice(wanted));
            left -= wanted.len();
            skip = 0;
        }
        run
    }

    /// Decodes one block into as many numbers as it has elements.
    ///
    /// # Panics
    /// If `block` or `out` has another length than blocks of this type have.
    fn decode(self, block: &[u8], out: &mut [f32]) {
        assert_eq!((out.len() as u64, block.len() as u64), self.sizes(), "{self:?}");
        match self {
            BlockType::Q4_0 => {
                let d = half(block, 0);
                nibbles(&block[2..], out, |q| d * f32::from(q as i8 - 8));
            }
            BlockType::Q4_1 => {
                let (d, m) = (half(block, 0), half(block, 2));
                nibbles(&block[4..], out, |q| d * f32::from(q) + m);
            }
            BlockType::Q5_0 => {
                let d = half(block, 0);
                five_bits(&block[2..6], &block[6..], out, |q| d * f32::from(q as i8 - 16));
            }
            BlockType::Q5_1 => {
                let (d, m) = (half(block, 0), half(block, 2));
                five_bits(&block[4..8], &block[8..], out, |q| d * f32::from(q) + m);
            }
            BlockType::Q8_0 => {
                let d = half(block, 0);
                signed(&block[2..], out, |q| q * d);
            }
            BlockType::Q8_K => {
                let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                signed(&block[4..260], out, |q| d * q);
            }
            BlockType::Q2_K => q2_k(block, out),
            BlockType::Q3_K => q3_k(block, out),
            BlockType::Q4_K => q4_k(block, out),
            BlockType::Q5_K => q5_k(block, out),
            BlockType::Q6_K => q6_k(block, out),
            BlockType::IQ4_NL => {
                let d = half(block, 0);
                nibbles(&block[2..], out, |q| d * f32::from(NON_LINEAR[usize::from(q)]));
            }
            BlockType::IQ4_XS => iq4_xs(block, out),
            BlockType::MXFP4 => {
                let d = half_power(block[0]);
                nibbles(&block[1..], out, |q| d * f32::from(E2M1[usize::from(q)]));
            }
        }
    }
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
fn nibbles(bytes: &[u8], out: &mut [f32], number: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = number(byte & 15);
        *high = number(byte >> 4);
    }
}

/// As [`nibbles`], with bit `i` of `top` as the fifth bit of element `i`.
fn five_bits(top: &[u8], bytes: &[u8], out: &mut [f32], number: impl Fn(u8) -> f32) {
    let fifth = |i: usize| (top[i / 8] >> (i % 8) & 1) << 4;
    let (low, high) = out.split_at_mut(bytes.len());
    for (i, ((byte, low), high)) in bytes.iter().zip(low).zip(high).enumerate() {
        *low = number(byte & 15 | fifth(i));
        *high = number(byte >> 4 | fifth(i + bytes.len()));
    }
}

fn signed(bytes: &[u8], out: &mut [f32], number: impl Fn(f32) -> f32) {
    for (byte, out) in bytes.iter().zip(out) {
        *out = number(f32::from(*byte as i8));
    }
}

/// Sixteen groups of sixteen: four bits of scale and of offset each, two bits an element.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, m) = (half(block, 80), half(block, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[group] & 15);
        let offset = m * f32::from(scales[group] >> 4);
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(two_bits(qs, group * 16 + i)) - offset;
        }
    }
}

/// Sixteen groups of sixteen: six bits of scale each, two bits an element and a third in a mask.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let (mask, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * f32::from((low | high << 4) as i8 - 32);
        for (i, out) in out.iter_mut().enumerate() {
            let at = group * 16 + i;
            // A bit that is set takes nothing away.
            let less = (mask[at % 32] >> (at / 32) & 1 ^ 1) << 2;
            *out = scale * f32::from(two_bits(qs, at) as i8 - less as i8);
        }
    }
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

/// Eight groups of 32: six bits of scale and of offset each, four bits an element.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (scales, qs) = (&block[4..16], &block[16..]);
    eight_groups(block, scales, out, |group, i| qs[group / 2 * 32 + i] >> (group % 2 * 4) & 15);
}

/// As [`q4_k`], with a fifth bit an element.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (scales, top, qs) = (&block[4..16], &block[16..48], &block[48..]);
    eight_groups(block, scales, out, |group, i| {
        qs[group / 2 * 32 + i] >> (group % 2 * 4) & 15 | (top[i] >> group & 1) << 4
    });
}

fn eight_groups(block: &[u8], scales: &[u8], out: &mut [f32], element: impl Fn(usize, usize) -> u8) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, offset) = six_bit_pair(scales, group);
        let (scale, offset) = (d * scale, m * offset);
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(element(group, i)) - offset;
        }
    }
}

/// Sixteen groups of sixteen: eight bits of scale each, four bits an element and two more elsewhere.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[group] as i8);
        for (i, out) in out.iter_mut().enumerate() {
            let at = group * 16 + i;
            let nibble = low[at / 128 * 64 + at % 64] >> (at / 64 % 2 * 4) & 15;
            *out = scale * f32::from((nibble | two_bits(high, at) << 4) as i8 - 32);
        }
    }
}

/// Eight groups of 32: six bits of scale each, four bits an element on a curve.
fn iq4_xs(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    let (low, qs) = (&block[4..8], &block[8..]);
    for (group, (out, qs)) in out.chunks_exact_mut(32).zip(qs.chunks_exact(16)).enumerate() {
        let scale = low[group / 2] >> (group % 2 * 4) & 15 | ((high >> (group * 2) & 3) as u8) << 4;
        let scale = d * f32::from(scale as i8 - 32);
        nibbles(qs, out, |q| scale * f32::from(NON_LINEAR[usize::from(q)]));
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
