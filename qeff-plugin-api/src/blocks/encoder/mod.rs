//! The text encoder that families differ from: every token looks at every other, nothing is kept between calls.
//!
//! What the families agree on is here: the sizes that config.json states ([`Encoder::read`]), how a text comes in and a
//! result goes out ([`Text`]), and the parts of a layer ([`Layer`]). What a layer *is*, each family writes itself:
//!
//! ```ignore
//! let heads = l.heads(["query", "key", "value"].map(|name| l.at("attention.self").at(name)), h);
//! let o = l.dense("attention.output.dense", l.attend("attention.self", heads, AttentionMask::Bidirectional, None));
//! let h = l.norm("attention.output.LayerNorm", l.add(h, o));
//! let f = l.feed_forward(["intermediate.dense", "output.dense"], h);
//! l.norm("output.LayerNorm", l.add(h, f))
//! ```
//!
//! A model of an architecture `…Model` puts out hidden states, `output[B, S, N]`, which a pooling head makes vectors of; one
//! of an architecture `…ForSequenceClassification` puts out the scores of its classes, `logits[B, classes]`.

mod config;
pub mod distance;
mod layer;
mod text;

pub use config::{Eps, Fields, classes, refuse_other_positions};
pub use layer::Layer;
pub use text::{Segments, Text};

use super::{Activation, Norm};
use crate::TensorIndex;
use crate::build::{BuildError, GraphBuilder};
use crate::graph::{Model, PositionLimit, Task};

/// The sizes of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoder {
    /// Number of layers.
    pub layers: u64,
    /// Width between the layers.
    pub hidden: u64,
    /// Width within the feed-forward part.
    pub inner: u64,
    /// Heads; each is as wide as its share of the hidden width.
    pub heads: u64,
    /// Words.
    pub vocab: u64,
    /// Rows of the table of positions, or how far a rotation was trained.
    pub table: u64,
    /// Most tokens of a text.
    pub positions: u64,
    /// Whether a text cannot be longer than that, or only never was in training.
    pub hard: bool,
    /// Every norm.
    pub norm: Norm,
    /// Activation of the feed-forward part.
    pub act: Activation,
    /// Number of classes, for an architecture that has them.
    pub classes: Option<u64>,
}

impl Encoder {
    /// The model that `describe` describes, whose tensors live under `base` unless the checkpoint is of the base model alone.
    ///
    /// # Errors
    /// If the description does not fit the checkpoint.
    pub fn model(
        &self,
        architecture: &str,
        tensors: &TensorIndex,
        base: &str,
        describe: impl for<'g> FnOnce(Text<'_, 'g>),
    ) -> Result<Model, BuildError> {
        let g = GraphBuilder::new("main", tensors).base_prefix(base);
        describe(Text::new(&g, self, base));
        Ok(Model {
            architecture: architecture.to_owned(),
            task: if self.classes.is_some() { Task::SequenceClassification } else { Task::Encoder },
            positions: Some(PositionLimit { trained: self.positions, hard: self.hard }),
            stale_tensors: STALE.iter().map(|ending| (*ending).to_owned()).collect(),
            programs: vec![g.finish()?],
            links: vec![],
        })
    }
}

/// Buffers that old files carry, and heads of training that no vector and no class comes from.
const STALE: &[&str] = &[
    ".position_ids",
    ".token_type_ids",
    ".rotary_emb.inv_freq",
    ".pooler.dense.weight",
    ".pooler.dense.bias",
    ".cls.predictions.bias",
    ".cls.predictions.decoder.weight",
    ".cls.predictions.decoder.bias",
    ".cls.predictions.transform.dense.weight",
    ".cls.predictions.transform.dense.bias",
    ".cls.predictions.transform.LayerNorm.weight",
    ".cls.predictions.transform.LayerNorm.bias",
    ".cls.predictions.transform.LayerNorm.gamma",
    ".cls.predictions.transform.LayerNorm.beta",
    ".cls.seq_relationship.weight",
    ".cls.seq_relationship.bias",
    ".lm_head.bias",
    ".lm_head.weight",
    ".lm_head.decoder.weight",
    ".lm_head.decoder.bias",
    ".lm_head.dense.weight",
    ".lm_head.dense.bias",
    ".lm_head.layer_norm.weight",
    ".lm_head.layer_norm.bias",
    ".vocab_transform.weight",
    ".vocab_transform.bias",
    ".vocab_layer_norm.weight",
    ".vocab_layer_norm.bias",
    ".vocab_projector.weight",
    ".vocab_projector.bias",
];
