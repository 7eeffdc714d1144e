//! Recordings: wav (whole numbers, floats, A-law, µ-law), flac and mp3.
//!
//! Channels are averaged and the result is brought to the rate that is asked for, packet by packet: memory is that of the
//! result, whatever a file says of itself, and the result has a limit. A packet that does not decode is an error: words that
//! were left out are not seen in a transcript.

use std::path::{Path, PathBuf};

use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::common::Limit;
use symphonia::core::errors::Error;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

use super::resample::Resampler;
use super::{AudioError, Waveform};

/// Rates that recorders have, with room on both sides.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Most bytes of a picture or a comment in a file, none of which is looked at.
const MAX_TAG: usize = 64 << 10;

/// How much sound is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most seconds; a longer recording is an error.
    pub seconds: u32,
}

impl Default for Limits {
    /// Four hours: most of a gigabyte at the rate of speech models.
    fn default() -> Self {
        Limits { seconds: 4 * 3600 }
    }
}

/// The sound of a file as one channel of `rate` samples a second.
///
/// # Errors
/// If the file is no recording, damaged, empty, or longer than `limits`.
pub fn read(path: &Path, rate: u32, limits: Limits) -> Result<Waveform, AudioError> {
    let mut recording = Recording::open(path)?;
    let mut resampler = Resampler::new(recording.rate, rate)?;
    let most = limits.seconds as usize * rate as usize;
    let (mut mono, mut samples) = (vec![], vec![]);
    while recording.next(&mut mono)? {
        resampler.push(&mono, &mut samples)?;
        if samples.len() > most {
            return Err(AudioError::TooLong { path: path.to_owned(), most: limits.seconds });
        }
    }
    resampler.finish(&mut samples)?;
    if samples.is_empty() {
        return Err(AudioError::Empty { path: path.to_owned() });
    }
    Ok(Waveform { samples, rate })
}

/// A file while it is decoded.
struct Recording {
    path: PathBuf,
    reader: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    /// Whether the file says how long it is; what a pipe wrote does not.
    bounded: bool,
    rate: u32,
    /// Samples of each channel so far.
    frames: u64,
    interleaved: Vec<f32>,
}

impl Recording {
    fn open(path: &Path) -> Result<Self, AudioError> {
        let unreadable = |source| AudioError::Read { path: path.to_owned(), source };
        let unknown = |found: &str| AudioError::Unknown { path: path.to_owned(), found: found.to_owned() };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if meta.is_dir() {
            return Err(unknown("a folder"));
        }
        if meta.is_file() && meta.len() == 0 {
            return Err(unknown("an empty file"));
        }
        let stream = MediaSourceStream::new(Box::new(file), Default::default());
        let limit = Limit::Maximum(MAX_TAG);
        let tags = MetadataOptions::default().limit_tag_bytes(limit).limit_visual_bytes(limit);
        let probe = symphonia::default::get_probe();
        let reader =
            probe.probe(&Hint::new(), stream, FormatOptions::default(), tags).map_err(|error| match error {
                // The format was found, and something in it that we do not read.
                Error::Unsupported(what) if !what.starts_with("core") => unknown(what),
                Error::DecodeError(why) => AudioError::Damaged { path: path.to_owned(), seconds: 0.0, why: why.into() },
                error if is_end(&error) => unknown("something else"),
                Error::IoError(source) => unreadable(source),
                _ => unknown("something else"),
            })?;
        let track = reader.default_track(TrackType::Audio).ok_or_else(|| unknown("no sound"))?;
        let params =
            track.codec_params.as_ref().and_then(|params| params.audio()).ok_or_else(|| unknown("no sound"))?;
        let rate = params.sample_rate.unwrap_or(0);
        if !RATES.contains(&rate) {
            let (least, most) = (*RATES.start(), *RATES.end());
            return Err(AudioError::Rate { path: path.to_owned(), found: rate, least, most });
        }
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(params, &AudioDecoderOptions::default())
            .map_err(|_| unknown("sound in an encoding that is not read here"))?;
        let (track, bounded) = (track.id, track.num_frames.is_some());
        Ok(Recording { path: path.to_owned(), reader, decoder, track, bounded, rate, frames: 0, interleaved: vec![] })
    }

    /// The next stretch of sound, its channels averaged; false at the end.
    fn next(&mut self, mono: &mut Vec<f32>) -> Result<bool, AudioError> {
        loop {
            let packet = match self.reader.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(false),
                Err(error) if !self.bounded && is_end(&error) => return Ok(false),
                Err(error) => return Err(self.damaged(&error)),
            };
            if packet.track_id != self.track {
                continue;
            }
            let decoded = match self.decoder.decode(&packet) {
                Ok(decoded) => decoded,
                Err(error) => return Err(self.damaged(&error)),
            };
            if decoded.spec().rate() != self.rate {
                let why = format!("its rate changes from {} to {}", self.rate, decoded.spec().rate());
                return Err(AudioError::Damaged { path: self.path.clone(), seconds: self.seconds(), why });
            }
            let channels = decoded.spec().channels().count().max(1);
            decoded.copy_to_vec_interleaved(&mut self.interleaved);
            mono.clear();
            mono.extend(
                self.interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32),
            );
            if !mono.iter().all(|sample| sample.is_finite()) {
                let why = "a sample is no finite number".to_owned();
                return Err(AudioError::Damaged { path: self.path.clone(), seconds: self.seconds(), why });
            }
            self.frames += mono.len() as u64;
            return Ok(true);
        }
    }

    fn seconds(&self) -> f64 {
        self.frames as f64 / f64::from(self.rate)
    }

    fn damaged(&self, error: &Error) -> AudioError {
        let why = if is_end(error) { "it ends before its header says".to_owned() } else { error.to_string() };
        AudioError::Damaged { path: self.path.clone(), seconds: self.seconds(), why }
    }
}

fn is_end(error: &Error) -> bool {
    matches!(error, Error::IoError(source) if source.kind() == std::io::ErrorKind::UnexpectedEof)
}
