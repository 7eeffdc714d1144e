//! Artifacts: what is made once and kept, in folders named by what they are made of.
//!
//! ```text
//! ROOT/LlamaForCausalLM/LlamaForCausalLM-0123456789abcdef/   an export
//! ROOT/LlamaForCausalLM/qpc-fedcba9876543210/                a compiled program
//!                       └─ manifest.json                     written last: without it, the folder is nothing
//! ROOT/digests/                                              digests of large files, so that they are read once
//! ```
//! The name is the beginning of a hash over everything that decides the content, so the same wish finds the same folder,
//! and a folder never has to be checked against the files it was made from. A folder is made under a lock, in place, and
//! the manifest is renamed into it when all else is on disk: a kill at any instant leaves a folder that the next one who
//! wants it clears away.
//!
//! This room does not know how anything is made.

mod digest;
mod lock;
mod manifest;
mod shelf;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use fs_err as fs;
use serde_json::Value as Json;

pub(crate) use digest::hex;
pub use digest::{Digests, header_identity, sha256};
pub use lock::{Lock, Waiting};
pub use manifest::{ArtifactKind, MANIFEST, MadeFile, Manifest};
pub use shelf::{Prune, Shelf, Shelved};

/// Digits of a key in the name of a folder.
const SHORT: usize = 16;

/// A place for one artifact, whether it is there or not.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The folder.
    pub dir: PathBuf,
    /// What is kept there.
    pub kind: ArtifactKind,
    /// What it is made from, e.g. an architecture.
    pub name: String,
    /// Hash of everything that decides its content.
    pub key: String,
    /// What was hashed.
    pub inputs: Json,
}

/// An artifact that is there.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// Its folder.
    pub dir: PathBuf,
    /// What stands in it.
    pub manifest: Manifest,
    /// Whether it was made just now.
    pub fresh: bool,
}

/// What making an artifact tells about it.
#[derive(Debug, Clone, Default)]
pub struct Made {
    /// Commands that were executed.
    pub commands: Vec<Vec<String>>,
    /// What somebody who uses the artifact wants to know.
    pub details: Json,
}

impl Slot {
    /// The slot under `parent` for an artifact that is decided by `inputs`.
    pub fn new(parent: &Path, kind: ArtifactKind, name: &str, inputs: Json) -> Self {
        let text =
            crate::compile::canonical(&serde_json::json!({ "kind": kind.name(), "name": name, "inputs": inputs }));
        let key = sha256(text.as_bytes());
        let prefix = match kind {
            ArtifactKind::Export => name,
            ArtifactKind::Qpc => "qpc",
        };
        let dir = parent.join(format!("{prefix}-{}", &key[..SHORT]));
        Slot { dir, kind, name: name.to_owned(), key, inputs }
    }

    /// The artifact, if it is there and whole.
    pub fn find(&self) -> Option<Artifact> {
        let manifest = Manifest::read(&self.dir).ok()?;
        let whole = manifest.key == self.key && manifest.kind == self.kind && manifest.files_are_there(&self.dir);
        whole.then(|| Artifact { dir: self.dir.clone(), manifest, fresh: false })
    }

    /// The artifact, made by `make` if it is not there yet, or in any case if `force` is set. `waiting` is told when
    /// another process is about to make it.
    ///
    /// # Errors
    /// What `make` says, or that the folder cannot be written. A folder that could not be finished has no manifest.
    pub fn obtain(
        &self,
        force: bool,
        waiting: &mut dyn FnMut(Waiting),
        make: impl FnOnce(&Path, &Lock) -> Result<Made>,
    ) -> Result<Artifact> {
        if let Some(found) = self.find().filter(|_| !force) {
            return Ok(found);
        }
        let parent = self.dir.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let lock = Lock::acquire(&lock_of(&self.dir), waiting)?;
        if let Some(found) = self.find().filter(|_| !force) {
            return Ok(found);
        }
        clear(&self.dir)?;
        fs::create_dir(&self.dir)?;
        let started = Instant::now();
        let made = make(&self.dir, &lock)?;
        let manifest = Manifest {
            schema: manifest::SCHEMA,
            kind: self.kind,
            name: self.name.clone(),
            key: self.key.clone(),
            qeff_version: env!("CARGO_PKG_VERSION").to_owned(),
            created: jiff::Timestamp::now().to_string(),
            seconds: started.elapsed().as_secs_f64(),
            details: made.details,
            inputs: self.inputs.clone(),
            commands: made.commands,
            files: manifest::files_on_disk(&self.dir)?,
        };
        let text = serde_json::to_string_pretty(&manifest).context("a manifest is JSON")?;
        write_whole(&self.dir.join(MANIFEST), text.as_bytes())?;
        Ok(Artifact { dir: self.dir.clone(), manifest, fresh: true })
    }
}

/// The lock of an artifact's folder, beside it: the folder itself comes and goes.
fn lock_of(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.lock"))
}

/// Takes away a folder, its manifest first, so that it is never half there and trusted.
fn clear(dir: &Path) -> Result<()> {
    match fs::remove_file(dir.join(MANIFEST)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a file so that a reader finds the old one or the new one, never a part.
///
/// # Errors
/// If it cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests;
