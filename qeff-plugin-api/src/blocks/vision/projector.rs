//! From the tower's width to the language model's.

use crate::blocks::{Activation, Bias, Linear, Norm, linear};
use crate::build::{Scope, Value};
use crate::graph::Dim;

/// Two projections with an activation between them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Projector {
    /// The norm before them, if there is one, `layer_norm` in their scope.
    pub norm: Option<Norm>,
    /// What stands between them.
    pub act: Activation,
    /// Whether they have a bias.
    pub bias: Bias,
    /// Width of the language model.
    pub hidden: u64,
}

impl Projector {
    /// `linear_2(act(linear_1(x)))` by the tensors of this scope.
    pub fn apply<'g>(&self, at: Scope<'g>, x: Value<'g>) -> Value<'g> {
        let spec = Linear::to(self.hidden).bias(self.bias);
        let x = self.norm.map_or(x, |norm| norm.apply(at.at("layer_norm"), x));
        let x = self.act.apply(at.at("act"), linear(at.at("linear_1"), x, &spec));
        linear(at.at("linear_2"), x, &spec)
    }
}

/// Squares of `by × by` patches made into one row: `x[N, patches, width]` of a `grid` of rows and columns, both multiples of
/// `by`, becomes `[N, patches / by², width · by²]`; the patches of a square stand row by row.
pub fn pixel_shuffle<'g>(at: Scope<'g>, x: Value<'g>, grid: [u64; 2], by: u64) -> Value<'g> {
    let Some(ty) = x.ty() else { return x };
    let (Some(count), Some(width)) = (ty.dims.first().cloned(), ty.last().and_then(Dim::fixed)) else { return x };
    let [rows, columns] = grid;
    let [small_rows, small_columns] = [rows / by, columns / by];
    let wide = width.saturating_mul(by).saturating_mul(by);
    // Rows of the image, squares of a row, rows of a square … as axes of their own.
    let shape = [0, small_rows as i64, by as i64, small_columns as i64, (width * by) as i64];
    let dims = [small_rows, by, small_columns, width.saturating_mul(by)].map(Dim::Fixed);
    let x = at.reshape(x, &shape, [count.clone()].into_iter().chain(dims));
    let x = at.transpose(x, &[0, 1, 3, 2, 4]);
    let dims = [small_rows * small_columns, wide].map(Dim::Fixed);
    at.reshape(x, &[0, -1, wide as i64], [count].into_iter().chain(dims))
}
