//! A model that looks at images, ready to run on the CPU.

use anyhow::{Context as _, Result};
use qeff_core::lower::{self, Quantised, Target};
use qeff_core::passes::{Features, PassReport};
use qeff_core::weights::Checkpoint as Weights;
use qeff_plugin_api::graph::{Dim, Model, Program, Role};

use super::encoder::Encoder;
use super::family::vision_program;
use super::session::ImagePorts;
use crate::prepare::{self, CpuOptions};
use crate::runtime::cpu::session::{CpuSession, Extent};
use crate::runtime::cpu::{self, load};

/// Both programs, loaded.
pub struct ImageReady {
    /// The vision program.
    pub encoder: Encoder,
    /// A session of the language program, of one slot.
    pub session: CpuSession,
    /// How the session takes images.
    pub ports: ImagePorts,
    /// What the passes did.
    pub reports: Vec<PassReport>,
    /// What became of weights that are stored quantised.
    pub quantised: Quantised,
}

/// Makes both programs of `model` ready; the session has one slot, whatever the options say.
///
/// # Errors
/// If the model is of another kind, or cannot be lowered or loaded.
pub fn cpu(model: &Model, weights: &Weights, options: CpuOptions<'_>) -> Result<ImageReady> {
    let CpuOptions { engine, context, chunk, forms, .. } = options;
    let mut model = model.clone();
    prepare::shorten_tables(&mut model, context as u64);
    let (quantised, report) = forms.quantised(&mut model, weights)?;
    let facets = forms.facets(&quantised);
    let how = lower::Options { products: forms.products, ..Target::Cpu.into() };
    let prepared = prepare::prepare(model, &facets, &Features { reach: context as u64, ..Features::default() }, how)?;
    let vision = vision_program(&prepared.model)?;
    let language = prepare::main_program(&prepared.model)?;
    let ports = ports(&prepared.model, language)?;
    let lowered = |wanted: &Program| {
        let place = prepared.model.programs.iter().position(|program| program.name == wanted.name);
        place.and_then(|i| prepared.programs.get(i)).context("a program was not lowered")
    };
    let sources = [(vision, lowered(vision)?), (language, lowered(language)?)];
    let (programs, _) = load(engine, cpu::Tensors { checkpoint: weights, source: &facets }, &sources)?;
    let [see, speak]: [cpu::CpuProgram; 2] = programs.try_into().ok().context("expected two programs")?;
    Ok(ImageReady {
        encoder: Encoder::new(Box::new(see), vision)?,
        session: CpuSession::new(speak, None, Extent { slots: 1, context, chunk }),
        ports,
        quantised: prepared.quantised(),
        reports: report.into_iter().chain(prepared.reports).collect(),
    })
}

/// How the language program takes images.
///
/// # Errors
/// If it takes none.
pub fn ports(model: &Model, language: &Program) -> Result<ImagePorts> {
    let link = model.links.iter().find(|link| link.to.0 == language.name);
    let embeds = &link.with_context(|| format!("program {} takes no images", language.name))?.to.1;
    let width = language.port(embeds).and_then(|part| language.ty(part).last().and_then(Dim::fixed));
    let width = width.and_then(|width| usize::try_from(width).ok());
    let input = |role: Role| {
        let found = language.input(role).map(|input| input.name.clone());
        found.with_context(|| format!("the language program has no input of role {}", role.name()))
    };
    let output = |role: Role| {
        let found = language.output(role).map(|output| output.name.clone());
        found.with_context(|| format!("the language program has no output of role {}", role.name()))
    };
    Ok(ImagePorts {
        tokens: input(Role::Tokens)?,
        positions: input(Role::Positions)?,
        logits: output(Role::Logits)?,
        embeds: embeds.clone(),
        index: input(Role::Carry)?,
        next_index: output(Role::Carry)?,
        width: width.with_context(|| format!("`{embeds}` is no state of rows of a fixed width"))?,
    })
}
