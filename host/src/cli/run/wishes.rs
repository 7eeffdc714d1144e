//! Flags about answers: how long they are, how their tokens are chosen, what ends them, and how they are told.

use std::path::PathBuf;

use anyhow::{Result, anyhow};

use super::answer::{Chat, Wishes};
use crate::checkpoint::Checkpoint;
use crate::generate::{Options, Sampling, SamplingError};
use crate::text::{StopStrings, Tokenizer};

/// What the user wants of answers.
#[derive(Debug, clap::Args)]
pub(crate) struct WishArgs {
    /// Most tokens to generate for each prompt [default: what the context leaves, on the CPU without --ctx-len 128].
    #[arg(long, value_name = "N", visible_alias = "generation-len", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_new_tokens: Option<u32>,
    /// Do not stop at the model's end-of-sequence ids.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// End the answer before this text; may be repeated.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
    /// Treat each prompt as a user's turn, by the checkpoint's chat template.
    #[arg(long, conflicts_with = "prompt_ids")]
    pub(crate) chat: bool,
    /// The system's turn before each prompt.
    #[arg(long, value_name = "TEXT", requires = "chat", conflicts_with = "prompt_ids", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// A chat template instead of the checkpoint's.
    #[arg(long, value_name = "FILE", requires = "chat", conflicts_with = "prompt_ids")]
    pub(crate) chat_template: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Add the raw logits of every step to the JSON document.
    #[arg(long, requires = "json")]
    pub(crate) logits: bool,
}

impl WishArgs {
    /// Says what is wrong with the flags themselves, before any file is opened.
    pub(crate) fn check(&self) -> Result<()> {
        self.sampling.sampling()?;
        StopStrings::new(self.stop.clone())?;
        Ok(())
    }

    /// Whether prompts are turns of a conversation.
    pub(crate) fn chat(&self) -> Chat<'_> {
        Chat { is_on: self.chat, system: self.system.as_deref(), template: self.chat_template.as_deref() }
    }

    /// How sequences are continued, at most `chunk` tokens of a prompt in a call.
    pub(crate) fn options(&self, checkpoint: Option<&Checkpoint>, chunk: usize) -> Result<Options> {
        let eos = match checkpoint {
            Some(checkpoint) if !self.ignore_eos => checkpoint.eos().to_vec(),
            _ => vec![],
        };
        Ok(Options { sampling: self.sampling.sampling()?, eos, chunk, keep_logits: self.logits })
    }

    /// How answers are made and told.
    pub(crate) fn wishes<'a>(&'a self, options: Options, tokenizer: Option<&'a Tokenizer>) -> Wishes<'a> {
        Wishes { options, tokenizer, stop: &self.stop, json: self.json }
    }
}

/// How ids are chosen; greedily if no flag is given.
#[derive(Debug, clap::Args)]
pub(crate) struct SamplingArgs {
    /// Sample at this temperature; 0 always takes the likeliest token [default: 0, or 1 with another sampling flag].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(super) temperature: Option<f32>,
    /// Sample among the K likeliest tokens.
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub(super) top_k: Option<usize>,
    /// Sample among the likeliest tokens that together reach probability P.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(super) top_p: Option<f32>,
    /// Sample among tokens at least this likely, relative to the likeliest.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(super) min_p: Option<f32>,
    /// Above 1, make tokens that were seen less likely.
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub(super) repetition_penalty: Option<f32>,
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
