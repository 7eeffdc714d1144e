//! `run` on cards: what is compiled for a request. Executing it is not built yet.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::compile::args::{CardArgs, Found, stores};
use super::compile::{DEFAULT_BUDGET, jobs, make, prepare_for_cards};
use crate::checkpoint::Checkpoint;
use crate::compile::Shape;
use crate::describe::Described;
use crate::forms::WeightForms;
use crate::qpc::{Making, Source};

/// There is a program, but nothing yet that executes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoRuntime {
    qpcs: Vec<PathBuf>,
}

impl fmt::Display for NoRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the model is compiled, but running on AI 100 is not built yet")?;
        self.qpcs.iter().try_for_each(|qpc| write!(f, "\n  {}", qpc.display()))?;
        write!(f, "\nhint: without --device-group and --sdk, `run` is on the CPU")
    }
}

impl std::error::Error for NoRuntime {}

/// Compiles what a request with prompts of these lengths needs, and says that it cannot be executed.
pub(crate) fn run(
    cards: &CardArgs,
    forms: WeightForms,
    shape: Shape,
    prompts: &[usize],
    mut described: Described,
    checkpoint: &Checkpoint,
) -> Result<()> {
    let ctx_len = shape.positions();
    for (i, &len) in prompts.iter().enumerate() {
        if len as u64 > ctx_len {
            bail!(
                "prompt {i} has {len} tokens, more than the {ctx_len} positions of a sequence: shorten it or raise --ctx-len"
            );
        }
    }
    let found: Found = cards.find()?;
    let options = cards.options(shape, &found.cards, &[])?;
    let stores = stores(None)?;
    let (quantised, _) = forms.quantised(&mut described.model, &checkpoint.weights)?;
    let facets = forms.facets(&quantised);
    let prepared = prepare_for_cards(described, &facets, &options.shape)?;
    let programs = Source::of_model(&prepared, &facets, &checkpoint.weights)?;
    let jobs = jobs(programs, &options, &found.toolchain, &stores, &stores.digests())?;
    let making = Making { timeout: cards.timeout(), memory_budget: DEFAULT_BUDGET as usize * 1_000_000, force: false };
    let qpcs = jobs.iter().map(|job| Ok(make(job, making, &found.cards)?.dir.join("qpc"))).collect::<Result<_>>()?;
    Err(NoRuntime { qpcs }.into())
}
