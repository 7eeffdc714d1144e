//! A recording of any length, window by window.

use anyhow::{Result, bail};

use super::listen::{Fallback, PassOptions, attempt};
use super::prompt::{Prompt, Wish, likeliest_language};
use super::segments::{Segment, split};
use super::settings::Settings;
use super::{Attempt, Decoder};
use crate::audio::{Features, LogMel, Waveform};

/// How a recording is transcribed.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Language, task, timestamps. A recording longer than a window has timestamps, wished for or not: they say where the next
    /// window begins.
    pub wish: Wish,
    /// Tokens of a text that goes before, for names and style.
    pub before: Vec<u32>,
    /// Whether what was said in earlier windows goes before, too.
    pub condition: bool,
    /// What happens to passes that went wrong.
    pub fallback: Fallback,
    /// Most tokens of a window; `None` is what the checkpoint says.
    pub max_new_tokens: Option<usize>,
    /// Seed of what is drawn.
    pub seed: u64,
}

/// What was said.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// The code of the language, if the model has language tokens.
    pub language: Option<String>,
    /// Segments in order, each with what became of its window.
    pub segments: Vec<(Segment, Window)>,
    /// Number of windows.
    pub windows: usize,
}

/// What became of the window of a segment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Temperature of the pass.
    pub temperature: f32,
    /// Mean of the logarithms of the chosen ids' probabilities.
    pub mean_log_probability: f64,
    /// How well the ids compress.
    pub compression: f64,
    /// How likely it is that nobody speaks.
    pub no_speech: f64,
}

impl From<&Attempt> for Window {
    fn from(attempt: &Attempt) -> Self {
        Window {
            temperature: attempt.temperature,
            mean_log_probability: attempt.pass.mean_log_probability,
            compression: attempt.compression,
            no_speech: attempt.pass.no_speech,
        }
    }
}

/// Refuses an extractor that makes other windows than the model takes.
///
/// # Errors
/// If bands or frames differ.
pub fn check_windows(extractor: &LogMel, settings: &Settings) -> Result<()> {
    if extractor.window_frames() != settings.frames {
        bail!(
            "preprocessor_config.json makes windows of {} frames (`chunk_length`, `hop_length`); expected {}, two for each of the \
             `max_source_positions` of config.json",
            extractor.window_frames(),
            settings.frames
        );
    }
    if extractor.mels() != settings.mels {
        bail!(
            "preprocessor_config.json makes {} mel bands (`feature_size`); expected {}, the `num_mel_bins` of config.json",
            extractor.mels(),
            settings.mels
        );
    }
    Ok(())
}

/// Features of a recording: one window if it fits into one, else those of all of it.
pub fn features(extractor: &LogMel, waveform: &Waveform) -> Features {
    if waveform.samples.len() <= extractor.samples {
        extractor.first_window(&waveform.samples)
    } else {
        extractor.features(&waveform.samples)
    }
}

/// Transcribes features of any length; `progress` is told of frames done.
///
/// # Errors
/// If the decoder fails, or the model cannot do what is wished.
pub fn transcribe(
    decoder: &mut dyn Decoder,
    settings: &Settings,
    features: &Features,
    options: &Options,
    progress: &mut dyn FnMut(usize),
) -> Result<Transcript> {
    let timestamps = options.wish.timestamps || features.frames > settings.frames;
    let prompt = Prompt::new(settings, &Wish { timestamps, ..options.wish.clone() })?;
    let first = settings.first_timestamp();
    let mut said = Said { before: &options.before, segments: vec![], settings };
    let mut transcript = Transcript { language: None, segments: vec![], windows: 0 };
    let mut beginning = prompt.tokens(None);
    let mut conditioned = options.condition;
    let mut seek = 0;
    while seek < features.frames {
        progress(seek);
        decoder.listen(&features.window(seek, settings.frames))?;
        if transcript.windows == 0 {
            if prompt.asks_for_language() {
                let rows = decoder.step(&[settings.start], 0)?;
                beginning = prompt.tokens(likeliest_language(settings, rows.row(0)));
            }
            let spoken = beginning.iter().find_map(|id| settings.languages.iter().find(|(_, known)| *known == id));
            transcript.language = spoken.map(|(code, _)| code.clone());
        }
        let frames = (features.frames - seek).min(settings.frames);
        let tokens = [said.context(conditioned), beginning.clone()].concat();
        let room = settings.max_length.saturating_sub(tokens.len());
        if room == 0 {
            bail!(
                "{} tokens go before the transcript, and it may have {} in all: give a shorter text",
                tokens.len(),
                settings.max_length
            );
        }
        let pass = PassOptions {
            timestamps,
            max_new_tokens: options.max_new_tokens.or(settings.max_new).unwrap_or(room).min(room),
            ignore_eos: false,
            keep_logits: false,
            temperature: 0.0,
            seed: options.seed.wrapping_add((transcript.windows as u64) << 8),
        };
        let tried = attempt(decoder, settings, &tokens, beginning.len(), &pass, &options.fallback)?;
        transcript.windows += 1;
        if tried.silent {
            seek += frames;
            continue;
        }
        conditioned = options.condition && tried.temperature < 0.5;
        let ids = match tried.pass.ids.split_last() {
            Some((last, rest)) if settings.eos.contains(last) => rest,
            _ => &tried.pass.ids,
        };
        let (segments, on) = split(ids, first, seek, frames);
        said.segments.extend(segments.iter().map(|segment| segment.tokens.clone()));
        transcript.segments.extend(segments.into_iter().map(|segment| (segment, Window::from(&tried))));
        seek += on;
    }
    progress(features.frames);
    Ok(transcript)
}

/// What goes before a window: the text that was given, and what was said.
struct Said<'a> {
    before: &'a [u32],
    segments: Vec<Vec<u32>>,
    settings: &'a Settings,
}

impl Said<'_> {
    /// The tokens before the next window: the given text, and what was said if that can be relied on.
    fn context(&self, conditioned: bool) -> Vec<u32> {
        let mut tokens = self.before.to_vec();
        if conditioned {
            tokens.extend(self.segments.iter().flat_map(|tokens| self.without_repetition(tokens)));
            let most = (self.settings.positions / 2).saturating_sub(1);
            tokens.drain(..tokens.len().saturating_sub(most));
        }
        if tokens.is_empty() && (!conditioned || self.segments.is_empty()) {
            return vec![];
        }
        self.settings.previous.into_iter().chain(tokens).collect()
    }

    /// Of the two timestamps at the end of a window, one is said again by the next.
    fn without_repetition<'t>(&self, tokens: &'t [u32]) -> &'t [u32] {
        match tokens {
            [rest @ .., before, _] if !rest.is_empty() && *before >= self.settings.first_timestamp() => {
                &tokens[..tokens.len() - 1]
            }
            all => all,
        }
    }
}
