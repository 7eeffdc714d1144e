//! Lays an SDK out.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::config::{FILE, SimConfig};
use crate::{header, log};

/// Where QNN keeps its tools and libraries.
const QNN_BUILD: &str = "x86_64-linux-clang";

/// What cargo built: the program that all tools are, and the library.
#[derive(Debug, Clone)]
pub struct Built {
    /// The program.
    pub tool: PathBuf,
    /// The library.
    pub library: PathBuf,
}

impl Built {
    /// The program at `tool`, and the library that cargo put beside it.
    ///
    /// # Errors
    /// If there is no library.
    pub fn with_tool(tool: &Path) -> Result<Self> {
        let folder = tool.parent().unwrap_or(Path::new("."));
        // The one among the dependencies is always the one that was built last.
        let places = [folder.join("deps"), folder.to_owned(), folder.join("..").join("deps"), folder.join("..")];
        let found = places.iter().map(|place| place.join("libqeff_standin.so")).find(|path| path.is_file());
        let library = found.with_context(|| {
            format!("no libqeff_standin.so near {}: cargo build -p qeff-standin builds it", tool.display())
        })?;
        Ok(Built { tool: tool.to_owned(), library })
    }
}

/// A laid-out SDK.
#[derive(Debug, Clone)]
pub struct Root {
    /// Its folder.
    pub dir: PathBuf,
}

impl Root {
    /// Calls of tools and library so far, oldest first.
    ///
    /// # Errors
    /// If the log is damaged.
    pub fn calls(&self) -> Result<Vec<serde_json::Value>> {
        let config = SimConfig::find(Some(&self.dir))?;
        config.log.map_or(Ok(vec![]), |path| log::read(&self.dir.join(path)))
    }

    /// Changes the config of an SDK that is laid out. What is installed stays as it is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure(&self, config: &SimConfig) -> Result<()> {
        let text = serde_json::to_string_pretty(config)?;
        std::fs::write(self.dir.join(FILE), text + "\n").context("qaic-sim.json")
    }
}

/// Lays an SDK out in `dir`, as `/opt/qti-aic` is. With `config.qnn`, the same folder is the root of a QNN SDK, too.
///
/// # Errors
/// If something stands there already, or cannot be written.
pub fn sim_root(dir: &Path, config: &SimConfig, built: &Built) -> Result<Root> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let dir = std::fs::canonicalize(dir)?;
    let root = Root { dir: dir.clone() };
    if dir.join("exec").exists() || dir.join("dev").exists() {
        bail!("{}: there is an SDK already; remove it first", dir.display());
    }
    root.configure(config)?;
    let tool = std::path::absolute(&built.tool)?;
    for name in &config.compilers {
        link(&tool, &dir.join("exec").join(name))?;
    }
    link(&tool, &dir.join("tools/qaic-util"))?;
    if config.library {
        library(built, config, &dir.join("dev/lib/x86_64"))?;
    }
    if config.header {
        write(&dir.join("dev/inc/QAicApi.h"), &header::text(config))?;
    }
    if let Some(version) = &config.version {
        for part in ["apps", "platform"] {
            let text = format!("<versions><base_version>{version}</base_version></versions>\n");
            write(&dir.join(format!("versions/{part}.xml")), &text)?;
        }
    }
    if config.qnn {
        for name in ["qairt-converter", "qnn-context-binary-generator"] {
            link(&tool, &dir.join("bin").join(QNN_BUILD).join(name))?;
        }
        for name in ["libQnnAic.so", "libQnnAicNetRunExtensions.so"] {
            write(&dir.join("lib").join(QNN_BUILD).join(name), "")?;
        }
        write(&dir.join("sdk.yaml"), "name: stand-in\nversion: 2.40.0\n")?;
    }
    Ok(root)
}

/// A link, not a copy: a program that was just written cannot always be executed.
fn link(to: &Path, at: &Path) -> Result<()> {
    std::fs::create_dir_all(at.parent().unwrap_or(Path::new(".")))?;
    symlink(to, at).with_context(|| at.display().to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// Puts the library there. It finds its root by its own path, so a symbolic link would not do. One that lacks functions is a
/// copy in which their names are others.
fn library(built: &Built, config: &SimConfig, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("libQAic.so");
    if config.missing_symbols.is_empty() {
        if std::fs::hard_link(&built.library, &path).is_err() {
            std::fs::copy(&built.library, &path).with_context(|| path.display().to_string())?;
        }
        return Ok(());
    }
    let mut bytes = std::fs::read(&built.library).with_context(|| built.library.display().to_string())?;
    for symbol in &config.missing_symbols {
        let name: Vec<u8> = [b"\0", symbol.as_bytes(), b"\0"].concat();
        let mut found = 0;
        let mut at = 0;
        while let Some(next) = bytes[at..].windows(name.len()).position(|window| window == name) {
            at += next + 1;
            bytes[at] = b'x';
            found += 1;
        }
        if found == 0 {
            bail!("missing_symbols: the library has no {symbol} to begin with");
        }
    }
    std::fs::write(&path, bytes).with_context(|| path.display().to_string())
}
