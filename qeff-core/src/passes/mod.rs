//! Features, as passes over the semantic graph.
//!
//! A pass looks for operators, states and roles, never for names or families, so it works for an architecture that was
//! written after it. Each says what it did in a [`PassReport`], or refuses with the reason; a refused pass leaves the
//! model as it was. The order is fixed ([`apply`]), so a result does not depend on how it was asked for.

mod batching;
mod context;
mod dtype;
mod guards;
mod join;
mod last_k;
mod packing;
mod quantise;
mod reach;

use std::fmt;

use qeff_plugin_api::DType;
use qeff_plugin_api::graph::Model;

pub use guards::{FILLED, KEPT, guards};
pub use join::join;
pub use packing::fix_packing;
pub use quantise::quantise;

/// Which features a model gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// Logits of the last k valid positions instead of the last one; k is the length of input `num_logits_to_keep`.
    pub last_k: bool,
    /// Attention reads the beginning of the cache only; how much is the length of input `comp_ctx_lengths`.
    pub context: bool,
    /// Continuous batching: states have a slot axis of their own, and rows say which slot they use.
    pub batching: bool,
    /// Element type of activations, states and weights; as described if nobody asks.
    pub act: Option<DType>,
    /// Positions a request can reach (exclusive), for rotary rules that depend on the current length; 0 if unknown.
    pub reach: u64,
}

/// What a pass did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassReport {
    /// Name of the pass.
    pub pass: &'static str,
    /// What was changed, in words with counts.
    pub did: Vec<String>,
    /// What the user should know: results that are not what the unchanged model computes.
    pub warnings: Vec<String>,
}

impl PassReport {
    fn new(pass: &'static str) -> Self {
        PassReport { pass, did: vec![], warnings: vec![] }
    }
}

impl fmt::Display for PassReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pass, if self.did.is_empty() { "nothing to do".into() } else { self.did.join(", ") })
    }
}

/// Why a pass cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pass {pass} cannot be applied to {place}: {why}")]
pub struct Refusal {
    /// Name of the pass.
    pub pass: &'static str,
    /// Program, and node if one is to blame.
    pub place: String,
    /// The precondition that does not hold.
    pub why: String,
}

/// Applies the asked-for passes in their fixed order.
///
/// # Errors
/// The first refusal; the model is then unchanged by the pass that refused.
pub fn apply(model: &mut Model, features: &Features) -> Result<Vec<PassReport>, Refusal> {
    let mut reports = vec![];
    if let Some(act) = features.act {
        reports.push(dtype::apply(model, act)?);
    }
    // The order is also that of the inputs they add, which is the reference's: comp_ctx_lengths, batch_index,
    // num_logits_to_keep.
    if features.context {
        reports.push(context::apply(model)?);
    }
    if features.batching {
        reports.push(batching::apply(model)?);
    }
    if features.last_k {
        reports.push(last_k::apply(model)?);
    }
    if features.reach > 0 {
        reports.extend(reach::apply(model, features.reach));
    }
    Ok(reports)
}
