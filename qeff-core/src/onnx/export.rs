//! Export: one model file, and what it refers to, in a folder of the user's.
//!
//! Weights are *packed*, made and written beside the model, or *linked*, referred to where the checkpoint has them; what
//! cannot be linked is packed, and the result says why. However it ends, the folder holds a whole export or none
//! ([`super::staging`]).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use fs_err as fs;
use prost::Message as _;
use qeff_plugin_api::DType;

use super::emit::{self, Place};
use super::link::{DataLinks, Link, WEIGHT_SPEC_FILE, WEIGHT_SPEC_KEY, WeightSpec, belongs};
use super::staging::Staging;
use crate::lower::{Initializer, Lowered};
use crate::weights::{
    Clipped, NotStored, PackError, PackOptions, PackRequest, Placement, TensorSource, find, locate, pack,
};

/// Where weights are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage<'a> {
    /// Beside the model, every one.
    Packed,
    /// In the checkpoint's files, as external data.
    Linked,
    /// In the checkpoint's files, as inputs with a map from their names (`weight_spec.json`, version 5).
    WeightSpec {
        /// Class of the model.
        model_name: &'a str,
        /// Folder of the checkpoint.
        checkpoint: &'a Path,
    },
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The model file.
    pub model: PathBuf,
    /// Bytes of all files that were written.
    pub bytes: u64,
    /// Weights that are where the checkpoint has them.
    pub linked: Tally,
    /// Weights that were written.
    pub packed: Tally,
    /// Why weights were not linked, most bytes first; empty unless linking was asked for.
    pub not_linked: Vec<(NotStored, Tally)>,
    /// How the checkpoint is linked.
    pub links: Vec<Link>,
    /// Numbers that f16 has no room for and that became its largest, by the name of the weight.
    pub clipped: Vec<(String, Clipped)>,
}

/// Some weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub weights: usize,
    /// Their bytes together.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.weights += 1;
        self.bytes += bytes;
    }
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A weight cannot be written.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A file or folder cannot be made.
    #[error("cannot write the export: {0}")]
    Io(#[from] std::io::Error),
}

/// What is exported, and how.
#[derive(Clone, Copy)]
pub struct Export<'a> {
    /// The program; one that is to be linked has been lowered with its weights as they are stored.
    pub lowered: &'a Lowered,
    /// What the names of its files begin with.
    pub stem: &'a str,
    /// Where its weights come from.
    pub source: &'a dyn TensorSource,
    /// Where its weights are to be.
    pub storage: Storage<'a>,
    /// Entries of the model file's metadata.
    pub metadata: &'a [(&'a str, String)],
    /// How weights are written.
    pub options: PackOptions<'a>,
}

/// Weights that exports into one folder have written there, for later ones to refer to: programs of one model often have
/// the same.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    places: HashMap<(DType, String), Placement>,
}

impl Shared {
    fn place(&self, weight: &Initializer) -> Option<Place> {
        self.places.get(&(weight.dtype, weight.expr.to_string())).cloned().map(Place::Data)
    }
}

/// Writes `{stem}.onnx` and what it refers to into `dir`, which is made if need be; files of these names are replaced.
///
/// # Errors
/// See [`ExportError`]; `dir` is then as it was before, save that a model which was to be replaced may be gone.
pub fn export(what: Export<'_>, dir: &Path) -> Result<Exported, ExportError> {
    export_sharing(what, dir, &mut Shared::default())
}

