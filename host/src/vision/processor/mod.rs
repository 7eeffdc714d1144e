//! Image processors: from RGB pixels to tiles of normalised numbers, as `preprocessor_config.json` asks for it.
//!
//! The classes of transformers that are known here share their steps and differ in how an image becomes tiles, so a
//! processor is a [`Cut`] and the [`Steps`] that every tile goes through. A field that a class does not know has no effect
//! there, and none here.

mod read;
mod steps;

use std::path::Path;

use super::grid::{best_grid, fitted, nearest_grid};
use super::image::MAX_PIXELS;
use super::resize::{Filter, resize};
use super::{Rgb, Size, VisionError};

/// How images are prepared.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    /// How an image becomes tiles.
    pub cut: Cut,
    /// What every tile goes through.
    pub steps: Steps,
}

/// How an image becomes tiles.
#[derive(Debug, Clone, PartialEq)]
pub enum Cut {
    /// It is one (CLIP, Siglip).
    Whole,
    /// It is padded to a square with this colour, and is one (LLaVA).
    Square([u8; 3]),
    /// A small version of the whole, then the tiles of the grid that shows most of it (LLaVA-Next).
    AnyResolution {
        /// Sizes to choose from.
        grids: Vec<Size>,
        /// Side of the small version.
        whole: u32,
        /// Side of a tile.
        tile: u32,
        /// How the image is brought into its grid.
        filter: Filter,
    },
    /// The tiles of the grid whose shape is nearest to the image's, then a small version of the whole unless there is but
    /// one tile (InternVL).
    NearestShape {
        /// Fewest tiles.
        fewest: u32,
        /// Most tiles.
        most: u32,
        /// Size of a tile.
        tile: Size,
    },
}

/// What every tile goes through, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct Steps {
    /// Resize, with this filter.
    pub resize: Option<(Resize, Filter)>,
    /// Cut this out of the middle, with black around where there is less.
    pub crop: Option<Size>,
    /// Multiply by this.
    pub rescale: Option<f64>,
    /// Subtract the mean and divide by the deviation, for red, green and blue.
    pub normalise: Option<[[f32; 3]; 2]>,
}

/// What size a tile is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// This one.
    To(Size),
    /// The shorter edge to this, the longer one in proportion.
    ShortestEdge(u32),
}

/// An image as a model takes it: `[count, 3, height, width]`, tile after tile, colour after colour.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiles {
    /// How many.
    pub count: usize,
    /// Size of each.
    pub size: Size,
    /// The numbers.
    pub data: Vec<f32>,
}

impl ImageProcessor {
    /// The processor of the checkpoint in `dir`.
    ///
    /// # Errors
    /// If its files do not say how images are prepared, or ask for something that is not supported.
    pub fn open(dir: &Path) -> Result<Self, VisionError> {
        read::open(dir)
    }

    /// Prepares an image; `path` is its name in messages.
    ///
    /// # Errors
    /// If it is too long or too wide for the steps.
    pub fn prepare(&self, image: &Rgb, path: &Path) -> Result<Tiles, VisionError> {
        let mut cut = self.cut(image, path)?.into_iter();
        let mut tiles = Tiles { count: 0, size: Size::square(0), data: vec![] };
        while let Some(tile) = cut.next() {
            let tile = self.steps.apply(&tile, path)?;
            if tiles.count == 0 {
                tiles.size = tile.size();
                tiles.data.reserve_exact(3 * (1 + cut.len()) * tile.size().area() as usize);
            }
            self.steps.numbers(&tile, &mut tiles.data);
            tiles.count += 1;
        }
        Ok(tiles)
    }

    fn cut(&self, image: &Rgb, path: &Path) -> Result<Vec<Rgb>, VisionError> {
        Ok(match &self.cut {
            Cut::Whole => vec![image.clone()],
            Cut::Square(colour) => {
                let Size { height, width } = image.size();
                let side = height.max(width);
                check(Size::square(side), path, "the image as a square")?;
                let mut square = Rgb::filled(Size::square(side), *colour);
                square.put(image, i64::from((side - height) / 2), i64::from((side - width) / 2));
                vec![square]
            }
            Cut::AnyResolution { grids, whole, tile, filter } => {
                let Some(grid) = best_grid(image.size(), grids) else { return Ok(vec![]) };
                let inner = resize(image, fitted(image.size(), grid), *filter);
                // Centred; the odd row or column of padding is at the end.
                let [down, right] = [grid.height - inner.size().height, grid.width - inner.size().width];
                let padded = inner.window(-i64::from(down / 2), -i64::from(right / 2), grid);
                let mut all = vec![resize(image, Size::square(*whole), *filter)];
                all.extend(split(&padded, Size::square(*tile)));
                all
            }
            Cut::NearestShape { fewest, most, tile } => {
                let grid = nearest_grid(image.size(), *tile, *fewest, *most);
                let full = Size::new(grid.height * tile.height, grid.width * tile.width);
                // Its class resizes with this filter here, whatever `resample` says.
                let mut all = split(&resize(image, full, Filter::Bicubic), *tile);
                if all.len() > 1 {
                    all.push(resize(image, *tile, Filter::Bicubic));
                }
                all
            }
        })
    }

    /// The size of every tile, unless it depends on the image.
    pub fn tile_size(&self) -> Option<Size> {
        self.steps.crop.or(match (self.steps.resize, &self.cut) {
            (Some((Resize::To(size), _)), _) => Some(size),
            (Some((Resize::ShortestEdge(edge), _)), Cut::Square(_)) => Some(Size::square(edge)),
            (None, Cut::NearestShape { tile, .. }) => Some(*tile),
            _ => None,
        })
    }
}

/// The tiles of an image, row by row.
fn split(image: &Rgb, tile: Size) -> Vec<Rgb> {
    let Size { height, width } = image.size();
    let rows = (0..height).step_by(tile.height as usize);
    rows.flat_map(|y| (0..width).step_by(tile.width as usize).map(move |x| (y, x)))
        .map(|(y, x)| image.window(y.into(), x.into(), tile))
        .collect()
}

/// Refuses what a step would make of an image if it is too large.
fn check(size: Size, path: &Path, what: &'static str) -> Result<(), VisionError> {
    if size.area() <= MAX_PIXELS {
        return Ok(());
    }
    let (found, most) = (format!("{size} pixels"), format!("{MAX_PIXELS} pixels"));
    Err(VisionError::TooLarge { path: path.to_owned(), what, found, most })
}
