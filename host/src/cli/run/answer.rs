//! From prompts to answers, whatever executes the model: text becomes ids, ids are continued, and all of it is told.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::Quantised;

use super::reader::{Failure, Reader, Show};
use super::report::{Answers, Metrics, document};
use crate::checkpoint::Checkpoint;
use crate::cli::prompts::Prompt;
use crate::cli::talk;
use crate::generate::{self, Options, Request};
use crate::runtime::Session;
use crate::text::chat::ChatOptions;
use crate::text::{ChatTemplate, Message, Tokenizer};

/// Whether prompts are turns of a conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chat<'a> {
    /// Whether they are.
    pub(crate) is_on: bool,
    /// The system's turn before each.
    pub(crate) system: Option<&'a str>,
    /// A template instead of the checkpoint's.
    pub(crate) template: Option<&'a Path>,
}

/// Prompts as ids.
pub(crate) struct Asked {
    /// The ids.
    pub(crate) prompts: Vec<Vec<u32>>,
    /// What turns ids into text, where there is one.
    pub(crate) tokenizer: Option<Tokenizer>,
}

/// Prompts as ids. A tokenizer is only needed for text.
pub(crate) fn encode(
    prompts: &[Prompt],
    chat: Chat<'_>,
    stop: &[String],
    checkpoint: Option<&Checkpoint>,
) -> Result<Asked> {
    let needs_text = !stop.is_empty() || prompts.iter().any(|prompt| matches!(prompt, Prompt::Text(_)));
    let tokenizer = match (checkpoint, needs_text) {
        (Some(checkpoint), true) => Some(checkpoint.tokenizer()?),
        (Some(checkpoint), false) => tokenizer_if_sound(checkpoint),
        (None, true) => {
            bail!("text needs a tokenizer: name the checkpoint with --model, or give ids with --prompt-ids")
        }
        (None, false) => None,
    };
    let template = match (chat.is_on, &tokenizer) {
        (false, _) | (true, None) => None,
        (true, Some(tokenizer)) => Some(match chat.template {
            Some(file) => ChatTemplate::open(file)?,
            None => tokenizer.chat_template(None)?,
        }),
    };
    let mut encoded = Vec::with_capacity(prompts.len());
    for (i, prompt) in prompts.iter().enumerate() {
        let ids = match prompt {
            Prompt::Ids(ids) => ids.clone(),
            Prompt::Text(text) => {
                let tokenizer = tokenizer.as_ref().context("text needs a tokenizer")?;
                match &template {
                    Some(template) => {
                        let system = chat.system.iter().map(|text| Message::new("system", text.to_string()));
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
    Ok(Asked { prompts: encoded, tokenizer })
}

/// The tokenizer of a run by ids, which is worth a warning if it is malformed, not an error: nothing has to be encoded.
pub(super) fn tokenizer_if_sound(checkpoint: &Checkpoint) -> Option<Tokenizer> {
    checkpoint.opt_tokenizer().unwrap_or_else(|error| {
        talk::warn(&format!("there will be ids and no text: {error}"));
        None
    })
}

/// How answers are made and told.
pub(crate) struct Wishes<'a> {
    /// How ids are chosen, and when sequences end.
    pub(crate) options: Options,
    /// What turns ids into text, where there is one.
    pub(crate) tokenizer: Option<&'a Tokenizer>,
    /// Texts that end an answer.
    pub(crate) stop: &'a [String],
    /// One document instead of text.
    pub(crate) json: bool,
}

/// What executes the model, ready for prompts.
pub(crate) struct Ready<'a> {
    /// The session.
    pub(crate) session: &'a mut dyn Session,
    /// The word for it.
    pub(crate) engine: &'static str,
    /// When the process began its work.
    pub(crate) started: Instant,
    /// How long it took until here.
    pub(crate) loaded: Duration,
    /// What became of weights that are stored quantised.
    pub(crate) quantised: &'a Quantised,
}

/// Continues every request and tells the answers.
pub(crate) fn answer(wishes: Wishes<'_>, requests: &[Request], ready: Ready<'_>) -> Result<()> {
    let Wishes { options, tokenizer, stop, json } = wishes;
    let Ready { session, engine, started, loaded, quantised } = ready;
    let show = match requests.len() {
        _ if json => Show::Nothing,
        1 => Show::Stream,
        _ => Show::Collected,
    };
    let mut reader = Reader::new(tokenizer, stop, &options.eos, requests.len(), show)?;
    let (done, timing) = generate::generate(session, requests, &options, &mut reader)?;
    let failures = reader.failures();
    let texts = reader.finish(&done)?;
    let metrics = Metrics { engine, loaded, total: started.elapsed(), timing, first: loaded + timing.first_token };
    if json {
        let answers = Answers { done: &done, texts: &texts, failures: &failures };
        talk::json(&document(options.keep_logits, requests, answers, &metrics, quantised))?;
    } else {
        metrics.say(requests);
    }
    match failures.into_iter().reduce(|first, _| first) {
        None => Ok(()),
        Some(Failure { requests: mut failed, error }) => {
            failed.sort_unstable();
            let failed: Vec<_> = failed.iter().map(usize::to_string).collect();
            let which = format!("prompt{} {}", if failed.len() == 1 { "" } else { "s" }, failed.join(", "));
            Err(anyhow::Error::new(error).context(format!("{which}: not answered to the end")))
        }
    }
}
