//! Stand-in SDKs (`qeff-standin`), each in a folder of its own. The host cannot tell them from real ones.

use std::path::{Path, PathBuf};

use qeff_standin::{Built, Root, SimConfig, sim_root};
use tempfile::TempDir;

/// A laid-out SDK.
#[derive(Debug)]
pub struct Standin {
    dir: TempDir,
    root: Root,
}

impl Standin {
    /// Lays one out. `tool` is the path of `qeff-standin-under-test`, which only a test knows.
    pub fn new(tool: &str, config: &SimConfig) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let built = Built::with_tool(Path::new(tool)).expect("the library of the stand-in");
        let root = sim_root(&dir.path().join("sdk"), config, &built).expect("an SDK");
        Standin { dir, root }
    }

    /// Its root.
    pub fn root(&self) -> &Path {
        &self.root.dir
    }

    /// A folder beside it that goes with it.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// The runtime library.
    pub fn library(&self) -> PathBuf {
        self.root().join("dev/lib/x86_64/libQAic.so")
    }

    /// Changes what goes wrong and what is allowed; what is installed stays.
    pub fn configure(&self, config: &SimConfig) {
        self.root.configure(config).expect("a config");
    }

    /// Calls of tools and library so far.
    pub fn calls(&self) -> Vec<serde_json::Value> {
        self.root.calls().expect("a log")
    }
}
