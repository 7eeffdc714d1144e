//! Where the weights of programs lie, so that nothing is copied that can be used in place.
//!
//! A weight that is a stored tensor as it stands, or one expert of it, is a piece of the mapped checkpoint. What must be
//! converted (bf16, f16, rotary tables, blocks) is packed into a file that has no name any more once it is mapped, so
//! nothing is left behind however the process ends, and the system may drop its pages when memory is short.

use std::sync::Arc;

use qeff_core::lower::Lowered;
use qeff_core::mapping::Mapping;
use qeff_core::weights::{Checkpoint, PackError, PackOptions, PackRequest, Placement, TensorSource, locate, pack};

use super::engine::WeightFile;

/// What weights are made of.
#[derive(Clone, Copy)]
pub struct Tensors<'a> {
    /// The checkpoint whose files are used in place.
    pub checkpoint: &'a Checkpoint,
    /// Its tensors, and what stands beside them or in their place.
    pub source: &'a dyn TensorSource,
}

impl<'a> From<&'a Checkpoint> for Tensors<'a> {
    fn from(checkpoint: &'a Checkpoint) -> Self {
        Tensors { checkpoint, source: checkpoint }
    }
}

/// How the weights of a program were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Residence {
    /// Bytes used where they lie in the checkpoint.
    pub linked: u64,
    /// Bytes converted.
    pub packed: u64,
}

/// Weights of some programs, each in its place.
pub(super) struct Placed {
    /// The files of the checkpoint, and of what was converted.
    pub(super) files: Vec<WeightFile>,
    /// For each program, the place of each of its weights.
    pub(super) places: Vec<Vec<Placement>>,
    pub(super) residence: Residence,
}

impl Placed {
    /// Finds a place for every weight of `programs`, and converts what has none.
    pub(super) fn new(tensors: Tensors<'_>, programs: &[&Lowered]) -> anyhow::Result<Self> {
        let Tensors { checkpoint, source } = tensors;
        let mut requests: Vec<PackRequest> = vec![];
        // Where each weight of each program lies: in the checkpoint, or as a request to be packed.
        let mut found: Vec<Vec<Result<Placement, usize>>> = vec![];
        for program in programs {
            let mut of_program = vec![];
            for weight in &program.weights {
                of_program.push(match locate(&weight.expr, weight.dtype, source) {
                    Ok(run) => Ok(Placement { file: linked_name(run.file), offset: run.offset, length: run.length }),
                    Err(_) => {
                        requests.push(PackRequest {
                            name: weight.name.clone(),
                            expr: weight.expr.clone(),
                            dtype: weight.dtype,
                        });
                        Err(requests.len() - 1)
                    }
                });
            }
            found.push(of_program);
        }
        let linked = found.first().map_or(0, |first| first.iter().flatten().map(|place| place.length).sum());

        let mut files = vec![];
        for (i, file) in checkpoint.files().iter().enumerate() {
            files.push(WeightFile { name: linked_name(i), mapping: Arc::clone(file.mapping()) });
        }
        let dir = tempfile::Builder::new().prefix("qeff-run-").tempdir()?;
        let options = PackOptions { sync: false, ..PackOptions::default() };
        let packed = pack(dir.path(), "packed", &requests, source, options).map_err(|error| match error {
            PackError::DiskFull { .. } | PackError::Io { .. } => anyhow::Error::new(error)
                .context("cannot convert the weights; the environment variable TMPDIR chooses another folder for it"),
            error => error.into(),
        })?;
        for name in packed.files {
            let mapping = Arc::new(Mapping::open(dir.path().join(&name))?);
            files.push(WeightFile { name, mapping });
        }
        dir.close()?;

        let place = |found| match found {
            Ok(place) => place,
            Err(i) => Placement::clone(&packed.placements[i]),
        };
        let places = found.into_iter().map(|of_program| of_program.into_iter().map(place).collect()).collect();
        Ok(Placed { files, places, residence: Residence { linked, packed: packed.bytes_written } })
    }
}

/// Name under which programs know weight file `i` of the checkpoint.
fn linked_name(i: usize) -> String {
    format!("checkpoint_{i}.data")
}
