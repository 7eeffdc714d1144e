//! `plugins.lock`: the pins.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::TrustError;
use crate::artifacts::write_whole;
use crate::plugins::file;

const NAME: &str = "plugins.lock";
/// Version of the file's layout.
const VERSION: u32 = 1;
/// Longest lock file that is read.
const MAX_LENGTH: u64 = 4 << 20;

/// A plugin that the user agreed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Name of the plugin.
    pub name: String,
    /// Version of its crate.
    pub version: String,
    /// File in the folder of plugins.
    pub file: String,
    /// Where the file was added from.
    pub from: PathBuf,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// Name of the key that signed it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
}

/// All pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockFile {
    version: u32,
    /// Sorted by name.
    pub(super) plugins: Vec<Pin>,
}

impl Default for LockFile {
    fn default() -> Self {
        LockFile { version: VERSION, plugins: vec![] }
    }
}

impl LockFile {
    /// The pins in the folder `data`; none if there is no lock file.
    ///
    /// # Errors
    /// If it is malformed, or somebody else could change it.
    pub(super) fn read(data: &Path) -> Result<Self, TrustError> {
        let path = data.join(NAME);
        if !path.exists() {
            return Ok(Self::default());
        }
        let malformed = |why: String| TrustError::Lock { path: path.clone(), why };
        let (file, _) = file::open_own(&path).map_err(|fault| malformed(fault.to_string()))?;
        let mut text = String::new();
        file.take(MAX_LENGTH).read_to_string(&mut text).map_err(|error| malformed(error.to_string()))?;
        let lock: LockFile = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if lock.version != VERSION {
            return Err(malformed(format!("expected version {VERSION}, found {}", lock.version)));
        }
        for pin in &lock.plugins {
            if !file::is_plain_name(&pin.file) {
                return Err(malformed(format!(
                    "`file` of `{}`: expected the name of a file, found `{}`",
                    pin.name, pin.file
                )));
            }
        }
        Ok(lock)
    }

    /// Writes the pins, in one step.
    pub(super) fn write(&mut self, data: &Path) -> Result<(), TrustError> {
        self.plugins.sort_by(|a, b| a.name.cmp(&b.name));
        let path = data.join(NAME);
        let text = serde_json::to_string_pretty(self).map_err(anyhow::Error::from);
        let written = text.and_then(|text| write_whole(&path, format!("{text}\n").as_bytes()));
        written.map_err(|error| TrustError::Write { path, why: format!("{error:#}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(name: &str) -> Pin {
        Pin {
            name: name.into(),
            version: "1.0.0".into(),
            file: format!("{name}.so"),
            from: "/x".into(),
            sha256: "00".into(),
            signed_by: None,
        }
    }

    #[test]
    fn what_is_written_is_read_sorted() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(LockFile::read(data.path()).unwrap(), LockFile::default());
        let mut lock = LockFile { plugins: vec![pin("b"), pin("a")], ..LockFile::default() };
        lock.write(data.path()).unwrap();
        let read = LockFile::read(data.path()).unwrap();
        assert_eq!(read.plugins, [pin("a"), pin("b")]);
    }

    #[test]
    fn a_lock_of_others_or_of_nonsense_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join(NAME);
        let refused = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            LockFile::read(data.path()).unwrap_err().to_string()
        };
        assert!(refused("{}", 0o600).contains("missing field"));
        assert!(refused(r#"{"version": 2, "plugins": []}"#, 0o600).contains("expected version 1, found 2"));
        assert!(refused(r#"{"version": 1, "plugins": []}"#, 0o666).contains("writable by everybody"));
        let outside = serde_json::to_string(&Pin { file: "../x.so".into(), ..pin("a") }).unwrap();
        let text = refused(&format!(r#"{{"version": 1, "plugins": [{outside}]}}"#), 0o600);
        assert!(text.contains("expected the name of a file, found `../x.so`"), "{text}");
    }
}
