//! `run`: do with a model what it is for, on the CPU or on cards.
//!
//! What a model is for, its description says, or `--task`. Each task has a file of its own here.

pub(crate) mod answer;
mod conversation;
mod generate;
mod reader;
mod report;
mod speech;
mod vlm;
mod vlm_cards;

use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use qeff_plugin_api::graph::Task;

use super::ModelArgs;
use super::compile::args::CardArgs;
use super::engines::EngineArgs;
use super::forms::FormArgs;
use super::on_cards::{Cards, DeviceArgs};
use super::prompts::{Prompt, PromptArgs};
use super::texts::classify::PairArgs;
use super::texts::embed::VectorArgs;
use super::texts::{self, Given, TextArgs};
use crate::checkpoint::Checkpoint;
use crate::compile::Shape;
use crate::describe::Described;
use crate::encode::recipe;
use crate::generate::{Sampling, SamplingError};
use crate::text::StopStrings;

/// Words of `--task`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TaskArg {
    /// Continue text.
    Generate,
    /// Make vectors of texts.
    Embed,
    /// Tell classes of texts.
    Classify,
    /// Label each frame of recordings.
    Ctc,
    /// Write down what is said in recordings: one greedy pass over the first window of each.
    Transcribe,
    /// Answer about images.
    Vlm,
}

impl TaskArg {
    /// What a model is for, as a word of `--task`.
    fn of(task: Task) -> Self {
        match task {
            Task::CausalLm => TaskArg::Generate,
            Task::Encoder => TaskArg::Embed,
            Task::SequenceClassification => TaskArg::Classify,
            Task::Ctc => TaskArg::Ctc,
            Task::SpeechToText => TaskArg::Transcribe,
            Task::ImageTextToText => TaskArg::Vlm,
        }
    }
}

/// Flags of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What to do with the model [default: what it is for].
    #[arg(long, value_enum, value_name = "TASK")]
    task: Option<TaskArg>,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    images: vlm::ImageArgs,
    #[command(flatten)]
    speech: speech::SpeechArgs,
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
    whole: WholeTextArgs,
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
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Add the raw logits of every step to the JSON document.
    #[arg(long, requires = "json")]
    logits: bool,
}

/// Tasks `embed` and `classify`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Whole texts")]
struct WholeTextArgs {
    #[command(flatten)]
    vectors: VectorArgs,
    #[command(flatten)]
    pairs: PairArgs,
    #[command(flatten)]
    texts: TextArgs,
}

/// How ids are chosen; greedily if no flag is given.
#[derive(Debug, clap::Args)]
pub(crate) struct SamplingArgs {
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
    pub(crate) fn sampling(&self) -> Result<Sampling> {
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

/// What every task begins with.
struct Opened<'a> {
    args: &'a Args,
    started: Instant,
    checkpoint: Checkpoint,
    described: Described,
    /// Cards, if it is not the CPU that is meant.
    cards: Option<Cards<'a>>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    // What can be wrong with the flags is said before any file is opened.
    if args.speech.audio.is_empty() && args.images.messages.is_none() {
        args.prompts.prompts()?;
    }
    args.sampling.sampling()?;
    StopStrings::new(args.stop.clone())?;
    let cards = Cards::named(&args.cards, &args.device)?;

    // A folder with a recipe is for vectors, whatever its model was trained for.
    let has_recipe = args.model.model.join(recipe::FILE).is_file();
    let task = args.task.or(has_recipe.then_some(TaskArg::Embed));
    if let Some(task @ (TaskArg::Embed | TaskArg::Classify)) = task {
        return whole_text(args, task, started);
    }
    let (checkpoint, described) = args.model.describe()?;
    let task = described.model.task;
    let task = args.task.unwrap_or_else(|| TaskArg::of(task));
    if task != TaskArg::Vlm
        && let Some(flag) = args.images.first_given()
    {
        bail!("{flag} is for models that look at images, and this one does not");
    }
    let opened = Opened { args, started, checkpoint, described, cards };
    match task {
        TaskArg::Generate if !args.speech.audio.is_empty() => {
            bail!("--audio is for models that listen, and this one continues text: leave it out")
        }
        TaskArg::Generate => generate::run(opened),
        TaskArg::Ctc => speech::ctc(opened),
        TaskArg::Transcribe => speech::transcribe(opened),
        TaskArg::Vlm => vlm::run(opened),
        task @ (TaskArg::Embed | TaskArg::Classify) => whole_text(args, task, started),
    }
}

/// Tasks that take texts as a whole. They open the checkpoint in a way of their own.
fn whole_text(args: &Args, task: TaskArg, started: Instant) -> Result<()> {
    let given = args.prompts.prompts()?.into_iter().map(|prompt| match prompt {
        Prompt::Text(text) => Given::Text(text.as_str().into()),
        Prompt::Ids(ids) => Given::Ids(ids),
    });
    let WholeTextArgs { vectors, pairs, texts } = &args.whole;
    let request = texts::Request {
        model: &args.model,
        engine: &args.engine,
        forms: &args.forms,
        texts,
        rows: args.batch_size,
        cards: Cards::named(&args.cards, &args.device)?,
        quiet: args.json,
    };
    match task {
        TaskArg::Classify => {
            let given = texts::classify::paired(given.collect(), pairs)?;
            texts::classify::task(&request, &given, args.json, started)
        }
        _ => texts::embed::task(&request, vectors, given.collect(), args.json, started),
    }
}
