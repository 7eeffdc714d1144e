//! Why a plugin is not trusted.

use std::path::PathBuf;

use crate::plugins::file::FileError;

/// Why a plugin is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file is not in order.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not the file that was pinned.
    #[error(
        "plugin `{}` has changed since `{name}` was pinned:\n  pinned sha256 {pinned}\n  found  sha256 {found}\n\
         hint: if you changed it, `qeff-host plugins add` pins it anew", .path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// The pin.
        name: String,
        /// What was pinned.
        pinned: String,
        /// What is there.
        found: String,
    },
    /// It must be pinned to run in this process.
    #[error("--in-process runs a plugin with all your rights, so it must be pinned first: qeff-host plugins add {}", .path.display())]
    NeedsPin {
        /// The file.
        path: PathBuf,
    },
    /// There is no such pin.
    #[error("no plugin called `{name}` was added; known: {}", if .known.is_empty() { "none".into() } else { .known.join(", ") })]
    NoPin {
        /// The name.
        name: String,
        /// Names that would have been right.
        known: Vec<String>,
    },
    /// There is no place to keep plugins.
    #[error("no place for plugins: set XDG_DATA_HOME or HOME to an absolute path")]
    NoFolder,
    /// The lock file is malformed.
    #[error("{}: {why}; it is written by `qeff-host plugins add`", .path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A signature or a key is not what it should be.
    #[error("{}: {why}", .path.display())]
    Signature {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Something cannot be written.
    #[error("cannot write below {}: {why}", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}
