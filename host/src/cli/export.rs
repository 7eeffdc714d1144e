//! `export`: write a model as ONNX for a target.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::{self, Target};
use qeff_core::onnx::{self, ExportError, Exported};
use qeff_core::passes::{self, Features};
use qeff_core::weights::{Clipped, PackError, PackOptions, Progress};
use qeff_plugin_api::DType;
use serde_json::{Value as Json, json};

use super::ModelArgs;
use super::forms::{self, FormArgs};
use super::{pooling, talk};
use crate::interrupt::Interrupts;
use crate::linking::{Linking, Remainder};
use crate::prepare;
use crate::vision::{Size, sizes};

/// Flags of `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What the graph is for.
    #[arg(long, value_enum, default_value_t = TargetArg::Aic)]
    target: TargetArg,
    /// Element type of activations, states and weights; f16 is for --target aic.
    #[arg(long, value_enum, default_value_t = DtypeArg::F32)]
    dtype: DtypeArg,
    /// Folder to write to; files of the same names are replaced.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Where the weights are afterwards.
    #[arg(long, value_enum, default_value_t = StorageArg::Packed)]
    storage: StorageArg,
    /// What becomes of weights that the checkpoint stores in another type or layout; needs --storage linked.
    #[arg(long, value_enum, value_name = "FORM")]
    remainder: Option<RemainderArg>,
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
    /// Of a text encoder, one vector a text: mean, max, cls, last or another head, as for `embed`.
    #[arg(long, value_name = "HEAD")]
    pooling: Option<String>,
    /// For --target aic, keep the input that tells which of two texts a token belongs to; the reference's graphs have none.
    #[arg(long)]
    token_type_ids: bool,
    /// Height and width of the images that a model of any resolution is to see; repeat the flag for several, each of which
    /// gets a vision program of its own [default: 1109x1610 for AI 100, any size for the CPU].
    #[arg(long, value_name = "HxW")]
    image_size: Vec<Size>,
    /// One program that looks at images with every call, instead of a vision and a language program.
    #[arg(long)]
    single_qpc: bool,
    #[command(flatten)]
    forms: FormArgs,
    /// Memory for converting weights, in MB.
    #[arg(long, value_name = "MB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..))]
    memory_budget: u32,
    /// Return when the files are on the disk, not only with the system: against a power cut.
    #[arg(long)]
    sync: bool,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DtypeArg {
    F32,
    F16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StorageArg {
    /// Beside the model, made as the graph wants them.
    Packed,
    /// In the checkpoint's own files, which are linked beside the model.
    Linked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RemainderArg {
    /// They are linked, and nodes of the graph make of them what is wanted.
    Nodes,
    /// They are packed beside the model.
    Packed,
}

impl From<RemainderArg> for Remainder {
    fn from(remainder: RemainderArg) -> Self {
        match remainder {
            RemainderArg::Nodes => Remainder::Nodes,
            RemainderArg::Packed => Remainder::Packed,
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
    let interrupts = Interrupts::watch().context("cannot watch for signals")?;
    if args.output.exists() && !args.output.is_dir() {
        bail!("--output {} is a file; expected a folder, or a path where one can be made", args.output.display());
    }
    if args.remainder.is_some() && args.storage == StorageArg::Packed {
        bail!("--remainder is about linked weights: add --storage linked");
    }
    let target = Target::from(args.target);
    let act = match args.dtype {
        DtypeArg::F32 => None,
        DtypeArg::F16 if target == Target::Cpu => {
            bail!(
                "--dtype f16 is for --target aic: CPU engines compute in f32, and f16 files would only be converted again"
            )
        }
        DtypeArg::F16 if args.storage == StorageArg::Linked => {
            bail!("--dtype f16 converts weights, and --storage linked leaves them as they are; leave one of them out")
        }
        DtypeArg::F16 => Some(DType::F16),
    };
    let forms = args.forms.forms(target)?;
    let (checkpoint, mut described) = pooling::described(&args.model, args.pooling.as_deref())?;
    talk::warnings(&described.warnings);
    talk::notes(&described.notes);
    if let Some(context) = args.ctx_len {
        prepare::check_reach(&described.model, context.into()).context("--ctx-len is too large")?;
    }
    let features = Features {
        last_k: args.num_logits_to_keep.is_some(),
        batching: args.full_batch_size.is_some(),
        act,
        context: args.ccl_enabled,
        reach: args.ctx_len.map_or(0, u64::from),
    };
    if !args.image_size.is_empty() || target == Target::Aic && sizes::packs(&described.model) {
        sizes::fix(&mut described.model, &checkpoint, &args.image_size)?;
    }
    let joined = if args.single_qpc { Some(passes::join(&mut described.model)?) } else { None };
    let (quantised, report) = forms.quantised(&mut described.model, &checkpoint.weights)?;
    let source = forms.facets(&quantised);
    let linking = match args.storage {
        StorageArg::Packed => None,
        StorageArg::Linked => Some(Linking::new(&checkpoint, &source, target, args.remainder.map(Remainder::from))?),
    };
    linking.iter().filter_map(Linking::warning).for_each(talk::warn);
    let mut how = lower::Options { products: forms.products, ..target.into() };
    if args.token_type_ids {
        how.zeros = &[];
    }
    let mut prepared = match &linking {
        None => prepare::prepare(described.model, &source, &features, how)?,
        Some(linking) => linking.prepare(described.model, &source, &features, how)?,
    };
    prepared.reports.splice(0..0, joined.into_iter().chain(report));
    prepared.reports.iter().for_each(|report| talk::warnings(&report.warnings));
    let passes: Vec<_> = prepared.reports.iter().map(|report| report.pass).collect();
    let metadata = [("qeff_transforms", passes.join(",")), ("qeff.target", target.name().to_owned())];

    let (mut exports, mut shared) = (vec![], onnx::Shared::default());
    for (program, lowered) in prepared.model.programs.iter().zip(&prepared.programs) {
        let bar = talk::bytes_bar("writing weights", 0);
        let advance = |progress: Progress| {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
        };
        let options = PackOptions {
            budget: args.memory_budget as usize * 1_000_000,
            sync: args.sync,
            interrupted: Some(interrupts.flag()),
            progress: Some(&advance),
            ..PackOptions::default()
        };
        let stem = lower::file_stem(&prepared.model, program);
        let storage = match &linking {
            None => onnx::Storage::Packed,
            Some(linking) => linking.storage(&prepared.model),
        };
        let what = onnx::Export { lowered, stem: &stem, source: &source, storage, metadata: &metadata, options };
        let exported = onnx::export_sharing(what, &args.output, &mut shared);
        bar.finish_and_clear();
        if matches!(exported, Err(ExportError::Pack(PackError::Interrupted))) {
            return interrupts.end();
        }
        exports.push(
            exported
                .map_err(|error| in_place(error, &args.output))
                .with_context(|| format!("cannot export to {}", args.output.display()))?,
        );
    }

    let took = started.elapsed();
    let peak = talk::peak_memory();
    let written: u64 = exports.iter().map(|export| export.bytes).sum();
    let linked: u64 = exports.iter().map(|export| export.linked.bytes).sum();
    if args.json {
        let files: Vec<_> = exports.iter().map(|export| &export.model).collect();
        return talk::json(&json!({
            "onnx": files,
            "target": target.name(),
            "plugin": described.plugin,
            "passes": passes,
            "weights": forms::report(&prepared.quantised()),
            "dtype": act.unwrap_or(DType::F32).to_string(),
            "clipped": exports.iter().flat_map(clipped).collect::<Vec<_>>(),
            "storage": match args.storage { StorageArg::Packed => "packed", StorageArg::Linked => "linked" },
            "links": exports.iter().flat_map(links).collect::<Vec<_>>(),
            "packed_because": exports.iter().flat_map(reasons).collect::<Vec<_>>(),
            "seconds": took.as_secs_f64(),
            "peak_memory_bytes": peak,
            "bytes_written": written,
            "bytes_linked": linked,
        }));
    }
    for report in &prepared.reports {
        talk::say(&report.to_string());
    }
    forms::say(&prepared.quantised());
    exports.iter().for_each(tell_clipped);
    if linking.is_some() {
        exports.iter().for_each(tell_linked);
    }
    let linked = if linking.is_some() { format!(", {} linked", talk::megabytes(linked)) } else { String::new() };
    talk::say(&format!(
        "exported in {}, peak memory {}, {} written{linked}",
        talk::seconds(took),
        peak.map_or("unknown".into(), talk::megabytes),
        talk::megabytes(written)
    ));
    for export in &exports {
        talk::data(&format!("{}\n", export.model.display()))?;
    }
    Ok(())
}

fn links(export: &Exported) -> impl Iterator<Item = Json> {
    let link = |link: &onnx::Link| json!({ "name": link.name, "target": link.target, "kind": link.kind.name() });
    export.links.iter().map(link)
}

fn reasons(export: &Exported) -> impl Iterator<Item = Json> {
    let reason = |(why, tally): &(_, onnx::Tally)| json!({ "reason": format!("{why}"), "weights": tally.weights, "bytes": tally.bytes });
    export.not_linked.iter().map(reason)
}

fn clipped(export: &Exported) -> impl Iterator<Item = Json> {
    let entry = |(name, clipped): &(String, Clipped)| {
        // JSON has no infinity.
        let largest = clipped.largest.is_finite().then_some(clipped.largest);
        json!({ "weight": name, "count": clipped.count, "largest": largest })
    };
    export.clipped.iter().map(entry)
}

/// Most weights that are told of one by one; the JSON document has them all.
const TOLD: usize = 10;

/// Says which weights had numbers that f16 has no room for.
fn tell_clipped(export: &Exported) {
    let count: u64 = export.clipped.iter().map(|(_, clipped)| clipped.count).sum();
    if count == 0 {
        return;
    }
    let weights = export.clipped.len();
    talk::warn(&format!("{count} numbers of {weights} weights are too large for f16 and became ±65504"));
    for (name, clipped) in export.clipped.iter().take(TOLD) {
        talk::say(&format!("  {name}: {} numbers, the largest {:e}", clipped.count, clipped.largest));
    }
    if weights > TOLD {
        talk::say(&format!("  and {} more weights; --json lists them all", weights - TOLD));
    }
}

/// Says where the weights of a linked export are, and why not all of them are where they were.
fn tell_linked(export: &Exported) {
    for link in &export.links {
        talk::say(&format!("{} is a {} link to {}", link.name, link.kind.name(), link.target.display()));
    }
    for (why, tally) in &export.not_linked {
        let weights = if tally.weights == 1 { "1 weight".to_owned() } else { format!("{} weights", tally.weights) };
        talk::say(&format!("packed {weights}, {}: {why}", talk::megabytes(tally.bytes)));
    }
}
