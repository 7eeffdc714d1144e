//! The call log: one JSON object a line, from tools and library alike.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use serde_json::Value as Json;

/// A log that several processes may append to.
#[derive(Debug)]
pub struct Log {
    file: Option<Mutex<File>>,
}

impl Log {
    /// Appends to a file, or logs nothing. A log that cannot be opened is none: the real tools have none, either.
    pub fn open(path: Option<PathBuf>) -> Self {
        let file = path.and_then(|path| File::options().create(true).append(true).open(path).ok());
        Log { file: file.map(Mutex::new) }
    }

    /// Whether lines are kept.
    pub fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Appends a line.
    pub fn line(&self, line: &Json) {
        if let Some(mut file) = self.file.as_ref().and_then(|file| file.lock().ok()) {
            // One write a line, so that those of two processes do not mix.
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// The lines of a log; none if there is no file.
///
/// # Errors
/// If a line is no JSON.
pub fn read(path: &Path) -> Result<Vec<Json>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}
