//! What one code stands for before its scale: whole numbers, and floating-point numbers of eight bits and of four.

/// How a code of at most eight bits is read as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::weights) enum Numbers {
    /// 0 and up.
    Unsigned,
    /// Two's complement.
    Signed,
    /// Floating point.
    Float(Float8),
    /// Four bits: sign, two of exponent, one of mantissa.
    E2M1,
}

/// Floating-point numbers of one byte, named by their bits of exponent and mantissa.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::weights) enum Float8 {
    /// Without infinities; one pattern of each sign is no number.
    E4M3,
    /// The upper byte of an f16.
    E5M2,
    /// Powers of two: an exponent, neither sign nor mantissa.
    E8M0,
}

impl Float8 {
    /// The name in safetensors files.
    pub(in crate::weights) fn name(self) -> &'static str {
        match self {
            Float8::E4M3 => "F8_E4M3",
            Float8::E5M2 => "F8_E5M2",
            Float8::E8M0 => "F8_E8M0",
        }
    }

    /// What each byte means.
    pub(super) fn table(self) -> &'static [f32; 256] {
        match self {
            Float8::E4M3 => &E4M3,
            Float8::E5M2 => &E5M2,
            Float8::E8M0 => &E8M0,
        }
    }
}

impl Numbers {
    /// `scale · (number − zero)` for each code, the difference and the product each rounded to f32.
    pub(super) fn decode(self, codes: &[u8], zero: f32, scale: f32, out: &mut [f32]) {
        let each = codes.iter().zip(out);
        match self {
            Numbers::Unsigned => each.for_each(|(&code, out)| *out = (f32::from(code) - zero) * scale),
            Numbers::Signed => each.for_each(|(&code, out)| *out = (f32::from(code as i8) - zero) * scale),
            Numbers::Float(float) => {
                let table = float.table();
                each.for_each(|(&code, out)| *out = (table[usize::from(code)] - zero) * scale);
            }
            Numbers::E2M1 => each.for_each(|(&code, out)| *out = (HALVES[usize::from(code & 15)] - zero) * scale),
        }
    }
}

/// E2M1, by code.
const HALVES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

static E4M3: [f32; 256] = table(Float8::E4M3);
static E5M2: [f32; 256] = table(Float8::E5M2);
static E8M0: [f32; 256] = table(Float8::E8M0);

const fn table(float: Float8) -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match float {
            Float8::E4M3 if byte & 0x7f == 0x7f => f32::NAN,
            Float8::E4M3 => small_float(byte as u32, 3, 7),
            Float8::E5M2 if byte & 0x7c == 0x7c => match byte {
                0x7c => f32::INFINITY,
                0xfc => f32::NEG_INFINITY,
                _ => f32::NAN,
            },
            Float8::E5M2 => small_float(byte as u32, 2, 15),
            Float8::E8M0 => match byte {
                0 => f32::from_bits(1 << 22),
                255 => f32::NAN,
                exponent => f32::from_bits((exponent as u32) << 23),
            },
        };
        byte += 1;
    }
    table
}

/// A finite number of eight bits with `mantissa` bits of mantissa.
const fn small_float(byte: u32, mantissa: u32, bias: u32) -> f32 {
    let sign = byte >> 7 << 31;
    let exponent = (byte & 0x7f) >> mantissa;
    let fraction = byte & ((1 << mantissa) - 1);
    if exponent == 0 {
        // Subnormal: the fraction times the smallest normal number's unit.
        let unit = f32::from_bits((127 + 1 - bias - mantissa) << 23);
        return f32::from_bits((fraction as f32 * unit).to_bits() | sign);
    }
    f32::from_bits(sign | (exponent + 127 - bias) << 23 | fraction << (23 - mantissa))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that the formats' own papers list.
    #[test]
    fn landmarks() {
        let rows = [
            (Float8::E4M3, 0x00, 0.0),
            (Float8::E4M3, 0x01, 1.0 / 512.0),
            (Float8::E4M3, 0x07, 7.0 / 512.0),
            (Float8::E4M3, 0x08, 1.0 / 64.0),
            (Float8::E4M3, 0x38, 1.0),
            (Float8::E4M3, 0xb9, -1.125),
            (Float8::E4M3, 0x7e, 448.0),
            (Float8::E5M2, 0x01, 1.0 / 65536.0),
            (Float8::E5M2, 0x04, 1.0 / 16384.0),
            (Float8::E5M2, 0x3d, 1.25),
            (Float8::E5M2, 0xfb, -57344.0),
            (Float8::E5M2, 0x7c, f32::INFINITY),
            (Float8::E8M0, 127, 1.0),
            (Float8::E8M0, 0, f32::MIN_POSITIVE / 2.0),
            (Float8::E8M0, 254, 2f32.powi(127)),
        ];
        for (float, byte, expected) in rows {
            assert_eq!(float.table()[byte], expected, "{float:?} {byte:#x}");
        }
        let nans = |float: Float8| float.table().iter().filter(|x| x.is_nan()).count();
        assert_eq!([Float8::E4M3, Float8::E5M2, Float8::E8M0].map(nans), [2, 6, 1]);
    }

    #[test]
    fn e5m2_is_the_upper_byte_of_a_half() {
        for byte in 0..=255u8 {
            let half = half::f16::from_le_bytes([0, byte]).to_f32();
            let ours = Float8::E5M2.table()[usize::from(byte)];
            assert!(ours.to_bits() == half.to_bits() || ours.is_nan() && half.is_nan(), "{byte:#x}");
        }
    }

    #[test]
    fn codes_become_numbers() {
        let decode = |numbers: Numbers, code| {
            let mut out = [0.0];
            numbers.decode(&[code], 3.0, 0.5, &mut out);
            out[0]
        };
        assert_eq!(decode(Numbers::Unsigned, 255), 126.0);
        assert_eq!(decode(Numbers::Signed, 255), -2.0);
        assert_eq!(decode(Numbers::E2M1, 0xf), -4.5);
        assert_eq!(decode(Numbers::Float(Float8::E4M3), 0x38), -1.0);
    }
}
