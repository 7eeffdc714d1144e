//! Checkpoint folders and JSON files that are not what they should be.

use qeff::fixture;
use qeff::scratch::Scratch;
use serde_json::json;

use crate::{llama, qeff, refusals, snapshot};

/// A copy of a fixture with something done to it.
fn with(name: &str, spoil: impl FnOnce(&Scratch)) -> Scratch {
    let scratch = Scratch::new(name);
    spoil(&scratch);
    scratch
}

#[test]
fn config_json() {
    let config = |bytes: &[u8]| with("llama/base", |dir| dir.write("config.json", bytes));
    let cases = [
        ("no config.json", with("llama/base", |dir| dir.remove("config.json"))),
        ("empty", config(b"")),
        ("cut short", config(b"{\"architectures\": [\"Llama")),
        ("not an object", config(b"[1, 2]")),
        ("not UTF-8", config(b"{\"model_type\": \"\xff\"}")),
        ("huge", config(&vec![b' '; 17 << 20])),
        ("nested without end", config("[".repeat(1 << 20).as_bytes())),
        (
            "a folder",
            with("llama/base", |dir| {
                dir.remove("config.json");
                std::fs::create_dir(dir.file("config.json")).expect("a folder");
            }),
        ),
        ("generation_config.json cut short", with("llama/base", |dir| dir.write("generation_config.json", "{"))),
        ("no token id", with("llama/base", |dir| dir.write("generation_config.json", r#"{"eos_token_id": [2, -1]}"#))),
    ];
    snapshot("config-files", &refusals(cases));
}

#[test]
fn a_folder_that_is_none() {
    let file = llama().join("config.json");
    let missing = llama().join("no-such-folder");
    for verb in ["run", "export", "inspect"] {
        let command = |path| {
            let command = qeff(verb).model(path);
            match verb {
                "run" => command.words("--prompt-ids 1"),
                "export" => command.words("--output out"),
                _ => command,
            }
        };
        let said = command(&file).refuses();
        assert_eq!(
            said,
            "error: CHECKPOINT is a file: give the folder that holds config.json and the weights, or a .gguf file\n"
        );
        let said = command(&missing).refuses();
        assert_eq!(
            said,
            "error: there is no checkpoint at CHECKPOINT: give the folder that holds config.json and the weights, or a .gguf file\n"
        );
    }
}

/// What plugins there are is another test's business; that the architecture is named, and that there is one error, is
/// this one's.
#[test]
fn architectures_nobody_describes() {
    for architectures in
        [json!(["FooForCausalLM"]), json!("(absent)"), json!([]), json!("LlamaForCausalLM"), json!([3])]
    {
        let scratch = Scratch::new("llama/base");
        scratch.set(&json!({ "architectures": architectures }));
        let said = refusals([("", scratch)]);
        assert!(said.contains("architecture"), "{said}");
    }
}

#[test]
fn fields_nobody_reads() {
    let scratch = Scratch::new("llama/base");
    scratch.set(&json!({ "logit_cap": 30.0, "rope_scaling": { "rope_type": "linear", "factor": 2.0, "spin": 1 } }));
    let inspect = || qeff("inspect").model(scratch.dir());
    let said = "config.json: plugin llama does not read `rope_scaling.spin`, `logit_cap`; if one of them changes the \
                result, the result is wrong";
    assert_eq!(inspect().succeeds().warnings(), [said]);
    assert_eq!(inspect().arg("--json").succeeds().json()["warnings"], json!([said]));
    for show in ["graph", "weights", "aic", "cpu"] {
        assert_eq!(inspect().args(["--show", show]).succeeds().warnings(), [said]);
    }
    let run = || qeff("run").model(scratch.dir()).words("--prompt-ids 1 --max-new-tokens 1");
    assert_eq!(run().succeeds().warnings(), [said]);
    assert_eq!(run().arg("--strict").refuses(), format!("error: --strict: {said}\n"));
}

/// Every field of a file as transformers writes it is either read or known to change nothing.
#[test]
fn every_fixture_passes_strictly() {
    for family in ["llama", "mistral", "gpt2"] {
        for name in qeff::fixtures_of(family) {
            let outcome = qeff("inspect").model(&fixture(&name)).arg("--strict").succeeds();
            assert_eq!(outcome.stderr, "", "{name}");
        }
    }
}
