//! Typed reading of the JSON files beside a checkpoint, with errors that name the place.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::VisionError;

/// Largest file that is read: published ones have a few kilobytes.
const MAX_FILE: u64 = 16 << 20;

/// Largest size that anything in such a file may state.
const MAX_COUNT: u64 = 1 << 20;

/// An object of a file.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    file: PathBuf,
    object: Map<String, Value>,
}

impl Fields {
    /// Reads a file, `None` if there is none.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, VisionError> {
        let read = |source| VisionError::Read { path: path.to_owned(), source };
        let meta = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            meta => meta.map_err(read)?,
        };
        let whole = |found: &dyn std::fmt::Display| VisionError::field(path, "(the file)", "a JSON object", found);
        if meta.len() > MAX_FILE {
            return Err(whole(&format!("{} bytes", meta.len())));
        }
        let bytes = std::fs::read(path).map_err(read)?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => Ok(Some(Fields { file: path.to_owned(), object })),
            Ok(other) => Err(whole(&other)),
            Err(error) => Err(whole(&error)),
        }
    }

    /// The fields of an object that is a field, if there is one.
    pub(super) fn within(&self, key: &str) -> Result<Option<Self>, VisionError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields { file: self.file.clone(), object: object.clone() })),
            Some(other) => Err(self.wrong(key, "an object", other)),
        }
    }

    /// A field, unless it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether the field is there and null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_null)
    }

    /// The error of a field that is something else.
    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>, found: impl std::fmt::Display) -> VisionError {
        VisionError::field(&self.file, key, expected, found)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, VisionError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, VisionError> {
        self.typed(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, VisionError> {
        self.typed(key, "a finite number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    /// A whole number of 0 or more.
    pub(super) fn count(&self, key: &str) -> Result<Option<u32>, VisionError> {
        self.typed(key, &format!("a whole number from 0 to {MAX_COUNT}"), count)
    }

    /// A whole number of 1 or more.
    pub(super) fn size(&self, key: &str) -> Result<Option<u32>, VisionError> {
        self.typed(key, &sized(), size)
    }

    /// Three numbers, or one for all three.
    pub(super) fn three(&self, key: &str) -> Result<Option<[f64; 3]>, VisionError> {
        self.typed(key, "three finite numbers, for red, green and blue", |value| {
            let number = |value: &Value| value.as_f64().filter(|number| number.is_finite());
            match value {
                Value::Array(list) => list.iter().map(number).collect::<Option<Vec<_>>>()?.try_into().ok(),
                one => number(one).map(|one| [one; 3]),
            }
        })
    }

    /// Pairs of whole numbers of 1 or more.
    pub(super) fn pairs(&self, key: &str) -> Result<Option<Vec<[u32; 2]>>, VisionError> {
        let pair = |value: &Value| -> Option<[u32; 2]> {
            value.as_array()?.iter().map(size).collect::<Option<Vec<_>>>()?.try_into().ok()
        };
        self.typed(key, &format!("a list of pairs, [height, width], of {}", sized()), |value| {
            value.as_array()?.iter().map(pair).collect()
        })
    }

    pub(super) fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, VisionError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.wrong(key, expected, value)),
        }
    }
}

fn sized() -> String {
    format!("a whole number from 1 to {MAX_COUNT}")
}

fn count(value: &Value) -> Option<u32> {
    value.as_u64().filter(|&n| n <= MAX_COUNT).and_then(|n| u32::try_from(n).ok())
}

fn size(value: &Value) -> Option<u32> {
    count(value).filter(|&n| n > 0)
}
