//! The command line: what was typed becomes what is meant, once, here.
//!
//! stdout is data, stderr is talk. Exit codes: 0 done, 1 the user's input, 2 our mistake, 3 an external tool or device.

mod cache;
mod compile;
mod devices;
mod doctor;
mod engines;
mod execute;
mod executor;
mod export;
mod forms;
mod inspect;
mod loading;
mod on_cards;
mod plugins;
mod pooling;
mod prompts;
mod run;
mod speech;
mod talk;
mod texts;
mod transcribe;

use std::ffi::OsString;
use std::panic::{self, UnwindSafe};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use qeff_core::validate::Findings;

use crate::checkpoint::Checkpoint;
use crate::compile::ChildError;
use crate::describe::{DescribeOptions, Described, describe};
use crate::engines::InstallError;
use crate::generate::GenerateError;
use crate::plugins::{PluginsError, Registry, worker};
use crate::qpc::{NoSdk, ToolFailure};
use crate::runtime::RuntimeError;
use crate::runtime::qaic::QaicError;

/// Describe, export and run transformer models on Qualcomm Cloud AI 100, or on the CPU.
#[derive(Debug, Parser)]
#[command(
    name = "qeff-host",
    bin_name = "qeff-host",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Generate text with a model.
    #[command(visible_alias = "infer")]
    Run(Box<run::Args>),
    /// Make vectors of texts.
    Embed(Box<texts::embed::Args>),
    /// Tell classes of texts, or score pairs of them.
    Classify(Box<texts::classify::Args>),
    /// Write down what is said in recordings.
    Transcribe(Box<transcribe::Args>),
    /// Write a model as ONNX for a target.
    Export(export::Args),
    /// Compile a model for AI 100.
    Compile(Box<compile::Args>),
    /// Generate text with a compiled program, on cards.
    Execute(Box<execute::Args>),
    /// Show what a checkpoint is and how it is described, or what a compiled program takes and gives.
    Inspect(inspect::Args),
    /// Show or install what executes on the CPU.
    Engines(engines::Args),
    /// Show the plugins that describe models.
    Plugins(plugins::Args),
    /// Show or throw away what is kept: exports and compiled programs.
    Cache(cache::Args),
    /// Show the cards of this machine, and what is free of them.
    Devices(devices::Args),
    /// Show which SDKs and cards are here, and what follows.
    Doctor(doctor::Args),
    /// Hold one plugin, for the process that starts this one.
    #[command(hide = true)]
    PluginWorker,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The flags that say which model is meant, and how it is described.
#[derive(Debug, clap::Args)]
// clap leaves the group of a struct empty that has others flattened into it, and then `Option<ModelArgs>` is always `None`.
#[group(args = ["model"])]
pub(crate) struct ModelArgs {
    /// Folder of a checkpoint (config.json and safetensors files), or a .gguf file.
    #[arg(long, value_name = "PATH", visible_alias = "model-name", alias = "local-model-dir")]
    pub(crate) model: std::path::PathBuf,
    /// Plugin to describe the model: the name of one, or a file to load.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) plugin: Option<String>,
    #[command(flatten)]
    pub(crate) loading: loading::LoadingArgs,
    /// Rewrite of a plugin to apply to the description, NAME or PLUGIN:NAME; may be repeated, and is done in this order.
    #[arg(long, value_name = "NAME")]
    pub(crate) rewrite: Vec<String>,
    /// Refuse config fields that nothing reads and tensors that nothing uses.
    #[arg(long)]
    pub(crate) strict: bool,
}

impl ModelArgs {
    /// Opens the checkpoint, with the plugins that may read and describe it, and has it described.
    pub(crate) fn describe(&self) -> Result<(Checkpoint, Described)> {
        let registry = self.registry()?;
        let opened = Checkpoint::open_with(&self.model, registry.formats()).and_then(|checkpoint| {
            let described = self.describe_with(&checkpoint, &registry)?;
            Ok((checkpoint, described))
        });
        loading::say_remarks(&registry);
        opened
    }

