//! What `embed`, `classify` and the tasks of `run` of the same names share: a model of whole texts, opened and made ready.

pub(crate) mod classify;
pub(crate) mod embed;
mod source;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::Target;
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::{Embedding, Model, Op, Role};
use serde_json::json;

use super::compile::args::{Numbers, numbers};
use super::executor::ExecutorArgs;
use super::{ModelArgs, forms, on_cards, pooling, talk};
use crate::checkpoint::Checkpoint;
use crate::compile::Shape;
use crate::describe::Described;
use crate::encode::batches::Shapes;
use crate::encode::ready::{self, CpuOptions};
use crate::encode::{Encoded, Encoder, Work};
use crate::runtime::cpu::engine::Engine;
use crate::text::{Framed, Pair, Tokenizer};

pub(crate) use source::SourceArgs;

/// Flags about how texts become tokens and calls.
#[derive(Debug, clap::Args)]
pub(crate) struct TextArgs {
    /// Cut texts that are too long, instead of refusing them.
    #[arg(long)]
    pub(crate) truncate: bool,
    /// Most tokens of a text, special ones included [default: what the checkpoint says].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// On AI 100, the lengths that calls may have, of which the smallest that fits is taken [default: powers of two from 32
    /// up to what the checkpoint says, at most 512].
    #[arg(long, value_name = "N,…", value_parser = numbers)]
    pub(crate) seq_len: Option<Numbers>,
}

/// A text as it is given: words, or ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Given {
    Text(Pair),
    Ids(Vec<u32>),
}

impl Given {
    /// The first text, for whoever reads the answer.
    fn shown(&self) -> Option<&str> {
        match self {
            Given::Text(text) => Some(&text.first),
            Given::Ids(_) => None,
        }
    }
}

/// What a task asks for beside texts.
pub(crate) struct Request<'a> {
    pub(crate) model: &'a ModelArgs,
    pub(crate) executor: &'a ExecutorArgs,
    pub(crate) texts: &'a TextArgs,
    /// Most texts in a call.
    pub(crate) rows: Option<u32>,
    /// Whether anything but errors and warnings is to be said.
    pub(crate) quiet: bool,
}

/// A checkpoint whose model is known, not yet loaded.
pub(crate) struct Opened {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) described: Described,
    started: Instant,
}

impl Opened {
    /// Opens a checkpoint as the model it names, or, with `base`, as the model below its head.
    pub(crate) fn new(model: &ModelArgs, dir: &std::path::Path, base: bool, started: Instant) -> Result<Self> {
        let (checkpoint, described) = pooling::open(model, dir, base)?;
        Ok(Opened { checkpoint, described, started })
    }

    /// Most tokens of a text: what was asked for, what the checkpoint's `longest` says, or its tokenizer and its positions.
    fn longest(&self, args: &TextArgs, longest: Option<usize>, tokenizer: Option<&Tokenizer>) -> Result<usize> {
        let limit = self.described.model.positions;
        let positions = limit.and_then(|limit| usize::try_from(limit.trained).ok());
        let hard = positions.filter(|_| limit.is_some_and(|limit| limit.hard));
        if let Some(asked) = args.max_tokens.map(|n| n as usize) {
            if let Some(hard) = hard.filter(|hard| asked > *hard) {
                bail!("--max-tokens: expected at most {hard}, all positions that this model has; found {asked}");
            }
            return Ok(asked);
        }
        let said = longest.or_else(|| tokenizer.and_then(Tokenizer::longest));
        let longest = [said, if said.is_some() { hard } else { positions }].into_iter().flatten().min();
        longest.context("nothing says how long a text may be: give --max-tokens")
    }

