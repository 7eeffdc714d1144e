//! `doctor --acceptance`: for somebody with an SDK and cards, a check of each thing that was only read about when this was
//! written. `docs/src/reference/unproven.md` says which.
//!
//! Whole commands run as processes of their own, as a user would run them, so that whatever a library does ends one check
//! and not the report. What only the library can tell is asked of it directly.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use qeff_core::qpc::Elem;
use serde_json::{Value as Json, json};

use crate::cli::talk;
use crate::compile::sdk::cards;
use crate::qpc::qpc_file;
use crate::runtime::qaic::locate::{Located, locate};
use crate::runtime::qaic::program::{Installed, read};
use crate::runtime::qaic::{OpenOptions, QaicProgram};

/// Positions of a sequence; chunks of [`CHUNK`] do not divide them, so that calls have padding at the end.
const CONTEXT: usize = 40;
/// Prompt tokens in one call.
const CHUNK: usize = 16;
/// Largest difference of logits from the CPU's, relative to the largest: what f16 may make of a small model.
const HALF: f64 = 0.03;
/// The same of a program that computes in f32: the order of sums.
const FULL: f64 = 0.001;

/// What there is to check with.
pub(super) struct Given<'a> {
    /// A small checkpoint.
    pub(super) model: &'a Path,
    /// Root of the SDK, if the user names one.
    pub(super) sdk: Option<&'a Path>,
    /// Cards; the first is used, and all of them together if there are several.
    pub(super) group: Vec<i32>,
    /// One document instead of text.
    pub(super) json: bool,
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Holds(String),
    Fails(String),
    LeftOut(String),
}

/// A claim with what came of it.
struct Check {
    claim: &'static str,
    outcome: Outcome,
}

/// A check failed: what is installed here is not what was assumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAccepted {
    failed: usize,
    all: usize,
}

impl fmt::Display for NotAccepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} checks failed on this machine\nhint: please report the whole output with the versions of SDK and firmware",
            self.failed, self.all
        )
    }
}

impl std::error::Error for NotAccepted {}

pub(super) fn run(given: &Given<'_>) -> Result<()> {
    let mut checks = vec![];
    let mut check = |claim: &'static str, outcome: Result<Outcome>| {
        let outcome = outcome.unwrap_or_else(|error| Outcome::Fails(format!("{error:#}")));
        if !given.json {
            talk::say(&line(claim, &outcome));
        }
        checks.push(Check { claim, outcome });
    };
    let located = locate(given.sdk);
    check("the runtime library has every function that is called", library(&located));
    check("the header says where cards and time limits are set", header(&located));
    check("the listing of cards, and what the library says of them, agree", listing(&located));
    let plain = compile(given, &["--batch-size", "2"], 1);
    check("the compiler takes a model of ours", compiled(&plain));
    if let Ok(qpc) = &plain {
        check("a QPC says of itself what the loaded program says", descriptors(&located, qpc, given.group[0]));
        check("a write at position -1 changes nothing", negative(&located, qpc, given.group[0]));
        check("ragged prompts in chunks give the CPU's tokens", tokens(given, qpc, 1, &[3, CHUNK + 5], HALF));
        check("a prompt that fills the context gives the CPU's token", tokens(given, qpc, 1, &[CONTEXT], HALF));
    }
    let batched = compile(given, &["--full-batch-size", "2"], 1);
    check("continuous batching compiles", compiled(&batched));
    if let Ok(qpc) = &batched {
        check("slots that are filled again give the CPU's tokens", tokens(given, qpc, 1, &[3, CHUNK + 5, 9, 1], HALF));
    }
    let full = compile(given, &["--precision", "f32"], 1);
    let full = full.and_then(|qpc| tokens(given, &qpc, 1, &[3, CHUNK + 5], FULL));
    check("a program of --precision f32 computes the CPU's logits", full);
    let several = "a program on several cards gives the CPU's tokens";
    match given.group.len() {
        1 => check(several, Ok(Outcome::LeftOut("name several cards with --device-group".into()))),
        count => {
            let outcome = compile(given, &["--batch-size", "2"], count)
                .and_then(|qpc| tokens(given, &qpc, count, &[3, CHUNK + 5], HALF));
            check(several, outcome);
        }
    }
    finish(given, &checks)
}

