//! `cache`: what is kept, and throwing it away.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value as Json, json};

use super::talk;
use crate::artifacts::{ArtifactKind, Prune, Shelf, Shelved};
use crate::home::home;

/// Flags of `cache`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show exports and compiled programs that are kept.
    List {
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Throw away what is kept; by default all that nobody is making just now.
    Prune {
        /// Only what was made at least this many days ago.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
        older_than: Option<u32>,
        /// Only one kind.
        #[arg(long, value_enum)]
        kind: Option<Kind>,
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Print the folder where everything is kept.
    Path {
        /// Print one JSON document instead.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// ONNX models with their weights.
    Export,
    /// Compiled programs.
    Qpc,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let home = home()?;
    let shelf = Shelf::new(home.path.clone());
    match args.what {
        What::Path { json: true } => talk::json(&json!({ "path": home.path, "decided_by": home.decided_by })),
        What::Path { json: false } => talk::data(&format!("{}\n", home.path.display())),
        What::List { json } => {
            let all = shelf.list()?;
            print(&all, json)?;
            let bytes = all.iter().map(|one| one.bytes).sum();
            talk::say(&format!("{} in {}, {}", count(all.len()), home.path.display(), talk::megabytes(bytes)));
            Ok(())
        }
        What::Prune { older_than, kind, dry_run, json } => {
            let kind = kind.map(|kind| match kind {
                Kind::Export => ArtifactKind::Export,
                Kind::Qpc => ArtifactKind::Qpc,
            });
            let older_than = older_than.map(|days| Duration::from_secs(u64::from(days) * 86400));
            let gone = shelf.prune(Prune { older_than, kind, dry_run })?;
            print(&gone, json)?;
            let bytes = gone.iter().map(|one| one.bytes).sum();
            let did = if dry_run { "would be thrown away" } else { "thrown away" };
            talk::say(&format!("{} {did}, {}", count(gone.len()), talk::megabytes(bytes)));
            Ok(())
        }
    }
}

fn count(n: usize) -> String {
    if n == 1 { "1 artifact".into() } else { format!("{n} artifacts") }
}

fn print(all: &[Shelved], json: bool) -> Result<()> {
    if json {
        return talk::json(&Json::Array(all.iter().map(in_json).collect()));
    }
    all.iter().try_for_each(|one| talk::data(&in_line(one)))
}

fn in_json(one: &Shelved) -> Json {
    let manifest = one.manifest.as_ref();
    json!({
        "dir": one.dir,
        "name": one.name,
        "kind": manifest.map(|manifest| manifest.kind.name()),
        "bytes": one.bytes,
        "created": manifest.map(|manifest| &manifest.created),
        "seconds": manifest.map(|manifest| manifest.seconds),
        "details": manifest.map(|manifest| &manifest.details),
        "busy": one.busy,
    })
}

/// `qpc  12.3 MB  3 days  DIR  batch_size 1, ctx_len 128 …`
fn in_line(one: &Shelved) -> String {
    let what = match (&one.manifest, one.busy) {
        (Some(manifest), _) => manifest.kind.name(),
        (None, true) => "in the making",
        (None, false) => "unfinished",
    };
    let days = SystemTime::now().duration_since(one.modified).map_or(0, |age| age.as_secs() / 86400);
    let sizes = ["batch_size", "full_batch_size", "prompt_len", "ctx_len", "num_devices", "num_cores"];
    let details = one.manifest.as_ref().map(|manifest| &manifest.details);
    let sizes: Vec<String> =
        sizes.iter().filter_map(|size| Some(format!("{size} {}", details?.get(*size)?.as_u64()?))).collect();
    format!(
        "{what:<13} {:>12} {days:>4} d  {}{}{}\n",
        talk::megabytes(one.bytes),
        one.dir.display(),
        if sizes.is_empty() { "" } else { "  " },
        sizes.join(", ")
    )
}
