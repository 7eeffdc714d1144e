//! Who contributes what.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{Architecture, GraphRewrite, PluginError, PoolingHead, Request};

use super::PluginsError;

/// Where a plugin's code comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// This binary.
    BuiltIn,
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::BuiltIn => f.write_str("built-in"),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

/// Which plugin contributes something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Name, e.g. `llama`.
    pub plugin: String,
    /// Where it comes from.
    pub source: Source,
    /// Version of its crate.
    pub version: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.plugin, self.version, self.source)
    }
}

impl Origin {
    /// Whether a user who says `choice` means this plugin: by name, or by its file.
    pub(super) fn is(&self, choice: &str) -> bool {
        match &self.source {
            Source::File(path) if is_path(choice) => same_file(path, Path::new(choice)),
            Source::BuiltIn if is_path(choice) => false,
            _ => self.plugin == choice,
        }
    }
}

/// Whether an argument of `--plugin` is a file rather than a name.
pub fn is_path(choice: &str) -> bool {
    choice.contains(['/', std::path::MAIN_SEPARATOR])
        || Path::new(choice).extension().is_some_and(|ext| ["so", "dylib", "dll"].iter().any(|known| ext == *known))
}

pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

/// An item with the plugin that contributes it.
pub struct Entry<T: ?Sized> {
    /// The plugin.
    pub origin: Arc<Origin>,
    /// The item.
    pub item: Arc<T>,
}

impl<T: ?Sized> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Entry { origin: Arc::clone(&self.origin), item: Arc::clone(&self.item) }
    }
}

impl<T: ?Sized> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry of {}", self.origin)
    }
}

impl<T: ?Sized> Entry<T> {
    fn refused(&self, source: PluginError) -> PluginsError {
        PluginsError::Refused { plugin: self.origin.to_string(), source: Box::new(source) }
    }
}

impl Entry<dyn Architecture> {
    /// Describes a model; an error names the plugin.
    ///
    /// # Errors
    /// As [`Architecture::describe`].
    pub fn describe(&self, request: &Request) -> Result<Model, PluginsError> {
        self.item.describe(request).map_err(|error| self.refused(error))
    }
}

impl Entry<dyn PoolingHead> {
    /// Appends the head; an error names the plugin.
    ///
    /// # Errors
    /// As [`PoolingHead::append`].
    pub fn append(&self, model: Model, tensors: &TensorIndex) -> Result<Model, PluginsError> {
        self.item.append(model, tensors).map_err(|error| self.refused(error))
    }
}

impl Entry<dyn GraphRewrite> {
    /// Rewrites a model; an error names the plugin.
    ///
    /// # Errors
    /// As [`GraphRewrite::rewrite`].
    pub fn rewrite(&self, model: Model, tensors: &TensorIndex) -> Result<Model, PluginsError> {
        self.item.rewrite(model, tensors).map_err(|error| self.refused(error))
    }
}
