//! Rotary embeddings: the scaling rules of config.json, and the table they make.
//!
//! Both spellings are read: `rope_theta` + `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5). The
//! rules follow transformers' `modeling_rope_utils`; those that depend on the current length (dynamic, longrope) are
//! decided later, when it is known how far a request can reach.

use crate::WeightExpr;
use crate::build::{Scope, Value};
use crate::config::{Config, ConfigError};
use crate::graph::{Op, Rotary, RotaryLayout};
use crate::weight::{RopeKind, RopePart, RopeTable};

/// What config.json says about rotary embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// The scaling rule.
    pub kind: RopeKind,
    /// `rope_theta`.
    pub base: f32,
    /// Rotated width, even, at most the head width.
    pub width: u64,
    /// Positions the model was made for: length of the table.
    pub positions: u64,
}

/// What the family, rather than the file, decides.
#[derive(Debug, Clone, Copy)]
pub struct RopeDefaults {
    /// Head width.
    pub head_dim: u64,
    /// `max_position_embeddings`.
    pub positions: u64,
    /// `rope_theta` if the file says nothing.
    pub base: f32,
    /// Whether the family can rotate a part of the head only.
    pub partial: bool,
}

impl RopeConfig {
    /// Reads `rope_parameters`, or `rope_theta` and `rope_scaling`.
    ///
    /// # Errors
    /// If a field is missing, malformed, or asks for a rule that is not supported.
    pub fn read(config: &Config, family: &RopeDefaults) -> Result<Self, ConfigError> {
        let theta = config.positive_or("rope_theta", family.base)?;
        let partial = config.positive_or("partial_rotary_factor", 1.0)?;
        let v5 = config.opt_object("rope_parameters")?;
        let v4 = config.opt_object("rope_scaling")?;
        let (base, partial, rule) = match (v5, v4) {
            (Some(rule), _) => {
                let partial = rule.positive_or("partial_rotary_factor", partial)?;
                (rule.positive_or("rope_theta", theta)?, partial, Some(rule))
            }
            (None, rule) => (theta, partial, rule),
        };
        let width = (family.head_dim as f32 * partial) as u64;
        if partial > 1.0 || (partial < 1.0 && !family.partial) {
            return Err(config.unsupported("partial_rotary_factor", "1 (this family rotates whole heads)"));
        }
        if !width.is_multiple_of(2) || width == 0 {
            return Err(config.unsupported("head_dim", format!("an even rotated width of 2 or more, not {width}")));
        }
        let kind = match rule {
            None => RopeKind::Default,
            Some(rule) => read_rule(config, &rule, width, family.positions)?,
        };
        Ok(RopeConfig { kind, base, width, positions: family.positions })
    }

    fn table(&self, part: RopePart) -> WeightExpr {
        WeightExpr::Rope(RopeTable {
            part,
            kind: self.kind.clone(),
            base: self.base,
            width: self.width,
            positions: self.positions,
            reach: 0,
        })
    }
}

