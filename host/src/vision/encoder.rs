//! Rows of embeddings of images: each image is encoded once, however often it is shown.

use std::collections::HashMap;
use std::sync::Arc;

use qeff_plugin_api::graph::{Program, Role};

use super::family::{Digest, Picture};
use crate::runtime::{Callable, Data, RuntimeError, Tensor};

/// Rows of embeddings, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeds {
    /// Numbers of a row.
    pub width: usize,
    /// The numbers.
    pub data: Vec<f32>,
}

/// A vision program that remembers what it has seen.
pub struct Encoder {
    program: Box<dyn Callable>,
    pixels: String,
    packing: Option<String>,
    embeds: String,
    /// Whether pixels have an axis of images before that of tiles.
    of_images: bool,
    seen: HashMap<Digest, Arc<Embeds>>,
    /// Tiles that a call takes, if their number is fixed.
    tiles: Option<usize>,
    calls: usize,
}

impl Encoder {
    /// An encoder that calls `program`, which was described as `described`.
    ///
    /// # Errors
    /// If that has no pixels or no embeddings.
    pub fn new(program: Box<dyn Callable>, described: &Program) -> Result<Self, RuntimeError> {
        let missing = |what: &str| RuntimeError::Program { why: format!("it has no {what}") };
        let pixels = described.input(Role::Pixels).ok_or_else(|| missing("pixels"))?;
        Ok(Encoder {
            program,
            pixels: pixels.name.clone(),
            packing: described.input(Role::Packing).map(|input| input.name.clone()),
            embeds: described.output(Role::Embeds).ok_or_else(|| missing("embeddings"))?.name.clone(),
            of_images: described.ty(pixels.value).rank() == 5,
            seen: HashMap::new(),
            tiles: None,
            calls: 0,
        })
    }

    /// The encoder, whose program takes so many tiles: images of fewer are filled up with black ones.
    pub fn of_tiles(self, tiles: usize) -> Self {
        Encoder { tiles: Some(tiles), ..self }
    }

    /// How often the program was called.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// The rows of a picture.
    ///
    /// # Errors
    /// If the program fails, or puts out another number of rows than a prompt has tokens for.
    pub fn encode(&mut self, picture: &Picture) -> Result<Arc<Embeds>, RuntimeError> {
        if let Some(known) = self.seen.get(&picture.digest) {
            return Ok(Arc::clone(known));
        }
        let tiles = &picture.tiles;
        let wrong = |why: String| RuntimeError::Program { why };
        let count = self.tiles.unwrap_or(tiles.count);
        if tiles.count > count {
            let path = picture.path.display();
            return Err(wrong(format!("it takes {count} tiles, and {path} has {}", tiles.count)));
        }
        let tile = [count, 3, tiles.size.height as usize, tiles.size.width as usize];
        let mut data = tiles.data.clone();
        data.resize(tile.iter().product(), 0.0);
        let shape = if self.of_images { [&[1], tile.as_slice()].concat() } else { tile.to_vec() };
        let pixels = Tensor::floats(shape, data);
        let packing = picture.packing.as_ref().map(|index| Tensor::integers([index.len()], index.clone()));
        let mut inputs = vec![(self.pixels.as_str(), &pixels)];
        if let (Some(name), Some(packing)) = (&self.packing, &packing) {
            inputs.push((name, packing));
        }
        let results = self.program.call(&inputs)?;
        self.calls += 1;
        let found = results.into_iter().find(|(name, _)| *name == self.embeds).map(|(_, tensor)| tensor);
        let found = found.ok_or_else(|| wrong(format!("it puts out no `{}`", self.embeds)))?;
        let width = found.shape.last().copied().unwrap_or(0);
        let Data::F32(mut data) = found.data else { return Err(wrong(format!("`{}` is not f32", self.embeds))) };
        let mut rows = data.len().checked_div(width).unwrap_or(0);
        if count > tiles.count && rows > picture.rows {
            // Rows of tiles that are not there.
            data.truncate(picture.rows * width);
            rows = picture.rows;
        }
        if rows != picture.rows {
            return Err(wrong(format!("it made {rows} rows of {}, expected {}", picture.path.display(), picture.rows)));
        }
        let embeds = Arc::new(Embeds { width, data });
        self.seen.insert(picture.digest.clone(), Arc::clone(&embeds));
        Ok(embeds)
    }
}
