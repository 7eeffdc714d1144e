//! Places for images in a prompt.
//!
//! Where a prompt says `<image>`, or the token that the checkpoint has for images, the image's token comes once for each of
//! its rows, in whatever the family puts around them. A prompt without such a place gets one for each image at its beginning.

use qeff_plugin_api::config::{Config, ConfigError};

use super::VisionError;
use super::fields::Fields;
use crate::checkpoint::Checkpoint;
use crate::text::Tokenizer;

/// What a user writes where an image is, whatever the model's token is.
pub const PLACE: &str = "<image>";

/// The tokens of a checkpoint that stand for images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// The token of a row.
    token: String,
    /// Its id.
    id: u32,
    /// What stands before and after the rows of an image.
    around: [String; 2],
}

/// The id of the token in whose place rows of images stand, as config.json says it.
///
/// # Errors
/// If it does not.
pub fn image_token(checkpoint: &Checkpoint) -> anyhow::Result<u32> {
    let config = &checkpoint.config;
    // LLaVA has both names for it; InternVL knows the second only, and whatever the first says.
    let names = ["image_token_index", "image_token_id"];
    let names = if is_internvl(config)? { &names[1..] } else { &names[..] };
    let mut id = None;
    for name in names {
        id = id.or(config.opt_u64(name)?);
    }
    id.and_then(|id| u32::try_from(id).ok())
        .ok_or_else(|| config.unsupported("image_token_index", "the id of the image token").into())
}

fn is_internvl(config: &Config) -> Result<bool, ConfigError> {
    Ok(config.opt_text("model_type")?.as_deref() == Some("internvl"))
}

impl Marks {
    /// Reads the tokens of a checkpoint.
    ///
    /// # Errors
    /// If config.json names no token, or one that the vocabulary does not have.
    pub(super) fn open(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> anyhow::Result<Self> {
        let id = image_token(checkpoint)?;
        let Some(token) = tokenizer.id_to_token(id) else {
            let file = checkpoint.dir.join("config.json");
            let expected = "the id of a token that the vocabulary has";
            return Err(VisionError::field(&file, "image_token_index", expected, id).into());
        };
        let around = if is_internvl(&checkpoint.config)? {
            let file = Fields::open(&checkpoint.dir.join("tokenizer_config.json"))?;
            let named = |key: &str, default: &str| -> Result<String, VisionError> {
                let Some(file) = &file else { return Ok(default.to_owned()) };
                let text = match file.within("extra_special_tokens") {
                    Ok(Some(extra)) => extra.text(key)?,
                    // A list of tokens without names, or nothing.
                    _ => None,
                };
                Ok(match text {
                    None => file.text(key)?.unwrap_or_else(|| default.to_owned()),
                    Some(text) => text,
                })
            };
            [named("start_image_token", "<img>")?, named("end_image_token", "</img>")?]
        } else {
            [String::new(), String::new()]
        };
        Ok(Marks { token, id, around })
    }

    /// The token of a row, as written.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// How many places for images a text has.
    pub fn places(&self, text: &str) -> usize {
        self.split(text).len() - 1
    }

    /// The text between places.
    pub fn split<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut parts = vec![];
        let mut rest = text;
        while let Some((at, length)) = self.next(rest) {
            parts.push(&rest[..at]);
            rest = &rest[at + length..];
        }
        parts.push(rest);
        parts
    }

    /// The first place of a text, and its length.
    fn next(&self, text: &str) -> Option<(usize, usize)> {
        let found = [PLACE, self.token.as_str()].into_iter().filter_map(|mark| Some((text.find(mark)?, mark.len())));
        found.min()
    }

    /// The text with what stands for images of so many rows in its places.
    ///
    /// # Errors
    /// If there are more or fewer places than images.
    pub fn expand(&self, text: &str, rows: &[usize]) -> Result<String, VisionError> {
        let parts = self.split(text);
        if parts.len() - 1 != rows.len() {
            return Err(miscounted(parts.len() - 1, rows.len()));
        }
        let mut out = parts[0].to_owned();
        for (part, &rows) in parts[1..].iter().zip(rows) {
            out.push_str(&self.around[0]);
            out.push_str(&self.token.repeat(rows));
            out.push_str(&self.around[1]);
            out.push_str(part);
        }
        Ok(out)
    }

