//! Where the runtime library lies, and the header that describes it.

use std::path::{Path, PathBuf};

use crate::compile::sdk::{INSTALLED, ROOT_VARIABLE, Sdk};

/// Names the library itself.
pub const LIBRARY_VARIABLE: &str = "QAIC_LIB";
/// Name of the library where the system looks for libraries.
const LIBRARY: &str = "libQAic.so";

/// A library, not opened yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The file; a bare name is looked for by the system.
    pub library: PathBuf,
    /// The header beside it, if there is one.
    pub header: Option<PathBuf>,
    /// `qaic-util`, if there is one.
    pub util: Option<PathBuf>,
    /// Why this one, for messages.
    pub by: String,
}

/// The library to use: of the SDK that the user names, the one that `QAIC_LIB` names, of the SDK that the environment
/// names or that is installed, or what the system finds.
pub fn locate(asked: Option<&Path>) -> Located {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    choose(asked, variable(LIBRARY_VARIABLE), variable(ROOT_VARIABLE))
}

fn choose(asked: Option<&Path>, library: Option<PathBuf>, root: Option<PathBuf>) -> Located {
    let named = asked.map(|root| (root.to_owned(), "--sdk")).or(root.map(|root| (root, ROOT_VARIABLE)));
    let (root, found_by) = named.unwrap_or_else(|| (INSTALLED.into(), "the usual place"));
    let sdk = Sdk::at(&root, found_by);
    let header = Some(sdk.root.join("dev/inc/QAicApi.h")).filter(|path| path.is_file());
    let util = sdk.qaic_util.clone();
    if let Some(library) = library.filter(|_| asked.is_none()) {
        return Located { library, header, util, by: format!("named by {LIBRARY_VARIABLE}") };
    }
    if let Some(library) = sdk.library {
        return Located { library, header, util, by: format!("of the SDK at {}, {found_by}", sdk.root.display()) };
    }
    if asked.is_some() {
        // Another SDK's library is not what was asked for.
        let library = sdk.root.join(crate::compile::sdk::LIBRARY_PATH);
        return Located { library, header, util, by: format!("of the SDK at {}, {found_by}", sdk.root.display()) };
    }
    Located { library: LIBRARY.into(), header, util, by: format!("no SDK at {}", sdk.root.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_most_explicit_decides() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(crate::compile::sdk::LIBRARY_PATH);
        let nowhere = || Some(PathBuf::from("/nowhere"));
        assert_eq!(choose(Some(root.path()), nowhere(), None).library, file, "missing, but asked for");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "").unwrap();
        assert_eq!(choose(Some(root.path()), nowhere(), None).library, file);
        assert_eq!(choose(None, nowhere(), Some(root.path().into())).library, PathBuf::from("/nowhere"));
        assert_eq!(choose(None, None, Some(root.path().into())).library, file);
        assert_eq!(choose(None, None, nowhere()).library, PathBuf::from(LIBRARY));
    }
}
