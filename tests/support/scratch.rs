//! Checkpoints to be spoiled: copies of fixtures.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, View};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::fixture;

/// A copy of a fixture's checkpoint, without what the reference computed for it.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

/// A stored tensor, owned.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Bytes.
    pub data: Vec<u8>,
}

impl View for &Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        (&self.data).into()
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

impl Scratch {
    /// A copy of the fixture `name`, e.g. `llama/base`.
    pub fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for entry in std::fs::read_dir(fixture(name)).expect("a fixture") {
            let entry = entry.expect("an entry");
            if !entry.file_name().to_string_lossy().starts_with("expected.") {
                std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("a copy");
            }
        }
        Scratch { dir }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Replaces a file.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.file(name), bytes).expect("a file of the checkpoint");
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.file(name)).expect("a file of the checkpoint");
    }

    /// Edits a JSON file.
    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Json)) {
        let mut json = serde_json::from_slice(&std::fs::read(self.file(name)).expect("a file")).expect("JSON");
        edit(&mut json);
        self.write(name, json.to_string());
    }

    /// Sets fields of config.json; those set to `"(absent)"` are removed.
    pub fn set(&self, fields: &Json) {
        self.edit_json("config.json", |config| {
            let config = config.as_object_mut().expect("an object");
            for (key, value) in fields.as_object().expect("an object") {
                if value == "(absent)" {
                    config.remove(key);
                } else {
                    config.insert(key.clone(), value.clone());
                }
            }
        });
    }

    /// Edits the tensors of model.safetensors.
    pub fn edit_tensors(&self, edit: impl FnOnce(&mut Vec<Stored>)) {
        let bytes = std::fs::read(self.file("model.safetensors")).expect("weights");
        let stored = |(name, view): (String, safetensors::tensor::TensorView<'_>)| Stored {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        let mut tensors: Vec<_> =
            SafeTensors::deserialize(&bytes).expect("weights").tensors().into_iter().map(stored).collect();
        edit(&mut tensors);
        let named = tensors.iter().map(|tensor| (tensor.name.clone(), tensor));
        self.write("model.safetensors", safetensors::serialize(named, None).expect("weights"));
    }

    /// Removes a tensor from model.safetensors.
    pub fn remove_tensor(&self, name: &str) {
        self.edit_tensors(|tensors| tensors.retain(|tensor| tensor.name != name));
    }

    /// Adds a tensor of one number to model.safetensors.
    pub fn add_tensor(&self, name: &str) {
        self.edit_tensors(|tensors| {
            tensors.push(Stored { name: name.into(), dtype: Dtype::F32, shape: vec![1], data: vec![0; 4] });
        });
    }
}
