//! Where plugins are looked for by name: folders that the user names, then the one where `plugins add` puts them.
//!
//! Never the working directory, and never where the system looks for libraries: what lies there was not put there to be
//! executed by us.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Names folders in which plugins are looked for, separated by colons.
pub const PATH_VARIABLE: &str = "QEFF_PLUGIN_PATH";

/// Folders of this user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    /// Those of `QEFF_PLUGIN_PATH`, in its order.
    pub named: Vec<PathBuf>,
    /// Where qeff keeps what is the user's: `$XDG_DATA_HOME/qeff`. `None` if the environment names no folder.
    pub data: Option<PathBuf>,
    /// Where qeff finds what the user decided: `$XDG_CONFIG_HOME/qeff`.
    pub config: Option<PathBuf>,
}

impl Folders {
    /// The folders of this process. With rights that its environment's author may not have, it has none.
    pub fn of_process() -> Self {
        if borrowed_rights(|name| std::env::var_os(name)) {
            return Folders::default();
        }
        Folders::from(|name| std::env::var_os(name))
    }

    fn from(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let folder = |name: &str| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = |below: &str| folder("HOME").map(|home| home.join(below));
        let named = var(PATH_VARIABLE).unwrap_or_default();
        Folders {
            // A relative folder, `.` for one, would mean something else in every working directory.
            named: std::env::split_paths(&named).filter(|path| path.is_absolute()).collect(),
            data: folder("XDG_DATA_HOME").or_else(|| home(".local/share")).map(|data| data.join("qeff")),
            config: folder("XDG_CONFIG_HOME").or_else(|| home(".config")).map(|config| config.join("qeff")),
        }
    }

    /// Where `plugins add` puts plugins.
    pub fn plugins(&self) -> Option<PathBuf> {
        self.data.as_deref().map(|data| data.join("plugins"))
    }

    /// Folders in the order in which they are searched.
    pub fn searched(&self) -> Vec<PathBuf> {
        self.named.iter().cloned().chain(self.plugins()).collect()
    }
}

/// Whether this process has rights that whoever started it has not: set-user-id, or root by sudo for somebody else.
fn borrowed_rights(var: impl Fn(&str) -> Option<OsString>) -> bool {
    use rustix::process::{getegid, geteuid, getgid, getuid};
    let root_for_another = geteuid().is_root() && var("SUDO_UID").is_some_and(|uid| uid != "0");
    getuid() != geteuid() || getgid() != getegid() || root_for_another
}

/// Shared objects in a folder, sorted by name; none if there is no such folder.
pub(super) fn shared_objects(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "so")).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)]) -> Folders {
        Folders::from(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn named_folders_come_first_and_relative_ones_not_at_all() {
        let folders = with(&[(PATH_VARIABLE, "/a:.::b:/c"), ("XDG_DATA_HOME", "/d"), ("HOME", "/h")]);
        assert_eq!(folders.searched(), ["/a", "/c", "/d/qeff/plugins"].map(PathBuf::from));
        assert_eq!(folders.config, Some("/h/.config/qeff".into()));
        assert_eq!(with(&[("HOME", "/h")]).searched(), [PathBuf::from("/h/.local/share/qeff/plugins")]);
        assert_eq!(with(&[("XDG_DATA_HOME", "x")]), Folders::default());
    }

    #[test]
    fn root_for_somebody_else_searches_nowhere() {
        let sudo = |uid: &'static str| move |name: &str| (name == "SUDO_UID").then(|| uid.into());
        assert_eq!(borrowed_rights(sudo("1000")), rustix::process::geteuid().is_root());
        assert!(!borrowed_rights(sudo("0")) && !borrowed_rights(|_| None));
    }
}
