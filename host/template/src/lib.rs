//! MyArchForCausalLM for qeff.
//!
//! As it was generated, the family computes what Llama computes. Change [`Family::describe`] line by line into what your
//! family computes, and `tests/checkpoint/make.py` into what Hugging Face computes of it; `cargo test` compares the two.

use qeff_plugin_api::blocks::Bias;
use qeff_plugin_api::blocks::decoder::{Decoder, Defaults};
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

/// The family, as `architectures` in config.json names it.
const ARCHITECTURE: &str = "MyArchForCausalLM";

/// What the family's config class in transformers says where config.json does not.
const DEFAULTS: Defaults = Defaults {
    vocab: 32_000,
    inner: 11_008,
    kv_heads: None,
    head_dim: None,
    positions: 2048,
    gguf_pairs: false,
};

/// The family.
pub struct Family;

qeff_plugin_api::register!(architecture: Family);

impl Architecture for Family {
    fn names(&self) -> Vec<&str> {
        vec![ARCHITECTURE]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        // Sizes, heads, norm, activation, rotary rule, tied embeddings: what most families share.
        let c = Decoder::read(config, &DEFAULTS)?;
        // What is the family's own. Read every field that changes the result, and refuse values that you do not support.
        let attention_bias = Bias::from(config.flag_or("attention_bias", false)?);
        config.refuse_unless("mlp_bias", &false.into())?;
        // A layer, as the paper has it. Names are those of the checkpoint's tensors, below `model.layers.N`.
        Ok(c.model(ARCHITECTURE, tensors, |l, h| {
            let x = l.norm("input_layernorm", h);
            let h = l.add(
                h,
                l.attend(l.heads(x, attention_bias), c.causal(), attention_bias),
            );
            let x = l.norm("post_attention_layernorm", h);
            l.add(h, l.mlp(x, Bias::No))
        })?)
    }
}

qeff_plugin_api::export_plugin! { architectures: [ARCHITECTURE] }

#[cfg(test)]
mod tests {
    use qeff_plugin_api::TensorIndex;
    use qeff_plugin_api::config::Config;

    use super::*;

    /// What the family says of a config, over a checkpoint without tensors.
    fn refusal(config: &str) -> String {
        let config = Config::parse(config).expect("a config");
        let refused = Family.describe(&Request {
            config,
            tensors: TensorIndex::new(),
        });
        refused.expect_err("there are no tensors").to_string()
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let sizes = r#""hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 1"#;
        assert!(refusal("{}").contains("`hidden_size`"));
        // A line for each field of the family's own.
        assert!(
            refusal(&format!(r#"{{{sizes}, "mlp_bias": true}}"#))
                .contains("`mlp_bias`: expected false, found true")
        );
        assert!(refusal(&format!("{{{sizes}}}")).contains("no tensor `embed_tokens.weight`"));
    }
}
