//! What a checkpoint shows its model of an image: how it is prepared, how many rows it becomes, and which tokens of a prompt
//! stand for them.
//!
//! How many rows there are follows from the described model: a fixed number for each tile, or, where the model packs tiles by
//! an index, what is left of a grid without its padding. The files of the checkpoint say how pixels are made and where
//! patches end.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qeff_plugin_api::graph::{Dim, Model, Program, Role};

use super::fields::Fields;
use super::grid::{Packing, best_grid};
use super::marks::Marks;
use super::processor::Cut;
use super::{ImageProcessor, Rgb, Size, Tiles, VisionError};
use crate::artifacts::sha256;
use crate::checkpoint::Checkpoint;
use crate::text::Tokenizer;

/// How a checkpoint looks at images.
#[derive(Debug)]
pub struct Family {
    processor: ImageProcessor,
    /// The size of tiles that the tower was made for, if the checkpoint says it.
    tile: Option<Size>,
    rows: Rows,
    marks: Option<Marks>,
    /// Pictures by the hash of their file.
    read: HashMap<Digest, Arc<Picture>>,
}

/// The hash of an image file, in hexadecimal digits.
pub type Digest = String;

/// An image as its model takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The hash of its file.
    pub digest: Digest,
    /// Where it came from.
    pub path: PathBuf,
    /// Its size.
    pub size: Size,
    /// Its pixels.
    pub tiles: Tiles,
    /// The order of its rows, for a model that packs them.
    pub packing: Option<Vec<i64>>,
    /// How many rows it becomes.
    pub rows: usize,
}

/// How many rows an image becomes.
#[derive(Debug, Clone, PartialEq)]
enum Rows {
    /// So many for each tile.
    PerTile(usize),
    /// What is left of a grid of tiles, each of so many patches.
    Packed { grids: Vec<Size>, tile: u32, patches: Size },
}

/// The program of a model that makes rows of images.
///
/// # Errors
/// If there is none.
pub fn vision_program(model: &Model) -> anyhow::Result<&Program> {
    let found = model.programs.iter().find(|program| program.input(Role::Pixels).is_some());
    found.ok_or_else(|| anyhow::anyhow!("{} has no program that looks at images", model.architecture))
}

impl Family {
    /// Reads how the checkpoint's model looks at images. Without a tokenizer, prompts are ids.
    ///
    /// # Errors
    /// If its files do not say it, or do not fit the model.
    pub fn open(checkpoint: &Checkpoint, model: &Model, tokenizer: Option<&Tokenizer>) -> anyhow::Result<Self> {
        let dir = &checkpoint.dir;
        let processor = ImageProcessor::open(dir)?;
        let program = vision_program(model)?;
        let vision = checkpoint.config.object_or("vision_config", &[])?;
        let sides = vision.count_pair_or("image_size", 0)?.map(|n| u32::try_from(n).unwrap_or(0));
        let side = Some(Size::new(sides[0], sides[1])).filter(|side| side.area() > 0);
        if let (Some(side), Some(tile)) = (side, processor.tile_size())
            && tile != side
        {
            let file = dir.join("preprocessor_config.json");
            let expected = format!("{side}, the `image_size` of config.json's `vision_config`");
            return Err(VisionError::field(&file, "crop_size", expected, tile).into());
        }
        let rows = match (&processor.cut, program.input(Role::Packing)) {
            (Cut::AnyResolution { grids, tile, .. }, Some(_)) => {
                let patch = patch_size(dir, &vision)?;
                let patches = Size::square(tile / patch);
                Rows::Packed { grids: grids.clone(), tile: *tile, patches }
            }
            (Cut::AnyResolution { .. }, None) | (_, Some(_)) => {
                let file = dir.join("preprocessor_config.json");
                let (expected, found) = match program.input(Role::Packing) {
                    Some(_) => ("LlavaNextImageProcessor, since the model packs tiles", "another"),
                    None => {
                        ("a processor that makes no grids, since the model packs no tiles", "LlavaNextImageProcessor")
                    }
                };
                return Err(VisionError::field(&file, "image_processor_type", expected, found).into());
            }
            (_, None) => {
                let embeds = program.output(Role::Embeds).map(|output| program.ty(output.value));
                let fixed = embeds.and_then(|ty| ty.dims.get(1)).and_then(Dim::fixed);
                Rows::PerTile(match fixed.and_then(|n| usize::try_from(n).ok()) {
                    Some(rows) => rows,
                    // The model says only that tiles stand one after the other.
                    None => rows_of_tile(checkpoint)?,
                })
            }
        };
        let marks = tokenizer.map(|tokenizer| Marks::open(checkpoint, tokenizer)).transpose()?;
        Ok(Family { processor, tile: side, rows, marks, read: HashMap::new() })
    }

    /// Which tokens stand for images, if there is a tokenizer.
    pub fn marks(&self) -> Option<&Marks> {
        self.marks.as_ref()
    }

