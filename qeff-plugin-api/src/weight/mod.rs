//! Weight expressions: what a weight is made of, never its bytes.
//!
//! A [`WeightExpr`] is a tree over checkpoint tensors and generated tables. Layout differences between checkpoints (fused
//! projections, `[in, out]` storage, rotary row order) are steps of the tree, so no graph operator carries a layout flag
//! and no pass has to know one. The evaluator lives in `qeff-core`, which streams it tile by tile; this module only knows
//! shapes and algebra.

mod rope;
mod simplify;
mod text;

pub use rope::{RopeKind, RopePart, RopeTable};
pub use text::ParseWeightError;

use std::ops::Range;

use crate::TensorIndex;

/// An expression over stored tensors; see the module documentation.
#[derive(Debug, Clone, PartialEq)]
pub enum WeightExpr {
    /// A stored tensor, converted to the type its user wants.
    Tensor(String),
    /// One value everywhere.
    Fill {
        /// The value.
        value: f32,
        /// Shape of the result.
        shape: Vec<u64>,
    },
    /// Half of a rotary table, `[positions, width / 2]`.
    Rope(RopeTable),
    /// Axes reordered: axis `i` of the result is axis `perm[i]` of the operand.
    Transpose {
        /// The operand.
        of: Box<WeightExpr>,
        /// A permutation of the axes.
        perm: Vec<usize>,
    },
    /// `axis` seen as `groups × width`; columns `columns` of every group are kept and flattened again.
    ///
    /// One group is a slice; width 2 and columns `0..1` are the even rows.
    Take {
        /// The operand.
        of: Box<WeightExpr>,
        /// The axis that is regrouped.
        axis: usize,
        /// Number of groups along the axis.
        groups: u64,
        /// Elements of a group; `groups · width` is the length of the axis.
        width: u64,
        /// What is kept of each group.
        columns: Range<u64>,
    },
    /// The same elements in row-major order under another shape.
    Reshape {
        /// The operand.
        of: Box<WeightExpr>,
        /// The new shape, of as many elements.
        shape: Vec<u64>,
    },
    /// Operands one after the other along an existing axis.
    Concat {
        /// The axis, counted from 0.
        axis: usize,
        /// At least one operand.
        parts: Vec<WeightExpr>,
    },
    /// Operands of one shape along a new axis.
    Stack {
        /// Position of the new axis.
        axis: usize,
        /// At least one operand.
        parts: Vec<WeightExpr>,
    },
    /// `axis` seen as `groups` equal blocks, each written `times` times in a row (kv-head replication).
    Repeat {
        /// The operand.
        of: Box<WeightExpr>,
        /// The axis that grows.
        axis: usize,
        /// Number of blocks.
        groups: u64,
        /// How often each block appears.
        times: u64,
    },
    /// `gain · direction / ‖direction‖`, each length taken over all axes but `axis` (weight normalisation). The gain has the axes of
    /// the direction, of length 1 but for `axis`.
    WeightNorm {
        /// The axis along which there is a gain for each place.
        axis: usize,
        /// Gain and direction.
        parts: Box<[WeightExpr; 2]>,
    },
    /// `scale · x + offset`, element by element (the `+1` of some norms, folded multipliers).
    Affine {
        /// The operand.
        of: Box<WeightExpr>,
        /// Factor.
        scale: f32,
        /// Summand.
        offset: f32,
    },
}

/// Why an expression has no shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    /// The checkpoint has no such tensor.
    #[error("the checkpoint has no tensor `{0}`")]
    Missing(String),
    /// A step does not fit its operand.
    #[error("{step} does not fit an operand of shape {shape:?}: {why}")]
    Misfit {
        /// The step as text.
        step: String,
        /// Shape of the operand.
        shape: Vec<u64>,
        /// What is wrong.
        why: String,
    },
}

impl WeightExpr {
    /// The stored tensor `name`.
    pub fn tensor(name: impl Into<String>) -> Self {
        WeightExpr::Tensor(name.into())
    }

    /// `[a, b] → [b, a]`.
    pub fn transposed(self) -> Self {
        WeightExpr::Transpose { of: Box::new(self), perm: vec![1, 0] }
    }

