//! What the user agreed to: which file a plugin is, and who signed it.
//!
//! A pin says *this is the file that I looked at*; a signature says who made it. Neither says that it does no harm. Plugins
//! without a pin run too, in a sandbox; to run in this process, one must be pinned.

mod error;
mod lock;
mod signature;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

pub use error::TrustError;
pub use lock::{LockFile, Pin};
pub use signature::{Signer, signer};

use super::file::{self, PluginFile};
use super::search::Folders;
use crate::artifacts::write_whole;

/// Whether the user agreed to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is the file of a pin.
    Pinned,
    /// Nobody said anything of it.
    Unpinned,
}

/// The pins of this user, and the folder of the plugins that were added.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    folder: Option<PathBuf>,
    lock: LockFile,
}

/// What is left to see of a pinned plugin.
#[derive(Debug)]
pub enum Verdict {
    /// Its file is what was pinned.
    Same,
    /// Its file is another, is not in order, or is gone.
    Differs(String),
}

impl Trust {
    /// Reads the pins.
    ///
    /// # Errors
    /// If the lock file is malformed, or others could change it.
    pub fn open(folders: &Folders) -> Result<Self, TrustError> {
        let lock = folders.data.as_deref().map(LockFile::read).transpose()?.unwrap_or_default();
        Ok(Trust { folder: folders.plugins(), lock })
    }

    /// All pins, sorted by name.
    pub fn pins(&self) -> &[Pin] {
        &self.lock.plugins
    }

    /// Where the file of a pin is.
    pub fn file(&self, pin: &Pin) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(&pin.file))
    }

    /// Whether the user agreed to a file. It is known by its bytes; by its place, it is known that it was another.
    ///
    /// # Errors
    /// If a pin says that the file at this place is another one.
    pub fn standing(&self, file: &PluginFile) -> Result<Standing, TrustError> {
        if self.lock.plugins.iter().any(|pin| pin.sha256 == file.sha256) {
            return Ok(Standing::Pinned);
        }
        let here = |pin: &&Pin| pin.from == file.place || self.file(pin).is_some_and(|place| same(&place, &file.place));
        match self.lock.plugins.iter().find(here) {
            None => Ok(Standing::Unpinned),
            Some(pin) => Err(TrustError::Changed {
                path: file.path.clone(),
                name: pin.name.clone(),
                pinned: pin.sha256.clone(),
                found: file.sha256.clone(),
            }),
        }
    }

    /// Copies a plugin to where plugins are found, and pins it. A pin of the same name is replaced, and returned.
    ///
    /// # Errors
    /// If there is no such folder, or it cannot be written.
    pub fn add(&mut self, file: &PluginFile, signer: Option<&Signer>) -> Result<Option<Pin>, TrustError> {
        let folder = self.folder.clone().ok_or(TrustError::NoFolder)?;
        let cannot = |error: anyhow::Error| TrustError::Write { path: folder.clone(), why: format!("{error:#}") };
        // Whoever else may write here could replace what was pinned; so from the beginning, nobody may.
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| cannot(error.into()))?;
        let name = &file.manifest.name;
        let pin = Pin {
            name: name.clone(),
            version: file.manifest.version.clone(),
            file: format!("{name}.so"),
            from: file.place.clone(),
            sha256: file.sha256.clone(),
            signed_by: signer.map(|signer| signer.key.clone()),
        };
        let place = folder.join(&pin.file);
        let replaced = self.change(|lock| {
            write_whole(&place, file.bytes()).map_err(cannot)?;
            let at = lock.plugins.iter().position(|known| known.name == pin.name);
            let old = at.map(|at| lock.plugins.remove(at));
            lock.plugins.push(pin);
            Ok(old)
        })?;
        // What lies there now must pass where it is going to be used.
        file::examine(&place)?;
        Ok(replaced)
    }

    /// Takes a pin and the plugin's file away.
    ///
    /// # Errors
    /// If there is no such pin, or it cannot be taken away.
    pub fn remove(&mut self, name: &str) -> Result<Pin, TrustError> {
        let known = || self.lock.plugins.iter().map(|pin| pin.name.clone()).collect();
        let pin = self.lock.plugins.iter().find(|pin| pin.name == name).cloned();
        let pin = pin.ok_or_else(|| TrustError::NoPin { name: name.to_owned(), known: known() })?;
        if let Some(place) = self.file(&pin) {
            match std::fs::remove_file(&place) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(TrustError::Write { path: place, why: error.to_string() });
                }
                _ => {}
            }
        }
        self.change(|lock| {
            lock.plugins.retain(|known| known.name != pin.name);
            Ok(())
        })?;
        Ok(pin)
    }

    /// Looks whether the file of a pin is still the one that was pinned.
    pub fn verify(&self, pin: &Pin) -> Verdict {
        let Some(place) = self.file(pin) else { return Verdict::Differs(TrustError::NoFolder.to_string()) };
        match file::examine(&place) {
            Err(error) => Verdict::Differs(error.fault.to_string()),
            Ok(file) if file.sha256 == pin.sha256 => Verdict::Same,
            Ok(file) => Verdict::Differs(format!("it has sha256 {}, pinned was {}", file.sha256, pin.sha256)),
        }
    }

    /// Changes the pins as they are on the disk now, with nobody else doing so.
    fn change<T>(&mut self, change: impl FnOnce(&mut LockFile) -> Result<T, TrustError>) -> Result<T, TrustError> {
        let folder = self.folder.as_deref().ok_or(TrustError::NoFolder)?;
        let data = folder.parent().ok_or(TrustError::NoFolder)?;
        let cannot = |error: std::io::Error| TrustError::Write { path: data.to_owned(), why: error.to_string() };
        let held = File::open(folder).map_err(cannot)?;
        held.lock().map_err(cannot)?;
        let mut lock = LockFile::read(data)?;
        let done = change(&mut lock)?;
        lock.write(data)?;
        self.lock = lock;
        Ok(done)
    }
}

fn same(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| a == b)
}
