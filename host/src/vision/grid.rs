//! Which tiles an image is cut into, and in which order their rows stand.
//!
//! Families that look at any resolution cut an image into tiles of the size their tower was made for, beside a small
//! version of the whole. How many there are follows from the image's size alone. The sums here are those of transformers,
//! in doubles and in the same order, since a rounding more decides between grids.

use super::Size;

/// Of the `grids`, the one that shows most of an image, and among those the one that wastes least; the first of equals.
/// `None` if there are none.
pub fn best_grid(image: Size, grids: &[Size]) -> Option<Size> {
    let (height, width) = (f64::from(image.height), f64::from(image.width));
    let mut best = None;
    let (mut most, mut least) = (0, u64::MAX);
    for &grid in grids {
        let scale = (f64::from(grid.width) / width).min(f64::from(grid.height) / height);
        let shown = ((width * scale) as u64 * (height * scale) as u64).min(image.area());
        let wasted = grid.area() - shown.min(grid.area());
        if shown > most || shown == most && wasted < least {
            (most, least, best) = (shown, wasted, Some(grid));
        }
    }
    best
}

/// The size of an image that fills `target` in one direction, and no more than that in the other.
pub fn fitted(image: Size, target: Size) -> Size {
    let across = f64::from(target.width) / f64::from(image.width);
    let down = f64::from(target.height) / f64::from(image.height);
    if across < down {
        Size::new(((f64::from(image.height) * across).ceil() as u32).min(target.height), target.width)
    } else {
        Size::new(target.height, ((f64::from(image.width) * down).ceil() as u32).min(target.width))
    }
}

/// Tiles of an image, rows and columns, where the grid is chosen whose shape is nearest to the image's (InternVL): at least
/// `fewest` tiles and at most `most`. Among grids of one shape, the larger one if the image has at least half its pixels.
pub fn nearest_grid(image: Size, tile: Size, fewest: u32, most: u32) -> Size {
    let mut grids: Vec<Size> = (1..=most)
        .flat_map(|width| (1..=most / width).map(move |height| Size::new(height, width)))
        .filter(|grid| grid.area() >= u64::from(fewest))
        .collect();
    // Stable: narrow grids come before wide ones of as many tiles.
    grids.sort_by_key(|grid| grid.area());
    let shape = |size: Size| f64::from(size.width) / f64::from(size.height);
    let mut best = Size::square(1);
    let mut nearest = f64::INFINITY;
    for grid in grids {
        let off = (shape(image) - shape(grid)).abs();
        let large = image.area() as f64 > 0.5 * tile.area() as f64 * grid.area() as f64;
        if off < nearest || off == nearest && large {
            (nearest, best) = (off, grid);
        }
    }
    best
}

/// How the rows of a tiled image are packed: first those of the small version of the whole, then those of the grid row by
/// row, without what was only padding, and a line break after each (LLaVA-Next).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// Tiles of the grid, rows and columns.
    pub tiles: Size,
    /// Patches of a tile, rows and columns.
    pub patches: Size,
    /// First patch of the grid that is not padding, row and column.
    pub from: [u32; 2],
    /// Patches of the grid that are not padding, rows and columns.
    pub kept: Size,
}

impl Packing {
    /// The packing of an image that was fitted into a grid of `tiles`, each of so many `patches`. `None` if there are more
    /// of them than can be counted.
    pub fn new(image: Size, tiles: Size, patches: Size) -> Option<Self> {
        let all = Size::new(tiles.height.checked_mul(patches.height)?, tiles.width.checked_mul(patches.width)?);
        let (height, width) = (f64::from(image.height), f64::from(image.width));
        let (rows, columns) = (f64::from(all.height), f64::from(all.width));
        let wide = width / height > columns / rows;
        let (from, kept) = if wide {
            let pad = padding(all.height, height * (columns / width))?;
            ([pad, 0], Size::new(all.height - 2 * pad, all.width))
        } else {
            let pad = padding(all.width, width * (rows / height))?;
            ([0, pad], Size::new(all.height, all.width - 2 * pad))
        };
        Some(Packing { tiles, patches, from, kept })
    }

    /// Rows of the packed image.
    #[allow(clippy::len_without_is_empty)] // there is always the small version of the whole
    pub fn len(&self) -> usize {
        (self.patches.area() + self.kept.area() + u64::from(self.kept.height)) as usize
    }

    /// Tiles, with the small version of the whole.
    pub fn tile_count(&self) -> usize {
        1 + self.tiles.area() as usize
    }

    /// For each packed row, where it is found among the rows of all tiles, tile after tile, the whole first; a line break is
    /// the row after the last.
    pub fn index(&self) -> Vec<i64> {
        let of_tile = self.patches.area() as i64;
        let line_break = of_tile * self.tile_count() as i64;
        let mut index: Vec<i64> = (0..of_tile).collect();
        for y in (self.from[0]..).take(self.kept.height as usize) {
            for x in (self.from[1]..).take(self.kept.width as usize) {
                let tile = y / self.patches.height * self.tiles.width + x / self.patches.width;
                let patch = y % self.patches.height * self.patches.width + x % self.patches.width;
                index.push(of_tile * (1 + i64::from(tile)) + i64::from(patch));
            }
            index.push(line_break);
        }
        index
    }
}

/// Padding on each side of `all`, of which `shown` is not padding. Python's `round(shown, 7)` takes the decimals as they
/// are, as formatting does.
fn padding(all: u32, shown: f64) -> Option<u32> {
    let shown: f64 = format!("{shown:.7}").parse().ok()?;
    // Floor division: what is shown can be one more than there is.
    let pad = (i64::from(all) - shown as i64).div_euclid(2);
    u32::try_from(pad).ok().filter(|pad| 2 * u64::from(*pad) <= u64::from(all))
}

#[cfg(test)]
#[path = "grid_tests.rs"]
mod tests;
