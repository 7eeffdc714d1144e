//! The language program of a model that looks at images.

use super::merge::{ImageInputs, image_index, merge};
use crate::TensorIndex;
use crate::blocks::decoder::Place;
use crate::blocks::decoder::text::TextModel;
use crate::build::{BuildError, GraphBuilder};
use crate::graph::Program;

/// Name of the program.
pub const LANGUAGE: &str = "language";

/// Describes the program: embeddings of tokens, rows of images in the place of each `token`, then the decoder.
///
/// # Errors
/// If the description does not fit the checkpoint.
pub fn language(text: &TextModel, place: Place, tensors: &TensorIndex, token: u64) -> Result<Program, BuildError> {
    let g = GraphBuilder::new(LANGUAGE, tensors);
    // The order is the reference's.
    let ids = g.tokens();
    let images = ImageInputs::declare(&g, text.decoder.hidden);
    let positions = g.positions();
    let index = image_index(&g);
    let kv = text.decoder.slots(&g);
    let x = text.decoder.embed(&g, place, ids);
    let x = merge(g.at("image_merge"), x, ids, index, images, token);
    text.decoder.layers(&g, place, (x, positions), &kv, |l, h| text.layer(l, h));
    g.finish()
}
