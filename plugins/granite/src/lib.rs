//! The granite family: GraniteForCausalLM.
//!
//! Llama with four numbers: factors on the embedding, on query · key and on what a part adds to the residual, and a
//! divisor of the logits.

use qeff_plugin_api::blocks::Attn;
use qeff_plugin_api::blocks::decoder::{Decoder, Defaults};
use qeff_plugin_api::config::{Config, ConfigError};
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

const DEFAULTS: Defaults =
    Defaults { vocab: 32_000, inner: 11_008, kv_heads: None, head_dim: None, positions: 2048, gguf_pairs: true };

/// The family.
pub struct Granite;

qeff_plugin_api::register!(architecture: Granite);

impl Architecture for Granite {
    fn names(&self) -> Vec<&str> {
        vec!["GraniteForCausalLM"]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        one_rope_rule(config)?;
        let mut c = Decoder::read(config, &DEFAULTS)?;
        c.embedding.scale = factor(config, "embedding_multiplier")?;
        c.head.divisor = config.positive_or("logits_scaling", 1.0)?;
        // Not one by the root of the head width, as elsewhere, where the file leaves it out.
        let how = Attn::causal(factor(config, "attention_multiplier")?);
        let residual = factor(config, "residual_multiplier")?;
        let attention_bias = config.flag_or("attention_bias", false)?.into();
        let mlp_bias = config.flag_or("mlp_bias", false)?.into();
        Ok(c.model("GraniteForCausalLM", tensors, |l, h| {
            let x = l.norm("input_layernorm", h);
            let h = l.add(h, l.scale(l.attend(l.heads(x, attention_bias), how, attention_bias), residual));
            let x = l.norm("post_attention_layernorm", h);
            l.add(h, l.scale(l.mlp(x, mlp_bias), residual))
        })?)
    }
}

/// A factor, 1 in a file that leaves it out; null is none.
fn factor(config: &Config, key: &str) -> Result<f32, ConfigError> {
    match config.opt_f32(key)? {
        None if config.mentions(key) => Err(config.unsupported(key, "a finite number")),
        given => Ok(given.unwrap_or(1.0)),
    }
}

/// Where a file names two rules, this family's class goes by `rope_type`, and [`RopeConfig`] like the others by `type`.
///
/// [`RopeConfig`]: qeff_plugin_api::blocks::RopeConfig
fn one_rope_rule(config: &Config) -> Result<(), ConfigError> {
    let Some(rule) = config.opt_object("rope_scaling")? else { return Ok(()) };
    match (rule.opt_text("type")?, rule.opt_text("rope_type")?) {
        (Some(old), Some(new)) if old != new => Err(rule.unsupported("type", format!("{new}, as `rope_type` says"))),
        _ => Ok(()),
    }
}

qeff_plugin_api::export_plugin! { architectures: ["GraniteForCausalLM"] }
