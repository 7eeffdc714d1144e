//! What goes wrong with tools that are not ours.

use std::fmt;
use std::path::PathBuf;

use crate::compile::ChildError;
use crate::compile::sdk::{INSTALLED, ROOT_VARIABLE};

/// There is nothing to compile with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSdk {
    /// QNN's was asked for.
    pub qnn: bool,
}

impl fmt::Display for NoSdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.qnn {
            return write!(
                f,
                "cannot compile: there is no QNN SDK; set QNN_SDK_ROOT or give --qnn-sdk DIR\n\
                 hint: --dry-run shows commands and files without one"
            );
        }
        write!(
            f,
            "cannot compile: there is no AI 100 SDK at {INSTALLED}; install it, set {ROOT_VARIABLE}, or give --sdk DIR\n\
             hint: --dry-run shows commands and files without one"
        )
    }
}

impl std::error::Error for NoSdk {}

/// A tool failed: everything that helps to find out why.
#[derive(Debug)]
pub struct ToolFailure {
    /// What happened.
    pub error: ChildError,
    /// The command, as a shell takes it.
    pub command: String,
    /// Tools and version.
    pub toolchain: String,
    /// Everything it printed.
    pub log: PathBuf,
    /// What to try next.
    pub advice: Option<&'static str>,
}

impl fmt::Display for ToolFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        for line in self.error.tail() {
            write!(f, "\n  | {line}")?;
        }
        write!(f, "\n  command: {}", self.command)?;
        write!(f, "\n  with: {}", self.toolchain)?;
        write!(f, "\n  log: {}", self.log.display())?;
        self.advice.map_or(Ok(()), |advice| write!(f, "\nhint: {advice}"))
    }
}

// Its cause is part of what it says.
impl std::error::Error for ToolFailure {}
