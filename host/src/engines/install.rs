//! Installs ONNX Runtime from a wheel: one that is there, or one that pip brings.
//!
//! The library's bytes are pinned, so it does not matter who brings the wheel. Files grow in a folder beside their place,
//! which is renamed when they are whole and right; an install that ends early leaves nothing that is later used.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use zip::ZipArchive;
use zip::result::ZipError;

use super::release::{Release, VERSION};
use super::{engines_dir, installed_path};
use crate::artifacts::hex;
use crate::home::NoHome;

/// Where the wheel comes from.
#[derive(Debug, Clone)]
pub enum Wheel {
    /// A file.
    File(PathBuf),
    /// The package index that pip is configured for, by the pip of this interpreter.
    Pip {
        /// The interpreter.
        python: PathBuf,
    },
}

/// What an installation has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The library.
    pub path: PathBuf,
    /// Whether it was there already.
    pub present: bool,
}

/// Why nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// No release for this platform.
    #[error(
        "there is no ONNX Runtime {VERSION} for {} on {}; a library of your own may be named by --ort-library",
        std::env::consts::OS,
        std::env::consts::ARCH
    )]
    Platform,
    /// No place to install to.
    #[error(transparent)]
    Home(#[from] NoHome),
    /// The interpreter does not start.
    #[error(
        "cannot start {}: {error}; it is needed to download ONNX Runtime with pip. Name another interpreter with --python, \
         or download the wheel of onnxruntime {VERSION} elsewhere and give it with --from", python.display()
    )]
    Python {
        /// The interpreter.
        python: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// pip failed.
    #[error(
        "pip could not download onnxruntime {VERSION}:\n{said}\nWithout a network, download the wheel elsewhere and give \
         it with --from"
    )]
    Pip {
        /// The last lines of what it said.
        said: String,
    },
    /// The wheel cannot be read.
    #[error("cannot read the wheel {}: {error}", path.display())]
    Wheel {
        /// The wheel.
        path: PathBuf,
        /// What is wrong.
        #[source]
        error: ZipError,
    },
    /// The wheel has another library.
    #[error(
        "{} in {} has SHA-256 {found}, expected {expected}: it is not the library of onnxruntime {VERSION} for this \
         platform, and is not installed", library, wheel.display()
    )]
    Hash {
        /// The wheel.
        wheel: PathBuf,
        /// The file in it.
        library: &'static str,
        /// Its hash.
        found: String,
        /// The hash of the release.
        expected: &'static str,
    },
    /// A file cannot be written.
    #[error("cannot install to {}: {error}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl InstallError {
    /// Whether another program failed, not the user or we.
    pub fn is_external(&self) -> bool {
        matches!(self, InstallError::Python { .. } | InstallError::Pip { .. })
    }
}

/// Installs the release for this machine, unless it is there.
///
/// # Errors
/// See [`InstallError`]; what was installed before is then as it was.
pub fn install(wheel: &Wheel) -> Result<Installed, InstallError> {
    let release = Release::here().ok_or(InstallError::Platform)?;
    let engines = engines_dir().ok_or(NoHome)?;
    let path = installed_path(release).ok_or(NoHome)?;
    if is_whole(&path, release) {
        return Ok(Installed { path, present: true });
    }
    let failed = |error| InstallError::Write { path: engines.clone(), error };
    fs_err::create_dir_all(&engines).map_err(failed)?;
    let work = tempfile::Builder::new().prefix(".install-").tempdir_in(&engines).map_err(failed)?;
    let wheel = match wheel {
        Wheel::File(path) => path.clone(),
        Wheel::Pip { python } => download(python, release, work.path())?,
    };
    let folder = work.path().join(release.folder());
    unpack(&wheel, release, &folder)?;
    put_in_place(&folder, &engines.join(release.folder()), work, || is_whole(&path, release))?;
    Ok(Installed { path, present: false })
}

