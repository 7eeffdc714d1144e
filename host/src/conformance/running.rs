//! What a description computes, asked for in ways that must not matter.

use anyhow::{Context as _, Result, ensure};
use qeff_plugin_api::graph::{Model, Role, Task};

use super::features::MOST_WRITTEN;
use super::texts::{self, Ids};
use super::{Rows, Verdict};
use crate::checkpoint::Checkpoint;
use crate::engines::{self, Choice};
use crate::forms::WeightForms;
use crate::generate::{self, Completion, Flow, Observer, Options, Request, Sampling};
use crate::prepare::{self, CpuOptions};

/// Largest difference of logits between two ways, relative to the largest of them.
pub(super) const TOLERANCE: f32 = 1e-4;

/// Lengths of the prompts and texts, and how many tokens follow a prompt.
pub(super) const LENGTHS: [usize; 3] = [3, 11, 7];
const NEW_TOKENS: usize = 4;

/// Decodes prompts alone, in chunks and together on the CPU, or encodes texts alone and together: rows of a batch and pieces
/// of a prompt must not be seen in the result.
pub(super) fn check(model: &Model, checkpoint: &Checkpoint, rows: &mut Rows<'_>) {
    const CHECK: &str = "runs";
    let skip = match model.task {
        Task::CausalLm => None,
        Task::Encoder | Task::SequenceClassification => {
            texts::not_of_a_text(model).map(|input| format!("only texts are tried, and it takes `{input}`"))
        }
        other => Some(format!("only tokens and texts are tried, and this is {}", other.name())),
    };
    let total = checkpoint.weights.total_bytes();
    let large = (total > MOST_WRITTEN).then(|| format!("{total} bytes of weights are a lot for a check"));
    if let Some(why) = skip.or(large) {
        return rows.add(CHECK, Verdict::Skipped, why);
    }
    let agree = if model.task == Task::CausalLm { decoded(model, checkpoint) } else { encoded(model, checkpoint) };
    match agree {
        Ok(how) => rows.pass(CHECK, how),
        Err(error) => rows.fail(CHECK, format!("{error:#}")),
    }
}

fn decoded(model: &Model, checkpoint: &Checkpoint) -> Result<String> {
    let (worst, prompts) = (worst(model, checkpoint)?, LENGTHS.len());
    Ok(format!("{prompts} prompts alone, in chunks of 2, and together: logits agree within {worst:.0e} of the largest"))
}

fn encoded(model: &Model, checkpoint: &Checkpoint) -> Result<String> {
    let field = |name: &str| checkpoint.config.opt_i64(name).ok().flatten();
    let vocab = field("vocab_size").and_then(|size| u64::try_from(size).ok());
    let padding = field("pad_token_id").and_then(|id| u32::try_from(id).ok());
    // Every vocabulary has a few ids.
    texts::agree(model, &checkpoint.weights, Ids { vocab: vocab.unwrap_or(5), padding: padding.unwrap_or(0) })
}

/// Ids below `vocab`: any will do, as long as they are always the same.
pub(super) fn ids(vocab: u64) -> impl FnMut() -> u32 {
    let mut id = 1u64;
    move || {
        id = (id * 48_271) % 2_147_483_647;
        (id % vocab) as u32
    }
}

/// The largest difference between any two ways.
fn worst(model: &Model, checkpoint: &Checkpoint) -> Result<f32> {
    let program = prepare::main_program(model)?;
    let vocab = program.output(Role::Logits).and_then(|output| program.ty(output.value).last()?.fixed());
    let vocab = vocab.context("it puts out no logits of a known width")?;
    let mut next = ids(vocab);
    let prompts = LENGTHS.map(|length| (0..length).map(|_| next()).collect::<Vec<_>>());
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

/// The largest difference of two numbers at one place, relative to the largest number of `a`.
pub(super) fn apart(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / largest).fold(0.0, f32::max)
}

/// How far the logits of two answers are apart, relative to the largest, up to where ids part.
fn difference(one: &Completion, other: &Completion) -> Result<f32> {
    let mut worst = 0f32;
    for ((a, b), (x, y)) in one.logits.iter().zip(&other.logits).zip(one.ids.iter().zip(&other.ids)) {
        ensure!(a.iter().chain(b).all(|logit| logit.is_finite()), "logits are not finite");
        worst = worst.max(apart(a, b));
        if x != y {
            break; // A near-tie; the difference of the logits says whether it was one.
        }
    }
    Ok(worst)
}

fn answer(model: &Model, checkpoint: &Checkpoint, requests: &[Request], chunk: usize) -> Result<Vec<Completion>> {
    let engine = engines::select(Choice::Rten, None)?.engine;
    let context = LENGTHS.iter().max().copied().unwrap_or(0) + NEW_TOKENS;
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
