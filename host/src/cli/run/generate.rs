//! Task `generate`: text that continues prompts.

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::Target;

use super::answer::{Asked, Ready, answer, encode};
use super::{Args, Opened};
use crate::cli::{forms, on_cards, talk};
use crate::generate::Request;
use crate::prepare::{self, CpuOptions};

/// New tokens where neither the user nor a context length says how many.
const DEFAULT_NEW_TOKENS: usize = 128;
/// Prompt tokens in one call where the user does not say: large enough to be fast, small enough to bound memory.
pub(super) const DEFAULT_CHUNK: usize = 512;
/// Sequences at once where the user does not say.
const DEFAULT_SLOTS: usize = 8;

/// Continues prompts.
pub(super) fn run(opened: Opened<'_>) -> Result<()> {
    let Opened { args, started, checkpoint, described, on_cards } = opened;
    let prompts = args.prompts.prompts()?;
    let Asked { prompts, tokenizer } = encode(&prompts, args.wishes.chat(), &args.wishes.stop, Some(&checkpoint))?;

    talk::warnings(&described.warnings);
    let chunk = args.prompt_len.map_or(DEFAULT_CHUNK, |n| n as usize);
    let mut options = args.wishes.options(Some(&checkpoint), chunk)?;
    let tokenizer = tokenizer.as_ref();
    if on_cards {
        check_ids(&prompts, &described.model)?;
        let (ready, context) = on_cards::prepare(&args.executor, args.shape(), described, &checkpoint, &prompts)?;
        let requests = on_cards::requests(&prompts, args.wishes.max_new_tokens, context)?;
        let mut session = on_cards::open(&ready.qpc, &ready.place, Some(context))?;
        options.chunk = session.chunk();
        let (quantised, loaded) = (&ready.quantised, started.elapsed());
        return answer(
            args.wishes.wishes(options, tokenizer),
            &requests,
            Ready { session: &mut session, engine: "qaic", started, loaded, quantised },
        );
    }
    if !args.wishes.json {
        talk::notes(&described.notes);
    }
    let plan = Plan::new(args, &prompts, &described.model)?;
    let selected = args.executor.engine(args.wishes.json)?;
    let forms = args.executor.forms(Target::Cpu)?;
    let how =
        CpuOptions { engine: &*selected.engine, slots: plan.slots, context: plan.context, chunk: options.chunk, forms };
    let mut ready = prepare::cpu(&described.model, &checkpoint.weights, how)?;
    ready.reports.iter().for_each(|report| talk::warnings(&report.warnings));
    if !args.wishes.json {
        forms::say(&ready.quantised);
    }
    let (quantised, loaded, engine) = (&ready.quantised, started.elapsed(), selected.engine.name());
    answer(
        args.wishes.wishes(options, tokenizer),
        &plan.requests,
        Ready { session: &mut ready.session, engine, started, loaded, quantised },
    )
}

/// What the request needs of a session.
pub(super) struct Plan {
    pub(super) requests: Vec<Request>,
    slots: usize,
    pub(super) context: usize,
}

impl Plan {
    pub(super) fn new(args: &Args, prompts: &[Vec<u32>], model: &qeff_plugin_api::graph::Model) -> Result<Self> {
        check_ids(prompts, model)?;
        // Positions that do not exist bound a sequence; positions that were only never trained are the user's choice.
        let hard = model.positions.filter(|limit| limit.hard).map(|limit| limit.trained as usize);
        let asked = args.ctx_len.map(|n| n as usize);
        if let Some(asked) = args.ctx_len {
            prepare::check_reach(model, asked.into()).context("--ctx-len is too large")?;
        }
        let bound = asked.or(hard);
        let mut requests = vec![];
        for (i, prompt) in prompts.iter().enumerate() {
            let room = bound.map(|bound| bound.checked_sub(prompt.len()));
            if room == Some(None) {
                let what = if asked.is_some() { "--ctx-len allows" } else { "this model has" };
                bail!(
                    "prompt {i} has {} tokens, more than the {} positions that {what}: shorten it{}",
                    prompt.len(),
                    bound.unwrap_or(0),
                    if asked.is_some() { " or raise --ctx-len" } else { "" }
                );
            }
            // The last id is chosen, not written: it needs no position.
            let room = room.flatten().map(|room| room + 1);
            let wanted = match (args.wishes.max_new_tokens, asked, room) {
                (Some(n), _, _) => n as usize,
                (None, Some(_), Some(room)) => room,
                (None, _, _) => DEFAULT_NEW_TOKENS,
            };
            let new = room.map_or(wanted, |room| wanted.min(room));
            if new < wanted && args.wishes.max_new_tokens.is_some() {
                talk::warn(&format!("prompt {i}: the context leaves room for {new} of {wanted} new tokens"));
            }
            requests.push(Request { prompt: prompt.clone(), max_new_tokens: new });
        }
        let reached =
            requests.iter().map(|request| request.prompt.len() + request.max_new_tokens - 1).max().unwrap_or(1);
        prepare::check_reach(model, reached as u64).context("--max-new-tokens is too large")?;
        if let Some(limit) = model.positions.filter(|limit| !limit.hard && reached as u64 > limit.trained) {
            talk::warn(&format!("positions reach {reached}; the model was made for {}", limit.trained));
        }
        let slots = args.full_batch_size.or(args.batch_size).map_or(DEFAULT_SLOTS, |n| n as usize).min(requests.len());
        Ok(Plan { requests, slots: slots.max(1), context: reached })
    }
}

/// Refuses ids past the vocabulary, which an engine would read from some other row.
pub(super) fn check_ids(prompts: &[Vec<u32>], model: &qeff_plugin_api::graph::Model) -> Result<()> {
    use qeff_plugin_api::graph::Role;
    let program = prepare::main_program(model)?;
    let vocab = program.output(Role::Logits).and_then(|output| program.ty(output.value).last()?.fixed());
    let Some(vocab) = vocab else { return Ok(()) };
    for (i, prompt) in prompts.iter().enumerate() {
        if let Some(id) = prompt.iter().find(|&&id| u64::from(id) >= vocab) {
            bail!("prompt {i} has token id {id}; the model's vocabulary ends at {}", vocab - 1);
        }
    }
    Ok(())
}
