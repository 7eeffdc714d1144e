//! A family that is linked in, loaded into the process, or loaded into a worker exports the same bytes, for both targets.

use std::path::Path;

use qeff::command::entries;
use qeff::fixture;

use super::{plugin_in, qeff};

/// Every file that an export writes, by name.
fn export(model: &Path, target: &str, data: &Path, plugin: &[&str]) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().expect("a folder");
    let command = qeff("export").model(model).args(["--target", target, "--full-batch-size", "2", "--output"]);
    command.arg(dir.path()).args(plugin).env("XDG_DATA_HOME", data).succeeds();
    let read = |name: &Path| (name.display().to_string(), std::fs::read(dir.path().join(name)).expect("a file"));
    entries(dir.path()).iter().map(|name| read(name)).collect()
}

#[test]
fn linked_in_process_and_in_a_worker_every_family_exports_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let none = folder.path().join("none");
    for (plugin, model) in [
        ("llama", "llama/base"),
        ("qwen2", "qwen2/base"),
        ("qwen3", "qwen3/base"),
        ("granite", "granite/base"),
        ("gpt_oss", "gpt_oss/base"),
        ("gpt2", "gpt2/base"),
        ("swiftkv", "swiftkv/base"),
    ] {
        let file = plugin_in(folder.path(), plugin);
        let file = file.to_str().expect("UTF-8");
        // A folder of its own: what was added there claims the family beside what is built in.
        let data = folder.path().join(format!("{plugin}-data"));
        qeff("plugins").args(["add", file]).env("XDG_DATA_HOME", &data).succeeds();
        for target in ["aic", "cpu"] {
            let linked = export(&fixture(model), target, &none, &[]);
            assert_eq!(linked.len(), 2, "{plugin}");
            let in_process = export(&fixture(model), target, &data, &["--plugin", file, "--in-process"]);
            assert!(linked == in_process, "{plugin} for {target}: linked and in process differ");
            let in_worker = export(&fixture(model), target, &data, &["--plugin", file]);
            assert!(linked == in_worker, "{plugin} for {target}: linked and in a worker differ");
        }
    }
}
