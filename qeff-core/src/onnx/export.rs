//! Packed export: one model file and its external data in a folder of the user's.
//!
//! Everything is written beside its final place and renamed when it is whole, the model file last, so a model file never
//! refers to data that is not there. An export that fails leaves the folder as it found it.

use std::path::{Path, PathBuf};

use fs_err as fs;
use prost::Message as _;

use super::emit;
use crate::lower::Lowered;
use crate::weights::{PackError, PackOptions, PackRequest, Packed, TensorSource, pack};

/// What was written.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The model file.
    pub model: PathBuf,
    /// External data, in the same folder.
    pub data: Vec<PathBuf>,
    /// Bytes of all files.
    pub bytes: u64,
    /// What packing the weights took.
    pub packed: Packed,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A weight cannot be written.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A file or folder cannot be made.
    #[error("cannot write the export: {0}")]
    Io(#[from] std::io::Error),
}

/// What is exported, and how.
#[derive(Clone, Copy)]
pub struct Export<'a> {
    /// The program.
    pub lowered: &'a Lowered,
    /// What the names of its files begin with.
    pub stem: &'a str,
    /// Where its weights come from.
    pub source: &'a dyn TensorSource,
    /// Entries of the model file's metadata.
    pub metadata: &'a [(&'a str, String)],
    /// How weights are written.
    pub options: PackOptions<'a>,
}

/// Writes `{stem}.onnx` and `{stem}_{n}.onnx.data` into `dir`, which is made if need be; files of these names are
/// replaced.
///
/// # Errors
/// See [`ExportError`]; `dir` is then as it was before.
pub fn export(what: Export<'_>, dir: &Path) -> Result<Exported, ExportError> {
    let made = make_dir(dir)?;
    let result = write(what, dir);
    if let (Err(_), Some(first)) = (&result, made) {
        // Best effort: the error that counts is the one that brought us here.
        let _ = fs::remove_dir_all(first);
    }
    result
}

/// Makes `dir`; returns the topmost folder that was not there before.
fn make_dir(dir: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut missing = None;
    let mut at = Some(dir);
    while let Some(path) = at.filter(|path| !path.as_os_str().is_empty() && !path.exists()) {
        missing = Some(path.to_owned());
        at = path.parent();
    }
    fs::create_dir_all(dir)?;
    Ok(missing)
}

fn write(what: Export<'_>, dir: &Path) -> Result<Exported, ExportError> {
    let Export { lowered, stem, source, metadata, options } = what;
    let work = tempfile::Builder::new().prefix(".export-").tempdir_in(dir)?;
    let requests: Vec<_> = lowered
        .weights
        .iter()
        .map(|weight| PackRequest { name: weight.name.clone(), expr: weight.expr.clone(), dtype: weight.dtype })
        .collect();
    let packed = pack(work.path(), stem, &requests, source, options)?;
    let model_name = format!("{stem}.onnx");
    let bytes = emit::model(lowered, &packed.placements, metadata).encode_to_vec();
    let staged = work.path().join(&model_name);
    fs::write(&staged, &bytes)?;
    if options.sync {
        fs::File::open(&staged)?.sync_all()?;
    }

    // An older model file must not be left referring to newer data, whatever happens between the renames.
    let model = dir.join(&model_name);
    if model.exists() {
        fs::remove_file(&model)?;
    }
    let mut data = vec![];
    let mut total = bytes.len() as u64;
    for file in &packed.files {
        let place = dir.join(file);
        fs::rename(work.path().join(file), &place)?;
        total += fs::metadata(&place)?.len();
        data.push(place);
    }
    fs::rename(&staged, &model)?;
    Ok(Exported { model, data, bytes: total, packed })
}
