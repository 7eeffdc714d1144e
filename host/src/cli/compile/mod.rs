//! `compile`: a program for cards, from a checkpoint or an ONNX file.

pub(crate) mod args;
mod show;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use qeff_core::lower::{self, Target};
use qeff_core::passes::{self, Features};
use qeff_core::weights::Facets;
use qeff_plugin_api::graph::Task;
use serde_json::json;

use self::args::{CardArgs, Found, ShapeArgs, stores};
use super::forms::FormArgs;
use super::{ModelArgs, pooling, talk};
use crate::artifacts::{Artifact, Digests, Waiting};
use crate::checkpoint::Checkpoint;
use crate::compile::{Options, Program, Shape};
use crate::describe::Described;
use crate::forms::WeightForms;
use crate::prepare::{self, Prepared};
use crate::qpc::{Job, Making, Source, Stores, Watch};
use crate::vision::{Size, sizes};

/// Flags of `compile`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of a checkpoint (config.json and safetensors files), or a .gguf file.
    #[arg(long, value_name = "PATH", visible_alias = "model-name", alias = "local-model-dir")]
    #[arg(required_unless_present = "onnx_path", conflicts_with = "onnx_path")]
    model: Option<PathBuf>,
    /// An exported model instead of a checkpoint.
    #[arg(long, value_name = "FILE")]
    onnx_path: Option<PathBuf>,
    /// Plugin to describe the model: the name of one, or a file to load.
    #[arg(long, value_name = "NAME|PATH", conflicts_with = "onnx_path")]
    plugin: Option<String>,
    #[command(flatten)]
    loading: super::loading::LoadingArgs,
    /// Rewrite of a plugin to apply to the description, NAME or PLUGIN:NAME; may be repeated, and is done in this order.
    #[arg(long, value_name = "NAME", conflicts_with = "onnx_path")]
    rewrite: Vec<String>,
    /// Refuse config fields that nothing reads and tensors that nothing uses.
    #[arg(long, conflicts_with = "onnx_path")]
    strict: bool,
    /// Of a text encoder, one vector a text: mean, max, cls, last or another head, as for `embed`.
    #[arg(long, value_name = "HEAD", conflicts_with = "onnx_path")]
    pooling: Option<String>,
    #[command(flatten)]
    forms: FormArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Height and width of the images that a model of any resolution is to see; repeat the flag for several, each of which
    /// gets a vision program of its own [default: 1109x1610].
    #[arg(long, value_name = "HxW", conflicts_with = "onnx_path", help_heading = "Sizes")]
    image_size: Vec<Size>,
    /// One program that looks at images with every call, instead of a vision and a language program.
    #[arg(long, conflicts_with = "onnx_path", help_heading = "Sizes")]
    single_qpc: bool,
    #[command(flatten)]
    cards: CardArgs,
    /// Folder for the compiled program, instead of the cache.
    #[arg(long, value_name = "DIR", visible_alias = "qpc-path", help_heading = "What is done")]
    compile_dir: Option<PathBuf>,
    /// Compile even if it was done before.
    #[arg(long, help_heading = "What is done")]
    force: bool,
    /// Only show commands and files; no SDK is needed.
    #[arg(long, help_heading = "What is done")]
    dry_run: bool,
    /// Only show where each argument of the commands comes from.
    #[arg(long, help_heading = "What is done")]
    explain: bool,
    /// Memory for converting weights, in MB.
    #[arg(long, value_name = "MB", default_value_t = DEFAULT_BUDGET, value_parser = clap::value_parser!(u32).range(8..))]
    #[arg(help_heading = "What is done")]
    memory_budget: u32,
    /// Print one JSON document instead of text.
    #[arg(long, help_heading = "What is done")]
    json: bool,
    /// More flags for the compiler, as it spells them: -name or -name=value.
    #[arg(last = true, value_name = "COMPILER FLAGS", allow_hyphen_values = true)]
    pass_through: Vec<String>,
}

