//! The llama family: LlamaForCausalLM and MistralForCausalLM; LlamaModel, MistralModel and LlamaForSequenceClassification.
//!
//! The decoder of [`blocks::decoder`](qeff_plugin_api::blocks::decoder) as it stands: what the others differ from.

use qeff_plugin_api::blocks::decoder::{Decoder, Defaults, Layer};
use qeff_plugin_api::blocks::{Attn, Bias, masks};
use qeff_plugin_api::build::Value;
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

const LLAMA: Defaults =
    Defaults { vocab: 32_000, inner: 11_008, kv_heads: None, head_dim: None, positions: 2048, gguf_pairs: true };
const MISTRAL: Defaults = Defaults { inner: 14_336, kv_heads: Some(8), positions: 131_072, ..LLAMA };

/// The family.
pub struct Llama;

qeff_plugin_api::register!(architecture: Llama);

impl Architecture for Llama {
    fn names(&self) -> Vec<&str> {
        vec![
            "LlamaForCausalLM",
            "LlamaForSequenceClassification",
            "LlamaModel",
            "MistralForCausalLM",
            "MistralForSequenceClassification",
            "MistralModel",
        ]
    }

    fn describe(&self, request: &Request) -> Result<Model, PluginError> {
        let name = self.named(&request.config);
        if name.starts_with("Mistral") { mistral(&name, request) } else { llama(&name, request) }
    }
}

fn llama(name: &str, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
    let c = Decoder::read(config, &LLAMA)?;
    masks::refuse_other_layers(config, "full_attention")?;
    let attention_bias = config.flag_or("attention_bias", false)?.into();
    let mlp_bias = config.flag_or("mlp_bias", false)?.into();
    Ok(c.model(name, tensors, |l, h| layer(l, h, c.causal(), attention_bias, mlp_bias))?)
}

/// Slides over the last 4096 positions unless its file says otherwise. It has no biases: transformers ignores the fields
/// here, so a file that asks for them was made for something else.
fn mistral(name: &str, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
    let c = Decoder::read(config, &MISTRAL)?;
    for field in ["attention_bias", "mlp_bias"] {
        config.refuse_unless(field, &false.into())?;
    }
    let window = masks::window(config, 4096)?;
    masks::refuse_other_layers(config, if window.is_some() { "sliding_attention" } else { "full_attention" })?;
    let how = Attn { mask: masks::within(window), ..c.causal() };
    Ok(c.model(name, tensors, |l, h| layer(l, h, how, Bias::No, Bias::No))?)
}

fn layer<'g>(l: Layer<'_, 'g>, h: Value<'g>, how: Attn, attention_bias: Bias, mlp_bias: Bias) -> Value<'g> {
    let x = l.norm("input_layernorm", h);
    let h = l.add(h, l.attend(l.heads(x, attention_bias), how, attention_bias));
    let x = l.norm("post_attention_layernorm", h);
    l.add(h, l.mlp(x, mlp_bias))
}

qeff_plugin_api::export_plugin! {
    architectures: [
        "LlamaForCausalLM",
        "LlamaForSequenceClassification",
        "LlamaModel",
        "MistralForCausalLM",
        "MistralForSequenceClassification",
        "MistralModel",
    ],
}
