//! Where a program comes from: a described model that is exported first, or an ONNX file that is there.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use prost::Message as _;
use qeff_core::lower::{self, Lowered, Target};
use qeff_core::onnx::{self, Export, Storage};
use qeff_core::weights::{Checkpoint as Weights, PackOptions, Placement, TensorSource};
use qeff_plugin_api::graph::Model;
use serde_json::{Value as Json, json};

use super::{Making, Watch};
use crate::artifacts::{Digests, Made, header_identity, sha256};
use crate::compile::Program;
use crate::prepare::Prepared;

/// Where a program comes from.
#[derive(Clone)]
pub enum Source<'a> {
    /// A lowered program of a checkpoint.
    Lowered {
        /// The program.
        lowered: Box<Lowered>,
        /// Its weights, in the form in which they reach the graph.
        tensors: &'a dyn TensorSource,
        /// The files they come from.
        weights: &'a Weights,
        /// Entries of the file's metadata.
        metadata: Vec<(&'static str, String)>,
    },
    /// An ONNX file.
    File {
        /// The file.
        path: PathBuf,
        /// The file, and the files that hold its weights.
        files: Vec<PathBuf>,
    },
}

impl<'a> Source<'a> {
    /// Every program of a model that was prepared for AI 100.
    ///
    /// # Errors
    /// If a program has an interface that cannot be compiled.
    pub fn of_model(
        prepared: &Prepared,
        tensors: &'a dyn TensorSource,
        weights: &'a Weights,
    ) -> Result<Vec<(Program, Self)>> {
        let model: &Model = &prepared.model;
        let passes: Vec<_> = prepared.reports.iter().map(|report| report.pass).collect();
        model
            .programs
            .iter()
            .zip(&prepared.programs)
            .map(|(program, lowered)| {
                let stem = lower::file_stem(model, program);
                let compiled = Program::lowered(&stem, program, lowered)
                    .with_context(|| format!("program {} cannot be compiled", program.name))?;
                let metadata =
                    vec![("qeff_transforms", passes.join(",")), ("qeff.target", Target::Aic.name().to_owned())];
                Ok((compiled, Source::Lowered { lowered: Box::new(lowered.clone()), tensors, weights, metadata }))
            })
            .collect()
    }

    /// The program in an ONNX file.
    ///
    /// # Errors
    /// If the file cannot be read or is none that can be compiled.
    pub fn of_file(path: &Path) -> Result<(Program, Source<'static>)> {
        let (program, files) = Program::open(path)?;
        Ok((program, Source::File { path: path.to_owned(), files }))
    }

    /// What decides the program, whatever it is called and wherever it lies.
    pub(super) fn inputs(&self, digests: &Digests, read: &dyn Fn(u64)) -> Result<Json> {
        match self {
            Source::Lowered { lowered, weights, metadata, .. } => {
                let mut text = onnx::model(lowered, &[] as &[Placement], metadata).encode_to_vec();
                for weight in &lowered.weights {
                    let line = format!("{} {} {:?} {}\n", weight.name, weight.dtype, weight.shape, weight.expr);
                    text.extend_from_slice(line.as_bytes());
                }
                let files = weights.files().iter().map(|file| digests.content(file.path(), read));
                Ok(json!({
                    // Another version may write other bytes for the same graph.
                    "qeff_version": env!("CARGO_PKG_VERSION"),
                    "graph": sha256(&text),
                    "checkpoint": files.collect::<Result<Vec<_>>>()?,
                }))
            }
            Source::File { files, .. } => {
                let identities = files.iter().map(|file| {
                    // The checkpoint's own files, linked beside the graph: too large to read for their digest.
                    if is_checkpoint(file) { header_identity(file) } else { digests.content(file, read) }
                });
                Ok(json!({ "files": identities.collect::<Result<Vec<_>>>()? }))
            }
        }
    }

    /// Files whose content decides the program, and has to be read for it unless it is known.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Source::Lowered { weights, .. } => weights.files().iter().map(|file| file.path()).collect(),
            Source::File { files, .. } => {
                files.iter().map(PathBuf::as_path).filter(|file| !is_checkpoint(file)).collect()
            }
        }
    }

    /// Exports the program into `dir`.
    pub(super) fn export(&self, stem: &str, dir: &Path, making: Making, watch: &Watch<'_>) -> Result<Made> {
        let Source::Lowered { lowered, tensors, metadata, .. } = self else { return Ok(Made::default()) };
        let options =
            PackOptions { budget: making.memory_budget, progress: Some(watch.weights), ..PackOptions::default() };
        let storage = Storage::Packed;
        let what = Export { lowered, stem, source: *tensors, storage, metadata, options };
        let exported = onnx::export(what, dir)?;
        Ok(Made { commands: vec![], details: json!({ "target": Target::Aic.name(), "bytes": exported.bytes }) })
    }
}

fn is_checkpoint(file: &Path) -> bool {
    file.extension().is_some_and(|end| end == "safetensors")
}

/// A stem as the name of a folder: a file's may hold anything.
pub(super) fn folder_name(stem: &str) -> String {
    let name: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '_' }).take(80).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() { "model".to_owned() } else { name.to_owned() }
}
