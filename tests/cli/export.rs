//! `export`: what is written, and that a refusal writes nothing.

use std::path::{Path, PathBuf};

use qeff::command::{Command, entries};
use qeff::fixture;

use crate::{demo, llama, qeff, snapshot};

fn export(model: &Path, output: &Path) -> Command {
    qeff("export").model(model).path("--output", output, "OUTPUT")
}

/// Every file of a folder with its bytes.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    entries(dir).into_iter().map(|name| (name.clone(), std::fs::read(dir.join(name)).expect("a file"))).collect()
}

#[test]
fn writes_one_model_and_its_data() {
    let place = tempfile::tempdir().expect("a folder");
    for (fixture_name, stem) in
        [("llama/base", "LlamaForCausalLM"), ("mistral/base", "MistralForCausalLM"), ("gpt2/base", "GPT2LMHeadModel")]
    {
        for target in ["aic", "cpu"] {
            let output = place.path().join(stem).join(target);
            let outcome = export(&fixture(fixture_name), &output).args(["--target", target]).succeeds();
            let model = output.join(format!("{stem}.onnx"));
            assert_eq!(outcome.stdout, format!("{}\n", model.display()));
            assert!(outcome.stderr.starts_with("exported in "), "{}", outcome.stderr);
            assert_eq!(entries(&output), [format!("{stem}.onnx"), format!("{stem}_0.onnx.data")].map(PathBuf::from));
        }
    }
}

#[test]
fn the_default_target_is_the_card() {
    let place = tempfile::tempdir().expect("a folder");
    let (plain, aic) = (place.path().join("plain"), place.path().join("aic"));
    export(&llama(), &plain).succeeds();
    export(&llama(), &aic).words("--target aic").succeeds();
    assert_eq!(contents(&plain), contents(&aic));
}

#[test]
fn the_same_export_gives_the_same_bytes() {
    let place = tempfile::tempdir().expect("a folder");
    for (i, words) in ["--target aic", "--target cpu", "--full-batch-size 4 --num-logits-to-keep 3"].iter().enumerate()
    {
        let once = place.path().join(format!("{i}-once"));
        let again = place.path().join(format!("{i}-again"));
        export(&demo(), &once).words(words).succeeds();
        export(&demo(), &again).words(words).words("--memory-budget 8").succeeds();
        assert!(contents(&once) == contents(&again), "{words}");
    }
}

#[test]
fn a_second_export_replaces_the_first() {
    let place = tempfile::tempdir().expect("a folder");
    let fresh = place.path().join("fresh");
    export(&llama(), &fresh).words("--target cpu").succeeds();
    let output = place.path().join("output");
    export(&llama(), &output).words("--target aic").succeeds();
    std::fs::write(output.join("notes.txt"), "mine").expect("a file");
    export(&llama(), &output).words("--target cpu").succeeds();
    assert_eq!(std::fs::read(output.join("notes.txt")).expect("still there"), b"mine");
    std::fs::remove_file(output.join("notes.txt")).expect("a file");
    assert_eq!(contents(&output), contents(&fresh));
}

#[test]
fn json() {
    let place = tempfile::tempdir().expect("a folder");
    let output = place.path().join("new");
    let outcome = export(&llama(), &output).words("--json --full-batch-size 2").succeeds();
    assert_eq!((outcome.stdout.lines().count(), outcome.stderr.as_str()), (1, ""));
    let mut json = outcome.json();
    let written: u64 =
        entries(&output).iter().map(|name| std::fs::metadata(output.join(name)).expect("a file").len()).sum();
    assert_eq!(json["bytes_written"], written);
    for measured in ["seconds", "peak_memory_bytes", "bytes_written"] {
        assert!(json[measured].is_number(), "{measured}");
        json[measured] = 0.into();
    }
    json["onnx"][0] = json["onnx"][0].as_str().expect("a path").replace(&output.display().to_string(), "OUTPUT").into();
    snapshot("export-json", &format!("{json:#}"));
}

/// Every refusal to write into `output`, which must stay as it is.
fn refused(command: Command, output: &Path) -> String {
    let before = contents(output);
    let said = command.refuses();
    assert!(contents(output) == before, "the folder has changed");
    said
}

#[test]
fn a_failed_export_leaves_an_older_one_alone() {
    let place = tempfile::tempdir().expect("a folder");
    let output = place.path().join("output");
    export(&llama(), &output).succeeds();
    let scratch = qeff::scratch::Scratch::new("llama/base");
    scratch.remove_tensor("model.norm.weight");
    refused(export(scratch.dir(), &output), &output);
}

#[test]
fn a_context_that_the_model_does_not_have() {
    let place = tempfile::tempdir().expect("a folder");
    let output = place.path().join("new");
    for (name, context) in [("gpt2/base", "49"), ("llama/base", "4000000000")] {
        let said = refused(export(&fixture(name), &output).args(["--ctx-len", context]), &output);
        assert!(said.starts_with("error: --ctx-len is too large\n") && said.contains(context), "{said}");
        assert!(!output.exists());
    }
    // Llama was not trained on more than 64 positions, but it has them.
    export(&llama(), &output).words("--ctx-len 100").succeeds();
}

#[test]
fn context_lengths_are_for_cards() {
    let place = tempfile::tempdir().expect("a folder");
    let output = place.path().join("new");
    let said = refused(export(&llama(), &output).words("--ccl-enabled --target cpu"), &output);
    assert!(said.contains("context lengths are for cards"), "{said}");
    export(&llama(), &output).words("--ccl-enabled --full-batch-size 2").succeeds();
}

#[test]
fn an_output_that_is_a_file() {
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("file");
    std::fs::write(&file, "mine").expect("a file");
    assert_eq!(
        export(&llama(), &file).refuses(),
        "error: --output OUTPUT is a file; expected a folder, or a path where one can be made\n"
    );
    let below = file.join("folder");
    let said = export(&llama(), &below).refuses();
    assert!(said.starts_with("error: cannot export to OUTPUT\n"), "{said}");
    assert_eq!(std::fs::read(&file).expect("still there"), b"mine");
}
