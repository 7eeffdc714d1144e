//! From a checkpoint to a described, valid model, with everything about it that a user should hear.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use qeff_core::validate::validate;
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::Request;

use crate::checkpoint::Checkpoint;
use crate::plugins::Registry;

/// How to describe.
#[derive(Debug, Clone, Copy, Default)]
pub struct DescribeOptions<'a> {
    /// The plugin to use, if the user chose one.
    pub plugin: Option<&'a str>,
    /// Refuse what is otherwise only warned of: unread config fields, unused tensors.
    pub strict: bool,
    /// Rewrites to apply to the description, in this order; see [`Registry::rewrite`] for how they are named.
    pub rewrites: &'a [String],
}

/// A described model.
#[derive(Debug, Clone)]
pub struct Described {
    /// The model.
    pub model: Model,
    /// Name of the plugin that described it.
    pub plugin: String,
    /// What may not be as the checkpoint's author meant it.
    pub warnings: Vec<String>,
    /// What is good to know, and no reason to stop.
    pub notes: Vec<String>,
}

/// Has a plugin describe the checkpoint, and checks the answer.
///
/// # Errors
/// If no plugin fits, the plugin refuses, its answer is invalid, or `strict` finds anything.
pub fn describe(checkpoint: &Checkpoint, registry: &Registry, options: DescribeOptions<'_>) -> Result<Described> {
    let cannot = || format!("cannot describe {}", checkpoint.dir.display());
    let config = &checkpoint.config;
    let architecture = registry.architecture_for(config, options.plugin)?;
    let plugin = architecture.origin.plugin.clone();
    let request = Request { config: config.clone(), tensors: checkpoint.weights.index().clone() };
    let model = architecture
        .describe(&request)
        .map_err(|error| match unreadable(checkpoint) {
            // A plugin sees only what can be read: to it, a tensor of another type is missing.
            Some(note) => anyhow::Error::new(error).context(note),
            None => error.into(),
        })
        .with_context(cannot)?;
    let unread = request.config.unread();
    validate(&model, checkpoint.weights.index())
        .with_context(|| format!("plugin {} describes {} wrongly", plugin, checkpoint.dir.display()))?;
    let mut model = model;
    for name in options.rewrites {
        let rewrite = registry.rewrite(name)?;
        let rewritten = || format!("rewrite `{name}` of plugin {}", rewrite.origin.plugin);
        model =
            rewrite.rewrite(model, checkpoint.weights.index()).with_context(|| format!("{} refuses", rewritten()))?;
        validate(&model, checkpoint.weights.index())
            .with_context(|| format!("{} leaves the model invalid", rewritten()))?;
    }
    let mut warnings = vec![];
    if !unread.is_empty() {
        warnings.push(format!(
            "config.json: plugin {} does not read {}; if one of them changes the result, the result is wrong",
            plugin,
            list(&unread)
        ));
    }
    if let Some(unused) = unused_tensors(checkpoint, &model) {
        warnings.push(unused);
    }
    if options.strict && !warnings.is_empty() {
        bail!("--strict: {}", warnings.join("; "));
    }
    Ok(Described { model, plugin, warnings, notes: activations(checkpoint).into_iter().collect() })
}

/// One sentence on activations that the checkpoint wants quantised, if it does.
fn activations(checkpoint: &Checkpoint) -> Option<String> {
    let fields = checkpoint.quantization.as_ref()?.activations();
    (!fields.is_empty()).then(|| {
        format!("activations are computed as they are, though the config says how to quantise them: {}", list(fields))
    })
}

/// One sentence on stored tensors that cannot be read, if there are any.
fn unreadable(checkpoint: &Checkpoint) -> Option<String> {
    let names: Vec<_> = checkpoint.weights.unsupported().map(|(name, dtype)| format!("{name}: {dtype}")).collect();
    let tensors = if names.len() == 1 { "1 tensor is".to_owned() } else { format!("{} tensors are", names.len()) };
    (!names.is_empty())
        .then(|| format!("{tensors} stored in a type that cannot be read yet, and left out: {}", list(&names)))
}

/// One sentence on stored tensors that the model does not read, if there are any.
fn unused_tensors(checkpoint: &Checkpoint, model: &Model) -> Option<String> {
    let unused: Vec<String> = unused(checkpoint, model).map(str::to_owned).collect();
    (!unused.is_empty()).then(|| {
        let tensors = if unused.len() == 1 {
            "1 stored tensor is".to_owned()
        } else {
            format!("{} stored tensors are", unused.len())
        };
        format!("{tensors} not used: {}", list(&unused))
    })
}

/// Stored tensors that the model does not read, leaving out those known to carry nothing.
pub(crate) fn unused<'a>(checkpoint: &'a Checkpoint, model: &'a Model) -> impl Iterator<Item = &'a str> {
    let used: BTreeSet<&str> = model.sources();
    let stale = |name: &str| model.stale_tensors.iter().any(|ending| format!(".{name}").ends_with(ending.as_str()));
    let readable = checkpoint.weights.index().iter().map(|(name, _)| name);
    let unreadable = checkpoint.weights.unsupported().map(|(name, _)| name);
    readable.chain(unreadable).filter(move |name| !used.contains(name) && !stale(name) && !checkpoint.consumes(name))
}

/// The first names of a list, and how many more there are.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}
