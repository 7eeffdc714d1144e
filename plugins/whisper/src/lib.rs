//! The whisper family: WhisperForConditionalGeneration.
//!
//! Encoder and decoder are one program. The first call of a recording brings its features, from which every decoder layer makes
//! the keys and values of what was heard, once; later calls bring features of length 1, and these states stay as they are.

mod config;

use config::{Stack, Whisper as Config};
use qeff_plugin_api::Elem;
use qeff_plugin_api::blocks::attention::{InCall, attention_in_call, cross_attention};
use qeff_plugin_api::blocks::conv::{Conv, conv};
use qeff_plugin_api::blocks::{Activation, Attn, Bias, Linear, Norm, attention, embed, linear, lm, mlp};
use qeff_plugin_api::build::{GraphBuilder, Scope, Slot, Value};
use qeff_plugin_api::graph::{Dim, Embedding, Model, NegativeIds, PositionLimit, Role, StateKind, Task, Type};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

/// The family.
pub struct Whisper;

qeff_plugin_api::register!(architecture: Whisper);

/// That of torch's layer norm, which the family does not change.
const NORM: Norm = Norm::Layer { eps: 1e-5 };

impl Architecture for Whisper {
    fn names(&self) -> Vec<&str> {
        vec!["WhisperForConditionalGeneration"]
    }

    fn describe(&self, request: &Request) -> Result<Model, PluginError> {
        let c = Config::read(&request.config)?;
        let g = GraphBuilder::new("main", &request.tensors).base_prefix("model");
        whisper(&g, &c);
        Ok(Model {
            architecture: "WhisperForConditionalGeneration".into(),
            task: Task::SpeechToText,
            positions: Some(PositionLimit { trained: c.decoder.positions, hard: true }),
            stale_tensors: vec![],
            programs: vec![g.finish()?],
            links: vec![],
        })
    }
}

/// What a decoder layer keeps: keys and values of the transcript, and of what was heard.
#[derive(Clone, Copy)]
struct Kept<'g> {
    own: Slot<'g>,
    cross: Slot<'g>,
}

fn whisper<'g>(g: &'g GraphBuilder<'g>, c: &Config) {
    let dims = ["batch_size".into(), Dim::Fixed(c.mels), "feature_len".into()];
    let mel = g.input("input_features", Role::Features, Elem::Act, dims);
    let ids = g.tokens();
    let kept: Vec<_> = (0..c.decoder.layers).map(|layer| keep(g, &c.decoder, layer)).collect();
    let positions = g.positions();

    let heard = encoder(g.at("model.encoder"), c, mel);
    // Features of length 1 stand for none.
    let at = g.at("model.decoder");
    let fresh = at.unary("Not", at.squeeze(at.onnx("Equal", &[at.length(mel, 2), at.integers(&[1])], &[]), &[0]));

    let learned = Embedding { negative: NegativeIds::Zero, ..Embedding::default() };
    let words = embed(at.at("embed_tokens"), ids, [c.vocab, c.hidden], Embedding::default());
    let mut h = at.add(words, embed(at.at("embed_positions"), positions, [c.decoder.positions, c.hidden], learned));
    for (layer, &kept) in (0..).zip(&kept) {
        let l = at.at(("layers", layer));
        h = decoder_layer(l, c, h, positions, kept, |a| {
            let project = |name: &str, bias| {
                linear(a.at(name), heard, &Linear::heads(c.decoder.heads, c.decoder.width).bias(bias))
            };
            kept.cross.fill(a, [project("k_proj", Bias::No), project("v_proj", Bias::Yes)], Some(fresh));
        });
    }
    let h = NORM.apply(at.at("layer_norm"), h);
    let tied_to = c.tied.then_some("model.decoder.embed_tokens");
    lm::head(g.root(), h, &lm::Head { scope: "proj_out", vocab: c.vocab, tied_to, ..lm::Head::default() });
}

