//! OLMo 2 for qeff: `Olmo2ForCausalLM` and `Olmo2Model`, and one thing of every other kind that a plugin can add.
//!
//! | file | adds | used by |
//! |---|---|---|
//! | `lib.rs` | the architecture | `--plugin` |
//! | `softcap.rs` | rewrite `softcap-30` | `--rewrite softcap-30` |
//! | `rms.rs` | pooling head `rms` | `--pooling rms` |
//! | `planes.rs` | weight format `planes` | any checkpoint with such a file |
//!
//! OLMo 2 is Llama with three differences: the norms stand behind attention and feed-forward instead of in front of them,
//! queries and keys have a norm over all their heads together, and the constant of a norm is 1e-5 where a file says none.

mod planes;
mod rms;
mod softcap;

use qeff_plugin_api::blocks::decoder::{Decoder, Defaults, Heads, Layer};
use qeff_plugin_api::blocks::{Bias, Linear, Norm, linear};
use qeff_plugin_api::build::Value;
use qeff_plugin_api::graph::{Dim, Model, NormProduct};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

/// What transformers' Olmo2Config says where a file does not.
const DEFAULTS: Defaults =
    Defaults { vocab: 50_304, inner: 11_008, kv_heads: None, head_dim: None, positions: 2048, gguf_pairs: false };

/// The family.
pub struct Olmo2;

qeff_plugin_api::register!(architecture: Olmo2);

impl Architecture for Olmo2 {
    fn names(&self) -> Vec<&str> {
        vec!["Olmo2ForCausalLM", "Olmo2Model"]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let mut c = Decoder::read(config, &DEFAULTS)?;
        c.norm = Norm::Rms { eps: config.positive_or("rms_norm_eps", 1e-5)?, product: NormProduct::InF32 };
        let bias = Bias::from(config.flag_or("attention_bias", false)?);
        Ok(c.model(&self.named(config), tensors, |l, h| {
            let attended = l.attend(heads(&c, l, h, bias), c.causal(), bias);
            let h = l.add(h, l.norm("post_attention_layernorm", attended));
            l.add(h, l.norm("post_feedforward_layernorm", l.mlp(h, Bias::No)))
        })?)
    }
}

/// Queries and keys are normed over their whole width, and only then split into heads.
fn heads<'g>(c: &Decoder, l: Layer<'_, 'g>, x: Value<'g>, bias: Bias) -> Heads<'g> {
    let normed = |projection: &str, norm: &str, heads: u64| {
        let whole = Linear::to(heads.saturating_mul(c.head_dim)).bias(bias);
        let whole = linear(l.at("self_attn").at(projection), x, &whole);
        let dims = ["batch_size".into(), "seq_len".into(), Dim::Fixed(heads), Dim::Fixed(c.head_dim)];
        l.at("self_attn").reshape(l.norm(norm, whole), &[0, 0, heads as i64, c.head_dim as i64], dims)
    };
    Heads {
        q: normed("q_proj", "self_attn.q_norm", c.heads),
        k: normed("k_proj", "self_attn.k_norm", c.kv_heads),
        v: linear(l.at("self_attn.v_proj"), x, &Linear::heads(c.kv_heads, c.head_dim).bias(bias)),
    }
}

qeff_plugin_api::export_plugin! {
    architectures: ["Olmo2ForCausalLM", "Olmo2Model"],
    pooling: ["rms"],
    rewrites: ["softcap-30"],
    formats: ["planes"],
}
