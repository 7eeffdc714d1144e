//! Linked storage: a model that refers to the checkpoint's own files.
//!
//! Engines read external data only beside the model, under a name of their liking, so each file of the checkpoint gets a
//! second name there. A hard link is preferred: ONNX Runtime refuses symbolic links that lead out of the folder, and a
//! checkpoint that is downloaded anew (which replaces names, not files) does not change under a model whose offsets are
//! those of the older one. Between two file systems, and where hard links are not allowed, it is a symbolic link.
//!
//! For the AI 100 compiler nothing has to be a tensor beside the model: weights are inputs, and a [`WeightSpec`] says what to
//! bind them to.
//!
//! This module knows which file holds which weight. It does not know how what cannot be linked is made.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use qeff_plugin_api::WeightExpr;
use serde::Serialize;

use crate::lower::Initializer;
use crate::weights::{NotStored, Placement, StoredRun, TensorView};

/// The key under which a model file carries its weight spec.
pub const WEIGHT_SPEC_KEY: &str = "com.qti.aisw.extdata";

/// The file of the same content.
pub const WEIGHT_SPEC_FILE: &str = "weight_spec.json";

/// A second name of a file or folder of the checkpoint, beside the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Name beside the model.
    pub name: String,
    /// Where it leads, absolute and without links of its own.
    pub target: PathBuf,
    /// What kind of link.
    pub kind: LinkKind,
}

/// How a name leads to what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// A second name of the file itself.
    Hard,
    /// A path to it.
    Symbolic,
}

impl LinkKind {
    /// The word that a report uses.
    pub fn name(self) -> &'static str {
        match self {
            LinkKind::Hard => "hard",
            LinkKind::Symbolic => "symbolic",
        }
    }
}

/// Files of a checkpoint that are referred to as external data.
pub(super) struct DataLinks<'a> {
    stem: &'a str,
    /// By number of the file.
    files: BTreeMap<usize, PathBuf>,
}

impl<'a> DataLinks<'a> {
    pub(super) fn new(stem: &'a str) -> Self {
        Self { stem, files: BTreeMap::new() }
    }

    /// The place of stored elements as external data.
    pub(super) fn place(&mut self, run: &StoredRun<'_>) -> Placement {
        self.files.entry(run.file).or_insert_with(|| run.path.to_owned());
        Placement { file: self.name(run.file), offset: run.offset, length: run.length }
    }

    /// rten reads external data from names that end in `.data` or `.onnx_data` only.
    fn name(&self, file: usize) -> String {
        format!("{}_checkpoint_{file}.onnx.data", self.stem)
    }

    /// Makes the links in `dir`.
    pub(super) fn make(&self, dir: &Path) -> io::Result<Vec<Link>> {
        let link = |(&file, path): (&usize, &PathBuf)| {
            let (name, target) = (self.name(file), fs::canonicalize(path)?);
            let place = dir.join(&name);
            let kind = match fs::hard_link(&target, &place) {
                Ok(()) => LinkKind::Hard,
                Err(_) => {
                    symlink(&target, &place)?;
                    LinkKind::Symbolic
                }
            };
            Ok(Link { name, target, kind })
        };
        self.files.iter().map(link).collect()
    }
}

/// Version 5 of the AI 100 compiler's map from graph inputs to stored tensors. Fields are in the order of their names: as
/// metadata, the compiler expects keys sorted.
#[derive(Debug, Clone, Serialize)]
pub(super) struct WeightSpec {
    files: Vec<SpecFile>,
    inputs: Vec<SpecInput>,
    model_id: String,
    model_name: String,
    version: u32,
    /// The checkpoint's folder.
    #[serde(skip)]
    root: PathBuf,
    /// Places in `files` by the file's number in the checkpoint.
    #[serde(skip)]
    numbers: BTreeMap<usize, usize>,
    /// What the folder is called beside the model.
    #[serde(skip)]
    link: String,
}

