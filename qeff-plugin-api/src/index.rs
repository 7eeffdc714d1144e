//! The tensor index: what a checkpoint holds, without a byte of what it says.
//!
//! A description must be a pure function so that it can run in another process and be cached by hash; so names, types
//! and shapes go in as data, and no weight is ever read by a plugin.

use std::collections::BTreeMap;

use crate::DType;

/// Type and shape of one stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type as stored.
    pub dtype: DType,
    /// Dimensions as stored, slowest first.
    pub shape: Vec<u64>,
}

/// Every tensor of a checkpoint by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorIndex {
    tensors: BTreeMap<String, TensorInfo>,
}

impl TensorIndex {
    /// An index without tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor; returns the entry it replaced, if the name was taken.
    pub fn insert(&mut self, name: impl Into<String>, info: TensorInfo) -> Option<TensorInfo> {
        self.tensors.insert(name.into(), info)
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<TensorInfo> {
        self.tensors.remove(name)
    }

    /// Type and shape of `name`.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Whether the checkpoint has a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whether any tensor name begins with `prefix`.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.tensors.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// All tensors in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
}

impl FromIterator<(String, TensorInfo)> for TensorIndex {
    fn from_iter<I: IntoIterator<Item = (String, TensorInfo)>>(iter: I) -> Self {
        Self { tensors: iter.into_iter().collect() }
    }
}
