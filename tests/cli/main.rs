//! The whole command: what is typed, what comes out of stdout and stderr, and the exit code.

mod classify;
mod compile;
mod compile_goldens;
mod config;
mod config_files;
mod embed;
mod engines;
mod export;
mod f16;
mod inspect;
mod killed;
mod limits;
mod linked;
mod machine;
mod prompts;
mod quantised;
mod speech;
mod text;
mod vlm;
mod weights;

use std::path::PathBuf;

use qeff::command::Command;
use qeff::{fixture, root};

/// A command of the binary.
fn qeff(verb: &str) -> Command {
    Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"), verb)
}

/// The checkpoint that ships with the repository.
fn demo() -> PathBuf {
    root().join("demo/kjv-1.7m")
}

/// A fixture with a tokenizer.
fn llama() -> PathBuf {
    fixture("llama/base")
}

/// Compares with `snapshots/cli/{name}.snap`.
fn snapshot(name: &str, content: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../snapshots/cli");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    // Plugins of this repository carry its version, which is nobody's news.
    let content = content.replace(concat!(env!("CARGO_PKG_VERSION"), " (built-in)"), "VERSION (built-in)");
    settings.bind(|| insta::assert_snapshot!(name, content));
}

/// Refusals of spoiled checkpoints: each case is exported to a folder that must not appear, and run; both must say the
/// same. Returns all messages, for a snapshot.
fn refusals<'a>(cases: impl IntoIterator<Item = (&'a str, qeff::scratch::Scratch)>) -> String {
    let mut all = String::new();
    for (name, scratch) in cases {
        let place = tempfile::tempdir().expect("a temporary folder");
        let output = place.path().join("new/export");
        let said = qeff("export").model(scratch.dir()).path("--output", &output, "OUTPUT").refuses();
        assert!(!place.path().join("new").exists(), "{name}: an export that failed left its folder");
        let run = qeff("run").model(scratch.dir()).words("--prompt-ids 1,2,3 --max-new-tokens 2").refuses();
        assert_eq!(said, run, "{name}: export and run say the same");
        all.push_str(&format!("## {name}\n{said}\n"));
    }
    all
}
