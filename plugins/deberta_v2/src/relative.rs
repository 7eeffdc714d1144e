//! Scores that depend on the distance between a query and its key.

use qeff_plugin_api::blocks::encoder::{Layer, Text, distance};
use qeff_plugin_api::blocks::{Linear, linear};
use qeff_plugin_api::build::Value;

use crate::config::{FARTHEST, Relative as How};

/// The table of distances, and which row a pair of tokens reads.
pub(crate) struct Relative<'c, 'g> {
    how: &'c How,
    /// `[2 · span, hidden]`.
    table: Value<'g>,
    /// Row by query and key, `i64[S, S]`.
    from_query: Option<Value<'g>>,
    /// Row by key and query, `i64[S, S]`.
    from_key: Option<Value<'g>>,
}

impl<'c, 'g> Relative<'c, 'g> {
    pub(crate) fn new(t: Text<'_, 'g>, how: &'c How) -> Self {
        let at = t.at("encoder.rel_embeddings");
        let table = at.weight_of_shape(at.tensor("weight"), &[2 * how.span, t.hidden()]);
        // A projection is of something that is computed, never of a weight.
        let table = if how.normed { t.norm("encoder.LayerNorm", table) } else { at.unary("Identity", table) };
        let row = |distance: i64| (distance + how.span as i64).clamp(0, 2 * how.span as i64 - 1) as u64;
        let from_query = |ahead: i64| row(-bucket(how, ahead));
        let from_key = |ahead: i64| row(bucket(how, ahead));
        // With an odd number of buckets, the last one begins beyond where distances are said to end.
        let ends = |far: &u64| [-1, 1].map(|side| row(side * bucket(how, *far as i64))) == [0, 2 * how.span - 1];
        let reach = std::iter::successors(Some(how.farthest), |far| Some(far * 2).filter(|far| *far <= FARTHEST));
        let reach = reach.into_iter().find(ends).unwrap_or(FARTHEST);
        Relative {
            how,
            table,
            from_query: how.content_to_position.then(|| distance::rows(t, reach, from_query)),
            from_key: how.position_to_content.then(|| distance::rows(t, reach, from_key)),
        }
    }

    /// What distances add to the scores of `q` and `k`, `[B, S, heads, width]` each: `[B, heads, S, S]`.
    pub(crate) fn bias(&self, l: Layer<'_, 'g>, q: Value<'g>, k: Value<'g>, scale: f32) -> Option<Value<'g>> {
        let names = if self.how.shared { ["key_proj", "query_proj"] } else { ["pos_key_proj", "pos_query_proj"] };
        let at = l.at("attention.self");
        let term = |x: Value<'g>, name: &str, rows: Value<'g>| {
            let (heads, width) = l.heads_and_width();
            // [2 · span, heads, width] → [heads, width, 2 · span]
            let distances = linear(at.at(name), self.table, &Linear::heads(heads, width).bias(true));
            let distances = at.transpose(distances, &[1, 2, 0]);
            let scores = at.matmul(at.transpose(x, &[0, 2, 1, 3]), distances);
            at.scale(distance::pick(at, scores, rows), scale)
        };
        let from_query = self.from_query.map(|rows| term(q, names[0], rows));
        let from_key = self.from_key.map(|rows| at.transpose(term(k, names[1], rows), &[0, 1, 3, 2]));
        match (from_query, from_key) {
            (Some(a), Some(b)) => Some(at.add(a, b)),
            (a, b) => a.or(b),
        }
    }
}

/// A distance, or from half the buckets on the bucket that it shares with others: as many again reach up to the farthest,
/// ever wider.
fn bucket(how: &How, distance: i64) -> i64 {
    let Some(buckets) = how.buckets else { return distance };
    let (middle, far) = ((buckets / 2) as i64, distance.abs());
    if far <= middle {
        return distance;
    }
    // In f32, as transformers computes it: a distance may lie on the border of two buckets.
    let log = |x: i64| (x as f32 / middle as f32).ln();
    let wide = (log(far) / log(how.farthest as i64 - 1) * (middle - 1) as f32).ceil() as i64;
    (wide + middle) * distance.signum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of transformers 4.57 `make_log_bucket_position`.
    #[test]
    fn buckets_are_those_of_transformers() {
        let of = |buckets, farthest| How {
            span: buckets,
            buckets: Some(buckets),
            farthest,
            content_to_position: true,
            position_to_content: true,
            shared: true,
            normed: false,
        };
        let all = |how: &How, distances: &mut dyn Iterator<Item = i64>| -> Vec<i64> {
            distances.map(|distance| bucket(how, distance)).collect()
        };
        let expected = [
            -8, -8, -8, -8, -7, -7, -7, -7, -7, -7, -6, -6, -6, -6, -5, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 5, 6, 6,
            6, 6, 7, 7, 7, 7, 7, 7, 8, 8, 8, 8,
        ];
        assert_eq!(all(&of(8, 17), &mut (-20..=20)), expected);
        // Where the ratio of logarithms is a whole number.
        assert_eq!(
            all(&of(10, 81), &mut [5, 6, 10, 11, 20, 21, 40, 41, 80, 81].into_iter()),
            [5, 6, 6, 7, 7, 8, 8, 9, 9, 10]
        );
        let far = [0, 37, 74, 111, 142, 162, 179, 193, 205, 216, 226, 235, 243, 250];
        assert_eq!(all(&of(256, 512), &mut (0..512).step_by(37)), far);
        assert_eq!(bucket(&of(256, 512), -511), -255);
    }
}
