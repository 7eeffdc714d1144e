//! What can be wrong with a recording, and with the file that says how to prepare one.

use std::path::PathBuf;

/// Why a recording did not become a model's input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AudioError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is something else, or in a format that is not read here.
    #[error("{} is no recording that can be read here: expected wav, flac or mp3, found {found}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        found: String,
    },
    /// The file breaks off, or does not decode.
    #[error("{} is damaged after {seconds:.2} s: {why}; expected a whole wav, flac or mp3 file", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How much of it was read, in seconds.
        seconds: f64,
        /// What is wrong there.
        why: String,
    },
    /// There is no sound in it.
    #[error("{} holds no samples: expected a recording that lasts some time", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It lasts longer than anybody can mean.
    #[error("{} lasts longer than {most} s, the most that is read at once: cut it into parts", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit in seconds.
        most: u32,
    },
    /// Its rate is one that no recorder has.
    #[error("{} has {found} samples a second; expected {least} to {most}", path.display())]
    Rate {
        /// The file.
        path: PathBuf,
        /// Its rate.
        found: u32,
        /// The lowest that is read.
        least: u32,
        /// The highest.
        most: u32,
    },
    /// Samples could not be brought to another rate.
    #[error("cannot resample from {from} to {to} samples a second: {why}")]
    Resample {
        /// The rate of the file.
        from: u32,
        /// The rate of the model.
        to: u32,
        /// What the library said.
        why: String,
    },
    /// The checkpoint does not say how it wants audio.
    #[error(
        "{} has no preprocessor_config.json (nor a processor_config.json with `feature_extractor`), so it is unknown how it \
         takes audio: copy the file from where the checkpoint comes from",
        dir.display()
    )]
    NoExtractor {
        /// The checkpoint.
        dir: PathBuf,
    },
    /// A file that says how to prepare audio is malformed, or wants what is not there.
    #[error("{}: {}expected {expected}, found {found}", file.display(), of_field(field))]
    Field {
        /// The file.
        file: PathBuf,
        /// The field, empty for the whole file.
        field: String,
        /// What would have been accepted.
        expected: String,
        /// What stands there.
        found: String,
    },
}

fn of_field(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("`{field}`: ") }
}
