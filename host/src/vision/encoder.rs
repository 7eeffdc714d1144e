//! Rows of embeddings of images: each image is encoded once, however often it is shown.

use std::collections::HashMap;
use std::sync::Arc;

use qeff_plugin_api::graph::{Program, Role};

use super::Size;
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

/// How a program takes pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PixelPort {
    /// Its input.
    pub name: String,
    /// Whether there is an axis of images before that of tiles.
    of_images: bool,
    /// Tiles that a call takes, if their number is fixed.
    tiles: Option<usize>,
}

impl PixelPort {
    /// That of a vision program.
    ///
    /// # Errors
    /// If it has no pixels.
    pub fn of(described: &Program) -> Result<Self, RuntimeError> {
        let pixels = described.input(Role::Pixels);
        let pixels = pixels.ok_or_else(|| RuntimeError::Program { why: "it has no pixels".into() })?;
        let of_images = described.ty(pixels.value).rank() == 5;
        Ok(PixelPort { name: pixels.name.clone(), of_images, tiles: None })
    }

    /// The same of a program that takes so many tiles: images of fewer are filled up with black ones.
    pub fn of_tiles(self, tiles: usize) -> Self {
        PixelPort { tiles: Some(tiles), ..self }
    }

    fn count(&self, picture: &Picture) -> usize {
        self.tiles.unwrap_or(picture.tiles.count)
    }

    /// The pixels of a picture.
    ///
    /// # Errors
    /// If it has more tiles than there is room for.
    pub fn tensor(&self, picture: &Picture) -> Result<Tensor, RuntimeError> {
        let (tiles, count) = (&picture.tiles, self.count(picture));
        if tiles.count > count {
            let path = picture.path.display();
            return Err(RuntimeError::Program {
                why: format!("it takes {count} tiles, and {path} has {}", tiles.count),
            });
        }
        Ok(self.filled(count, tiles.size, tiles.data.clone()))
    }

    /// What is seen where nothing is shown: black tiles of this size.
    pub fn black(&self, size: Size) -> Tensor {
        self.filled(self.tiles.unwrap_or(1), size, vec![])
    }

    fn filled(&self, count: usize, size: Size, mut data: Vec<f32>) -> Tensor {
        let tile = [count, 3, size.height as usize, size.width as usize];
        data.resize(tile.iter().product(), 0.0);
        Tensor::floats(if self.of_images { [&[1], tile.as_slice()].concat() } else { tile.to_vec() }, data)
    }
}

/// A vision program that remembers what it has seen.
pub struct Encoder {
    program: Box<dyn Callable>,
    pixels: PixelPort,
    packing: Option<String>,
    embeds: String,
    seen: HashMap<Digest, Arc<Embeds>>,
    calls: usize,
}

impl Encoder {
    /// An encoder that calls `program`, which was described as `described`.
    ///
    /// # Errors
    /// If that has no pixels or no embeddings.
    pub fn new(program: Box<dyn Callable>, described: &Program) -> Result<Self, RuntimeError> {
        let missing = |what: &str| RuntimeError::Program { why: format!("it has no {what}") };
        Ok(Encoder {
            program,
            pixels: PixelPort::of(described)?,
            packing: described.input(Role::Packing).map(|input| input.name.clone()),
            embeds: described.output(Role::Embeds).ok_or_else(|| missing("embeddings"))?.name.clone(),
            seen: HashMap::new(),
            calls: 0,
        })
    }

    /// The encoder, whose program takes so many tiles: images of fewer are filled up with black ones.
    pub fn of_tiles(self, tiles: usize) -> Self {
        Encoder { pixels: self.pixels.of_tiles(tiles), ..self }
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
        let wrong = |why: String| RuntimeError::Program { why };
        let pixels = self.pixels.tensor(picture)?;
        let packing = picture.packing.as_ref().map(|index| Tensor::integers([index.len()], index.clone()));
        let mut inputs = vec![(self.pixels.name.as_str(), &pixels)];
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
        if self.pixels.count(picture) > picture.tiles.count && rows > picture.rows {
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
