//! `export`: write a model as ONNX for a target.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::{self, Target};
use qeff_core::onnx::{self, ExportError};
use qeff_core::passes::Features;
use qeff_core::weights::{PackError, PackOptions, Progress};
use serde_json::json;

use super::ModelArgs;
use super::talk;
use crate::prepare;

/// Flags of `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What the graph is for.
    #[arg(long, value_enum, default_value_t = TargetArg::Aic)]
    target: TargetArg,
    /// Folder to write to; files of the same names are replaced.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Continuous batching: states get a slot axis, and rows say which slot they use. The number of slots is fixed when
    /// the graph is compiled.
    #[arg(long, value_name = "F", value_parser = clap::value_parser!(u32).range(1..=1024))]
    full_batch_size: Option<u32>,
    /// Logits of the last K positions (a speculation target). K is fixed when the graph is compiled.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1024))]
    num_logits_to_keep: Option<u32>,
    /// Context lengths: attention reads the beginning of the cache only, as much as is fixed when the graph is compiled.
    #[arg(long)]
    ccl_enabled: bool,
    /// Positions of a sequence; decides rotary rules that depend on the length (dynamic, longrope).
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..))]
    ctx_len: Option<u32>,
    /// Memory for converting weights, in MB.
    #[arg(long, value_name = "MB", default_value_t = 128, value_parser = clap::value_parser!(u32).range(8..))]
    memory_budget: u32,
    /// Print one JSON document instead of the path.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum TargetArg {
    /// Cloud AI 100.
    Aic,
    /// A CPU engine: rten, ONNX Runtime.
    Cpu,
}

impl From<TargetArg> for Target {
    fn from(target: TargetArg) -> Self {
        match target {
            TargetArg::Aic => Target::Aic,
            TargetArg::Cpu => Target::Cpu,
        }
    }
}

/// The error with the final place of a file instead of the temporary one, which is gone by now.
fn in_place(error: ExportError, output: &Path) -> ExportError {
    let place = |path: PathBuf| path.file_name().map(|name| output.join(name)).unwrap_or(path);
    match error {
        ExportError::Pack(PackError::DiskFull { path, needed }) => {
            PackError::DiskFull { path: place(path), needed }.into()
        }
        ExportError::Pack(PackError::Io { path, error }) => PackError::Io { path: place(path), error }.into(),
        other => other,
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    if args.output.exists() && !args.output.is_dir() {
        bail!("--output {} is a file; expected a folder, or a path where one can be made", args.output.display());
    }
    let (checkpoint, described) = args.model.describe()?;
    talk::warnings(&described.warnings);
    if let Some(context) = args.ctx_len {
        prepare::check_reach(&described.model, context.into()).context("--ctx-len is too large")?;
    }
    let features = Features {
        last_k: args.num_logits_to_keep.is_some(),
        batching: args.full_batch_size.is_some(),
        context: args.ccl_enabled,
        reach: args.ctx_len.map_or(0, u64::from),
    };
    let target = Target::from(args.target);
    let prepared = prepare::prepare(described.model, checkpoint.weights.index(), &features, target)?;
    prepared.reports.iter().for_each(|report| talk::warnings(&report.warnings));
    let passes: Vec<_> = prepared.reports.iter().map(|report| report.pass).collect();
    let metadata = [("qeff_transforms", passes.join(",")), ("qeff.target", target.name().to_owned())];

    let mut files = vec![];
    let mut bytes = 0;
    for (program, lowered) in prepared.model.programs.iter().zip(&prepared.programs) {
        let bar = talk::bytes_bar("writing weights", 0);
        let advance = |progress: Progress| {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
        };
        let options = PackOptions {
            budget: args.memory_budget as usize * 1_000_000,
            progress: Some(&advance),
            ..PackOptions::default()
        };
        let stem = lower::file_stem(&prepared.model, program);
        let source = &checkpoint.weights;
        let what = onnx::Export { lowered, stem: &stem, source, metadata: &metadata, options };
        let exported = onnx::export(what, &args.output)
            .map_err(|error| in_place(error, &args.output))
            .with_context(|| format!("cannot export to {}", args.output.display()))?;
        bar.finish_and_clear();
        bytes += exported.bytes;
        files.push(exported.model);
    }

    let took = started.elapsed();
    let peak = talk::peak_memory();
    if args.json {
        return talk::json(&json!({
            "onnx": files,
            "target": target.name(),
            "plugin": described.plugin,
            "passes": passes,
            "seconds": took.as_secs_f64(),
            "peak_memory_bytes": peak,
            "bytes_written": bytes,
        }));
    }
    for report in &prepared.reports {
        talk::say(&report.to_string());
    }
    talk::say(&format!(
        "exported in {}, peak memory {}, {} written",
        talk::seconds(took),
        peak.map_or("unknown".into(), talk::megabytes),
        talk::megabytes(bytes)
    ));
    for file in &files {
        talk::data(&format!("{}\n", file.display()))?;
    }
    Ok(())
}
