//! Digests of files, each computed once for as long as the file stays the same.
//!
//! What a file is known by is its device, inode, size and time of change; its digest lies in a small file named by a hash
//! of these. So two processes may look and write at once, and a note about a file that has gone does no harm.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use fs_err as fs;
use sha2::{Digest as _, Sha256};

use super::write_whole;

/// A file that changed this recently may change again without its time telling.
const SETTLED: Duration = Duration::from_secs(2);
/// Longest header of a safetensors file that is read as one.
const MAX_HEADER: u64 = 128 << 20;

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Which files are read for their digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// All, and notes are left for next time.
    All,
    /// Small ones; large ones only have a digest if a note says it. Nothing is written.
    Small,
}

/// Files up to this size are read even where nothing is to be waited for.
const SMALL: u64 = 256 << 20;

/// Where digests are kept.
#[derive(Debug, Clone)]
pub struct Digests {
    dir: PathBuf,
    reading: Reading,
}

impl Digests {
    /// Digests kept in `dir`, which need not be there.
    pub fn new(dir: PathBuf) -> Self {
        Digests { dir, reading: Reading::All }
    }

    /// The same without waiting for large files, whose digest is then a word, and without leaving notes: for a dry run.
    pub fn hurried(dir: PathBuf) -> Self {
        Digests { dir, reading: Reading::Small }
    }

    /// SHA-256 of a file's content. `progress` is told how many bytes were read at a time.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn content(&self, path: &Path, progress: &dyn Fn(u64)) -> Result<String> {
        let note = self.note(path)?;
        if let Some(known) = read_note(&note) {
            return Ok(known);
        }
        if !self.reads(path) {
            return Ok("unread".to_owned());
        }
        let mut file = fs::File::open(path)?;
        let before = file.metadata()?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            progress(n as u64);
        }
        let digest = hex(&hash.finalize());
        let settled =
            before.modified().is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > SETTLED));
        if settled && self.reading == Reading::All && self.note(path)? == note {
            // Best effort: without the note the file is only read again.
            let _ = write_whole(&note, digest.as_bytes());
        }
        Ok(digest)
    }

    /// Bytes that [`Digests::content`] reads of a file: none if its digest is known.
    pub fn unread_bytes(&self, path: &Path) -> u64 {
        let known = self.note(path).is_ok_and(|note| read_note(&note).is_some());
        if known { 0 } else { std::fs::metadata(path).map_or(0, |meta| meta.len()) }
    }

    /// Whether a file without a note is read.
    pub fn reads(&self, path: &Path) -> bool {
        self.reading == Reading::All || self.unread_bytes(path) <= SMALL
    }

    fn note(&self, path: &Path) -> Result<PathBuf> {
        let meta = fs::metadata(path)?;
        let identity = format!("{} {} {} {} {}", meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
        Ok(self.dir.join(sha256(identity.as_bytes())))
    }
}

fn read_note(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    (text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text)
}

/// What a safetensors file is known by without reading its weights: digest of its header, size, time of change.
///
/// # Errors
/// If the file cannot be read or has no header.
pub fn header_identity(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path)?;
    let meta = file.metadata()?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let fits = length <= MAX_HEADER && length.checked_add(8).is_some_and(|end| end <= meta.len());
    let length = fits.then_some(length).with_context(|| format!("{} is no safetensors file", path.display()))?;
    let mut header = vec![0; usize::try_from(length)?];
    file.read_exact(&mut header)?;
    Ok(format!("header {} size {} mtime {}.{}", sha256(&header), meta.size(), meta.mtime(), meta.mtime_nsec()))
}
