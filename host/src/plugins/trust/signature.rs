//! Signatures of minisign: `X.so.minisig` beside `X.so`, keys as `NAME.pub` in the folder `keys` of the configuration.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use minisign_verify::{Error, PublicKey, Signature};

use super::TrustError;
use crate::plugins::file::{self, PluginFile};
use crate::plugins::search::Folders;

/// Longest signature or key that is read.
const MAX_LENGTH: u64 = 16 << 10;

/// Who signed a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Name of the key: its file, without the ending.
    pub key: String,
    /// What the signer says of the file, signed too.
    pub comment: String,
}

/// Who of those whose keys the user has signed a plugin. `None` if nobody signed it, or nobody whom the user knows.
///
/// # Errors
/// If the signature or a key is malformed, or the signature is of another file.
pub fn signer(plugin: &PluginFile, folders: &Folders) -> Result<Option<Signer>, TrustError> {
    let mut name: OsString = plugin.place.clone().into();
    name.push(".minisig");
    let path = PathBuf::from(name);
    let Some(text) = read(&path)? else { return Ok(None) };
    let wrong = |path: &Path, why: &str| TrustError::Signature { path: path.to_owned(), why: why.to_owned() };
    let signature =
        Signature::decode(&text).map_err(|error| wrong(&path, &format!("no signature of minisign: {error}")))?;
    for (name, place) in keys(folders) {
        let text = read(&place)?.unwrap_or_default();
        let key = PublicKey::decode(text.trim_end()).or_else(|_| PublicKey::from_base64(text.trim()));
        let key = key.map_err(|error| wrong(&place, &format!("no public key of minisign: {error}")))?;
        match key.verify(plugin.bytes(), &signature, false) {
            Ok(()) => return Ok(Some(Signer { key: name, comment: printable(signature.trusted_comment()) })),
            Err(Error::UnexpectedKeyId) => {}
            Err(error) => return Err(wrong(&path, &format!("by the key `{name}`, but not of this file: {error}"))),
        }
    }
    Ok(None)
}

/// The user's keys by name, sorted.
fn keys(folders: &Folders) -> Vec<(String, PathBuf)> {
    let Some(folder) = folders.config.as_deref().map(|config| config.join("keys")) else { return vec![] };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = entries.filter(|path| path.extension().is_some_and(|end| end == "pub"));
    let mut keys: Vec<_> = named.filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path))).collect();
    keys.sort();
    keys
}

/// The text of a small file that only the user can change; `None` if there is none.
fn read(path: &Path) -> Result<Option<String>, TrustError> {
    let wrong = |why: String| TrustError::Signature { path: path.to_owned(), why };
    let file = match file::open_own(path) {
        Ok((file, _)) => file,
        Err(file::FileFault::Read(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(fault) => return Err(wrong(fault.to_string())),
    };
    let mut text = String::new();
    file.take(MAX_LENGTH).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    Ok(Some(text))
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
