//! One window of sound: a pass over it, and passes at higher temperatures if the first went wrong.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::Decoder;
use super::rules::{Rules, log_sum_exp};
use super::settings::Settings;
use crate::generate::{Finish, Sampler, Sampling};

/// How a pass is made.
#[derive(Debug, Clone, PartialEq)]
pub struct PassOptions {
    /// Whether there are timestamps.
    pub timestamps: bool,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Whether an end is not taken for one.
    pub ignore_eos: bool,
    /// Whether to keep the raw logits of every step.
    pub keep_logits: bool,
    /// 0 is greedy.
    pub temperature: f32,
    /// Seed of what is drawn.
    pub seed: u64,
}

/// What a pass made.
#[derive(Debug, Clone)]
pub struct Pass {
    /// Generated ids, the ending one included.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Raw logits, one row for each id, if they were kept.
    pub logits: Vec<Vec<f32>>,
    /// Mean of the logarithms of the chosen ids' probabilities, among what the rules allowed.
    pub mean_log_probability: f64,
    /// How likely it is that nobody speaks.
    pub no_speech: f64,
}

/// One pass: `prompt`, whose last `beginning` tokens are those of the transcript itself, and then what follows.
///
/// # Errors
/// If the decoder fails, or no token has a score.
pub fn pass(
    decoder: &mut dyn Decoder,
    settings: &Settings,
    prompt: &[u32],
    beginning: usize,
    options: &PassOptions,
) -> Result<Pass> {
    let rules = Rules { settings, timestamps: options.timestamps };
    let sampling = Sampling { temperature: options.temperature, seed: options.seed, ..Sampling::default() };
    let mut sampler = Sampler::new(&sampling)?;
    let mut rows = decoder.step(prompt, 0)?;
    let Some(start) = prompt.len().checked_sub(beginning).filter(|_| rows.rows() == prompt.len() && beginning > 0)
    else {
        bail!("the model scored {} tokens of {}", rows.rows(), prompt.len());
    };
    let no_speech = settings.no_speech().map_or(0.0, |id| log_probability(rows.row(start), id).exp());
    let mut done = Pass { ids: vec![], finish: Finish::Length, logits: vec![], mean_log_probability: 0.0, no_speech };
    let mut sum = 0.0;
    while done.ids.len() < options.max_new_tokens {
        if let Some(&last) = done.ids.last() {
            rows = decoder.step(&[last], prompt.len() + done.ids.len() - 1)?;
        }
        let raw = rows.row(rows.rows().checked_sub(1).context("the model scored nothing")?);
        let mut scores = raw.to_vec();
        rules.apply(&mut scores, &done.ids);
        let id = sampler.pick(&scores, &[])?;
        sum += log_probability(&scores, id);
        done.ids.push(id);
        if options.keep_logits {
            done.logits.push(raw.to_vec());
        }
        if settings.eos.contains(&id) && !options.ignore_eos {
            done.finish = Finish::Eos;
            break;
        }
    }
    done.mean_log_probability = sum / done.ids.len().max(1) as f64;
    Ok(done)
}

fn log_probability(scores: &[f32], id: u32) -> f64 {
    let score = scores.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
    f64::from(score) - log_sum_exp(scores)
}

/// When a pass went wrong, and what then.
#[derive(Debug, Clone, PartialEq)]
pub struct Fallback {
    /// Temperatures, each tried if what came before went wrong; at least one.
    pub temperatures: Vec<f32>,
    /// A pass whose ids compress better than this repeats itself.
    pub compression: Option<f64>,
    /// A pass less likely than this is guessing.
    pub log_probability: Option<f64>,
    /// A window where this is exceeded, and the pass is guessing, is silent.
    pub no_speech: Option<f64>,
}

impl Fallback {
    /// One greedy pass, whatever comes of it.
    pub fn none() -> Self {
        Fallback { temperatures: vec![0.0], compression: None, log_probability: None, no_speech: None }
    }
}

impl Default for Fallback {
    /// The values that transformers' documentation gives for Whisper.
    fn default() -> Self {
        Fallback {
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            compression: Some(1.35),
            log_probability: Some(-1.0),
            no_speech: Some(0.6),
        }
    }
}

/// What became of a window.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The last pass.
    pub pass: Pass,
    /// Its temperature.
    pub temperature: f32,
    /// How well its ids compress.
    pub compression: f64,
    /// Whether nobody speaks.
    pub silent: bool,
}

/// Passes over the window that `decoder` listens to, until one is good or there is no temperature left.
///
/// # Errors
/// See [`pass`].
pub fn attempt(
    decoder: &mut dyn Decoder,
    settings: &Settings,
    prompt: &[u32],
    beginning: usize,
    options: &PassOptions,
    fallback: &Fallback,
) -> Result<Attempt> {
    let mut last = None;
    for (i, &temperature) in fallback.temperatures.iter().enumerate() {
        let seed = options.seed.wrapping_add(i as u64);
        let pass = pass(decoder, settings, prompt, beginning, &PassOptions { temperature, seed, ..options.clone() })?;
        let compression = compression_ratio(&pass.ids, settings.vocab)?;
        let repeats = fallback.compression.is_some_and(|most| compression > most);
        let guesses = fallback.log_probability.is_some_and(|least| pass.mean_log_probability < least);
        let silent = guesses && fallback.no_speech.is_some_and(|most| pass.no_speech > most);
        last = Some(Attempt { pass, temperature, compression, silent });
        if silent || !(repeats || guesses) {
            break;
        }
    }
    last.context("no temperature was given")
}

/// Bytes of ids, each in as many as the vocabulary takes, by their bytes once compressed.
fn compression_ratio(ids: &[u32], vocab: usize) -> Result<f64> {
    let width = (vocab.max(2).ilog2() / 8) as usize + 1;
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(width)).collect();
    let mut encoder = ZlibEncoder::new(vec![], Compression::new(6));
    encoder.write_all(&bytes)?;
    Ok(bytes.len() as f64 / encoder.finish()?.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_itself_compresses() {
        let repeated = vec![7u32; 100];
        let varied: Vec<u32> = (0..100).map(|i| i * 7919 % 50_000).collect();
        // Ids of two bytes each, as many as a vocabulary of fifty thousand takes.
        assert!(compression_ratio(&repeated, 51_865).unwrap() > 10.0);
        assert!(compression_ratio(&varied, 51_865).unwrap() < 1.1);
        assert!(compression_ratio(&[], 51_865).unwrap() == 0.0);
    }
}
