//! Plugins from files, through whole commands: that they answer like linked ones, that nothing they do harms the host, and
//! which of them are believed.
#![cfg(target_os = "linux")]

mod functions;
mod misbehaving;
mod same;
mod sandbox;
mod search;
mod trust;
mod variants;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use qeff::command::Command;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use tempfile::TempDir;

/// The command with a verb.
fn qeff(verb: &str) -> Command {
    Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"), verb)
}

/// The shared object that cargo built beside this test, which depends on the plugin, in a folder that is ours alone.
fn plugin_in(folder: &Path, plugin: &str) -> PathBuf {
    let built = std::env::current_exe().expect("a path").with_file_name(format!("libqeff_plugin_{plugin}.so"));
    let file = folder.join(format!("{plugin}.so"));
    std::fs::copy(&built, &file).unwrap_or_else(|error| panic!("{} is not built: {error}", built.display()));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("permissions");
    file
}

/// A checkpoint of one table and this config.
fn table(config: &serde_json::Value) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("a config");
    let bytes = [0; 5 * 3 * 4];
    let view = TensorView::new(Dtype::F32, vec![5, 3], &bytes).expect("a tensor");
    let file = safetensors::serialize([("table.weight", view)], None).expect("a file");
    std::fs::write(dir.path().join("model.safetensors"), file).expect("weights");
    dir
}

/// A checkpoint whose plugin is to do something.
fn asks_for(behaviour: &str) -> TempDir {
    table(&json!({ "architectures": ["MisbehavingModel"], "behaviour": behaviour }))
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert!(text.contains(expected), "expected `{expected}` in:\n{text}");
}