fn is_whole(path: &Path, release: &Release) -> bool {
    File::open(path).and_then(sha256).is_ok_and(|found| found == release.library_sha256)
}

/// Renames `folder` to `place`. What is there is no whole installation, or another process has just made it.
fn put_in_place(folder: &Path, place: &Path, work: TempDir, is_whole: impl Fn() -> bool) -> Result<(), InstallError> {
    let failed = |error| InstallError::Write { path: place.to_owned(), error };
    if place.exists() {
        // Moved aside rather than emptied: a process that is using it keeps its files.
        match std::fs::rename(place, work.path().join("old")) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    match std::fs::rename(folder, place) {
        Ok(()) => {}
        Err(_) if is_whole() => {}
        Err(error) => return Err(failed(error)),
    }
    // The names are entries of a folder, which is a file too.
    let parent = place.parent().unwrap_or(place);
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    work.close().map_err(failed)
}

/// Has pip bring the wheel into `dir`.
fn download(python: &Path, release: &Release, dir: &Path) -> Result<PathBuf, InstallError> {
    let failed = |error| InstallError::Write { path: dir.to_owned(), error };
    let requirements = dir.join("requirements.txt");
    std::fs::write(&requirements, release.requirement()).map_err(failed)?;
    let wheels = dir.join("wheels");
    let output = Command::new(python)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input"])
        .args(["--disable-pip-version-check", "--quiet", "--python-version", "3.12", "--implementation", "cp"])
        .args(["--abi", "cp312", "--platform", release.pip_platform])
        .arg("--requirement")
        .arg(&requirements)
        .arg("--dest")
        .arg(&wheels)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| InstallError::Python { python: python.to_owned(), error })?;
    if !output.status.success() {
        return Err(InstallError::Pip { said: last_lines(&output.stderr) });
    }
    let mut paths = std::fs::read_dir(&wheels).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| InstallError::Pip { said: "it reported success and left no wheel".into() })
}

fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// Most bytes that a file of a wheel may have: ten times what the library has.
const MOST: u64 = 300 << 20;

/// Copies the library and its licences out of a wheel.
fn unpack(wheel: &Path, release: &Release, folder: &Path) -> Result<(), InstallError> {
    let unreadable = |error: ZipError| InstallError::Wheel { path: wheel.to_owned(), error };
    let failed = |error| InstallError::Write { path: folder.to_owned(), error };
    let file = File::open(wheel).map_err(|error| unreadable(error.into()))?;
    let mut archive = ZipArchive::new(file).map_err(unreadable)?;
    std::fs::create_dir(folder).map_err(failed)?;
    let mut copy = |name: &str, to: &str| -> Result<String, InstallError> {
        let entry = archive.by_name(name).map_err(|error| match error {
            ZipError::FileNotFound => unreadable(ZipError::Io(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no {name} in it; expected the wheel of onnxruntime {VERSION} for this platform"),
            ))),
            error => unreadable(error),
        })?;
        let mut to = File::create_new(folder.join(to)).map_err(failed)?;
        let mut hash = Sha256::new();
        let mut bytes = entry.take(MOST);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = bytes.read(&mut buffer).map_err(|error| unreadable(error.into()))?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            to.write_all(&buffer[..count]).map_err(failed)?;
        }
        to.sync_all().map_err(failed)?;
        Ok(hex(&hash.finalize()))
    };
    let found = copy(&format!("onnxruntime/capi/{}", release.library), release.library)?;
    if found != release.library_sha256 {
        let (wheel, expected) = (wheel.to_owned(), release.library_sha256);
        return Err(InstallError::Hash { wheel, library: release.library, found, expected });
    }
    // Whoever passes the library on passes these on.
    for licence in ["LICENSE", "ThirdPartyNotices.txt"] {
        copy(&format!("onnxruntime/{licence}"), licence)?;
    }
    Ok(())
}

/// SHA-256 of what is left to read, in hexadecimal.
pub(super) fn sha256(mut from: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}
