//! A host, as small as one can be: loads the plugins of files, which are named as cargo names them, into this process in the
//! order given, and prints a line for each: its answers, or why it is not loaded.
//!
//! Tests build it against a qeff-plugin-api that was changed, or with another compiler: then the host is the one that is newer.
#![allow(clippy::print_stdout)] // It answers on standard output.

use std::path::Path;
use std::sync::Arc;

use qeff_plugin_api::abi::{self, Plugin, SYMBOL_PREFIX};

fn main() {
    for file in std::env::args_os().skip(1) {
        let line = asked(Path::new(&file)).unwrap_or_else(|why| format!("refused: {why}"));
        println!("{line}");
    }
}

fn asked(file: &Path) -> Result<String, String> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()?.strip_prefix("lib"));
    let symbol = format!("{SYMBOL_PREFIX}{}", stem.ok_or("its name is not that of a library")?);
    let module = abi::load(file, &symbol).map_err(|fault| fault.to_string())?;
    let plugin = Plugin::new(module.manifest().clone(), Arc::new(module));
    let architecture = plugin.architectures().into_iter().next().ok_or("it describes nothing")?;
    Ok(qeff_plugin_loader::answers(&*architecture))
}
