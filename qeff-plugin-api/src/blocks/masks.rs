//! Which layers attend to everything and which to a window, as config.json says it.

use crate::config::{Config, ConfigError};
use crate::graph::AttentionMask;

/// The field `sliding_window`: `default` if the file leaves it out, none if it is null.
///
/// # Errors
/// If it is not a number of positions.
pub fn window(config: &Config, default: u64) -> Result<Option<u64>, ConfigError> {
    match (config.has("sliding_window"), config.mentions("sliding_window")) {
        (true, _) => config.count("sliding_window").map(Some),
        (false, true) => Ok(None),
        (false, false) => Ok(Some(default)),
    }
}

/// One mask for all layers: the last `window` positions, or everything.
pub fn within(window: Option<u64>) -> AttentionMask {
    window.map_or(AttentionMask::Causal, AttentionMask::Sliding)
}

/// For families that mask every layer alike: `layer_types` may say so, but not otherwise.
///
/// # Errors
/// If a layer is of another kind than `kind`.
pub fn refuse_other_layers(config: &Config, kind: &str) -> Result<(), ConfigError> {
    match config.texts("layer_types")?.iter().all(|layer| layer == kind) {
        true => Ok(()),
        false => Err(config.unsupported("layer_types", format!("`{kind}` in every layer, as this family has it"))),
    }
}

/// A mask for each layer, as `layer_types` says; in a file without that list, `slides` says which layers keep to the
/// window, if there is one.
///
/// # Errors
/// If the list has another length or names another kind of layer, or a layer slides without a window.
pub fn by_layer(
    config: &Config,
    layers: u64,
    window: Option<u64>,
    slides: impl Fn(u64) -> bool,
) -> Result<Vec<AttentionMask>, ConfigError> {
    if !config.has("layer_types") {
        return Ok((0..layers).map(|layer| within(window.filter(|_| slides(layer)))).collect());
    }
    let types = config.texts("layer_types")?;
    if types.len() as u64 != layers {
        return Err(config.unsupported("layer_types", format!("num_hidden_layers = {layers} of them")));
    }
    let mask = |kind: &String| match (kind.as_str(), window) {
        ("full_attention", _) => Ok(AttentionMask::Causal),
        ("sliding_attention", Some(window)) => Ok(AttentionMask::Sliding(window)),
        ("sliding_attention", None) => {
            Err(config.unsupported("layer_types", "full_attention only, as no `sliding_window` is in use"))
        }
        _ => Err(config.unsupported("layer_types", "each to be full_attention or sliding_attention")),
    };
    types.iter().map(mask).collect()
}

/// A mask for each layer where `use_sliding_window` turns `sliding_window` on and, without `layer_types`, the first
/// `max_window_layers` layers see everything.
///
/// # Errors
/// As [`by_layer`].
pub fn after_first_layers(config: &Config, layers: u64) -> Result<Vec<AttentionMask>, ConfigError> {
    let window = match config.flag_or("use_sliding_window", false)? {
        true => window(config, 4096)?,
        false => None,
    };
    // Most files state these with the window off, when they have no effect.
    config.mentions("sliding_window");
    let first = if config.mentions("max_window_layers") { config.opt_u64("max_window_layers")? } else { Some(28) };
    match first {
        Some(first) => by_layer(config, layers, window, |layer| layer >= first),
        None if window.is_none() || config.has("layer_types") => by_layer(config, layers, window, |_| false),
        None => Err(config.unsupported("max_window_layers", "a whole number of 0 or more")),
    }
}

#[cfg(test)]
mod tests {
    use AttentionMask::{Causal, Sliding};

    use super::*;

    fn masks(fields: &str) -> Result<Vec<AttentionMask>, ConfigError> {
        after_first_layers(&Config::parse(&format!("{{{fields}}}")).unwrap(), 3)
    }

    #[test]
    fn windows_as_transformers_reads_them() {
        let (on, window) = (r#""use_sliding_window": true"#, r#""sliding_window": 8"#);
        let list = r#""layer_types": ["sliding_attention", "full_attention", "sliding_attention"]"#;
        for (fields, expected) in [
            (String::new(), [Causal; 3]),
            (window.to_owned(), [Causal; 3]),
            (format!(r#"{window}, "max_window_layers": 0, "use_sliding_window": false"#), [Causal; 3]),
            (format!("{on}, {window}"), [Causal; 3]),
            (format!(r#"{on}, {window}, "max_window_layers": 1"#), [Causal, Sliding(8), Sliding(8)]),
            (format!(r#"{on}, "max_window_layers": 2"#), [Causal, Causal, Sliding(4096)]),
            (format!(r#"{on}, "sliding_window": null, "max_window_layers": 0"#), [Causal; 3]),
            (format!(r#"{on}, {window}, "max_window_layers": 1, {list}"#), [Sliding(8), Causal, Sliding(8)]),
            (format!(r#"{on}, {window}, "max_window_layers": 0, "layer_types": null"#), [Sliding(8); 3]),
        ] {
            assert_eq!(masks(&fields).unwrap(), expected, "{fields}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let on = r#""use_sliding_window": true, "max_window_layers": 0"#;
        for (fields, field) in [
            (format!(r#"{on}, "sliding_window": 0"#), "sliding_window"),
            (r#""use_sliding_window": true, "max_window_layers": null"#.to_owned(), "max_window_layers"),
            (format!(r#"{on}, "layer_types": ["full_attention"]"#), "layer_types"),
            (
                format!(r#"{on}, "layer_types": ["full_attention", "full_attention", "chunked_attention"]"#),
                "layer_types",
            ),
            // Off, but asked for.
            (
                r#""sliding_window": 8, "layer_types": ["full_attention", "full_attention", "sliding_attention"]"#
                    .into(),
                "layer_types",
            ),
        ] {
            assert_eq!(masks(&fields).unwrap_err().field, field, "{fields}");
        }
    }
}
