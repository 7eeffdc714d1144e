//! One shared library of ONNX Runtime: whether it fits this machine and this program, and how it is loaded.
//!
//! A process loads one library and keeps it, because code of a library cannot be taken back safely.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use object::read::elf::ElfFile64;
use object::{Architecture, Endianness, Object as _};
use ort::LoadDynamicError;
use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;
use qeff_core::mapping::{Mapping, MappingError};

use super::session::disable_telemetry;

/// The oldest release whose interface has all that is called.
pub const OLDEST: &str = "1.23";
const OLDEST_MINOR: u32 = 23;

/// A loaded library.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    environment: Environment,
}

/// Why a library is not used.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The file cannot be read.
    #[error(
        "cannot read the ONNX Runtime library: {0}; name another, or have one installed with `qeff-host engines install ort`"
    )]
    File(#[from] MappingError),
    /// The file is no shared library.
    #[error(
        "{} is no shared library of ONNX Runtime: {why}; give a libonnxruntime {OLDEST} or later, or have one \
         installed with `qeff-host engines install ort`", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file is for another processor.
    #[error(
        "{} is a library for {found}, and this machine is {}; take the one for this machine, for example with \
         `qeff-host engines install ort`", path.display(), std::env::consts::ARCH
    )]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it is for.
        found: String,
    },
    /// The library is too old.
    #[error(
        "{} is ONNX Runtime {found}, and {OLDEST} is the oldest that works; install a newer one, for example with \
         `qeff-host engines install ort`", path.display()
    )]
    Old {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// The system refuses to load it.
    #[error("the system cannot load {}: {why}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// What the system, or the library itself, said.
        why: String,
    },
    /// Another library is in use.
    #[error("this process has loaded {} already, so {} cannot be loaded too", first.display(), second.display())]
    Second {
        /// What is loaded.
        first: PathBuf,
        /// What was asked for.
        second: PathBuf,
    },
}

/// The library of this process; locked while it is being loaded.
static LOADED: Mutex<Option<&'static Library>> = Mutex::new(None);

impl Library {
    /// Loads the library at `path`, or returns it if it is loaded.
    ///
    /// # Errors
    /// See [`LibraryError`].
    pub fn load(path: &Path) -> Result<&'static Library, LibraryError> {
        // A bare name would be looked for beside the program and in the system's folders.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = *loaded {
            return if library.path == path {
                Ok(library)
            } else {
                Err(LibraryError::Second { first: library.path.clone(), second: path })
            };
        }
        inspect(&path)?;
        let library = Box::leak(Box::new(Self::start(path)?));
        *loaded = Some(library);
        Ok(library)
    }

    fn start(path: PathBuf) -> Result<Self, LibraryError> {
        disable_telemetry();
        let builder = ort::init_from(&path).map_err(|error| match error {
            LoadDynamicError::Dlopen { error, .. } => LibraryError::Load { path: path.clone(), why: error.to_string() },
            LoadDynamicError::BadVersion { version_str, .. } => {
                LibraryError::Old { path: path.clone(), found: version_str }
            }
            other => LibraryError::Foreign { path: path.clone(), why: other.to_string() },
        })?;
        let failed = |error: ort::Error| LibraryError::Load { path: path.clone(), why: error.message().to_owned() };
        // One pool for all programs: threads of two would wait for each other's cores.
        let environment = builder
            .with_name("qeff")
            .with_telemetry(false)
            .with_global_thread_pool(GlobalThreadPoolOptions::default())
            .build()
            .map_err(failed)?;
        // Errors come back from the calls; what it prints beside them would be said twice.
        environment.set_log_level(LogLevel::Fatal);
        Ok(Library { path, environment })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }
}

/// Reads what a library says about itself, without running any of it: its version, if it is marked with one.
///
/// The loader refuses such files too, but for a library of another processor it says that there is no file.
///
/// # Errors
/// If the file is no library for this machine, or too old.
pub fn inspect(path: &Path) -> Result<Option<String>, LibraryError> {
    let mapping = Mapping::open(path)?;
    if !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let foreign = |why: String| LibraryError::Foreign { path: path.to_owned(), why };
    let elf = ElfFile64::<Endianness>::parse(mapping.all()).map_err(|error| foreign(error.to_string()))?;
    let expected = match std::env::consts::ARCH {
        "x86_64" => Some(Architecture::X86_64),
        "aarch64" => Some(Architecture::Aarch64),
        _ => None,
    };
    if expected.is_some_and(|expected| expected != elf.architecture()) {
        let found = format!("{:?}", elf.architecture()).to_lowercase();
        return Err(LibraryError::Architecture { path: path.to_owned(), found });
    }
    let version = version(&elf, mapping.all());
    let minor = version.as_deref().and_then(|version| version.split('.').nth(1)?.parse::<u32>().ok());
    match version {
        Some(found) if minor.is_some_and(|minor| minor < OLDEST_MINOR) => {
            Err(LibraryError::Old { path: path.to_owned(), found })
        }
        version => Ok(version),
    }
}

/// The version with which the library marks its symbols: `VERS_1.31.1`.
fn version(elf: &ElfFile64<'_, Endianness>, bytes: &[u8]) -> Option<String> {
    let sections = elf.elf_section_table();
    let (mut definitions, strings) = sections.gnu_verdef(elf.endian(), bytes).ok()??;
    let strings = sections.strings(elf.endian(), bytes, strings).ok()?;
    while let Some((_, mut names)) = definitions.next().ok()? {
        while let Some(name) = names.next().ok()? {
            let name = std::str::from_utf8(name.name(elf.endian(), strings).ok()?).ok()?;
            if let Some(version) = name.strip_prefix("VERS_") {
                return Some(version.to_owned());
            }
        }
    }
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libonnxruntime.so");
        std::fs::write(&path, bytes).unwrap();
        inspect(&path).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_library_is_refused_by_name() {
        for bytes in [&b""[..], b"\x7fELF", b"not a library at all, but longer than the header of one would be; see?"] {
            let error = refusal(bytes);
            assert!(error.contains("libonnxruntime.so is no shared library"), "{error}");
            assert!(error.contains("engines install ort"), "{error}");
        }
        assert!(inspect(Path::new("/nowhere/lib.so")).unwrap_err().to_string().contains("/nowhere/lib.so"));
    }

    #[test]
    fn another_processor_is_named() {
        // This test is a file for this machine: with another machine's number it is one for another.
        let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        bytes[18..20].copy_from_slice(&8u16.to_le_bytes());
        let error = refusal(&bytes);
        assert!(error.contains("is a library for mips"), "{error}");
        assert!(error.contains(std::env::consts::ARCH), "{error}");
    }
}
