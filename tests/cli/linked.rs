//! `export --storage linked`: what is beside the model, what is said, and what is refused.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use qeff::command::{Command, entries};
use qeff::fixture;
use qeff::scratch::Scratch;

use crate::{llama, qeff, snapshot};

fn linked(model: &Path, output: &Path) -> Command {
    qeff("export").model(model).path("--output", output, "OUTPUT").words("--storage linked")
}

/// Bytes of the files in a folder that have no other name.
fn own_bytes(dir: &Path) -> u64 {
    let meta = |name: PathBuf| std::fs::symlink_metadata(dir.join(name)).expect("a file");
    entries(dir).into_iter().map(meta).filter(|meta| meta.is_file() && meta.nlink() == 1).map(|meta| meta.len()).sum()
}

/// What a command said, without what differs from run to run.
fn said(stderr: &str) -> String {
    let talk = stderr.lines().filter(|line| !line.starts_with("exported in "));
    talk.map(|line| format!("{line}\n")).collect()
}

#[test]
fn nothing_is_copied_that_can_be_used_where_it_lies() {
    let place = tempfile::tempdir().expect("a folder");
    let mut told = String::new();
    for name in ["llama/f32", "llama/f16", "llama/base", "gpt2/sharded-f32"] {
        for target in ["cpu", "aic"] {
            // Beside the checkpoint, which tests must not give further names.
            let scratch = Scratch::new(name);
            let output = place.path().join(name).join(target);
            let outcome = linked(scratch.dir(), &output).args(["--target", target]).succeeds();
            let files: Vec<_> = entries(&output).iter().map(|name| format!("  {}\n", name.display())).collect();
            told += &format!("{name}, {target}\n{}{}", files.concat(), said(&outcome.stderr));
        }
    }
    snapshot("export-linked", &told);
}

#[test]
fn bytes_are_counted_where_they_are() {
    let place = tempfile::tempdir().expect("a folder");
    let scratch = Scratch::new("llama/f32");
    for target in ["cpu", "aic"] {
        let output = place.path().join(target);
        let json = linked(scratch.dir(), &output).args(["--json", "--target", target]).succeeds().json();
        assert_eq!(json["bytes_written"], own_bytes(&output), "{target}");
        let stored = std::fs::metadata(scratch.file("model.safetensors")).expect("weights").len();
        let linked = json["bytes_linked"].as_u64().expect("a number");
        assert!(stored * 9 / 10 < linked && linked < stored, "{target}: {linked} of {stored}");
        assert_eq!(
            (&json["storage"], &json["packed_because"][0]["reason"]),
            (&"linked".into(), &"generated, not stored".into())
        );
        assert_eq!(json["links"][0]["kind"], if target == "cpu" { "hard" } else { "symbolic" });
    }
}

#[test]
fn where_hard_links_end_symbolic_ones_begin() {
    let elsewhere = Path::new("/dev/shm");
    let scratch = Scratch::new("llama/f32");
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let Ok(place) = tempfile::tempdir_in(elsewhere) else { return };
    if device(place.path()) == device(scratch.dir()) {
        return;
    }
    let json = linked(scratch.dir(), place.path()).words("--json --target cpu").succeeds().json();
    assert_eq!(json["links"][0]["kind"], "symbolic");
    let link = place.path().join("LlamaForCausalLM_checkpoint_0.onnx.data");
    let target = std::fs::canonicalize(scratch.file("model.safetensors")).expect("weights");
    assert_eq!(std::fs::read_link(link).expect("a link"), target);
}

#[test]
fn one_storage_replaces_the_other() {
    let place = tempfile::tempdir().expect("a folder");
    let scratch = Scratch::new("llama/f32");
    let (output, fresh) = (place.path().join("output"), place.path().join("fresh"));
    let before = std::fs::read(scratch.file("model.safetensors")).expect("weights");
    for words in ["--target cpu", "--target aic", "--target cpu --storage linked", "--target aic --storage linked"] {
        for again in ["--target aic --storage linked", "--target cpu --storage linked", "--target aic"] {
            for words in [words, again] {
                qeff("export").model(scratch.dir()).path("--output", &output, "OUTPUT").words(words).succeeds();
            }
            let _ = std::fs::remove_dir_all(&fresh);
            qeff("export").model(scratch.dir()).path("--output", &fresh, "OUTPUT").words(again).succeeds();
            assert_eq!(entries(&output), entries(&fresh), "{words}, then {again}");
            for name in entries(&fresh).iter().filter(|name| fresh.join(name).is_file()) {
                let read = |dir: &Path| std::fs::read(dir.join(name)).expect("a file");
                assert!(read(&output) == read(&fresh), "{words}, then {again}: {}", name.display());
            }
        }
    }
    assert!(std::fs::read(scratch.file("model.safetensors")).expect("weights") == before);
}

/// Whoever replaces a checkpoint as downloads do, by renaming, does not change a model that was linked before.
#[test]
fn a_linked_model_keeps_the_checkpoint_that_it_was_made_from() {
    let place = tempfile::tempdir().expect("a folder");
    let scratch = Scratch::new("llama/f32");
    linked(scratch.dir(), place.path()).words("--target cpu").succeeds();
    let before = std::fs::read(scratch.file("model.safetensors")).expect("weights");
    scratch.write("download", "another checkpoint");
    std::fs::rename(scratch.file("download"), scratch.file("model.safetensors")).expect("a new name");
    let link = place.path().join("LlamaForCausalLM_checkpoint_0.onnx.data");
    assert!(std::fs::read(link).expect("a link") == before);
}

#[test]
fn a_folder_of_links_to_blobs() {
    let (place, blobs) = (tempfile::tempdir().expect("a folder"), Scratch::new("llama/sharded"));
    let snapshot = place.path().join("snapshot");
    std::fs::create_dir(&snapshot).expect("a folder");
    for (i, name) in entries(blobs.dir()).iter().enumerate() {
        let blob = blobs.file(&format!("blob{i}"));
        std::fs::rename(blobs.file(&name.display().to_string()), &blob).expect("a blob");
        std::os::unix::fs::symlink(blob, snapshot.join(name)).expect("a link");
    }
    let (cpu, aic) = (place.path().join("cpu"), place.path().join("aic"));
    let outcome = linked(&snapshot, &cpu).words("--target cpu --remainder nodes").succeeds();
    assert!(outcome.warnings().iter().any(|warning| warning.contains("rten refuses")), "{outcome:?}");
    linked(&snapshot, &aic).words("--target aic").succeeds();
    let spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(aic.join("weight_spec.json")).expect("a map")).expect("JSON");
    let files: Vec<_> =
        spec["files"].as_array().expect("files").iter().filter_map(|file| file["path"].as_str()).collect();
    assert_eq!(files.len(), 3);
    for file in files {
        assert!(file.ends_with(".safetensors") && aic.join(file).is_file(), "{file}");
    }
}

#[test]
fn refusals() {
    let place = tempfile::tempdir().expect("a folder");
    let output = place.path().join("new");
    let gguf = fixture("gguf/llama-f32/model.gguf");
    let told = [
        linked(&gguf, &output).words("--target aic").refuses(),
        qeff("export").model(&llama()).path("--output", &output, "OUTPUT").words("--remainder nodes").refuses(),
    ];
    assert!(!output.exists());
    snapshot("export-linked-refusals", &told.concat());
}
