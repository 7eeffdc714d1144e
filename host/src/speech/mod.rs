//! Speech: from what a model hears to text.
//!
//! | module | holds |
//! |---|---|
//! | [`settings`] | generation_config.json of a Whisper checkpoint |
//! | [`prompt`] | the tokens that say what is spoken and what is wanted |
//! | `rules` | which tokens may follow, timestamps above all |
//! | [`listen`] | one window of sound: a pass, and further ones if the first went wrong |
//! | [`mod@transcribe`] | a recording of any length, window by window |
//! | `segments` | the stretches of a window's tokens between timestamps |
//! | [`called`] | a [`Decoder`] over a program that retains what it heard |
//! | [`cpu`] | a [`Decoder`] over CPU programs |
//! | [`ctc`] | frames of a CTC model into text |
//! | [`subtitles`] | segments as text, srt or vtt |
//!
//! What is computed is what Hugging Face's `generate` computes for Whisper, draws of random numbers aside. This module knows
//! features, tokens and scores; a [`Decoder`] is all it sees of a runtime.

pub mod called;
pub mod cpu;
pub mod ctc;
mod languages;
pub mod listen;
pub mod prompt;
mod rules;
mod segments;
pub mod settings;
pub mod subtitles;
pub mod transcribe;

use anyhow::Result;

use crate::audio::Features;
use crate::runtime::Logits;

pub use listen::{Attempt, Pass};
pub use prompt::{Language, SpeechTask};
pub use segments::Segment;
pub use settings::Settings;
pub use transcribe::{Transcript, transcribe};

/// An encoder-decoder that listens to one window of sound at a time.
pub trait Decoder {
    /// Takes a window; what is decoded from now on is about it.
    ///
    /// # Errors
    /// If the window has another size than the model takes, or the runtime fails.
    fn listen(&mut self, window: &Features) -> Result<()>;

    /// Writes `tokens` from `position` on, after those that stand before it, and scores what may follow each of them: one row a
    /// token.
    ///
    /// # Errors
    /// If the runtime fails.
    fn step(&mut self, tokens: &[u32], position: usize) -> Result<Logits>;
}
