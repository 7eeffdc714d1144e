//! `plugins`: what describes models.

mod check;
mod new;
mod trust;

use anyhow::Result;
use serde_json::json;

use super::talk;
use crate::plugins::search::Folders;
use crate::plugins::{Listed, Registry};

/// Flags of `plugins`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List plugins and what they contribute; nothing of them is executed.
    List {
        /// Print one JSON document instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Show what a plugin from a file declares of itself, and whether it is pinned; nothing of it is executed.
    Info(trust::InfoArgs),
    /// Copy a plugin to where plugins are found, and pin it: from now on, it is this file and no other.
    Add(trust::AddArgs),
    /// Take away a plugin that was added.
    Remove(trust::RemoveArgs),
    /// Look whether the plugins that were added are still the files that were pinned.
    Verify(trust::VerifyArgs),
    /// Write a crate for a new plugin, with a tiny checkpoint and tests.
    New(new::Args),
    /// Check that a built plugin keeps what it has to.
    Check(check::Args),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.verb {
        Verb::List { json } => list(*json),
        Verb::Info(args) => trust::info(args),
        Verb::Add(args) => trust::add(args),
        Verb::Remove(args) => trust::remove(args),
        Verb::Verify(args) => trust::verify(args),
        Verb::New(args) => new::run(args),
        Verb::Check(args) => check::run(args),
    }
}

fn list(json: bool) -> Result<()> {
    let mut registry = Registry::builtin();
    registry.search(&Folders::of_process());
    let listed = registry.list();
    talk::notes(&registry.take_remarks());
    if json {
        return talk::json(&json!({ "plugins": listed }));
    }
    talk::data(&listed.iter().map(in_words).collect::<String>())
}

/// A plugin with what it contributes, in a few lines.
fn in_words(plugin: &Listed) -> String {
    let mut text = format!("{} {} ({})\n", plugin.name, plugin.version, plugin.source);
    let kinds = [
        ("architectures", &plugin.architectures),
        ("pooling heads", &plugin.pooling),
        ("rewrites", &plugin.rewrites),
        ("weight formats", &plugin.formats),
    ];
    for (kind, names) in kinds.into_iter().filter(|(_, names)| !names.is_empty()) {
        text.push_str(&format!("  {kind}: {}\n", names.join(", ")));
    }
    text
}
