//! `run`: generate text with a model, on the CPU, or on cards as far as that is built.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use qeff_core::lower::{Quantised, Target};
use serde_json::json;

use super::ModelArgs;
use super::compile::args::CardArgs;
use super::engines::EngineArgs;
use super::forms::{self, FormArgs};
use super::on_cards;
use super::prompts::{Prompt, PromptArgs};
use super::talk;
use crate::checkpoint::Checkpoint;
use crate::compile::Shape;
use crate::generate::{self, Completion, Finish, Flow, Observer, Options, Request, Sampling, SamplingError, Timing};
use crate::prepare::{self, CpuOptions};
use crate::text::chat::ChatOptions;
use crate::text::{ChatTemplate, Message, StopStrings, TextStream, Tokenizer};

/// New tokens where neither the user nor a context length says how many.
const DEFAULT_NEW_TOKENS: usize = 128;
/// Prompt tokens in one call where the user does not say: large enough to be fast, small enough to bound memory.
const DEFAULT_CHUNK: usize = 512;
/// Sequences at once where the user does not say.
const DEFAULT_SLOTS: usize = 8;

/// Flags of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompts: PromptArgs,
    /// Most tokens to generate for each prompt [default: what --ctx-len leaves, else 128].
    #[arg(long, value_name = "N", visible_alias = "generation-len", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// Do not stop at the model's end-of-sequence ids.
    #[arg(long)]
    ignore_eos: bool,
    /// Positions of a sequence, prompt and answer [default: what the request needs].
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..))]
    ctx_len: Option<u32>,
    /// Most prompt tokens in one call.
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..))]
    prompt_len: Option<u32>,
    /// Sequences at once [default: one for each prompt, at most 8].
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..=1024))]
    batch_size: Option<u32>,
    /// Sequences at once with continuous batching: a slot that is free takes the next prompt.
    #[arg(long, value_name = "F", value_parser = clap::value_parser!(u32).range(1..=1024))]
    full_batch_size: Option<u32>,
    #[command(flatten)]
    forms: FormArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// End the answer before this text; may be repeated.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Treat each prompt as a user's turn, by the checkpoint's chat template.
    #[arg(long, conflicts_with = "prompt_ids")]
    chat: bool,
    /// The system's turn before each prompt.
    #[arg(long, value_name = "TEXT", requires = "chat", conflicts_with = "prompt_ids", allow_hyphen_values = true)]
    system: Option<String>,
    /// A chat template instead of the checkpoint's.
    #[arg(long, value_name = "FILE", requires = "chat", conflicts_with = "prompt_ids")]
    chat_template: Option<std::path::PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    cards: CardArgs,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Add the raw logits of every step to the JSON document.
    #[arg(long, requires = "json")]
    logits: bool,
}

/// How ids are chosen; greedily if no flag is given.
#[derive(Debug, clap::Args)]
struct SamplingArgs {
    /// Sample at this temperature; 0 always takes the likeliest token [default: 0, or 1 with another sampling flag].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Sample among the K likeliest tokens.
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Sample among the likeliest tokens that together reach probability P.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Sample among tokens at least this likely, relative to the likeliest.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Above 1, make tokens that were seen less likely.
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Same seed, same text.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
}

impl SamplingArgs {
    fn sampling(&self) -> Result<Sampling> {
        let samples = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        let default = Sampling::default();
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(if samples { 1.0 } else { 0.0 }),
            top_k: self.top_k,
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            seed: self.seed,
        };
        sampling.validate().map_err(|error| match error {
            // The library names a field, whoever typed it knows a flag.
            SamplingError::Setting { name, found, expected } => {
                anyhow!("--{}: expected {expected}, found {found}", name.replace('_', "-"))
            }
            other => other.into(),
        })?;
        Ok(sampling)
    }
}

