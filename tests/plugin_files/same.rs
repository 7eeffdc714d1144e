//! A family that is linked in, loaded into the process, or loaded into a worker exports the same bytes, for both targets.

use std::path::Path;

use qeff::command::entries;
use qeff::fixture;
use qeff_host::plugins::worker::WorkerOptions;
use qeff_host::plugins::{Loading, Place, Registry};

use super::{plugin_in, qeff};

/// Every file that an export writes, by name.
fn export(model: &Path, words: &str, data: &Path, plugin: &[&str]) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().expect("a folder");
    let command = qeff("export").model(model).words(words).arg("--output").arg(dir.path());
    command.args(plugin).env("XDG_DATA_HOME", data).succeeds();
    let read = |name: &Path| (name.display().to_string(), std::fs::read(dir.path().join(name)).expect("a file"));
    entries(dir.path()).iter().map(|name| read(name)).collect()
}

#[test]
fn linked_in_process_and_in_a_worker_every_family_exports_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let none = folder.path().join("none");
    let slots = "--full-batch-size 2";
    for (plugin, model, words) in [
        ("llama", "llama/base", slots),
        ("qwen2", "qwen2/base", slots),
        ("qwen3", "qwen3/base", slots),
        ("granite", "granite/base", slots),
        ("gpt_oss", "gpt_oss/base", slots),
        ("gpt2", "gpt2/base", slots),
        ("swiftkv", "swiftkv/base", slots),
        ("bert", "encoders/bert", ""),
        ("deberta_v2", "encoders/deberta-v2", ""),
        ("distilbert", "encoders/distilbert", ""),
        ("modernbert", "encoders/modernbert", ""),
        ("mpnet", "encoders/mpnet", ""),
        ("roberta", "encoders/roberta", ""),
    ] {
        let file = plugin_in(folder.path(), plugin);
        let file = file.to_str().expect("UTF-8");
        // A folder of its own: what was added there claims the family beside what is built in.
        let data = folder.path().join(format!("{plugin}-data"));
        qeff("plugins").args(["add", file]).env("XDG_DATA_HOME", &data).succeeds();
        for target in ["aic", "cpu"] {
            let words = format!("{words} --target {target}");
            let linked = export(&fixture(model), &words, &none, &[]);
            assert!(!linked.is_empty(), "{plugin}");
            let in_process = export(&fixture(model), &words, &data, &["--plugin", file, "--in-process"]);
            assert!(linked == in_process, "{plugin} for {target}: linked and in process differ");
            let in_worker = export(&fixture(model), &words, &data, &["--plugin", file]);
            assert!(linked == in_worker, "{plugin} for {target}: linked and in a worker differ");
        }
    }
}

/// A plugin that names in `export_plugin!` what it does not register, or the other way round, is not loaded.
#[test]
fn every_built_in_plugin_declares_what_it_contributes() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = env!("CARGO_BIN_EXE_qeff-host-under-test").into();
    let loading = Loading { place: Place::Worker, worker: WorkerOptions { program, ..WorkerOptions::default() } };
    for mut built_in in Registry::builtin().list() {
        let file = plugin_in(folder.path(), &built_in.name.replace('-', "_"));
        built_in.source = file.display().to_string();
        let declared = qeff_host::plugins::file::examine(&file).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(qeff_host::plugins::Listed::declared(&declared), built_in);
        let mut registry = Registry::empty().with_loading(loading.clone());
        registry.add(&declared).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(registry.list(), [built_in]);
    }
}
