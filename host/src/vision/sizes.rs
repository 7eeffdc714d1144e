//! Sizes that the programs of a model that looks at images are compiled for.
//!
//! A card's program has one size for everything. A model that packs tiles gets one vision program for each image size that
//! is asked for, over the same weights; its language program has room for the most rows that any of them makes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use qeff_core::passes::fix_packing;
use qeff_plugin_api::graph::{Dim, Model, Role, Task};

use super::family::vision_program;
use super::{Family, Size};
use crate::checkpoint::Checkpoint;
use crate::compile::{Program, Shape};

/// The image that programs are compiled for where nobody says: the reference's, which it cannot change.
const DEFAULT: Size = Size { height: 1109, width: 1610 };

/// Positions of a sequence where nobody says: room for an image, and a conversation about it.
const CONTEXT: u64 = 1024;

/// What a vision program of a model is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Name of the program.
    pub program: String,
    /// The only size of images it is for; `None` if it is for all.
    pub image: Option<Size>,
    /// Tiles of an image.
    pub tiles: usize,
    /// Size of a tile.
    pub tile: Size,
    /// Rows of an image.
    pub rows: u64,
    /// Numbers of the symbols that both programs' specializations state, in the reference's words.
    pub symbols: BTreeMap<String, u64>,
}

/// Whether a program of the model packs tiles in an order that depends on the size of an image.
pub fn packs(model: &Model) -> bool {
    model.programs.iter().any(|program| program.input(Role::Packing).is_some())
}

/// For a model that looks at images: fixes its vision program for each of `sizes`, and says what each is made for. Nothing
/// for any other model.
///
/// # Errors
/// If sizes are given to a model that has no use for them, or the checkpoint does not say how images are prepared.
pub fn fix(model: &mut Model, checkpoint: &Checkpoint, sizes: &[Size]) -> Result<Vec<Seen>> {
    if model.task != Task::ImageTextToText {
        if !sizes.is_empty() {
            bail!("--image-size is for models that look at images, and this one does not");
        }
        return Ok(vec![]);
    }
    let vision = vision_program(model)?.clone();
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    sizes.dedup();
    let family = Family::open(checkpoint, model, None)?;
    let tile = family.tile().context("the size of tiles depends on the image")?;
    let mut common =
        BTreeMap::from([("img_size".to_owned(), u64::from(tile.height)), ("max_num_images".to_owned(), 1)]);
    if !packs(model) {
        if !sizes.is_empty() {
            bail!("--image-size: this model sees images of every size as tiles of {tile}; leave the flag out");
        }
        let dims = vision.output(Role::Embeds).map(|output| vision.ty(output.value).dims.clone()).unwrap_or_default();
        let rows = match dims.get(1).and_then(Dim::fixed) {
            Some(rows) => rows,
            None => {
                // A program for as many tiles as an image can have.
                let tiles = family.most_tiles();
                common.insert("num_patches".into(), tiles);
                tiles.saturating_mul(family.rows_per_tile())
            }
        };
        let tiles = usize::try_from(common.get("num_patches").copied().unwrap_or(1))?;
        return Ok(vec![Seen { program: vision.name, image: None, tiles, tile, rows, symbols: common }]);
    }
    if sizes.is_empty() {
        sizes.push(DEFAULT);
    }
    let mut seen = vec![];
    let mut programs = vec![];
    for size in &sizes {
        let packing =
            family.packing(*size).with_context(|| format!("--image-size {size} fits no grid of the model"))?;
        let name = if sizes.len() == 1 { vision.name.clone() } else { format!("{}_{size}", vision.name) };
        programs.push(fix_packing(&vision, &packing.index(), &name)?);
        let mut symbols = common.clone();
        symbols.insert("image_size_height".into(), size.height.into());
        symbols.insert("image_size_width".into(), size.width.into());
        symbols.insert("num_patches".into(), packing.tile_count() as u64);
        let (tiles, rows) = (packing.tile_count(), packing.len() as u64);
        seen.push(Seen { program: name, image: Some(*size), tiles, tile, rows, symbols });
    }
    let place = model.programs.iter().position(|program| program.name == vision.name).unwrap_or(0);
    let first = programs.first().map(|program| program.name.clone()).unwrap_or_default();
    model.programs.splice(place..=place, programs);
    // One of them is enough to say what feeds the language program.
    for link in model.links.iter_mut().filter(|link| link.from.0 == vision.name) {
        link.from.0.clone_from(&first);
    }
    Ok(seen)
}

/// Sizes of the language program that images ask for, where nobody says: a prompt that holds the largest image in one call,
/// and room for an answer.
pub fn shape(shape: &mut Shape, seen: &[Seen]) {
    let Some(rows) = seen.iter().map(|seen| seen.rows).max() else { return };
    let prompt = *shape.prompt_len.get_or_insert(rows.saturating_add(16));
    shape.ctx_len.get_or_insert_with(|| prompt.saturating_add(256).div_ceil(CONTEXT).saturating_mul(CONTEXT));
}

/// Gives the programs of a model the numbers of what they see.
pub fn number(programs: &mut [(&str, &mut Program)], seen: &[Seen]) {
    let Some(largest) = seen.iter().max_by_key(|seen| seen.rows) else { return };
    for (name, program) in programs {
        match seen.iter().find(|seen| seen.program == *name) {
            Some(seen) => program.symbols.extend(seen.symbols.clone()),
            None => {
                program.symbols.extend(largest.symbols.clone());
                // One program of both has no rows of its own.
                if program.interface.has_symbol("vision_size") {
                    program.symbols.insert("vision_size".into(), largest.rows);
                }
            }
        }
    }
}
