//! What scores add by how far apart a query and its key stand.
//!
//! Families put far distances into common rows of a table, by logarithms. Which row a distance has is known before anything
//! runs, so the graph has a list of rows by distance, and looks there.

use super::Text;
use crate::blocks::embed;
use crate::build::{Scope, Value};
use crate::graph::{AttrValue, Embedding, Type};
use crate::{DType, Elem, WeightExpr};

/// For each query and key the row that `row` gives for how far the key is ahead of the query: `i64[S, S]`. Keys that are
/// farther than `reach` from their query have the row of that distance.
pub fn rows<'g>(t: Text<'_, 'g>, reach: u64, row: impl Fn(i64) -> u64) -> Value<'g> {
    let at = t.at("distances");
    let longest = t.is_bounded().then(|| t.longest().saturating_sub(1));
    let farthest = longest.map_or(reach, |longest| reach.min(longest));
    let may_be_farther = longest != Some(farthest);
    let farthest = farthest as i64;
    let list = list((-farthest..=farthest).map(row));
    let list = at.cast(at.weight_as(list, Elem::F32), DType::I64);
    let places = t.places();
    let ahead = at.sub(at.unsqueeze(places, &[0]), at.unsqueeze(places, &[1]));
    let mut index = at.add(ahead, at.integer(farthest as u32));
    if may_be_farther {
        let Some(ty) = index.ty() else { return index };
        index = at.typed("Max", &[index, at.integer(0)], &[], ty.clone());
        index = at.typed("Min", &[index, at.integer(2 * farthest as u32)], &[], ty);
    }
    at.gather(list, index, 0)
}

/// Rows of the table `weight[rows, heads]` at `path` by distance, as a bias of scores: `[1, heads, S, S]`.
pub fn bias<'g>(t: Text<'_, 'g>, path: &str, count: u64, row: impl Fn(i64) -> u64) -> Value<'g> {
    let at = t.at(path);
    let heads = t.heads();
    let values = embed(at, rows(t, t.longest(), row), [count, heads], Embedding::default());
    at.unsqueeze(at.transpose(values, &[2, 0, 1]), &[0])
}

/// Of `scores[B, heads, S, rows]` those of `rows[S, S]`: `[B, heads, S, S]`.
pub fn pick<'g>(at: Scope<'g>, scores: Value<'g>, rows: Value<'g>) -> Value<'g> {
    let (Some(of), Some(pairs)) = (scores.ty(), rows.ty()) else { return scores };
    let [batch, heads, ..] = of.dims.as_slice() else { return scores };
    let dims: Vec<_> = [batch, heads].into_iter().chain(&pairs.dims).cloned().collect();
    let shape = at.concat(0, &[at.length(scores, 0), at.length(scores, 1), at.length(rows, 0), at.length(rows, 1)], 4);
    let everywhere = at.typed("Expand", &[rows, shape], &[], Type::new(Elem::I64, dims.clone()));
    at.typed("GatherElements", &[scores, everywhere], &[("axis", AttrValue::Int(3))], Type::new(of.elem, dims))
}

/// Small whole numbers as one weight: runs of equal ones are pieces.
fn list(numbers: impl Iterator<Item = u64>) -> WeightExpr {
    let mut runs: Vec<(u64, u64)> = vec![];
    for number in numbers {
        match runs.last_mut() {
            Some((same, count)) if *same == number => *count += 1,
            _ => runs.push((number, 1)),
        }
    }
    let parts = runs.into_iter().map(|(number, count)| WeightExpr::Fill { value: number as f32, shape: vec![count] });
    WeightExpr::Concat { axis: 0, parts: parts.collect() }
}
