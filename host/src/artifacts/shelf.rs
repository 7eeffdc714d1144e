//! Everything that is kept below a root: listing it, and throwing some of it away.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use fs_err as fs;

use super::lock::Lock;
use super::manifest::{ArtifactKind, MANIFEST, Manifest};
use super::{SHORT, clear, lock_of};

/// Notes on digests that nobody needed for so long are thrown away with artifacts.
const OLD_DIGESTS: Duration = Duration::from_secs(90 * 86400);

/// The artifacts below a root.
#[derive(Debug, Clone)]
pub struct Shelf {
    root: PathBuf,
}

/// A folder on the shelf.
#[derive(Debug, Clone)]
pub struct Shelved {
    /// The folder.
    pub dir: PathBuf,
    /// What it is made from.
    pub name: String,
    /// Its manifest; `None` if it was never finished.
    pub manifest: Option<Manifest>,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last made.
    pub modified: SystemTime,
    /// Whether somebody is making it just now.
    pub busy: bool,
}

/// What to throw away. Folders that were never finished always go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prune {
    /// Artifacts at least this old.
    pub older_than: Option<Duration>,
    /// Only those of a kind.
    pub kind: Option<ArtifactKind>,
    /// Nothing: only say what would go.
    pub dry_run: bool,
}

impl Shelf {
    /// The shelf at `root`, which need not be there.
    pub fn new(root: PathBuf) -> Self {
        Shelf { root }
    }

    /// Everything on it, by name and folder.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn list(&self) -> Result<Vec<Shelved>> {
        let mut all = vec![];
        for group in folders(&self.root)? {
            let Some(name) = group.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            for dir in folders(&group)? {
                // Other rooms may keep other things below the root.
                if is_ours(&dir, &name) {
                    all.push(shelved(dir, &name)?);
                }
            }
        }
        all.sort_by(|a, b| a.dir.cmp(&b.dir));
        Ok(all)
    }

    /// Throws away what `prune` says; returns what went. What somebody is making stays.
    ///
    /// # Errors
    /// If a folder cannot be read or removed.
    pub fn prune(&self, prune: Prune) -> Result<Vec<Shelved>> {
        let mut gone = vec![];
        for shelved in self.list()? {
            let old = prune.older_than.is_none_or(|age| shelved.modified.elapsed().is_ok_and(|found| found >= age));
            let kind = shelved.manifest.as_ref().map(|manifest| manifest.kind);
            let meant = old && prune.kind.is_none_or(|wanted| kind == Some(wanted));
            if shelved.busy || !(meant || shelved.manifest.is_none()) {
                continue;
            }
            if !prune.dry_run {
                let Some(lock) = Lock::attempt(&lock_of(&shelved.dir))? else { continue };
                clear(&shelved.dir)?;
                lock.remove();
                // Gone only if it was the last one.
                let _ = shelved.dir.parent().map(std::fs::remove_dir);
            }
            gone.push(shelved);
        }
        if !prune.dry_run {
            forget_digests(&self.root.join("digests"));
        }
        Ok(gone)
    }
}

/// Folders in a folder; none if it is not there.
fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether a folder is named as an artifact made from `name` is.
fn is_ours(dir: &Path, name: &str) -> bool {
    let Some((prefix, hash)) = dir.file_name().and_then(|dir| dir.to_str()).and_then(|dir| dir.rsplit_once('-')) else {
        return false;
    };
    (prefix == name || prefix == "qpc") && hash.len() == SHORT && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn shelved(dir: PathBuf, name: &str) -> Result<Shelved> {
    let manifest = Manifest::read(&dir).ok();
    let meta = fs::metadata(dir.join(MANIFEST)).or_else(|_| fs::metadata(&dir));
    let modified = meta.and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let lock = lock_of(&dir);
    let busy = lock.exists() && Lock::attempt(&lock)?.is_none();
    let bytes = manifest.as_ref().map_or_else(|| bytes_below(&dir), Manifest::bytes);
    Ok(Shelved { dir, name: name.to_owned(), manifest, bytes, modified, busy })
}

/// Bytes of a folder that nobody wrote down; what cannot be read counts nothing.
fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.fold(0, |sum: u64, entry| {
        sum.saturating_add(match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
    })
}

fn forget_digests(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > OLD_DIGESTS) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