    /// Checks that a prompt has an image token for each row.
    ///
    /// # Errors
    /// If it has not.
    pub fn check(&self, ids: &[u32], rows: &[usize]) -> Result<(), VisionError> {
        let tokens = ids.iter().filter(|&&id| id == self.id).count();
        let rows = rows.iter().sum();
        if tokens == rows {
            return Ok(());
        }
        let hint = "the tokenizer does not make one id of the image token: fetch tokenizer.json and tokenizer_config.json again";
        Err(VisionError::Rows { tokens, token: self.id, rows, hint })
    }
}

/// Ids with image tokens for images of so many rows. Ids that have a token for each row stay as they are, those with one for
/// each image have it repeated, and those without any get all of them at the beginning.
///
/// # Errors
/// If there are as many as neither images nor rows.
pub fn expand_ids(ids: &[u32], token: u32, rows: &[usize]) -> Result<Vec<u32>, VisionError> {
    let tokens = ids.iter().filter(|&&id| id == token).count();
    let all: usize = rows.iter().sum();
    if tokens == all {
        return Ok(ids.to_vec());
    }
    if tokens == 0 {
        return Ok(std::iter::repeat_n(token, all).chain(ids.iter().copied()).collect());
    }
    if tokens != rows.len() {
        let hint = "give one id for each row, or for each image, or none";
        return Err(VisionError::Rows { tokens, token, rows: all, hint });
    }
    let mut rows = rows.iter();
    let repeated = |&id: &u32| {
        let times = if id == token { rows.next().copied().unwrap_or(0) } else { 1 };
        std::iter::repeat_n(id, times)
    };
    Ok(ids.iter().flat_map(repeated).collect())
}

/// The error of a prompt with more or fewer places than there are images.
pub fn miscounted(places: usize, images: usize) -> VisionError {
    let places = if places == 1 { "1 place".into() } else { format!("{places} places") };
    let images = if images == 1 { "1 image is".into() } else { format!("{images} images are") };
    VisionError::Count { places, images, mark: PLACE.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Marks {
        Marks { token: "<ctx>".into(), id: 7, around: ["[".into(), "]".into()] }
    }

    #[test]
    fn places_are_marked_in_two_ways() {
        let text = "a<image>b<ctx><image>";
        assert_eq!(marks().places(text), 3);
        assert_eq!(marks().split(text), ["a", "b", "", ""]);
        assert_eq!(marks().expand(text, &[1, 2, 0]).unwrap(), "a[<ctx>]b[<ctx><ctx>][]");
        assert_eq!(marks().places("<imag>"), 0);
    }

    #[test]
    fn a_miscount_is_an_error() {
        let error = marks().expand("one <image>", &[3, 3]).unwrap_err().to_string();
        assert_eq!(
            error,
            "the prompt has 1 place for images, and 2 images are given with --image: put `<image>` once for each image, or \
             leave it out altogether"
        );
        assert!(marks().check(&[7, 1, 7], &[2]).is_ok());
        assert!(marks().check(&[7, 1], &[2]).unwrap_err().to_string().contains("1 image tokens (id 7)"));
    }

    #[test]
    fn ids_have_a_token_for_each_row_or_image_or_none() {
        assert_eq!(expand_ids(&[1, 7, 2, 7], 7, &[2, 3]).unwrap(), [1, 7, 7, 2, 7, 7, 7]);
        assert_eq!(expand_ids(&[1, 7, 7, 7], 7, &[2, 1]).unwrap(), [1, 7, 7, 7]);
        assert_eq!(expand_ids(&[1], 7, &[2]).unwrap(), [7, 7, 1]);
        assert_eq!(expand_ids(&[1], 7, &[]).unwrap(), [1]);
        assert!(expand_ids(&[1, 7], 7, &[2, 3]).is_err());
    }
}
