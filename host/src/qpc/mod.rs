//! From a model or an ONNX file to a QPC that is kept: what is exported, what is compiled, and whether either is needed.
//!
//! ```text
//! program ─► plan ─► key ─► QPC there? ─yes─► done, no process started
//!                            └─no─► export there? ─no─► export ─► check room ─► compiler ─► manifest
//! ```

mod details;
mod error;
mod found;
mod room;
mod source;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;
use qeff_core::weights::Progress;
use serde_json::{Value as Json, json};

use crate::artifacts::{Artifact, ArtifactKind, Digests, Lock, Made, Slot, Waiting};
use crate::compile::sdk::cards::Card;
use crate::compile::sdk::{Compiler, QnnSdk, Sdk};
use crate::compile::{
    ChildError, Execution, Options, Places, Plan, PlannedFile, Program, QnnConfig, execute, hint, shell,
};

pub use error::{NoSdk, ToolFailure};
pub use found::{FoundQpc, KnownBy, qpc_file};
pub use source::Source;

/// What compiles.
#[derive(Debug, Clone)]
pub enum Toolchain {
    /// `qaic-compile` or `qaic-exec`.
    Aic {
        /// The compiler.
        compiler: Compiler,
        /// The SDK it belongs to; `None` if it is assumed.
        sdk: Option<Sdk>,
    },
    /// The tools of QNN.
    Qnn {
        /// The SDK.
        sdk: QnnSdk,
        /// What the user's file adds.
        config: QnnConfig,
        /// Whether the SDK is there, or assumed.
        found: bool,
    },
}

impl Toolchain {
    /// Whether its programs are there.
    pub fn is_found(&self) -> bool {
        match self {
            Toolchain::Aic { sdk, .. } => sdk.is_some(),
            Toolchain::Qnn { found, .. } => *found,
        }
    }

    /// In a few words.
    pub fn name(&self) -> String {
        let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "of unknown version".into());
        match self {
            Toolchain::Aic { compiler, sdk: Some(sdk) } => {
                format!("{}, SDK {}", compiler.tool.name(), version(&sdk.apps_version))
            }
            Toolchain::Aic { compiler, sdk: None } => format!("{}, assumed", compiler.tool.name()),
            Toolchain::Qnn { sdk, .. } => format!("QNN SDK {}", version(&sdk.version)),
        }
    }

    /// What of it decides a QPC: the programs themselves, not where they lie.
    fn inputs(&self, digests: &Digests) -> Result<Json> {
        let digest = |path: &Path| digests.content(path, &|_| {});
        Ok(match self {
            Toolchain::Aic { compiler, sdk } => {
                let digest = if sdk.is_some() { Some(digest(&compiler.path)?) } else { None };
                let versions = sdk.as_ref().map(|sdk| (&sdk.apps_version, &sdk.platform_version));
                json!({
                    "tool": compiler.tool.name(),
                    "apps_version": versions.map(|(apps, _)| apps),
                    "platform_version": versions.map(|(_, platform)| platform),
                    "sha256": digest,
                })
            }
            Toolchain::Qnn { sdk, found, .. } => {
                let tools = [sdk.converter(), sdk.generator()];
                let tools =
                    if *found { tools.iter().map(|tool| digest(tool)).collect::<Result<Vec<_>>>()? } else { vec![] };
                json!({ "tool": "qnn", "version": sdk.version, "sha256": tools })
            }
        })
    }

    fn plan(&self, program: &Program, options: &Options, places: &Places) -> Result<Plan> {
        match self {
            Toolchain::Aic { compiler, .. } => Plan::qaic(program, options, compiler, places),
            Toolchain::Qnn { sdk, config, .. } => Plan::qnn(program, options, config, sdk, places),
        }
    }

    /// The same with an SDK at no particular place, for the key.
    fn anywhere(&self) -> Self {
        let mut toolchain = self.clone();
        match &mut toolchain {
            Toolchain::Aic { compiler, .. } => compiler.path = compiler.tool.name().into(),
            Toolchain::Qnn { sdk, .. } => sdk.root = "SDK".into(),
        }
        toolchain
    }
}

/// Where artifacts go.
#[derive(Debug, Clone)]
pub struct Stores {
    /// Root of everything that is kept.
    pub root: PathBuf,
    /// Where QPCs go instead, if the user says.
    pub compile_dir: Option<PathBuf>,
}

impl Stores {
    /// Digests of files that were computed before.
    pub fn digests(&self) -> Digests {
        Digests::new(self.root.join("digests"))
    }
}

/// Told what goes on.
pub struct Watch<'a> {
    /// Somebody else is at it.
    pub waiting: &'a dyn Fn(Waiting),
    /// Weights are written.
    pub weights: &'a (dyn Fn(Progress) + Sync),
    /// A command begins.
    pub command: &'a dyn Fn(&str),
    /// The compiler says something.
    pub line: &'a dyn Fn(&str),
}

/// How to make it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Making {
    /// Make it even if it is there.
    pub force: bool,
    /// When a command is ended.
    pub timeout: Option<Duration>,
    /// Bytes for converting weights.
    pub memory_budget: usize,
}

/// One program to compile, with everything decided.
pub struct Job<'a> {
    /// The program.
    pub program: Program,
    /// Where it comes from.
    pub source: Source<'a>,
    /// The options it is compiled with.
    pub options: Options,
    /// The tools.
    pub toolchain: Toolchain,
    /// Commands and files at their places.
    pub plan: Plan,
    export: Option<Slot>,
    qpc: Slot,
}

