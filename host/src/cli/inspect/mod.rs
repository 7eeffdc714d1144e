//! `inspect`: what a checkpoint is, and how it is described and lowered; or what a compiled program takes and gives.

mod qpc;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use qeff_core::lower::Target;
use qeff_core::passes::Features;
use qeff_core::weights::Facets;
use qeff_core::{onnx, text};
use serde_json::json;

use super::ModelArgs;
use super::talk;
use crate::checkpoint::Checkpoint;
use crate::describe::Described;
use crate::prepare;

/// Flags of `inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A compiled program: programqpc.bin or its folder. No SDK and no card are needed.
    #[arg(value_name = "QPC", conflicts_with_all = ["model", "plugin", "rewrite", "strict", "show"])]
    qpc: Option<PathBuf>,
    #[command(flatten)]
    model: Option<ModelArgs>,
    /// What to show.
    #[arg(long, value_enum, default_value_t = Show::Summary)]
    show: Show,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Show {
    /// Architecture, sizes, states, and what may be wrong.
    Summary,
    /// The semantic graph.
    Graph,
    /// Every stored tensor and what it is used for.
    Weights,
    /// The ONNX graph for Cloud AI 100.
    Aic,
    /// The ONNX graph for a CPU engine.
    Cpu,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(qpc) = &args.qpc {
        return qpc::run(qpc, args.json);
    }
    let model = args.model.as_ref().context("expected --model, or a compiled program")?;
    let (checkpoint, described) = model.describe()?;
    if !args.json {
        talk::warnings(&described.warnings);
        talk::notes(&described.notes);
    }
    if args.show == Show::Summary {
        return summary(args, &checkpoint, &described);
    }
    let text = match args.show {
        Show::Graph => text::print(&described.model),
        Show::Aic => lowered(&checkpoint, described.model, Target::Aic)?,
        Show::Cpu => lowered(&checkpoint, described.model, Target::Cpu)?,
        Show::Weights | Show::Summary => weights(&checkpoint, &described),
    };
    if args.json { talk::json(&json!({ "text": text })) } else { talk::data(&text) }
}

fn lowered(checkpoint: &Checkpoint, model: qeff_plugin_api::graph::Model, target: Target) -> Result<String> {
    let prepared = prepare::prepare(model, &Facets::new(&checkpoint.weights), &Features::default(), target)?;
    Ok(prepared.programs.iter().map(onnx::text::print).collect::<Vec<_>>().join("\n"))
}

fn weights(checkpoint: &Checkpoint, described: &Described) -> String {
    let used = described.model.sources();
    let mut text = String::new();
    for (name, info) in checkpoint.weights.index().iter() {
        let note = if used.contains(name) { "" } else { "  (unused)" };
        text.push_str(&format!("{name} : {}{:?}{note}\n", info.dtype, info.shape));
    }
    text
}

fn summary(args: &Args, checkpoint: &Checkpoint, described: &Described) -> Result<()> {
    let model = &described.model;
    let parameters: u64 = model
        .sources()
        .iter()
        .filter_map(|name| checkpoint.weights.index().get(name))
        .map(|info| info.shape.iter().product::<u64>())
        .sum();
    let programs: Vec<_> = model
        .programs
        .iter()
        .map(|program| {
            let states: Vec<_> = program.states().map(|(_, state)| state.slot.clone()).collect();
            json!({
                "name": program.name,
                "nodes": program.nodes().len(),
                "inputs": program.inputs.iter().map(|input| &input.name).collect::<Vec<_>>(),
                "outputs": program.outputs.iter().map(|output| &output.name).collect::<Vec<_>>(),
                "states": states.len(),
            })
        })
        .collect();
    if args.json {
        return talk::json(&json!({
            "architecture": model.architecture,
            "task": model.task.name(),
            "plugin": described.plugin,
            "positions": model.positions.map(|limit| limit.trained),
            "parameters": parameters,
            "weight_bytes": checkpoint.weights.total_bytes(),
            "weight_files": checkpoint.weights.files().len(),
            "eos_token_ids": checkpoint.eos(),
            "programs": programs,
            "quantization": checkpoint.quantization.as_ref().map(|quantization| quantization.describe()),
            "warnings": described.warnings,
            "notes": described.notes,
        }));
    }
    let mut text = format!(
        "architecture  {}\ntask          {}\nplugin        {}\nparameters    {parameters}\nweights       {} in {} file{}\n",
        model.architecture,
        model.task.name(),
        described.plugin,
        talk::megabytes(checkpoint.weights.total_bytes()),
        checkpoint.weights.files().len(),
        if checkpoint.weights.files().len() == 1 { "" } else { "s" },
    );
    if let Some(limit) = model.positions {
        text.push_str(&format!("positions     {}{}\n", limit.trained, if limit.hard { " at most" } else { "" }));
    }
    for program in &model.programs {
        text.push_str(&format!(
            "program       {}: {} operators, {} states\n",
            program.name,
            program.nodes().len(),
            program.states().len()
        ));
    }
    talk::data(&text)
}
