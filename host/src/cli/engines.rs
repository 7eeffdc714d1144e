//! `engines`: what executes on the CPU.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value as Json, json};

use super::talk;
use crate::engines::{self, Choice, RTEN_VERSION, Selected, VERSION, Wheel};

/// Flags that choose an engine.
#[derive(Debug, clap::Args)]
pub(crate) struct EngineArgs {
    /// What executes: rten is built in, ort is ONNX Runtime, auto is ort if it is installed or named and else rten
    /// [default: rten, or ort with --ort-library].
    #[arg(long, value_enum)]
    engine: Option<EngineArg>,
    /// The ONNX Runtime library to use [default: $ORT_DYLIB_PATH, else what `engines install ort` has installed].
    #[arg(long, value_name = "FILE")]
    ort_library: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EngineArg {
    Rten,
    Ort,
    Auto,
}

impl EngineArgs {
    /// The engine that is meant.
    pub(crate) fn select(&self) -> Result<Selected> {
        let named = self.ort_library.is_some();
        let choice = match self.engine.unwrap_or(if named { EngineArg::Ort } else { EngineArg::Rten }) {
            EngineArg::Rten if named => {
                anyhow::bail!("--engine rten has no use for --ort-library; leave one of them out")
            }
            EngineArg::Rten => Choice::Rten,
            EngineArg::Ort => Choice::Ort,
            EngineArg::Auto => Choice::Auto,
        };
        Ok(engines::select(choice, self.ort_library.as_deref())?)
    }
}

/// Flags of `engines`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show which engines there are.
    List {
        /// Print one JSON document instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Install an engine into the cache; prints the path of its library.
    Install {
        /// The engine.
        #[arg(value_enum)]
        engine: Installable,
        /// Take it from this wheel (.whl) of the Python package onnxruntime instead of downloading one.
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Interpreter whose pip downloads the wheel.
        #[arg(long, value_name = "PROGRAM", default_value = "python3", conflicts_with = "from")]
        python: PathBuf,
        /// Print one JSON document instead of the path.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Installable {
    /// ONNX Runtime.
    Ort,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.verb {
        Verb::List { json } => list(*json),
        Verb::Install { engine: Installable::Ort, from, python, json } => {
            let wheel = match from {
                Some(path) => Wheel::File(path.clone()),
                None => Wheel::Pip { python: python.clone() },
            };
            if matches!(wheel, Wheel::Pip { .. }) {
                talk::say(&format!("installing ONNX Runtime {VERSION}; pip downloads some 24 MB unless it is there"));
            }
            let installed = engines::install(&wheel)?;
            if *json {
                return talk::json(&json!({
                    "engine": "ort",
                    "version": VERSION,
                    "path": installed.path,
                    "was_present": installed.present,
                }));
            }
            talk::say(if installed.present { "it is installed already" } else { "installed" });
            talk::data(&format!("{}\n", installed.path.display()))
        }
    }
}

fn list(json: bool) -> Result<()> {
    let located = engines::locate(None);
    let checked = located.as_ref().map(engines::check);
    if json {
        let mut ort = json!({ "name": "ort", "version": null, "path": null, "origin": null, "usable": false });
        if let (Some(located), Some(checked)) = (&located, &checked) {
            ort["path"] = json!(located.path);
            ort["origin"] = json!(located.origin.name());
            ort["usable"] = json!(checked.is_ok());
            match checked {
                Ok(version) => ort["version"] = json!(version),
                Err(error) => ort["error"] = Json::String(error.to_string()),
            }
        }
        let rten =
            json!({ "name": "rten", "version": RTEN_VERSION, "path": null, "origin": "built in", "usable": true });
        return talk::json(&json!({ "engines": [rten, ort] }));
    }
    let mut text = format!("rten {RTEN_VERSION} (built in)\n");
    text.push_str(&match (&located, &checked) {
        (Some(located), Some(Ok(version))) => {
            let version = version.as_deref().unwrap_or("of an unknown version");
            format!("ort {version} ({}): {}\n", located.origin.name(), located.path.display())
        }
        (_, Some(Err(error))) => format!("ort cannot be used: {error}\n"),
        _ => "ort is not there; `qeff-host engines install ort` installs it\n".into(),
    });
    talk::data(&text)
}
