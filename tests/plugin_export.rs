//! A family that is linked in and the same family loaded from a file export the same bytes, for both targets.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use qeff::fixture;

/// The shared object that cargo built beside this test, which depends on the plugin.
fn shared_object(plugin: &str) -> Result<PathBuf> {
    let file = std::env::current_exe()?.with_file_name(format!("libqeff_plugin_{plugin}.so"));
    ensure!(file.is_file(), "{} is not built", file.display());
    Ok(file)
}

/// Every file that an export writes, by name.
fn export(model: &Path, target: &str, plugin: Option<&Path>) -> Result<Vec<(String, Vec<u8>)>> {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"));
    command.args(["export", "--target", target, "--full-batch-size", "2", "--model"]).arg(model);
    command.arg("--output").arg(dir.path());
    if let Some(plugin) = plugin {
        command.arg("--plugin").arg(plugin);
    }
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut files = vec![];
    for entry in std::fs::read_dir(dir.path())? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a name in UTF-8")?;
        files.push((name, std::fs::read(entry.path())?));
    }
    files.sort();
    Ok(files)
}

#[test]
fn linked_and_loaded_plugins_export_the_same_bytes() -> Result<()> {
    for (plugin, model) in [
        ("llama", "llama/base"),
        ("qwen2", "qwen2/base"),
        ("qwen3", "qwen3/base"),
        ("granite", "granite/base"),
        ("gpt_oss", "gpt_oss/base"),
        ("gpt2", "gpt2/base"),
        ("swiftkv", "swiftkv/base"),
    ] {
        for target in ["aic", "cpu"] {
            let linked = export(&fixture(model), target, None)?;
            let loaded = export(&fixture(model), target, Some(&shared_object(plugin)?))?;
            ensure!(linked.len() == 2, "{plugin}: {} files", linked.len());
            ensure!(linked == loaded, "{plugin} for {target}: the files differ");
        }
    }
    Ok(())
}
