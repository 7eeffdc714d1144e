//! Prompts and flags that cannot be served: one error each, said before time is spent on weights where possible.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use qeff::command::Command;
use qeff::fixture;
use qeff::scratch::Scratch;

use crate::{demo, llama, qeff, snapshot};

#[test]
fn prompts_that_cannot_be_served() {
    let long = vec!["1"; 70].join(",");
    let run = |model: &str| qeff("run").model(&fixture(model));
    let mut odd = tempfile::NamedTempFile::new().expect("a file");
    odd.write_all(b"good\n\xff\xfe\n").expect("a file");
    let empty = tempfile::NamedTempFile::new().expect("a file");
    let missing = demo().join("no-such-file");
    let cases: Vec<(&str, Command)> = vec![
        ("no prompt", run("llama/base")),
        ("empty prompt", run("llama/base").args(["--prompt", ""])),
        ("an empty one among others", run("llama/base").args(["--prompt", "a||b"])),
        ("empty ids", run("llama/base").args(["--prompt-ids", ""])),
        ("no number", run("llama/base").words("--prompt-ids 1,x")),
        ("negative id", run("llama/base").words("--prompt-ids=-1")),
        ("id past 32 bits", run("llama/base").words("--prompt-ids 4294967296")),
        ("id out of the vocabulary", run("llama/base").words("--prompt-ids 1,300")),
        ("prompt longer than --ctx-len", run("llama/base").words("--prompt-ids 1,2,3 --ctx-len 2")),
        ("second prompt too long", run("llama/base").words("--prompt-ids 1 --prompt-ids 1,2,3 --ctx-len 2")),
        ("prompt longer than n_positions", run("gpt2/base").args(["--prompt-ids", &long])),
        ("--ctx-len beyond n_positions", run("gpt2/base").words("--prompt-ids 1 --ctx-len 49")),
        ("positions nobody has", run("llama/base").words("--prompt-ids 1 --max-new-tokens 4000000000")),
        ("a context nobody has", run("llama/base").words("--prompt-ids 1 --ctx-len 4294967295")),
        ("prompt that is not UTF-8", run("llama/base").arg("--prompt").arg(OsStr::from_bytes(b"ab\xff"))),
        ("file that is not UTF-8", run("llama/base").path("--prompts-txt-file-path", odd.path(), "PROMPTS")),
        ("file without prompts", run("llama/base").path("--prompts-txt-file-path", empty.path(), "PROMPTS")),
        ("file that is not there", run("llama/base").path("--prompts-txt-file-path", &missing, "PROMPTS")),
        ("text without a tokenizer", run("llama/bias").words("--prompt hello")),
        ("stop string without a tokenizer", run("llama/bias").words("--prompt-ids 1 --stop x")),
        ("empty stop string", run("llama/base").words("--prompt-ids 1 --stop").arg("")),
        ("chat without a template", qeff("run").model(&demo()).words("--prompt hello --chat")),
    ];
    let said: String = cases.into_iter().map(|(name, command)| format!("## {name}\n{}\n", command.refuses())).collect();
    snapshot("prompts", &said);
}

#[test]
fn a_malformed_tokenizer() {
    let scratch = Scratch::new("llama/base");
    scratch.write("tokenizer.json", "{\"model\": 3}");
    let said = qeff("run").model(scratch.dir()).words("--prompt hello").refuses();
    assert!(said.contains("CHECKPOINT/tokenizer.json"), "{said}");
    // Neither an export nor ids need it.
    qeff("run").model(scratch.dir()).words("--prompt-ids 1 --max-new-tokens 1").succeeds();
    let place = tempfile::tempdir().expect("a folder");
    qeff("export").model(scratch.dir()).path("--output", &place.path().join("x"), "OUTPUT").succeeds();
}

#[test]
fn flags_that_make_no_sense() {
    let run = |words: &str| qeff("run").model(&llama()).words("--prompt-ids 1").words(words);
    let mut said = String::new();
    for words in [
        "--frobnicate",
        "--temperature -1",
        "--temperature=-1",
        "--temperature nan",
        "--top-k 0",
        "--top-k many",
        "--top-p 0",
        "--top-p 1.5",
        "--min-p 2",
        "--repetition-penalty 0",
        "--seed=-1",
        "--max-new-tokens 0",
        "--ctx-len 0",
        "--batch-size 0",
        "--full-batch-size 1000000",
        "--prompt hello",
        "--prompts-txt-file-path x",
        "--chat",
        "--system x",
        "--chat-template x",
        "--logits",
        "--ctx-len 3 --ctx-len 4",
        "x",
        "-- -compiler-flag",
    ] {
        said.push_str(&format!("## {words}\n{}\n", run(words).refuses()));
    }
    for (verb, words) in [
        ("run", "--prompt hello --system x --model m"),
        ("run", "--prompt hello"),
        ("export", "--model m"),
        ("export", "--model m --output o --target gpu"),
        ("inspect", "--model m --show everything"),
        ("completions", "tcsh"),
        ("frobnicate", ""),
    ] {
        said.push_str(&format!("## {verb} {words}\n{}\n", qeff(verb).words(words).refuses()));
    }
    snapshot("flags", &said);
}
