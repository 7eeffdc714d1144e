//! Which boxes of a result are evaluated one after the other.
//!
//! A tile is held in memory, so its size is bounded; its *shape* decides how files are read and written. It is cut along
//! the axis that moves slowest through the source, so that the source is read once and front to back, and not so thin
//! that the output would be written in crumbs. This module knows shapes and strides only.

use std::ops::Range;

use super::kernel::{Move, Nest};

/// Larger tiles gain no speed, they only cost memory; smaller ones of a transposed weight are written in shorter runs.
const LARGEST_TILE: u64 = 64 << 20;

/// Stored bytes read at a time: they stay in a core's second-level cache until they are used.
const LARGEST_PIECE: u64 = 512 << 10;

/// Shortest run of output bytes that is aimed at.
const SHORTEST_RUN: u64 = 4 << 10;

/// How a result is cut into tiles; made by [`Evaluation::tiles`](super::Evaluation::tiles).
#[derive(Debug, Clone)]
pub struct Tiling {
    shape: Vec<u64>,
    /// Extents of a tile; those at the far edges may be smaller.
    tile: Vec<u64>,
    /// Axes in the order in which tiles follow each other, slowest first.
    order: Vec<usize>,
    /// Source bytes that may be read at once.
    pub(super) piece: u64,
    /// Whether the result is runs of stored bytes that need no buffer.
    pub(super) direct: bool,
}

/// Per axis of a result with these `strides`, how far the source moves along it; larger is slower. Axes along which one
/// tensor follows another are slowest. `nests` are those of the whole result, each with its loops before any were joined.
pub(super) fn pace(nests: &[(Nest, Vec<Move>)], strides: &[u64]) -> Vec<u64> {
    let mut pace = vec![0; strides.len()];
    if let Some((_, moves)) = nests.iter().max_by_key(|(nest, _)| nest.elements()) {
        if nests.len() > 1 {
            pace.fill(u64::MAX);
        }
        for m in moves {
            // The outermost axis whose stride is not beyond the loop's.
            let axis = (0..strides.len()).find(|&axis| strides[axis] <= m.out).unwrap_or(0);
            pace[axis] = if pace[axis] == u64::MAX { m.src } else { pace[axis].max(m.src) };
        }
    }
    pace
}

impl Tiling {
    /// For a result that is computed in a buffer; `pace` is what [`pace`] says of it.
    pub(super) fn new(shape: &[u64], element: u64, pace: &[u64], budget: u64) -> Self {
        let mut order: Vec<usize> = (0..shape.len()).collect();
        order.sort_by_key(|&axis| std::cmp::Reverse(pace[axis]));
        let room = ((budget / 2).min(LARGEST_TILE) / element).max(1);
        // Where there is no room for long runs on both sides, both get their share of what there is.
        let run = (SHORTEST_RUN / element).min(room.isqrt()).max(1);
        let mut tile = shape.to_vec();
        // First without runs shorter than aimed at, then, if that was not enough, with the longest runs that fit.
        for &axis in &order {
            let behind: u64 = shape[axis + 1..].iter().product();
            let whole = tile[axis + 1..] == shape[axis + 1..];
            let floor = if whole { run.div_ceil(behind.max(1)) } else { 1 };
            shrink(&mut tile, axis, room, floor);
        }
        for axis in 0..tile.len() {
            shrink(&mut tile, axis, room, 1);
        }
        Self { shape: shape.to_vec(), tile, order, piece: (budget / 4).clamp(1, LARGEST_PIECE), direct: false }
    }

    /// For a result that is runs of stored bytes: its elements in order, whatever its shape.
    pub(super) fn flat(elements: u64, element: u64, budget: u64) -> Self {
        Self { direct: true, ..Self::new(&[elements], element, &[1], budget) }
    }

    /// How many tiles there are.
    pub fn len(&self) -> u64 {
        self.shape.iter().zip(&self.tile).map(|(dim, tile)| dim.div_ceil((*tile).max(1))).product()
    }

