//! Models below their heads, and pooling heads on them.

use std::path::Path;

use anyhow::Result;
use qeff_plugin_api::config::Config;

use super::ModelArgs;
use crate::checkpoint::Checkpoint;
use crate::describe::Described;
use crate::encode::pooling::{heads, pooled};
use crate::encode::recipe::Recipe;
use crate::plugins::Registry;

/// Opens a checkpoint as the model it names, or, with `base`, as the model below its head.
pub(crate) fn open(model: &ModelArgs, dir: &Path, base: bool) -> Result<(Checkpoint, Described)> {
    let registry = model.registry()?;
    let mut checkpoint = Checkpoint::open_with(dir, registry.formats())?;
    if base {
        checkpoint.config = base_of(&checkpoint.config, &registry);
    }
    let described = model.describe_with(&checkpoint, &registry)?;
    Ok((checkpoint, described))
}

/// A checkpoint's model as it is, or with pooling heads on the model below its head.
pub(crate) fn described(model: &ModelArgs, pooling: Option<&str>) -> Result<(Checkpoint, Described)> {
    let Some(words) = pooling else { return model.describe() };
    let recipe = Recipe::open(&model.model)?;
    let transformer = recipe.as_ref().map_or(&model.model, |recipe| &recipe.transformer);
    let (checkpoint, mut described) = open(model, transformer, true)?;
    pool(&mut described, &checkpoint, model, &heads(words))?;
    Ok((checkpoint, described))
}

/// Pools the hidden states of a described model.
pub(crate) fn pool(
    described: &mut Described,
    checkpoint: &Checkpoint,
    model: &ModelArgs,
    heads: &[String],
) -> Result<()> {
    let tensors = checkpoint.weights.index();
    described.model = pooled(described.model.clone(), heads, &model.registry()?, tensors)?;
    Ok(())
}

/// The config under the architecture below its head, `…Model`, if a plugin knows that: what a vector is made of, whatever the
/// checkpoint was trained for.
fn base_of(config: &Config, registry: &Registry) -> Config {
    let named = config.texts("architectures").unwrap_or_default();
    let stem = named.first().and_then(|name| name.split_once("For")).map(|(stem, _)| format!("{stem}Model"));
    let base = stem.map(|stem| config.with_architecture(&stem));
    base.filter(|base| registry.architecture_for(base, None).is_ok()).unwrap_or_else(|| config.clone())
}
