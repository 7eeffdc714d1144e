//! The llama family: LlamaForCausalLM and MistralForCausalLM.
//!
//! One description; what differs between the two stands in `config::Decoder`.

mod config;
mod gguf;

use config::Decoder;
use qeff_plugin_api::blocks::{Bias, Linear, Norm, Rope, attention, embed, linear, lm, mlp, rotary};
use qeff_plugin_api::build::{GgufNames, GraphBuilder, Kv, Scope, Slot, Value};
use qeff_plugin_api::graph::{Embedding, Model, PositionLimit, Task};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

/// The family.
pub struct Llama;

qeff_plugin_api::register!(architecture: Llama);

impl Architecture for Llama {
    fn names(&self) -> Vec<&str> {
        vec!["LlamaForCausalLM", "MistralForCausalLM"]
    }

    fn describe(&self, request: &Request) -> Result<Model, PluginError> {
        let c = Decoder::read(&request.config)?;
        let of_layer = gguf::of_layer(&c);
        let names = GgufNames { modules: gguf::MODULES, layers: "model.layers", of_layer: &of_layer };
        let g = GraphBuilder::new("main", &request.tensors).base_prefix("model").gguf(&names);
        decoder(&g, &c);
        Ok(Model {
            architecture: c.architecture.to_owned(),
            task: Task::CausalLm,
            positions: Some(PositionLimit { trained: c.rope.positions, hard: false }),
            // Old files carry the inverse frequencies that every reader computes anew.
            stale_tensors: vec![".rotary_emb.inv_freq".into()],
            programs: vec![g.finish()?],
            links: vec![],
        })
    }
}

fn decoder<'g>(g: &'g GraphBuilder<'g>, c: &Decoder) {
    let (ids, positions) = (g.tokens(), g.positions());
    let kv = g.kv_all(c.layers, Kv::full(c.kv_heads, c.head_dim));
    let rope = Rope::table(g.at("model"), &c.rope);
    let mut h = embed(g.at("model.embed_tokens"), ids, [c.vocab, c.hidden], Embedding::default());
    for (i, &slot) in (0..).zip(&kv) {
        h = layer(g.at("model").at(("layers", i)), c, h, positions, rope, slot);
    }
    let head =
        lm::Head { scope: "lm_head", vocab: c.vocab, tied_to: c.tied.then_some("model.embed_tokens"), bias: Bias::No };
    lm::tail(g.root(), h, positions, ("model.norm", Norm::Rms { eps: c.eps }), &head);
}

fn layer<'g>(l: Scope<'g>, c: &Decoder, h: Value<'g>, pos: Value<'g>, rope: Rope<'g>, kv: Slot<'g>) -> Value<'g> {
    let norm = Norm::Rms { eps: c.eps };
    let x = norm.apply(l.at("input_layernorm"), h);
    let h = l.add(h, attend(l.at("self_attn"), c, x, pos, rope, kv));
    let x = norm.apply(l.at("post_attention_layernorm"), h);
    l.add(h, mlp::gated(l.at("mlp"), x, c.inner, c.act, &Linear::to(c.hidden).bias(c.mlp_bias)))
}

fn attend<'g>(a: Scope<'g>, c: &Decoder, x: Value<'g>, pos: Value<'g>, rope: Rope<'g>, kv: Slot<'g>) -> Value<'g> {
    let project = |name, heads| linear(a.at(name), x, &Linear::heads(heads, c.head_dim).bias(c.attention_bias));
    let (q, k, v) = (project("q_proj", c.heads), project("k_proj", c.kv_heads), project("v_proj", c.kv_heads));
    let (q, k) = (rotary(a, q, rope, pos), rotary(a, k, rope, pos));
    kv.write(a, [k, v], pos);
    let o = attention(a, q, kv, pos, c.attention);
    linear(a.at("o_proj"), o, &Linear::to(c.hidden).bias(c.attention_bias))
}

qeff_plugin_api::export_plugin!();