impl Args {
    /// Sizes that cards are compiled for.
    fn shape(&self) -> Shape {
        Shape {
            prompt_len: self.prompt_len.map(u64::from),
            ctx_len: self.ctx_len.map(u64::from),
            batch_size: self.batch_size.map(u64::from),
            full_batch_size: self.full_batch_size.map(u64::from),
            ..Shape::default()
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    // What can be wrong with the flags is said before any file is opened.
    let prompts = args.prompts.prompts()?;
    let sampling = args.sampling.sampling()?;
    StopStrings::new(args.stop.clone())?;
    let on_cards = args.cards.device_group.is_some() || args.cards.sdk.is_some();
    if let Some(flag) = args.cards.first_given().filter(|_| !on_cards) {
        bail!("{flag} is about AI 100, and this run is on the CPU: add --device-group or --sdk, or leave it out");
    }
    let forms = args.forms.forms(if on_cards { Target::Aic } else { Target::Cpu })?;

    let (checkpoint, registry) = args.model.open()?;
    let needs_text = !args.stop.is_empty() || prompts.iter().any(|prompt| matches!(prompt, Prompt::Text(_)));
    let tokenizer = if needs_text { Some(checkpoint.tokenizer()?) } else { tokenizer_if_sound(&checkpoint) };
    let encoded = encode(args, &prompts, tokenizer.as_ref())?;

    let described = args.model.describe_opened(&checkpoint, &registry)?;
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
fn tokenizer_if_sound(checkpoint: &Checkpoint) -> Option<Tokenizer> {
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
struct Plan {
    requests: Vec<Request>,
    slots: usize,
    context: usize,
}

impl Plan {
    fn new(args: &Args, prompts: &[Vec<u32>], model: &qeff_plugin_api::graph::Model) -> Result<Self> {
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

/// What becomes visible while ids arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    /// The text of the only request as it is decided.
    Stream,
    /// The text of every request once all are done.
    Collected,
    /// Nothing: the caller prints.
    Nothing,
}

/// Turns ids into text and watches for stop strings.
struct Reader<'t> {
    requests: Vec<Progress<'t>>,
    eos: BTreeSet<u32>,
    show: Show,
}

struct Progress<'t> {
    stream: Option<TextStream<'t>>,
    stops: StopStrings,
    text: String,
    stopped: bool,
}

impl<'t> Reader<'t> {
    fn new(tokenizer: Option<&'t Tokenizer>, stops: &[String], eos: &[u32], count: usize, show: Show) -> Result<Self> {
        let requests = (0..count)
            .map(|_| {
                Ok(Progress {
                    stream: tokenizer.map(|tokenizer| TextStream::new(tokenizer, true)),
                    stops: StopStrings::new(stops.to_vec())?,
                    text: String::new(),
                    stopped: false,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Reader { requests, eos: eos.iter().copied().collect(), show })
    }

    /// The text of each request, `None` without a tokenizer. Prints what was not printed yet.
    fn finish(self, done: &[Completion]) -> Result<Vec<Option<String>>> {
        let mut texts = vec![];
        let many = self.requests.len() > 1;
        for (i, (progress, completion)) in self.requests.into_iter().zip(done).enumerate() {
            let Some(stream) = progress.stream else {
                if self.show != Show::Nothing {
                    let ids: Vec<_> = completion.ids.iter().map(u32::to_string).collect();
                    talk::data(&format!("{}\n", ids.join(",")))?;
                }
                texts.push(None);
                continue;
            };
            let mut stops = progress.stops;
            let mut rest = String::new();
            if !progress.stopped {
                rest = stops.push(&stream.finish()?).text;
                rest.push_str(&stops.finish());
            }
            let text = format!("{}{rest}", progress.text);
            match self.show {
                Show::Stream => talk::data(&format!("{rest}\n"))?,
                Show::Collected if many => talk::data(&format!("[{i}] {text}\n"))?,
                Show::Collected => talk::data(&format!("{text}\n"))?,
                Show::Nothing => {}
            }
            texts.push(Some(text));
        }
        Ok(texts)
    }
}

impl Observer for Reader<'_> {
    fn token(&mut self, request: usize, id: u32) -> Result<Flow> {
        let progress = &mut self.requests[request];
        let Some(stream) = &mut progress.stream else { return Ok(Flow::Continue) };
        if self.eos.contains(&id) {
            return Ok(Flow::Continue); // It ends the sequence; it is not part of the text.
        }
        let watched = progress.stops.push(&stream.push(id)?);
        progress.text.push_str(&watched.text);
        if self.show == Show::Stream {
            talk::data(&watched.text)?;
        }
        progress.stopped = watched.stopped_by.is_some();
        Ok(if progress.stopped { Flow::Stop } else { Flow::Continue })
    }
}

struct Metrics {
    engine: &'static str,
    loaded: Duration,
    total: Duration,
    /// From the start of the process' work to the first id.
    first: Duration,
    timing: Timing,
}

impl Metrics {
    fn rate(tokens: usize, time: Duration) -> Option<f64> {
        (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
    }

    fn say(&self, requests: &[Request]) {
        let rate = |tokens, time| Self::rate(tokens, time).map_or("-".into(), |rate| format!("{rate:.1} tok/s"));
        talk::say(&format!(
            "{} prompt{}, first token after {}; prefill {} tokens at {}; decode {} tokens at {}; total {}; peak memory {}",
            requests.len(),
            if requests.len() == 1 { "" } else { "s" },
            talk::seconds(self.first),
            self.timing.prompt_tokens,
            rate(self.timing.prompt_tokens, self.timing.prefill),
            self.timing.decoded_tokens,
            rate(self.timing.decoded_tokens, self.timing.decode),
            talk::seconds(self.total),
            talk::peak_memory().map_or("unknown".into(), talk::megabytes),
        ));
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "engine": self.engine,
            "load_seconds": self.loaded.as_secs_f64(),
            "time_to_first_token_seconds": self.first.as_secs_f64(),
            "total_seconds": self.total.as_secs_f64(),
            "prompt_tokens": self.timing.prompt_tokens,
            "prefill_tokens_per_second": Self::rate(self.timing.prompt_tokens, self.timing.prefill),
            "decoded_tokens": self.timing.decoded_tokens,
            "decode_tokens_per_second": Self::rate(self.timing.decoded_tokens, self.timing.decode),
            "peak_memory_bytes": talk::peak_memory(),
        })
    }
}

/// What the model answered, a request each.
struct Answers<'a> {
    done: &'a [Completion],
    texts: &'a [Option<String>],
}

fn print_json(
    args: &Args,
    requests: &[Request],
    answers: Answers<'_>,
    metrics: &Metrics,
    quantised: &Quantised,
) -> Result<()> {
    let Answers { done, texts } = answers;
    let outputs: Vec<_> = requests
        .iter()
        .zip(done)
        .zip(texts)
        .map(|((request, completion), text)| {
            let mut output = json!({
                "text": text,
                "prompt_ids": request.prompt,
                "generated_ids": completion.ids,
                "finish": completion.finish.name(),
            });
            if args.logits {
                output["step_logits"] = json!(completion.logits);
            }
            output
        })
        .collect();
    debug_assert!(done.iter().all(|completion| completion.finish != Finish::Stopped || !args.stop.is_empty()));
    let mut document = json!({ "outputs": outputs, "metrics": metrics.json() });
    if !quantised.is_empty() {
        document["weights"] = forms::report(quantised);
    }
    talk::json(&document)
}