    /// Has an opened checkpoint described.
    pub(crate) fn describe_with(&self, checkpoint: &Checkpoint, registry: &Registry) -> Result<Described> {
        // A plugin may be named for its rewrites or its weight format alone; anybody may describe the model then.
        let plugin = self.plugin.as_deref().filter(|choice| registry.has_architectures(choice));
        let options = DescribeOptions { plugin, strict: self.strict, rewrites: &self.rewrite };
        describe(checkpoint, registry, options)
    }

    /// Every plugin that is built in, found or chosen.
    pub(crate) fn registry(&self) -> Result<Registry> {
        let mut registry = self.loading.registry()?;
        if let Some(choice) = &self.plugin {
            let chosen = registry.choose(choice);
            loading::say_remarks(&registry);
            chosen?;
        }
        Ok(registry)
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    report_file_limits();
    guarded(|| execute(std::env::args_os()))
}

/// A panic is our mistake, whatever brought it about; the default code would be taken for something else.
fn guarded(run: impl FnOnce() -> ExitCode + UnwindSafe) -> ExitCode {
    match panic::catch_unwind(run) {
        Ok(code) => code,
        Err(_) => {
            talk::say("this is a bug in qeff-host; please report it with the command and the message above");
            ExitCode::from(2)
        }
    }
}

/// A write past the limit of file sizes (`ulimit -f`) shall be an error like a full disk. By default the system kills the
/// process instead, which leaves neither a word nor a tidy folder.
fn report_file_limits() {
    #[cfg(unix)]
    {
        // Any handler will do: with one, the write fails.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::<AtomicBool>::default());
    }
}

fn execute(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = with_dashes(args);
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::InvalidUtf8 => {
            let odd: Vec<_> = args.iter().filter(|arg| arg.to_str().is_none()).map(|arg| format!("{arg:?}")).collect();
            talk::error(&anyhow::anyhow!(
                "not UTF-8: {}; everything but paths has to be UTF-8: convert it, or give prompts in a file with \
                 --prompts-txt-file-path",
                odd.join(", ")
            ));
            return ExitCode::from(1);
        }
        Err(error) => {
            // Help and version are answers; anything else that clap says is about the user's input.
            let code = if error.use_stderr() { 1 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let result = match cli.verb {
        Verb::Run(args) => run::run(&args),
        Verb::Embed(args) => texts::embed::run(&args),
        Verb::Classify(args) => texts::classify::run(&args),
        Verb::Transcribe(args) => transcribe::run(&args),
        Verb::Export(args) => export::run(&args),
        Verb::Compile(args) => compile::run(&args),
        Verb::Cache(args) => cache::run(&args),
        Verb::Devices(args) => devices::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Execute(args) => execute::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Engines(args) => engines::run(&args),
        Verb::Plugins(args) => plugins::run(&args),
        Verb::PluginWorker => worker::serve().map_err(Into::into),
        Verb::Completions { shell } => {
            let mut script = vec![];
            clap_complete::generate(shell, &mut Cli::command(), "qeff-host", &mut script);
            talk::data(&String::from_utf8_lossy(&script))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            talk::error(&error);
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Flags whose value is text of the user's, whatever it begins with.
const TEXT_FLAGS: &[&str] = &["--initial-prompt", "--prompt", "--query", "--stop", "--system", "--text-pair"];

/// Flags may be spelled with `_` as the reference spells some of them: `--ctx_len` is `--ctx-len`.
fn with_dashes(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let (mut flags, mut is_text) = (true, false);
    args.into_iter()
        .map(|arg| {
            let Some(text) = arg.to_str().filter(|_| !is_text) else {
                is_text = false;
                return arg;
            };
            flags &= text != "--";
            is_text = flags && TEXT_FLAGS.contains(&text);
            match text.strip_prefix("--") {
                Some(rest) if flags && !rest.contains(char::is_whitespace) => {
                    let (name, value) = match rest.split_once('=') {
                        Some((name, value)) => (name, Some(value)),
                        None => (rest, None),
                    };
                    let name = name.replace('_', "-");
                    match value {
                        Some(value) => format!("--{name}={value}").into(),
                        None => format!("--{name}").into(),
                    }
                }
                _ => arg,
            }
        })
        .collect()
}

/// 2 if the engine, a plugin or a pass failed at what it has to be able to do, 3 if a tool that is not ours did, else 1: the
/// user's input. Ctrl-C has the code that shells give it.
fn exit_code(error: &anyhow::Error) -> u8 {
    if matches!(error.downcast_ref(), Some(ChildError::Interrupted)) {
        return 130;
    }
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(InstallError::is_external)) {
        return 3;
    }
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(PluginsError::is_external)) {
        return 3;
    }
    if error.is::<ToolFailure>() || error.is::<NoSdk>() || error.is::<doctor::NotAccepted>() {
        return 3;
    }
    let of_cards = |error: &anyhow::Error| {
        error.chain().any(|cause| {
            cause.downcast_ref().is_some_and(QaicError::is_external)
                || cause.downcast_ref().is_some_and(RuntimeError::is_of_cards)
                || matches!(cause.downcast_ref(), Some(GenerateError::Runtime(error)) if error.is_of_cards())
        })
    };
    if of_cards(error) {
        return 3;
    }
    // What does not fit a compiled program is the user's choice of it.
    let engine = |error: &RuntimeError| !matches!(error, RuntimeError::Full { .. } | RuntimeError::Cards(_));
    let internal = error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(engine)
            || matches!(cause.downcast_ref(), Some(GenerateError::Runtime(error)) if engine(error))
            || cause.downcast_ref().is_some_and(|error: &PluginsError| !error.is_user_input())
    });
    // An invalid model, whoever made it so; anyhow finds it as a context, too.
    if internal || error.downcast_ref::<Findings>().is_some() { 2 } else { 1 }
}

/// A reader that closed its end has what it wanted.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exit_codes_tell_whose_mistake_it_is() {
        let engine = || RuntimeError::Run { engine: "test", why: "no reason".into() };
        let full = RuntimeError::Full { position: 3, context: 3 };
        let cases = [
            (anyhow::anyhow!("no such file"), 1),
            (GenerateError::EmptyPrompt(0).into(), 1),
            (GenerateError::Runtime(full).into(), 1),
            (anyhow::Error::new(engine()).context("cannot run"), 2),
            (anyhow::Error::new(GenerateError::Runtime(engine())).context("cannot generate"), 2),
            (InstallError::Pip { said: "no network".into() }.into(), 3),
            (InstallError::Platform.into(), 1),
            (anyhow::Error::new(Findings(vec![])).context("a pass left the model invalid"), 2),
            (NoSdk { qnn: false }.into(), 3),
            (ChildError::Interrupted.into(), 130),
            (QaicError::NotReady { card: 0, why: "is in error".into() }.into(), 3),
            (
                anyhow::Error::new(RuntimeError::Cards(QaicError::Unfit("too few cards".into()))).context("cannot run"),
                1,
            ),
            (GenerateError::Runtime(QaicError::GivenUp { on: "card 0".into() }.into()).into(), 3),
        ];
        for (error, code) in cases {
            assert_eq!(exit_code(&error), code, "{error:#}");
        }
    }

    #[test]
    fn a_panic_is_our_mistake() {
        assert_eq!(format!("{:?}", guarded(|| panic!("on purpose"))), format!("{:?}", ExitCode::from(2)));
    }

    #[test]
    fn a_closed_pipe_is_found_whatever_was_said_about_it() {
        let error = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let error = GenerateError::Observer(anyhow::Error::new(error).context("cannot write to stdout"));
        assert!(is_broken_pipe(&error.into()));
    }

    #[test]
    fn underscores_are_dashes_in_flags_only() {
        let args = ["q", "--ctx_len=1_0", "--prompt", "--a_b", "--stop=--c_d", "--k_v", "--", "--x_y"];
        let expected = ["q", "--ctx-len=1_0", "--prompt", "--a_b", "--stop=--c_d", "--k-v", "--", "--x_y"];
        let (args, expected) = (args.map(OsString::from), expected.map(OsString::from));
        assert_eq!(with_dashes(args), expected);
    }
}
