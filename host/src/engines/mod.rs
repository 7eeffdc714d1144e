//! Which engine executes on the CPU: what there is, where a library is found, and how one is installed.
//!
//! rten is linked in. ONNX Runtime is a library of the user's, looked for in this order: a path that was given, the
//! environment variable `ORT_DYLIB_PATH`, what `engines install ort` has put into our cache. Nothing is searched for
//! anywhere else, and nothing but `engines install` uses the network.

mod install;
mod release;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use self::install::{InstallError, Wheel, install};
pub use self::release::{RELEASES, Release, VERSION};
use crate::home::home;
use crate::runtime::cpu::engine::Engine;
use crate::runtime::cpu::ort::Ort;
use crate::runtime::cpu::ort::library::{Library, LibraryError, inspect};
use crate::runtime::cpu::rten::Rten;

/// The environment variable that names a library; the one that other programs use, too.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// Version of the engine that is linked in.
pub const RTEN_VERSION: &str = "0.27.0";

/// The word of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The engine that is linked in.
    Rten,
    /// ONNX Runtime.
    Ort,
    /// ONNX Runtime if there is one, else rten.
    Auto,
}

/// Who said where the library is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command.
    Flag,
    /// The environment variable.
    Variable,
    /// Nobody: it is where `engines install` puts it.
    Installed,
}

impl Origin {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Flag => "--ort-library",
            Origin::Variable => LIBRARY_VARIABLE,
            Origin::Installed => "installed",
        }
    }
}

/// A place where a library is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The file; it need not exist if somebody named it.
    pub path: PathBuf,
    /// Who said so.
    pub origin: Origin,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EnginesError {
    /// No library anywhere.
    #[error(
        "ONNX Runtime is not there: neither --ort-library nor {LIBRARY_VARIABLE} names a library, and none is installed; \
         have it installed with `qeff-host engines install ort`, or use --engine rten"
    )]
    Missing,
    /// The library does not do.
    #[error("{error} (the path comes from {})", origin.name())]
    Library {
        /// Who named it.
        origin: Origin,
        /// What is wrong.
        #[source]
        error: LibraryError,
    },
    /// An installed library is not what was installed.
    #[error(
        "{} is not the library that was installed: its SHA-256 is {found}, expected {expected}; it is not loaded. Have it \
         installed again with `qeff-host engines install ort`, or use --engine rten", path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its hash.
        found: String,
        /// The hash of the release.
        expected: &'static str,
    },
    /// The library cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
}

/// An engine, ready to load programs.
pub struct Selected {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// Its version and, for a library, where it is and who said so; one line.
    pub about: String,
}

/// The engine for a choice. `library` is the path that the user gave.
///
/// # Errors
/// If the choice is ONNX Runtime, or somebody named a library, and it cannot be used. An installed library that is not
/// what was installed is refused whatever the choice.
pub fn select(choice: Choice, library: Option<&Path>) -> Result<Selected, EnginesError> {
    let located = match choice {
        Choice::Rten => None,
        Choice::Auto => locate(library),
        Choice::Ort => Some(locate(library).ok_or(EnginesError::Missing)?),
    };
    let Some(located) = located else {
        return Ok(Selected { engine: Box::new(Rten), about: format!("rten {RTEN_VERSION}") });
    };
    let version = check(&located)?.unwrap_or_else(|| "of an unknown version".into());
    let Located { path, origin } = located;
    let library = Library::load(&path).map_err(|error| EnginesError::Library { origin, error })?;
    let about = format!("ONNX Runtime {version}, {} ({})", path.display(), origin.name());
    Ok(Selected { engine: Box::new(Ort::new(library)), about })
}

/// Where the library is, if anybody named one or one is installed.
pub fn locate(library: Option<&Path>) -> Option<Located> {
    let variable = || std::env::var_os(LIBRARY_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = library {
        return Some(Located { path: path.to_owned(), origin: Origin::Flag });
    }
    if let Some(path) = variable() {
        return Some(Located { path, origin: Origin::Variable });
    }
    let path = installed_path(Release::here()?)?;
    path.exists().then_some(Located { path, origin: Origin::Installed })
}

/// Checks a library without running any of it; returns its version if it says one.
///
/// # Errors
/// If it does not fit this machine or this program, or is not what was installed.
pub fn check(located: &Located) -> Result<Option<String>, EnginesError> {
    let Located { path, origin } = located;
    if *origin == Origin::Installed
        && let Some(release) = Release::here()
    {
        let read = |error| EnginesError::Read { path: path.clone(), error };
        let found = install::sha256(std::fs::File::open(path).map_err(read)?).map_err(read)?;
        if found != release.library_sha256 {
            return Err(EnginesError::Changed { path: path.clone(), found, expected: release.library_sha256 });
        }
        return Ok(Some(VERSION.to_owned()));
    }
    inspect(path).map_err(|error| EnginesError::Library { origin: *origin, error })
}

/// The folder of engines; `None` without a home.
fn engines_dir() -> Option<PathBuf> {
    Some(home().ok()?.path.join("engines"))
}

fn installed_path(release: &Release) -> Option<PathBuf> {
    Some(engines_dir()?.join(release.folder()).join(release.library))
}