fn keep<'g>(g: &'g GraphBuilder<'g>, stack: &Stack, layer: u64) -> Kept<'g> {
    let slot = |side: &str, kind, axis: &str| {
        let dims = ["batch_size".into(), Dim::Fixed(stack.heads), axis.into(), Dim::Fixed(stack.width)];
        let ty = Type::new(Elem::Act, dims);
        let names = ["key", "value"].map(|part| format!("past_{part}_{side}.{layer}"));
        g.state(&format!("{side}.{layer}"), kind, names.map(|name| (name, ty.clone())))
    };
    Kept {
        own: slot("self", StateKind::Full, "decoder_ctx_len"),
        cross: slot("cross", StateKind::Fill, "encoder_ctx_len"),
    }
}

/// `[B, positions, N]` of `mel[B, mels, 2 · positions]`.
fn encoder<'g>(e: Scope<'g>, c: &Config, mel: Value<'g>) -> Value<'g> {
    let stack = &c.encoder;
    let stem = Conv { padding: 1, bias: Bias::Yes, ..Conv::new(c.hidden, 3) };
    // The exact function whatever `activation_function` says.
    let gelu = |at: Scope<'g>, x| Activation::Gelu.apply(at, x);
    let x = gelu(e, conv(e.at("conv1"), mel, &stem, "feature_len"));
    let x = gelu(e, conv(e.at("conv2"), x, &Conv { stride: 2, ..stem }, stack.positions));
    let x = e.transpose(x, &[0, 2, 1]);
    let at = e.at("embed_positions");
    let mut x = e.add(x, at.weight_of_shape(at.tensor("weight"), &[stack.positions, c.hidden]));
    for layer in 0..stack.layers {
        let l = e.at(("layers", layer));
        let a = l.at("self_attn");
        let y = NORM.apply(l.at("self_attn_layer_norm"), x);
        let [q, k, v] = project(a, stack, y);
        let y = attention_in_call(a, q, [k, v], InCall::all(scale(stack)));
        x = l.add(x, linear(a.at("out_proj"), y, &Linear::to(c.hidden).bias(true)));
        x = feed_forward(l, c, stack, x);
    }
    NORM.apply(e.at("layer_norm"), x)
}

fn decoder_layer<'g>(
    l: Scope<'g>,
    c: &Config,
    h: Value<'g>,
    positions: Value<'g>,
    kept: Kept<'g>,
    fill: impl FnOnce(Scope<'g>),
) -> Value<'g> {
    let stack = &c.decoder;
    let out = Linear::to(c.hidden).bias(true);
    let a = l.at("self_attn");
    let y = NORM.apply(l.at("self_attn_layer_norm"), h);
    let [q, k, v] = project(a, stack, y);
    kept.own.write(a, [k, v], positions);
    let y = attention(a, q, kept.own, positions, Attn::causal(scale(stack)));
    let h = l.add(h, linear(a.at("out_proj"), y, &out));

    let a = l.at("encoder_attn");
    let y = NORM.apply(l.at("encoder_attn_layer_norm"), h);
    let q = linear(a.at("q_proj"), y, &Linear::heads(stack.heads, stack.width).bias(true));
    fill(a);
    let y = cross_attention(a, q, kept.cross, scale(stack));
    let h = l.add(h, linear(a.at("out_proj"), y, &out));
    feed_forward(l, c, stack, h)
}

/// Queries, keys, which have no bias, and values of a layer's own attention.
fn project<'g>(a: Scope<'g>, stack: &Stack, x: Value<'g>) -> [Value<'g>; 3] {
    let part = |(name, bias): (&str, bool)| linear(a.at(name), x, &Linear::heads(stack.heads, stack.width).bias(bias));
    [("q_proj", true), ("k_proj", false), ("v_proj", true)].map(part)
}

fn feed_forward<'g>(l: Scope<'g>, c: &Config, stack: &Stack, x: Value<'g>) -> Value<'g> {
    let y = NORM.apply(l.at("final_layer_norm"), x);
    l.add(x, mlp::plain(l, y, stack.inner, ["fc1", "fc2"], c.act, &Linear::to(c.hidden).bias(true)))
}

fn scale(stack: &Stack) -> f32 {
    (stack.width as f32).powf(-0.5)
}

qeff_plugin_api::export_plugin! { architectures: ["WhisperForConditionalGeneration"] }
