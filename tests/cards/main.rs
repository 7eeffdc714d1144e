//! Cards: programs are compiled, loaded and executed by an SDK that stands in for the real one.
//!
//! What passes here passes on the stand-in; see `docs/src/reference/unproven.md` for what that leaves open.

mod calls;
mod decode;
mod devices;
mod execute;
mod faults;
mod images;
mod speech;
mod texts;

use qeff::cards::Cards;
use qeff::command::{Command, Outcome};
use qeff::{Case, compare_within, fixture};
use qeff_host::generate::{Completion, Finish};
use qeff_standin::config::SimConfig;
use serde_json::Value as Json;

/// Largest difference of logits allowed, relative to the largest: states are kept in f16, which has eleven bits.
const TOLERANCE: f32 = 8e-3;

/// How programs are compiled, and how near their numbers have to be to Hugging Face's.
#[derive(Debug, Clone, Copy)]
struct Held {
    words: &'static str,
    tolerance: f32,
}

/// As the reference compiles: states, images and sounds are f16.
const HALF: Held = Held { words: "", tolerance: TOLERANCE };
/// Nothing is rounded, so that what differs is wrong.
const FULL: Held = Held { words: "--precision f32", tolerance: qeff::TOLERANCE };

fn cards(config: &SimConfig) -> Cards {
    Cards::new(env!("CARGO_BIN_EXE_qeff-standin-under-test"), config)
}

/// A command of the binary that keeps artifacts in the SDK's home.
fn qeff(verb: &str, cards: &Cards) -> Command {
    Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"), verb).home(&cards.home()).env("RUST_LOG", "warn")
}

/// `run` of a fixture on cards.
fn run(name: &str, cards: &Cards) -> Command {
    qeff("run", cards).model(&fixture(name)).path("--sdk", cards.root(), "SDK")
}

fn ids(json: &Json) -> Vec<u32> {
    json.as_array().expect("a list of ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn join(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn completion(output: &Json) -> Completion {
    let row = |row: &Json| row.as_array().expect("a row").iter().map(|x| x.as_f64().expect("a logit") as f32).collect();
    Completion {
        ids: ids(&output["generated_ids"]),
        logits: output["step_logits"].as_array().expect("logits").iter().map(row).collect(),
        finish: Finish::Length,
    }
}

/// The prompts of cases as flags, with logits and as many tokens as the reference has.
fn ask(mut command: Command, cases: &[Case]) -> Command {
    for case in cases {
        command = command.arg("--prompt-ids").arg(join(&case.prompt));
    }
    let new = cases[0].greedy.len().to_string();
    command.words("--json --logits --ignore-eos --max-new-tokens").arg(new)
}

/// Compares every answer with the reference.
fn check(what: &str, cases: &[Case], outcome: &Outcome) {
    check_within(TOLERANCE, what, cases, outcome);
}

/// The same with another difference of logits allowed, relative to the largest.
fn check_within(tolerance: f32, what: &str, cases: &[Case], outcome: &Outcome) {
    let json = outcome.json();
    let outputs = json["outputs"].as_array().expect("outputs");
    assert_eq!(outputs.len(), cases.len(), "{what}");
    for (case, output) in cases.iter().zip(outputs) {
        assert_eq!(output["finish"], "length", "{what}");
        let got = completion(output);
        assert_eq!(got.ids.len(), case.greedy.len(), "{what}");
        compare_within(case, &got, tolerance).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    }
}
