//! The deberta-v2 family, which deberta-v3 is part of: DebertaV2Model, DebertaV2ForSequenceClassification.
//!
//! Where a token stands is no part of its embedding, or not only: scores have two terms more, of a query with the distance
//! to its key and of a key with the distance to its query.

mod config;
mod relative;

use config::DebertaV2 as Config;
use qeff_plugin_api::blocks::encoder::{Encoder, Eps, Fields, Layer, Segments, Text};
use qeff_plugin_api::blocks::{InCall, Linear, linear};
use qeff_plugin_api::build::Value;
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

const FIELDS: Fields =
    Fields { eps: Eps::Field("layer_norm_eps", 1e-7), vocab: 128_100, positions: 512, ..Fields::USUAL };

/// The family.
pub struct DebertaV2;

qeff_plugin_api::register!(architecture: DebertaV2);

impl Architecture for DebertaV2 {
    fn names(&self) -> Vec<&str> {
        vec!["DebertaV2Model", "DebertaV2ForSequenceClassification"]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let mut c = Encoder::read(config, &FIELDS)?;
        let own = Config::read(config, &c)?;
        // Nothing else ends with the positions: far distances share a row.
        c.hard = own.learned_positions;
        Ok(c.model(&self.named(config), tensors, "deberta", |t| {
            let x = embedded(t, &c, &own);
            let relative = own.relative.as_ref().map(|how| relative::Relative::new(t, how));
            let h = t.layers("encoder.layer", x, |l, h| {
                let names = ["query_proj", "key_proj", "value_proj"];
                let [q, k, v] = l.heads(names.map(|name| l.at("attention.self").at(name)), h);
                // One more factor in the root for each term of distance.
                let scale = ((l.heads_and_width().1 * (1 + own.terms)) as f32).powf(-0.5);
                let bias = relative.as_ref().and_then(|relative| relative.bias(l, q, k, scale));
                let how = InCall { bias, ..InCall::all(scale) };
                let o = l.dense("attention.output.dense", l.attend_as("attention.self", [q, k, v], how));
                let a = l.norm("attention.output.LayerNorm", l.add(h, o));
                let f = l.feed_forward(["intermediate.dense", "output.dense"], a);
                let y = l.norm("output.LayerNorm", l.add(a, f));
                match &own.convolution {
                    Some(how) if l.index == 0 => convolved(t, l, how, x, y),
                    _ => y,
                }
            });
            t.finish(h, |h| t.classes("classifier", t.pooler("pooler.dense", own.pooler_act, t.first(h))));
        })?)
    }
}

/// Words, and what the config adds to them; rows of padding are zeros.
fn embedded<'g>(t: Text<'_, 'g>, c: &Encoder, own: &Config) -> Value<'g> {
    let mut x = t.words_of_width("embeddings.word_embeddings", own.embedding);
    if own.learned_positions {
        x = t.add(x, t.learned_of_width("embeddings.position_embeddings", t.places(), own.embedding));
    }
    if let Some(kinds) = own.kinds {
        let at = "embeddings.token_type_embeddings";
        x = t.add(x, t.segments_of_width(at, kinds, own.embedding, Segments::OfClasses));
    }
    if own.embedding != c.hidden {
        x = linear(t.at("embeddings.embed_proj"), x, &Linear::to(c.hidden));
    }
    t.without_padding("embeddings", t.norm("embeddings.LayerNorm", x))
}

/// What older models of the family add to the first layer's result: a convolution over neighbours of what the layer began
/// with.
fn convolved<'g>(
    t: Text<'_, 'g>,
    l: Layer<'_, 'g>,
    how: &config::Convolution,
    x: Value<'g>,
    y: Value<'g>,
) -> Value<'g> {
    let at = t.at("encoder.conv");
    let rows = at.transpose(x, &[0, 2, 1]);
    let rows = how.apply(at.at("conv"), rows);
    let out = t.without_padding("encoder.conv", at.transpose(rows, &[0, 2, 1]));
    let out = how.act.apply(at.at("act"), out);
    t.without_padding("encoder.conv", t.norm("encoder.conv.LayerNorm", l.add(y, out)))
}

qeff_plugin_api::export_plugin! { architectures: ["DebertaV2Model", "DebertaV2ForSequenceClassification"] }
