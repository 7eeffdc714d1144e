//! What can go wrong between a user's wish and a plugin's answer.

use std::path::PathBuf;

use qeff_plugin_api::plugin::PluginError;

use super::file::FileError;
use super::trust::TrustError;
use super::worker::StartError;

/// Why there is no plugin, or no answer of it.
#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    /// No plugin describes the architecture.
    #[error(
        "no plugin describes {wanted}{}; supported:\n{supported}\nhint: name the file of a plugin that does: --plugin path/to/plugin.so",
        .chosen.as_ref().map(|plugin| format!(" among those called `{plugin}`")).unwrap_or_default()
    )]
    UnknownArchitecture {
        /// What config.json names.
        wanted: String,
        /// The plugin that the user chose.
        chosen: Option<String>,
        /// A line for each plugin.
        supported: String,
    },
    /// Several plugins claim the same thing equally.
    #[error("{what} is claimed by {}; choose one with {how}", .claims.join(" and by "))]
    Ambiguous {
        /// What is claimed.
        what: String,
        /// Who claims it.
        claims: Vec<String>,
        /// How to choose.
        how: &'static str,
    },
    /// There is no plugin of this name.
    #[error("there is no plugin called `{name}`; known: {}; a file is named by its path: --plugin ./{name}.so", .known.join(", "))]
    UnknownPlugin {
        /// The name.
        name: String,
        /// Names that would have been right.
        known: Vec<String>,
    },
    /// No plugin has an item of this name.
    #[error("there is no {kind} called `{name}`; known: {}", if .known.is_empty() { "none".into() } else { .known.join(", ") })]
    UnknownItem {
        /// `pooling head` or `rewrite`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Names that would have been right.
        known: Vec<String>,
    },
    /// A file is not in order, or no plugin.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not what was agreed to, or nothing was agreed to.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A plugin is not one for this host.
    #[error("cannot load plugin `{}`: {why}", .path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A panic in it would end this process.
    #[error(
        "cannot load plugin `{}` into this process: it was built with `panic = \"abort\"`, so an error in it would end \
         this process; rebuild it with `unwind`, or leave --in-process out",
        .path.display()
    )]
    Abort {
        /// The file.
        path: PathBuf,
    },
    /// There is no process to run it in.
    #[error("cannot load plugin `{}`: {error}", .path.display())]
    Worker {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        error: Box<StartError>,
    },
    /// The plugin has no answer.
    #[error("plugin {plugin}: {source}")]
    Refused {
        /// Name, version and source.
        plugin: String,
        /// Its reason.
        #[source]
        source: Box<PluginError>,
    },
}

impl PluginsError {
    /// Whether other input would help; otherwise a plugin is at fault.
    pub fn is_user_input(&self) -> bool {
        match self {
            PluginsError::Refused { source, .. } => {
                matches!(**source, PluginError::Config(_) | PluginError::Build(_) | PluginError::Other(_))
            }
            PluginsError::Worker { .. } => false,
            _ => true,
        }
    }

    /// Whether neither the user nor a plugin is at fault, but this system.
    pub fn is_external(&self) -> bool {
        matches!(self, PluginsError::Worker { .. })
    }
}
