//! Language models that stand within larger ones, by the `model_type` of their part of the config.
//!
//! A model that looks at images has one of these families for its text, with the fields of that family in `text_config`,
//! where files leave out what their config class has by default. Their layers differ in a few numbers only, so they are one
//! layer with the numbers as data.

use super::{Decoder, Defaults, Heads, Layer};
use crate::blocks::{Attn, Bias, masks};
use crate::build::{Scope, Value};
use crate::config::{Config, ConfigError};
use crate::graph::AttentionMask;

/// A decoder with what its layers are.
#[derive(Debug, Clone, PartialEq)]
pub struct TextModel {
    /// Sizes and ends.
    pub decoder: Decoder,
    /// What each layer sees.
    masks: Vec<AttentionMask>,
    /// Factor on query · key.
    scale: f32,
    /// Bias of queries, keys and values.
    inputs: Bias,
    /// Bias of the projection out of attention.
    output: Bias,
    /// Bias of the feed-forward part.
    mlp: Bias,
    /// Whether queries and keys are normed, head by head.
    normed_heads: bool,
    /// Factor on what a part adds.
    residual: f32,
    /// Factor on what the first layer takes, be it of tokens or of anything in their place.
    inlet: f32,
}

/// Defaults that the families' config classes share.
const LLAMA: Defaults =
    Defaults { vocab: 32_000, inner: 11_008, kv_heads: None, head_dim: None, positions: 2048, gguf_pairs: false };
const MISTRAL: Defaults = Defaults { inner: 14_336, kv_heads: Some(8), positions: 131_072, ..LLAMA };
const QWEN2: Defaults = Defaults {
    vocab: 151_936,
    inner: 22_016,
    kv_heads: Some(32),
    head_dim: None,
    positions: 32_768,
    gguf_pairs: false,
};
const QWEN3: Defaults = Defaults { head_dim: Some(128), ..QWEN2 };

impl TextModel {
    /// Reads `text_config`; `family` is its `model_type` where it says none.
    ///
    /// # Errors
    /// If a field is malformed, or asks for a family that is not supported.
    pub fn read(config: &Config, family: &str) -> Result<Self, ConfigError> {
        let sizes = [("hidden_size", 4096), ("num_hidden_layers", 32), ("num_attention_heads", 32)];
        let text = config.object_or("text_config", &sizes)?;
        let family = text.opt_text("model_type")?.unwrap_or_else(|| family.to_owned());
        match family.as_str() {
            "llama" => Self::llama(&text),
            "mistral" => Self::mistral(&text),
            "qwen2" => Self::qwen(&text, &QWEN2, Bias::Yes),
            "qwen3" => {
                let bias = text.flag_or("attention_bias", false)?.into();
                let read = Self::qwen(&text, &QWEN3, bias)?;
                Ok(TextModel { output: bias, normed_heads: true, ..read })
            }
            "granite" => Self::granite(&text),
            _ => Err(text.unsupported("model_type", "one of llama, mistral, qwen2, qwen3, granite")),
        }
    }

    fn of(decoder: Decoder, masks: Vec<AttentionMask>) -> Self {
        let scale = decoder.causal().scale;
        TextModel {
            decoder,
            masks,
            scale,
            inputs: Bias::No,
            output: Bias::No,
            mlp: Bias::No,
            normed_heads: false,
            residual: 1.0,
            inlet: 1.0,
        }
    }

    fn llama(text: &Config) -> Result<Self, ConfigError> {
        let decoder = Decoder::read(text, &LLAMA)?;
        masks::refuse_other_layers(text, "full_attention")?;
        let attention: Bias = text.flag_or("attention_bias", false)?.into();
        let mlp = text.flag_or("mlp_bias", false)?.into();
        let masks = vec![AttentionMask::Causal; decoder.caches.len()];
        Ok(TextModel { inputs: attention, output: attention, mlp, ..Self::of(decoder, masks) })
    }

    fn mistral(text: &Config) -> Result<Self, ConfigError> {
        let decoder = Decoder::read(text, &MISTRAL)?;
        for field in ["attention_bias", "mlp_bias"] {
            text.refuse_unless(field, &false.into())?;
        }
        let window = masks::window(text, 4096)?;
        masks::refuse_other_layers(text, if window.is_some() { "sliding_attention" } else { "full_attention" })?;
        let masks = vec![masks::within(window); decoder.caches.len()];
        Ok(Self::of(decoder, masks))
    }

    fn qwen(text: &Config, family: &Defaults, bias: Bias) -> Result<Self, ConfigError> {
        let decoder = Decoder::read(text, family)?;
        let masks = masks::after_first_layers(text, decoder.layers)?;
        text.flag_or("use_mrope", false)?;
        Ok(TextModel { inputs: bias, ..Self::of(decoder, masks) })
    }

    fn granite(text: &Config) -> Result<Self, ConfigError> {
        let decoder = Decoder::read(text, &LLAMA)?;
        let inlet = text.f32_or("embedding_multiplier", 1.0)?;
        // The head of a model that looks at images is its own and leaves logits as they are, as in transformers.
        text.positive_or("logits_scaling", 1.0)?;
        let attention: Bias = text.flag_or("attention_bias", false)?.into();
        let mlp = text.flag_or("mlp_bias", false)?.into();
        let (scale, residual) = (text.f32_or("attention_multiplier", 1.0)?, text.f32_or("residual_multiplier", 1.0)?);
        let masks = vec![AttentionMask::Causal; decoder.caches.len()];
        let read = Self::of(decoder, masks);
        Ok(TextModel { inputs: attention, output: attention, mlp, scale, residual, inlet, ..read })
    }

    /// What the first layer takes, of embeddings among which others may stand.
    pub fn enter<'g>(&self, at: Scope<'g>, x: Value<'g>) -> Value<'g> {
        if self.inlet == 1.0 { x } else { at.scale(x, self.inlet) }
    }

    /// What a layer makes of the hidden states.
    pub fn layer<'g>(&self, l: Layer<'_, 'g>, h: Value<'g>) -> Value<'g> {
        let how = Attn { mask: self.masks[l.index], ..Attn::causal(self.scale) };
        let scaled = |x| if self.residual == 1.0 { x } else { l.scale(x, self.residual) };
        let Heads { mut q, mut k, v } = l.heads(l.norm("input_layernorm", h), self.inputs);
        if self.normed_heads {
            (q, k) = (l.norm("self_attn.q_norm", q), l.norm("self_attn.k_norm", k));
        }
        let h = l.add(h, scaled(l.attend(Heads { q, k, v }, how, self.output)));
        let x = l.norm("post_attention_layernorm", h);
        l.add(h, scaled(l.mlp(x, self.mlp)))
    }
}
