//! A QPC that is there, whoever made it, with everything that is known of it.
//!
//! Ours lie beside a manifest. The reference leaves `specializations.json` in the folder that holds the QPC's. Without
//! either, the QPC's own descriptors have to do: they say all about calls, and of a sequence how long its states are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use fs_err as fs;
use qeff_core::qpc::Qpc;
use serde_json::Value as Json;

use crate::artifacts::{MANIFEST, Manifest};
use crate::runtime::qaic::program::{FILE, read};

/// File of sizes that the compiler was given.
const SPECIALIZATIONS: &str = "specializations.json";
/// Largest such file that is read.
const MOST: u64 = 16 << 20;

/// What tells about a QPC beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownBy {
    /// Our manifest.
    Manifest,
    /// The sizes that the compiler was given.
    Specializations,
    /// Nothing.
    Descriptors,
}

impl KnownBy {
    /// In a few words.
    pub fn name(self) -> &'static str {
        match self {
            KnownBy::Manifest => MANIFEST,
            KnownBy::Specializations => SPECIALIZATIONS,
            KnownBy::Descriptors => "its own descriptors",
        }
    }
}

/// A QPC with what is known of it.
#[derive(Debug, Clone)]
pub struct FoundQpc {
    /// The file.
    pub file: PathBuf,
    /// What it says of itself.
    pub qpc: Qpc,
    /// What else says something.
    pub known_by: KnownBy,
    /// What the program is, such as `decoder`.
    pub kind: Option<String>,
    /// Positions of a sequence.
    pub ctx_len: Option<u64>,
    /// Sequences in one call with continuous batching.
    pub full_batch_size: Option<u64>,
}

/// The file of a QPC: what the user names is the file, its folder, or the folder of an artifact.
///
/// # Errors
/// If there is none.
pub fn qpc_file(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let places = [path.join(FILE), path.join("qpc").join(FILE), path.join("qpcs").join(FILE)];
    let found = places.iter().find(|file| file.is_file());
    found.cloned().with_context(|| {
        let what = if path.is_dir() { "there is none in it" } else { "there is no such folder" };
        format!("{}: expected a QPC, a folder with {FILE} as `qeff-host compile` prints it; {what}", path.display())
    })
}

impl FoundQpc {
    /// Reads a QPC and what lies beside it.
    ///
    /// # Errors
    /// If it is not there or damaged, or what lies beside it contradicts it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = qpc_file(path)?;
        let qpc = read(&file)?;
        let mut found =
            FoundQpc { file, qpc, known_by: KnownBy::Descriptors, kind: None, ctx_len: None, full_batch_size: None };
        let file = std::path::absolute(&found.file)?;
        let Some(artifact) = file.parent().and_then(Path::parent) else { return Ok(found) };
        if artifact.join(MANIFEST).is_file() {
            found.read_manifest(artifact)?;
        } else if artifact.join(SPECIALIZATIONS).is_file() {
            found.read_specializations(&artifact.join(SPECIALIZATIONS))?;
        }
        Ok(found)
    }

    fn read_manifest(&mut self, artifact: &Path) -> Result<()> {
        let manifest = Manifest::read(artifact)?;
        let details = &manifest.details;
        self.known_by = KnownBy::Manifest;
        self.kind = details["kind"].as_str().map(str::to_owned);
        self.ctx_len = details["ctx_len"].as_u64();
        self.full_batch_size = details["full_batch_size"].as_u64();
        let devices = details["num_devices"].as_u64().unwrap_or(1);
        if devices != self.qpc.devices() as u64 {
            bail!(
                "{}: it is for {devices} devices, and {} for {}: they do not belong together; compile again",
                artifact.join(MANIFEST).display(),
                self.file.display(),
                self.qpc.devices()
            );
        }
        Ok(())
    }

    fn read_specializations(&mut self, path: &Path) -> Result<()> {
        let size = fs::metadata(path)?.len();
        if size > MOST {
            bail!("{} has {size} bytes; expected at most {MOST}", path.display());
        }
        let json: Json = serde_json::from_slice(&fs::read(path)?)
            .with_context(|| format!("{}: expected JSON, as the compiler takes it", path.display()))?;
        let entries = json["specializations"].as_array().map(Vec::as_slice).unwrap_or_default();
        if entries.is_empty() {
            bail!("{}: expected a list `specializations` with at least one entry, found none", path.display());
        }
        // Two forms are in use: symbols in an entry, or in a map of their own.
        let largest = |symbol: &str| -> Result<Option<u64>> {
            let mut largest = None;
            for entry in entries {
                let value = entry.get("symbols").unwrap_or(entry).get(symbol);
                let number = match value {
                    None => continue,
                    Some(Json::String(text)) => text.parse().ok(),
                    Some(other) => other.as_u64(),
                };
                let number = number
                    .with_context(|| format!("{}: {symbol}: expected a number, found {value:?}", path.display()))?;
                largest = largest.max(Some(number));
            }
            Ok(largest)
        };
        self.known_by = KnownBy::Specializations;
        self.ctx_len = largest("ctx_len")?;
        if largest("full_batch_size")?.is_some() {
            // Its own number counts the slots of the cache; a decode call has as many sequences as its batch.
            self.full_batch_size = largest("batch_size")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specializations(text: &str) -> Result<FoundQpc> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(SPECIALIZATIONS);
        std::fs::write(&path, text)?;
        let qpc = Qpc { slices: vec![], bytes: 0 };
        let known_by = KnownBy::Descriptors;
        let mut found = FoundQpc { file: FILE.into(), qpc, known_by, kind: None, ctx_len: None, full_batch_size: None };
        found.read_specializations(&path)?;
        Ok(found)
    }

    #[test]
    fn both_forms_of_specializations_are_read() {
        let classic = r#"{"specializations":[{"batch_size":"1","seq_len":"32","ctx_len":"128"},
            {"batch_size":"1","seq_len":"1","ctx_len":"128"}]}"#;
        let found = specializations(classic).unwrap();
        assert_eq!((found.ctx_len, found.full_batch_size), (Some(128), None));
        let named = r#"{"specializations":[
            {"name":"Prefill","symbols":{"batch_size":"1","ctx_len":"512","full_batch_size":"8","full_batch_exec_size":"1"}},
            {"name":"Decode","symbols":{"batch_size":"4","ctx_len":"512","full_batch_size":"8"}}]}"#;
        let found = specializations(named).unwrap();
        assert_eq!((found.ctx_len, found.full_batch_size), (Some(512), Some(4)));
    }

    #[test]
    fn what_is_none_is_refused() {
        for (text, expected) in [
            ("no", "expected JSON"),
            ("{}", "expected a list `specializations`"),
            (r#"{"specializations":[{"ctx_len":"many"}]}"#, "ctx_len: expected a number"),
        ] {
            let error = specializations(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = qpc_file(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("there is no such folder"), "{error}");
    }
}
