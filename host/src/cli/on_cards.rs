//! `run` on cards, and `execute`: what is compiled for a request, on which cards it goes, and the session there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::{self, Quantised, Target};
use qeff_plugin_api::graph::{Model, Role};

use super::compile::args::{Found, Numbers, stores};
use super::compile::{DEFAULT_BUDGET, jobs, make, prepare_for_cards};
use super::executor::{DeviceArgs, ExecutorArgs};
use super::talk;
use crate::checkpoint::Checkpoint;
use crate::compile::sdk::cards;
use crate::compile::{Program, Shape};
use crate::describe::Described;
use crate::generate::Request;
use crate::qpc::{Making, Source};
use crate::runtime::qaic::locate::{Located, locate};
use crate::runtime::qaic::program::{Installed, read};
use crate::runtime::qaic::session::EXECUTIONS;
use crate::runtime::qaic::{Free, OpenOptions, QaicProgram, QaicSession, placement};

/// Where a program is to run.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    located: Located,
    /// Cards that the user names.
    group: Option<Vec<i32>>,
    timeout: Duration,
}

impl Place {
    /// The place that flags say.
    pub(crate) fn new(group: Option<&Numbers>, sdk: Option<&Path>, device: &DeviceArgs) -> Result<Self> {
        let card = |&n: &u64| i32::try_from(n).with_context(|| format!("--device-group: there is no card {n}"));
        let group = group.map(|Numbers(group)| group.iter().map(card).collect()).transpose()?;
        Ok(Place { located: locate(sdk), group, timeout: device.timeout() })
    }

    /// Cards for a program: those that the user names, or some that have room for it.
    fn cards(&self, qpc: &Path) -> Result<Vec<i32>> {
        if let Some(group) = &self.group {
            return Ok(group.clone());
        }
        let program = read(qpc)?;
        // Asked anew: what is free changes.
        let listed = self.located.util.as_deref().map(cards::ask).unwrap_or_default();
        let ready = listed.iter().filter(|card| card.status == "Ready");
        let free: Vec<Free> = ready
            .filter_map(|card| {
                let cores = card.free_cores.or(card.cores)?;
                Some(Free { card: i32::try_from(card.qid).ok()?, board: card.board.clone(), cores })
            })
            .collect();
        let (count, cores) = (program.devices(), program.cores());
        if listed.is_empty() {
            // Nobody lists them; the first may be there all the same.
            return Ok((0..count as i32).collect());
        }
        placement::place(&free, count, cores.into()).with_context(|| {
            let has = |free: &Free| format!("card {} has {} cores free", free.card, free.cores);
            let free = if free.is_empty() { "none is ready".into() } else { free.iter().map(has).collect::<Vec<_>>().join(", ") };
            format!(
                "the program takes {cores} cores of each of {count} card{}; {free}\nhint: `qeff-host devices` lists the cards",
                if count == 1 { "" } else { "s" }
            )
        })
    }
}

/// Loads a program, from its file or folder, to be called by name.
pub(crate) fn open_program(qpc: &Path, place: &Place, executions: usize) -> Result<QaicProgram> {
    let installed = Installed::open(&place.located)?;
    let cards = place.cards(qpc)?;
    let options = OpenOptions { cards, timeout: place.timeout, executions };
    Ok(QaicProgram::open(&installed, qpc, &options)?)
}

/// A session of a decoder. `context` is the number of positions of a sequence, if it is known.
pub(crate) fn open(qpc: &Path, place: &Place, context: Option<usize>) -> Result<QaicSession> {
    let program = open_program(qpc, place, EXECUTIONS)?;
    let session = QaicSession::new(program, context)?;
    if session.has_adapters() {
        talk::warn("the program has LoRA adapters, and none of them is used");
    }
    Ok(session)
}

/// A model's programs, compiled.
pub(crate) struct Built {
    /// Folders of the QPCs, one for each program, in the model's order.
    pub(crate) qpcs: Vec<PathBuf>,
    /// Where they are to run.
    pub(crate) place: Place,
    /// The model as passes left it.
    pub(crate) model: Model,
    /// What became of weights that are stored quantised.
    pub(crate) quantised: Quantised,
}

/// A model of one program, compiled.
pub(crate) struct One {
    /// Folder of its QPC.
    pub(crate) qpc: PathBuf,
    /// Where it is to run.
    pub(crate) place: Place,
    /// The model as passes left it.
    pub(crate) model: Model,
    /// What became of weights that are stored quantised.
    pub(crate) quantised: Quantised,
}

