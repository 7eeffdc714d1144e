//! The plugin as a user has it: a shared object, loaded by the installed `qeff-host`.
//!
//! `QEFF_HOST` names another program than the `qeff-host` of PATH. What must come out stands in `checkpoint/expected.json`,
//! which `checkpoint/make.py` wrote with Hugging Face transformers.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

/// Name of the library that this crate becomes.
const LIBRARY: &str = "qeff_plugin_my_arch";

/// Largest difference of logits, relative to the largest of them.
const TOLERANCE: f64 = 1e-4;

/// The tiny checkpoint beside this file.
fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoint")
}

/// The shared object, which cargo built beside this test.
fn plugin() -> PathBuf {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    let test = std::env::current_exe().expect("a path");
    let file = test.with_file_name(format!("{DLL_PREFIX}{LIBRARY}{DLL_SUFFIX}"));
    assert!(file.is_file(), "{} is not built", file.display());
    file
}

/// What `qeff-host` hands over.
fn host(args: &[&str]) -> String {
    let program = std::env::var_os("QEFF_HOST").unwrap_or_else(|| "qeff-host".into());
    let output = Command::new(&program)
        .args(args)
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "cannot start {}: {error}; install qeff-host, or name it with QEFF_HOST",
                program.display()
            )
        });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{args:?}: {said}\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The same of a verb that takes a model.
fn of_model(verb: &str, args: &[&str]) -> String {
    let (checkpoint, plugin) = (checkpoint(), plugin());
    let model = [
        "--model",
        checkpoint.to_str().expect("UTF-8"),
        "--plugin",
        plugin.to_str().expect("UTF-8"),
    ];
    host(&[&[verb], &model[..], args].concat())
}

fn numbers(list: &Json) -> Vec<f64> {
    list.as_array()
        .expect("a list")
        .iter()
        .map(|number| number.as_f64().expect("a number"))
        .collect()
}

#[test]
fn logits_are_those_of_hugging_face() {
    let expected = std::fs::read_to_string(checkpoint().join("expected.json")).expect("a file");
    let expected: Json = serde_json::from_str(&expected).expect("JSON");
    for case in expected["cases"].as_array().expect("cases") {
        let prompt: Vec<_> = numbers(&case["prompt_ids"])
            .iter()
            .map(f64::to_string)
            .collect();
        let prompt = prompt.join(",");
        let new = numbers(&case["generated_ids"]).len().to_string();
        let largest = case["step_logits"]
            .as_array()
            .expect("steps")
            .iter()
            .flat_map(numbers)
            .fold(0.0, |a: f64, b| a.max(b.abs()));
        // The whole prompt in one call, and two tokens at a time.
        for chunk in ["512", "2"] {
            let answer = of_model(
                "run",
                &[
                    "--json",
                    "--logits",
                    "--ignore-eos",
                    "--prompt-ids",
                    &prompt,
                    "--max-new-tokens",
                    &new,
                    "--prompt-len",
                    chunk,
                ],
            );
            let answer: Json = serde_json::from_str(&answer).expect("JSON");
            let answer = &answer["outputs"][0];
            let steps = case["step_logits"].as_array().expect("steps").iter();
            for (step, (want, got)) in steps
                .zip(answer["step_logits"].as_array().expect("steps"))
                .enumerate()
            {
                let (want, got) = (numbers(want), numbers(got));
                assert_eq!(want.len(), got.len());
                let worst = want
                    .iter()
                    .zip(&got)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f64::max);
                assert!(
                    worst <= TOLERANCE * largest,
                    "prompt {prompt}, step {step}: logits differ by {worst}"
                );
            }
            assert_eq!(
                case["generated_ids"], answer["generated_ids"],
                "prompt {prompt}"
            );
        }
    }
}

/// Read it beside the model's code in transformers; `cargo insta review` accepts a change.
#[test]
fn the_description_is_known() {
    insta::assert_snapshot!(
        "description",
        of_model("inspect", &["--strict", "--show", "graph"])
    );
}

/// Hostile configs, every feature, both targets, both storage forms: see `qeff-host plugins check --help`.
#[test]
fn the_plugin_conforms() {
    let (checkpoint, plugin) = (checkpoint(), plugin());
    let paths = [
        plugin.to_str().expect("UTF-8"),
        "--checkpoint",
        checkpoint.to_str().expect("UTF-8"),
    ];
    host(&[&["plugins", "check"], &paths[..]].concat());
}
