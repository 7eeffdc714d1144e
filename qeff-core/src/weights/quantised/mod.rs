//! Quantised checkpoints: safetensors files that keep a weight as small codes with scales, in several tensors.
//!
//! [`Quantization`] is what a config says about that; [`Checkpoint::dequantised`] puts the logical tensors together. From
//! then on there are tensors of f32 under the names and in the orientation that a model has without quantisation, which
//! are decoded while they are lent: neither plugins nor passes know that there was another form.
//!
//! One file for each scheme says which tensors it stores and what its config fields mean. They all make a `Coded`, whose
//! codes, scales, zero points and groups are read in one place each.
//!
//! Activations are not quantised, whatever a config says of them: what is computed is what the weights mean.

mod awq;
mod coded;
mod codes;
mod compressed;
mod error;
mod fields;
mod fp8;
mod gptq;
mod grid;
mod kept;
mod mxfp4;
mod numbers;
mod part;
mod shelf;

use qeff_plugin_api::config::{Config, ConfigError};

use super::checkpoint::{Checkpoint, CheckpointError};
use awq::Awq;
use compressed::Compressed;
use fp8::Fp8;
use gptq::Gptq;
use mxfp4::Mxfp4;
use shelf::{Cleared, Shelf};

pub(super) use coded::Coded;
pub use error::QuantisedError;
pub(super) use numbers::Float8;
pub(super) use part::{Part, Stored};

/// The schemes by the name that `quant_method` gives them.
const METHODS: &str = "awq, gptq, compressed-tensors, fbgemm_fp8, fp8 or mxfp4";

/// How the weights of a checkpoint are quantised, as its config says.
#[derive(Debug)]
pub struct Quantization {
    scheme: Scheme,
    /// Fields that ask for quantised activations or caches.
    activations: Vec<String>,
}

#[derive(Debug)]
enum Scheme {
    Awq(Awq),
    Gptq(Gptq),
    Compressed(Compressed),
    Fp8(Fp8),
    Mxfp4(Mxfp4),
}

impl Quantization {
    /// Reads `quantization_config` (or `compression_config`, its older name) of a config; `None` if there is neither.
    ///
    /// Every field of it that changes a weight is read or refused; others stay unread.
    ///
    /// # Errors
    /// If a scheme or a value is not supported.
    pub fn read(config: &Config) -> Result<Option<Self>, ConfigError> {
        if let Some(quantization) = config.opt_object("quantization_config")? {
            config.refuse("compression_config", "nothing beside `quantization_config`")?;
            return Self::read_object(&quantization).map(Some);
        }
        let Some(compression) = config.opt_object("compression_config")? else { return Ok(None) };
        match compression.opt_object("quantization_config")? {
            Some(quantization) => {
                compression.refuse("sparsity_config", "none")?;
                Self::read_object(&quantization)
            }
            None => Self::read_object(&compression),
        }
        .map(Some)
    }

    fn read_object(config: &Config) -> Result<Self, ConfigError> {
        let method = config.opt_text("quant_method")?.map(|method| method.to_lowercase());
        let scheme = match method.as_deref() {
            Some("awq") => Scheme::Awq(Awq::read(config)?),
            Some("gptq") => Scheme::Gptq(Gptq::read(config)?),
            // Files from before the name have groups and no method.
            Some("compressed-tensors" | "sparseml") => Scheme::Compressed(Compressed::read(config)?),
            None if config.has("config_groups") => Scheme::Compressed(Compressed::read(config)?),
            Some("fbgemm_fp8") => Scheme::Fp8(Fp8::read_fbgemm(config)?),
            Some("fp8") => Scheme::Fp8(Fp8::read(config)?),
            Some("mxfp4") => Scheme::Mxfp4(Mxfp4::read(config)?),
            _ => return Err(config.unsupported("quant_method", METHODS)),
        };
        let mut activations = vec![];
        for field in ["activation_scheme", "activation_scale_ub", "kv_cache_scheme"] {
            if config.mentions(field) && config.has(field) {
                config.pass_over(field);
                activations.push(field.to_owned());
            }
        }
        if let Some(groups) = config.opt_object("config_groups")? {
            for name in groups.keys() {
                let Ok(Some(group)) = groups.opt_object(name) else { continue };
                let fields = compressed::ACTIVATIONS.iter().filter(|field| group.has(field));
                activations.extend(fields.map(|field| (*field).to_owned()));
            }
        }
        activations.dedup();
        Ok(Quantization { scheme, activations })
    }

