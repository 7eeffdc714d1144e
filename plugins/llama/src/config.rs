//! config.json of the llama family, with transformers' defaults for fields a file leaves out.

use qeff_plugin_api::blocks::rope::RopeDefaults;
use qeff_plugin_api::blocks::{Activation, Attn, RopeConfig};
use qeff_plugin_api::config::{Config, ConfigError};
use qeff_plugin_api::graph::AttentionMask;

/// Everything that shapes a decoder of the family.
pub(crate) struct Decoder {
    pub(crate) architecture: &'static str,
    pub(crate) layers: u64,
    pub(crate) hidden: u64,
    pub(crate) inner: u64,
    pub(crate) vocab: u64,
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) eps: f32,
    pub(crate) act: Activation,
    pub(crate) attention_bias: bool,
    pub(crate) mlp_bias: bool,
    pub(crate) tied: bool,
    pub(crate) attention: Attn,
    pub(crate) rope: RopeConfig,
}

impl Decoder {
    pub(crate) fn read(config: &Config) -> Result<Self, ConfigError> {
        let architecture = config.texts("architectures")?.into_iter().next().unwrap_or_default();
        let mistral = architecture == "MistralForCausalLM";
        let hidden = config.count("hidden_size")?;
        let heads = config.count("num_attention_heads")?;
        let head_dim = config.count_or("head_dim", hidden / heads)?;
        let kv_heads = match (config.has("num_key_value_heads"), config.mentions("num_key_value_heads")) {
            (false, false) if mistral => 8,
            _ => config.count_or("num_key_value_heads", heads)?,
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(config.unsupported(
                "num_key_value_heads",
                format!("a divisor of num_attention_heads = {heads}, not {kv_heads}"),
            ));
        }
        let mask = mask(config, mistral)?;
        refuse_mixed_layers(config, mask)?;
        let positions = config.count_or("max_position_embeddings", if mistral { 131_072 } else { 2048 })?;
        let scale = (head_dim as f32).powf(-0.5);
        Ok(Decoder {
            architecture: if mistral { "MistralForCausalLM" } else { "LlamaForCausalLM" },
            layers: config.layers("num_hidden_layers")?,
            hidden,
            inner: config.count_or("intermediate_size", if mistral { 14_336 } else { 11_008 })?,
            vocab: config.count_or("vocab_size", 32_000)?,
            heads,
            kv_heads,
            head_dim,
            eps: config.positive_or("rms_norm_eps", 1e-6)?,
            act: Activation::read(config, "hidden_act", Activation::Silu)?,
            attention_bias: bias(config, mistral, "attention_bias")?,
            mlp_bias: bias(config, mistral, "mlp_bias")?,
            tied: config.flag_or("tie_word_embeddings", false)?,
            attention: Attn { mask, ..Attn::causal(scale) },
            rope: RopeConfig::read(config, &RopeDefaults { head_dim, positions, base: 10_000.0, partial: false })?,
        })
    }
}

/// Llama may have biases. Mistral has none: transformers ignores the field there, so a file that asks for them was made
/// for something else.
fn bias(config: &Config, mistral: bool, key: &str) -> Result<bool, ConfigError> {
    if mistral {
        config.refuse_unless(key, &false.into())?;
        return Ok(false);
    }
    config.flag_or(key, false)
}

/// Both families mask every layer alike; `layer_types` may say so, but not otherwise.
fn refuse_mixed_layers(config: &Config, mask: AttentionMask) -> Result<(), ConfigError> {
    let kind = if matches!(mask, AttentionMask::Sliding(_)) { "sliding_attention" } else { "full_attention" };
    match config.texts("layer_types")?.iter().all(|layer| layer == kind) {
        true => Ok(()),
        false => Err(config.unsupported("layer_types", format!("`{kind}` in every layer, as this family has it"))),
    }
}

/// Mistral slides over the last 4096 positions unless its file says otherwise; null turns that off. Llama never slides.
fn mask(config: &Config, mistral: bool) -> Result<AttentionMask, ConfigError> {
    if !mistral {
        return Ok(AttentionMask::Causal);
    }
    Ok(match (config.has("sliding_window"), config.mentions("sliding_window")) {
        (true, _) => AttentionMask::Sliding(config.count("sliding_window")?),
        (false, true) => AttentionMask::Causal,
        (false, false) => AttentionMask::Sliding(4096),
    })
}
