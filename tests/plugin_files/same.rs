//! A plugin that is linked in, loaded into the process, or loaded into a worker exports the same bytes, for both targets.

use std::path::Path;

use qeff::command::entries;
use qeff::fixture;
use qeff_host::plugins::worker::WorkerOptions;
use qeff_host::plugins::{Listed, Loading, Place, Registry};

use super::{plugin_in, qeff};

/// What is exported of each built-in plugin: a checkpoint and flags.
const EXPORTS: &[(&str, &str, &str)] = &[
    ("bert", "encoders/bert", ""),
    ("deberta-v2", "encoders/deberta-v2", ""),
    ("distilbert", "encoders/distilbert", ""),
    ("gpt-oss", "gpt_oss/base", SLOTS),
    ("gpt2", "gpt2/base", SLOTS),
    ("granite", "granite/base", SLOTS),
    ("internvl", "internvl/base", ""),
    ("llama", "llama/base", SLOTS),
    ("llava", "llava/base", ""),
    ("modernbert", "encoders/modernbert", ""),
    ("mpnet", "encoders/mpnet", ""),
    // Its heads over the encoder of another.
    ("pooling", "encoders/bert", ""),
    ("qwen2", "qwen2/base", SLOTS),
    ("qwen3", "qwen3/base", SLOTS),
    ("roberta", "encoders/roberta", ""),
    ("swiftkv", "swiftkv/base", SLOTS),
    ("wav2vec2", "wav2vec2/base", ""),
    ("whisper", "whisper/base", ""),
];
const SLOTS: &str = "--full-batch-size 2";

/// Every file that an export writes, by name.
fn export(model: &Path, words: &str, data: &Path, plugin: &[&str]) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().expect("a folder");
    let command = qeff("export").model(model).words(words).arg("--output").arg(dir.path());
    command.args(plugin).env("XDG_DATA_HOME", data).succeeds();
    let read = |name: &Path| (name.display().to_string(), std::fs::read(dir.path().join(name)).expect("a file"));
    entries(dir.path()).iter().map(|name| read(name)).collect()
}

/// The heads of a plugin as flags, of which there are none if it has none; `from` is the plugin's file, if it is not linked.
fn heads(plugin: &Listed, from: Option<&str>) -> String {
    let named = |head: &String| from.map_or(head.clone(), |file| format!("{file}:{head}"));
    let heads: Vec<_> = plugin.pooling.iter().map(named).collect();
    if heads.is_empty() { String::new() } else { format!("--pooling {}", heads.join(",")) }
}

#[test]
fn linked_in_process_and_in_a_worker_every_plugin_exports_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let none = folder.path().join("none");
    for plugin in Registry::builtin().list() {
        let name = &plugin.name;
        let export_of = EXPORTS.iter().find(|(listed, ..)| listed == name);
        let (_, model, words) =
            export_of.unwrap_or_else(|| panic!("no export of the built-in plugin {name} is listed"));
        let model = fixture(model);
        let file = plugin_in(folder.path(), &name.replace('-', "_"));
        let file = file.to_str().expect("UTF-8");
        // A folder of its own: what was added there claims the family beside what is built in.
        let data = folder.path().join(format!("{name}-data"));
        qeff("plugins").args(["add", file]).env("XDG_DATA_HOME", &data).succeeds();
        for target in ["aic", "cpu"] {
            let words = format!("{words} --target {target}");
            let linked = export(&model, &format!("{words} {}", heads(&plugin, None)), &none, &[]);
            assert!(!linked.is_empty(), "{name}");
            let words = format!("{words} {}", heads(&plugin, Some(file)));
            let in_process = export(&model, &words, &data, &["--plugin", file, "--in-process"]);
            assert!(linked == in_process, "{name} for {target}: linked and in process differ");
            let in_worker = export(&model, &words, &data, &["--plugin", file]);
            assert!(linked == in_worker, "{name} for {target}: linked and in a worker differ");
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
        assert_eq!(Listed::declared(&declared), built_in);
        let mut registry = Registry::empty().with_loading(loading.clone());
        registry.add(&declared).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(registry.list(), [built_in]);
    }
}
