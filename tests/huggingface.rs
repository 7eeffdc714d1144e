//! Every fixture computes what Hugging Face computes: the one promise that all others rest on.

use anyhow::{Context as _, Result};
use qeff::{Case, cases, compare, continue_all, describe, engines, fixture, fixtures_of, options};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::prepare::{self, CpuOptions};
use qeff_host::runtime::cpu::engine::Engine;
use qeff_plugin_api::WeightExpr;
use qeff_plugin_api::graph::Model;

/// How a fixture is run.
#[derive(Clone, Copy)]
struct How {
    slots: usize,
    chunk: usize,
}

/// Positions that a case reaches: its last id is chosen, but never written.
fn reach(case: &Case) -> usize {
    case.prompt.len() + case.greedy.len() - 1
}

fn check(name: &str, engine: &dyn Engine, how: How) -> Result<()> {
    let dir = fixture(name);
    let checkpoint = Checkpoint::open(&dir)?;
    let model = describe(&checkpoint)?;
    let mut cases = cases(&dir)?;
    // Rules that change with the length are fixed by the farthest position of a request, where the reference computes
    // every step anew: there, each step is a request of its own.
    if let Some(window) = window(&model) {
        cases =
            cases.into_iter().flat_map(|case| if reach(&case) > window { steps(&case) } else { vec![case] }).collect();
    } else if how.slots > 1 {
        let context = cases.iter().map(reach).max().context("no cases")?;
        let options = CpuOptions { chunk: how.chunk, ..options(engine, how.slots, context) };
        let mut ready = prepare::cpu(&model, &checkpoint.weights, options)?;
        let got = continue_all(&mut ready.session, &cases, how.chunk)?;
        return cases.iter().zip(&got).try_for_each(|(case, got)| compare(case, got));
    }
    for case in cases {
        let options = CpuOptions { chunk: how.chunk, ..options(engine, 1, reach(&case)) };
        let mut ready = prepare::cpu(&model, &checkpoint.weights, options)?;
        let got = continue_all(&mut ready.session, std::slice::from_ref(&case), how.chunk)?;
        compare(&case, &got[0])?;
    }
    Ok(())
}

/// The original window of a model whose rotary rule depends on the current length.
fn window(model: &Model) -> Option<usize> {
    let mut tables = model.programs.iter().flat_map(|program| program.weights());
    tables.find_map(|(_, expr)| match expr {
        WeightExpr::Rope(table) => table.length_dependent().map(|window| window as usize),
        _ => None,
    })
}

/// Every step of a case as a request for one id.
fn steps(case: &Case) -> Vec<Case> {
    (0..case.greedy.len())
        .map(|step| Case {
            name: format!("{} from step {step}", case.name),
            prompt: case.prompt.iter().chain(&case.greedy[..step]).copied().collect(),
            greedy: vec![case.greedy[step]],
            margins: vec![case.margins[step]],
            step_logits: vec![case.step_logits[step].clone()],
        })
        .collect()
}

/// Families whose fixtures are run in every way.
const FAMILIES: &[&str] = &["llama", "mistral", "gpt2", "qwen2", "qwen3", "granite", "gpt_oss", "swiftkv"];

/// Runs every fixture of a family and reports all failures together.
fn check_family(family: &str, how: How) {
    let names = fixtures_of(family);
    assert!(!names.is_empty(), "no fixtures of {family}");
    for engine in engines().expect("engines") {
        let failure = |name: &String| Some(format!("{name}: {:#}", check(name, &*engine, how).err()?));
        let failures: Vec<_> = names.iter().filter_map(failure).collect();
        let (count, engine) = (failures.len(), engine.name());
        assert!(failures.is_empty(), "{engine}, {count} of {} fixtures:\n{}", names.len(), failures.join("\n"));
    }
}

#[test]
fn llama() {
    check_family("llama", How { slots: 1, chunk: 512 });
}

#[test]
fn mistral() {
    check_family("mistral", How { slots: 1, chunk: 512 });
}

#[test]
fn gpt2() {
    check_family("gpt2", How { slots: 1, chunk: 512 });
}

#[test]
fn qwen2() {
    check_family("qwen2", How { slots: 1, chunk: 512 });
}

#[test]
fn qwen3() {
    check_family("qwen3", How { slots: 1, chunk: 512 });
}

#[test]
fn granite() {
    check_family("granite", How { slots: 1, chunk: 512 });
}

#[test]
fn swiftkv() {
    check_family("swiftkv", How { slots: 1, chunk: 512 });
}

#[test]
fn gpt_oss() {
    check_family("gpt_oss", How { slots: 1, chunk: 512 });
}

/// A prompt in chunks of five: whatever the cut, the same logits.
#[test]
fn prompts_longer_than_a_chunk() {
    for family in FAMILIES {
        check_family(family, How { slots: 1, chunk: 5 });
    }
}

/// Three ragged prompts at once in three slots, decoded together.
#[test]
fn ragged_batches() {
    for family in FAMILIES {
        check_family(family, How { slots: 3, chunk: 512 });
    }
}

/// Three prompts in two slots: the third waits for a slot that held another sequence.
#[test]
fn slots_are_reused() {
    for family in FAMILIES {
        check_family(family, How { slots: 2, chunk: 7 });
    }
}
