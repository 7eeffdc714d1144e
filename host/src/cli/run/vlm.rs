//! Task `vlm`: text about images.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::Target;

use super::answer::{Ready, answer, tokenizer_if_sound};
use super::conversation::Conversation;
use super::generate::{DEFAULT_CHUNK, Plan, check_ids};
use super::{Args, Opened, vlm_cards};
use crate::cli::prompts::Prompt;
use crate::cli::{forms, talk};
use crate::prepare::CpuOptions;
use crate::text::{ChatTemplate, Tokenizer};
use crate::vision::marks::{Marks, PLACE, expand_ids, image_token, miscounted};
use crate::vision::session::ImageSession;
use crate::vision::{Family, Picture, ready};

/// Flags about images.
#[derive(Debug, clap::Args)]
pub(super) struct ImageArgs {
    /// A PNG or JPEG image; repeat the flag for several. `<image>` in a prompt marks its place; without such a mark, images
    /// come first.
    #[arg(long, value_name = "FILE", visible_alias = "image-path")]
    image: Vec<PathBuf>,
    /// A conversation instead of a prompt: a JSON list of turns as chat templates take them. Parts `{"type": "image"}` are
    /// the images of --image in order, or those of their `path`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompts_txt_file_path", "prompt_ids", "chat", "system"])]
    pub(super) messages: Option<PathBuf>,
    /// On AI 100, one program that looks at the prompt's image with every call, instead of a vision and a language program.
    #[arg(long)]
    pub(super) single_qpc: bool,
}

