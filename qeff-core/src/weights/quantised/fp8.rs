//! Eight-bit floats with scales: `fp8` (one scale, or one for each block of the matrix) and `fbgemm_fp8` (one for each
//! output).
//!
//! A scale named `weight_scale_inv` is not inverted: the weight is `scale · number` in all of them.

use qeff_plugin_api::config::{Config, ConfigError};

use super::coded::Coded;
use super::codes::Codes;
use super::error::QuantisedError;
use super::fields::inert;
use super::numbers::Numbers;
use super::part::Stored;
use super::shelf::Shelf;

/// Endings of the stored parts, beside the weight itself.
pub(super) const PARTS: &[&str] = &[".weight_scale", ".weight_scale_inv"];

/// What transformers takes for the block if a file does not say.
const BLOCK: [u64; 2] = [128, 128];

#[derive(Debug, Clone)]
pub(super) struct Fp8 {
    method: &'static str,
    /// Rows and columns that share a scale of `weight_scale_inv`.
    block: [u64; 2],
    /// Modules that are not quantised: names, or parts of names.
    skipped: Vec<String>,
}

impl Fp8 {
    pub(super) fn read(config: &Config) -> Result<Self, ConfigError> {
        if config.opt_text("activation_scheme")?.is_some_and(|scheme| !["dynamic", "static"].contains(&scheme.as_str()))
        {
            return Err(config.unsupported("activation_scheme", "dynamic or static"));
        }
        if config.opt_text("fmt")?.is_some_and(|fmt| fmt != "e4m3") {
            return Err(config.unsupported("fmt", "e4m3"));
        }
        let block = match config.has("weight_block_size") {
            false => BLOCK,
            true => sides(config, "weight_block_size")?,
        };
        // How the scales were rounded shows in the scales.
        inert(config, &["scale_fmt"]);
        let mut skipped = config.texts("modules_to_not_convert")?;
        skipped.extend(config.texts("ignored_layers")?);
        Ok(Fp8 { method: "fp8", block, skipped })
    }

    pub(super) fn read_fbgemm(config: &Config) -> Result<Self, ConfigError> {
        inert(config, &["activation_scale_ub"]);
        Ok(Fp8 { method: "fbgemm_fp8", block: BLOCK, skipped: config.texts("modules_to_not_convert")? })
    }

    pub(super) fn describe(&self) -> String {
        self.method.into()
    }

    pub(super) fn assemble(&self, shelf: &mut Shelf<'_>) -> Result<(), QuantisedError> {
        for module in shelf.modules(".weight") {
            let Some(stored) = shelf.peek(&module, ".weight") else { continue };
            let Stored::Float8(float) = stored.stored else { continue };
            let (scale, block) = match shelf.opt(&module, ".weight_scale_inv") {
                Some(scale) => (scale, Some(self.block)),
                None if self.skips(&module) && shelf.peek(&module, ".weight_scale").is_none() => continue,
                None => (shelf.take(&module, ".weight_scale", &stored)?, None),
            };
            if self.skips(&module) {
                let expected = "no scale: the config says that this module is not quantised";
                return Err(scale.refuse(expected.into(), format!("one, beside a weight of {}", stored.stored)));
            }
            let stored = shelf.take(&module, ".weight", &scale)?.ranked(2)?;
            let coded =
                Coded::scaled(self.method, Codes::bytes(stored)?, Numbers::Float(float), scale.float()?, block)?;
            let shape = vec![coded.codes.rows, coded.codes.columns];
            shelf.put(format!("{module}.weight"), shape, coded)?;
        }
        Ok(())
    }

    /// Whether the config says that a module is not quantised: by its name, or by parts of it from dot to dot.
    fn skips(&self, module: &str) -> bool {
        let module = format!(".{module}.");
        self.skipped.iter().any(|skipped| module.contains(&format!(".{skipped}.")))
    }
}

/// Rows and columns of a block.
pub(super) fn sides(config: &Config, key: &str) -> Result<[u64; 2], ConfigError> {
    match config.numbers(key)?[..] {
        [rows, columns] if [rows, columns].iter().all(|side| side.fract() == 0.0 && (1.0..=16e6).contains(side)) => {
            Ok([rows as u64, columns as u64])
        }
        _ => Err(config.unsupported(key, "two whole numbers of 1 or more")),
    }
}
