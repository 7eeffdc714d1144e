//! What stands in an artifact's `manifest.json`: enough to use the artifact, and to know where it came from.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Name of the file.
pub const MANIFEST: &str = "manifest.json";
/// Version of its form.
pub(super) const SCHEMA: u32 = 1;
/// Largest manifest that is read.
const MOST: u64 = 64 << 20;

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactKind {
    /// An ONNX model with its weights.
    Export,
    /// A program compiled for cards.
    Qpc,
}

impl ArtifactKind {
    /// The word in manifests and lists.
    pub fn name(self) -> &'static str {
        match self {
            ArtifactKind::Export => "export",
            ArtifactKind::Qpc => "qpc",
        }
    }
}

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFile {
    /// Path within the artifact's folder.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// A manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub schema: u32,
    /// What the artifact is.
    pub kind: ArtifactKind,
    /// What it is made from, e.g. an architecture.
    pub name: String,
    /// Hash of `inputs`, `kind` and `name`.
    pub key: String,
    /// Version of qeff that made it.
    pub qeff_version: String,
    /// When.
    pub created: String,
    /// How long it took.
    pub seconds: f64,
    /// What somebody who uses it wants to know: sizes, precision, devices.
    pub details: Json,
    /// Everything that decides the content.
    pub inputs: Json,
    /// Commands that were executed.
    pub commands: Vec<Vec<String>>,
    /// Everything else in the folder.
    pub files: Vec<MadeFile>,
}

impl Manifest {
    /// The manifest in a folder.
    ///
    /// # Errors
    /// If there is none, or it is of another version.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let size = fs::metadata(&path)?.len();
        if size > MOST {
            bail!("{} has {size} bytes; expected at most {MOST}", path.display());
        }
        let manifest: Manifest =
            serde_json::from_slice(&fs::read(&path)?).with_context(|| format!("{} is no manifest", path.display()))?;
        if manifest.schema != SCHEMA {
            bail!("{} has schema {}; expected {SCHEMA}", path.display(), manifest.schema);
        }
        Ok(manifest)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// Whether every file is there with its size: a disk may lose what a manifest promises.
    pub(super) fn files_are_there(&self, dir: &Path) -> bool {
        self.files.iter().all(|file| {
            std::fs::metadata(dir.join(&file.path)).is_ok_and(|meta| meta.is_file() && meta.len() == file.bytes)
        })
    }
}

/// Every file below `dir`, each safely on disk: a manifest must not be there before what it promises.
pub(super) fn files_on_disk(dir: &Path) -> Result<Vec<MadeFile>> {
    let mut files = vec![];
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let file = fs::File::open(entry.path())?;
                file.sync_all()?;
                let path = entry.path().strip_prefix(dir)?.to_string_lossy().into_owned();
                files.push(MadeFile { path, bytes: file.metadata()?.len() });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}
