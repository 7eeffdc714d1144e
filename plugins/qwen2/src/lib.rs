//! The qwen2 family: Qwen2ForCausalLM, Qwen2Model, Qwen2ForSequenceClassification.
//!
//! Llama with a bias on query, key and value, and a window on the later layers if the file turns it on.

use qeff_plugin_api::blocks::decoder::{Decoder, Defaults};
use qeff_plugin_api::blocks::{Attn, Bias, masks};
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

const DEFAULTS: Defaults = Defaults {
    vocab: 151_936,
    inner: 22_016,
    kv_heads: Some(32),
    head_dim: None,
    positions: 32_768,
    gguf_pairs: false,
};

/// The family.
pub struct Qwen2;

qeff_plugin_api::register!(architecture: Qwen2);

impl Architecture for Qwen2 {
    fn names(&self) -> Vec<&str> {
        vec!["Qwen2ForCausalLM", "Qwen2ForSequenceClassification", "Qwen2Model"]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let c = Decoder::read(config, &DEFAULTS)?;
        let masks = masks::after_first_layers(config, c.layers)?;
        // Many files say whether positions have several axes; those of a text have one.
        config.flag_or("use_mrope", false)?;
        Ok(c.model(&self.named(config), tensors, |l, h| {
            let how = Attn { mask: masks[l.index], ..c.causal() };
            let x = l.norm("input_layernorm", h);
            let h = l.add(h, l.attend(l.heads(x, Bias::Yes), how, Bias::No));
            let x = l.norm("post_attention_layernorm", h);
            l.add(h, l.mlp(x, Bias::No))
        })?)
    }
}

qeff_plugin_api::export_plugin! {
    architectures: ["Qwen2ForCausalLM", "Qwen2ForSequenceClassification", "Qwen2Model"],
}