fn read_rule(config: &Config, rule: &Config, width: u64, positions: u64) -> Result<RopeKind, ConfigError> {
    // Old files say `type`, many say both. Which of two different ones wins depends on the family in transformers.
    let (old, new) = (rule.opt_text("type")?, rule.opt_text("rope_type")?);
    if let (Some(old), Some(new)) = (&old, &new)
        && old != new
    {
        return Err(rule.unsupported("rope_type", format!("{old:?}, as `type` beside it says")));
    }
    let name = new.or(old);
    let original = || match rule.opt_u64("original_max_position_embeddings")? {
        Some(0) | None => Ok(positions),
        Some(n) => Ok(n),
    };
    match name.as_deref().unwrap_or("default") {
        "default" => Ok(RopeKind::Default),
        "linear" => Ok(RopeKind::Linear { factor: rule.positive("factor")? }),
        "dynamic" => {
            // transformers reads this field for other rules and takes the model's own window here.
            rule.opt_u64("original_max_position_embeddings")?;
            Ok(RopeKind::Dynamic { factor: rule.positive("factor")?, original: positions })
        }
        "llama3" => Ok(RopeKind::Llama3 {
            factor: rule.positive("factor")?,
            low_freq_factor: rule.positive("low_freq_factor")?,
            high_freq_factor: rule.positive("high_freq_factor")?,
            original: rule.count("original_max_position_embeddings")?,
        }),
        "yarn" => {
            let factor = rule.positive("factor")?;
            let nonzero = |key: &str, default: f32| Ok(rule.opt_f32(key)?.filter(|x| *x != 0.0).unwrap_or(default));
            Ok(RopeKind::Yarn {
                factor,
                beta_fast: nonzero("beta_fast", 32.0)?,
                beta_slow: nonzero("beta_slow", 1.0)?,
                original: original()?,
                truncate: rule.flag_or("truncate", true)?,
                attention_factor: yarn_attention_factor(rule, factor)?,
            })
        }
        "longrope" | "su" => longrope(config, rule, width, positions),
        _ => Err(rule.unsupported(
            if rule.has("rope_type") { "rope_type" } else { "type" },
            "default, linear, dynamic, llama3, yarn or longrope",
        )),
    }
}

/// The given `attention_factor`, or `0.1 · mscale · ln(factor) + 1` in the variant the file asks for.
fn yarn_attention_factor(rule: &Config, factor: f32) -> Result<f32, ConfigError> {
    let of = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * f64::from(factor).ln() + 1.0 };
    let given = rule.opt_f32("attention_factor")?;
    let (mscale, all_dim) = (rule.opt_f32("mscale")?, rule.opt_f32("mscale_all_dim")?);
    Ok(match (given, mscale, all_dim) {
        (Some(given), _, _) => given,
        (None, Some(m), Some(all)) if m != 0.0 && all != 0.0 => (of(f64::from(m)) / of(f64::from(all))) as f32,
        _ => of(1.0) as f32,
    })
}

fn longrope(config: &Config, rule: &Config, width: u64, positions: u64) -> Result<RopeKind, ConfigError> {
    let divisors = |key: &str| {
        let numbers = rule.numbers(key)?;
        let right = numbers.len() as u64 == width / 2 && numbers.iter().all(|x| *x > 0.0);
        if right { Ok(numbers) } else { Err(rule.unsupported(key, format!("{} numbers above 0", width / 2))) }
    };
    let factor = rule.opt_f32("factor")?;
    // The window of the pre-trained model stands at the top of the file; transformers 4 looks nowhere else.
    let (original, factor) = match config.opt_u64("original_max_position_embeddings")?.filter(|n| *n > 0) {
        Some(original) => (original, positions as f64 / original as f64),
        None => {
            rule.opt_u64("original_max_position_embeddings")?;
            (positions, factor.map_or(1.0, f64::from))
        }
    };
    let attention_factor = match rule.opt_f32("attention_factor")? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / (original as f64).ln()).sqrt() as f32,
    };
    Ok(RopeKind::LongRope {
        short: divisors("short_factor")?,
        long: divisors("long_factor")?,
        original,
        attention_factor,
    })
}

/// The two halves of a rotary table in a graph.
#[derive(Clone, Copy)]
pub struct Rope<'g> {
    cos: Value<'g>,
    sin: Value<'g>,
}

impl<'g> Rope<'g> {
    /// The table of a config, in this scope.
    pub fn table(at: Scope<'g>, config: &RopeConfig) -> Self {
        Rope { cos: at.weight(config.table(RopePart::Cos)), sin: at.weight(config.table(RopePart::Sin)) }
    }
}

/// `x[B, S, heads, D]` turned by the rows of the table at `positions`, first half of the width with the second.
pub fn rotary<'g>(at: Scope<'g>, x: Value<'g>, rope: Rope<'g>, positions: Value<'g>) -> Value<'g> {
    let op = Op::Rotary(Rotary { layout: RotaryLayout::Half });
    at.node(op, &[Some(x), Some(rope.cos), Some(rope.sin), Some(positions)])
}
