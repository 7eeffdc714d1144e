//! Flags that say in which form weights are multiplied; shared by the verbs that make graphs.

use anyhow::{Result, bail};
use qeff_core::lower::{Products, Quantised, Target};
use qeff_core::weights::{CodeBits, Scheme};
use serde_json::{Value, json};

use super::talk;
use crate::forms::{Stored, WeightForms};

/// Forms of weights.
#[derive(Debug, clap::Args)]
pub(crate) struct FormArgs {
    /// Weights that are stored quantised: multiplied as they are where the target can do that, or made dense.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = StoredArg::Keep)]
    quantized: StoredArg,
    /// Other weights: as they are, or quantised to four or eight bits on the way (target cpu). Projections only; the head
    /// gets eight bits.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = WeightsArg::Keep)]
    weights: WeightsArg,
    /// How --weights maps numbers to codes: zero is a code, or codes go from the smallest number of a block to its largest,
    /// which is more exact, a little larger and slower [default: symmetric].
    #[arg(long, value_enum, value_name = "HOW")]
    weights_zero: Option<ZeroArg>,
    /// Numbers that share a scale with --weights: 16, 32, 64, 128 or 256 [default: 32].
    #[arg(long, value_name = "N", value_parser = block_length)]
    weights_block: Option<u64>,
    /// In what products with quantised weights are computed on the CPU: exactly, or faster with activations rounded to
    /// eight bits.
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = ActivationsArg::F32)]
    activations: ActivationsArg,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum StoredArg {
    Keep,
    Dequantize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WeightsArg {
    Keep,
    Int4,
    Int8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ZeroArg {
    Symmetric,
    Asymmetric,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ActivationsArg {
    F32,
    Int8,
}

fn block_length(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(length @ (16 | 32 | 64 | 128 | 256)) => Ok(length),
        _ => Err("expected 16, 32, 64, 128 or 256".into()),
    }
}

impl FormArgs {
    /// The forms that the flags ask of `target`.
    pub(crate) fn forms(&self, target: Target) -> Result<WeightForms> {
        let bits = match self.weights {
            WeightsArg::Keep => None,
            WeightsArg::Int4 => Some(CodeBits::Four),
            WeightsArg::Int8 => Some(CodeBits::Eight),
        };
        if bits.is_none() && (self.weights_zero.is_some() || self.weights_block.is_some()) {
            bail!("--weights-zero and --weights-block say how --weights int4 or int8 quantises; it is not given");
        }
        if target == Target::Aic {
            if bits.is_some() {
                bail!(
                    "--weights: expected keep for target aic, whose compiler quantises float weights itself (mxfp6); int4 and \
                     int8 are for target cpu"
                );
            }
            if self.activations == ActivationsArg::Int8 {
                bail!("--activations: expected f32 for target aic, which has no such choice; int8 is for target cpu");
            }
        }
        let scheme = |bits| Scheme {
            bits,
            length: self.weights_block.unwrap_or(32),
            symmetric: self.weights_zero != Some(ZeroArg::Asymmetric),
        };
        Ok(WeightForms {
            stored: match self.quantized {
                StoredArg::Keep => Stored::Keep,
                StoredArg::Dequantize => Stored::Dequantise,
            },
            quantise: bits.map(scheme),
            products: match self.activations {
                ActivationsArg::F32 => Products::F32,
                ActivationsArg::Int8 => Products::Int8,
            },
        })
    }
}

/// Says what became of quantised weights, if there are any.
pub(crate) fn say(quantised: &Quantised) {
    if !quantised.is_empty() {
        talk::say(&quantised.to_string());
    }
}

/// What [`say`] says, for scripts.
pub(crate) fn report(quantised: &Quantised) -> Value {
    json!({ "kept": quantised.kept, "dequantized": quantised.dense })
}