    /// Loads the model and sends the texts through it.
    pub(crate) fn encode(self, request: &Request<'_>, given: &[Given], longest: Option<usize>) -> Result<Answer> {
        let Request { executor, texts, quiet, .. } = *request;
        let on_cards = executor.on_cards()?;
        talk::warnings(&self.described.warnings);
        if !quiet {
            talk::notes(&self.described.notes);
        }
        let needs_words = given.iter().any(|given| matches!(given, Given::Text(_)));
        let tokenizer = if needs_words { Some(self.checkpoint.tokenizer()?) } else { None };
        let mut longest = self.longest(texts, longest, tokenizer.as_ref())?;
        let lengths = match (&texts.seq_len, on_cards) {
            (Some(_), false) => bail!("--seq-len is about AI 100; on the CPU calls have the length that texts need"),
            (Some(Numbers(lengths)), true) => lengths.clone(),
            (None, _) => usual_lengths(longest),
        };
        if on_cards {
            let most = lengths.iter().max().copied().unwrap_or(0);
            longest = longest.min(usize::try_from(most).unwrap_or(usize::MAX));
        }
        let framed = frame(given, tokenizer.as_ref(), longest, texts.truncate)?;
        check_ids(&framed, &self.described.model)?;
        let padding = padding(&self.checkpoint.config, tokenizer.as_ref())?;
        let started = self.started;
        let (mut encoder, engine): (Encoder, &'static str) = match on_cards {
            true => {
                // The reference's programs have no such input; one that is never anything but 0 costs nothing to leave out.
                let segments = framed.iter().any(|text| text.segments.iter().any(|&kind| kind != 0));
                let zeros: &[Role] = if segments { &[] } else { &[Role::Segments] };
                (self.on_cards(request, lengths, padding, zeros)?, "qaic")
            }
            false => {
                let reach = framed.iter().map(|text| text.ids.len()).max().unwrap_or(1);
                let selected = executor.engine(quiet)?;
                (self.on_cpu(request, &*selected.engine, reach, padding)?, selected.engine.name())
            }
        };
        let (loaded, called) = (started.elapsed(), Instant::now());
        let bar = talk::count_bar("texts", framed.len() as u64);
        let (encoded, work) = encoder.encode(&framed, &|count| bar.inc(count as u64))?;
        bar.finish_and_clear();
        let metrics = Metrics { engine, loaded, took: called.elapsed(), work };
        Ok(Answer { framed, encoded, metrics })
    }

    fn on_cpu(self, request: &Request<'_>, engine: &dyn Engine, longest: usize, padding: u32) -> Result<Encoder> {
        let rows = request.rows.map(|n| n as usize);
        let options = CpuOptions { engine, longest, rows, padding, forms: request.executor.forms(Target::Cpu)? };
        let ready = ready::cpu(self.described.model, &self.checkpoint.weights, options)?;
        ready.reports.iter().for_each(|report| talk::warnings(&report.warnings));
        if !request.quiet {
            forms::say(&ready.quantised);
        }
        Ok(ready.encoder)
    }

    fn on_cards(self, request: &Request<'_>, lengths: Vec<u64>, padding: u32, zeros: &[Role]) -> Result<Encoder> {
        let rows = u64::from(request.rows.unwrap_or(1));
        let pairs = lengths.iter().map(|&length| Ok([usize::try_from(rows)?, usize::try_from(length)?]));
        let shapes = Shapes::Compiled(pairs.collect::<Result<_>>()?);
        let shape = Shape { batch_size: Some(rows), seq_lens: lengths, ..Shape::default() };
        let one = on_cards::one(request.executor, shape, self.described, &self.checkpoint, zeros)?;
        if !request.quiet {
            forms::say(&one.quantised);
        }
        let program = on_cards::open_program(&one.qpc, &one.place, 1)?;
        Ok(Encoder::new(&one.model, Box::new(program), shapes, padding)?.without(zeros))
    }
}

/// Lengths that a program for cards is compiled for if nobody says otherwise.
fn usual_lengths(longest: usize) -> Vec<u64> {
    let longest = (longest as u64).min(512);
    let mut lengths: Vec<u64> = [32, 64, 128, 256].into_iter().filter(|length| *length < longest).collect();
    lengths.push(longest);
    lengths
}

/// What a model made of texts.
pub(crate) struct Answer {
    pub(crate) framed: Vec<Framed>,
    pub(crate) encoded: Vec<Encoded>,
    pub(crate) metrics: Metrics,
}