#[derive(Debug, Clone, Serialize)]
struct SpecFile {
    format: &'static str,
    path: String,
}

#[derive(Debug, Clone, Serialize)]
struct SpecInput {
    location: Location,
    name: String,
}

#[derive(Debug, Clone, Serialize)]
struct Location {
    file: usize,
    key: String,
}

impl WeightSpec {
    /// Of the checkpoint in folder `root`, which will be linked beside the model.
    pub(super) fn new(stem: &str, model_name: &str, root: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(root)?;
        Ok(Self {
            files: vec![],
            inputs: vec![],
            model_id: root.to_string_lossy().into_owned(),
            model_name: model_name.to_owned(),
            version: 5,
            root,
            numbers: BTreeMap::new(),
            link: folder_name(stem),
        })
    }

    /// Binds a weight to the stored tensor that it is.
    pub(super) fn bind(&mut self, weight: &Initializer, view: &TensorView<'_>) -> Result<(), NotStored> {
        let WeightExpr::Tensor(key) = &weight.expr else { return Err(NotStored::Computed) };
        let file = match self.numbers.get(&view.file) {
            Some(&number) => number,
            None => {
                let path = self.within(view.path).ok_or(NotStored::Foreign)?;
                self.files.push(SpecFile { format: "safetensors", path });
                self.numbers.insert(view.file, self.files.len() - 1);
                self.files.len() - 1
            }
        };
        self.inputs.push(SpecInput { location: Location { file, key: key.clone() }, name: weight.name.clone() });
        Ok(())
    }

    /// The path of a safetensors file of the folder, through the link beside the model.
    fn within(&self, path: &Path) -> Option<String> {
        // The file itself is not resolved: in a hub's cache it is a link to a blob, and the folder is what names it.
        let dir = fs::canonicalize(path.parent()?).ok()?;
        let file = dir.strip_prefix(&self.root).ok()?.join(path.file_name()?);
        let file = file.to_str().filter(|file| file.ends_with(".safetensors"))?;
        Some(format!("{}/{file}", self.link))
    }

    /// Links the checkpoint's folder in `dir` and writes the map beside it.
    pub(super) fn make(&self, dir: &Path) -> io::Result<Link> {
        symlink(&self.root, &dir.join(&self.link))?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(dir.join(WEIGHT_SPEC_FILE), text)?;
        Ok(Link { name: self.link.clone(), target: self.root.clone(), kind: LinkKind::Symbolic })
    }

    /// Compact, for the model's metadata.
    pub(super) fn text(&self) -> io::Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

fn folder_name(stem: &str) -> String {
    format!("{stem}_checkpoint")
}

/// Whether `name` is that of a file which an export with this stem writes besides its model.
pub(super) fn belongs(stem: &str, name: &str) -> bool {
    let numbered = |rest: &str| {
        let number = rest.strip_prefix('_').and_then(|rest| rest.strip_suffix(".onnx.data"));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    name == WEIGHT_SPEC_FILE
        || name == folder_name(stem)
        || name.strip_prefix(stem).is_some_and(|rest| numbered(rest.strip_prefix("_checkpoint").unwrap_or(rest)))
}

fn symlink(target: &Path, place: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return fs::os::unix::fs::symlink(target, place);
    #[cfg(not(unix))]
    Err(io::Error::new(io::ErrorKind::Unsupported, "symbolic links need a Unix system"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_same_stem_belong() {
        for name in ["M_0.onnx.data", "M_12.onnx.data", "M_checkpoint_3.onnx.data", "M_checkpoint", "weight_spec.json"]
        {
            assert!(belongs("M", name), "{name}");
        }
        for name in ["M.onnx", "M_.onnx.data", "M_x.onnx.data", "M_encoder_0.onnx.data", "Mx_0.onnx.data", "notes.data"]
        {
            assert!(!belongs("M", name), "{name}");
        }
    }
}
