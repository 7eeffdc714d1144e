//! What a description computes, asked for in ways that must not matter.

use anyhow::{Context as _, Result, ensure};
use qeff_plugin_api::graph::{Model, Role, Task};

use super::features::MOST_WRITTEN;
use super::{Rows, Verdict};
use crate::checkpoint::Checkpoint;
use crate::engines::{self, Choice};
use crate::forms::WeightForms;
use crate::generate::{self, Completion, Flow, Observer, Options, Request, Sampling};
use crate::prepare::{self, CpuOptions};

/// Largest difference of logits between two ways, relative to the largest of them.
const TOLERANCE: f32 = 1e-4;

/// Lengths of the prompts, and how many tokens follow.
const PROMPTS: [usize; 3] = [3, 11, 7];
const NEW_TOKENS: usize = 4;

/// Decodes prompts alone, in chunks and together on the CPU: rows of a batch and pieces of a prompt must not be seen in the
/// result.
pub(super) fn check(model: &Model, checkpoint: &Checkpoint, rows: &mut Rows<'_>) {
    const CHECK: &str = "runs";
    if model.task != Task::CausalLm {
        return rows.add(
            CHECK,
            Verdict::Skipped,
            format!("it is checked for tokens only, and this is {}", model.task.name()),
        );
    }
    let total = checkpoint.weights.total_bytes();
    if total > MOST_WRITTEN {
        return rows.add(CHECK, Verdict::Skipped, format!("{total} bytes of weights are a lot for a check"));
    }
    match worst(model, checkpoint) {
        Ok(worst) => rows.pass(
            CHECK,
            format!(
                "{} prompts alone, in chunks of 2, and together: logits agree within {worst:.0e} of the largest",
                PROMPTS.len()
            ),
        ),
        Err(error) => rows.fail(CHECK, format!("{error:#}")),
    }
}

/// The largest difference between any two ways.
fn worst(model: &Model, checkpoint: &Checkpoint) -> Result<f32> {
    let program = prepare::main_program(model)?;
    let vocab = program.output(Role::Logits).and_then(|output| program.ty(output.value).last()?.fixed());
    let vocab = vocab.context("it puts out no logits of a known width")?;
    // Any ids will do, as long as they are always the same.
    let mut id = 1u64;
    let mut next = || {
        id = (id * 48_271) % 2_147_483_647;
        (id % vocab) as u32
    };
    let prompts = PROMPTS.map(|length| (0..length).map(|_| next()).collect::<Vec<_>>());
    let requests: Vec<_> = prompts.into_iter().map(|prompt| Request { prompt, max_new_tokens: NEW_TOKENS }).collect();
    let alone = requests.iter().map(|request| answer(model, checkpoint, std::slice::from_ref(request), 512));
    let alone: Vec<Completion> = alone.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let chunks = requests.iter().map(|request| answer(model, checkpoint, std::slice::from_ref(request), 2));
    let chunks: Vec<Completion> = chunks.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let together = answer(model, checkpoint, &requests, 512)?;
    let mut worst = 0f32;
    for (way, others) in [("in chunks of 2", &chunks), ("together", &together)] {
        for (i, (one, other)) in alone.iter().zip(others).enumerate() {
            let difference = difference(one, other).with_context(|| format!("prompt {i} {way}"))?;
            ensure!(
                difference <= TOLERANCE,
                "prompt {i} {way} has other logits than alone, by {difference:.1e} of the largest"
            );
            worst = worst.max(difference);
        }
    }
    Ok(worst)
}

/// How far the logits of two answers are apart, relative to the largest, up to where ids part.
fn difference(one: &Completion, other: &Completion) -> Result<f32> {
    let mut worst = 0f32;
    for ((a, b), (x, y)) in one.logits.iter().zip(&other.logits).zip(one.ids.iter().zip(&other.ids)) {
        ensure!(a.iter().chain(b).all(|logit| logit.is_finite()), "logits are not finite");
        let largest = a.iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
        worst = a.iter().zip(b).map(|(a, b)| (a - b).abs() / largest).fold(worst, f32::max);
        if x != y {
            break; // A near-tie; the difference of the logits says whether it was one.
        }
    }
    Ok(worst)
}

fn answer(model: &Model, checkpoint: &Checkpoint, requests: &[Request], chunk: usize) -> Result<Vec<Completion>> {
    let engine = engines::select(Choice::Rten, None)?.engine;
    let context = PROMPTS.iter().max().copied().unwrap_or(0) + NEW_TOKENS;
    let how = CpuOptions { engine: &*engine, slots: requests.len(), context, chunk, forms: WeightForms::default() };
    let mut session = prepare::cpu(model, &checkpoint.weights, how)?.session;
    let options = Options { sampling: Sampling::default(), eos: vec![], chunk, keep_logits: true };
    Ok(generate::generate(&mut session, requests, &options, &mut Silent)?.0)
}

/// Lets everything pass.
struct Silent;

impl Observer for Silent {
    fn token(&mut self, _: usize, _: u32) -> Result<Flow> {
        Ok(Flow::Continue)
    }
}