impl<'a> Job<'a> {
    /// Decides everything.
    ///
    /// # Errors
    /// If what was asked for cannot be, or a file cannot be read.
    pub fn new(
        (program, source): (Program, Source<'a>),
        options: &Options,
        toolchain: &Toolchain,
        stores: &Stores,
        digests: &Digests,
        read: &dyn Fn(u64),
    ) -> Result<Self> {
        // What can be wrong is said before weights are read.
        let symbolic = toolchain.anywhere().plan(&program, options, &Places::symbolic())?;
        let made_from = source.inputs(digests, read)?;
        let folder = source::folder_name(&program.stem);
        let parent = stores.root.join(&folder);
        let export = match &source {
            Source::Lowered { .. } => {
                Some(Slot::new(&parent, ArtifactKind::Export, &folder, json!({ "program": made_from })))
            }
            Source::File { .. } => None,
        };
        let inputs = json!({
            "program": made_from,
            "toolchain": toolchain.inputs(digests)?,
            "plan": symbolic.key(),
            "files_passed_through": passed_through(options, digests)?,
        });
        let qpc_parent = stores.compile_dir.as_deref().unwrap_or(&parent);
        let qpc_parent = std::path::absolute(qpc_parent)?;
        let qpc = Slot::new(&qpc_parent, ArtifactKind::Qpc, &folder, inputs);
        let model = match (&export, &source) {
            (Some(export), _) => export.dir.join(format!("{}.onnx", program.stem)),
            (None, Source::File { path, .. }) => std::path::absolute(path)?,
            (None, Source::Lowered { .. }) => bail!("a lowered program is exported before it is compiled"),
        };
        let places = Places { model, artifact: qpc.dir.clone() };
        let plan = toolchain.plan(&program, options, &places)?;
        Ok(Job { program, source, options: options.clone(), toolchain: toolchain.clone(), plan, export, qpc })
    }

    /// The artifact, if it was made before.
    pub fn find(&self) -> Option<Artifact> {
        self.qpc.find()
    }

    /// Folder of the artifact, whether it is there or not.
    pub fn dir(&self) -> &Path {
        &self.qpc.dir
    }

    /// The artifact, made now if it is not there.
    ///
    /// # Errors
    /// If there is no SDK, something does not fit, or a tool fails ([`ToolFailure`]).
    pub fn make(&self, making: Making, cards: &[Card], watch: &Watch<'_>) -> Result<Artifact> {
        if let Some(found) = self.find().filter(|_| !making.force) {
            return Ok(found);
        }
        if !self.toolchain.is_found() {
            return Err(NoSdk { qnn: matches!(self.toolchain, Toolchain::Qnn { .. }) }.into());
        }
        room::check(self, cards)?;
        if let Some(slot) = &self.export {
            let mut waiting = |why| (watch.waiting)(why);
            slot.obtain(false, &mut waiting, |dir, _| self.source.export(&self.program.stem, dir, making, watch))
                .with_context(|| format!("cannot export to {}", slot.dir.display()))?;
        }
        let mut waiting = |why| (watch.waiting)(why);
        self.qpc.obtain(making.force, &mut waiting, |dir, lock| self.compile(dir, lock, making, watch))
    }

    fn compile(&self, dir: &Path, lock: &Lock, making: Making, watch: &Watch<'_>) -> Result<Made> {
        for PlannedFile { name, content } in &self.plan.files {
            fs::write(dir.join(name), content)?;
        }
        let mut commands = vec![];
        let last = self.plan.commands.len() - 1;
        for (i, command) in self.plan.commands.iter().enumerate() {
            let argv = command.argv();
            let log = dir.join(format!("{}.log", command.tool()));
            (watch.command)(&shell(&argv));
            let outcome = execute(Execution {
                argv: &argv,
                log: &log,
                stdin: Some(lock.file()?),
                timeout: making.timeout,
                // Best effort: without the note, whoever comes next waits for an orphan instead of ending it.
                started: &|pid| drop(lock.note(Some(pid))),
                line: watch.line,
            });
            let outcome = outcome.and_then(|()| if i == last { has_result(dir, command.tool()) } else { Ok(()) });
            if let Err(error) = outcome {
                // The files and the log stay, so that the command can be repeated by hand; the tools want no output there.
                let _ = std::fs::remove_dir_all(dir.join("qpc"));
                if matches!(error, ChildError::Interrupted) {
                    return Err(error.into());
                }
                let advice = hint(&error.tail().join("\n")).or_else(|| hint(&error.to_string()));
                return Err(ToolFailure {
                    error,
                    command: shell(&argv),
                    toolchain: self.toolchain.name(),
                    log,
                    advice,
                }
                .into());
            }
            commands.push(argv);
        }
        Ok(Made { commands, details: details::of(self)? })
    }
}

/// A tool that ends well but leaves nothing has failed.
fn has_result(dir: &Path, program: &str) -> Result<(), ChildError> {
    let qpc = dir.join("qpc/programqpc.bin");
    if std::fs::metadata(&qpc).is_ok_and(|meta| meta.is_file() && meta.len() > 0) {
        return Ok(());
    }
    let status = format!("exit code 0, but it left no {}", qpc.display());
    Err(ChildError::Failed { program: program.to_owned(), status, tail: vec![] })
}

/// Digests of files that flags after `--` name as something to read.
fn passed_through(options: &Options, digests: &Digests) -> Result<Json> {
    let mut files = serde_json::Map::new();
    for flag in &options.pass_through {
        let Some((name, value)) = flag.split_once('=') else { continue };
        let path = Path::new(value);
        // What is dumped is written, not read.
        if !name.contains("dump") && path.is_file() {
            files.insert(name.to_owned(), json!(digests.content(path, &|_| {})?));
        }
    }
    Ok(Json::Object(files))
}
