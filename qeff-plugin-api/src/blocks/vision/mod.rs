//! What models that look at images share: patches, the tower of layers over them, the projector to the language model's
//! width, the order in which tiles of an image are packed, and the place of images among the tokens of a text.
//!
//! A vision program makes rows of embeddings of an image; a language program takes them as a state that it never writes,
//! and puts the next ones where its tokens say that an image is. So either can be compiled and run without the other.

mod language;
mod merge;
mod packing;
mod patches;
mod projector;
mod tower;

pub use language::{LANGUAGE, language};
pub use merge::{ImageInputs, image_index, merge};
pub use packing::{packed, packing_input};
pub use patches::{Patches, with_class};
pub use projector::{Projector, pixel_shuffle};
pub use tower::{Names, Tower, clip, feature_layers, siglip};

use crate::build::{GraphBuilder, Value};
use crate::graph::{Dim, Role};
use crate::{Elem, TensorIndex};

/// Name of the program that makes rows of images.
pub const VISION: &str = "vision";

/// What a vision program puts out, and a language program takes.
pub const EMBEDS: &str = "vision_embeds";

/// What the parts of such a model are called in files, and, since transformers 4.52, in memory, which files may follow.
const NAMES: &[(&str, &str)] = &[
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("image_newline", "model.image_newline"),
];

/// A builder of a program of such a model, whose parts are called `language_model.model`, `language_model.lm_head`,
/// `vision_tower` and `multi_modal_projector` whichever of the two ways its file goes.
pub fn program<'t>(name: &str, tensors: &'t TensorIndex) -> GraphBuilder<'t> {
    let builder = GraphBuilder::new(name, tensors);
    if tensors.has_prefix("model.") { builder.renamed(NAMES) } else { builder }
}

/// Declares `pixel_values: f32[lead…, colours, img_size, img_size]`.
pub fn pixels<'g>(g: &'g GraphBuilder<'g>, lead: &[&str], colours: u64) -> Value<'g> {
    let lead = lead.iter().map(|&name| Dim::symbol(name));
    let image = [Dim::Fixed(colours), "img_size".into(), "img_size".into()];
    g.input("pixel_values", Role::Pixels, Elem::Act, lead.chain(image))
}
