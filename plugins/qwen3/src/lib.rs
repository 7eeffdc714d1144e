//! The qwen3 family: Qwen3ForCausalLM, Qwen3Model, Qwen3ForSequenceClassification.
//!
//! Llama with a norm over each query and key head before it is turned, heads of a width of their own, and a window on
//! the later layers if the file turns it on.

use qeff_plugin_api::blocks::decoder::{Decoder, Defaults, Heads};
use qeff_plugin_api::blocks::{Attn, Bias, masks};
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

const DEFAULTS: Defaults = Defaults {
    vocab: 151_936,
    inner: 22_016,
    kv_heads: Some(32),
    head_dim: Some(128),
    positions: 32_768,
    gguf_pairs: false,
};

/// The family.
pub struct Qwen3;

qeff_plugin_api::register!(architecture: Qwen3);

impl Architecture for Qwen3 {
    fn names(&self) -> Vec<&str> {
        vec!["Qwen3ForCausalLM", "Qwen3ForSequenceClassification", "Qwen3Model"]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let c = Decoder::read(config, &DEFAULTS)?;
        let masks = masks::after_first_layers(config, c.layers)?;
        let bias = Bias::from(config.flag_or("attention_bias", false)?);
        Ok(c.model(&self.named(config), tensors, |l, h| {
            let how = Attn { mask: masks[l.index], ..c.causal() };
            let x = l.norm("input_layernorm", h);
            let Heads { q, k, v } = l.heads(x, bias);
            let (q, k) = (l.norm("self_attn.q_norm", q), l.norm("self_attn.k_norm", k));
            let h = l.add(h, l.attend(Heads { q, k, v }, how, bias));
            let x = l.norm("post_attention_layernorm", h);
            l.add(h, l.mlp(x, Bias::No))
        })?)
    }
}

qeff_plugin_api::export_plugin! {
    architectures: ["Qwen3ForCausalLM", "Qwen3ForSequenceClassification", "Qwen3Model"],
}
