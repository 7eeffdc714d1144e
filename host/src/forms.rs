//! In which form weights reach a graph: as they are stored, dense, or quantised on the way.
//!
//! Two questions, each with a flag: what becomes of weights that are stored quantised, and whether the others shall be. Both
//! are answered by a source of tensors, so neither descriptions nor passes know of them.

use anyhow::{Context as _, Result};
use qeff_core::lower::Products;
use qeff_core::passes::{self, PassReport};
use qeff_core::weights::{Facets, Quantised, Scheme, TensorSource};
use qeff_plugin_api::graph::Model;

/// The forms that were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WeightForms {
    /// What becomes of weights that are stored quantised.
    pub stored: Stored,
    /// How the others are quantised, if they shall be.
    pub quantise: Option<Scheme>,
    /// What products with quantised weights are computed in.
    pub products: Products,
}

/// What becomes of weights that are stored quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stored {
    /// They stay quantised wherever the target can multiply with them as they are.
    #[default]
    Keep,
    /// They become dense.
    Dequantise,
}

impl WeightForms {
    /// Puts quantised tensors in the place of the model's weights, if that was asked for, and returns the source that has
    /// them.
    ///
    /// # Errors
    /// If a weight cannot be evaluated.
    pub fn quantised<'s>(
        &self,
        model: &mut Model,
        source: &'s dyn TensorSource,
    ) -> Result<(Quantised<'s>, Option<PassReport>)> {
        let Some(scheme) = self.quantise else { return Ok((Quantised::new(source, &[])?, None)) };
        let facets = Facets::new(source);
        let stored = (self.stored == Stored::Keep).then(|| facets.blocks());
        let (tensors, report) = passes::quantise(model, source.index(), stored, scheme);
        let quantised = Quantised::new(source, &tensors).context("a weight cannot be quantised")?;
        Ok((quantised, Some(report)))
    }

    /// The facets that lowering may use.
    pub fn facets<'s>(&self, quantised: &'s Quantised<'_>) -> Facets<'s> {
        Facets::keeping(quantised, &|tensor| self.stored == Stored::Keep || quantised.makes(tensor))
    }
}
