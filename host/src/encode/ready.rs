//! A model of texts made ready to run.

use anyhow::{Context as _, Result};
use qeff_core::lower::{self, Quantised, Target};
use qeff_core::passes::{Features, PassReport};
use qeff_core::weights::Checkpoint as Weights;
use qeff_plugin_api::graph::Model;

use super::Encoder;
use super::batches::Shapes;
use crate::forms::WeightForms;
use crate::prepare::{prepare, shorten_tables};
use crate::runtime::cpu::engine::Engine;
use crate::runtime::cpu::{Tensors, load};

/// Most texts in a call on the CPU.
const ROWS: usize = 64;
/// Most tokens in a call on the CPU: enough to keep every core busy, few enough for caches.
const TOKENS: usize = 4096;

/// How a model of texts is to run on the CPU.
#[derive(Clone, Copy)]
pub struct CpuOptions<'a> {
    /// What executes it.
    pub engine: &'a dyn Engine,
    /// Most tokens of a text.
    pub longest: usize,
    /// Most texts in a call, if the user says so.
    pub rows: Option<usize>,
    /// The id that fills a text up.
    pub padding: u32,
    /// In which form weights are multiplied.
    pub forms: WeightForms,
}

/// An encoder, with what is worth telling about it.
pub struct Ready {
    /// The encoder.
    pub encoder: Encoder,
    /// What the passes did.
    pub reports: Vec<PassReport>,
    /// What became of weights that are stored quantised.
    pub quantised: Quantised,
}

/// Makes `model` ready to run on the CPU.
///
/// # Errors
/// If the model cannot be lowered or loaded, or is no model of texts.
pub fn cpu(mut model: Model, weights: &Weights, options: CpuOptions<'_>) -> Result<Ready> {
    let CpuOptions { engine, longest, rows, padding, forms } = options;
    let longest = longest.max(1) as u64;
    shorten_tables(&mut model, longest);
    let (quantised, report) = forms.quantised(&mut model, weights)?;
    let facets = forms.facets(&quantised);
    let how = lower::Options { products: forms.products, ..Target::Cpu.into() };
    let prepared = prepare(model, &facets, &Features { reach: longest, ..Features::default() }, how)?;
    let programs: Vec<_> = prepared.model.programs.iter().zip(&prepared.programs).collect();
    let (loaded, _) = load(engine, Tensors { checkpoint: weights, source: &facets }, &programs)?;
    let program = loaded.into_iter().next().context("the model has no program")?;
    let shapes = Shapes::Any { rows: rows.unwrap_or(ROWS), tokens: TOKENS };
    let encoder = Encoder::new(&prepared.model, Box::new(program), shapes, padding)?;
    let quantised = prepared.quantised();
    Ok(Ready { encoder, reports: report.into_iter().chain(prepared.reports).collect(), quantised })
}
