//! What can be wrong with a file.

use std::path::PathBuf;

use qeff_plugin_api::abi::SYMBOL_PREFIX;

/// Why a file is not used as a plugin.
#[derive(Debug, thiserror::Error)]
#[error("cannot load plugin `{}`: {fault}", .path.display())]
pub struct FileError {
    /// The file, as the user named it.
    pub path: PathBuf,
    /// The reason.
    #[source]
    pub fault: FileFault,
}

/// What is wrong with a file, in the order in which it is looked for.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// It is a symbolic link, which may lead elsewhere tomorrow.
    #[error("it is a symbolic link; name the file that it leads to")]
    Link,
    /// It is a directory, a pipe, a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// Somebody else owns it, or a folder above it.
    #[error("{} belongs to user {owner}, who could change it; expected it to be yours or root's", .what.display())]
    Owner {
        /// The file or folder.
        what: PathBuf,
        /// Number of its owner.
        owner: u32,
    },
    /// Somebody else may change it, or replace it.
    #[error("{} is writable by {who} (mode {mode:04o}); take that away: chmod go-w {}", .what.display(), .what.display())]
    Writable {
        /// The file or folder.
        what: PathBuf,
        /// Its permissions.
        mode: u32,
        /// `its group` or `everybody`.
        who: &'static str,
    },
    /// It is longer than what is read.
    #[error("it is longer than {} MiB", super::MAX_FILE >> 20)]
    TooLong,
    /// It is no shared library, or a damaged one.
    #[error("it is not a shared library: {0}")]
    NotALibrary(String),
    /// It was built for other machines.
    #[error("it was built for {found}, this machine is {host}")]
    Machine {
        /// Machine of the file.
        found: String,
        /// Machine of this process.
        host: &'static str,
    },
    /// It is cut off, or its headers lie.
    #[error("it is truncated or damaged: {0}")]
    Truncated(String),
    /// It says where to look for libraries.
    #[error(
        "it carries a search path for libraries ({tag} `{path}`), which would bring in files that nobody checked; link it without"
    )]
    SearchPath {
        /// `RPATH` or `RUNPATH`.
        tag: &'static str,
        /// The path.
        path: String,
    },
    /// It brings in other libraries than the system's own.
    #[error(
        "it needs the library `{0}`; a plugin may need the C library and what belongs to it only: link the rest statically"
    )]
    Needs(String),
    /// It asks the loader for something that plugins have no use for.
    #[error("it asks for {0}, which a plugin has no use for")]
    Asks(&'static str),
    /// It is a library, but no plugin.
    #[error("it is a library, but not a qeff plugin: no symbol `{SYMBOL_PREFIX}…` (is `export_plugin!` missing?)")]
    NoPlugin,
    /// Several plugin crates were linked into one library.
    #[error("it holds several plugins: {0}; link only one crate with `export_plugin!` into a library")]
    SeveralPlugins(String),
    /// It was built for another epoch of the boundary.
    #[error("it was built for plugin ABI {0}, this host speaks ABI 1; rebuild it")]
    Epoch(String),
    /// It does not declare what it is.
    #[error("it has no manifest; rebuild it with this version of qeff-plugin-api")]
    NoManifest,
    /// What it declares of itself is malformed.
    #[error("its manifest is malformed: {0}")]
    Manifest(String),
    /// Files in memory cannot be made or executed.
    #[error(
        "a checked copy cannot be loaded from memory: {0}; where the setting vm.memfd_noexec is 2, plugins from files cannot be used"
    )]
    Memory(std::io::Error),
}
