//! Float weights quantised while they are read: a source that stores them in blocks, as far as anybody can see.
//!
//! Nothing is kept between two reads, so memory does not grow with the model and a read gives the same bytes whatever was
//! read before and by whom. Scales are therefore measured again for the codes; measuring is far cheaper than reading.
//!
//! | scheme | codes | scale | value |
//! |---|---|---|---|
//! | four bits, symmetric | 0 to 15, from 8 | the largest magnitude becomes −8, so the scale may be negative | `scale · (code − 8)` |
//! | eight bits, symmetric | 17 to 255, from 136 | the largest magnitude becomes ±119 | `scale · (code − 136)` |
//! | asymmetric | 0 to 15, 0 to 255 | smallest to largest number, evenly | `scale · code + smallest` |
//!
//! A block with a number that is not finite has the scale NaN: what was broken before stays visibly so.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use qeff_plugin_api::{DType, TensorIndex, TensorInfo, WeightExpr};

use super::blocks::{self, BlockLayout, BlockPart, CodeBits, Encoding, ZeroPoint};
use super::error::EvalError;
use super::eval::Evaluation;
use super::source::{SourceError, TensorSource, TensorView, copy_lent};

/// Elements whose numbers are in memory at once; they stay in the second-level cache.
const CHUNK: u64 = 1 << 16;

/// Numbers looked at side by side.
const LANES: usize = 16;

/// How weights are quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    /// Width of a code.
    pub bits: CodeBits,
    /// Elements of a block: a power of two from 16 on.
    pub length: u64,
    /// Whether zero is a code. If not, a block is cut evenly from its smallest number to its largest.
    pub symmetric: bool,
}

impl Scheme {
    /// The blocks it makes.
    pub fn layout(&self) -> BlockLayout {
        let zero = if self.symmetric { ZeroPoint::Constant(self.bits.center()) } else { ZeroPoint::Shift };
        BlockLayout { bits: self.bits, length: self.length, zero, ordered: false }
    }

    /// Its name: `int4`, `int8`.
    pub fn name(&self) -> &'static str {
        match self.bits {
            CodeBits::Four => "int4",
            CodeBits::Eight => "int8",
        }
    }

    /// Scale and shift of a block.
    fn measure(&self, block: &[f32]) -> (f32, f32) {
        let (smallest, largest) = match extremes(block) {
            Some(extremes) => extremes,
            None => return (f32::NAN, 0.0),
        };
        let (scale, shift) = match (self.symmetric, self.bits) {
            (true, CodeBits::Four) => (if largest > -smallest { largest } else { smallest } / -8.0, 0.0),
            (true, CodeBits::Eight) => (f32::max(largest, -smallest) / 119.0, 0.0),
            (false, CodeBits::Four) => (largest / 15.0 - smallest / 15.0, smallest),
            (false, CodeBits::Eight) => (largest / 255.0 - smallest / 255.0, smallest),
        };
        // The reciprocal of anything smaller is infinite.
        (if scale.abs() < f32::MIN_POSITIVE { 0.0 } else { scale }, shift)
    }

    /// The codes of a block, each the nearest one; of two equally near ones the even one.
    fn encode(&self, block: &[f32], out: &mut [u8]) {
        // Added to a small number, it leaves the integer nearest to that in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let (scale, shift) = self.measure(block);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let first = if self.symmetric { f32::from(self.bits.center()) } else { 0.0 };
        let last = match self.bits {
            CodeBits::Four => 15.0,
            CodeBits::Eight => 255.0,
        };
        for (out, &number) in out.iter_mut().zip(block) {
            let code = (number - shift) * inverse + first;
            // Unlike `clamp`, this is two instructions, and takes NaN for 0.
            let code = if code > 0.0 { code } else { 0.0 };
            let code = if code < last { code } else { last };
            *out = (code + ROUND).to_bits() as u8;
        }
    }
}

