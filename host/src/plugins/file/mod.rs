//! A plugin's file before the system's loader sees it.
//!
//! The loader maps what the headers promise and jumps into it: a truncated file kills the process with a signal that no
//! code can catch, and a library that is no plugin runs its constructors before anyone can refuse it. So the file is opened
//! once, looked at as data ([`examine`]), and what was looked at is what is loaded: its bytes go into a sealed file in
//! memory ([`PluginFile::image`]), whatever becomes of the one on the disk.
//!
//! This module executes nothing and does not know who is trusted.

mod elf;
mod error;
mod image;
mod place;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use qeff_plugin_api::abi::Manifest;

pub use error::{FileError, FileFault};
pub use image::Image;
pub(super) use image::image_path;

use crate::artifacts::sha256;

/// Longest plugin that is read.
pub const MAX_FILE: u64 = 256 << 20;

/// A plugin's file that was found in order, read whole.
#[derive(Debug)]
pub struct PluginFile {
    /// As the user named it.
    pub path: PathBuf,
    /// Where it really is.
    pub place: PathBuf,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// What it declares of itself.
    pub manifest: Manifest,
    symbol: String,
    bytes: Vec<u8>,
}

impl PluginFile {
    /// Name of its one plugin symbol.
    pub fn symbol(&self) -> &str {
        &self.symbol
    }

    /// What was read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its bytes as a sealed file in memory, to be loaded from there.
    ///
    /// # Errors
    /// If the system has no such files, or forbids executing them.
    pub fn image(&self) -> Result<Image, FileError> {
        Image::new(&self.bytes).map_err(|fault| self.refused(fault))
    }

    fn refused(&self, fault: FileFault) -> FileError {
        FileError { path: self.path.clone(), fault }
    }
}

/// Reads a file and looks at it: whose it is and who may change it, whether it is a whole shared object for this machine,
/// what it needs, whether it is a plugin, what it declares.
///
/// # Errors
/// The first thing that is wrong, and what to do.
pub fn examine(path: &Path) -> Result<PluginFile, FileError> {
    let examined = || {
        let (file, place) = place::open(path)?;
        let mut bytes = vec![];
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(FileFault::TooLong);
        }
        let (symbol, manifest) = inspect(&bytes)?;
        Ok(PluginFile { path: path.to_owned(), place, sha256: sha256(&bytes), manifest, symbol, bytes })
    };
    examined().map_err(|fault| FileError { path: path.to_owned(), fault })
}

/// Opens a regular file that only this user and root can change, and says where it really is.
pub(super) fn open_own(path: &Path) -> Result<(File, PathBuf), FileFault> {
    place::open(path)
}

/// Whether a text names a file in a folder, whatever the folder: no path, nothing hidden, nothing that a terminal obeys.
pub(super) fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 100 && !name.starts_with('.') && name.chars().all(plain)
}

/// What can be known of a plugin from its bytes alone: the name of its symbol, and what it declares.
///
/// # Errors
/// If the bytes are no plugin that this host could load.
pub fn inspect(bytes: &[u8]) -> Result<(String, Manifest), FileFault> {
    let object = elf::Object::parse(bytes)?;
    object.check_extent()?;
    let symbol = object.symbol()?;
    object.check_needs()?;
    let manifest = object.manifest()?;
    check_texts(&manifest).map_err(FileFault::Manifest)?;
    Ok((symbol, manifest))
}

/// Whether what a manifest says may be shown and be part of a path.
fn check_texts(manifest: &Manifest) -> Result<(), String> {
    if !is_plain_name(&manifest.name) {
        let shown: String = manifest.name.chars().filter(|c| !c.is_control()).take(40).collect();
        return Err(format!("its name: expected letters, digits, `-`, `_` and `.`, found `{shown}`"));
    }
    let Manifest { version, api, rustc, target, panic, .. } = manifest;
    let names = manifest.contributions();
    let texts = [version, api, rustc, target, panic].into_iter().map(String::as_str);
    match texts.chain(names.into_iter().map(|(_, name)| name)).find(|text| text.chars().any(char::is_control)) {
        Some(text) => Err(format!("expected plain text, found control characters in {text:?}")),
        None => Ok(()),
    }
}