/// Compiles the programs of a model for these sizes, or finds them. `resize` gives programs, by name, sizes of their own.
pub(crate) fn build(
    executor: &ExecutorArgs,
    shape: Shape,
    mut described: Described,
    checkpoint: &Checkpoint,
    how: lower::Options<'_>,
    resize: impl FnOnce(&mut [(&str, &mut Program)]),
) -> Result<Built> {
    let ExecutorArgs { cards, device, .. } = executor;
    let place = Place::new(cards.device_group.as_ref(), cards.sdk.as_deref(), device)?;
    let forms = executor.forms(Target::Aic)?;
    let found: Found = cards.find()?;
    let options = cards.options(shape, &found.cards, &[])?;
    let stores = stores(None)?;
    let (quantised, _) = forms.quantised(&mut described.model, &checkpoint.weights)?;
    let facets = forms.facets(&quantised);
    let prepared = prepare_for_cards(described, &facets, &options.shape, how)?;
    let mut sources = Source::of_model(&prepared, &facets, &checkpoint.weights)?;
    let names = prepared.model.programs.iter().map(|program| program.name.as_str());
    let mut named: Vec<_> = names.zip(sources.iter_mut().map(|(program, _)| program)).collect();
    resize(&mut named);
    let jobs = jobs(sources, &options, &found.toolchain, &stores, &stores.digests())?;
    let making = Making { timeout: cards.timeout(), memory_budget: DEFAULT_BUDGET as usize * 1_000_000, force: false };
    let folder = |job| Ok(make(job, making, &found.cards)?.dir.join("qpc"));
    let qpcs = jobs.iter().map(folder).collect::<Result<_>>()?;
    Ok(Built { qpcs, place, quantised: prepared.quantised(), model: prepared.model })
}

/// Compiles a model of one program for these sizes, or finds it. The program does not have inputs of the roles `zeros`.
pub(crate) fn one(
    executor: &ExecutorArgs,
    shape: Shape,
    described: Described,
    checkpoint: &Checkpoint,
    zeros: &[Role],
) -> Result<One> {
    let count = described.model.programs.len();
    if count != 1 {
        bail!("the model has {count} programs; this task on cards takes one");
    }
    let how = lower::Options { zeros, ..Target::Aic.into() };
    let Built { qpcs, place, model, quantised } = build(executor, shape, described, checkpoint, how, |_| ())?;
    let qpc = qpcs.into_iter().next().context("nothing was compiled")?;
    Ok(One { qpc, place, model, quantised })
}

/// Compiles what a request with these prompts needs, or finds it. Its context is as `shape` says.
pub(crate) fn prepare(
    executor: &ExecutorArgs,
    shape: Shape,
    described: Described,
    checkpoint: &Checkpoint,
    prompts: &[Vec<u32>],
) -> Result<(One, usize)> {
    let context = usize::try_from(shape.positions()).context("--ctx-len is too large")?;
    check_fit(prompts, context)?;
    Ok((one(executor, shape, described, checkpoint, &[])?, context))
}

fn check_fit(prompts: &[Vec<u32>], context: usize) -> Result<()> {
    for (i, prompt) in prompts.iter().enumerate() {
        if prompt.len() > context {
            bail!(
                "prompt {i} has {} tokens, more than the {context} positions of a sequence: shorten it or raise --ctx-len",
                prompt.len()
            );
        }
    }
    Ok(())
}

/// Requests for a session of so many positions: as many new tokens as asked for, or as there is room.
pub(crate) fn requests(prompts: &[Vec<u32>], max_new_tokens: Option<u32>, context: usize) -> Result<Vec<Request>> {
    check_fit(prompts, context)?;
    let request = |(i, prompt): (usize, &Vec<u32>)| {
        // The last id is chosen, not written: it needs no position.
        let room = context - prompt.len() + 1;
        let wanted = max_new_tokens.map_or(room, |n| n as usize);
        if wanted > room {
            talk::warn(&format!("prompt {i}: the context leaves room for {room} of {wanted} new tokens"));
        }
        Request { prompt: prompt.clone(), max_new_tokens: wanted.min(room) }
    };
    Ok(prompts.iter().enumerate().map(request).collect())
}
