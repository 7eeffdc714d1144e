//! Pooling heads appended to a model: one, or several whose vectors are joined.

use anyhow::{Context as _, Result, bail};
use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::build::GraphBuilder;
use qeff_plugin_api::graph::{Dim, Model, Output, Role};

use crate::plugins::Registry;

/// Name of the output, as the reference calls it.
const OUTPUT: &str = "output";

/// The word for hidden states as they are.
pub const NONE: &str = "none";

/// Other words for heads: those of sentence-transformers.
const ALIASES: &[(&str, &str)] =
    &[("lasttoken", "last"), ("mean-sqrt-len-tokens", "mean-sqrt-len"), ("weightedmean", "weighted-mean")];

/// The heads that a user's words mean: names between commas, none for `none`.
pub fn heads(words: &str) -> Vec<String> {
    let head = |word: &str| {
        // A head of one plugin is `PLUGIN:NAME`, and a plugin's path is left as it is.
        let (plugin, word) = word.trim().rsplit_once(':').map_or(("", word.trim()), |(plugin, word)| (plugin, word));
        let word = word.replace('_', "-");
        let name = ALIASES.iter().find(|(alias, _)| *alias == word).map_or(word.as_str(), |(_, name)| name);
        if plugin.is_empty() { name.to_owned() } else { format!("{plugin}:{name}") }
    };
    words.split(',').map(head).filter(|head| head != NONE).collect()
}

/// Appends heads to a model; their vectors follow each other in its one output `output[B, width]`, which takes the place of the
/// hidden states. Without a head, those stay.
///
/// # Errors
/// If there is no head of a name, or a head refuses the model.
pub fn pooled(mut model: Model, heads: &[String], registry: &Registry, tensors: &TensorIndex) -> Result<Model> {
    for name in heads {
        let head = registry.pooling(name)?;
        let before = vectors(&model).len();
        model = head.append(model, tensors).with_context(|| format!("cannot append the pooling head {name}"))?;
        if vectors(&model).len() != before + 1 {
            bail!("pooling head {name} of plugin {} adds no output of role pooled", head.origin);
        }
    }
    if heads.is_empty() {
        return Ok(model);
    }
    let place = model.programs.iter().position(|program| program.output(Role::Pooled).is_some());
    let mut program = model.programs.remove(place.unwrap_or(0));
    let (pooled, others): (Vec<Output>, _) = program.outputs.drain(..).partition(|output| output.role == Role::Pooled);
    program.outputs = others.into_iter().filter(|output| output.role != Role::Hidden).collect();
    let g = GraphBuilder::resume(program, tensors);
    let mut vectors = pooled.iter().map(|output| g.existing(output.value));
    match (vectors.next(), vectors.len()) {
        (Some(one), 0) => g.output(OUTPUT, Role::Pooled, one),
        (Some(first), _) => {
            let all: Vec<_> = [first].into_iter().chain(vectors).collect();
            let widths = all.iter().map(|vector| vector.ty()?.last().and_then(Dim::fixed));
            let width = widths.sum::<Option<u64>>().context("a pooled vector has no fixed width")?;
            g.output(OUTPUT, Role::Pooled, g.at("pooling").concat(1, &all, width));
        }
        (None, _) => {}
    }
    model.programs.insert(place.unwrap_or(0), g.finish()?);
    Ok(model)
}

/// The pooled outputs of a model.
fn vectors(model: &Model) -> Vec<&Output> {
    model.programs.iter().flat_map(|program| &program.outputs).filter(|output| output.role == Role::Pooled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_sentence_transformers_are_understood() {
        assert_eq!(heads("mean"), ["mean"]);
        assert_eq!(heads("cls, weightedmean,mean_sqrt_len_tokens"), ["cls", "weighted-mean", "mean-sqrt-len"]);
        assert_eq!(heads("none"), Vec::<String>::new());
        assert_eq!(heads("./my_pool.so:mean_sqrt_len, acme:lasttoken"), ["./my_pool.so:mean-sqrt-len", "acme:last"]);
    }
}
