//! The QNN (QAIRT) SDK.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Names the root of the QNN SDK.
const ROOT_VARIABLE: &str = "QNN_SDK_ROOT";
/// The only build of the tools that can compile for AI 100.
const BUILD: &str = "x86_64-linux-clang";

/// An installed QNN SDK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QnnSdk {
    /// Its root.
    pub root: PathBuf,
    /// Its version, if `sdk.yaml` says it.
    pub version: Option<String>,
}

impl QnnSdk {
    /// The SDK at `root`, whatever is there of it.
    pub fn at(root: &Path) -> Self {
        let version = super::small_text(&root.join("sdk.yaml")).and_then(|text| {
            let value = text.lines().find_map(|line| line.strip_prefix("version:"))?.trim();
            Some(value.trim_matches(['\'', '"']).to_owned())
        });
        QnnSdk { root: root.to_owned(), version }
    }

    /// Looks where the user says and where `QNN_SDK_ROOT` says.
    ///
    /// # Errors
    /// If a place is named that has not all tools.
    pub fn find(asked: Option<&Path>) -> Result<Option<Self>> {
        let variable = std::env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty()).map(PathBuf::from);
        let Some((root, by)) =
            asked.map(|root| (root.to_owned(), "--qnn-sdk")).or(variable.map(|root| (root, ROOT_VARIABLE)))
        else {
            return Ok(None);
        };
        let sdk = QnnSdk::at(&std::path::absolute(&root).unwrap_or_else(|_| root.clone()));
        for tool in [sdk.converter(), sdk.generator()] {
            if tool.is_file() {
                continue;
            }
            let old = sdk.tool("qnn-onnx-converter").is_file();
            let note = if old {
                "; qnn-onnx-converter is there, but it makes no .dlc: update to an SDK with QAIRT"
            } else {
                ""
            };
            bail!("{by} {}: expected the root of a QNN SDK, {} is missing{note}", root.display(), tool.display());
        }
        Ok(Some(sdk))
    }

    /// What a dry run without an SDK prints; a shell that has the variable understands it.
    pub fn assumed() -> Self {
        QnnSdk { root: PathBuf::from(format!("${ROOT_VARIABLE}")), version: None }
    }

    fn tool(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(BUILD).join(name)
    }

    /// From ONNX to a `.dlc`.
    pub fn converter(&self) -> PathBuf {
        self.tool("qairt-converter")
    }

    /// From a `.dlc` to a QPC.
    pub fn generator(&self) -> PathBuf {
        self.tool("qnn-context-binary-generator")
    }

    /// A library of the backend.
    pub fn library(&self, name: &str) -> PathBuf {
        self.root.join("lib").join(BUILD).join(name)
    }
}
