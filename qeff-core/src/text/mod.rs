//! The text form of a model: what a review reads and what a test writes.
//!
//! ```text
//! model "LlamaForCausalLM" qeff 1 task causal_lm positions 64
//! program main (batch_size, seq_len, ctx_len)
//!   %ids = input input_ids : i64[batch_size, seq_len] @tokens
//!   %pos = input position_ids : i64[batch_size, seq_len] @positions
//!   %k0, %v0 = State kv.0 names(past_key.0, past_value.0) : act[batch_size, 2, ctx_len, 8]
//!   model
//!     embed_tokens
//!       %0 = Embedding %ids, w"weight" : act[batch_size, seq_len, 32]
//!     layers.0
//!       self_attn
//!         %k0', %v0' = StateWrite (%k0, %v0) <- (%7, %5) at %pos
//!   …
//!   output logits = %20 : f32[batch_size, 1, 96] @logits
//! ```
//!
//! A line is a declaration, a node, an output or a heading. Headings are scopes, one segment a level of two spaces, an
//! index joined with the segment before it; a node stands below its scope's heading, and nodes keep their order, so a
//! heading comes again when the order returns to it. Weights stand where they are used, their tensors named from the
//! scope (`w"weight"`) or, with a slash, in full (`w"/lm_head.weight"`); only tables that are generated are declared
//! above the nodes. A prime marks the next version of a state. Attributes at their default are not written. Blank lines
//! and lines that begin with `#` are skipped.
//!
//! [`print()`] and [`parse()`] are inverse up to the numbering of handles, which [`compact()`] makes canonical. Every
//! result carries its type, and [`parse()`] compares it with what [`infer`](qeff_plugin_api::infer) says, so a text
//! cannot claim a shape. All else that makes a model valid is for [`crate::validate`]: a text may well hold a model that
//! it refuses, which is how its tests are written.

mod compact;
mod error;
mod parse;
mod print;
mod scan;
mod spell;
#[cfg(test)]
pub(crate) mod tests;

pub use compact::{compact, same};
pub use error::{ParseError, ParseErrorKind};
pub use parse::parse;
pub use print::print;

use qeff_plugin_api::graph::{Attention, Select, StateRead};

/// Labels of the optional operands of `Attention`, in the order in which they are written.
const ATTENTION_OPTIONAL: &[(&str, usize)] = &[
    ("at", Attention::POSITIONS),
    ("mask", Attention::KEY_MASK),
    ("batch", Attention::BATCH_INDEX),
    ("sinks", Attention::SINKS),
    ("context", Attention::CONTEXT),
    ("bias", Attention::BIAS),
];

/// Labels of the optional operands of `StateRead`.
const STATE_READ_OPTIONAL: &[(&str, usize)] = &[("batch", StateRead::BATCH_INDEX)];

/// Labels of the optional operands of `Select`.
const SELECT_OPTIONAL: &[(&str, usize)] = &[("keep", Select::KEEP)];