    /// Whether the result has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tile `number` as a range per axis.
    pub(super) fn ranges(&self, mut number: u64) -> Vec<Range<u64>> {
        let mut ranges = vec![0..0; self.shape.len()];
        for &axis in self.order.iter().rev() {
            let (dim, tile) = (self.shape[axis], self.tile[axis]);
            let count = dim.div_ceil(tile);
            let start = number % count * tile;
            ranges[axis] = start..(start + tile).min(dim);
            number /= count;
        }
        ranges
    }

    /// The runs of the output that tile `ranges` consists of: `f` gets the first element in the result and in the tile,
    /// and the length in elements.
    pub(super) fn runs<E>(
        &self,
        ranges: &[Range<u64>],
        f: &mut dyn FnMut(u64, u64, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let strides = super::plan::strides(&self.shape);
        // Axes from `run` on are contiguous: all of them are whole but the first.
        let mut run = ranges.len();
        let mut length = 1;
        while run > 0 {
            run -= 1;
            length *= ranges[run].end - ranges[run].start;
            if ranges[run] != (0..self.shape[run]) {
                break;
            }
        }
        let first: u64 = ranges.iter().zip(&strides).map(|(range, stride)| range.start * stride).sum();
        let mut counters = vec![0; run];
        let mut within = 0;
        loop {
            let moved: u64 = counters.iter().zip(&strides).map(|(count, stride)| count * stride).sum();
            f(first + moved, within, length)?;
            within += length;
            let mut axis = run;
            loop {
                if axis == 0 {
                    return Ok(());
                }
                axis -= 1;
                counters[axis] += 1;
                if counters[axis] < ranges[axis].end - ranges[axis].start {
                    break;
                }
                counters[axis] = 0;
            }
        }
    }
}

/// Makes `tile[axis]` as small as `room` elements need, not below `floor`, in equal steps.
fn shrink(tile: &mut [u64], axis: usize, room: u64, floor: u64) {
    let dim = tile[axis];
    let others: u64 = tile.iter().product::<u64>() / dim.max(1);
    if dim <= 1 || others.saturating_mul(dim) <= room {
        return;
    }
    let most = (room / others.max(1)).clamp(floor.min(dim), dim).max(1);
    let even = dim.div_ceil(dim.div_ceil(most));
    // Whole cache lines and pages on both sides, where there is room for them.
    let round = even.next_multiple_of(64);
    tile[axis] = if round <= most { round } else { even };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiling(shape: &[u64], pace: &[u64], budget: u64) -> Tiling {
        Tiling::new(shape, 4, pace, budget)
    }

    #[test]
    fn a_transposed_weight_is_cut_along_the_slow_axis_of_its_source() {
        assert_eq!(tiling(&[1024, 32000], &[1, 1024], 32 << 20).tile, [1024, 4032]);
        assert_eq!(tiling(&[1024, 32000], &[32000, 1], 32 << 20).tile, [128, 32000]);
    }

    #[test]
    fn runs_stay_long_where_both_axes_are_long() {
        let tile = tiling(&[100_000, 32000], &[1, 100_000], 32 << 20).tile;
        assert!(tile[1] >= 1024 && tile[0] * tile[1] <= 4 << 20, "{tile:?}");
    }

    #[test]
    fn tiles_cover_the_result_once() {
        for budget in [8, 40, 200, 1000, 100_000] {
            for pace in [[1, 2, 3], [3, 2, 1], [2, 9, 1]] {
                let tiling = tiling(&[5, 7, 6], &pace, budget);
                let mut seen = vec![0; 210];
                for number in 0..tiling.len() {
                    let ranges = tiling.ranges(number);
                    let size: u64 = ranges.iter().map(|r| r.end - r.start).product();
                    assert!(size * 4 <= (budget / 2).max(4));
                    let mut next = 0;
                    tiling
                        .runs::<()>(&ranges, &mut |at, within, length| {
                            assert_eq!(within, next);
                            next += length;
                            seen[at as usize..(at + length) as usize].iter_mut().for_each(|n| *n += 1);
                            Ok(())
                        })
                        .unwrap();
                    assert_eq!(next, size);
                }
                assert!(seen.iter().all(|&n| n == 1));
            }
        }
    }

    #[test]
    fn a_scalar_is_one_tile_and_nothing_is_none() {
        assert_eq!((tiling(&[], &[], 64).len(), tiling(&[3, 0], &[0, 0], 64).len()), (1, 0));
    }
}
