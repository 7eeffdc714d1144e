//! `plugins`: what describes models.

use anyhow::Result;

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
    let Verb::List { json: _ } = &args.verb;
    Ok(())
}