/// Memory for converting weights where the user does not say, in MB.
pub(crate) const DEFAULT_BUDGET: u32 = 128;

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let shape = args.shape.shape()?;
    let Found { toolchain, cards } = args.cards.find()?;
    let mut options = args.cards.options(shape, &cards, &args.pass_through)?;
    let stores = stores(args.compile_dir.as_deref())?;
    let shown = args.dry_run || args.explain;
    // A dry run leaves no trace, and does not read a large checkpoint for the sake of a folder's name.
    let digests = if shown { Digests::hurried(stores.root.join("digests")) } else { stores.digests() };

    let forms = args.forms.forms(Target::Aic)?;
    if args.onnx_path.is_some() && forms != WeightForms::default() {
        bail!("--quantized is about the weights of a checkpoint: an ONNX file has them as they are; leave it out");
    }
    let (checkpoint, quantised, facets, prepared);
    let programs = match (&args.onnx_path, &args.model) {
        (Some(path), _) => vec![Source::of_file(path)?],
        (None, Some(path)) => {
            let mut described;
            (checkpoint, described) = open(path, args)?;
            let seen = sizes::fix(&mut described.model, &checkpoint, &args.image_size)?;
            sizes::shape(&mut options.shape, &seen);
            if args.single_qpc {
                passes::join(&mut described.model)?;
            }
            (quantised, _) = forms.quantised(&mut described.model, &checkpoint.weights)?;
            facets = forms.facets(&quantised);
            options.shape = options.shape.fitted(&described.model);
            prepared = prepare_for_cards(described, &facets, &options.shape, Target::Aic.into())?;
            let mut programs = Source::of_model(&prepared, &facets, &checkpoint.weights)?;
            let named = prepared.model.programs.iter().map(|program| program.name.as_str());
            let mut named: Vec<_> = named.zip(programs.iter_mut().map(|(program, _)| program)).collect();
            sizes::number(&mut named, &seen);
            programs
        }
        (None, None) => bail!("expected --model or --onnx-path"),
    };
    let all_read = programs.iter().flat_map(|(_, source)| source.files()).all(|file| digests.reads(file));
    if shown && !all_read {
        talk::say("the weights were not read, so the names of folders are not final");
    }
    let jobs = jobs(programs, &options, &toolchain, &stores, &digests)?;
    if args.explain {
        return show::explanation(&jobs, args.json);
    }
    if args.dry_run {
        return show::dry_run(&jobs, args.json);
    }
    let making = Making {
        force: args.force,
        timeout: args.cards.timeout(),
        memory_budget: args.memory_budget as usize * 1_000_000,
    };
    let made = jobs.iter().map(|job| make(job, making, &cards)).collect::<Result<Vec<_>>>()?;
    if args.json {
        return talk::json(&json!({
            "qpc": made.iter().map(|artifact| artifact.dir.join("qpc")).collect::<Vec<_>>(),
            "compiled": made.iter().map(|artifact| artifact.fresh).collect::<Vec<_>>(),
            "manifests": made.iter().map(|artifact| &artifact.manifest).collect::<Vec<_>>(),
            "seconds": started.elapsed().as_secs_f64(),
            "peak_memory_bytes": talk::peak_memory(),
        }));
    }
    made.iter().try_for_each(|artifact| talk::data(&format!("{}\n", artifact.dir.join("qpc").display())))
}

/// The checkpoint that the user means, described.
fn open(path: &std::path::Path, args: &Args) -> Result<(Checkpoint, Described)> {
    if args.cards.sub_functions() {
        bail!(
            "--use-onnx-subfunctions: our exports have no function for each layer yet, so there is nothing to share; leave it \
             out, or give an ONNX file that has them with --onnx-path"
        );
    }
    let model = ModelArgs {
        model: path.to_owned(),
        plugin: args.plugin.clone(),
        loading: args.loading,
        rewrite: args.rewrite.clone(),
        strict: args.strict,
    };
    let (checkpoint, described) = pooling::described(&model, args.pooling.as_deref())?;
    talk::warnings(&described.warnings);
    if !args.json {
        talk::notes(&described.notes);
    }
    Ok((checkpoint, described))
}

