//! The gpt_oss family: GptOssForCausalLM.
//!
//! Attention with sinks, every other layer over a window of which no more is kept than it needs; and a mixture of experts
//! in place of the feed-forward part.

use qeff_plugin_api::blocks::decoder::{Cache, Decoder, Defaults};
use qeff_plugin_api::blocks::linear::Rows;
use qeff_plugin_api::blocks::moe::{Experts, Projection, experts, top_then_softmax};
use qeff_plugin_api::blocks::rope::RopeDefaults;
use qeff_plugin_api::blocks::{Attn, Bias, Norm, RopeConfig, masks};
use qeff_plugin_api::build::{Kv, Scope};
use qeff_plugin_api::config::{Config, ConfigError};
use qeff_plugin_api::graph::{AttentionMask, ExpertActivation, Model, NormProduct, Weigh};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};
use qeff_plugin_api::weight::RopeKind;

const DEFAULTS: Defaults = Defaults {
    vocab: 201_088,
    inner: 2880,
    kv_heads: Some(8),
    head_dim: Some(64),
    positions: 131_072,
    gguf_pairs: false,
};

/// Where experts cut their numbers off. transformers knows this limit only, whatever the file says.
const LIMIT: f32 = 7.0;

/// The family.
pub struct GptOss;

qeff_plugin_api::register!(architecture: GptOss);

impl Architecture for GptOss {
    fn names(&self) -> Vec<&str> {
        vec!["GptOssForCausalLM"]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let mut c = Decoder::read(config, &DEFAULTS)?;
        c.norm = Norm::Rms { eps: config.positive_or("rms_norm_eps", 1e-5)?, product: NormProduct::InF32 };
        c.rope = rope(config, &c)?;
        let masks = masks::by_layer(config, c.layers, window(config)?, |layer| layer % 2 == 0)?;
        for (cache, mask) in c.caches.iter_mut().zip(&masks) {
            if let AttentionMask::Sliding(_) = mask {
                *cache = Cache::Own(Kv::full(c.kv_heads, c.head_dim).rolling());
            }
        }
        let bias = Bias::from(config.flag_or("attention_bias", true)?);
        let mixture = Mixture::read(config, &c)?;
        Ok(c.model("GptOssForCausalLM", tensors, |l, h| {
            let how = Attn { mask: masks[l.index], sinks: Some("sinks"), ..c.causal() };
            let x = l.norm("input_layernorm", h);
            let h = l.add(h, l.attend(l.heads(x, bias), how, bias));
            let x = l.norm("post_attention_layernorm", h);
            let sent = top_then_softmax(l.at("mlp.router"), x, [mixture.experts, mixture.chosen], Bias::Yes);
            let at = l.at("mlp.experts");
            l.add(h, experts(at, x, sent, &mixture.at(at)))
        })?)
    }
}

/// The window of the layers that have one; a file without `layer_types` needs one, as every other layer slides.
fn window(config: &Config) -> Result<Option<u64>, ConfigError> {
    match masks::window(config, 128)? {
        None if !config.has("layer_types") => Err(config.unsupported("sliding_window", "a number of positions")),
        window => Ok(window),
    }
}

/// Rotary positions. A file that says nothing of a rule means yarn; one that says null means none.
fn rope(config: &Config, c: &Decoder) -> Result<RopeConfig, ConfigError> {
    let defaults = RopeDefaults { head_dim: c.head_dim, positions: c.rope.positions, base: 150_000.0, partial: false };
    let mut rope = RopeConfig::read(config, &defaults)?;
    if !["rope_scaling", "rope_parameters"].iter().any(|field| config.mentions(field)) {
        rope.kind = RopeKind::Yarn {
            factor: 32.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original: 4096,
            truncate: false,
            attention_factor: (0.1 * 32f64.ln() + 1.0) as f32,
        };
    }
    // What the model was trained for before the rule, which states it itself.
    config.opt_u64("initial_context_length")?;
    Ok(rope)
}

/// Sizes of the mixture in every layer.
struct Mixture {
    experts: u64,
    chosen: u64,
    inner: u64,
}

impl Mixture {
    fn read(config: &Config, c: &Decoder) -> Result<Self, ConfigError> {
        let experts = config.count_or("num_local_experts", 128)?;
        let chosen = config.count_or("num_experts_per_tok", 4)?;
        if chosen > experts {
            return Err(config.unsupported("num_experts_per_tok", format!("at most num_local_experts = {experts}")));
        }
        // The same number under its first name.
        if config.opt_u64("experts_per_token")?.is_some_and(|other| other != chosen) {
            return Err(config.unsupported("experts_per_token", format!("{chosen}, as num_experts_per_tok says")));
        }
        if config.opt_f32("swiglu_limit")?.is_some_and(|limit| limit != LIMIT) {
            return Err(config.unsupported("swiglu_limit", format!("{LIMIT:?}, the only limit transformers computes")));
        }
        config.refuse_unless("hidden_act", &"silu".into())?;
        Ok(Mixture { experts, chosen, inner: c.inner })
    }

    /// The experts whose tensors stand at a place. Gate and up take turns in the columns of one tensor.
    fn at(&self, at: Scope<'_>) -> Experts {
        let stored =
            |name: &str| Projection { weight: at.tensor(name), bias: Some(at.tensor(&format!("{name}_bias"))) };
        let both = stored("gate_up_proj");
        let every_other = |first| both.part(&Rows { groups: self.inner, width: 2, columns: first..first + 1 });
        Experts {
            count: self.experts,
            inner: self.inner,
            gate: Some(every_other(0)),
            up: every_other(1),
            down: stored("down_proj"),
            activation: ExpertActivation::ClampedSwiglu { limit: LIMIT, alpha: 1.702 },
            weigh: Weigh::Output,
        }
    }
}

qeff_plugin_api::export_plugin! { architectures: ["GptOssForCausalLM"] }
