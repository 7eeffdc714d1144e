//! Numbers as callers store them, and as the engine computes with them.
//!
//! The engine knows f32, 32-bit integers and bytes. Everything else is turned into one of these on the way in, and back on the
//! way out: f16 and bfloat16 are rounded, 64-bit integers saturate as the engine's own constants do.

use anyhow::{Context as _, Result, bail};
use half::{bf16, f16};

use super::model::elem;
use crate::qpc::network::Elem;

/// A tensor within the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its shape.
    pub dims: Vec<usize>,
    /// Its numbers, the last axis densest.
    pub data: Data,
}

/// Numbers within the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// All floats.
    F32(Vec<f32>),
    /// Integers and truth values.
    I32(Vec<i32>),
    /// Signed bytes.
    I8(Vec<i8>),
    /// Unsigned bytes.
    U8(Vec<u8>),
}

/// How a port's numbers are stored outside, and what they are inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Type of the binding.
    pub stored: Elem,
    /// ONNX's number for the type in the graph.
    pub elem: i32,
    /// Whether numbers go through MXINT8: callers cannot read or write them then.
    pub mxint8: bool,
}

impl Form {
    /// A tensor of a caller's bytes.
    ///
    /// # Errors
    /// If their number does not fit the shape, or callers cannot write this form.
    pub fn decode(self, bytes: &[u8], dims: &[usize]) -> Result<Tensor> {
        if self.mxint8 {
            bail!("what MXINT8 looks like in memory is not known; the buffer has to be left out");
        }
        if bytes.len() != crate::qpc::network::bytes(self.stored, dims) {
            bail!("{} bytes for a shape of {dims:?}", bytes.len());
        }
        let words = |n: usize| bytes.chunks_exact(n);
        let data = match (self.stored, self.elem) {
            (Elem::F32, _) => Data::F32(words(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            (Elem::F16, _) => Data::F32(words(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            (Elem::BF16, _) => Data::F32(words(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            (Elem::I32, _) => Data::I32(words(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            (Elem::I64, _) => Data::I32(
                words(8)
                    .map(|b| {
                        let number = i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
                        number.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
                    })
                    .collect(),
            ),
            (Elem::I8, elem::BOOL) => Data::I32(bytes.iter().map(|&byte| i32::from(byte != 0)).collect()),
            (Elem::I8, _) => Data::I8(bytes.iter().map(|&byte| byte as i8).collect()),
            (Elem::U8, _) => Data::U8(bytes.to_vec()),
        };
        Ok(Tensor { dims: dims.to_vec(), data })
    }

    /// The bytes that a caller gets.
    ///
    /// # Errors
    /// If the engine made numbers of another kind, or callers cannot read this form.
    pub fn encode(self, tensor: &Tensor) -> Result<Vec<u8>> {
        if self.mxint8 {
            bail!("what MXINT8 looks like in memory is not known; the buffer has to be left out");
        }
        Ok(match (&tensor.data, self.stored) {
            (Data::F32(numbers), Elem::F32) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
            (Data::F32(numbers), Elem::F16) => {
                numbers.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect()
            }
            (Data::F32(numbers), Elem::BF16) => {
                numbers.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect()
            }
            (Data::I32(numbers), Elem::I32) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
            (Data::I32(numbers), Elem::I64) => {
                numbers.iter().flat_map(|&number| i64::from(number).to_le_bytes()).collect()
            }
            (Data::I32(numbers), Elem::I8) => numbers.iter().map(|&number| number as u8).collect(),
            (Data::I8(numbers), Elem::I8) => numbers.iter().map(|&number| number as u8).collect(),
            (Data::U8(numbers), Elem::U8) => numbers.clone(),
            (_, stored) => bail!("the engine made other numbers than {stored:?}"),
        })
    }

    /// What is left of a tensor that was stored in this form.
    #[must_use]
    pub fn round(self, mut tensor: Tensor) -> Tensor {
        if let Data::F32(numbers) = &mut tensor.data {
            match self.stored {
                _ if self.mxint8 => mxint8(numbers, tensor.dims.last().copied().unwrap_or(1)),
                Elem::F16 => numbers.iter_mut().for_each(|number| *number = f16::from_f32(*number).to_f32()),
                Elem::BF16 => numbers.iter_mut().for_each(|number| *number = bf16::from_f32(*number).to_f32()),
                _ => {}
            }
        }
        tensor
    }

    /// `number` everywhere, in whatever kind the engine has for this form; bytes and truth values by their own rules.
    pub fn filled(self, dims: &[usize], number: f32) -> Tensor {
        let count = dims.iter().product();
        let data = match self.elem {
            elem::BOOL => Data::I32(vec![i32::from(number != 0.0); count]),
            elem::I32 | elem::I64 => Data::I32(vec![if number == 0.0 { 0 } else { 0x7f7f_7f7f }; count]),
            elem::I8 => Data::I8(vec![if number == 0.0 { 0 } else { 0x7f }; count]),
            elem::U8 => Data::U8(vec![if number == 0.0 { 0 } else { 0x7f }; count]),
            _ => Data::F32(vec![number; count]),
        };
        Tensor { dims: dims.to_vec(), data }
    }
}

/// How a graph's type is stored when nobody says otherwise.
///
/// # Errors
/// If no binding can have the type.
pub fn stored(elem: i32) -> Result<Elem> {
    Ok(match elem {
        elem::F32 => Elem::F32,
        elem::F16 => Elem::F16,
        elem::BF16 => Elem::BF16,
        elem::I32 => Elem::I32,
        elem::I64 => Elem::I64,
        elem::BOOL | elem::I8 => Elem::I8,
        elem::U8 => Elem::U8,
        other => return None.with_context(|| format!("type {other} of ONNX cannot be that of an input or output")),
    })
}

/// MXINT8 and back: 32 numbers of a row share a power of two, each has eight bits. A model of the format, not of the card.
fn mxint8(numbers: &mut [f32], width: usize) {
    for row in numbers.chunks_mut(width.max(1)) {
        for block in row.chunks_mut(32) {
            let largest = block.iter().fold(0f32, |largest, number| largest.max(number.abs()));
            if largest == 0.0 || !largest.is_finite() {
                continue;
            }
            let step = (largest.log2().floor() - 6.0).exp2();
            block.iter_mut().for_each(|number| *number = (*number / step).round().clamp(-127.0, 127.0) * step);
        }
    }
}