    /// The scheme in a few words.
    pub fn describe(&self) -> String {
        match &self.scheme {
            Scheme::Awq(scheme) => scheme.describe(),
            Scheme::Gptq(scheme) => scheme.describe(),
            Scheme::Compressed(scheme) => scheme.describe(),
            Scheme::Fp8(scheme) => scheme.describe(),
            Scheme::Mxfp4(scheme) => scheme.describe(),
        }
    }

    /// Fields that ask for quantised activations or a quantised cache, which are computed as they are.
    pub fn activations(&self) -> &[String] {
        &self.activations
    }

    fn assemble(&self, shelf: &mut Shelf<'_>) -> Result<(), QuantisedError> {
        match &self.scheme {
            Scheme::Awq(scheme) => scheme.assemble(shelf),
            Scheme::Gptq(scheme) => scheme.assemble(shelf),
            Scheme::Compressed(scheme) => scheme.assemble(shelf),
            Scheme::Fp8(scheme) => scheme.assemble(shelf),
            Scheme::Mxfp4(scheme) => scheme.assemble(shelf),
        }
    }

    /// Endings of the tensors that are parts of a weight.
    fn parts(&self) -> &'static [&'static str] {
        match &self.scheme {
            Scheme::Awq(_) => awq::PARTS,
            Scheme::Gptq(_) => gptq::PARTS,
            Scheme::Compressed(_) => compressed::PARTS,
            Scheme::Fp8(_) => fp8::PARTS,
            Scheme::Mxfp4(_) => mxfp4::PARTS,
        }
    }
}

impl Checkpoint {
    /// The checkpoint with its logical tensors in place of the stored parts. Tensors that are stored whole stay as they
    /// are.
    ///
    /// # Errors
    /// If a part is missing, left over, or not what the others need, or nothing is quantised; without `quantization`, if a
    /// tensor cannot be read without one.
    pub fn dequantised(mut self, quantization: Option<&Quantization>) -> Result<Self, CheckpointError> {
        let Some(quantization) = quantization else {
            self.check_unquantised()?;
            return Ok(self);
        };
        let mut shelf = Shelf::new(&self);
        quantization.assemble(&mut shelf)?;
        let Cleared { made, hidden } = shelf.clear(quantization.parts())?;
        if let ([], Some(file)) = (&made[..], self.files().first()) {
            let (path, scheme) = (file.path().to_owned(), quantization.describe());
            return Err(CheckpointError::NotQuantized { path, scheme, parts: quantization.parts().join(", ") });
        }
        for name in &hidden {
            self.hide(name);
        }
        for (name, info, coded) in made {
            self.insert_coded(name, info, coded);
        }
        Ok(self)
    }

    /// Refuses weights that mean something else than what is stored: those with a scale beside them that nobody reads.
    fn check_unquantised(&self) -> Result<(), QuantisedError> {
        for name in self.stored_names() {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            for ending in fp8::PARTS {
                if let (Some(Stored::Float8(_)), Some(scale)) =
                    (self.part(name).map(|part| part.stored), self.part(&format!("{module}{ending}")))
                {
                    let expected =
                        "`quantization_config` in config.json, which says how it scales the weight beside it";
                    return Err(scale.refuse(expected.into(), "a config without it".into()));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod layouts_tests;
#[cfg(test)]
mod tests;