impl ImageArgs {
    /// The first flag that was given.
    pub(super) fn first_given(&self) -> Option<&'static str> {
        let given = [
            ("--image", !self.image.is_empty()),
            ("--messages", self.messages.is_some()),
            ("--single-qpc", self.single_qpc),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

/// What is asked, and about which images.
struct Question {
    prompt: Prompt,
    /// Whether the prompt was laid out by a chat template, with its special tokens.
    laid_out: bool,
    images: Vec<PathBuf>,
}

impl Question {
    fn laid_out(conversation: Conversation, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Self> {
        let text = conversation.lay_out(template, tokenizer)?;
        Ok(Question { prompt: Prompt::Text(text), laid_out: true, images: conversation.images })
    }
}

/// Answers about images.
pub(super) fn run(opened: Opened<'_>) -> Result<()> {
    let Opened { args, started, checkpoint, described, on_cards } = opened;
    if args.images.single_qpc && !on_cards {
        bail!("--single-qpc is about AI 100, and this is on the CPU: add --device-group or --sdk, or leave it out");
    }
    let asked = if args.images.messages.is_none() { args.prompts.prompts()? } else { vec![] };
    let needs_text = !args.wishes.stop.is_empty()
        || asked.is_empty()
        || asked.iter().any(|prompt| matches!(prompt, Prompt::Text(_)));
    let tokenizer = if needs_text { Some(checkpoint.tokenizer()?) } else { tokenizer_if_sound(&checkpoint) };
    let mut family = Family::open(&checkpoint, &described.model, tokenizer.as_ref())?;
    let questions = questions(args, asked, tokenizer.as_ref(), family.marks())?;
    let shown: Vec<Vec<Arc<Picture>>> = questions
        .iter()
        .map(|question| question.images.iter().map(|path| family.picture(path)).collect::<Result<_, _>>())
        .collect::<Result<_, _>>()?;
    let token = image_token(&checkpoint)?;
    let mut encoded = vec![];
    for (question, pictures) in questions.iter().zip(&shown) {
        let rows: Vec<usize> = pictures.iter().map(|picture| picture.rows).collect();
        encoded.push(match &question.prompt {
            Prompt::Ids(ids) => expand_ids(ids, token, &rows)?,
            Prompt::Text(text) => {
                let (tokenizer, marks) = tokenizer.as_ref().zip(family.marks()).context("text needs a tokenizer")?;
                let ids = tokenizer.encode(&marks.expand(text, &rows)?, !question.laid_out)?;
                marks.check(&ids, &rows)?;
                ids
            }
        });
    }

    talk::warnings(&described.warnings);
    let chunk = args.prompt_len.map_or(DEFAULT_CHUNK, |n| n as usize);
    let options = args.wishes.options(Some(&checkpoint), chunk)?;
    let wishes = args.wishes.wishes(options, tokenizer.as_ref());
    if on_cards {
        check_ids(&encoded, &described.model)?;
        let (checkpoint, prompts, shown) = (&checkpoint, &encoded, &shown);
        return vlm_cards::run(vlm_cards::Asked { args, started, checkpoint, described, prompts, shown }, wishes);
    }
    if !args.wishes.json {
        talk::notes(&described.notes);
    }
    let plan = Plan::new(args, &encoded, &described.model)?;
    let selected = args.executor.engine(args.wishes.json)?;
    let forms = args.executor.forms(Target::Cpu)?;
    let how = CpuOptions { engine: &*selected.engine, slots: 1, context: plan.context, chunk, forms };
    let mut ready = ready::cpu(&described.model, &checkpoint.weights, how)?;
    ready.reports.iter().for_each(|report| talk::warnings(&report.warnings));
    if !args.wishes.json {
        forms::say(&ready.quantised);
    }

    let looking = Instant::now();
    let mut rows = vec![];
    for pictures in &shown {
        rows.push(pictures.iter().map(|picture| ready.encoder.encode(picture)).collect::<Result<Vec<_>, _>>()?);
    }
    if !args.wishes.json {
        let images = shown.iter().map(Vec::len).sum::<usize>();
        let (calls, took) = (ready.encoder.calls(), talk::seconds(looking.elapsed()));
        talk::say(&format!("{images} images shown, {calls} encoded in {took}"));
    }
    let sequences = rows.iter().map(|of_prompt| of_prompt.iter().map(|embeds| &**embeds));
    let mut session = ImageSession::new(ready.session, ready.ports, sequences);
    let (quantised, loaded, engine) = (&ready.quantised, started.elapsed(), selected.engine.name());
    answer(wishes, &plan.requests, Ready { session: &mut session, engine, started, loaded, quantised })
}

/// Each prompt with its images, laid out if it is a conversation.
fn questions(
    args: &Args,
    asked: Vec<Prompt>,
    tokenizer: Option<&Tokenizer>,
    marks: Option<&Marks>,
) -> Result<Vec<Question>> {
    if let Some(file) = &args.images.messages {
        let tokenizer = tokenizer.context("a conversation needs a tokenizer")?;
        let conversation = Conversation::open(file, &args.images.image)?;
        return Ok(vec![Question::laid_out(conversation, &template(args, tokenizer)?, tokenizer)?]);
    }
    let images = share(&asked, &args.images.image, marks)?;
    let template = match (args.wishes.chat, tokenizer) {
        (true, Some(tokenizer)) => Some((template(args, tokenizer)?, tokenizer)),
        _ => None,
    };
    asked
        .into_iter()
        .zip(images)
        .map(|(prompt, images)| {
            let Prompt::Text(text) = &prompt else { return Ok(Question { prompt, laid_out: false, images }) };
            let marks = marks.context("text needs a tokenizer")?;
            // Without a place, images come first.
            let text = match marks.places(text) {
                0 => format!("{}{text}", PLACE.repeat(images.len())),
                _ => text.clone(),
            };
            match &template {
                None => Ok(Question { prompt: Prompt::Text(text), laid_out: false, images }),
                Some((template, tokenizer)) => {
                    let turn = Conversation::of_turn(args.wishes.system.as_deref(), &text, images, marks);
                    Question::laid_out(turn, template, tokenizer)
                }
            }
        })
        .collect()
}

fn template(args: &Args, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
    Ok(match &args.wishes.chat_template {
        Some(file) => ChatTemplate::open(file)?,
        None => tokenizer.chat_template(None)?,
    })
}

/// Which images each prompt is about: those that it has places for, in order, or all of them.
fn share(prompts: &[Prompt], images: &[PathBuf], marks: Option<&Marks>) -> Result<Vec<Vec<PathBuf>>> {
    let places: Vec<Option<usize>> = prompts
        .iter()
        .map(|prompt| match (prompt, marks) {
            (Prompt::Text(text), Some(marks)) => Some(marks.places(text)),
            _ => None,
        })
        .collect();
    let all: Option<usize> = places.iter().copied().sum();
    if prompts.len() > 1 && all == Some(images.len()) && all != Some(0) {
        let mut rest = images.iter().cloned();
        return Ok(places.iter().map(|count| rest.by_ref().take(count.unwrap_or(0)).collect()).collect());
    }
    if let Some(&Some(count)) = places.iter().find(|count| count.is_some_and(|n| n != 0 && n != images.len())) {
        return Err(miscounted(count, images.len()).into());
    }
    Ok(vec![images.to_vec(); prompts.len()])
}