/// The smallest and the largest of some numbers, `None` if one of them is not finite.
fn extremes(numbers: &[f32]) -> Option<(f32, f32)> {
    let (lanes, rest) = numbers.as_chunks::<LANES>();
    let first = numbers.first().copied()?;
    let (mut low, mut high, mut sound) = ([first; LANES], [first; LANES], [0f32; LANES]);
    for lane in lanes {
        for i in 0..LANES {
            let x = lane[i];
            low[i] = if x < low[i] { x } else { low[i] };
            high[i] = if x > high[i] { x } else { high[i] };
            // NaN from then on, if x is not finite.
            sound[i] += x * 0.0;
        }
    }
    let all = |numbers: &[f32; LANES], pick: fn(f32, f32) -> f32| numbers.iter().chain(rest).copied().fold(first, pick);
    let sound = sound.iter().sum::<f32>() + rest.iter().map(|x| x * 0.0).sum::<f32>();
    (sound == 0.0).then(|| (all(&low, f32::min), all(&high, f32::max)))
}

/// A weight to be quantised, and the tensor it becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantisedTensor {
    /// Name of the tensor.
    pub name: String,
    /// What it is made of; its last axis is a whole number of blocks.
    pub expr: WeightExpr,
    /// How it is quantised.
    pub scheme: Scheme,
}

/// A source with quantised tensors beside its own; see the module documentation.
pub struct Quantised<'s> {
    source: &'s dyn TensorSource,
    index: TensorIndex,
    tensors: BTreeMap<String, (Evaluation<'s>, Scheme)>,
}

impl<'s> Quantised<'s> {
    /// `source` with `tensors` beside its own. A tensor that has the name of a stored one takes its place.
    ///
    /// # Errors
    /// If an expression cannot be evaluated to numbers.
    pub fn new(source: &'s dyn TensorSource, tensors: &[QuantisedTensor]) -> Result<Self, EvalError> {
        let mut quantised = Self { source, index: source.index().clone(), tensors: BTreeMap::new() };
        for QuantisedTensor { name, expr, scheme } in tensors {
            let evaluation = Evaluation::new(expr, DType::F32, source)?;
            let shape = evaluation.shape().to_vec();
            quantised.index.insert(name.clone(), TensorInfo { dtype: DType::F32, shape });
            quantised.tensors.insert(name.clone(), (evaluation, *scheme));
        }
        Ok(quantised)
    }

