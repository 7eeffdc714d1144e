//! A weight expression made ready for evaluation: shapes known, tensors found, refusals made.
//!
//! After [`Node::compile`] nothing about the *expression* can fail; what is left to fail is reading and writing.
//! [`Node::descend`] is the whole meaning of the steps: how each one rewrites the coordinates of a [`Region`].

use std::ops::Range;

use qeff_plugin_api::weight::{RopeKind, RopeTable, element_count};
use qeff_plugin_api::{DType, WeightExpr};

use super::convert::{Affine, Converter};
use super::error::EvalError;
use super::eval::evaluate_to_vec;
use super::region::Region;
use super::source::TensorSource;

/// Deeper expressions are refused: descent is recursive, and no description needs them.
const MAX_DEPTH: usize = 256;

/// Most elements of a normalised weight, which is held in memory: several times those of any model's.
const MAX_NORMALISED: u64 = 1 << 27;

/// Widest rotary table: a row of it is held in memory.
const MAX_ROPE_WIDTH: u64 = 1 << 20;

/// A step with its operands and the shape of its result.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) step: Step,
    pub(super) shape: Vec<u64>,
    operands: Vec<Node>,
}

#[derive(Debug)]
pub(super) enum Step {
    Tensor {
        name: String,
        dtype: DType,
    },
    Fill {
        value: f32,
    },
    Rope {
        table: RopeTable,
        inverse: Vec<f32>,
    },
    /// Numbers in memory, row by row.
    Held {
        numbers: Vec<f32>,
    },
    Transpose {
        perm: Vec<usize>,
    },
    Take {
        axis: usize,
        groups: u64,
        width: u64,
        columns: Range<u64>,
    },
    Reshape,
    /// With the end of each part along the axis.
    Concat {
        axis: usize,
        ends: Vec<u64>,
    },
    Stack {
        axis: usize,
    },
    /// Blocks of `block` elements, each `times` times.
    Repeat {
        axis: usize,
        block: u64,
        times: u64,
    },
    Affine(Affine),
}

/// A region that has arrived at a tensor, a fill, a table or numbers.
pub(super) struct Leaf<'n> {
    pub(super) node: &'n Node,
    /// Its axes are those of the leaf.
    pub(super) region: Region,
    /// What happens to the elements afterwards, in order of application.
    pub(super) affine: &'n [Affine],
}

impl Leaf<'_> {
    /// Loops as (extent, output step, source step) and the first source element, the leaf seen as flat.
    pub(super) fn flat(self) -> Region {
        self.region.flatten(&strides(&self.node.shape))
    }
}