fn finish(given: &Given<'_>, checks: &[Check]) -> Result<()> {
    let failed = checks.iter().filter(|check| matches!(check.outcome, Outcome::Fails(_))).count();
    if given.json {
        let checks: Vec<_> = checks
            .iter()
            .map(|Check { claim, outcome }| {
                let (word, detail) = words(outcome);
                json!({ "claim": claim, "outcome": word, "detail": detail })
            })
            .collect();
        talk::json(&json!({ "checks": checks, "failed": failed }))?;
    }
    if failed > 0 { Err(NotAccepted { failed, all: checks.len() }.into()) } else { Ok(()) }
}

fn words(outcome: &Outcome) -> (&'static str, &str) {
    match outcome {
        Outcome::Holds(detail) => ("holds", detail),
        Outcome::Fails(detail) => ("FAILS", detail),
        Outcome::LeftOut(detail) => ("left out", detail),
    }
}

fn line(claim: &str, outcome: &Outcome) -> String {
    let (word, detail) = words(outcome);
    let detail = detail.trim_end().replace('\n', "\n            ");
    format!("{word:<9} {claim}{}{detail}", if detail.is_empty() { "" } else { ": " })
}

fn library(located: &Located) -> Result<Outcome> {
    let installed = Installed::open(located)?;
    let (major, minor) = installed.library.version()?;
    Ok(Outcome::Holds(format!("{}, version {major}.{minor}", located.library.display())))
}

fn header(located: &Located) -> Result<Outcome> {
    let Some(layout) = Installed::open(located)?.layout.map_err(anyhow::Error::msg)? else {
        return Ok(Outcome::LeftOut("there is no dev/inc/QAicApi.h; only programs for one card can be loaded".into()));
    };
    let place = |offset: Option<usize>| offset.map_or("none".into(), |offset| format!("byte {offset}"));
    ensure!(layout.device_mapping.is_some(), "{}: no field devMapping", layout.header.display());
    Ok(Outcome::Holds(format!(
        "{} bytes, devMapping at {}, dataPathTimeoutMs at {}",
        layout.size,
        place(layout.device_mapping),
        place(layout.timeout_ms)
    )))
}

fn listing(located: &Located) -> Result<Outcome> {
    let library = Installed::open(located)?.library;
    let listed = located.util.as_deref().map(cards::ask).unwrap_or_default();
    ensure!(!listed.is_empty(), "qaic-util lists no card");
    let mut said = vec![];
    for card in &listed {
        let number = i32::try_from(card.qid)?;
        let status = match library.card_status(number) {
            None => bail!("the library has no qaicGetDeviceInfo"),
            Some(Ok(0)) => "Initializing",
            Some(Ok(1)) => "Ready",
            Some(Ok(2)) => "Error",
            Some(Ok(other)) => bail!("card {number}: status {other} is none that is known"),
            Some(Err(status)) => bail!("card {number}: {status}"),
        };
        ensure!(card.status == status, "card {number}: listed as {}, and the library says {status}", card.status);
        let resources = library.resources(number).context("the library has no qaicGetResourceInfo")?;
        let (total, free) = (u64::from(resources.nsp_total), u64::from(resources.nsp_free));
        ensure!(
            card.cores.is_none_or(|cores| cores == total) && free <= total,
            "card {number}: {:?} cores are listed, and the library says {free} of {total}",
            card.cores
        );
        said.push(format!("{number} {status} {free}/{total}"));
    }
    Ok(Outcome::Holds(said.join(", ")))
}

