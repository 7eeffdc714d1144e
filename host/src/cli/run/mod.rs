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
pub(crate) mod wishes;

use std::time::Instant;

use anyhow::{Result, bail};
use qeff_plugin_api::graph::Task;

use self::wishes::WishArgs;
use super::ModelArgs;
use super::executor::ExecutorArgs;
use super::prompts::{Prompt, PromptArgs};
use super::texts::classify::PairArgs;
use super::texts::embed::VectorArgs;
use super::texts::{self, Given, TextArgs};
use crate::checkpoint::Checkpoint;
use crate::compile::Shape;
use crate::describe::Described;
use crate::encode::recipe;

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
    wishes: WishArgs,
    #[command(flatten)]
    whole: WholeTextArgs,
    #[command(flatten)]
    executor: ExecutorArgs,
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
    /// Whether cards are meant, rather than the CPU.
    on_cards: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    // What can be wrong with the flags is said before any file is opened.
    if args.speech.audio.is_empty() && args.images.messages.is_none() {
        args.prompts.prompts()?;
    }
    args.wishes.check()?;
    let on_cards = args.executor.on_cards()?;

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
    let opened = Opened { args, started, checkpoint, described, on_cards };
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
        executor: &args.executor,
        texts,
        rows: args.batch_size,
        quiet: args.wishes.json,
    };
    match task {
        TaskArg::Classify => {
            let given = texts::classify::paired(given.collect(), pairs)?;
            texts::classify::task(&request, &given, args.wishes.json, started)
        }
        _ => texts::embed::task(&request, vectors, given.collect(), args.wishes.json, started),
    }
}
