//! What can be wrong with images and with the files that say how they are prepared.
//!
//! Both come from strangers. Each refusal names the file, what was found there, what was expected, and the next thing to
//! try.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Why an image cannot be shown to a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VisionError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is no image of a kind that is read.
    #[error("{}: expected a PNG or JPEG image, found {found}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: String,
    },
    /// An image that cannot be decoded.
    #[error("{}: the {format} image is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// PNG or JPEG.
        format: &'static str,
        /// What the decoder said.
        why: String,
    },
    /// An image, or what would be made of it, is too large.
    #[error("{}: {what} has {found}; expected at most {most}: make the image smaller", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The file, the image, or a step of its preparation.
        what: &'static str,
        /// Its size.
        found: String,
        /// The limit.
        most: String,
    },
    /// An image that has no place in the model's grids.
    #[error("{}: {size} pixels (height x width) fit no grid of the model: {why}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: super::Size,
        /// What is wrong with it.
        why: String,
    },
    /// A file that says how images are prepared is not there.
    #[error("{} has no {file}, which says how images are prepared: fetch it from where the checkpoint came from", dir.display())]
    NoConfig {
        /// The checkpoint.
        dir: PathBuf,
        /// The file.
        file: &'static str,
    },
    /// A field holds something that is not supported, or makes no sense.
    #[error("{}: `{field}`: expected {expected}, found {found}", file.display())]
    Field {
        /// The file.
        file: PathBuf,
        /// The field.
        field: String,
        /// What would be right.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// Images and their places in a prompt do not match.
    #[error(
        "the prompt has {places} for images, and {images} given with --image: put `{mark}` once for each image, or leave it out altogether"
    )]
    Count {
        /// Places in the prompt, in words.
        places: String,
        /// Images, in words.
        images: String,
        /// What marks a place.
        mark: String,
    },
    /// Image tokens of a prompt and rows that images make do not match.
    #[error("the prompt has {tokens} image tokens (id {token}), and its images make {rows} rows: {hint}")]
    Rows {
        /// Image tokens of the prompt.
        tokens: usize,
        /// Id of the image token.
        token: u32,
        /// Rows that images make.
        rows: usize,
        /// What to do.
        hint: &'static str,
    },
}

impl VisionError {
    /// A field that is not supported.
    pub(super) fn field(
        file: &Path,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Display,
    ) -> Self {
        let found = found.to_string();
        let found = match found.char_indices().nth(120) {
            Some((end, _)) => format!("{}…", &found[..end]),
            None => found,
        };
        VisionError::Field { file: file.to_owned(), field: field.into(), expected: expected.into(), found }
    }
}
