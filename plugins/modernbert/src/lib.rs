//! The modernbert family: ModernBertModel, ModernBertForSequenceClassification.
//!
//! Norms before each part, rotary positions, gated feed-forward; most layers look at their neighbourhood only, with a base
//! of their own for the rotation.

mod config;

use config::ModernBert as Config;
use qeff_plugin_api::blocks::encoder::{Encoder, Fields, Layer, Text};
use qeff_plugin_api::blocks::linear::Rows;
use qeff_plugin_api::blocks::{Linear, Rope, linear, rotary};
use qeff_plugin_api::build::Value;
use qeff_plugin_api::graph::{AttentionMask, Model};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

const FIELDS: Fields = Fields {
    act: "hidden_activation",
    eps: qeff_plugin_api::blocks::encoder::Eps::Field("norm_eps", 1e-5),
    vocab: 50_368,
    positions: 8192,
    ..Fields::USUAL
};

/// The family.
pub struct ModernBert;

qeff_plugin_api::register!(architecture: ModernBert);

impl Architecture for ModernBert {
    fn names(&self) -> Vec<&str> {
        vec!["ModernBertModel", "ModernBertForSequenceClassification"]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let mut c = Encoder::read(config, &FIELDS)?;
        let own = Config::read(config, &mut c)?;
        Ok(c.model(&self.named(config), tensors, "model", |t| {
            let places = t.positions();
            let [full, local] = [("full", &own.full), ("local", &own.local)]
                .map(|(name, rope)| Rope::table(t.at("rotary_emb").at(name), rope));
            let x = t.norm("embeddings.norm", t.words("embeddings.tok_embeddings"));
            let h = t.layers("layers", x, |l, h| {
                let (rope, mask) = match own.neighbours(l.index) {
                    None => (full, AttentionMask::Bidirectional),
                    Some(side) => (local, AttentionMask::Band { left: side, right: side }),
                };
                // The embedding ends with a norm; the first layer has none of its own.
                let x = if l.index == 0 { h } else { l.norm("attn_norm", h) };
                let [q, k, v] = [0, 1, 2].map(|n| part(l, &own, x, n));
                let [q, k] = [q, k].map(|x| rotary(l.at("attn"), x, rope, places));
                let o = l.attend("attn", [q, k, v], mask, None);
                let h = l.add(h, linear(l.at("attn.Wo"), o, &Linear::to(c.hidden).bias(own.attention_bias)));
                l.add(h, gated(l, &c, &own, l.norm("mlp_norm", h)))
            });
            let h = t.norm("final_norm", h);
            t.finish(h, |h| t.classes("classifier", head(t, &c, &own, h)));
        })?)
    }
}

/// Queries, keys or values: a third of the rows of `Wqkv`.
fn part<'g>(l: Layer<'_, 'g>, own: &Config, x: Value<'g>, n: u64) -> Value<'g> {
    let (heads, width) = l.heads_and_width();
    let rows = heads * width;
    let rows = Rows { groups: 1, width: 3 * rows, columns: n * rows..(n + 1) * rows };
    let at = l.at("attn.Wqkv").at(["q", "k", "v"][n as usize]);
    linear(at, x, &Linear::heads(heads, width).bias(own.attention_bias).part_of("", rows))
}

/// `Wo(act(a) · b)` of the two halves of `Wi`.
fn gated<'g>(l: Layer<'_, 'g>, c: &Encoder, own: &Config, x: Value<'g>) -> Value<'g> {
    let half = |name, n: u64| {
        let rows = Rows { groups: 1, width: 2 * c.inner, columns: n * c.inner..(n + 1) * c.inner };
        linear(l.at("mlp.Wi").at(name), x, &Linear::to(c.inner).bias(own.mlp_bias).part_of("", rows))
    };
    let (input, gate) = (half("input", 0), half("gate", 1));
    let at = l.at("mlp");
    let product = at.mul(c.act.apply(at.at("act"), input), gate);
    linear(at.at("Wo"), product, &Linear::to(c.hidden).bias(own.mlp_bias))
}

/// What the projection to classes takes.
fn head<'g>(t: Text<'_, 'g>, c: &Encoder, own: &Config, h: Value<'g>) -> Value<'g> {
    let pooled = if own.classes_of_mean { t.mean(h) } else { t.first(h) };
    let at = t.top("head");
    let dense = linear(at.at("dense"), pooled, &Linear::to(c.hidden).bias(own.classifier_bias));
    c.norm.apply(at.at("norm"), own.classifier_act.apply(at.at("act"), dense))
}

qeff_plugin_api::export_plugin! { architectures: ["ModernBertModel", "ModernBertForSequenceClassification"] }
