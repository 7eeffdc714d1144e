//! `plugins`: what describes models.

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
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let Verb::List { json } = &args.verb;
    let listed = Registry::builtin().list();
    if *json {
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
