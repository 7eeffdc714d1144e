//! `run` for people: text on stdout, talk on stderr; and the ways to give prompts.

use std::io::{Read as _, Write as _};
use std::process::{Command as Process, Stdio};

use crate::{demo, llama, qeff};

const FIRST: &str = "In the beginning";
const FIRST_ANSWER: &str = " of the reign of Josiah was";
const SECOND: &str = "The wise man";
const SECOND_ANSWER: &str = " shall be of good calam";

fn run(more: &[&str]) -> String {
    let outcome = qeff("run").model(&demo()).words("--max-new-tokens 7").args(more).succeeds();
    let talk: Vec<_> = outcome.stderr.lines().collect();
    let [engine, rates] = talk[..] else { panic!("{talk:?}") };
    assert!(engine.starts_with("engine: rten "), "{engine}");
    assert!(rates.contains("tok/s") && rates.contains("peak memory"), "{rates}");
    outcome.stdout
}

#[test]
fn one_prompt_gives_its_text_alone() {
    assert_eq!(run(&["--prompt", FIRST]), format!("{FIRST_ANSWER}\n"));
}

#[test]
fn several_prompts_in_every_spelling() {
    let both = run(&["--prompt", FIRST, "--prompt", SECOND]);
    assert_eq!(both, format!("[0] {FIRST_ANSWER}\n[1] {SECOND_ANSWER}\n"));
    assert_eq!(run(&["--prompt", &format!("{FIRST}|{SECOND}")]), both);
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    write!(file, "{FIRST}\r\n\n{SECOND}\n").expect("a file");
    let path = file.path().display().to_string();
    assert_eq!(run(&["--prompts-txt-file-path", &path]), both);
    assert_eq!(run(&["--prompts_txt_file_path", &path, "--batch-size", "1"]), both);
}

#[test]
fn an_escaped_bar_is_part_of_the_prompt() {
    let json = |prompt: &str| {
        let command = qeff("run").model(&demo()).words("--json --max-new-tokens 1 --prompt").arg(prompt);
        command.succeeds().json()["outputs"].as_array().expect("outputs").clone()
    };
    assert_eq!(json(r"a\|b").len(), 1);
    assert_eq!(json(r"a\|b|c").len(), 2);
    assert_ne!(json(r"a\|b")[0]["prompt_ids"], json("ab")[0]["prompt_ids"]);
}

/// A prompt is the user's text, not ours: one that looks like a flag is still a prompt.
#[test]
fn a_prompt_may_begin_with_a_dash() {
    let ids = |args: &[&str]| {
        let command = qeff("run").model(&demo()).words("--json --max-new-tokens 1").args(args);
        command.succeeds().json()["outputs"][0]["prompt_ids"].clone()
    };
    for prompt in ["-1", "- and it_came", "--ctx_len"] {
        assert_eq!(ids(&["--prompt", prompt]), ids(&[&format!("--prompt={prompt}")]), "{prompt}");
    }
    assert_ne!(ids(&["--prompt", "--ctx_len"]), ids(&["--prompt", "--ctx-len"]));
}

/// Ids of a conversation by a chat template.
fn chat_ids(more: &[&str]) -> serde_json::Value {
    let command = qeff("run").model(&llama()).words("--json --max-new-tokens 1 --chat --prompt hello").args(more);
    command.succeeds().json()["outputs"][0]["prompt_ids"].clone()
}

#[test]
fn chat() {
    let plain = qeff("run").model(&llama()).words("--json --max-new-tokens 1 --prompt hello").succeeds().json();
    let turn = chat_ids(&[]);
    assert_ne!(turn, plain["outputs"][0]["prompt_ids"]);
    assert_ne!(chat_ids(&["--system", "be brief"]), turn);

    let mut template = tempfile::NamedTempFile::new().expect("a file");
    write!(template, "{{{{ bos_token }}}}{{{{ messages[0].content }}}}").expect("a file");
    let path = template.path().display().to_string();
    assert_eq!(chat_ids(&["--chat-template", &path]), plain["outputs"][0]["prompt_ids"]);
}

#[test]
fn ids_are_shown_where_there_is_no_tokenizer() {
    let command = qeff("run").model(&qeff::fixture("llama/bias")).words("--prompt-ids 1,2 --max-new-tokens 3");
    let stdout = command.succeeds().stdout;
    let ids: Vec<u32> = stdout.trim_end().split(',').map(|id| id.parse().expect("an id")).collect();
    assert_eq!(ids.len(), 3);
}

/// A reader that has seen enough, such as `head`, is no error.
#[test]
fn a_closed_pipe_ends_in_peace() {
    for more in [&["--max-new-tokens", "400"][..], &["--json", "--logits", "--max-new-tokens", "100"]] {
        let mut process = Process::new(env!("CARGO_BIN_EXE_qeff-host-under-test"))
            .args(["run", "--ignore-eos", "--prompt", FIRST, "--model"])
            .arg(demo())
            .args(more)
            .env("QEFF_HOME", "/nowhere")
            .env_remove("ORT_DYLIB_PATH")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdout = process.stdout.take().expect("a pipe");
        stdout.read_exact(&mut [0; 4]).expect("some output");
        drop(stdout);
        let output = process.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(!stderr.contains("error"), "{stderr}");
    }
}
