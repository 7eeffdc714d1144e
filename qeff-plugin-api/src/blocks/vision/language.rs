//! The language program of a model that looks at images.

use super::merge::{ImageInputs, image_index, merge};
use super::program;
use crate::TensorIndex;
use crate::blocks::decoder::Stack;
use crate::blocks::decoder::text::TextModel;
use crate::build::BuildError;
use crate::graph::Program;

/// Name of the program.
pub const LANGUAGE: &str = "language";

/// Describes the program: embeddings of tokens, rows of images in the place of each `token`, then the decoder.
///
/// # Errors
/// If the description does not fit the checkpoint.
pub fn language(text: &TextModel, tensors: &TensorIndex, token: u64) -> Result<Program, BuildError> {
    let g = program(LANGUAGE, tensors);
    // The order is the reference's.
    let ids = g.tokens();
    let images = ImageInputs::declare(&g, text.decoder.hidden);
    let positions = g.positions();
    let index = image_index(&g);
    let stack = Stack::open(&text.decoder, g.at("language_model"), (ids, positions));
    let x = merge(g.at("image_merge"), stack.embed(), ids, index, images, token);
    let x = text.enter(g.at("image_merge"), x);
    let h = stack.layers().fold(x, |h, l| text.layer(l, h));
    stack.tail(h);
    g.finish()
}
