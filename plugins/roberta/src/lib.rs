//! The roberta family: RobertaModel and XLMRobertaModel, and both with a head for classes.
//!
//! BERT with positions that begin after the id of the padding, and a head of its own.

use qeff_plugin_api::blocks::Activation;
use qeff_plugin_api::blocks::encoder::{self, Encoder, Fields, Segments};
use qeff_plugin_api::graph::{AttentionMask, Model};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

const FIELDS: Fields = Fields { vocab: 50_265, positions: 512, ..Fields::USUAL };
const XLM: Fields = Fields { vocab: 30_522, ..FIELDS };

/// The family.
pub struct Roberta;

qeff_plugin_api::register!(architecture: Roberta);

impl Architecture for Roberta {
    fn names(&self) -> Vec<&str> {
        vec![
            "RobertaModel",
            "RobertaForSequenceClassification",
            "XLMRobertaModel",
            "XLMRobertaForSequenceClassification",
        ]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let xlm = config.texts("architectures")?.first().is_some_and(|name| name.starts_with("XLM"));
        let mut c = Encoder::read(config, if xlm { &XLM } else { &FIELDS })?;
        encoder::refuse_other_positions(config)?;
        let padding = config.opt_u64("pad_token_id")?.unwrap_or(1);
        c.number_from(config, padding)?;
        let kinds = config.count_or("type_vocab_size", 2)?;
        Ok(c.model(&self.named(config), tensors, "roberta", |t| {
            let places = t.numbered(padding);
            let words =
                t.add(t.words("embeddings.word_embeddings"), t.learned("embeddings.position_embeddings", places));
            // Tokenizers of the family tell the texts of a pair apart by tokens alone.
            let x = t.add(words, t.segments("embeddings.token_type_embeddings", kinds, Segments::Never));
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
            t.finish(h, |h| {
                t.classes("classifier.out_proj", t.pooler("classifier.dense", Activation::Tanh, t.first(h)))
            });
        })?)
    }
}

qeff_plugin_api::export_plugin! {
    architectures: [
        "RobertaModel",
        "RobertaForSequenceClassification",
        "XLMRobertaModel",
        "XLMRobertaForSequenceClassification",
    ],
}