/// How long it took.
pub(crate) struct Metrics {
    engine: &'static str,
    loaded: Duration,
    took: Duration,
    work: Work,
}

impl Metrics {
    fn per_second(&self, count: usize) -> f64 {
        count as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// Share of the calls' places that held no token.
    fn padding(&self) -> f64 {
        1.0 - self.work.tokens as f64 / (self.work.places as f64).max(1.0)
    }

    pub(crate) fn say(&self, texts: usize) {
        talk::say(&format!(
            "{texts} text{} of {} tokens in {} call{}, {:.1}% padding; loaded after {}, encoded in {}: {:.1} texts/s, {:.0} tok/s; \
             peak memory {}",
            if texts == 1 { "" } else { "s" },
            self.work.tokens,
            self.work.calls,
            if self.work.calls == 1 { "" } else { "s" },
            100.0 * self.padding(),
            talk::seconds(self.loaded),
            talk::seconds(self.took),
            self.per_second(texts),
            self.per_second(self.work.tokens),
            talk::peak_memory().map_or("unknown".into(), talk::megabytes),
        ));
    }

    pub(crate) fn json(&self, texts: usize) -> serde_json::Value {
        json!({
            "engine": self.engine,
            "load_seconds": self.loaded.as_secs_f64(),
            "encode_seconds": self.took.as_secs_f64(),
            "texts": texts,
            "tokens": self.work.tokens,
            "calls": self.work.calls,
            "padding": self.padding(),
            "texts_per_second": self.per_second(texts),
            "tokens_per_second": self.per_second(self.work.tokens),
            "peak_memory_bytes": talk::peak_memory(),
        })
    }
}

/// Texts as ids, none of them too long.
fn frame(given: &[Given], tokenizer: Option<&Tokenizer>, longest: usize, truncate: bool) -> Result<Vec<Framed>> {
    let mut framed = Vec::with_capacity(given.len());
    for (i, given) in given.iter().enumerate() {
        let room = truncate.then_some(longest);
        let text = match given {
            Given::Text(text) => tokenizer.context("text needs a tokenizer")?.frame(text, room)?,
            Given::Ids(ids) => {
                let kept = &ids[..room.unwrap_or(ids.len()).min(ids.len())];
                Framed { ids: kept.to_vec(), segments: vec![0; kept.len()], whole: ids.len() }
            }
        };
        if text.ids.len() > longest {
            bail!(
                "text {i} has {} tokens; expected at most {longest}: shorten it, or cut it with --truncate",
                text.ids.len()
            );
        }
        if text.ids.is_empty() {
            bail!("text {i} has no tokens: there is nothing to encode");
        }
        framed.push(text);
    }
    Ok(framed)
}

/// Refuses ids past the vocabulary, which an engine would read from some other row.
fn check_ids(texts: &[Framed], model: &Model) -> Result<()> {
    let program = model.programs.first().context("the model has no program")?;
    let tokens = program.input(Role::Tokens).map(|input| input.value);
    let tables = program.nodes().filter(|(_, node)| matches!(node.op, Op::Embedding(_)));
    let mut tables = tables.filter(|(_, node)| node.operand(Embedding::IDS) == tokens);
    let vocab = tables.find_map(|(_, node)| program.ty(node.operand(Embedding::TABLE)?).dims.first()?.fixed());
    let Some(vocab) = vocab else { return Ok(()) };
    for (i, text) in texts.iter().enumerate() {
        if let Some(id) = text.ids.iter().find(|&&id| u64::from(id) >= vocab) {
            bail!("text {i} has token id {id}; the model's vocabulary ends at {}", vocab - 1);
        }
    }
    Ok(())
}

/// The id that fills a text up: the config's, the tokenizer's, or 0.
fn padding(config: &Config, tokenizer: Option<&Tokenizer>) -> Result<u32> {
    let said = config.opt_i64("pad_token_id")?.and_then(|id| u32::try_from(id).ok());
    Ok(said.or_else(|| tokenizer.and_then(Tokenizer::pad_id)).unwrap_or(0))
}