/// [`export`], but weights that are in `shared` are referred to where they are, and those that are written are added.
///
/// # Errors
/// As [`export`].
pub fn export_sharing(what: Export<'_>, dir: &Path, shared: &mut Shared) -> Result<Exported, ExportError> {
    let staging = Staging::open(dir)?;
    let Export { lowered, stem, source, options, .. } = what;
    let work = staging.path();
    let mut plan = Plan::new(what, shared)?;
    let packed = pack(work, stem, &plan.requests, source, options)?;
    let mut files = packed.files.clone();
    let mut metadata = what.metadata.to_vec();
    let mut links = plan.data.make(work)?;
    if let Some(spec) = &plan.spec {
        metadata.push((WEIGHT_SPEC_KEY, spec.text()?));
        links.push(spec.make(work)?);
        files.push(WEIGHT_SPEC_FILE.to_owned());
    }
    let mut bytes = 0;
    for file in &files {
        bytes += fs::metadata(work.join(file))?.len();
    }
    files.extend(links.iter().map(|link| link.name.clone()));

    for (request, place) in plan.requests.iter().zip(&packed.placements) {
        shared.places.insert((request.dtype, request.expr.to_string()), place.clone());
    }
    let mut made = packed.placements.into_iter();
    let mut packed_place = || made.next().map(Place::Data).unwrap_or_else(|| unreachable!("a place for each request"));
    let places: Vec<Place> = plan.places.drain(..).map(|place| place.unwrap_or_else(&mut packed_place)).collect();
    let model_name = format!("{stem}.onnx");
    let model = emit::model(lowered, &places, &metadata).encode_to_vec();
    bytes += model.len() as u64;
    let staged = work.join(&model_name);
    fs::write(&staged, &model)?;
    if options.sync {
        fs::File::open(&staged)?.sync_all()?;
    }
    staging.publish(&files, &model_name, &|name| belongs(stem, name))?;
    let not_linked = plan.told();
    Ok(Exported {
        model: dir.join(&model_name),
        bytes,
        linked: plan.linked,
        packed: Tally { weights: plan.requests.len(), bytes: packed.bytes_written },
        not_linked,
        links,
        clipped: packed.clipped,
    })
}

/// What happens to each weight.
struct Plan<'a> {
    /// `None` for one that is packed.
    places: Vec<Option<Place>>,
    /// Those that are packed, in order.
    requests: Vec<PackRequest>,
    data: DataLinks<'a>,
    spec: Option<WeightSpec>,
    linked: Tally,
    not_linked: BTreeMap<NotStored, Tally>,
}

impl<'a> Plan<'a> {
    fn new(what: Export<'a>, shared: &Shared) -> std::io::Result<Self> {
        let spec = match what.storage {
            Storage::WeightSpec { model_name, checkpoint } => Some(WeightSpec::new(what.stem, model_name, checkpoint)?),
            _ => None,
        };
        let mut plan = Plan {
            places: Vec::with_capacity(what.lowered.weights.len()),
            requests: vec![],
            data: DataLinks::new(what.stem),
            spec,
            linked: Tally::default(),
            not_linked: BTreeMap::new(),
        };
        for weight in &what.lowered.weights {
            let place = match what.storage {
                Storage::Packed => None,
                _ => plan.link(weight, what.source),
            }
            .or_else(|| shared.place(weight));
            if place.is_none() {
                let (name, expr, dtype) = (weight.name.clone(), weight.expr.clone(), weight.dtype);
                plan.requests.push(PackRequest { name, expr, dtype });
            }
            plan.places.push(place);
        }
        Ok(plan)
    }

    /// The place of a weight that need not be packed.
    fn link(&mut self, weight: &Initializer, source: &dyn TensorSource) -> Option<Place> {
        let bytes = weight.shape.iter().product::<u64>() * weight.dtype.size() as u64;
        let place = match &mut self.spec {
            None => locate(&weight.expr, weight.dtype, source).map(|run| Place::Data(self.data.place(&run))),
            // A compiler that looks tensors up by name copies them, so it does not mind their alignment.
            Some(spec) => find(&weight.expr, weight.dtype, source)
                .and_then(|view| spec.bind(weight, &view))
                .map(|()| Place::Input),
        };
        match place {
            Ok(place) => {
                self.linked.add(bytes);
                Some(place)
            }
            Err(why) => {
                self.not_linked.entry(why).or_default().add(bytes);
                None
            }
        }
    }

    fn told(&self) -> Vec<(NotStored, Tally)> {
        let mut told: Vec<_> = self.not_linked.iter().map(|(&why, &tally)| (why, tally)).collect();
        told.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.bytes));
        told
    }
}
