//! Loads a lowered program into the CPU engine without copying what can be used where it lies.
//!
//! A weight that is a stored f32 tensor as it stands is handed to the engine as a piece of the mapped checkpoint. What must
//! be converted (bf16, f16, rotary tables) is packed into a file that has no name any more once it is mapped, so nothing is
//! left behind however the process ends, and the system may drop its pages when memory is short.

use std::sync::Arc;

use prost::Message as _;
use qeff_core::lower::Lowered;
use qeff_core::mapping::Mapping;
use qeff_core::onnx;
use qeff_core::weights::{Checkpoint, PackError, PackOptions, PackRequest, Placement, TensorSource, pack};
use qeff_plugin_api::{DType, WeightExpr};
use rten::{Model, ModelOptions};

use super::RuntimeError;

/// Name under which the engine knows weight file `i` of the checkpoint.
fn linked_name(i: usize) -> String {
    format!("checkpoint_{i}.data")
}

/// Weights of a checkpoint as one engine uses them; shared by all programs over the same weights.
pub struct CpuWeights<'a> {
    checkpoint: &'a Checkpoint,
    source: &'a dyn TensorSource,
}

/// How the weights of a program were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Residence {
    /// Bytes used where they lie in the checkpoint.
    pub linked: u64,
    /// Bytes converted.
    pub packed: u64,
}

impl<'a> CpuWeights<'a> {
    /// The weights of `checkpoint`, and what else `source` makes of them.
    pub fn new(checkpoint: &'a Checkpoint, source: &'a dyn TensorSource) -> Self {
        CpuWeights { checkpoint, source }
    }

    /// Loads programs that share these weights.
    ///
    /// # Errors
    /// If a weight cannot be converted, or the engine refuses a program.
    pub fn load(&self, programs: &[&Lowered]) -> anyhow::Result<(Vec<Model>, Residence)> {
        let mut residence = Residence::default();
        let mut requests: Vec<PackRequest> = vec![];
        // Where each weight of each program lies: in the checkpoint, or as a request to be packed.
        let mut places: Vec<Vec<Result<Placement, usize>>> = vec![];
        for program in programs {
            let mut of_program = vec![];
            for weight in &program.weights {
                of_program.push(match self.linked(&weight.expr, weight.dtype) {
                    Some(place) => Ok(place),
                    None => {
                        requests.push(PackRequest {
                            name: weight.name.clone(),
                            expr: weight.expr.clone(),
                            dtype: weight.dtype,
                        });
                        Err(requests.len() - 1)
                    }
                });
            }
            places.push(of_program);
        }
        if let Some(first) = places.first() {
            residence.linked = first.iter().flatten().map(|place| place.length).sum();
        }

        let mut options = ModelOptions::with_all_ops();
        for (i, file) in self.checkpoint.files().iter().enumerate() {
            options.external_data_static(&linked_name(i), keep(Arc::clone(file.mapping())));
        }
        let dir = tempfile::Builder::new().prefix("qeff-run-").tempdir()?;
        let packed =
            pack(dir.path(), "packed", &requests, self.source, PackOptions { sync: false, ..PackOptions::default() })
                .map_err(|error| match error {
                PackError::DiskFull { .. } | PackError::Io { .. } => anyhow::Error::new(error).context(
                    "cannot convert the weights; the environment variable TMPDIR chooses another folder for it",
                ),
                error => error.into(),
            })?;
        residence.packed = packed.bytes_written;
        for file in &packed.files {
            let mapping = Mapping::open(dir.path().join(file))?;
            options.external_data_static(file, keep(Arc::new(mapping)));
        }
        dir.close()?;

        let mut models = vec![];
        for (program, places) in programs.iter().zip(places) {
            let places: Vec<Placement> =
                places.into_iter().map(|place| place.unwrap_or_else(|i| packed.placements[i].clone())).collect();
            let bytes = onnx::model(program, &places, &[]).encode_to_vec();
            let model =
                options.load(bytes).map_err(|error| RuntimeError::Load { engine: "rten", why: error.to_string() })?;
            models.push(model);
        }
        Ok((models, residence))
    }

    /// The place of a weight that is a stored tensor as it stands, in the type the program wants.
    fn linked(&self, expr: &WeightExpr, dtype: DType) -> Option<Placement> {
        let WeightExpr::Tensor(name) = expr else { return None };
        let view = self.checkpoint.tensor(name)?;
        // The engine reads elements in place, so they must be aligned as such.
        let usable = view.dtype == dtype && view.offset.is_multiple_of(dtype.size() as u64);
        usable.then(|| Placement { file: linked_name(view.file), offset: view.offset, length: view.length })
    }
}

/// Keeps a mapping for as long as the process lives: the engine holds on to static bytes only.
fn keep(mapping: Arc<Mapping>) -> &'static [u8] {
    Box::leak(Box::new(mapping)).all()
}
