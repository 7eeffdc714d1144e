//! Which weights can be kept in blocks, and as what.
//!
//! A step that leaves the last axis alone does the same to every facet, so such an expression is kept by putting the facet
//! in the tensor's place, provided all tensors it reads are in blocks of one form. Any other weight becomes dense, and
//! [`Dense`] says why: a file that swells should not do so silently.
//!
//! This module knows expressions and layouts. That only products want kept weights, and which forms an engine takes, is
//! known where graphs are lowered.

use std::collections::BTreeMap;
use std::fmt;

use qeff_plugin_api::{TensorIndex, WeightExpr};

use super::blocks::BlockLayout;
use super::facets::Facet;

/// How each tensor that is no plain numbers is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIndex {
    tensors: BTreeMap<String, Encoded>,
}

/// See [`BlockIndex`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Encoded {
    /// What the format calls it.
    name: String,
    /// Its blocks, if it has facets.
    layout: Result<BlockLayout, Dense>,
}

/// A weight in blocks: its facets as expressions.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// What its formats call it: `Q4_0`.
    pub encoding: String,
    /// The form of its blocks.
    pub layout: BlockLayout,
    /// The weight itself.
    expr: WeightExpr,
    /// Blocks of a row.
    per_row: u64,
}

/// Why a weight is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dense {
    /// Nothing it reads is encoded: it was dense all along.
    Plain,
    /// It was not to be kept.
    Asked,
    /// A tensor that it reads has no blocks that could be kept.
    NoBlocks,
    /// A step changes the last axis, or the numbers.
    Step,
    /// Tensors of different forms, or orders of columns, are parts of it.
    Mixed,
}

impl fmt::Display for Dense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dense::Plain => "is not quantised",
            Dense::Asked => "was to be dequantised",
            Dense::NoBlocks => "is stored in a form that is not kept",
            Dense::Step => "is used in another layout than it is stored in",
            Dense::Mixed => "is made of tensors that are stored in different forms",
        })
    }
}

impl BlockIndex {
    /// Adds a tensor that is stored as `name`, with the layout of its facets or why it has none.
    pub(super) fn insert(&mut self, tensor: &str, name: &str, layout: Result<BlockLayout, Dense>) {
        self.tensors.insert(tensor.to_owned(), Encoded { name: name.to_owned(), layout });
    }

    /// The tensors that have facets, with the layout of their blocks.
    pub fn layouts(&self) -> impl Iterator<Item = (&str, &BlockLayout)> {
        self.tensors.iter().filter_map(|(tensor, encoded)| Some((tensor.as_str(), encoded.layout.as_ref().ok()?)))
    }

    /// What the formats of the encoded tensors in `expr` are called, `None` if there are none.
    pub fn encoding(&self, expr: &WeightExpr) -> Option<String> {
        let mut names: Vec<&str> = vec![];
        expr.for_each_source(&mut |tensor| {
            names.extend(self.tensors.get(tensor).map(|encoded| encoded.name.as_str()));
        });
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then(|| names.join(" and "))
    }

    /// The kept form of `expr`, whose tensors are those of `index`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn kept(&self, expr: &WeightExpr, index: &TensorIndex) -> Result<Kept, Dense> {
        let expr = expr.clone().simplified(index);
        let encoding = self.encoding(&expr).ok_or(Dense::Plain)?;
        let mut one: Option<(&str, BlockLayout)> = None;
        let mut fault = None;
        expr.for_each_source(&mut |tensor| {
            let layout = self.tensors.get(tensor).map_or(Err(Dense::Mixed), |encoded| encoded.layout);
            match (layout, one) {
                (Err(why), _) => fault = Some(why),
                (Ok(layout), None) => one = Some((tensor, layout)),
                (Ok(layout), Some((first, form))) if layout != form || layout.ordered && tensor != first => {
                    fault = fault.take().or(Some(Dense::Mixed));
                }
                _ => {}
            }
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        let layout = one.ok_or(Dense::Plain)?.1;
        let width = last_axis(&expr, index).ok_or(Dense::Step)?;
        let per_row = layout.blocks_per_row(width).ok_or(Dense::Step)?;
        Ok(Kept { encoding, layout, expr, per_row })
    }
}

impl Kept {
    /// A facet of the weight; the weight's leading axes, and the facet's in place of the last one.
    pub fn facet(&self, facet: Facet) -> WeightExpr {
        if facet.is_of_row() {
            let mut tensor = None;
            self.expr.for_each_source(&mut |name| tensor = tensor.or(Some(name)));
            return WeightExpr::tensor(facet.of(tensor.unwrap_or_default()));
        }
        substitute(&self.expr, facet, facet.width(&self.layout, self.per_row))
    }

    /// Blocks of a row.
    pub fn per_row(&self) -> u64 {
        self.per_row
    }
}

/// Length of the last axis, if no step touches it or the numbers along it.
fn last_axis(expr: &WeightExpr, index: &TensorIndex) -> Option<u64> {
    let mut width = None;
    for operand in expr.operands() {
        let found = last_axis(operand, index)?;
        if width.is_some_and(|width| width != found) {
            return None;
        }
        width = Some(found);
    }
    let rank = expr.operands().first().map_or(Some(0), |of| of.shape(index).ok().map(|shape| shape.len()))?;
    let leading = |axis: usize| axis + 1 < rank;
    let kept = match expr {
        WeightExpr::Tensor(name) => return index.get(name)?.shape.last().copied(),
        WeightExpr::Transpose { perm, .. } => perm.last().is_some_and(|&last| last + 1 == rank),
        WeightExpr::Take { axis, .. } | WeightExpr::Repeat { axis, .. } | WeightExpr::Concat { axis, .. } => {
            leading(*axis)
        }
        WeightExpr::Stack { axis, .. } => *axis < rank,
        WeightExpr::Reshape { shape, .. } => shape.last() == width.as_ref(),
        WeightExpr::Fill { .. } | WeightExpr::Rope(_) | WeightExpr::WeightNorm { .. } | WeightExpr::Affine { .. } => {
            false
        }
    };
    if kept { width } else { None }
}

/// `expr` over a facet of its tensors, whose last axis is `width` long.
fn substitute(expr: &WeightExpr, facet: Facet, width: u64) -> WeightExpr {
    let mut changed = expr.clone();
    for operand in changed.operands_mut() {
        *operand = substitute(operand, facet, width);
    }
    match &mut changed {
        WeightExpr::Tensor(name) => *name = facet.of(name),
        WeightExpr::Reshape { shape, .. } => {
            if let Some(last) = shape.last_mut() {
                *last = width;
            }
        }
        _ => {}
    }
    changed
}

#[cfg(test)]
#[path = "keep_tests.rs"]
mod tests;
