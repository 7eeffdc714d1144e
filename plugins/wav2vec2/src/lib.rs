//! The wav2vec2 family: Wav2Vec2ForCTC.
//!
//! Convolutions cut samples into frames, one more adds where a frame stands, and an encoder labels each frame.

mod config;

use config::{FrameNorm, Wav2Vec2 as Config};
use qeff_plugin_api::blocks::attention::{InCall, attention_in_call};
use qeff_plugin_api::blocks::conv::{Conv, channel_norm, conv, conv_with};
use qeff_plugin_api::blocks::{Bias, Linear, Norm, linear, lm, mlp};
use qeff_plugin_api::build::{GraphBuilder, Scope, Value};
use qeff_plugin_api::graph::{Dim, Model, Role, Task};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};
use qeff_plugin_api::{Elem, TensorIndex, WeightExpr};

/// The family.
pub struct Wav2Vec2;

qeff_plugin_api::register!(architecture: Wav2Vec2);

impl Architecture for Wav2Vec2 {
    fn names(&self) -> Vec<&str> {
        vec!["Wav2Vec2ForCTC"]
    }

    fn describe(&self, request: &Request) -> Result<Model, PluginError> {
        let c = Config::read(&request.config)?;
        let g = GraphBuilder::new("main", &request.tensors);
        recogniser(&g, &c, &request.tensors);
        Ok(Model {
            architecture: "Wav2Vec2ForCTC".into(),
            task: Task::Ctc,
            positions: None,
            // What training puts in the place of hidden frames.
            stale_tensors: vec![".masked_spec_embed".into()],
            programs: vec![g.finish()?],
            links: vec![],
        })
    }
}

fn recogniser<'g>(g: &'g GraphBuilder<'g>, c: &Config, tensors: &TensorIndex) {
    let samples = g.input("input_values", Role::Features, Elem::Act, ["batch_size".into(), "seq_len".into()]);
    let w = g.at("wav2vec2");
    let norm = Norm::Layer { eps: c.eps };
    let frames = frames(w.at("feature_extractor"), c, samples);
    let p = w.at("feature_projection");
    let frames = norm.apply(p.at("layer_norm"), p.transpose(frames, &[0, 2, 1]));
    let h = linear(p.at("projection"), frames, &Linear::to(c.hidden).bias(true));

    let e = w.at("encoder");
    let mut h = e.add(h, places(e.at("pos_conv_embed"), c, h, tensors));
    if !c.stable {
        h = norm.apply(e.at("layer_norm"), h);
    }
    for layer in 0..c.layers {
        h = encoder_layer(e.at(("layers", layer)), c, norm, h);
    }
    if c.stable {
        h = norm.apply(e.at("layer_norm"), h);
    }
    lm::head(g.root(), h, &lm::Head { vocab: c.vocab, bias: Bias::Yes, ..lm::Head::default() });
}

/// `[B, C, frames]` of `samples[B, L]`.
fn frames<'g>(at: Scope<'g>, c: &Config, samples: Value<'g>) -> Value<'g> {
    let mut x = at.unsqueeze(samples, &[1]);
    for (layer, cut) in (0..).zip(&c.cuts) {
        let l = at.at(("conv_layers", layer));
        let spec = Conv { stride: cut.stride, bias: c.cut_bias.into(), ..Conv::new(cut.out, cut.kernel) };
        let last = layer + 1 == c.cuts.len() as u64;
        let length = if last { Dim::symbol("frames") } else { Dim::symbol(&format!("frames_{layer}")) };
        x = conv(l.at("conv"), x, &spec, length);
        x = match c.frame_norm {
            FrameNorm::Group if layer == 0 => channel_norm(l.at("layer_norm"), x, EPS),
            FrameNorm::Group => x,
            FrameNorm::Layer => {
                let across = l.transpose(x, &[0, 2, 1]);
                l.transpose(Norm::Layer { eps: EPS }.apply(l.at("layer_norm"), across), &[0, 2, 1])
            }
        };
        x = c.frame_act.apply(l.at("activation"), x);
    }
    x
}

/// That of torch's norms, which this part of the family does not change.
const EPS: f32 = 1e-5;

/// What tells of `h[B, frames, N]` where each frame stands.
fn places<'g>(at: Scope<'g>, c: &Config, h: Value<'g>, tensors: &TensorIndex) -> Value<'g> {
    let own = at.at("conv");
    // Two spellings of the same in torch's history; without either, the weight was folded already.
    let stored = |leaf: &str| tensors.get(&format!("{}.{leaf}", own.path())).is_some();
    let weight = if stored("parametrizations.weight.original1") {
        let [gain, direction] =
            ["original0", "original1"].map(|leaf| own.tensor(&format!("parametrizations.weight.{leaf}")));
        WeightExpr::weight_norm(2, gain, direction)
    } else if stored("weight_v") {
        WeightExpr::weight_norm(2, own.tensor("weight_g"), own.tensor("weight_v"))
    } else {
        own.tensor("weight")
    };
    let kernel = c.position_kernel;
    let spec = Conv { padding: kernel / 2, groups: c.position_groups, bias: Bias::Yes, ..Conv::new(c.hidden, kernel) };
    let x = at.transpose(h, &[0, 2, 1]);
    let x = if kernel.is_multiple_of(2) {
        // An even kernel sees one place more than there are.
        at.slice(conv_with(own, x, weight, &spec, "frames_padded"), 2, 0, -1, "frames")
    } else {
        conv_with(own, x, weight, &spec, "frames")
    };
    at.transpose(c.frame_act.apply(at.at("activation"), x), &[0, 2, 1])
}

fn encoder_layer<'g>(l: Scope<'g>, c: &Config, norm: Norm, h: Value<'g>) -> Value<'g> {
    let feed_forward = |x| {
        let names = ["intermediate_dense", "output_dense"];
        mlp::plain(l.at("feed_forward"), x, c.inner, names, c.act, &Linear::to(c.hidden).bias(true))
    };
    if c.stable {
        let h = l.add(h, attend(l.at("attention"), c, norm.apply(l.at("layer_norm"), h)));
        return l.add(h, feed_forward(norm.apply(l.at("final_layer_norm"), h)));
    }
    let h = norm.apply(l.at("layer_norm"), l.add(h, attend(l.at("attention"), c, h)));
    norm.apply(l.at("final_layer_norm"), l.add(h, feed_forward(h)))
}

fn attend<'g>(a: Scope<'g>, c: &Config, x: Value<'g>) -> Value<'g> {
    let width = c.hidden / c.heads;
    let [q, k, v] =
        ["q_proj", "k_proj", "v_proj"].map(|name| linear(a.at(name), x, &Linear::heads(c.heads, width).bias(true)));
    let y = attention_in_call(a, q, [k, v], InCall::all((width as f32).powf(-0.5)));
    linear(a.at("out_proj"), y, &Linear::to(c.hidden).bias(true))
}

qeff_plugin_api::export_plugin! { architectures: ["Wav2Vec2ForCTC"] }
