//! Text: from words to token ids and back.
//!
//! A checkpoint was trained with one exact way of cutting text. A single id that differs from the reference changes
//! every logit after it, so this side of the host follows Hugging Face transformers to the letter, and where a file is
//! malformed it refuses instead of guessing.
//!
//! | module | what it turns into what |
//! |---|---|
//! | [`tokenizer`] | a checkpoint's tokenizer files into a [`Tokenizer`]: text ⇄ ids |
//! | `framed` | a text or a pair of texts into what an encoder takes |
//! | [`chat`] | a conversation into the text of a prompt |
//! | [`stream`] | ids that arrive one by one into text that is safe to show, up to a stop string |
//!
//! This module knows files, strings and ids. It does not know graphs, logits or how ids are chosen
//! (`generate::sampler`).

mod charsmap;
pub mod chat;
mod config;
mod error;
mod framed;
mod gguf;
mod sentencepiece;
pub mod stream;
pub mod tokenizer;

pub use chat::{ChatTemplate, Content, Message};
pub use error::TextError;
pub use framed::Framed;
pub use stream::{StopStrings, TextStream};
pub use tokenizer::Tokenizer;

/// A text, or two texts that belong together (a question and an answer, say).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pair {
    /// The text, or the first of two.
    pub first: String,
    /// The second text.
    pub second: Option<String>,
}

impl From<&str> for Pair {
    fn from(text: &str) -> Self {
        Pair { first: text.to_owned(), second: None }
    }
}
