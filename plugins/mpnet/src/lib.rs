//! The mpnet family: MPNetModel, MPNetForSequenceClassification.
//!
//! BERT with positions that begin after the padding's, and in every layer the same bias on scores by how far apart two
//! tokens are.

use qeff_plugin_api::blocks::Activation;
use qeff_plugin_api::blocks::encoder::{Encoder, Fields, distance};
use qeff_plugin_api::graph::{AttentionMask, Model};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

const FIELDS: Fields = Fields { vocab: 30_527, positions: 512, ..Fields::USUAL };
/// Positions count from here whatever the config calls its padding.
const PADDING: u64 = 1;
/// Rows of the table that are used: transformers leaves the number to a default, and never asks the config.
const BUCKETS: u64 = 32;

/// Far more than any text has.
const MOST_POSITIONS: u64 = 1 << 17;

/// The family.
pub struct MpNet;

qeff_plugin_api::register!(architecture: MpNet);

impl Architecture for MpNet {
    fn names(&self) -> Vec<&str> {
        vec!["MPNetModel", "MPNetForSequenceClassification"]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let mut c = Encoder::read(config, &FIELDS)?;
        c.number_from(config, PADDING)?;
        if c.positions > MOST_POSITIONS {
            let expected = format!("at most {MOST_POSITIONS}: every distance of two positions is listed");
            return Err(config.unsupported("max_position_embeddings", expected).into());
        }
        let rows = config.count_or("relative_attention_num_buckets", BUCKETS)?;
        if rows < BUCKETS {
            let expected = format!("{BUCKETS} or more: transformers uses {BUCKETS} of them whatever stands here");
            return Err(config.unsupported("relative_attention_num_buckets", expected).into());
        }
        Ok(c.model(&self.named(config), tensors, "mpnet", |t| {
            let places = t.learned("embeddings.position_embeddings", t.numbered(PADDING));
            let x = t.norm("embeddings.LayerNorm", t.add(t.words("embeddings.word_embeddings"), places));
            let bias = distance::bias(t, "encoder.relative_attention_bias", rows, bucket);
            let h = t.layers("encoder.layer", x, |l, h| {
                let heads = l.heads(["q", "k", "v"].map(|name| l.at("attention.attn").at(name)), h);
                let how = AttentionMask::Bidirectional;
                let o = l.dense("attention.attn.o", l.attend("attention.attn", heads, how, Some(bias)));
                let h = l.norm("attention.LayerNorm", l.add(h, o));
                let f = l.feed_forward(["intermediate.dense", "output.dense"], h);
                l.norm("output.LayerNorm", l.add(h, f))
            });
            t.finish(h, |h| {
                t.classes("classifier.out_proj", t.pooler("classifier.dense", Activation::Tanh, t.first(h)))
            });
        })?)
    }
}

/// The row for a key `ahead` of its query: one for each near distance, then ever wider ranges up to 128, before and after.
fn bucket(ahead: i64) -> u64 {
    const SIDE: u64 = BUCKETS / 2;
    const NEAR: u64 = SIDE / 2;
    let (side, far) = (if ahead > 0 { SIDE } else { 0 }, ahead.unsigned_abs());
    if far < NEAR {
        return side + far;
    }
    let wide = (far as f32 / NEAR as f32).ln() / (128.0 / NEAR as f64).ln() as f32 * (SIDE - NEAR) as f32;
    side + (NEAR + wide as u64).min(SIDE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of transformers 4.57 `MPNetEncoder.relative_position_bucket`.
    #[test]
    fn buckets_are_those_of_transformers() {
        let cases =
            [(0, 0), (1, 17), (-1, 1), (7, 23), (8, 24), (-8, 8), (-11, 8), (-12, 9), (15, 25), (16, 26), (-23, 11)];
        let far = [(-32, 12), (-63, 13), (-64, 14), (-91, 15), (127, 31), (128, 31), (-500, 15)];
        for (ahead, expected) in cases.into_iter().chain(far) {
            assert_eq!(bucket(ahead), expected, "{ahead}");
        }
    }
}

qeff_plugin_api::export_plugin! { architectures: ["MPNetModel", "MPNetForSequenceClassification"] }
