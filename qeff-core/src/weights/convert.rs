//! From the stored element type to the wanted one, a run at a time.
//!
//! Conversions go through f32 (those from f64 too, as in PyTorch) in chunks that stay in the first-level cache, because
//! that is the form in which the `half` crate and the compiler vectorise them. A pair of equal types without arithmetic is
//! a copy, whatever the type: so integers pass through and are never read as numbers.
//!
//! What f16 has no room for becomes its largest number, and is counted ([`Clipped`]); f16 that is stored as f16 is a copy.

use std::cell::Cell;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use qeff_plugin_api::DType;

// Stored tensors are little-endian; here they are copied and viewed in the machine's order.
const _: () = assert!(cfg!(target_endian = "little"), "checkpoints are read on little-endian machines only");

/// Elements converted at a time.
const LONG: usize = 1024;

/// Elements converted at a time where there are no more of them.
const SHORT: usize = 64;

/// `scale · x + offset` in f32, each operation rounded as the reference rounds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Affine {
    pub(super) scale: f32,
    pub(super) offset: f32,
}

/// Numbers that f16 has no room for, and that became its largest.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Clipped {
    /// How many.
    pub count: u64,
    /// The largest of them without its sign.
    pub largest: f32,
}

impl Clipped {
    /// Both together.
    pub(super) fn add(&mut self, other: Clipped) {
        self.count += other.count;
        self.largest = self.largest.max(other.largest);
    }
}

/// A number as f16: one that it has no room for becomes its largest, because one infinite weight would make every result
/// no number. −∞ stays: it is how masks say "never".
pub fn clip(x: f32) -> f16 {
    f16::from_f32(if x.is_finite() || x > 0.0 { x.clamp(-f16::MAX.to_f32(), f16::MAX.to_f32()) } else { x })
}

/// A conversion between two element types, with arithmetic between.
#[derive(Debug)]
pub(super) struct Converter<'a> {
    from: DType,
    to: DType,
    /// In the order of application.
    affine: &'a [Affine],
    /// What was clipped so far. A converter is one thread's.
    clipped: Cell<Clipped>,
}

impl<'a> Converter<'a> {
    /// `None` if one of the types holds no floating-point numbers and the other is different or there is arithmetic.
    pub(super) fn new(from: DType, to: DType, affine: &'a [Affine]) -> Option<Self> {
        let copies = from == to && affine.is_empty();
        (copies || (from.is_float() && to.is_float())).then(|| Self { from, to, affine, clipped: Cell::default() })
    }

    /// Whether bytes stay as they are.
    pub(super) fn is_copy(&self) -> bool {
        self.from == self.to && self.affine.is_empty()
    }

    /// What was clipped since the converter was made.
    pub(super) fn clipped(&self) -> Clipped {
        self.clipped.get()
    }

    fn note(&self, clipped: Clipped) {
        let mut all = self.clipped.get();
        all.add(clipped);
        self.clipped.set(all);
    }

    /// Bytes of an element before.
    pub(super) fn source_size(&self) -> usize {
        self.from.size()
    }

    /// Bytes of an element after.
    pub(super) fn target_size(&self) -> usize {
        self.to.size()
    }

    /// Converts as many elements as `from` and `to` hold; both have to hold the same number.
    pub(super) fn run(&self, from: &[u8], to: &mut [u8]) {
        if self.is_copy() {
            to.copy_from_slice(from);
            return;
        }
        debug_assert_eq!(from.len() / self.source_size(), to.len() / self.target_size());
        // Transposed blocks come in short rows; a stage that is mostly zeroes to be written would cost more than they do.
        if from.len() <= SHORT * self.source_size() {
            self.chunks::<SHORT>(from, to);
        } else {
            self.chunks::<LONG>(from, to);
        }
    }

    fn chunks<const N: usize>(&self, from: &[u8], to: &mut [u8]) {
        let mut stage = [0f32; N];
        for (from, to) in from.chunks(N * self.source_size()).zip(to.chunks_mut(N * self.target_size())) {
            let stored = match self.from {
                DType::F32 if self.affine.is_empty() => bytemuck::try_cast_slice::<u8, f32>(from).ok(),
                _ => None,
            };
            if let Some(stored) = stored {
                self.note(store::<N>(self.to, stored, to));
                continue;
            }
            let stage = &mut stage[..from.len() / self.source_size()];
            load::<N>(self.from, from, stage);
            for Affine { scale, offset } in self.affine {
                stage.iter_mut().for_each(|x| *x = scale * *x + offset);
            }
            self.note(store::<N>(self.to, stage, to));
        }
    }
}

