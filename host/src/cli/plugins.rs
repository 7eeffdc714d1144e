//! `plugins`: what describes models.

mod check;
mod new;

use anyhow::Result;
use serde_json::json;

use super::talk;
use crate::plugins::Registry;

/// Flags of `plugins`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List plugins and what they contribute.
    List {
        /// Print one JSON document instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Write a crate for a new plugin, with a tiny checkpoint and tests.
    New(new::Args),
    /// Check that a built plugin keeps what it has to.
    Check(check::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.verb {
        Verb::List { json } => list(*json),
        Verb::New(args) => new::run(args),
        Verb::Check(args) => check::run(args),
    }
}

fn list(json: bool) -> Result<()> {
    let listed = Registry::builtin().list();
    if json {
        return talk::json(&json!({ "plugins": listed }));
    }
    let mut text = String::new();
    for plugin in listed {
        text.push_str(&format!("{} {} ({})\n", plugin.name, plugin.version, plugin.source));
        let kinds = [
            ("architectures", plugin.architectures),
            ("pooling heads", plugin.pooling),
            ("rewrites", plugin.rewrites),
            ("weight formats", plugin.formats),
        ];
        for (kind, names) in kinds.into_iter().filter(|(_, names)| !names.is_empty()) {
            text.push_str(&format!("  {kind}: {}\n", names.join(", ")));
        }
    }
    talk::data(&text)
}
