//! Whether there is room: on the cards for the program, on the disk for what is made. Known before an hour of compiling.

use std::path::Path;

use anyhow::{Result, bail};

use super::{Job, Source};
use crate::compile::fit;
use crate::compile::sdk::cards::Card;

/// Refuses what cannot fit the cards that are there, or the disk. Without cards nothing is known of them.
///
/// # Errors
/// If cores, memory or disk do not suffice, with what is needed and what there is.
pub(super) fn check(job: &Job<'_>, cards: &[Card]) -> Result<()> {
    let (options, devices) = (&job.options, job.plan.num_devices);
    let cores = cards.iter().filter_map(|card| card.cores).max();
    if let Some(cores) = cores.filter(|&cores| cores < options.num_cores) {
        bail!("--num-cores {}: the cards here have {cores} cores; give --num-cores {cores}", options.num_cores);
    }
    let need = fit(&job.program.interface, &job.program.weights, &job.plan.specializations, options);
    let memory = cards.iter().filter_map(|card| card.memory_mb).max().and_then(|mb| mb.checked_mul(1 << 20));
    if let Some(memory) = memory.and_then(|memory| memory.checked_mul(devices)).filter(|&memory| need.total() > memory)
    {
        bail!(
            "the program cannot fit: weights take at least {}, states {}, together {}; {devices} device{} of the kind found \
             here have {}\nhint: more devices (--num-devices), --mxfp6-matmul, --mxint8-kv-cache, a shorter --ctx-len or a \
             smaller batch",
            megabytes(need.weights),
            megabytes(need.states),
            megabytes(need.total()),
            if devices == 1 { "" } else { "s" },
            megabytes(memory),
        );
    }
    // A QPC holds the weights once more; an export comes before it.
    let export = match (&job.source, &job.export) {
        (Source::Lowered { .. }, Some(slot)) if slot.find().is_none() => job.program.weights.file_bytes,
        _ => 0,
    };
    let needed = need.weights.saturating_add(export);
    if let Some(free) = free_bytes(job.dir()).filter(|&free| free < needed) {
        bail!(
            "the disk is too full: export and QPC take at least {}, and {} has {} left\nhint: `qeff-host cache prune` frees \
             what was made before",
            megabytes(needed),
            job.dir().display(),
            megabytes(free),
        );
    }
    Ok(())
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Free bytes where `dir` is or will be; `None` if the system does not say.
fn free_bytes(dir: &Path) -> Option<u64> {
    let there = dir.ancestors().find(|dir| dir.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}