fn load<const N: usize>(dtype: DType, from: &[u8], to: &mut [f32]) {
    match dtype {
        DType::F32 => bytemuck::cast_slice_mut::<f32, u8>(to).copy_from_slice(from),
        DType::F64 => {
            to.iter_mut().zip(from.as_chunks::<8>().0).for_each(|(to, &b)| *to = f64::from_le_bytes(b) as f32)
        }
        DType::F16 => match bytemuck::try_cast_slice::<u8, f16>(from) {
            Ok(from) => from.convert_to_f32_slice(to),
            // Nothing aligns a tensor in a file that somebody else wrote.
            Err(_) => {
                let mut aligned = [f16::ZERO; N];
                bytemuck::cast_slice_mut::<f16, u8>(&mut aligned[..to.len()]).copy_from_slice(from);
                aligned[..to.len()].convert_to_f32_slice(to);
            }
        },
        // Widening is a shift; a signalling NaN stays one, and no arithmetic has seen it yet.
        DType::BF16 => to
            .iter_mut()
            .zip(from.as_chunks::<2>().0)
            .for_each(|(to, &b)| *to = f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        _ => unreachable!("`Converter::new` admits floats only"),
    }
}

fn store<const N: usize>(dtype: DType, from: &[f32], to: &mut [u8]) -> Clipped {
    let most = f16::MAX.to_f32();
    if dtype == DType::F16 && from.iter().any(|x| x.abs() > most && *x != f32::NEG_INFINITY) {
        let mut clipped = Clipped::default();
        for (to, &x) in to.as_chunks_mut::<2>().0.iter_mut().zip(from) {
            if x.abs() > most && x != f32::NEG_INFINITY {
                clipped.add(Clipped { count: 1, largest: x.abs() });
            }
            *to = clip(x).to_le_bytes();
        }
        return clipped;
    }
    match dtype {
        DType::F32 => to.copy_from_slice(bytemuck::cast_slice(from)),
        DType::F64 => {
            to.as_chunks_mut::<8>().0.iter_mut().zip(from).for_each(|(to, &x)| *to = f64::from(x).to_le_bytes());
        }
        DType::F16 => {
            if let Ok(to) = bytemuck::try_cast_slice_mut::<u8, f16>(to) {
                to.convert_from_f32_slice(from);
                return Clipped::default();
            }
            let mut half = [f16::ZERO; N];
            half[..from.len()].convert_from_f32_slice(from);
            to.copy_from_slice(bytemuck::cast_slice(&half[..from.len()]));
        }
        DType::BF16 => {
            if let Ok(to) = bytemuck::try_cast_slice_mut::<u8, bf16>(to) {
                to.convert_from_f32_slice(from);
                return Clipped::default();
            }
            let mut half = [bf16::ZERO; N];
            half[..from.len()].convert_from_f32_slice(from);
            to.copy_from_slice(bytemuck::cast_slice(&half[..from.len()]));
        }
        _ => unreachable!("`Converter::new` admits floats only"),
    }
    Clipped::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(from: DType, to: DType, affine: &[Affine], bytes: &[u8]) -> Vec<u8> {
        let converter = Converter::new(from, to, affine).unwrap();
        let mut out = vec![0; bytes.len() / from.size() * to.size()];
        converter.run(bytes, &mut out);
        // The same bytes at an odd address give the same result.
        let (shifted, mut again) = ([&[0], bytes].concat(), vec![0; out.len() + 1]);
        converter.run(&shifted[1..], &mut again[1..]);
        assert_eq!(out, again[1..]);
        out
    }

    /// Every f16 and every bf16, NaNs, infinities and subnormal numbers among them.
    #[test]
    fn every_half_survives_the_way_to_f32_and_back() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (dtype, to_f32) in [
            (DType::F16, (|bits| f16::from_bits(bits).to_f32()) as fn(u16) -> f32),
            (DType::BF16, |bits| bf16::from_bits(bits).to_f32()),
        ] {
            let wide = convert(dtype, DType::F32, &[], &all);
            for (bits, x) in wide.as_chunks::<4>().0.iter().enumerate() {
                let (x, expected) = (f32::from_le_bytes(*x), to_f32(bits as u16));
                assert!(
                    x == expected && x.is_sign_negative() == expected.is_sign_negative()
                        || x.is_nan() && expected.is_nan()
                );
            }
            let back = convert(DType::F32, dtype, &[], &wide);
            for (bits, x) in back.as_chunks::<2>().0.iter().enumerate() {
                let (bits, back) = (bits as u16, u16::from_le_bytes(*x));
                // +∞ is clipped as every number is that f16 has no room for.
                let clipped = dtype == DType::F16 && to_f32(bits) == f32::INFINITY && back == f16::MAX.to_bits();
                assert!(back == bits || to_f32(bits).is_nan() || clipped, "{dtype} {bits:#x}: {back:#x}");
            }
        }
    }

    #[test]
    fn narrowing_to_f16_clips_and_counts() {
        let numbers = [65504.0, 65505.0, -70000.0, 1e30, f32::INFINITY, f32::NEG_INFINITY, 1.0];
        let bytes: Vec<u8> = numbers.iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
        let converter = Converter::new(DType::F32, DType::F16, &[]).unwrap();
        let mut out = vec![0; 2 * numbers.len()];
        converter.run(&bytes, &mut out);
        let found: Vec<f32> = out.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect();
        assert_eq!(found, [65504.0, 65504.0, -65504.0, 65504.0, 65504.0, f32::NEG_INFINITY, 1.0]);
        assert_eq!(converter.clipped(), Clipped { count: 4, largest: f32::INFINITY });
        assert!(clip(f32::NAN).is_nan());
    }

    #[test]
    fn narrowing_rounds_to_nearest_and_keeps_what_is_no_number() {
        let numbers =
            [0.0, -0.0, 1.0, 65504.0, 65519.9, 65520.0, 1e-8, 6e-8, 1e-40, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let f16s = convert(DType::F32, DType::F16, &[], &bytes);
        let bf16s = convert(DType::F32, DType::BF16, &[], &bytes);
        for (i, x) in numbers.iter().enumerate() {
            let (a, b) = (f16s.as_chunks::<2>().0[i], bf16s.as_chunks::<2>().0[i]);
            if x.is_nan() {
                assert!(f16::from_le_bytes(a).is_nan() && bf16::from_le_bytes(b).is_nan());
            } else {
                assert_eq!((a, b), (clip(*x).to_le_bytes(), bf16::from_f32(*x).to_le_bytes()), "{x}");
            }
        }
    }

    #[test]
    fn f64_goes_through_f32() {
        let x = 0.1f64;
        assert_eq!(convert(DType::F64, DType::F32, &[], &x.to_le_bytes()), 0.1f32.to_le_bytes());
        assert_eq!(convert(DType::F64, DType::F16, &[], &x.to_le_bytes()), f16::from_f32(0.1).to_le_bytes());
        assert_eq!(convert(DType::F64, DType::F64, &[], &x.to_le_bytes()), x.to_le_bytes());
        assert_eq!(convert(DType::F32, DType::F64, &[], &0.1f32.to_le_bytes()), f64::from(0.1f32).to_le_bytes());
    }

    #[test]
    fn arithmetic_is_applied_in_order() {
        let steps = [Affine { scale: 2.0, offset: 1.0 }, Affine { scale: 10.0, offset: 0.5 }];
        let out = convert(DType::BF16, DType::F32, &steps, &bf16::from_f32(3.0).to_le_bytes());
        assert_eq!(out, 70.5f32.to_le_bytes());
    }

    #[test]
    fn integers_are_copied_or_refused() {
        assert_eq!(convert(DType::I64, DType::I64, &[], &7i64.to_le_bytes()), 7i64.to_le_bytes());
        let step = [Affine { scale: 1.0, offset: 1.0 }];
        assert!(Converter::new(DType::I64, DType::I32, &[]).is_none());
        assert!(Converter::new(DType::U8, DType::F32, &[]).is_none());
        assert!(Converter::new(DType::F32, DType::I32, &[]).is_none());
        assert!(Converter::new(DType::I8, DType::I8, &step).is_none());
    }
}
