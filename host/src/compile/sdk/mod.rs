//! Where the SDK is, what it can do, and what follows from that.
//!
//! Looking is cheap and starts no process: files are found and small ones are read. Only cards have to be asked for
//! ([`cards`]), and what they say is kept.
//!
//! | what is found | what follows |
//! |---|---|
//! | `exec/qaic-compile` | it is used |
//! | only `exec/qaic-exec` | it is used, with `-compile-only`, without which it would run a benchmark, too |
//! | version ≥ 1.22, or unknown with `qaic-compile` | named specializations |
//! | `qaic-exec` of a version < 1.21 or unknown | the hardware is called 2.0, not ai100 |

pub mod cards;
mod qnn;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::Dialect;

pub use qnn::QnnSdk;

/// Names the root of the SDK.
pub const ROOT_VARIABLE: &str = "QAIC_SDK_ROOT";
/// Where the SDK installs itself.
pub const INSTALLED: &str = "/opt/qti-aic";
/// Where the runtime library lies in an SDK.
pub const LIBRARY_PATH: &str =
    if cfg!(target_arch = "aarch64") { "dev/lib/aarch64/libQAic.so" } else { "dev/lib/x86_64/libQAic.so" };
/// Most that is read of a file that says a version.
const MAX_VERSIONS: u64 = 1 << 20;

/// A compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Since January 2026.
    QaicCompile,
    /// Before that; deprecated.
    QaicExec,
}

impl Tool {
    /// Name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Tool::QaicCompile => "qaic-compile",
            Tool::QaicExec => "qaic-exec",
        }
    }
}

/// A version of the SDK, as far as it decides anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split('.').map(|part| part.parse().ok());
        Some(Version { major: numbers.next()??, minor: numbers.next()?? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// An installed SDK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sdk {
    /// Its root.
    pub root: PathBuf,
    /// How it was found: a flag, a variable, or the place where it is installed.
    pub found_by: &'static str,
    /// `qaic-compile`, if it is there.
    pub qaic_compile: Option<PathBuf>,
    /// `qaic-exec`, if it is there.
    pub qaic_exec: Option<PathBuf>,
    /// `qaic-util`, if it is there.
    pub qaic_util: Option<PathBuf>,
    /// The runtime library, if it is there.
    pub library: Option<PathBuf>,
    /// Version of the apps SDK in full.
    pub apps_version: Option<String>,
    /// Version of the platform SDK in full.
    pub platform_version: Option<String>,
}

impl Sdk {
    /// The SDK at `root`, whatever is there of it.
    pub fn at(root: &Path, found_by: &'static str) -> Self {
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let file = |path: &str| Some(root.join(path)).filter(|path| path.is_file());
        Sdk {
            qaic_compile: file("exec/qaic-compile"),
            qaic_exec: file("exec/qaic-exec"),
            qaic_util: file("tools/qaic-util"),
            library: file(LIBRARY_PATH),
            apps_version: base_version(&root.join("versions/apps.xml")),
            platform_version: base_version(&root.join("versions/platform.xml")),
            found_by,
            root,
        }
    }

    /// Looks where the user says, where the environment says, and where the SDK installs itself, in this order.
    ///
    /// # Errors
    /// If the user or the environment names a place that has no compiler.
    pub fn find(asked: Option<&Path>) -> Result<Option<Self>> {
        let variable = std::env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty()).map(PathBuf::from);
        let named = asked.map(|root| (root.to_owned(), "--sdk")).or(variable.map(|root| (root, ROOT_VARIABLE)));
        if let Some((root, by)) = named {
            let sdk = Sdk::at(&root, by);
            if !sdk.has_compiler() {
                bail!(
                    "{by} {}: expected the root of an AI 100 SDK, with exec/qaic-compile or exec/qaic-exec; found neither",
                    root.display()
                );
            }
            return Ok(Some(sdk));
        }
        Ok(Some(Sdk::at(Path::new(INSTALLED), "the usual place")).filter(Sdk::has_compiler))
    }

    fn has_compiler(&self) -> bool {
        self.qaic_compile.is_some() || self.qaic_exec.is_some()
    }

    /// The version that decides dialects.
    pub fn version(&self) -> Option<Version> {
        self.apps_version.as_deref().and_then(Version::parse)
    }

    /// The compiler to use; `None` if there is none.
    pub fn compiler(&self) -> Option<Compiler> {
        let (tool, path) = match (&self.qaic_compile, &self.qaic_exec) {
            (Some(path), _) => (Tool::QaicCompile, path),
            (None, Some(path)) => (Tool::QaicExec, path),
            (None, None) => return None,
        };
        Some(Compiler::new(tool, path.clone(), self.version()))
    }
}

/// A compiler with what its command line has to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// Which.
    pub tool: Tool,
    /// The program.
    pub path: PathBuf,
    /// The form of specializations, and why.
    pub dialect: (Dialect, String),
    /// What it calls the hardware, and why.
    pub hw_version: (String, String),
}

impl Compiler {
    fn new(tool: Tool, path: PathBuf, version: Option<Version>) -> Self {
        let since = |minor| version.map(|version| version >= Version { major: 1, minor });
        let of = version.map_or("an SDK of unknown version".into(), |version| format!("SDK {version}"));
        let named = since(22).unwrap_or(tool == Tool::QaicCompile);
        let new_name = tool == Tool::QaicCompile || since(21).unwrap_or(false);
        let because = format!("{} of {of}", tool.name());
        Compiler {
            tool,
            path,
            dialect: (if named { Dialect::Named } else { Dialect::Classic }, because.clone()),
            hw_version: (if new_name { "ai100" } else { "2.0" }.to_owned(), because),
        }
    }

    /// What a dry run without an SDK assumes.
    pub fn assumed() -> Self {
        let why = "no SDK was found; assumed".to_owned();
        Compiler {
            tool: Tool::QaicCompile,
            path: Path::new(INSTALLED).join("exec/qaic-compile"),
            dialect: (Dialect::Named, why.clone()),
            hw_version: ("ai100".to_owned(), why),
        }
    }

    /// The same for the cards that are there: AI 200 is called by its name.
    #[must_use]
    pub fn for_cards(mut self, cards: &[cards::Card]) -> Self {
        if let Some(card) = cards.iter().find(|card| card.is_ai200()) {
            self.hw_version = ("ai200".to_owned(), format!("card {} is an {}", card.qid, card.variant));
        }
        self
    }
}

/// The text of the first `base_version` element of a file of versions.
fn base_version(path: &Path) -> Option<String> {
    let text = small_text(path)?;
    let (_, rest) = text.split_once("<base_version>")?;
    let (version, _) = rest.split_once("</base_version>")?;
    Some(version.trim().to_owned()).filter(|version| !version.is_empty())
}

fn small_text(path: &Path) -> Option<String> {
    let meta = std::fs::metadata(path).ok()?;
    (meta.is_file() && meta.len() <= MAX_VERSIONS).then(|| std::fs::read_to_string(path).ok()).flatten()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
