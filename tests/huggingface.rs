//! Every fixture computes what Hugging Face computes: the one promise that all others rest on.

use anyhow::{Context as _, Result};
use qeff::{cases, compare, continue_all, describe, fixture, fixtures_of};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::prepare;

/// How a fixture is run.
struct How {
    slots: usize,
    chunk: usize,
}

fn check(name: &str, how: &How) -> Result<()> {
    let dir = fixture(name);
    let checkpoint = Checkpoint::open(&dir)?;
    let model = describe(&checkpoint)?;
    let cases = cases(&dir)?;
    let needed = |case: &qeff::Case| case.prompt.len() + case.greedy.len();
    if how.slots > 1 {
        let context = cases.iter().map(needed).max().context("no cases")?;
        let mut ready = prepare::cpu(&model, &checkpoint.weights, how.slots, context)?;
        let got = continue_all(&mut ready.session, &cases, how.chunk)?;
        return cases.iter().zip(&got).try_for_each(|(case, got)| compare(case, got));
    }
    for case in cases {
        let mut ready = prepare::cpu(&model, &checkpoint.weights, 1, needed(&case))?;
        let got = continue_all(&mut ready.session, std::slice::from_ref(&case), how.chunk)?;
        compare(&case, &got[0])?;
    }
    Ok(())
}

/// Runs every fixture of a family and reports all failures together.
fn check_family(family: &str, how: &How) {
    let names = fixtures_of(family);
    assert!(!names.is_empty(), "no fixtures of {family}");
    let failures: Vec<_> =
        names.iter().filter_map(|name| check(name, how).err().map(|error| format!("{name}: {error:#}"))).collect();
    assert!(failures.is_empty(), "{} of {} fixtures:\n{}", failures.len(), names.len(), failures.join("\n"));
}

#[test]
fn llama() {
    check_family("llama", &How { slots: 1, chunk: 512 });
}

#[test]
fn mistral() {
    check_family("mistral", &How { slots: 1, chunk: 512 });
}

#[test]
fn gpt2() {
    check_family("gpt2", &How { slots: 1, chunk: 512 });
}