/// The passes that the sizes ask for, and the graph for AI 100.
pub(crate) fn prepare_for_cards(
    described: Described,
    facets: &Facets<'_>,
    shape: &Shape,
    how: lower::Options<'_>,
) -> Result<Prepared> {
    // Whole texts have no context; context lengths that are chosen for the user round it up.
    let (reach, flag) = match described.model.task {
        Task::Encoder | Task::SequenceClassification => (shape.longest_text(), "--seq-len"),
        _ => (shape.positions(), "--ctx-len"),
    };
    prepare::check_reach(&described.model, reach).with_context(|| format!("{flag} is too large"))?;
    let features = Features {
        context: shape.ccl.is_some(),
        last_k: !shape.speculative_tokens.is_empty(),
        batching: shape.full_batch_size.is_some(),
        reach,
        ..Features::default()
    };
    let prepared = prepare::prepare(described.model, facets, &features, how)?;
    prepared.reports.iter().for_each(|report| talk::warnings(&report.warnings));
    Ok(prepared)
}

/// Decides everything about each program; a bar shows weights being read.
pub(crate) fn jobs<'a>(
    programs: Vec<(Program, Source<'a>)>,
    options: &Options,
    toolchain: &crate::qpc::Toolchain,
    stores: &Stores,
    digests: &Digests,
) -> Result<Vec<Job<'a>>> {
    let files = programs.iter().flat_map(|(_, source)| source.files());
    let bytes = files.filter(|file| digests.reads(file)).map(|file| digests.unread_bytes(file)).sum();
    let bar = talk::bytes_bar("reading weights", bytes);
    let read = |n| bar.inc(n);
    let jobs =
        programs.into_iter().map(|program| Job::new(program, options, toolchain, stores, digests, &read)).collect();
    bar.finish_and_clear();
    jobs
}

/// Makes a program, or finds it, and says so.
pub(crate) fn make(job: &Job<'_>, making: Making, cards: &[crate::compile::sdk::cards::Card]) -> Result<Artifact> {
    let name = &job.program.stem;
    let weights = talk::bytes_bar("writing weights", 0);
    let compiling = talk::spinner();
    let watch = Watch {
        waiting: &|why| talk::say(&waiting(name, why)),
        weights: &|progress| {
            weights.set_length(progress.total_bytes);
            weights.set_position(progress.done_bytes);
        },
        command: &|command| {
            weights.finish_and_clear();
            talk::say(&format!("{name}: {command}"));
            compiling.set_message(format!("compiling {name}"));
            compiling.enable_steady_tick(std::time::Duration::from_millis(200));
        },
        line: &|line| compiling.suspend(|| talk::say(&format!("  | {line}"))),
    };
    let started = Instant::now();
    let artifact = job.make(making, cards, &watch);
    weights.finish_and_clear();
    compiling.finish_and_clear();
    let artifact = artifact?;
    if artifact.fresh {
        let bytes = talk::megabytes(artifact.manifest.bytes());
        talk::say(&format!("{name}: compiled in {}, {bytes}", talk::seconds(started.elapsed())));
    } else {
        let manifest = &artifact.manifest;
        talk::say(&format!(
            "{name}: compiled before, on {} in {:.1} s; nothing to do (--force compiles again)",
            manifest.created, manifest.seconds
        ));
    }
    Ok(artifact)
}

fn waiting(name: &str, why: Waiting) -> String {
    match why {
        Waiting::Maker { pid: Some(pid) } => format!("{name}: process {pid} is making it; waiting"),
        Waiting::Maker { pid: None } => format!("{name}: another process is making it; waiting"),
        Waiting::Orphan { pid } => {
            format!("{name}: ended compiler {pid}, which somebody who was killed had left behind")
        }
    }
}
