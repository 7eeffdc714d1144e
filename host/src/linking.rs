//! Linked export: which weights stay where the checkpoint has them.
//!
//! What a target can refer to differs. CPU engines read external data in place, so a tensor must be aligned and of a type
//! that they have. The AI 100 compiler is given names of tensors in safetensors files, and reads any of them. Everything else
//! is either made by nodes of the graph or packed.
//!
//! bf16 is the awkward one: ONNX Runtime reads it, rten refuses the file. Unless it is said what to do, a model of a size
//! that rten is used for has such weights packed, and a larger one stays without weights.

use std::path::Path;

use anyhow::{Result, bail};
use qeff_core::lower::{self, Target, Tensors, WeightsAs};
use qeff_core::onnx::Storage;
use qeff_core::passes::Features;
use qeff_core::weights::TensorSource;
use qeff_plugin_api::DType;
use qeff_plugin_api::graph::Model;

use crate::checkpoint::Checkpoint;
use crate::prepare::{Prepared, prepare};

/// What becomes of weights that are stored in another type or layout than the graph wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remainder {
    /// Nodes of the graph make them.
    Nodes,
    /// They are written beside the model.
    Packed,
}

/// Most bytes of f32 that weights stored as bf16 are packed to without being asked.
const MOST_UNASKED: u64 = 8 << 30;

/// A linked export in the making.
pub struct Linking<'a> {
    weights: &'a dyn TensorSource,
    folder: &'a Path,
    target: Target,
    remainder: Remainder,
    /// Whether bf16 is read where it lies.
    bf16: bool,
}

impl<'a> Linking<'a> {
    /// For `target`, with the files of `checkpoint` linked, of which `weights` is made. Without `remainder`, nodes make whatever the target reads.
    ///
    /// # Errors
    /// If the target cannot refer to files of the checkpoint's format.
    pub fn new(
        checkpoint: &'a Checkpoint,
        weights: &'a dyn TensorSource,
        target: Target,
        remainder: Option<Remainder>,
    ) -> Result<Self> {
        let folder = checkpoint.dir.as_path();
        if target == Target::Aic && !folder.is_dir() {
            bail!(
                "{} is a GGUF file, and the AI 100 compiler reads linked weights from safetensors files only: \
                 use --storage packed",
                folder.display()
            );
        }
        if let (Target::Aic, Some(format)) = (target, checkpoint.weights.foreign_format()) {
            bail!(
                "the weights of {} are in the format {format} of a plugin, and the AI 100 compiler reads linked weights from \
                 safetensors files only: use --storage packed",
                folder.display()
            );
        }
        let bf16 = match (target, remainder) {
            (Target::Cpu, None) => bytes_from_bf16(weights) > MOST_UNASKED,
            _ => true,
        };
        Ok(Self { weights, folder, target, remainder: remainder.unwrap_or(Remainder::Nodes), bf16 })
    }

    /// What not every engine will like about an export.
    pub fn warning(&self) -> Option<&'static str> {
        let refused = self.target == Target::Cpu && self.remainder == Remainder::Nodes && self.bf16;
        (refused && bytes_from_bf16(self.weights) > 0).then_some(
            "weights stay bf16 in the checkpoint's files, which ONNX Runtime reads and rten refuses; --remainder packed \
             writes them as f32",
        )
    }

    /// Applies `features` and lowers every program as `how` says, but with weights as they are stored where that is wanted.
    ///
    /// # Errors
    /// If a pass refuses or the target cannot express the model.
    pub fn prepare<'t>(
        &self,
        model: Model,
        tensors: impl Into<Tensors<'t>>,
        features: &Features,
        how: lower::Options<'_>,
    ) -> Result<Prepared> {
        let usable = |tensor: &str, wanted: DType| self.is_usable(tensor, wanted);
        let weights = match self.remainder {
            Remainder::Packed => WeightsAs::Wanted,
            Remainder::Nodes => WeightsAs::Stored { usable: &usable, runs: self.target == Target::Cpu },
        };
        prepare(model, tensors.into(), features, lower::Options { weights, ..how })
    }

    /// How weights are stored in the export of `model`.
    pub fn storage<'m>(&'m self, model: &'m Model) -> Storage<'m> {
        match self.target {
            Target::Cpu => Storage::Linked,
            Target::Aic => Storage::WeightSpec { model_name: &model.architecture, checkpoint: self.folder },
        }
    }

    /// Whether nodes can make of a stored tensor what is wanted.
    fn is_usable(&self, tensor: &str, wanted: DType) -> bool {
        let Some(view) = self.weights.stored(tensor) else { return false };
        // Evaluation converts numbers to numbers, and so does a Cast; what it refuses shall not slip by here.
        let converts = view.dtype == wanted || (view.dtype.is_float() && wanted.is_float());
        let readable = match self.target {
            Target::Aic => true,
            Target::Cpu => view.is_aligned() && (view.dtype != DType::BF16 || self.bf16),
        };
        converts && readable
    }
}

/// Bytes that the tensors stored as bf16 have as f32.
fn bytes_from_bf16(weights: &dyn TensorSource) -> u64 {
    let bf16 = weights.index().iter().filter(|(_, info)| info.dtype == DType::BF16);
    let stored = bf16.filter_map(|(name, _)| weights.stored(name)).map(|view| view.length);
    stored.fold(0, |sum: u64, length| sum.saturating_add(length.saturating_mul(2)))
}
