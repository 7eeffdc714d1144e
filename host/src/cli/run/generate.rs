//! Task `generate`: text that continues prompts.

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::Target;

use super::reader::{Reader, Show};
use super::report::{Answers, Metrics, print_json};
use super::{Args, Opened};
use crate::checkpoint::Checkpoint;
use crate::cli::prompts::Prompt;
use crate::cli::{forms, on_cards, talk};
use crate::generate::{self, Options, Request};
use crate::prepare::{self, CpuOptions};
use crate::text::chat::ChatOptions;
use crate::text::{ChatTemplate, Message, Tokenizer};

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
    let sampling = args.sampling.sampling()?;
    let forms = args.forms.forms(if on_cards { Target::Aic } else { Target::Cpu })?;
    let needs_text = !args.stop.is_empty() || prompts.iter().any(|prompt| matches!(prompt, Prompt::Text(_)));
    let tokenizer = if needs_text { Some(checkpoint.tokenizer()?) } else { tokenizer_if_sound(&checkpoint) };
    let encoded = encode(args, &prompts, tokenizer.as_ref())?;

    talk::warnings(&described.warnings);
    if on_cards {
        check_ids(&encoded, &described.model)?;
        let lens: Vec<usize> = encoded.iter().map(Vec::len).collect();
        return on_cards::run(&args.cards, forms, args.shape(), &lens, described, &checkpoint);
    }
    if !args.json {
        talk::notes(&described.notes);
    }
    let plan = Plan::new(args, &encoded, &described.model)?;
    let selected = args.engine.select()?;
    if !args.json {
        talk::say(&format!("engine: {}", selected.about));
    }
    let chunk = args.prompt_len.map_or(DEFAULT_CHUNK, |n| n as usize);
    let how = CpuOptions { engine: &*selected.engine, slots: plan.slots, context: plan.context, chunk, forms };
    let ready = prepare::cpu(&described.model, &checkpoint.weights, how)?;
    ready.reports.iter().for_each(|report| talk::warnings(&report.warnings));
    if !args.json {
        forms::say(&ready.quantised);
    }
    let mut session = ready.session;
    let loaded = started.elapsed();

    let options = Options {
        sampling,
        eos: if args.ignore_eos { vec![] } else { checkpoint.eos().to_vec() },
        chunk,
        keep_logits: args.logits,
    };
    let show = if args.json {
        Show::Nothing
    } else if plan.requests.len() == 1 {
        Show::Stream
    } else {
        Show::Collected
    };
    let mut reader = Reader::new(tokenizer.as_ref(), &args.stop, &options.eos, plan.requests.len(), show)?;
    let (done, timing) = generate::generate(&mut session, &plan.requests, &options, &mut reader)?;
    let texts = reader.finish(&done)?;
    let metrics = Metrics {
        engine: selected.engine.name(),
        loaded,
        total: started.elapsed(),
        timing,
        first: loaded + timing.first_token,
    };
    if args.json {
        return print_json(args, &plan.requests, Answers { done: &done, texts: &texts }, &metrics, &ready.quantised);
    }
    metrics.say(&plan.requests);
    Ok(())
}

/// The tokenizer of a run by ids, which is worth a warning if it is malformed, not an error: nothing has to be encoded.
pub(super) fn tokenizer_if_sound(checkpoint: &Checkpoint) -> Option<Tokenizer> {
    checkpoint.opt_tokenizer().unwrap_or_else(|error| {
        talk::warn(&format!("there will be ids and no text: {error}"));
        None
    })
}

fn encode(args: &Args, prompts: &[Prompt], tokenizer: Option<&Tokenizer>) -> Result<Vec<Vec<u32>>> {
    let template = match (args.chat, tokenizer) {
        (false, _) | (true, None) => None,
        (true, Some(tokenizer)) => Some(match &args.chat_template {
            Some(file) => ChatTemplate::open(file)?,
            None => tokenizer.chat_template(None)?,
        }),
    };
    let mut encoded = Vec::with_capacity(prompts.len());
    for (i, prompt) in prompts.iter().enumerate() {
        let ids = match prompt {
            Prompt::Ids(ids) => ids.clone(),
            Prompt::Text(text) => {
                let tokenizer = tokenizer.context("text needs a tokenizer")?;
                match &template {
                    Some(template) => {
                        let system = args.system.iter().map(|text| Message::new("system", text.clone()));
                        let turns: Vec<_> = system.chain([Message::new("user", text.clone())]).collect();
                        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
                        tokenizer.encode_chat(template, &turns, &options)?
                    }
                    None => tokenizer.encode(text, true)?,
                }
            }
        };
        if ids.is_empty() {
            bail!("prompt {i} has no tokens: a model continues at least one");
        }
        encoded.push(ids);
    }
    Ok(encoded)
}

/// What the request needs of a session.
pub(super) struct Plan {
    pub(super) requests: Vec<Request>,
    pub(super) slots: usize,
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
            let wanted = match (args.max_new_tokens, asked, room) {
                (Some(n), _, _) => n as usize,
                (None, Some(_), Some(room)) => room,
                (None, _, _) => DEFAULT_NEW_TOKENS,
            };
            let new = room.map_or(wanted, |room| wanted.min(room));
            if new < wanted && args.max_new_tokens.is_some() {
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
fn check_ids(prompts: &[Vec<u32>], model: &qeff_plugin_api::graph::Model) -> Result<()> {
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
