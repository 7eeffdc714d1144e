//! The gpt2 family: GPT2LMHeadModel.
//!
//! Learned positions, layer norms, and projections stored `[in, out]` with query, key and value side by side.

mod config;

use config::Decoder;
use qeff_plugin_api::blocks::linear::Rows;
use qeff_plugin_api::blocks::{Attn, Linear, attention, embed, linear, lm, mlp};
use qeff_plugin_api::build::{GgufLayout, GgufNames, GraphBuilder, Kv, Scope, Slot, Value};
use qeff_plugin_api::graph::{Embedding, Model, NegativeIds, PositionLimit, Task};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

/// The family.
pub struct Gpt2;

qeff_plugin_api::register!(architecture: Gpt2);

/// How GGUF files call the tensors of the family.
const GGUF: GgufNames<'_> = GgufNames {
    modules: &[
        ("transformer.wte", "token_embd"),
        ("transformer.wpe", "position_embd"),
        ("transformer.ln_f", "output_norm"),
        ("lm_head", "output"),
    ],
    layers: "transformer.h",
    of_layer: &[
        ("ln_1", "attn_norm", GgufLayout::Same),
        ("attn.c_attn", "attn_qkv", GgufLayout::Transposed),
        ("attn.c_proj", "attn_output", GgufLayout::Transposed),
        ("ln_2", "ffn_norm", GgufLayout::Same),
        ("mlp.c_fc", "ffn_up", GgufLayout::Transposed),
        ("mlp.c_proj", "ffn_down", GgufLayout::Transposed),
    ],
};

impl Architecture for Gpt2 {
    fn names(&self) -> Vec<&str> {
        vec!["GPT2LMHeadModel"]
    }

    fn describe(&self, request: &Request) -> Result<Model, PluginError> {
        let c = Decoder::read(&request.config)?;
        // The hub's own files are saved from the base model, without `transformer.`.
        let g = GraphBuilder::new("main", &request.tensors).base_prefix("transformer").gguf(&GGUF);
        decoder(&g, &c);
        Ok(Model {
            architecture: "GPT2LMHeadModel".into(),
            task: Task::CausalLm,
            positions: Some(PositionLimit { trained: c.positions, hard: true }),
            // Causal masks that old files carry for each layer.
            stale_tensors: vec![".attn.bias".into(), ".attn.masked_bias".into()],
            programs: vec![g.finish()?],
            links: vec![],
        })
    }
}

fn decoder<'g>(g: &'g GraphBuilder<'g>, c: &Decoder) {
    let ids = g.tokens();
    let kv = g.kv_all(c.layers, Kv::full(c.heads, c.head_dim));
    let positions = g.positions();
    let t = g.at("transformer");
    let learned = Embedding { negative: NegativeIds::Zero, ..Embedding::default() };
    let words = embed(t.at("wte"), ids, [c.vocab, c.hidden], Embedding::default());
    let mut h = t.add(words, embed(t.at("wpe"), positions, [c.positions, c.hidden], learned));
    for (i, &slot) in (0..).zip(&kv) {
        h = layer(t.at(("h", i)), c, i, h, positions, slot);
    }
    let head = lm::Head { vocab: c.vocab, tied_to: c.tied.then_some("transformer.wte"), ..lm::Head::default() };
    lm::tail(g.root(), h, positions, ("transformer.ln_f", c.norm), &head);
}

fn layer<'g>(l: Scope<'g>, c: &Decoder, index: u64, h: Value<'g>, pos: Value<'g>, kv: Slot<'g>) -> Value<'g> {
    let x = c.norm.apply(l.at("ln_1"), h);
    let h = l.add(h, attend(l.at("attn"), c, index, x, pos, kv));
    let x = c.norm.apply(l.at("ln_2"), h);
    l.add(h, mlp::plain(l.at("mlp"), x, c.inner, ["c_fc", "c_proj"], c.act, &c.conv1d()))
}

fn attend<'g>(a: Scope<'g>, c: &Decoder, index: u64, x: Value<'g>, pos: Value<'g>, kv: Slot<'g>) -> Value<'g> {
    // `c_attn` holds query, key and value side by side; each is a projection of its own here.
    let part = |name, n: u64| {
        let rows = Rows { groups: 1, width: 3 * c.hidden, columns: n * c.hidden..(n + 1) * c.hidden };
        linear(a.at("c_attn").at(name), x, &Linear { heads: c.heads, ..c.conv1d() }.part_of("", rows))
    };
    let (q, k, v) = (part("q", 0), part("k", 1), part("v", 2));
    kv.write(a, [k, v], pos);
    let o = attention(a, q, kv, pos, Attn::causal(c.scale(index)));
    linear(a.at("c_proj"), o, &c.conv1d())
}

qeff_plugin_api::export_plugin! { architectures: ["GPT2LMHeadModel"] }
