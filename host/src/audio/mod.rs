//! Audio: from a recording of a stranger's to the numbers that a speech model takes.
//!
//! | module | what it turns into what |
//! |---|---|
//! | [`decode`] | a wav, flac or mp3 file into a [`Waveform`] at the model's rate |
//! | `resample` | samples at one rate into samples at another |
//! | [`extractor`] | preprocessor_config.json into an [`Extractor`]: what the checkpoint wants done to a waveform |
//! | [`mel`] | a waveform into log-mel [`Features`] |
//!
//! The extractors compute what Hugging Face's do. This module knows files and samples; it does not know models, tokens or
//! what is said in a recording (`speech`).

pub mod decode;
mod error;
pub mod extractor;
pub mod mel;
mod resample;

pub use decode::{Limits, read};
pub use error::AudioError;
pub use extractor::Extractor;
pub use mel::{Features, LogMel};

/// One channel of sound.
#[derive(Debug, Clone, PartialEq)]
pub struct Waveform {
    /// Samples; what a file calls full scale is 1.
    pub samples: Vec<f32>,
    /// Samples a second.
    pub rate: u32,
}

impl Waveform {
    /// How long it lasts, in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.rate.max(1))
    }
}
