//! From a described model to something that runs or is exported: passes and lowering, chosen by what the user asked for.

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::{self, Lowered, Quantised, Target, Tensors};
use qeff_core::passes::{self, Features, PassReport};
use qeff_core::validate::validate;
use qeff_core::weights::Checkpoint as Weights;
use qeff_plugin_api::WeightExpr;
use qeff_plugin_api::graph::{Model, Program, Role};
use qeff_plugin_api::weight::RopeTable;

use crate::forms::WeightForms;
use crate::runtime::cpu::engine::Engine;
use crate::runtime::cpu::session::{CpuSession, Extent};
use crate::runtime::cpu::{self, CpuProgram, Residence, load};

/// The program of a model that generates text: the only one, or the one of several that scores tokens.
///
/// # Errors
/// If the model has none.
pub fn main_program(model: &Model) -> Result<&Program> {
    let scores = || model.programs.iter().find(|program| program.output(Role::Logits).is_some());
    model.program("main").or_else(scores).with_context(|| format!("{} has no program `main`", model.architecture))
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

impl Prepared {
    /// What became of weights that are stored quantised, in all programs.
    pub fn quantised(&self) -> Quantised {
        let mut all = Quantised::default();
        self.programs.iter().for_each(|program| all.add(&program.quantised));
        all
    }
}

/// Applies `features` and lowers every program.
///
/// # Errors
/// If a pass refuses or the target cannot express the model.
pub fn prepare<'a>(
    mut model: Model,
    tensors: impl Into<Tensors<'a>>,
    features: &Features,
    options: impl Into<lower::Options<'a>>,
) -> Result<Prepared> {
    let (tensors, options) = (tensors.into(), options.into());
    let mut reports = passes::apply(&mut model, features)?;
    if options.target == Target::Cpu {
        reports.extend(passes::guards(&mut model));
    }
    // A pass that leaves an invalid graph is our mistake; better said here than by a compiler an hour later.
    validate(&model, tensors.index).context("a pass left the model invalid")?;
    let programs =
        model.programs.iter().map(|program| lower::lower(program, tensors, options)).collect::<Result<_, _>>()?;
    Ok(Prepared { model, programs, reports })
}

/// Cuts rotary tables to the positions that a session has: a model made for a hundred thousand of them would be loaded
/// with megabytes that no request looks at.
pub(crate) fn shorten_tables(model: &mut Model, positions: u64) {
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
    /// What became of weights that are stored quantised.
    pub quantised: Quantised,
}

/// Programs on the CPU that are called as they are, with what is worth telling about them.
pub struct CpuPrograms {
    /// The programs by name.
    pub programs: Vec<(String, CpuProgram)>,
    /// What the passes did.
    pub reports: Vec<PassReport>,
    /// What became of weights that are stored quantised.
    pub quantised: Quantised,
}

impl CpuPrograms {
    /// Takes out the program called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn take(&mut self, name: &str) -> Result<CpuProgram> {
        let at = self.programs.iter().position(|(other, _)| other == name);
        Ok(self.programs.swap_remove(at.with_context(|| format!("the model has no program `{name}`"))?).1)
    }
}

/// Makes every program of `model` ready to be called on the CPU.
///
/// # Errors
/// If the model cannot be lowered or loaded.
pub fn cpu_programs(model: &Model, weights: &Weights, engine: &dyn Engine, forms: WeightForms) -> Result<CpuPrograms> {
    let mut model = model.clone();
    let (quantised, report) = forms.quantised(&mut model, weights)?;
    let facets = forms.facets(&quantised);
    let how = lower::Options { products: forms.products, ..Target::Cpu.into() };
    let prepared = prepare(model, &facets, &Features::default(), how)?;
    let sources: Vec<_> = prepared.model.programs.iter().zip(&prepared.programs).collect();
    let (programs, _) = load(engine, cpu::Tensors { checkpoint: weights, source: &facets }, &sources)?;
    let names = prepared.model.programs.iter().map(|program| program.name.clone());
    let quantised = prepared.quantised();
    Ok(CpuPrograms {
        programs: names.zip(programs).collect(),
        reports: report.into_iter().chain(prepared.reports).collect(),
        quantised,
    })
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
    /// In which form weights are multiplied.
    pub forms: WeightForms,
}

/// Makes `model` ready to run on the CPU.
///
/// # Errors
/// If the model cannot be lowered or loaded.
pub fn cpu(model: &Model, weights: &Weights, options: CpuOptions<'_>) -> Result<CpuReady> {
    let CpuOptions { engine, slots, context, chunk, forms } = options;
    let mut model = model.clone();
    shorten_tables(&mut model, context as u64);
    let (quantised, report) = forms.quantised(&mut model, weights)?;
    let facets = forms.facets(&quantised);
    let how = lower::Options { products: forms.products, ..Target::Cpu.into() };
    let features = Features { reach: context as u64, ..Features::default() };
    let plain = prepare(model.clone(), &facets, &features, how)?;
    // Several slots are continuous batching: the indexed program writes one of them.
    let indexed = (slots > 1)
        .then(|| prepare(model.clone(), &facets, &Features { batching: true, ..features }, how))
        .transpose()?;
    let mut sources = vec![];
    for prepared in [&plain].into_iter().chain(&indexed) {
        let lowered = prepared.programs.first().context("the model has no program")?;
        sources.push((main_program(&prepared.model)?, lowered));
    }
    let (programs, residence) = load(engine, cpu::Tensors { checkpoint: weights, source: &facets }, &sources)?;
    let mut programs = programs.into_iter();
    let first = programs.next().context("the model has no program")?;
    let session = CpuSession::new(first, programs.next(), Extent { slots, context, chunk });
    let quantised = plain.quantised();
    Ok(CpuReady { session, residence, reports: report.into_iter().chain(plain.reports).collect(), quantised })
}
