//! The flags that say how plugins from files are loaded.

use std::time::Duration;

use anyhow::Result;

use super::talk;
use crate::plugins::search::Folders;
use crate::plugins::trust::Trust;
use crate::plugins::worker::{Limits, WorkerOptions};
use crate::plugins::{Loading, Place, Registry};

/// Flags about plugins from files.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct LoadingArgs {
    /// Run plugins from files in this process, with all its rights; they must be pinned (`plugins add`).
    #[arg(long, conflicts_with = "allow_unsandboxed")]
    in_process: bool,
    /// Run plugins from files even where this system cannot confine them.
    #[arg(long)]
    allow_unsandboxed: bool,
    /// Longest time that a plugin from a file may take for one answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86400))]
    plugin_timeout: u32,
}

impl LoadingArgs {
    /// Plugins that are built in or found, to be loaded as the flags say.
    pub(crate) fn registry(self) -> Result<Registry> {
        let folders = Folders::of_process();
        let mut registry = Registry::builtin().with_loading(self.loading()).with_trust(Trust::open(&folders)?);
        registry.search(&folders);
        Ok(registry)
    }

    fn loading(self) -> Loading {
        let limits = Limits { wall: Duration::from_secs(self.plugin_timeout.into()), ..Limits::default() };
        Loading {
            place: if self.in_process { Place::InProcess } else { Place::Worker },
            worker: WorkerOptions { allow_unsandboxed: self.allow_unsandboxed, limits, ..WorkerOptions::default() },
        }
    }
}

/// Says what there is to say about plugins from files.
pub(crate) fn say_remarks(registry: &Registry) {
    talk::notes(&registry.take_remarks());
}