    /// Reads and prepares an image; one that was read before is not prepared again.
    ///
    /// # Errors
    /// If it is none, or cannot be prepared.
    pub fn picture(&mut self, path: &Path) -> Result<Arc<Picture>, VisionError> {
        let bytes = super::image::read(path)?;
        let digest = sha256(&bytes);
        if let Some(known) = self.read.get(&digest) {
            return Ok(Arc::clone(known));
        }
        let image = Rgb::decode(&bytes, path)?;
        let tiles = self.processor.prepare(&image, path)?;
        // Where nothing is cropped, the size of a tile is the image's.
        if let Some(side) = self.tile.filter(|side| *side != tiles.size) {
            let why = format!(
                "prepared without `do_center_crop` of preprocessor_config.json, they are {}, and `image_size` of config.json is {side}",
                tiles.size
            );
            return Err(VisionError::Shape { path: path.to_owned(), size: image.size(), why });
        }
        let (rows, packing) = match &self.rows {
            Rows::PerTile(rows) => (rows * tiles.count, None),
            Rows::Packed { grids, tile, patches } => {
                let packing = best_grid(image.size(), grids).and_then(|grid| {
                    Packing::new(image.size(), Size::new(grid.height / tile, grid.width / tile), *patches)
                });
                let Some(packing) = packing else {
                    let why = "it has too many tiles".into();
                    return Err(VisionError::Shape { path: path.to_owned(), size: image.size(), why });
                };
                (packing.len(), Some(packing.index()))
            }
        };
        let picture = Arc::new(Picture {
            digest: digest.clone(),
            path: path.to_owned(),
            size: image.size(),
            tiles,
            packing,
            rows,
        });
        self.read.insert(digest, Arc::clone(&picture));
        Ok(picture)
    }

    /// The size of every tile, unless it depends on the image.
    pub fn tile(&self) -> Option<Size> {
        self.processor.tile_size()
    }

    /// Most tiles of an image.
    pub fn most_tiles(&self) -> u64 {
        match &self.processor.cut {
            Cut::Whole | Cut::Square(_) => 1,
            Cut::AnyResolution { grids, tile, .. } => {
                let tiles = |grid: &Size| u64::from(grid.height / tile) * u64::from(grid.width / tile);
                1 + grids.iter().map(tiles).max().unwrap_or(0)
            }
            Cut::NearestShape { most, .. } => 1 + u64::from(*most),
        }
    }

    /// Rows of a tile, before any packing.
    pub fn rows_per_tile(&self) -> u64 {
        match &self.rows {
            Rows::PerTile(rows) => *rows as u64,
            Rows::Packed { patches, .. } => patches.area(),
        }
    }

    /// How the rows of an image of a size are packed, for a model that packs them.
    pub fn packing(&self, size: Size) -> Option<Packing> {
        let Rows::Packed { grids, tile, patches } = &self.rows else { return None };
        let grid = best_grid(size, grids)?;
        Packing::new(size, Size::new(grid.height / tile, grid.width / tile), *patches)
    }
}

/// Rows of a tile by the processor of text, which have to be those that config.json says the model makes, if it does.
fn rows_of_tile(checkpoint: &Checkpoint) -> anyhow::Result<usize> {
    let file = checkpoint.dir.join("processor_config.json");
    let stated = match Fields::open(&file)? {
        Some(fields) => fields.size("image_seq_length")?,
        None => None,
    };
    // What its class says where the file does not.
    let rows = u64::from(stated.unwrap_or(256));
    let config = &checkpoint.config;
    if config.has("downsample_ratio") {
        let vision = config.object_or("vision_config", &[])?;
        let [side, patch] = [("image_size", 448), ("patch_size", 14)]
            .map(|(key, default)| vision.count_pair_or(key, default).map(|pair| pair[0]));
        let patches = (side? / patch?.max(1)) as f64;
        let own = (patches * f64::from(config.positive_or("downsample_ratio", 0.5)?)).powi(2).round() as u64;
        if own != rows {
            let expected = format!("{own}, the rows that the model of config.json makes of a tile");
            return Err(VisionError::field(&file, "image_seq_length", expected, rows).into());
        }
    }
    Ok(rows as usize)
}

/// Side of a patch: what the processor of text counts by, or else the tower's own.
fn patch_size(dir: &Path, vision: &qeff_plugin_api::config::Config) -> anyhow::Result<u32> {
    let file = dir.join("processor_config.json");
    let stated = match Fields::open(&file)? {
        Some(fields) => fields.size("patch_size")?,
        None => None,
    };
    let own = vision.count_pair_or("patch_size", 0)?[0];
    match (stated, u32::try_from(own).ok().filter(|&n| n > 0)) {
        (Some(stated), Some(own)) if stated != own => {
            let expected = format!("{own}, as in config.json's `vision_config`");
            Err(VisionError::field(&file, "patch_size", expected, stated).into())
        }
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => Err(VisionError::NoConfig { dir: dir.to_owned(), file: "processor_config.json" }.into()),
    }
}
