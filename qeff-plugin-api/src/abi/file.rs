//! A look at a shared object before the system's loader sees it.
//!
//! The loader maps what the headers promise and jumps into it: a truncated file kills the process with a signal that no
//! code can catch, and a library that is no plugin runs its constructors before anyone can refuse it. So the file is read
//! as data first. What was checked and what is loaded could still differ if the file is replaced in between; loading the
//! checked bytes themselves belongs to the trust layer around [`load`](super::load()).

use std::io::Read as _;
use std::path::Path;

use abi_stable::library::AbiHeader;
use object::read::{Object as _, ObjectKind, ObjectSegment as _, ObjectSymbol as _, SymbolKind};

use super::SYMBOL_PREFIX;
use super::load::LoadFault;

/// Largest plugin that is read.
const MAX_FILE: u64 = 256 << 20;

/// Name of the one plugin symbol of a file that this process could load.
pub(super) fn check(path: &Path) -> Result<String, LoadFault> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(LoadFault::NotAFile);
    }
    let mut bytes = vec![];
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(LoadFault::NotALibrary(format!("it is longer than {} MiB", MAX_FILE >> 20)));
    }
    symbol(&bytes)
}

fn symbol(bytes: &[u8]) -> Result<String, LoadFault> {
    let not_a_library = |why: String| LoadFault::NotALibrary(why);
    let file = object::File::parse(bytes).map_err(|error| not_a_library(error.to_string()))?;
    let machine = format!("{:?}", file.architecture()).to_lowercase();
    if machine != std::env::consts::ARCH {
        return Err(LoadFault::Machine { found: machine, host: std::env::consts::ARCH });
    }
    if file.kind() != ObjectKind::Dynamic {
        return Err(not_a_library(format!("it is an object of kind {:?}", file.kind()).to_lowercase()));
    }
    for segment in file.segments() {
        let (offset, size) = segment.file_range();
        if offset.checked_add(size).is_none_or(|end| end > bytes.len() as u64) {
            return Err(not_a_library("it is truncated: a segment ends after the file".into()));
        }
    }
    let mut symbols = vec![];
    let mut epochs = vec![];
    for symbol in file.dynamic_symbols().filter(|symbol| symbol.is_definition()) {
        let Ok(name) = symbol.name() else { continue };
        if name.starts_with(SYMBOL_PREFIX) {
            if symbol.kind() != SymbolKind::Data || symbol.size() < size_of::<AbiHeader>() as u64 {
                return Err(not_a_library(format!("its symbol `{name}` is no plugin header")));
            }
            symbols.push(name.to_owned());
        } else if let Some(epoch) = name.strip_prefix("qeff_plugin_v").and_then(|rest| rest.split_once("__")) {
            epochs.push(epoch.0.chars().take(8).collect::<String>());
        }
    }
    symbols.sort();
    match (symbols.as_slice(), epochs.first()) {
        ([_], _) => Ok(symbols.remove(0)),
        ([], Some(epoch)) => Err(LoadFault::Epoch(epoch.clone())),
        ([], None) => Err(LoadFault::NoPlugin),
        _ => Err(LoadFault::SeveralPlugins(symbols.join(", "))),
    }
}