/// The document that a command of this program prints.
fn command(given: &Given<'_>, words: &[&str]) -> Result<Json> {
    let program = std::env::current_exe().context("the path of this program")?;
    let mut command = Command::new(program);
    command.args(words).arg("--json");
    if let Some(sdk) = given.sdk.filter(|_| words.first() != Some(&"run")) {
        command.arg("--sdk").arg(sdk);
    }
    let output = command.output()?;
    if !output.status.success() {
        bail!(
            "`{}` ended with {}\n{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).context("expected a JSON document")
}

fn compile(given: &Given<'_>, sizes: &[&str], devices: usize) -> Result<PathBuf> {
    let model = given.model.to_str().context("the path of the model is not UTF-8")?;
    let (context, chunk, devices) = (CONTEXT.to_string(), CHUNK.to_string(), devices.to_string());
    let mut words = vec!["compile", "--model", model, "--ctx-len", &context, "--prompt-len", &chunk];
    words.extend(["--num-devices", &devices]);
    words.extend(sizes);
    let json = command(given, &words)?;
    Ok(PathBuf::from(json["qpc"][0].as_str().context("expected the path of a QPC")?))
}

fn compiled(qpc: &Result<PathBuf>) -> Result<Outcome> {
    match qpc {
        Ok(qpc) => Ok(Outcome::Holds(qpc.display().to_string())),
        Err(error) => Ok(Outcome::Fails(format!("{error:#}"))),
    }
}

fn open(located: &Located, qpc: &Path, card: i32) -> Result<QaicProgram> {
    let options = OpenOptions { cards: vec![card], timeout: Duration::from_secs(60), executions: 1 };
    Ok(QaicProgram::open(&Installed::open(located)?, qpc, &options)?)
}

fn descriptors(located: &Located, qpc: &Path, card: i32) -> Result<Outcome> {
    let file = read(&qpc_file(qpc)?)?;
    let said = file.interface().context("the QPC has no program")?;
    let program = open(located, qpc, card)?;
    let loaded = program.interface();
    ensure!(said.bindings == loaded.bindings, "bindings: {:?} and {:?}", said.bindings, loaded.bindings);
    ensure!(said.rows == loaded.rows, "specializations: {:?} and {:?}", said.rows, loaded.rows);
    Ok(Outcome::Holds(format!(
        "{} bindings, {} states, {} specializations",
        loaded.bindings.len(),
        program.states().len(),
        loaded.rows.len()
    )))
}

/// Writes the last position of one sequence, then another sequence beside −1, and looks whether the last position is as it
/// was: a device that takes −1 for an index would have written there.
fn negative(located: &Located, qpc: &Path, card: i32) -> Result<Outcome> {
    let mut program = open(located, qpc, card)?;
    let interface = program.interface().clone();
    let find = |name: &str| interface.find(name).with_context(|| format!("the program has no `{name}`"));
    let (ids, positions, logits) = (find("input_ids")?, find("position_ids")?, find("logits")?);
    let state = *program.states().first().context("the program has no state")?;
    let row = interface.rows.iter().find(|row| row[ids].as_slice() == [2, 1]).context("no decode specialization")?;
    ensure!(interface.bindings[ids].elem == Elem::I64, "ids are not int64");
    let mut call = |at: [i64; 2]| -> Result<Vec<u8>> {
        let execution = program.execution(0)?;
        execution.set(ids, &[2, 1])?.copy_from_slice(&[1i64, 2].map(i64::to_le_bytes).concat());
        execution.set(positions, &[2, 1])?.copy_from_slice(&at.map(i64::to_le_bytes).concat());
        execution.set(logits, &row[logits])?;
        execution.set(state.output, &row[state.output])?;
        let ticket = program.submit(0)?;
        Ok(program.complete(ticket)?.bytes(state.output)?.to_vec())
    };
    let last = i64::try_from(CONTEXT)? - 1;
    let (before, after) = (call([last, 0])?, call([-1, 1])?);
    // The first sequence is the first half.
    if before[..before.len() / 2] == after[..after.len() / 2] {
        return Ok(Outcome::Holds(String::new()));
    }
    Ok(Outcome::Fails(
        "the state of a sequence that was left alone has changed; windows of attention would be wrong".into(),
    ))
}

/// Compares with the CPU, greedily, prompts of these lengths. `allowed` is the largest difference of logits from the CPU's,
/// relative to the largest.
fn tokens(given: &Given<'_>, qpc: &Path, devices: usize, lengths: &[usize], allowed: f64) -> Result<Outcome> {
    let group: Vec<_> = given.group.iter().take(devices).map(i32::to_string).collect();
    let (group, context) = (group.join(","), CONTEXT.to_string());
    let (qpc, model) = (qpc.to_str().context("not UTF-8")?, given.model.to_str().context("not UTF-8")?);
    let prompts: Vec<String> = lengths
        .iter()
        .map(|&length| (0..length).map(|i| (1 + i * 7 % 50).to_string()).collect::<Vec<_>>().join(","))
        .collect();
    let mut asked: Vec<&str> = vec!["--logits", "--ignore-eos", "--max-new-tokens", "8"];
    asked.extend(prompts.iter().flat_map(|ids| ["--prompt-ids", ids.as_str()]));
    let on_cards = command(given, &[&["execute", "--qpc-path", qpc, "--device-group", &group], &asked[..]].concat())?;
    let on_cpu = command(given, &[&["run", "--model", model, "--ctx-len", &context], &asked[..]].concat())?;
    let outputs = |json: &Json| json["outputs"].as_array().cloned().unwrap_or_default();
    let (found, expected) = (outputs(&on_cards), outputs(&on_cpu));
    ensure!(found.len() == lengths.len() && expected.len() == lengths.len(), "answers are missing");
    let mut worst = 0f64;
    for (prompt, (found, expected)) in found.iter().zip(&expected).enumerate() {
        worst = worst.max(compare(found, expected, allowed).with_context(|| format!("prompt {prompt}"))?);
    }
    Ok(Outcome::Holds(format!("logits differ by at most {:.4}% of the largest", worst * 100.0)))
}

/// Largest difference of logits, relative to the largest, up to the first token that both could have chosen otherwise.
fn compare(found: &Json, expected: &Json, allowed: f64) -> Result<f64> {
    let rows = |json: &Json| -> Vec<Vec<f64>> {
        let row = |row: &Json| row.as_array().into_iter().flatten().filter_map(Json::as_f64).collect();
        json["step_logits"].as_array().into_iter().flatten().map(row).collect()
    };
    let mut worst = 0f64;
    for (step, (found_row, expected_row)) in rows(found).iter().zip(&rows(expected)).enumerate() {
        let largest = expected_row.iter().fold(f64::MIN_POSITIVE, |max, x| max.max(x.abs()));
        let apart = found_row.iter().zip(expected_row).map(|(a, b)| (a - b).abs()).fold(0f64, f64::max) / largest;
        ensure!(
            apart <= allowed && found_row.len() == expected_row.len(),
            "step {step}: logits differ by {:.1}% of the largest; {:.1}% were expected at most",
            apart * 100.0,
            allowed * 100.0
        );
        worst = worst.max(apart);
        let (found, expected) = (&found["generated_ids"][step], &expected["generated_ids"][step]);
        if found != expected {
            let logit = |id: &Json| id.as_u64().and_then(|id| expected_row.get(id as usize)).copied();
            let tie = logit(found).zip(logit(expected)).is_some_and(|(a, b)| (a - b).abs() <= 2.0 * allowed * largest);
            ensure!(tie, "step {step}: token {found}, expected {expected}");
            break;
        }
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ids: &[u32], logits: &[[f64; 3]]) -> Json {
        json!({ "generated_ids": ids, "step_logits": logits })
    }

    #[test]
    fn tokens_may_differ_only_where_logits_nearly_tie() {
        let expected = answer(&[0, 1], &[[4.0, 1.0, 0.0], [0.0, 5.0, 4.9]]);
        let rounded = answer(&[0, 2], &[[4.02, 1.0, 0.0], [0.0, 4.94, 4.95]]);
        assert!(compare(&rounded, &expected, HALF).unwrap() < 0.02);
        assert!(compare(&rounded, &expected, FULL).is_err());
        let wrong = answer(&[1, 1], &[[4.0, 1.0, 0.0], [0.0, 5.0, 4.9]]);
        assert_eq!(compare(&wrong, &expected, HALF).unwrap_err().to_string(), "step 0: token 1, expected 0");
        let far = answer(&[0, 1], &[[3.0, 1.0, 0.0], [0.0, 5.0, 4.9]]);
        assert!(compare(&far, &expected, HALF).unwrap_err().to_string().contains("logits differ by 25.0%"));
    }
}