    /// Element `index` of the first axis, without that axis: one expert of many.
    ///
    /// Steps that leave the first axis alone move on to the element, and an element of a stack is what was stacked, so that a
    /// tensor stored as it is wanted stays one.
    ///
    /// # Errors
    /// If the expression has no shape. An element that there is not is found when the shape of the result is asked for.
    pub fn element(&self, index: u64, tensors: &TensorIndex) -> Result<WeightExpr, WeightError> {
        let element = |of: &WeightExpr| of.element(index, tensors);
        Ok(match self {
            WeightExpr::Stack { axis: 0, parts } if index < parts.len() as u64 => parts[index as usize].clone(),
            WeightExpr::Transpose { of, perm } if perm.first() == Some(&0) => {
                let perm = perm[1..].iter().map(|axis| axis.saturating_sub(1)).collect();
                WeightExpr::Transpose { of: Box::new(element(of)?), perm }
            }
            WeightExpr::Take { of, axis, groups, width, columns } if *axis > 0 => {
                element(of)?.take(axis - 1, *groups, *width, columns.clone())
            }
            WeightExpr::Affine { of, scale, offset } => {
                WeightExpr::Affine { of: Box::new(element(of)?), scale: *scale, offset: *offset }
            }
            _ => {
                let shape = self.shape(tensors)?;
                let (count, rest) = shape.split_first().unwrap_or((&0, &[]));
                self.clone().take(0, 1, *count, index..index.saturating_add(1)).reshape(rest.to_vec())
            }
        })
    }

    /// See [`WeightExpr::Take`].
    pub fn take(self, axis: usize, groups: u64, width: u64, columns: Range<u64>) -> Self {
        WeightExpr::Take { of: Box::new(self), axis, groups, width, columns }
    }

    /// See [`WeightExpr::Reshape`].
    pub fn reshape(self, shape: impl Into<Vec<u64>>) -> Self {
        WeightExpr::Reshape { of: Box::new(self), shape: shape.into() }
    }

    /// See [`WeightExpr::Repeat`].
    pub fn repeat(self, axis: usize, groups: u64, times: u64) -> Self {
        WeightExpr::Repeat { of: Box::new(self), axis, groups, times }
    }

    /// See [`WeightExpr::WeightNorm`].
    pub fn weight_norm(axis: usize, gain: WeightExpr, direction: WeightExpr) -> Self {
        WeightExpr::WeightNorm { axis, parts: Box::new([gain, direction]) }
    }

    /// See [`WeightExpr::Affine`].
    pub fn affine(self, scale: f32, offset: f32) -> Self {
        WeightExpr::Affine { of: Box::new(self), scale, offset }
    }

    /// The stored tensor whose elements these are as they lie there, and which of them; `None` if they do not lie in one run.
    pub fn stored_run(&self, index: &TensorIndex) -> Option<(&str, Range<u64>)> {
        match self {
            WeightExpr::Tensor(name) => Some((name, 0..element_count(&index.get(name)?.shape)?)),
            WeightExpr::Reshape { of, .. } => of.stored_run(index),
            WeightExpr::Take { of, axis: 0, groups: 1, width, columns } => {
                let (name, Range { start, end }) = of.stored_run(index)?;
                let one = (end - start).checked_div(*width)?;
                Some((name, start + one * columns.start..start + one * columns.end))
            }
            _ => None,
        }
    }

    /// The operands of the outermost step.
    pub fn operands(&self) -> &[WeightExpr] {
        match self {
            WeightExpr::Tensor(_) | WeightExpr::Fill { .. } | WeightExpr::Rope(_) => &[],
            WeightExpr::Transpose { of, .. }
            | WeightExpr::Take { of, .. }
            | WeightExpr::Reshape { of, .. }
            | WeightExpr::Repeat { of, .. }
            | WeightExpr::Affine { of, .. } => std::slice::from_ref(of),
            WeightExpr::Concat { parts, .. } | WeightExpr::Stack { parts, .. } => parts,
            WeightExpr::WeightNorm { parts, .. } => &parts[..],
        }
    }

    /// The operands of the outermost step, to be edited in place.
    pub fn operands_mut(&mut self) -> &mut [WeightExpr] {
        match self {
            WeightExpr::Tensor(_) | WeightExpr::Fill { .. } | WeightExpr::Rope(_) => &mut [],
            WeightExpr::Transpose { of, .. }
            | WeightExpr::Take { of, .. }
            | WeightExpr::Reshape { of, .. }
            | WeightExpr::Repeat { of, .. }
            | WeightExpr::Affine { of, .. } => std::slice::from_mut(of),
            WeightExpr::Concat { parts, .. } | WeightExpr::Stack { parts, .. } => parts,
            WeightExpr::WeightNorm { parts, .. } => &mut parts[..],
        }
    }

