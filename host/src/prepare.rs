//! From a described model to something that runs or is exported: passes and lowering, chosen by what the user asked for.

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::{self, Lowered, Target, WeightForm};
use qeff_core::passes::{self, Features, PassReport};
use qeff_core::validate::validate;
use qeff_core::weights::Checkpoint as Weights;
use qeff_plugin_api::graph::{Model, Program};
use qeff_plugin_api::weight::RopeTable;
use qeff_plugin_api::{TensorIndex, WeightExpr};

use crate::runtime::cpu::engine::Engine;
use crate::runtime::cpu::session::{CpuSession, Extent};
use crate::runtime::cpu::{Residence, load};

/// The program of a model that generates text.
///
/// # Errors
/// If the model has none.
pub fn main_program(model: &Model) -> Result<&Program> {
    model.program("main").with_context(|| format!("{} has no program `main`", model.architecture))
}

/// Most positions of a sequence where the model itself was not made for more. Tables are made for as many as a request can
/// reach, and past this nobody means the number.
const MAX_POSITIONS: u64 = 1 << 20;

/// Refuses more positions than a model has, or than anybody can mean.
///
/// # Errors
/// If sequences of `reach` positions are too long.
pub fn check_reach(model: &Model, reach: u64) -> Result<()> {
    let (trained, hard) = model.positions.map_or((0, false), |limit| (limit.trained, limit.hard));
    if hard && reach > trained {
        bail!("expected at most {trained} positions, all that this model has; found {reach}");
    }
    let most = MAX_POSITIONS.max(trained);
    if reach > most {
        bail!("expected at most {most} positions (the model was made for {trained}); found {reach}");
    }
    Ok(())
}

/// A model after its passes, lowered.
pub struct Prepared {
    /// The model as the passes left it.
    pub model: Model,
    /// Each of its programs, lowered.
    pub programs: Vec<Lowered>,
    /// What the passes did.
    pub reports: Vec<PassReport>,
}

/// Applies `features` and lowers every program for `target`.
///
/// # Errors
/// If a pass refuses or the target cannot express the model.
pub fn prepare(model: Model, tensors: &TensorIndex, features: &Features, target: Target) -> Result<Prepared> {
    prepare_with(model, tensors, features, target, WeightForm::Wanted)
}

/// As [`prepare`], with weights in the form of `weights`.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_with(
    mut model: Model,
    tensors: &TensorIndex,
    features: &Features,
    target: Target,
    weights: WeightForm<'_>,
) -> Result<Prepared> {
    let reports = passes::apply(&mut model, features)?;
    // A pass that leaves an invalid graph is our mistake; better said here than by a compiler an hour later.
    validate(&model, tensors).context("a pass left the model invalid")?;
    let programs = model
        .programs
        .iter()
        .map(|program| lower::lower_with(program, tensors, target, weights))
        .collect::<Result<_, _>>()?;
    Ok(Prepared { model, programs, reports })
}

/// Cuts rotary tables to the positions that a session has: a model made for a hundred thousand of them would be loaded
/// with megabytes that no request looks at.
fn shorten_tables(model: &mut Model, positions: u64) {
    for program in &mut model.programs {
        let tables: Vec<_> = program
            .weights()
            .filter_map(|(id, expr)| match expr {
                WeightExpr::Rope(table) if table.positions > positions => Some((id, table.clone())),
                _ => None,
            })
            .collect();
        for (id, table) in tables {
            let shape = [positions, table.width / 2];
            program.set_weight(id, WeightExpr::Rope(RopeTable { positions, ..table }), &shape);
        }
    }
}

/// A session on the CPU with what is worth telling about it.
pub struct CpuReady {
    /// The session.
    pub session: CpuSession,
    /// How the weights were found.
    pub residence: Residence,
    /// What the passes did.
    pub reports: Vec<PassReport>,
}

/// How a model is to run on the CPU.
#[derive(Clone, Copy)]
pub struct CpuOptions<'a> {
    /// What executes it.
    pub engine: &'a dyn Engine,
    /// Sequences at once.
    pub slots: usize,
    /// Most positions of a sequence.
    pub context: usize,
    /// Most tokens of a sequence in one call; more are written in several.
    pub chunk: usize,
}

/// Makes `model` ready to run on the CPU.
///
/// # Errors
/// If the model cannot be lowered or loaded.
pub fn cpu(model: &Model, weights: &Weights, options: CpuOptions<'_>) -> Result<CpuReady> {
    let CpuOptions { engine, slots, context, chunk } = options;
    let mut model = model.clone();
    shorten_tables(&mut model, context as u64);
    let features = Features { reach: context as u64, ..Features::default() };
    let plain = prepare(model.clone(), weights.index(), &features, Target::Cpu)?;
    // Several slots are continuous batching: the indexed program writes one of them.
    let indexed = (slots > 1)
        .then(|| prepare(model.clone(), weights.index(), &Features { batching: true, ..features }, Target::Cpu))
        .transpose()?;
    let mut sources = vec![];
    for prepared in [&plain].into_iter().chain(&indexed) {
        let lowered = prepared.programs.first().context("the model has no program")?;
        sources.push((main_program(&prepared.model)?, lowered));
    }
    let (programs, residence) = load(engine, weights, &sources)?;
    let mut programs = programs.into_iter();
    let first = programs.next().context("the model has no program")?;
    let session = CpuSession::new(first, programs.next(), Extent { slots, context, chunk });
    Ok(CpuReady { session, residence, reports: plain.reports })
}