    /// Whether `name` is a tensor that is made here.
    pub fn makes(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Shows `each` the numbers of the blocks `range` in runs of whole blocks, each with how many blocks were before it.
    fn numbers(&self, name: &str, blocks: Range<u64>, each: &mut dyn FnMut(usize, &[f32])) -> Result<(), SourceError> {
        let Some((evaluation, scheme)) = self.tensors.get(name) else {
            return Err(SourceError::Missing(name.to_owned()));
        };
        let count = evaluation.shape().iter().product::<u64>();
        let most = count / scheme.length;
        if blocks.start > blocks.end || blocks.end > most {
            let range = blocks.start.saturating_mul(scheme.length)..blocks.end.saturating_mul(scheme.length);
            return Err(SourceError::OutOfRange { tensor: name.to_owned(), range, count });
        }
        let step = (CHUNK / scheme.length).max(1);
        let mut numbers = Vec::new();
        let mut at = blocks.start;
        while at < blocks.end {
            let end = blocks.end.min(at + step);
            let elements = at * scheme.length..end * scheme.length;
            numbers.resize((elements.end - elements.start) as usize, 0f32);
            evaluation
                .read(elements, bytemuck::cast_slice_mut(&mut numbers))
                .map_err(|error| SourceError::Read { tensor: name.to_owned(), error: error.into() })?;
            each((at - blocks.start) as usize, &numbers);
            at = end;
        }
        Ok(())
    }
}

impl TensorSource for Quantised<'_> {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, SourceError> {
        match self.tensors.contains_key(name) {
            true => self.index.get(name).ok_or_else(|| SourceError::Missing(name.to_owned())),
            false => self.source.info(name),
        }
    }

    fn lend(&self, name: &str, elements: Range<u64>) -> Result<Cow<'_, [u8]>, SourceError> {
        let Some((_, scheme)) = self.tensors.get(name) else { return self.source.lend(name, elements) };
        let (layout, length) = (scheme.layout(), scheme.length as usize);
        let blocks = elements.start / scheme.length..elements.end.div_ceil(scheme.length);
        let mut dense = Vec::new();
        self.numbers(name, blocks.clone(), &mut |_, numbers| {
            let mut codes = vec![0; numbers.len()];
            let (mut scales, mut shifts) = (Vec::new(), Vec::new());
            for (block, codes) in numbers.chunks_exact(length).zip(codes.chunks_exact_mut(length)) {
                let (scale, shift) = scheme.measure(block);
                scheme.encode(block, codes);
                scales.push(scale);
                shifts.push(shift);
            }
            let mut decoded = vec![0f32; numbers.len()];
            blocks::decode(&layout, &codes, &scales, &shifts, &mut decoded);
            dense.extend_from_slice(bytemuck::cast_slice(&decoded));
        })?;
        let before = (elements.start - blocks.start * scheme.length) as usize * 4;
        let bytes = (elements.end - elements.start) as usize * 4;
        Ok(Cow::Owned(dense[before..before + bytes].to_vec()))
    }

    fn stored(&self, name: &str) -> Option<TensorView<'_>> {
        if self.tensors.contains_key(name) { None } else { self.source.stored(name) }
    }

    fn read(&self, name: &str, elements: Range<u64>, to: &mut [u8]) -> Result<(), SourceError> {
        match self.tensors.contains_key(name) {
            true => copy_lent(self, name, elements, to),
            false => self.source.read(name, elements, to),
        }
    }

    fn release(&self, name: &str, elements: Range<u64>) {
        // What a quantised tensor is read from is given back as soon as it is read.
        if !self.tensors.contains_key(name) {
            self.source.release(name, elements);
        }
    }

    fn encoding(&self, name: &str) -> Option<Encoding<'_>> {
        match self.tensors.get(name) {
            Some((_, scheme)) => Some(Encoding { name: scheme.name().into(), blocks: Some(scheme.layout()) }),
            None => self.source.encoding(name),
        }
    }

    fn read_blocks(&self, name: &str, blocks: Range<u64>, part: BlockPart<'_>) -> Result<(), SourceError> {
        let Some((_, scheme)) = self.tensors.get(name) else { return self.source.read_blocks(name, blocks, part) };
        let length = scheme.length as usize;
        match part {
            BlockPart::Codes(out) => self.numbers(name, blocks, &mut |before, numbers| {
                let out = &mut out[before * length..][..numbers.len()];
                let pairs = numbers.chunks_exact(length).zip(out.chunks_exact_mut(length));
                pairs.for_each(|(block, out)| scheme.encode(block, out));
            }),
            BlockPart::Scales(out) => self.numbers(name, blocks, &mut |before, numbers| {
                let pairs = numbers.chunks_exact(length).zip(&mut out[before..]);
                pairs.for_each(|(block, out)| *out = scheme.measure(block).0);
            }),
            BlockPart::Shifts(out) if !scheme.symmetric => self.numbers(name, blocks, &mut |before, numbers| {
                let pairs = numbers.chunks_exact(length).zip(&mut out[before..]);
                pairs.for_each(|(block, out)| *out = scheme.measure(block).1);
            }),
            other => Err(SourceError::NoSuchPart { tensor: name.to_owned(), part: other.name() }),
        }
    }
}

#[cfg(test)]
#[path = "quantise_tests.rs"]
mod tests;
