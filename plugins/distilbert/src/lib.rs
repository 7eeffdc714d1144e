//! The distilbert family: DistilBertModel, DistilBertForSequenceClassification.
//!
//! BERT without segments, and with names of its own for everything.

use qeff_plugin_api::blocks::Activation;
use qeff_plugin_api::blocks::encoder::{Encoder, Eps, Fields};
use qeff_plugin_api::graph::{AttentionMask, Model};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

const FIELDS: Fields = Fields {
    hidden: "dim",
    inner: "hidden_dim",
    layers: "n_layers",
    heads: "n_heads",
    act: "activation",
    eps: Eps::Fixed(1e-12),
    vocab: 30_522,
    positions: 512,
};

/// The family.
pub struct DistilBert;

qeff_plugin_api::register!(architecture: DistilBert);

impl Architecture for DistilBert {
    fn names(&self) -> Vec<&str> {
        vec!["DistilBertModel", "DistilBertForSequenceClassification"]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let c = Encoder::read(config, &FIELDS)?;
        // How the table of positions began, before it was trained or not.
        config.flag_or("sinusoidal_pos_embds", false)?;
        Ok(c.model(&self.named(config), tensors, "distilbert", |t| {
            let places = t.learned("embeddings.position_embeddings", t.places());
            let x = t.norm("embeddings.LayerNorm", t.add(t.words("embeddings.word_embeddings"), places));
            let h = t.layers("transformer.layer", x, |l, h| {
                let heads = l.heads(["q_lin", "k_lin", "v_lin"].map(|name| l.at("attention").at(name)), h);
                let o = l.dense("attention.out_lin", l.attend("attention", heads, AttentionMask::Bidirectional, None));
                let h = l.norm("sa_layer_norm", l.add(h, o));
                let f = l.feed_forward(["ffn.lin1", "ffn.lin2"], h);
                l.norm("output_layer_norm", l.add(h, f))
            });
            t.finish(h, |h| t.classes("classifier", t.pooler("pre_classifier", Activation::Relu, t.first(h))));
        })?)
    }
}

qeff_plugin_api::export_plugin! { architectures: ["DistilBertModel", "DistilBertForSequenceClassification"] }
