//! What scores add by how far apart a query and its key stand.
//!
//! Families put far distances into common rows of a table, by logarithms. Which row a distance has is known before anything
//! runs, so the graph has a list of rows by distance, and looks there.

use super::Text;
use crate::blocks::embed;
use crate::build::{Scope, Value};
use crate::config::{Config, ConfigError};
use crate::graph::{AttrValue, Embedding, Type};
use crate::{DType, Elem, WeightExpr};

/// Most positions whose distances are listed.
const MOST_POSITIONS: u64 = 1 << 16;

/// Refuses more positions than anybody lists distances of.
///
/// # Errors
/// Names `max_position_embeddings`.
pub fn check_positions(config: &Config, positions: u64) -> Result<(), ConfigError> {
    if positions > MOST_POSITIONS {
        let expected = format!("at most {MOST_POSITIONS}: every distance of two positions is listed");
        return Err(config.unsupported("max_position_embeddings", expected));
    }
    Ok(())
}

/// For each query and key the row that `row` gives for how far the key is ahead of the query: `i64[S, S]`.
pub fn rows<'g>(t: Text<'_, 'g>, row: impl Fn(i64) -> u64) -> Value<'g> {
    let at = t.at("distances");
    let longest = t.longest() as i64;
    let list = list((1 - longest..longest).map(row));
    let list = at.cast(at.weight_as(list, Elem::F32), DType::I64);
    let places = t.places();
    let ahead = at.sub(at.unsqueeze(places, &[0]), at.unsqueeze(places, &[1]));
    at.gather(list, at.add(ahead, at.integer((longest - 1) as u32)), 0)
}

/// Rows of the table `weight[rows, heads]` at `path` by distance, as a bias of scores: `[1, heads, S, S]`.
pub fn bias<'g>(t: Text<'_, 'g>, path: &str, count: u64, row: impl Fn(i64) -> u64) -> Value<'g> {
    let at = t.at(path);
    let heads = t.heads();
    let values = embed(at, rows(t, row), [count, heads], Embedding::default());
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
