//! config.json of the gpt2 family, with transformers' defaults for fields a file leaves out.

use qeff_plugin_api::blocks::{Activation, Linear, Norm};
use qeff_plugin_api::config::{Config, ConfigError};

/// Everything that shapes a decoder of the family.
pub(crate) struct Decoder {
    pub(crate) layers: u64,
    pub(crate) vocab: u64,
    pub(crate) inner: u64,
    pub(crate) heads: u64,
    pub(crate) hidden: u64,
    pub(crate) head_dim: u64,
    pub(crate) positions: u64,
    pub(crate) norm: Norm,
    pub(crate) act: Activation,
    pub(crate) tied: bool,
    scale_weights: bool,
    scale_by_inverse_layer: bool,
}

impl Decoder {
    pub(crate) fn read(config: &Config) -> Result<Self, ConfigError> {
        config.refuse_unless("add_cross_attention", &false.into())?;
        // Same product, other order of roundings: in f32 activations the two are one.
        config.flag_or("reorder_and_upcast_attn", false)?;
        // The old name of n_positions; transformers ignores it too.
        config.opt_u64("n_ctx")?;
        config.refuse("pruned_heads", "none: pruned heads leave layers of different widths")?;
        let width = either(config, "hidden_size", "n_embd");
        let hidden = config.count(width)?;
        let heads_field = either(config, "num_attention_heads", "n_head");
        let heads = config.count(heads_field)?;
        if !hidden.is_multiple_of(heads) {
            return Err(config.unsupported(heads_field, format!("a divisor of {width} = {hidden}")));
        }
        Ok(Decoder {
            layers: config.layers(either(config, "num_hidden_layers", "n_layer"))?,
            vocab: config.count_or("vocab_size", 50_257)?,
            inner: config.count_or("n_inner", 4 * hidden)?,
            heads,
            hidden,
            head_dim: hidden / heads,
            positions: config.count_or(either(config, "max_position_embeddings", "n_positions"), 1024)?,
            norm: Norm::Layer { eps: config.positive_or("layer_norm_epsilon", 1e-5)? },
            act: Activation::read(config, "activation_function", Activation::GeluTanh)?,
            tied: config.flag_or("tie_word_embeddings", true)?,
            scale_weights: config.flag_or("scale_attn_weights", true)?,
            scale_by_inverse_layer: config.flag_or("scale_attn_by_inverse_layer_idx", false)?,
        })
    }

    /// A projection back to the hidden width, as this family stores all of its projections.
    pub(crate) fn conv1d(&self) -> Linear<'static> {
        Linear::to(self.hidden).conv1d().bias(true)
    }

    /// Factor on query · key in layer `index`.
    pub(crate) fn scale(&self, index: u64) -> f32 {
        let width = if self.scale_weights { (self.head_dim as f32).powf(-0.5) } else { 1.0 };
        if self.scale_by_inverse_layer { width / (index + 1) as f32 } else { width }
    }
}

/// The field that counts: transformers takes the general name of a size beside the family's own, and lets it win.
fn either(config: &Config, general: &'static str, own: &'static str) -> &'static str {
    config.has(own);
    if config.has(general) { general } else { own }
}
