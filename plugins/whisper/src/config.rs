//! config.json of the whisper family, with transformers' defaults for fields a file leaves out.

use qeff_plugin_api::blocks::Activation;
use qeff_plugin_api::config::{Config, ConfigError};

/// A stack of layers.
#[derive(Clone, Copy)]
pub(crate) struct Stack {
    pub(crate) layers: u64,
    pub(crate) heads: u64,
    /// Width of a head.
    pub(crate) width: u64,
    pub(crate) inner: u64,
    /// Positions of its learned table.
    pub(crate) positions: u64,
}

/// Everything that shapes a model of the family.
pub(crate) struct Whisper {
    pub(crate) mels: u64,
    pub(crate) hidden: u64,
    pub(crate) vocab: u64,
    pub(crate) encoder: Stack,
    pub(crate) decoder: Stack,
    pub(crate) act: Activation,
    pub(crate) tied: bool,
}

/// Of training, and of heads that this architecture does not have.
const INERT: &[&str] = &[
    "activation_dropout",
    "apply_spec_augment",
    "classifier_proj_size",
    "decoder_layerdrop",
    "dropout",
    "encoder_layerdrop",
    "forced_decoder_ids", // read by the host, who writes the prompt
    "init_std",
    "mask_feature_length",
    "mask_feature_min_masks",
    "mask_feature_prob",
    "mask_time_length",
    "mask_time_min_masks",
    "mask_time_prob",
    "median_filter_width",
    "num_hidden_layers", // the encoder's, once more
    "use_weighted_layer_sum",
];

impl Whisper {
    pub(crate) fn read(config: &Config) -> Result<Self, ConfigError> {
        INERT.iter().for_each(|key| config.pass_over(key));
        // transformers computes a factor from it, and multiplies nothing with that factor.
        config.flag_or("scale_embedding", false)?;
        let hidden = config.count_or("d_model", 384)?;
        let stack = |side: &str, positions: &str, most: u64| {
            let [layers, heads, inner] = [("layers", 4), ("attention_heads", 6), ("ffn_dim", 1536)]
                .map(|(key, or)| (format!("{side}_{key}"), or));
            let count = config.count_or(&heads.0, heads.1)?;
            if !hidden.is_multiple_of(count) {
                return Err(config.unsupported(&heads.0, format!("a divisor of d_model = {hidden}")));
            }
            Ok(Stack {
                layers: config.layers_or(&layers.0, layers.1)?,
                heads: count,
                width: hidden / count,
                inner: config.count_or(&inner.0, inner.1)?,
                positions: config.count_or(positions, most)?,
            })
        };
        Ok(Whisper {
            mels: config.count_or("num_mel_bins", 80)?,
            hidden,
            vocab: config.count_or("vocab_size", 51_865)?,
            encoder: stack("encoder", "max_source_positions", 1500)?,
            decoder: stack("decoder", "max_target_positions", 448)?,
            act: Activation::read(config, "activation_function", Activation::Gelu)?,
            tied: config.flag_or("tie_word_embeddings", true)?,
        })
    }
}
