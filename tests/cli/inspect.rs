//! `inspect`, help, version and completions: everything that only tells.

use qeff::fixture;
use serde_json::json;

use crate::{llama, qeff, snapshot};

#[test]
fn summaries() {
    let mut all = String::new();
    for name in ["llama/base", "mistral/sliding", "gpt2/sharded-f32"] {
        let inspect = || qeff("inspect").model(&fixture(name));
        let outcome = inspect().succeeds();
        assert_eq!(outcome.stderr, "");
        assert_eq!(inspect().words("--show summary").succeeds().stdout, outcome.stdout);
        let json = inspect().arg("--json").succeeds().json();
        all.push_str(&format!("## {name}\n{}\n{json:#}\n\n", outcome.stdout));
    }
    snapshot("inspect", &all);
}

#[test]
fn what_is_shown() {
    let show = |what: &str| {
        let inspect = || qeff("inspect").model(&llama()).args(["--show", what]);
        let text = inspect().succeeds().stdout;
        assert_eq!(inspect().arg("--json").succeeds().json(), json!({ "text": text }), "{what}");
        text
    };
    let (graph, weights, aic, cpu) = (show("graph"), show("weights"), show("aic"), show("cpu"));
    assert!(graph.contains("layers.0"), "{graph}");
    assert!(weights.contains("lm_head.weight : bf16[300, 32]"), "{weights}");
    // Custom functions belong to the card; the engine of the CPU gets plain ONNX.
    assert!(aic.contains("past_key.0_RetainedState") && aic.contains("CtxScatter"), "{aic}");
    assert!(cpu.contains("past_key.0_RetainedState") && !cpu.contains("CtxScatter"), "{cpu}");
}

#[test]
fn help() {
    let mut all = String::new();
    for words in ["--help", "run --help", "infer --help", "export --help", "inspect --help", "completions --help"] {
        let (first, rest) = words.split_once(' ').unwrap_or((words, ""));
        let outcome = qeff(first).words(rest).succeeds();
        assert_eq!(outcome.stderr, "", "help that was asked for is data");
        all.push_str(&format!("## {words}\n{}\n", outcome.stdout));
    }
    snapshot("help", &all);
}

#[test]
fn version() {
    let version = concat!("qeff-host ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(qeff("--version").succeeds().stdout, version);
    assert_eq!(qeff("-V").succeeds().stdout, version);
}

#[test]
fn completions() {
    for (shell, sign) in [("bash", "complete -F"), ("zsh", "#compdef qeff-host"), ("fish", "complete -c qeff-host")] {
        let script = qeff("completions").arg(shell).succeeds().stdout;
        assert!(script.contains(sign) && script.contains("full-batch-size"), "{shell}");
    }
}