/// Row-major strides of a shape whose elements can be counted.
pub(super) fn strides(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

impl Node {
    /// Checks `expr` against what `source` holds and whether its elements can become `target`.
    pub(super) fn compile(expr: &WeightExpr, target: DType, source: &dyn TensorSource) -> Result<Self, EvalError> {
        check_depth(expr, 0)?;
        let mut error = None;
        expr.for_each_source(&mut |name| {
            error = error.take().or_else(|| source.info(name).err());
        });
        if let Some(error) = error {
            return Err(error.into());
        }
        Self::build(expr, target, source, &mut Vec::new())
    }

    fn build(
        expr: &WeightExpr,
        target: DType,
        source: &dyn TensorSource,
        affine: &mut Vec<Affine>,
    ) -> Result<Self, EvalError> {
        let shape = expr.shape(source.index())?;
        if element_count(&shape).and_then(|count| count.checked_mul(8)).is_none() {
            return Err(EvalError::TooLarge { shape });
        }
        if let WeightExpr::WeightNorm { axis, parts } = expr {
            let step = Step::Held { numbers: normalised(*axis, parts, &shape, target, source)? };
            return Ok(Self { step, shape, operands: vec![] });
        }
        if let WeightExpr::Affine { scale, offset, .. } = expr {
            affine.push(Affine { scale: *scale, offset: *offset });
        }
        let operands: Vec<Node> =
            expr.operands().iter().map(|of| Self::build(of, target, source, affine)).collect::<Result<_, _>>()?;
        let step = match expr {
            WeightExpr::Tensor(name) => {
                let dtype = source.info(name)?.dtype;
                if Converter::new(dtype, target, affine).is_none() {
                    return Err(EvalError::NotConvertible { tensor: name.clone(), from: dtype, to: target });
                }
                Step::Tensor { name: name.clone(), dtype }
            }
            WeightExpr::Fill { value, .. } => {
                let applied: Vec<Affine> = affine.iter().rev().copied().collect();
                fill_bytes(*value, &applied, target).ok_or(EvalError::Fill { value: *value, to: target })?;
                Step::Fill { value: *value }
            }
            WeightExpr::Rope(table) => {
                check_rope(table, target)?;
                Step::Rope { inverse: table.inverse_frequencies(), table: table.clone() }
            }
            WeightExpr::Transpose { perm, .. } => Step::Transpose { perm: perm.clone() },
            WeightExpr::Take { axis, groups, width, columns, .. } => {
                Step::Take { axis: *axis, groups: *groups, width: *width, columns: columns.clone() }
            }
            WeightExpr::Reshape { .. } => Step::Reshape,
            WeightExpr::Concat { axis, .. } => {
                let mut end = 0;
                let ends = operands.iter().map(|of| {
                    end += of.shape[*axis];
                    end
                });
                Step::Concat { axis: *axis, ends: ends.collect() }
            }
            WeightExpr::Stack { axis, .. } => Step::Stack { axis: *axis },
            WeightExpr::Repeat { axis, groups, times, .. } => {
                Step::Repeat { axis: *axis, block: operands[0].shape[*axis] / groups, times: *times }
            }
            WeightExpr::WeightNorm { .. } => unreachable!("built above"),
            WeightExpr::Affine { scale, offset, .. } => {
                affine.pop();
                Step::Affine(Affine { scale: *scale, offset: *offset })
            }
        };
        Ok(Self { step, shape, operands })
    }

    /// Pushes `region`, whose axes are those of this node, down to the leaves and shows `visit` what arrives.
    ///
    /// `outer` is the arithmetic above this node, in order of application.
    pub(super) fn descend<E>(
        &self,
        mut region: Region,
        outer: &[Affine],
        visit: &mut dyn FnMut(Leaf<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match &self.step {
            Step::Tensor { .. } | Step::Fill { .. } | Step::Rope { .. } | Step::Held { .. } => {
                visit(Leaf { node: self, region, affine: outer })
            }
            Step::Transpose { perm } => {
                let mut axes = region.axes.clone();
                for (form, &axis) in region.axes.into_iter().zip(perm) {
                    axes[axis] = form;
                }
                region.axes = axes;
                self.operands[0].descend(region, outer, visit)
            }
            Step::Take { axis, groups: 1, columns, .. } => {
                region.axes[*axis].start += columns.start;
                self.operands[0].descend(region, outer, visit)
            }
            Step::Take { axis, width, columns, .. } => {
                region.divide(*axis, columns.end - columns.start, &mut |mut region| {
                    let column = region.axes.remove(*axis + 1);
                    let group = &mut region.axes[*axis];
                    group.start = group.start * width + columns.start + column.start;
                    group.steps.iter_mut().zip(&column.steps).for_each(|(g, c)| *g = *g * width + c);
                    self.operands[0].descend(region, outer, visit)
                })
            }
            Step::Reshape => self.operands[0].descend_flat_within(region.flatten(&strides(&self.shape)), outer, visit),
            Step::Concat { axis, ends } => {
                let segment = |value: u64| {
                    let part = ends.partition_point(|&end| end <= value);
                    (part, part.checked_sub(1).map_or(0, |before| ends[before])..ends[part])
                };
                region.segments(*axis, &segment, &mut |mut region, part, range| {
                    region.axes[*axis].start -= range.start;
                    self.operands[part].descend(region, outer, visit)
                })
            }
            Step::Stack { axis } => {
                let segment = |value: u64| (value as usize, value..value + 1);
                region.segments(*axis, &segment, &mut |mut region, part, _| {
                    region.axes.remove(*axis);
                    self.operands[part].descend(region, outer, visit)
                })
            }
            Step::Repeat { axis, block, times } => region.divide(*axis, *block, &mut |region| {
                region.divide(*axis, *times, &mut |mut region| {
                    // Now (group, which copy, within the block).
                    region.axes.remove(*axis + 1);
                    let within = region.axes.remove(*axis + 1);
                    let group = &mut region.axes[*axis];
                    group.start = group.start * block + within.start;
                    group.steps.iter_mut().zip(&within.steps).for_each(|(g, w)| *g = *g * block + w);
                    self.operands[0].descend(region, outer, visit)
                })
            }),
            Step::Affine(affine) => {
                let chain = [&[*affine], outer].concat();
                self.operands[0].descend(region, &chain, visit)
            }
        }
    }
}

impl Node {
    /// As [`Self::descend`] for a region with one axis, which counts the elements of this node in row-major order.
    pub(super) fn descend_flat<E>(
        &self,
        flat: Region,
        visit: &mut dyn FnMut(Leaf<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.descend_flat_within(flat, &[], visit)
    }

    fn descend_flat_within<E>(
        &self,
        flat: Region,
        outer: &[Affine],
        visit: &mut dyn FnMut(Leaf<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.shape.len() {
            0 => self.descend(Region { axes: vec![], ..flat }, outer, visit),
            rank => split(flat, &self.shape, rank - 1, &mut |region| self.descend(region, outer, visit)),
        }
    }
}

/// Splits the first axis of `region` by the dimensions of `shape` up to `axis`, innermost first.
fn split<E>(
    region: Region,
    shape: &[u64],
    axis: usize,
    then: &mut dyn FnMut(Region) -> Result<(), E>,
) -> Result<(), E> {
    if axis == 0 {
        return then(region);
    }
    region.divide(0, shape[axis], &mut |region| split(region, shape, axis - 1, then))
}

fn check_depth(expr: &WeightExpr, depth: usize) -> Result<(), EvalError> {
    if depth > MAX_DEPTH {
        return Err(EvalError::TooDeep { limit: MAX_DEPTH });
    }
    expr.operands().iter().try_for_each(|of| check_depth(of, depth + 1))
}

/// A direction scaled to the lengths that a gain says, one for each place of `axis`.
fn normalised(
    axis: usize,
    [gain, direction]: &[WeightExpr; 2],
    shape: &[u64],
    target: DType,
    source: &dyn TensorSource,
) -> Result<Vec<f32>, EvalError> {
    let count = element_count(shape).unwrap_or(u64::MAX);
    if count > MAX_NORMALISED {
        return Err(EvalError::Normalised { shape: shape.to_vec(), limit: MAX_NORMALISED });
    }
    if !target.is_float() {
        return Err(EvalError::Fill { value: 0.0, to: target });
    }
    let held = |expr| -> Result<Vec<f32>, EvalError> {
        let bytes = evaluate_to_vec(expr, DType::F32, source)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    };
    let (gain, mut numbers) = (held(gain)?, held(direction)?);
    let (inner, places) = (strides(shape)[axis] as usize, shape[axis] as usize);
    let place = |at: usize| at / inner % places;
    let mut squares = vec![0f64; places];
    numbers.iter().enumerate().for_each(|(at, &x)| squares[place(at)] += f64::from(x) * f64::from(x));
    let lengths: Vec<f64> = squares.into_iter().map(f64::sqrt).collect();
    for (at, x) in numbers.iter_mut().enumerate() {
        *x = (f64::from(gain[place(at)]) * f64::from(*x) / lengths[place(at)]) as f32;
    }
    Ok(numbers)
}

fn check_rope(table: &RopeTable, target: DType) -> Result<(), EvalError> {
    let refuse = |why: String| Err(EvalError::Rope { why });
    if !target.is_float() {
        return refuse(format!("it holds cosines and sines; {target} does not"));
    }
    if table.width > MAX_ROPE_WIDTH {
        return refuse(format!("its width is {}; at most {MAX_ROPE_WIDTH} is evaluated", table.width));
    }
    if let RopeKind::LongRope { short, long, .. } = &table.kind
        && [short, long].iter().any(|divisors| divisors.len() as u64 != table.width / 2)
    {
        let found = format!("{} short and {} long", short.len(), long.len());
        return refuse(format!("width {} needs {} divisors; found {found}", table.width, table.width / 2));
    }
    Ok(())
}

/// One element of a fill as bytes of `target`, `None` if an integer type does not hold the number.
pub(super) fn fill_bytes(value: f32, affine: &[Affine], target: DType) -> Option<Vec<u8>> {
    if let Some(converter) = Converter::new(DType::F32, target, affine) {
        let mut bytes = vec![0; target.size()];
        converter.run(&value.to_le_bytes(), &mut bytes);
        return Some(bytes);
    }
    let value = affine.iter().fold(value, |x, step| step.scale * x + step.offset);
    let (low, high) = match target {
        DType::I64 => (i64::MIN as f32, i64::MAX as f32),
        DType::I32 => (i32::MIN as f32, i32::MAX as f32),
        DType::I16 => (f32::from(i16::MIN), f32::from(i16::MAX)),
        DType::I8 => (f32::from(i8::MIN), f32::from(i8::MAX)),
        DType::U8 => (0.0, f32::from(u8::MAX)),
        DType::Bool => (0.0, 1.0),
        _ => return None,
    };
    // `as` saturates, so the one value that f32 rounds up to just past the largest integer has to be kept out.
    let past = matches!(target, DType::I64 | DType::I32) && value == high;
    let whole = value.fract() == 0.0 && (low..=high).contains(&value) && !past;
    whole.then(|| (value as i64).to_le_bytes()[..target.size()].to_vec())
}