    /// The version of domain `qeff` in which the newest of its steps appeared.
    pub fn since(&self) -> i64 {
        let own = if matches!(self, WeightExpr::WeightNorm { .. }) { 3 } else { 1 };
        self.operands().iter().map(WeightExpr::since).fold(own, i64::max)
    }

    /// Calls `visit` with the name of every stored tensor the expression reads.
    pub fn for_each_source<'a>(&'a self, visit: &mut impl FnMut(&'a str)) {
        if let WeightExpr::Tensor(name) = self {
            visit(name);
        }
        for operand in self.operands() {
            operand.for_each_source(visit);
        }
    }

    /// Whether the expression reads no stored tensor, like a rotary table.
    pub fn is_generated(&self) -> bool {
        let mut reads = false;
        self.for_each_source(&mut |_| reads = true);
        !reads
    }

    /// Shape of the result.
    ///
    /// # Errors
    /// [`WeightError::Missing`] for a tensor that `index` lacks, [`WeightError::Misfit`] for a step that does not fit.
    pub fn shape(&self, index: &TensorIndex) -> Result<Vec<u64>, WeightError> {
        let misfit =
            |shape: &[u64], why: String| WeightError::Misfit { step: self.step_text(), shape: shape.to_vec(), why };
        match self {
            WeightExpr::Tensor(name) => {
                index.get(name).map(|info| info.shape.clone()).ok_or_else(|| WeightError::Missing(name.clone()))
            }
            WeightExpr::Fill { shape, .. } => Ok(shape.clone()),
            WeightExpr::Rope(table) => Ok(vec![table.positions, table.width / 2]),
            WeightExpr::Transpose { of, perm } => {
                let shape = of.shape(index)?;
                let mut seen = vec![false; shape.len()];
                let valid = perm.len() == shape.len()
                    && perm.iter().all(|&p| seen.get_mut(p).is_some_and(|s| !std::mem::replace(s, true)));
                if !valid {
                    return Err(misfit(&shape, format!("{perm:?} is no permutation of its axes")));
                }
                Ok(perm.iter().map(|&p| shape[p]).collect())
            }
            WeightExpr::Take { of, axis, groups, width, columns } => {
                let mut shape = of.shape(index)?;
                match shape.get_mut(*axis) {
                    Some(len)
                        if groups.checked_mul(*width) == Some(*len)
                            && columns.start < columns.end
                            && columns.end <= *width =>
                    {
                        *len = groups * (columns.end - columns.start);
                        Ok(shape)
                    }
                    Some(_) => Err(misfit(
                        &shape,
                        format!("axis {axis} is not {groups} groups of {width}, or {columns:?} is not inside a group"),
                    )),
                    None => Err(misfit(&shape, format!("it has no axis {axis}"))),
                }
            }
            WeightExpr::Reshape { of, shape } => {
                let from = of.shape(index)?;
                match (element_count(&from), element_count(shape)) {
                    (Some(a), Some(b)) if a == b => Ok(shape.clone()),
                    _ => Err(misfit(&from, format!("{shape:?} has another number of elements"))),
                }
            }
            WeightExpr::Concat { axis, parts } => {
                let mut shapes = parts.iter().map(|p| p.shape(index));
                let mut total = shapes.next().ok_or_else(|| misfit(&[], "it has no operands".into()))??;
                if *axis >= total.len() {
                    return Err(misfit(&total, format!("it has no axis {axis}")));
                }
                for shape in shapes {
                    let shape = shape?;
                    let fits =
                        shape.len() == total.len() && (0..shape.len()).all(|i| i == *axis || shape[i] == total[i]);
                    match total[*axis].checked_add(*shape.get(*axis).unwrap_or(&0)) {
                        Some(sum) if fits => total[*axis] = sum,
                        _ => return Err(misfit(&shape, format!("the operands before it have shape {total:?}"))),
                    }
                }
                Ok(total)
            }
            WeightExpr::Stack { axis, parts } => {
                let mut shapes = parts.iter().map(|p| p.shape(index));
                let mut shape = shapes.next().ok_or_else(|| misfit(&[], "it has no operands".into()))??;
                for other in shapes {
                    let other = other?;
                    if other != shape {
                        return Err(misfit(&other, format!("the first operand has shape {shape:?}")));
                    }
                }
                if *axis > shape.len() {
                    return Err(misfit(&shape, format!("it has no place for axis {axis}")));
                }
                shape.insert(*axis, parts.len() as u64);
                Ok(shape)
            }
            WeightExpr::Repeat { of, axis, groups, times } => {
                let mut shape = of.shape(index)?;
                match shape.get(*axis).and_then(|len| len.checked_mul(*times)) {
                    Some(len) if *groups > 0 && *times > 0 && shape[*axis] % groups == 0 => {
                        shape[*axis] = len;
                        Ok(shape)
                    }
                    _ => Err(misfit(&shape, format!("axis {axis} does not split into {groups} blocks"))),
                }
            }
            WeightExpr::WeightNorm { axis, parts } => {
                let (gain, shape) = (parts[0].shape(index)?, parts[1].shape(index)?);
                let fits = |(at, (&gain, &length)): (usize, (&u64, &u64))| gain == if at == *axis { length } else { 1 };
                if *axis >= shape.len() || gain.len() != shape.len() || !gain.iter().zip(&shape).enumerate().all(fits) {
                    return Err(misfit(
                        &gain,
                        format!("a direction of shape {shape:?} needs a gain for each place of axis {axis}"),
                    ));
                }
                Ok(shape)
            }
            WeightExpr::Affine { of, .. } => of.shape(index),
        }
    }
}

