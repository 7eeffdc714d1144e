//! What a checkpoint wants done to a waveform: preprocessor_config.json.
//!
//! Newer checkpoints keep the same fields as `feature_extractor` of processor_config.json.

use std::path::{Path, PathBuf};

use fs_err as fs;
use qeff_plugin_api::config::{Config, ConfigError};

use super::mel::{LogMel, Sizes};
use super::{AudioError, Waveform};

/// Largest file that is read: old ones list their mel filters, which is 400 kilobytes.
const MAX_FILE: u64 = 16 << 20;

/// Sizes past these are nobody's: a frame of a second, a window of an hour.
const MAX_FFT: u64 = 1 << 16;
const MAX_MELS: u64 = 1 << 12;
const MAX_SECONDS: f32 = 3600.0;
/// Most numbers for a second of sound, ten times what Whisper takes.
const MAX_FEATURES: usize = 1 << 17;

/// A feature extractor.
#[derive(Clone)]
pub enum Extractor {
    /// Log-mel features (Whisper).
    LogMel(LogMel),
    /// The samples themselves (wav2vec2).
    Samples(Samples),
}

/// How samples are prepared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Samples {
    /// Samples a second.
    pub rate: u32,
    /// Whether they are brought to mean 0 and variance 1.
    pub normalise: bool,
}

impl Samples {
    /// The samples as the model takes them.
    pub fn prepare(&self, waveform: &Waveform) -> Vec<f32> {
        let samples = &waveform.samples;
        if !self.normalise || samples.is_empty() {
            return samples.clone();
        }
        let count = samples.len() as f64;
        let mean = samples.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let variance = samples.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        let scale = (variance + 1e-7).sqrt();
        samples.iter().map(|&x| ((f64::from(x) - mean) / scale) as f32).collect()
    }
}

impl Extractor {
    /// Samples a second that it takes.
    pub fn rate(&self) -> u32 {
        match self {
            Extractor::LogMel(log_mel) => log_mel.rate,
            Extractor::Samples(samples) => samples.rate,
        }
    }

    /// The extractor of the checkpoint in folder `dir`.
    ///
    /// # Errors
    /// If there is none, or it asks for what is not there.
    pub fn open(dir: &Path) -> Result<Self, AudioError> {
        let file = dir.join("preprocessor_config.json");
        if let Some(text) = text(&file)? {
            let config = Config::parse(&text).map_err(|error| of_file(&file, error))?;
            return Self::read(&config).map_err(|error| of_file(&file, error));
        }
        let file = dir.join("processor_config.json");
        let Some(text) = text(&file)? else { return Err(AudioError::NoExtractor { dir: dir.to_owned() }) };
        let read =
            || Config::parse(&text)?.opt_object("feature_extractor")?.map(|config| Self::read(&config)).transpose();
        read().map_err(|error| of_file(&file, error))?.ok_or_else(|| AudioError::NoExtractor { dir: dir.to_owned() })
    }

    fn read(config: &Config) -> Result<Self, ConfigError> {
        const KINDS: &str = "WhisperFeatureExtractor or Wav2Vec2FeatureExtractor";
        config.refuse_unless("padding_side", &"right".into())?;
        match config.opt_text("feature_extractor_type")?.as_deref() {
            Some("WhisperFeatureExtractor") => log_mel(config).map(Extractor::LogMel),
            Some("Wav2Vec2FeatureExtractor") => samples(config).map(Extractor::Samples),
            _ => Err(config.unsupported("feature_extractor_type", KINDS)),
        }
    }
}

fn rate(config: &Config) -> Result<u32, ConfigError> {
    let rate = config.count_or("sampling_rate", 16_000)?;
    u32::try_from(rate)
        .ok()
        .filter(|rate| (1_000..=192_000).contains(rate))
        .ok_or_else(|| config.unsupported("sampling_rate", "a rate from 1000 to 192000"))
}

/// A whole number from 1 to `most`, or `default` if absent.
fn size(config: &Config, key: &str, default: u64, most: u64) -> Result<usize, ConfigError> {
    let size = config.count_or(key, default)?;
    if size > most {
        return Err(config.unsupported(key, format!("a whole number from 1 to {most}")));
    }
    Ok(size as usize)
}

/// transformers makes the mel filters anew whatever the file lists, and computes `n_samples` and `nb_max_frames` from the other
/// fields; `do_normalize` and `return_attention_mask` of the file change nothing for this extractor.
fn log_mel(config: &Config) -> Result<LogMel, ConfigError> {
    if config.f32_or("dither", 0.0)? != 0.0 {
        return Err(config.unsupported("dither", "0: dither is noise, and no two runs would agree"));
    }
    let rate = rate(config)?;
    let seconds = config.positive_or("chunk_length", 30.0)?;
    if seconds > MAX_SECONDS {
        return Err(config.unsupported("chunk_length", format!("a number of seconds up to {MAX_SECONDS}")));
    }
    let fft = size(config, "n_fft", 400, MAX_FFT)?;
    let samples = (f64::from(seconds) * f64::from(rate)).round() as usize;
    let hop = size(config, "hop_length", 160, MAX_FFT)?;
    if samples <= fft / 2 || samples < hop {
        return Err(
            config.unsupported("chunk_length", format!("more seconds than half a frame of {fft} samples lasts"))
        );
    }
    let padding = config.f32_or("padding_value", 0.0)?;
    let mels = size(config, "feature_size", 80, MAX_MELS)?;
    if mels * rate as usize / hop > MAX_FEATURES {
        return Err(config.unsupported(
            "hop_length",
            format!("frames of {mels} mels that make {MAX_FEATURES} numbers a second or fewer"),
        ));
    }
    Ok(LogMel::new(Sizes { rate, mels, fft, hop, samples, padding }))
}

/// A recording is prepared by itself, so nothing is padded, and the attention mask that `return_attention_mask` asks for would
/// have no zeros.
fn samples(config: &Config) -> Result<Samples, ConfigError> {
    config.refuse_unless("feature_size", &1.into())?;
    Ok(Samples { rate: rate(config)?, normalise: config.flag_or("do_normalize", true)? })
}

fn of_file(file: &Path, ConfigError { field, expected, found }: ConfigError) -> AudioError {
    AudioError::Field { file: PathBuf::from(file), field, expected, found }
}

/// The text of a file, `None` if there is no such file.
fn text(file: &Path) -> Result<Option<String>, AudioError> {
    let unreadable = |source| AudioError::Read { path: file.to_owned(), source };
    match fs::metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        Ok(meta) if meta.len() > MAX_FILE => {
            let (expected, found) = (format!("at most {MAX_FILE} bytes"), format!("{} bytes", meta.len()));
            return Err(AudioError::Field { file: file.to_owned(), field: String::new(), expected, found });
        }
        Ok(_) => {}
    }
    fs::read_to_string(file).map(Some).map_err(unreadable)
}
