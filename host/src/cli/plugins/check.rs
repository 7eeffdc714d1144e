//! `plugins check`: whether a built plugin keeps what the boundary promises.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::super::loading::{self, LoadingArgs};
use super::super::talk;
use crate::checkpoint::Checkpoint;
use crate::conformance::{self, Row, Verdict};

/// Flags of `plugins check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plugin: the name of one, or a file to load.
    #[arg(value_name = "NAME|PATH")]
    plugin: String,
    /// A checkpoint that the plugin describes, or whose weights are in its format; a tiny one does. May be repeated.
    #[arg(long, value_name = "DIR")]
    checkpoint: Vec<PathBuf>,
    #[command(flatten)]
    loading: LoadingArgs,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut registry = args.loading.registry()?;
    let chosen = registry.choose(&args.plugin);
    loading::say_remarks(&registry);
    let origin = chosen?;
    let listed = registry.list();
    let plugin = listed
        .iter()
        .find(|listed| listed.name == origin.plugin && listed.source == origin.source.to_string())
        .with_context(|| format!("{origin} is not listed"))?;
    let mut rows = vec![];
    if args.checkpoint.is_empty() {
        rows = conformance::check(&registry, plugin, &args.plugin, None);
    }
    for folder in &args.checkpoint {
        let checkpoint = Checkpoint::open_with(folder, registry.formats())?;
        rows.extend(conformance::check(&registry, plugin, &args.plugin, Some(&checkpoint)));
    }
    let failed = rows.iter().filter(|row| row.verdict == Verdict::Fail).count();
    if args.json {
        let row = |row: &Row| json!({ "subject": row.subject, "check": row.check, "verdict": row.verdict.name().to_lowercase(), "detail": row.detail });
        talk::json(&json!({
            "plugin": plugin.name,
            "version": plugin.version,
            "source": plugin.source,
            "checks": rows.iter().map(row).collect::<Vec<_>>(),
            "failed": failed,
        }))?;
    } else {
        talk::data(&table(&format!("{origin}"), &rows))?;
    }
    if failed > 0 {
        bail!("{failed} of {} checks failed", rows.len());
    }
    Ok(())
}

/// The rows under the plugin's name, in columns.
fn table(plugin: &str, rows: &[Row]) -> String {
    let width = |of: fn(&Row) -> &str| rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0);
    let (subject, check) = (width(|row| &row.subject), width(|row| row.check));
    let mut text = format!("{plugin}\n");
    for row in rows {
        let Row { verdict, detail, .. } = row;
        let (verdict, of) = (verdict.name(), &row.subject);
        text.push_str(&format!("{verdict:<7}  {of:<subject$}  {:<check$}  {detail}\n", row.check));
    }
    text
}
