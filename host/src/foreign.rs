//! Weights in a format that a plugin reads: which files of a folder they are, and whose.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;
use qeff_core::weights::Checkpoint as Weights;
use qeff_plugin_api::plugin::{HeaderNeed, PluginError, WeightFormat};

use crate::plugins::Entry;

/// Bytes of a file that a format is shown when it is asked whether the file is of its kind.
const HEAD: u64 = 4096;

/// Endings of what lies beside weights in every folder of the hub; nobody is asked about such files.
const BESIDE: &[&str] = &["json", "jinja", "md", "model", "py", "txt"];

/// Opens the weights of `dir` in one of `formats`; `None` if no file is of any of them.
///
/// # Errors
/// If two plugins claim a file, the files are of several formats, or what a plugin says of one cannot be.
pub(crate) fn open(dir: &Path, formats: &[Entry<dyn WeightFormat>]) -> Result<Option<Weights>> {
    if formats.is_empty() {
        return Ok(None);
    }
    let mut found: Option<(&Entry<dyn WeightFormat>, Vec<PathBuf>)> = None;
    for path in files(dir)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut head = vec![];
        let file = File::open(&path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
        file.with_context(|| format!("cannot read {}", path.display()))?;
        let claims: Vec<_> = formats.iter().filter(|format| format.item.probe(&head, &name)).collect();
        let who = |format: &Entry<dyn WeightFormat>| format!("`{}` of plugin {}", format.item.name(), format.origin);
        match (claims.as_slice(), &mut found) {
            ([], _) => {}
            ([one], None) => found = Some((one, vec![path])),
            ([one], Some((first, paths))) if std::ptr::eq(*one, *first) => paths.push(path),
            ([one], Some((first, _))) => bail!(
                "{} has weights in two formats, {} and {}: keep the files of one",
                dir.display(),
                who(first),
                who(one)
            ),
            (several, _) => bail!(
                "{} is claimed by several weight formats: {}; load only the plugin that is meant",
                path.display(),
                several.iter().map(|format| who(format)).collect::<Vec<_>>().join(" and ")
            ),
        }
    }
    Ok(match found {
        Some((format, paths)) => {
            let format: Arc<dyn WeightFormat> = Arc::new(Theirs(format.clone()));
            Some(Weights::open_foreign(&paths, &format)?)
        }
        None => None,
    })
}

/// A format whose errors name its plugin: they come out far from here, among those of files.
struct Theirs(Entry<dyn WeightFormat>);

impl Theirs {
    fn named(&self, error: PluginError) -> PluginError {
        PluginError::Other(format!("plugin {}: {error}", self.0.origin))
    }
}

impl WeightFormat for Theirs {
    fn name(&self) -> &str {
        self.0.item.name()
    }

    fn probe(&self, head: &[u8], file_name: &str) -> bool {
        self.0.item.probe(head, file_name)
    }

    fn index(&self, head: &[u8], length: u64) -> Result<HeaderNeed, PluginError> {
        self.0.item.index(head, length).map_err(|error| self.named(error))
    }

    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError> {
        self.0.item.decode(encoding, bytes, out).map_err(|error| self.named(error))
    }
}

/// The files of a folder that may be weights, in name order.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let beside = path.extension().is_some_and(|end| BESIDE.iter().any(|known| end.eq_ignore_ascii_case(known)));
        // Follows links: a hub cache is links to blobs.
        if !hidden && !beside && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
