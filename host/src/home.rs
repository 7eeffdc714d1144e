//! Where qeff keeps what it makes and may need again: one root for artifacts, engines and notes.
//!
//! ```text
//! $QEFF_HOME, else $XDG_CACHE_HOME/qeff_cache, else ~/.cache/qeff_cache
//! ```
//! This module knows the rule and makes nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The root, and which rule gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Absolute path. Nothing need be there yet.
    pub path: PathBuf,
    /// What decided: `QEFF_HOME`, `XDG_CACHE_HOME` or `HOME`.
    pub decided_by: &'static str,
}

/// There is no place to keep anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no place for the cache: none of QEFF_HOME, XDG_CACHE_HOME and HOME is set; set QEFF_HOME to a folder")]
pub struct NoHome;

/// The root of this process.
///
/// # Errors
/// If the environment names no folder at all.
pub fn home() -> Result<Home, NoHome> {
    from(|name| std::env::var_os(name))
}

fn from(var: impl Fn(&str) -> Option<OsString>) -> Result<Home, NoHome> {
    // Set to nothing is not set: scripts clear variables that way.
    let folder = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The XDG rule: a relative path is invalid, and ignored.
    let absolute = |path: &PathBuf| path.is_absolute();
    let (path, decided_by) = if let Some(path) = folder("QEFF_HOME") {
        (path, "QEFF_HOME")
    } else if let Some(path) = folder("XDG_CACHE_HOME").filter(absolute) {
        (path.join("qeff_cache"), "XDG_CACHE_HOME")
    } else {
        (folder("HOME").ok_or(NoHome)?.join(".cache/qeff_cache"), "HOME")
    };
    // Made absolute here, so that it means the same to a child process with another working directory.
    let path = std::path::absolute(Path::new(&path)).unwrap_or(path);
    Ok(Home { path, decided_by })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)]) -> Result<(PathBuf, &'static str), NoHome> {
        let vars: Vec<(String, OsString)> = vars.iter().map(|(k, v)| ((*k).to_owned(), OsString::from(v))).collect();
        from(|name| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
            .map(|home| (home.path, home.decided_by))
    }

    #[test]
    fn the_first_that_is_set_decides() {
        let home = ("HOME", "/h");
        let place = |path: &str, by| Ok((PathBuf::from(path), by));
        assert_eq!(with(&[("QEFF_HOME", "/q"), ("XDG_CACHE_HOME", "/x"), home]), place("/q", "QEFF_HOME"));
        assert_eq!(with(&[("XDG_CACHE_HOME", "/x"), home]), place("/x/qeff_cache", "XDG_CACHE_HOME"));
        assert_eq!(with(&[home]), place("/h/.cache/qeff_cache", "HOME"));
        assert_eq!(with(&[]), Err(NoHome));
    }

    #[test]
    fn empty_and_relative_values() {
        let found = with(&[("QEFF_HOME", ""), ("XDG_CACHE_HOME", "relative"), ("HOME", "/h")]);
        assert_eq!(found, Ok((PathBuf::from("/h/.cache/qeff_cache"), "HOME")));
        let (path, by) = with(&[("QEFF_HOME", "here")]).expect("a home");
        assert!(path.is_absolute() && path.ends_with("here") && by == "QEFF_HOME", "{path:?}");
    }
}