/// Product of the dimensions, `None` if it overflows.
pub fn element_count(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |count, &dim| count.checked_mul(dim))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, TensorInfo};

    fn index() -> TensorIndex {
        let shapes: [(&str, &[u64]); 3] = [("m", &[4, 6]), ("e", &[3, 4, 6]), ("b", &[3, 6])];
        shapes
            .map(|(name, shape)| (name.to_owned(), TensorInfo { dtype: DType::F32, shape: shape.to_vec() }))
            .into_iter()
            .collect()
    }

    #[test]
    fn an_element_is_taken_where_it_is_stored() {
        for (expr, element) in [
            (r#"stack(0, w"m", w"m".transpose(1, 0).transpose(1, 0))"#, r#"w"m".transpose(1, 0).transpose(1, 0)"#),
            (r#"w"e""#, r#"w"e".take(0, 1, 3, 1..2).reshape(4, 6)"#),
            (r#"w"e".transpose(0, 2, 1)"#, r#"w"e".take(0, 1, 3, 1..2).reshape(4, 6).transpose(1, 0)"#),
            (r#"w"e".take(2, 3, 2, 0..1)"#, r#"w"e".take(0, 1, 3, 1..2).reshape(4, 6).take(1, 3, 2, 0..1)"#),
            (r#"w"b".affine(2, 1)"#, r#"w"b".take(0, 1, 3, 1..2).reshape(6).affine(2, 1)"#),
            (r#"w"e".transpose(1, 0, 2)"#, r#"w"e".transpose(1, 0, 2).take(0, 1, 4, 1..2).reshape(3, 6)"#),
        ] {
            let (expr, index) = (WeightExpr::parse(expr).unwrap(), index());
            let found = expr.element(1, &index).unwrap();
            assert_eq!(found.to_string(), element);
            assert_eq!(found.shape(&index).unwrap(), expr.shape(&index).unwrap()[1..]);
        }
        let expr = WeightExpr::parse(r#"stack(0, w"m", w"m")"#).unwrap();
        assert!(expr.element(2, &index()).unwrap().shape(&index()).is_err());
    }

    #[test]
    fn what_lies_in_one_run_is_found() {
        for (expr, run) in [
            (r#"w"e""#, Some(0..72)),
            (r#"w"e".take(0, 1, 3, 1..2).reshape(4, 6)"#, Some(24..48)),
            (r#"w"e".take(0, 1, 3, 1..3).reshape(8, 6).take(0, 1, 8, 3..5)"#, Some(42..54)),
            (r#"w"e".take(2, 3, 2, 0..1)"#, None),
            (r#"w"e".take(0, 3, 1, 0..1)"#, None),
            (r#"w"e".transpose(0, 2, 1)"#, None),
            (r#"w"x""#, None),
        ] {
            let expr = WeightExpr::parse(expr).unwrap();
            assert_eq!(expr.stored_run(&index()).map(|(_, run)| run), run, "{expr}");
        }
    }
}
