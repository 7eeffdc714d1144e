//! From coefficients to samples: the transform of Loeffler, Ligtenberg and Moschytz in integers, rounded where libjpeg's
//! default one rounds.

use std::num::Wrapping;

use super::Block;

/// Bits behind the point of the constants.
const POINT: usize = 13;

/// Bits behind the point between the two passes.
const BETWEEN: usize = 2;

/// A number that a file from a stranger may overflow.
type Number = Wrapping<i32>;

/// Constants of the transform, as libjpeg names them.
mod fix {
    use std::num::Wrapping;

    use super::Number;

    pub(super) const F0_298631336: Number = Wrapping(2446);
    pub(super) const F0_390180644: Number = Wrapping(3196);
    pub(super) const F0_541196100: Number = Wrapping(4433);
    pub(super) const F0_765366865: Number = Wrapping(6270);
    pub(super) const F0_899976223: Number = Wrapping(7373);
    pub(super) const F1_175875602: Number = Wrapping(9633);
    pub(super) const F1_501321110: Number = Wrapping(12299);
    pub(super) const F1_847759065: Number = Wrapping(15137);
    pub(super) const F1_961570560: Number = Wrapping(16069);
    pub(super) const F2_053119869: Number = Wrapping(16819);
    pub(super) const F2_562915447: Number = Wrapping(20995);
    pub(super) const F3_072711026: Number = Wrapping(25172);
}

/// The samples of a block, row by row.
pub(super) fn samples(block: &Block, quantiser: &[u16; 64]) -> [u8; 64] {
    let mut columns = [Wrapping(0); 64];
    for column in 0..8 {
        let part: [Number; 8] = std::array::from_fn(|row| {
            let at = 8 * row + column;
            // Products have 16 bits, as in libjpeg-turbo's vector code.
            Wrapping(i32::from(block[at].wrapping_mul(quantiser[at] as i16)))
        });
        for (row, number) in pass(part, POINT - BETWEEN).into_iter().enumerate() {
            columns[8 * row + column] = number;
        }
    }
    let mut samples = [0; 64];
    for (row, part) in columns.chunks_exact(8).enumerate() {
        let part = std::array::from_fn(|column| part[column]);
        for (column, number) in pass(part, POINT + BETWEEN + 3).into_iter().enumerate() {
            samples[8 * row + column] = (number.0.clamp(-128, 127) + 128) as u8;
        }
    }
    samples
}

/// The transform of eight numbers, which leaves out the last `shift` bits.
fn pass(part: [Number; 8], shift: usize) -> [Number; 8] {
    use fix::*;
    let [n0, n1, n2, n3, n4, n5, n6, n7] = part;
    let z1 = (n2 + n6) * F0_541196100;
    let t2 = z1 - n6 * F1_847759065;
    let t3 = z1 + n2 * F0_765366865;
    let (t0, t1) = ((n0 + n4) << POINT, (n0 - n4) << POINT);
    let even = [t0 + t3, t1 + t2, t1 - t2, t0 - t3];

    let (z1, z2, z3, z4) = (n7 + n1, n5 + n3, n7 + n3, n5 + n1);
    let z5 = (z3 + z4) * F1_175875602;
    let z1 = -(z1 * F0_899976223);
    let z2 = -(z2 * F2_562915447);
    let z3 = z5 - z3 * F1_961570560;
    let z4 = z5 - z4 * F0_390180644;
    let odd = [
        n1 * F1_501321110 + z1 + z4,
        n3 * F3_072711026 + z2 + z3,
        n5 * F2_053119869 + z2 + z4,
        n7 * F0_298631336 + z1 + z3,
    ];

    let half = Wrapping(1 << (shift - 1));
    std::array::from_fn(|at| {
        let sum = if at < 4 { even[at] + odd[at] } else { even[7 - at] - odd[7 - at] };
        (sum + half) >> shift
    })
}
