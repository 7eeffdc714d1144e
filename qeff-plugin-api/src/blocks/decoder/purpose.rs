//! What a decoder is for: text that goes on, vectors of whole texts, or their classes.
//!
//! Layers are the same. One that generates keeps keys and values from call to call; the others see a text once, padded to
//! the length of a call, so their keys are those of the call.

use super::Heads;
use crate::blocks::encoder::classes;
use crate::blocks::{Attn, Bias, Linear, Norm, attention, linear, lm, pool};
use crate::build::{GraphBuilder, Kv, Scope, Slot, Value};
use crate::config::{Config, ConfigError};
use crate::graph::{Attention, Op, Role, Task};

/// What a decoder is for, which its architecture says: `…ForCausalLM`, `…Model` or `…ForSequenceClassification`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The next token.
    Generate,
    /// Hidden states of a whole text.
    Embed,
    /// The class of a whole text, from its last token.
    Classify {
        /// Number of classes.
        classes: u64,
        /// The id of padding, which is no text's last token even if the mask says so.
        padding: Option<u32>,
    },
}

impl Purpose {
    /// The purpose that `architectures` says.
    ///
    /// # Errors
    /// If a field of the head is malformed.
    pub fn read(config: &Config) -> Result<Self, ConfigError> {
        let architecture = config.texts("architectures")?.into_iter().next().unwrap_or_default();
        if architecture.ends_with("ForSequenceClassification") {
            // Old files have -1 where there is none.
            let padding = config.opt_i64("pad_token_id")?.and_then(|id| u32::try_from(id).ok());
            return Ok(Purpose::Classify { classes: classes(config)?, padding });
        }
        Ok(if architecture.ends_with("Model") { Purpose::Embed } else { Purpose::Generate })
    }

    pub(super) fn task(self) -> Task {
        match self {
            Purpose::Generate => Task::CausalLm,
            Purpose::Embed => Task::Encoder,
            Purpose::Classify { .. } => Task::SequenceClassification,
        }
    }

    /// Declares what comes in beside the tokens.
    pub(super) fn begin<'g>(self, g: &'g GraphBuilder<'g>) -> Ends<'g> {
        if self == Purpose::Generate {
            return Ends { purpose: self, positions: g.positions(), mask: None };
        }
        let mask = g.attention_mask();
        // Padding before a text takes no positions; what stands there is never seen.
        let at = g.at("model.positions");
        let positions = at.sub(at.cumulative_sum(mask, 1), at.integer(1));
        Ends { purpose: self, positions, mask: Some(mask) }
    }
}

/// How a call begins and ends.
#[derive(Clone, Copy)]
pub(super) struct Ends<'g> {
    purpose: Purpose,
    /// Where each token stands, `i64[B, S]`.
    pub(super) positions: Value<'g>,
    /// 1 for a token, 0 for padding, `i64[B, S]`; not for generation.
    mask: Option<Value<'g>>,
}

impl<'g> Ends<'g> {
    /// Where each layer's keys are: in a slot of these forms, or in the call.
    pub(super) fn keys(self, g: &'g GraphBuilder<'g>, slots: &[Kv]) -> Vec<Keys<'g>> {
        let keys = |(layer, &slot): (u64, &Kv)| match self.mask {
            None => Keys::Kept(g.kv(layer, slot)),
            Some(mask) => Keys::OfCall(mask),
        };
        (0..).zip(slots).map(keys).collect()
    }

    /// The final norm and the output.
    pub(super) fn finish(
        self,
        g: &'g GraphBuilder<'g>,
        ids: Value<'g>,
        h: Value<'g>,
        norm: (&str, Norm),
        head: &lm::Head<'_>,
    ) {
        let normed = || norm.1.apply(g.at(norm.0), h);
        match (self.purpose, self.mask) {
            (Purpose::Classify { classes, padding }, Some(mask)) => {
                let at = g.at("last");
                let kept = match padding {
                    Some(padding) => {
                        let is_padding = at.onnx("Equal", &[ids, at.integer(padding)], &[]);
                        at.choose(is_padding, at.integer(0), mask)
                    }
                    None => mask,
                };
                let last = pool::last(at, normed(), kept);
                g.output("logits", Role::Classes, linear(g.at("score"), last, &Linear::to(classes).bias(Bias::No)));
            }
            (Purpose::Embed, _) => g.output("output", Role::Hidden, normed()),
            _ => lm::tail(g.root(), h, self.positions, norm, head),
        }
    }
}

/// Where the keys and values of a layer are.
#[derive(Clone, Copy)]
pub(super) enum Keys<'g> {
    /// Kept from call to call.
    Kept(Slot<'g>),
    /// In the call, of which the mask keeps some.
    OfCall(Value<'g>),
}

impl<'g> Keys<'g> {
    /// Attention of the queries to the keys that there are.
    pub(super) fn attend(self, at: Scope<'g>, heads: Heads<'g>, positions: Value<'g>, how: Attn) -> Value<'g> {
        let Heads { q, k, v } = heads;
        match self {
            Keys::Kept(slot) => {
                slot.write(at, [k, v], positions);
                attention(at, q, slot, positions, how)
            }
            Keys::OfCall(mask) => {
                let count = q.ty().and_then(|ty| ty.dims.get(2).and_then(|dim| dim.fixed())).unwrap_or(0);
                let sinks = how.sinks.map(|name| at.weight_of_shape(at.tensor(name), &[count]));
                let op = Op::Attention(Attention { scale: how.scale, mask: how.mask, softcap: how.softcap });
                at.node(op, &[Some(q), Some(k), Some(v), None, Some(mask), None, sinks])
            }
        }
    }
}
