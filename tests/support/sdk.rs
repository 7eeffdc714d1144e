//! SDKs made of shell scripts (`tests/support/tools`), in a folder of their own. The host cannot tell them from real ones.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::root;

/// A fake SDK.
#[derive(Debug)]
pub struct Sdk {
    dir: TempDir,
}

impl Sdk {
    /// An AI 100 SDK with the compiler `tool` and these versions of apps and platform.
    pub fn new(tool: &str, version: Option<&str>) -> Self {
        let sdk = Sdk { dir: tempfile::tempdir().expect("a folder") };
        sdk.link("exec", tool, "qaic-compile");
        sdk.link("tools", "qaic-util", "qaic-util");
        if let Some(version) = version {
            for part in ["apps", "platform"] {
                let text = format!("<versions><base_version>{version}</base_version></versions>\n");
                sdk.write(&format!("versions/{part}.xml"), &text);
            }
        }
        sdk
    }

    /// The newest form of an AI 100 SDK.
    pub fn newest() -> Self {
        Sdk::new("qaic-compile", Some("1.22.0.58"))
    }

    /// A QNN SDK.
    pub fn qnn() -> Self {
        let sdk = Sdk { dir: tempfile::tempdir().expect("a folder") };
        for tool in ["qairt-converter", "qnn-context-binary-generator"] {
            sdk.link("bin/x86_64-linux-clang", tool, tool);
        }
        sdk.write("sdk.yaml", "name: fake\nversion: 2.40.0\n");
        sdk
    }

    /// Links, not copies: a script that was just written cannot always be executed.
    fn link(&self, folder: &str, name: &str, script: &str) {
        let folder = self.root().join(folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        symlink(root().join("tests/support/tools").join(script), folder.join(name)).expect("a link");
    }

    /// Its root.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file that changes what the tools do.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.root().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    /// Takes such a file away.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.root().join(name)).expect("a file");
    }

    /// Calls of the tools since the last look.
    pub fn calls(&self) -> Vec<String> {
        let path = self.root().join("calls");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }
}

/// Every QPC below a folder.
pub fn qpcs(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(qpcs(&path));
        } else if path.ends_with("qpc/programqpc.bin") {
            found.push(path);
        }
    }
    found.sort();
    found
}
