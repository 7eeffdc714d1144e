//! Vision: from image files to what a vision program takes, and from a prompt with places for images to token ids.
//!
//! A checkpoint was trained on pixels that were made in one exact way. This room follows Hugging Face's processors, and
//! through them Pillow, to the number; where a file asks for something else it refuses instead of coming close.
//!
//! | module | what it turns into what |
//! |---|---|
//! | [`image`], `jpeg` | the bytes of a file into RGB pixels |
//! | [`resize`] | pixels into pixels of another size, as Pillow does it |
//! | [`grid`] | the size of an image into the tiles it is cut into, and the order of their rows |
//! | [`processor`] | RGB pixels into tiles of normalised numbers, by `preprocessor_config.json` |
//! | [`family`] | a checkpoint's files into how its model looks at images |
//! | [`marks`] | places in a prompt into image tokens |
//! | [`encoder`] | tiles into rows of embeddings, each image once |
//! | [`session`], [`cards`] | rows of embeddings into what a language program is called with, on the CPU and on cards |
//! | [`sizes`] | image sizes into programs and sizes for cards |
//! | [`ready`] | a described model into both of its programs, loaded |
//!
//! It knows files, pixels, tokens and what programs are called with. How they compute is not known here.

pub mod cards;
pub mod encoder;
mod error;
pub mod family;
mod fields;
pub mod grid;
pub mod image;
mod jpeg;
pub mod marks;
pub mod processor;
pub mod ready;
pub mod resize;
pub mod session;
pub mod sizes;

use std::fmt;

pub use encoder::Encoder;
pub use error::VisionError;
pub use family::{Family, Picture};
pub use image::Rgb;
pub use processor::{ImageProcessor, Tiles};

/// Height and width in pixels, tiles or patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

impl Size {
    /// A size.
    pub fn new(height: u32, width: u32) -> Self {
        Size { height, width }
    }

    /// A square.
    pub fn square(side: u32) -> Self {
        Size::new(side, side)
    }

    /// Height times width.
    pub fn area(self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    /// `HEIGHTxWIDTH`.
    fn from_str(text: &str) -> Result<Self, String> {
        let side = |part: &str| part.parse::<u32>().ok().filter(|n| (1..=65_535).contains(n));
        let sides = text.split_once('x').and_then(|(height, width)| Some(Size::new(side(height)?, side(width)?)));
        sides.ok_or_else(|| format!("expected HEIGHTxWIDTH in pixels, such as 336x672, found `{text}`"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}
