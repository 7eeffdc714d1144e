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

use crate::Elem;
use crate::build::{GraphBuilder, Value};
use crate::graph::{Dim, Role};

/// Name of the program that makes rows of images.
pub const VISION: &str = "vision";

/// What a vision program puts out, and a language program takes.
pub const EMBEDS: &str = "vision_embeds";

/// Declares `pixel_values: f32[lead…, colours, img_size, img_size]`.
pub fn pixels<'g>(g: &'g GraphBuilder<'g>, lead: &[&str], colours: u64) -> Value<'g> {
    let lead = lead.iter().map(|&name| Dim::symbol(name));
    let image = [Dim::Fixed(colours), "img_size".into(), "img_size".into()];
    g.input("pixel_values", Role::Pixels, Elem::Act, lead.chain(image))
}
