//! The bert family: BertModel, BertForSequenceClassification.
//!
//! The encoder the others differ from: learned positions, a table of segments, norms after each part.

use qeff_plugin_api::blocks::Activation;
use qeff_plugin_api::blocks::encoder::{self, Encoder, Fields, Segments};
use qeff_plugin_api::graph::{AttentionMask, Model};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

const FIELDS: Fields = Fields { vocab: 30_522, positions: 512, ..Fields::USUAL };

/// The family.
pub struct Bert;

qeff_plugin_api::register!(architecture: Bert);

impl Architecture for Bert {
    fn names(&self) -> Vec<&str> {
        vec!["BertModel", "BertForSequenceClassification"]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let c = Encoder::read(config, &FIELDS)?;
        encoder::refuse_other_positions(config)?;
        let kinds = config.count_or("type_vocab_size", 2)?;
        Ok(c.model(&self.named(config), tensors, "bert", |t| {
            let words =
                t.add(t.words("embeddings.word_embeddings"), t.learned("embeddings.position_embeddings", t.places()));
            let x = t.add(words, t.segments("embeddings.token_type_embeddings", kinds, Segments::OfClasses));
            let x = t.norm("embeddings.LayerNorm", x);
            let h = t.layers("encoder.layer", x, |l, h| {
                let heads = l.heads(["query", "key", "value"].map(|name| l.at("attention.self").at(name)), h);
                let o = l.dense(
                    "attention.output.dense",
                    l.attend("attention.self", heads, AttentionMask::Bidirectional, None),
                );
                let h = l.norm("attention.output.LayerNorm", l.add(h, o));
                let f = l.feed_forward(["intermediate.dense", "output.dense"], h);
                l.norm("output.LayerNorm", l.add(h, f))
            });
            t.finish(h, |h| t.classes("classifier", t.pooler("bert.pooler.dense", Activation::Tanh, t.first(h))));
        })?)
    }
}

qeff_plugin_api::export_plugin! { architectures: ["BertModel", "BertForSequenceClassification"] }
