//! `execute`: text by a QPC that is there, whoever made it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use qeff_core::lower::Quantised;

use super::compile::args::{Numbers, numbers};
use super::executor::DeviceArgs;
use super::on_cards::{self, Place};
use super::prompts::PromptArgs;
use super::run::answer::{Asked, Ready, answer, encode};
use super::run::wishes::WishArgs;
use super::talk;
use crate::checkpoint::Checkpoint;
use crate::qpc::{FoundQpc, KnownBy};
use crate::runtime::Session as _;

/// Flags of `execute`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the compiled program, as `compile` prints it, or its programqpc.bin.
    #[arg(long, value_name = "DIR")]
    qpc_path: PathBuf,
    /// Folder of the checkpoint, or a .gguf file: its tokenizer, and the ids that end a sequence. Not needed for ids.
    #[arg(long, value_name = "PATH", visible_alias = "model-name", alias = "local-model-dir")]
    model: Option<PathBuf>,
    #[command(flatten)]
    prompts: PromptArgs,
    #[command(flatten)]
    wishes: WishArgs,
    /// Cards by number, e.g. 0,1 [default: some that have room].
    #[arg(long, value_name = "IDS", value_parser = numbers, help_heading = "AI 100")]
    device_group: Option<Numbers>,
    /// Sequences at once with continuous batching, to be checked: the QPC decides.
    #[arg(long, value_name = "F", value_parser = clap::value_parser!(u32).range(1..), help_heading = "AI 100")]
    full_batch_size: Option<u32>,
    /// Positions of a sequence, to be checked: the QPC decides.
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..), help_heading = "AI 100")]
    ctx_len: Option<u32>,
    /// Root of the AI 100 SDK [default: QAIC_SDK_ROOT, else /opt/qti-aic].
    #[arg(long, value_name = "DIR", help_heading = "AI 100")]
    sdk: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let prompts = args.prompts.prompts()?;
    args.wishes.check()?;

    let found = FoundQpc::open(&args.qpc_path)?;
    check(args, &found)?;
    let checkpoint = args.model.as_deref().map(Checkpoint::open).transpose()?;
    let Asked { prompts, tokenizer } = encode(&prompts, args.wishes.chat(), &args.wishes.stop, checkpoint.as_ref())?;
    let place = Place::new(args.device_group.as_ref(), args.sdk.as_deref(), &args.device)?;
    if !args.wishes.json {
        let devices = found.qpc.devices();
        let cards = if devices == 1 { "1 card".into() } else { format!("{devices} cards") };
        talk::say(&format!(
            "{}: for {cards}, {} cores each; known by {}",
            found.file.display(),
            found.qpc.cores(),
            found.known_by.name()
        ));
    }
    let context = found.ctx_len.and_then(|n| usize::try_from(n).ok());
    let mut session = on_cards::open(&found.file, &place, context)?;
    check_ids(&prompts, session.vocab())?;
    if found.known_by == KnownBy::Descriptors {
        talk::warn(&format!(
            "nothing lies beside the QPC that says how long sequences may be; its states have {} positions",
            session.context()
        ));
    }
    let requests = on_cards::requests(&prompts, args.wishes.max_new_tokens, session.context())?;
    let options = args.wishes.options(checkpoint.as_ref(), session.chunk())?;
    let wishes = args.wishes.wishes(options, tokenizer.as_ref());
    let (loaded, quantised) = (started.elapsed(), &Quantised::default());
    answer(wishes, &requests, Ready { session: &mut session, engine: "qaic", started, loaded, quantised })
}

/// What the user says of the program has to be so.
fn check(args: &Args, found: &FoundQpc) -> Result<()> {
    if let Some(kind) = found.kind.as_deref().filter(|kind| *kind != "decoder") {
        bail!("{}: expected a decoder, which continues text; this program is of kind {kind}", found.file.display());
    }
    let asked = [
        (
            "--full-batch-size",
            args.full_batch_size,
            found.full_batch_size,
            "sequences at once with continuous batching",
        ),
        ("--ctx-len", args.ctx_len, found.ctx_len, "positions"),
    ];
    for (flag, asked, is, what) in asked {
        let Some(asked) = asked.map(u64::from) else { continue };
        match is {
            Some(is) if is == asked => {}
            Some(is) => {
                bail!("{flag} {asked}: the QPC is compiled for {is} {what}; leave the flag out, or compile again")
            }
            None if found.known_by == KnownBy::Descriptors => {
                talk::warn(&format!("{flag} {asked}: nothing beside the QPC says for how many {what} it is compiled"));
            }
            None => bail!("{flag} {asked}: the QPC is compiled without it; leave the flag out, or compile again"),
        }
    }
    let named = args.device_group.as_ref().map(|Numbers(group)| group.len());
    if let Some(named) = named.filter(|&named| named != found.qpc.devices()) {
        bail!(
            "--device-group names {named} card{}, and the QPC is compiled for {}; name as many, or compile again",
            if named == 1 { "" } else { "s" },
            found.qpc.devices()
        );
    }
    Ok(())
}

/// Refuses ids past the vocabulary, for which the program has no embedding.
fn check_ids(prompts: &[Vec<u32>], vocab: usize) -> Result<()> {
    for (i, prompt) in prompts.iter().enumerate() {
        if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab) {
            bail!("prompt {i} has token id {id}; the program's vocabulary ends at {}", vocab - 1);
        }
    }
    Ok(())
}
