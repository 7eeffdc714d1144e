//! Plugins that others built, and hosts that others built: against other releases of the interface, with other profiles and
//! compilers.

mod build;
mod compilers;
mod releases;

use std::path::Path;

use qeff_host::plugins::worker::WorkerOptions;
use qeff_host::plugins::{Loading, Place, Registry};
use qeff_plugin_api::config::Config;

/// What the host that this test is gets out of the plugins of these files, loaded in this order: for each what the small host
/// would print.
fn load(files: &[&Path], place: Place) -> Vec<String> {
    let program = env!("CARGO_BIN_EXE_qeff-host-under-test").into();
    let loading = Loading { place, worker: WorkerOptions { program, ..WorkerOptions::default() } };
    let mut registry = Registry::empty().with_loading(loading);
    let loaded: Vec<_> = files.iter().map(|file| registry.add_file(file).map(drop)).collect();
    let config = Config::parse(r#"{"architectures": ["BagModel"]}"#).expect("a config");
    let line = |(file, loaded): (&&Path, Result<(), _>)| match loaded {
        Ok(()) => {
            let entry = registry.architecture_for(&config, file.to_str()).expect("an architecture");
            qeff_plugin_loader::answers(&*entry.item)
        }
        Err(error) => format!("refused: {error}"),
    };
    files.iter().zip(loaded).map(line).collect()
}

/// Every order of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
