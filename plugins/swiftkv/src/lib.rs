//! SwiftKV: LlamaSwiftKVForCausalLM.
//!
//! A Llama of which only the first layers see every token. Their result, normalised once, is what all late layers make keys
//! and values of; so a late layer has to compute queries only where logits are wanted, and a prompt costs little more than
//! the first layers. In a group of late layers the first one has keys and values, and the others look at the same.

use qeff_plugin_api::blocks::decoder::{Cache, Decoder, Defaults, Layer, Stack};
use qeff_plugin_api::blocks::{Attn, Bias, Linear, linear, masks};
use qeff_plugin_api::build::Value;
use qeff_plugin_api::config::{Config, ConfigError};
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

const NAME: &str = "LlamaSwiftKVForCausalLM";
const LLAMA: Defaults =
    Defaults { vocab: 32_000, inner: 11_008, kv_heads: None, head_dim: None, positions: 2048, gguf_pairs: false };

/// The family.
pub struct SwiftKv;

qeff_plugin_api::register!(architecture: SwiftKv);

impl Architecture for SwiftKv {
    fn names(&self) -> Vec<&str> {
        vec![NAME]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let mut c = Decoder::read(config, &LLAMA)?;
        // Without it, the class is a Llama whose late layers nobody has trained for this.
        config.refuse_unless("swiftkv", &true.into())?;
        masks::refuse_other_layers(config, "full_attention")?;
        let late = Late::read(config, &c)?;
        late.borrow(&mut c.caches);
        let biases = Biases {
            attention: config.flag_or("attention_bias", false)?.into(),
            mlp: config.flag_or("mlp_bias", false)?.into(),
        };
        Ok(c.model_of(NAME, tensors, |stack| late.walk(stack, &c, biases))?)
    }
}

/// Which projections have biases.
#[derive(Clone, Copy)]
struct Biases {
    attention: Bias,
    mlp: Bias,
}

/// The late layers.
struct Late {
    /// Number of the first one.
    first: usize,
    /// Layers that look at the same keys and values; the last group may have fewer.
    group: usize,
}

impl Late {
    fn read(config: &Config, c: &Decoder) -> Result<Self, ConfigError> {
        let first = config.count("num_key_value_layers")?;
        if first > c.layers {
            let expected = format!("at most num_hidden_layers = {}", c.layers);
            return Err(config.unsupported("num_key_value_layers", expected));
        }
        let group = config.count_or("key_value_group_size", 1)?;
        Ok(Late { first: first as usize, group: group as usize })
    }

    /// Has the late layers of a group look at what its first one keeps.
    fn borrow(&self, caches: &mut [Cache]) {
        for group in caches[self.first..].chunks_mut(self.group) {
            group[1..].fill(Cache::Borrowed);
        }
    }

    fn walk<'g>(&self, stack: &Stack<'_, 'g>, c: &Decoder, biases: Biases) {
        let layers: Vec<_> = stack.layers().collect();
        let (early, late) = layers.split_at(self.first);
        let h = early.iter().fold(stack.embed(), |h, &l| {
            let x = l.norm("input_layernorm", h);
            let h = l.add(h, l.attend(l.heads(x, biases.attention), c.causal(), biases.attention));
            feed_forward(l, h, biases.mlp)
        });
        let shared = (!late.is_empty()).then(|| stack.norm("norm_swiftkv", h));
        let (mut h, positions) = stack.last(h);
        for group in late.chunks(self.group) {
            let Some((&owner, shared)) = group.first().zip(shared) else { continue };
            let [k, v] = ["k_proj_swiftkv", "v_proj_swiftkv"]
                .map(|name| project(owner, name, shared, c.kv_heads, c.head_dim, biases.attention));
            owner.keep(k, v, stack.positions);
            for &l in group {
                let l = l.at_positions(positions);
                let x = l.norm("input_layernorm", h);
                let q = project(l, "q_proj_swiftkv", x, c.heads, c.head_dim, biases.attention);
                h = l.add(h, l.look(q, Attn::causal((c.head_dim as f32).powf(-0.5)), biases.attention));
                h = feed_forward(l, h, biases.mlp);
            }
        }
        stack.head(stack.norm("norm", h));
    }
}

fn project<'g>(l: Layer<'_, 'g>, name: &str, x: Value<'g>, heads: u64, width: u64, bias: Bias) -> Value<'g> {
    linear(l.at("self_attn").at(name), x, &Linear::heads(heads, width).bias(bias))
}

fn feed_forward<'g>(l: Layer<'_, 'g>, h: Value<'g>, bias: Bias) -> Value<'g> {
    let x = l.norm("post_attention_layernorm", h);
    l.add(h, l.mlp(x, bias))
}

qeff_plugin_api::export_plugin! { architectures: [NAME] }
