//! All programs of the stand-in SDK in one: which one it is says the name by which it was started.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use qeff_standin::compiler::{self, Refused};
use qeff_standin::config::{Card, CardStatus, SimConfig};
use qeff_standin::log::Log;
use qeff_standin::{Built, sim_root, util};
use serde_json::json;

/// Lays out a stand-in for the Cloud AI 100 SDK, for tests of programs that use it.
#[derive(Debug, clap::Parser)]
#[command(name = "qeff-standin")]
struct Args {
    /// Folder to lay the SDK out in; it becomes the SDK's root.
    dir: PathBuf,
    /// Number of cards, four to a board.
    #[arg(long, default_value_t = 1)]
    cards: u16,
    /// Cores of each card.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=16))]
    cores: u8,
    /// Cards in error, by number.
    #[arg(long, value_delimiter = ',')]
    broken: Vec<i32>,
    /// A config to begin with, instead of the default one; see its documentation.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
fn main() -> ExitCode {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let program = Path::new(&program);
    let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // `ROOT/exec/tool`; QNN's are one folder deeper.
    let up = if matches!(name.as_str(), "qairt-converter" | "qnn-context-binary-generator") { 3 } else { 2 };
    let root = program.ancestors().nth(up).filter(|root| !root.as_os_str().is_empty());
    let arguments: Vec<String> = words.collect();
    let outcome = match name.as_str() {
        "qaic-compile" | "qaic-exec" | "qaic-util" | "qairt-converter" | "qnn-context-binary-generator" => {
            tool(&name, &arguments, root)
        }
        _ => lay_out(&Args::parse()).map_err(|error| Refused { code: 1, said: format!("error: {error:#}") }),
    };
    match outcome {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(refused) => {
            eprintln!("{refused}");
            ExitCode::from(refused.code)
        }
    }
}

fn tool(name: &str, arguments: &[String], root: Option<&Path>) -> Result<String, Refused> {
    let config = SimConfig::find(root)?;
    let log = Log::open(config.log_path(root));
    // Before it does anything: a tool that is ended was called, too.
    log.line(&json!({ "call": name, "arguments": arguments }));
    let outcome = match name {
        "qaic-util" => util::list(arguments, &config).map_err(|error| Refused { code: 1, said: error.to_string() }),
        "qairt-converter" => compiler::qnn::convert(arguments).map(|()| String::new()),
        "qnn-context-binary-generator" => compiler::qnn::generate(arguments, &config).map(|()| String::new()),
        _ => compiler::qaic(name, arguments, &config).map(|()| String::new()),
    };
    let code = outcome.as_ref().map_or_else(|refused| refused.code, |_| 0);
    log.line(&json!({ "ended": name, "code": code }));
    outcome
}

fn lay_out(args: &Args) -> anyhow::Result<String> {
    let mut config = match &args.config {
        Some(path) => serde_json::from_str(&std::fs::read_to_string(path)?)?,
        None => SimConfig { cards: Card::several(args.cards), ..SimConfig::default() },
    };
    for card in &mut config.cards {
        if args.config.is_none() {
            card.cores = args.cores;
        }
        if args.broken.contains(&card.qid) {
            card.status = CardStatus::Error;
        }
    }
    let built = Built::with_tool(&std::env::current_exe()?)?;
    let root = sim_root(&args.dir, &config, &built)?;
    Ok(format!("{}\n", root.dir.display()))
}
