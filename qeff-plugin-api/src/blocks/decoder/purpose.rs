//! What a decoder is for: text that goes on, vectors of whole texts, or their classes.
//!
//! Layers are the same. One that generates keeps keys and values from call to call; the others see a text once, padded to
//! the length of a call, so their keys are those of the call.

use super::Heads;
use crate::blocks::encoder::classes;
use crate::blocks::{Attn, Bias, Linear, attention, linear, pool};
use crate::build::{Scope, Slot, Value};
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

    /// What goes out of the normed hidden states `h[B, S, N]` of whole texts, whose ids and mask are `[B, S]`.
    pub(super) fn finish<'g>(self, root: Scope<'g>, h: Value<'g>, (ids, mask): (Value<'g>, Value<'g>)) {
        let Purpose::Classify { classes, padding } = self else {
            return root.builder().output("output", Role::Hidden, h);
        };
        let at = root.at("last");
        let kept = match padding {
            Some(padding) => {
                let is_padding = at.onnx("Equal", &[ids, at.integer(padding)], &[]);
                at.choose(is_padding, at.integer(0), mask)
            }
            None => mask,
        };
        let last = pool::last(at, h, kept);
        let scores = linear(root.at("score"), last, &Linear::to(classes).bias(Bias::No));
        root.builder().output("logits", Role::Classes, scores);
    }
}

/// Where each token of whole texts stands: padding before a text takes no positions, and what stands there is never seen.
pub(super) fn positions<'g>(at: Scope<'g>, mask: Value<'g>) -> Value<'g> {
    at.sub(at.cumulative_sum(mask, 1), at.integer(1))
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
    /// Keeps keys and values for later, if they are kept at all.
    pub(super) fn keep(self, at: Scope<'g>, rows: [Value<'g>; 2], positions: Value<'g>) {
        if let Keys::Kept(slot) = self {
            slot.write(at, rows, positions);
        }
    }

    /// Attention of queries to what is kept. Where nothing is, the description fails for want of keys.
    pub(super) fn look(self, at: Scope<'g>, q: Value<'g>, positions: Value<'g>, how: Attn) -> Value<'g> {
        match self {
            Keys::Kept(slot) => attention(at, q, slot, positions, how),
            Keys::OfCall(mask) => Self::of_call(at, [Some(q), None, None], mask, how),
        }
    }

    /// Attention of queries to the keys that there are, these among them.
    pub(super) fn attend(self, at: Scope<'g>, heads: Heads<'g>, positions: Value<'g>, how: Attn) -> Value<'g> {
        let Heads { q, k, v } = heads;
        match self {
            Keys::Kept(_) => {
                self.keep(at, [k, v], positions);
                self.look(at, q, positions, how)
            }
            Keys::OfCall(mask) => Self::of_call(at, [q, k, v].map(Some), mask, how),
        }
    }

    fn of_call(at: Scope<'g>, [q, k, v]: [Option<Value<'g>>; 3], mask: Value<'g>, how: Attn) -> Value<'g> {
        let heads = q.and_then(|q| q.ty()?.dims.get(2)?.fixed()).unwrap_or(0);
        let sinks = how.sinks.map(|name| at.weight_of_shape(at.tensor(name), &[heads]));
        let op = Op::Attention(Attention { scale: how.scale, mask: how.mask, softcap: how.softcap });
        at.node(op, &[q, k, v, None, Some(mask), None, sinks])
    }
}
