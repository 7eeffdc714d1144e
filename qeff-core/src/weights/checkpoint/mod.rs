//! A checkpoint: one safetensors file, shards with an index beside them, one GGUF file, or files that a plugin reads.
//!
//! Opening reads headers only, so a checkpoint of any size opens in milliseconds; every statement a file makes about
//! itself is checked here, once, so that reading later is arithmetic. A tensor of a type we cannot compute with (F4, say)
//! is refused when somebody uses it: a checkpoint may carry tensors that no description asks for.
//!
//! Quantised blocks, floats of one byte, and what a plugin's format encodes are decoded when they are lent: to whoever
//! reads, such a tensor is one of plain numbers that does not lie anywhere.
//!
//! This module does not know what tensors are for.

mod error;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use qeff_plugin_api::plugin::WeightFormat;
use qeff_plugin_api::{DType, TensorIndex, TensorInfo};

use super::blocks::{BlockPart, Encoding};
use super::foreign::{self, Encoded};
use super::gguf::{self, BlockType, Storage};
use super::quantised::{Coded, Part, Stored};
use super::safetensors::{Entry, read_header};
use super::source::{SourceError, TensorSource, TensorView, copy_lent};
use crate::mapping::Mapping;

pub use self::error::CheckpointError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Longest index that is read: a trillion-parameter mixture of experts has about ten megabytes of names.
const MAX_INDEX: u64 = 256 << 20;

/// One weight file of a checkpoint.
#[derive(Debug, Clone)]
pub struct CheckpointFile {
    mapping: Arc<Mapping>,
}

impl CheckpointFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.mapping.path()
    }

    /// Its mapping, to be kept by whoever wants the bytes to stay.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

#[derive(Debug)]
struct Place {
    file: usize,
    range: Range<u64>,
    /// The quantised blocks that the bytes are, if they are no plain numbers.
    blocks: Option<BlockType>,
}

#[derive(Debug)]
struct Unsupported {
    file: usize,
    dtype: String,
}

/// An opened checkpoint; see the module documentation.
#[derive(Debug)]
pub struct Checkpoint {
    files: Vec<CheckpointFile>,
    index: TensorIndex,
    places: BTreeMap<String, Place>,
    /// Tensors that are decoded from one or more stored ones; they have no place.
    coded: BTreeMap<String, Coded>,
    /// Tensors that a plugin decodes; they have no place either.
    encoded: BTreeMap<String, Encoded>,
    /// Name of the plugin's format that the files are in.
    format: Option<String>,
    unsupported: BTreeMap<String, Unsupported>,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir`: `model.safetensors`, else the shards that `model.safetensors.index.json` lists, else
    /// the only other `.safetensors` file.
    ///
    /// # Errors
    /// See [`CheckpointError`]; each variant names the file, and the tensor where there is one.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let dir = dir.as_ref();
        if dir.join(SINGLE).exists() {
            return Self::load(&[dir.join(SINGLE)]);
        }
        if dir.join(INDEX).exists() {
            return Self::open_sharded(dir);
        }
        let names = list(dir)?;
        let with = |ends: &[&str]| -> Vec<String> {
            names.iter().filter(|name| ends.iter().any(|end| name.ends_with(end))).cloned().collect()
        };
        let files = with(&[".safetensors"]);
        match files.as_slice() {
            [one] => Self::load(&[dir.join(one)]),
            [] => match with(&[".bin", ".pt", ".pth"]).into_iter().next() {
                Some(found) => Err(CheckpointError::PytorchOnly { dir: dir.to_owned(), found }),
                None => Err(CheckpointError::NoWeights { dir: dir.to_owned() }),
            },
            _ => Err(CheckpointError::Ambiguous { dir: dir.to_owned(), files }),
        }
    }

    fn open_sharded(dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join(INDEX);
        let map = read_weight_map(&path)?;
        let mut shards = BTreeSet::new();
        for (tensor, file) in &map {
            if shards.contains(file) {
                continue;
            }
            let plain = !file.is_empty() && Path::new(file).components().all(|c| matches!(c, Component::Normal(_)));
            let (tensor, file) = (tensor.clone(), file.clone());
            if !plain {
                return Err(CheckpointError::OutsidePath { path, tensor, file });
            }
            // Follows links: a hub cache is links to blobs, and a link that leads nowhere is a missing file.
            if !dir.join(&file).is_file() {
                return Err(CheckpointError::MissingFile { path, tensor, file });
            }
            shards.insert(file);
        }
        let shards: Vec<String> = shards.into_iter().collect();
        let files: Vec<PathBuf> = shards.iter().map(|file| dir.join(file)).collect();
        let checkpoint = Self::load(&files)?;
        for (tensor, file) in map {
            if checkpoint.file_of(&tensor).map(|at| &shards[at]) != Some(&file) {
                return Err(CheckpointError::MissingTensor { path, tensor, file });
            }
        }
        Ok(checkpoint)
    }

    /// Opens the checkpoint that the GGUF file at `path` is. Tensors keep the names of the file; those in quantised blocks
    /// are indexed as f32.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn open_gguf(path: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let path = path.into();
        let mapping = Arc::new(Mapping::open(&path)?);
        let header =
            gguf::Header::read(mapping.all()).map_err(|error| CheckpointError::Gguf { path: path.clone(), error })?;
        let mut checkpoint = Self::empty();
        for tensor in header.tensors {
            let name = tensor.name.to_owned();
            let (dtype, blocks) = match tensor.storage {
                Storage::Plain(dtype) => (dtype, None),
                Storage::Blocks(blocks) => (DType::F32, Some(blocks)),
                Storage::Opaque(_) | Storage::Unknown(_) => {
                    let dtype = tensor.storage.name();
                    checkpoint.unsupported.insert(name, Unsupported { file: 0, dtype });
                    continue;
                }
            };
            checkpoint.index.insert(name.clone(), TensorInfo { dtype, shape: tensor.shape });
            checkpoint.places.insert(name, Place { file: 0, range: tensor.range, blocks });
        }
        mapping.release(0..mapping.len());
        checkpoint.files.push(CheckpointFile { mapping });
        Ok(checkpoint)
    }

    /// Opens the checkpoint that the files at `paths` are together, which `format` reads.
    ///
    /// # Errors
    /// See [`CheckpointError`]; what the format says of a file is not believed unchecked.
    pub fn open_foreign(paths: &[PathBuf], format: &Arc<dyn WeightFormat>) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self { format: Some(format.name().to_owned()), ..Self::empty() };
        let mut first_of = BTreeMap::new();
        for (file, path) in paths.iter().enumerate() {
            let mapping = Arc::new(Mapping::open(path)?);
            let tensors = foreign::read(&mapping, format).map_err(|error| {
                let (path, format) = (path.clone(), format.name().to_owned());
                CheckpointError::Foreign { path, format, error: Box::new(error) }
            })?;
            mapping.release(0..mapping.len());
            for (name, info, stored) in tensors {
                if let Some(first) = first_of.insert(name.clone(), file) {
                    let (first, second) = (paths[first].clone(), path.clone());
                    return Err(CheckpointError::Duplicate { tensor: name, first, second });
                }
                match stored {
                    foreign::Stored::Plain(range) => {
                        checkpoint.places.insert(name.clone(), Place { file, range, blocks: None });
                    }
                    foreign::Stored::Encoded(encoded) => {
                        checkpoint.encoded.insert(name.clone(), encoded);
                    }
                }
                checkpoint.index.insert(name, info);
            }
            checkpoint.files.push(CheckpointFile { mapping });
        }
        Ok(checkpoint)
    }

    /// Name of the plugin's format that the files are in; `None` for safetensors and GGUF.
    pub fn foreign_format(&self) -> Option<&str> {
        self.format.as_deref()
    }

    fn empty() -> Self {
        Self {
            files: vec![],
            index: TensorIndex::new(),
            places: BTreeMap::new(),
            coded: BTreeMap::new(),
            encoded: BTreeMap::new(),
            format: None,
            unsupported: BTreeMap::new(),
        }
    }

    fn load(paths: &[PathBuf]) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self::empty();
        for (file, path) in paths.iter().enumerate() {
            let mapping = Arc::new(Mapping::open(path)?);
            let entries =
                read_header(mapping.all()).map_err(|error| CheckpointError::Header { path: path.clone(), error })?;
            mapping.release(0..mapping.len());
            checkpoint.files.push(CheckpointFile { mapping: Arc::clone(&mapping) });
            for entry in entries {
                if let Some(first) = checkpoint.file_of(&entry.name) {
                    let (tensor, first) = (entry.name, paths[first].clone());
                    return Err(CheckpointError::Duplicate { tensor, first, second: path.clone() });
                }
                match entry.dtype {
                    Ok(Stored::Plain(dtype)) => {
                        checkpoint.index.insert(entry.name.clone(), TensorInfo { dtype, shape: entry.shape });
                        checkpoint.places.insert(entry.name, Place { file, range: entry.range, blocks: None });
                    }
                    Ok(stored @ Stored::Float8(float)) => {
                        let info = TensorInfo { dtype: DType::F32, shape: entry.shape.clone() };
                        let Entry { name, shape, range, .. } = entry;
                        let part = Part { name: name.clone(), stored, shape, mapping: Arc::clone(&mapping), range };
                        checkpoint.insert_coded(name, info, Coded::plain(part, float));
                    }
                    Err(dtype) => {
                        checkpoint.unsupported.insert(entry.name, Unsupported { file, dtype });
                    }
                }
            }
        }
        Ok(checkpoint)
    }

    fn file_of(&self, tensor: &str) -> Option<usize> {
        let place = self.places.get(tensor).map(|place| place.file);
        let coded = || {
            let mapping = &self.coded.get(tensor)?.part().mapping;
            self.files.iter().position(|file| Arc::ptr_eq(&file.mapping, mapping))
        };
        place.or_else(coded).or_else(|| self.unsupported.get(tensor).map(|tensor| tensor.file))
    }

    /// Names of the tensors that can be read, as long as nothing was put together of them.
    pub(super) fn stored_names(&self) -> impl Iterator<Item = &str> {
        self.index.iter().map(|(name, _)| name)
    }

    /// The stored tensor `name`, if it can be read.
    pub(super) fn part(&self, name: &str) -> Option<Part> {
        if let Some(coded) = self.coded.get(name) {
            return Some(coded.part().clone());
        }
        let (info, place) = (self.index.get(name)?, self.places.get(name)?);
        Some(Part {
            name: name.to_owned(),
            stored: Stored::Plain(info.dtype),
            shape: info.shape.clone(),
            mapping: Arc::clone(&self.files[place.file].mapping),
            range: place.range.clone(),
        })
    }

    /// Takes a tensor out of what can be read.
    pub(super) fn hide(&mut self, name: &str) {
        self.index.remove(name);
        self.places.remove(name);
        self.coded.remove(name);
        self.encoded.remove(name);
    }

    /// Adds a tensor that is decoded.
    pub(super) fn insert_coded(&mut self, name: String, info: TensorInfo, coded: Coded) {
        self.index.insert(name.clone(), info);
        self.coded.insert(name, coded);
    }

    /// Every tensor that can be read, by name.
    pub fn index(&self) -> &TensorIndex {
        &self.index
    }

    /// Where the tensor `name` lies as the numbers that the index says it has; `None` also for one of an unsupported type,
    /// and for one that has to be decoded.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        let (info, place) = (self.index.get(name)?, self.places.get(name)?);
        if place.blocks.is_some() {
            return None;
        }
        Some(TensorView {
            dtype: info.dtype,
            shape: &info.shape,
            file: place.file,
            path: self.files[place.file].path(),
            offset: place.range.start,
            length: place.range.end - place.range.start,
        })
    }

    /// Tensors that are stored in a type this crate has none for, with the name of that type.
    pub fn unsupported(&self) -> impl Iterator<Item = (&str, &str)> {
        self.unsupported.iter().map(|(name, tensor)| (name.as_str(), tensor.dtype.as_str()))
    }

    /// The weight files, in name order.
    pub fn files(&self) -> &[CheckpointFile] {
        &self.files
    }

    /// Bytes of all weight files together.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.mapping.len()).sum()
    }

    /// Where the elements `elements` of `name` lie: whole blocks, if it has any.
    fn locate(&self, name: &str, elements: &Range<u64>) -> Option<Located<'_>> {
        let (info, place) = (self.index.get(name)?, self.places.get(name)?);
        let (per_block, size) = match place.blocks {
            None => (1, info.dtype.size() as u64),
            Some(blocks) => blocks.sizes(),
        };
        let first = elements.start / per_block;
        let start = place.range.start.checked_add(first.checked_mul(size)?)?;
        let end = place.range.start.checked_add(elements.end.div_ceil(per_block).checked_mul(size)?)?;
        (elements.start <= elements.end && start <= end && end <= place.range.end).then(|| Located {
            mapping: &self.files[place.file].mapping,
            bytes: start..end,
            blocks: place.blocks,
            before: elements.start - first * per_block,
        })
    }
}

/// Bytes that hold a range of elements.
struct Located<'a> {
    mapping: &'a Mapping,
    bytes: Range<u64>,
    blocks: Option<BlockType>,
    /// Elements of the first block in front of the range.
    before: u64,
}

impl TensorSource for Checkpoint {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, SourceError> {
        if let Some(Unsupported { file, dtype }) = self.unsupported.get(name) {
            let place = self.files[*file].path().display().to_string();
            return Err(SourceError::Unsupported { tensor: name.to_owned(), place, dtype: dtype.clone() });
        }
        self.index.get(name).ok_or_else(|| SourceError::Missing(name.to_owned()))
    }

    fn stored(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensor(name)
    }

    fn lend(&self, name: &str, elements: Range<u64>) -> Result<Cow<'_, [u8]>, SourceError> {
        let info = self.info(name)?;
        if let Some(coded) = self.coded.get(name) {
            return coded.lend(name, elements).map(Cow::Owned);
        }
        if let Some(encoded) = self.encoded.get(name) {
            return encoded.lend(name, elements).map(Cow::Owned);
        }
        let Some(Located { mapping, bytes, blocks, before }) = self.locate(name, &elements) else {
            let count = info.shape.iter().product();
            return Err(SourceError::OutOfRange { tensor: name.to_owned(), range: elements, count });
        };
        let bytes =
            mapping.bytes(bytes).map_err(|error| SourceError::Read { tensor: name.to_owned(), error: error.into() })?;
        Ok(match blocks {
            None => Cow::Borrowed(bytes),
            Some(blocks) => {
                Cow::Owned(blocks.decode_run(bytes, before as usize, (elements.end - elements.start) as usize))
            }
        })
    }

    fn read(&self, name: &str, elements: Range<u64>, to: &mut [u8]) -> Result<(), SourceError> {
        match self.locate(name, &elements) {
            Some(Located { mapping, bytes, blocks: None, .. }) => mapping
                .read(bytes.start, to)
                .map_err(|error| SourceError::Read { tensor: name.to_owned(), error: error.into() }),
            _ => copy_lent(self, name, elements, to),
        }
    }

    fn encoding(&self, name: &str) -> Option<Encoding<'_>> {
        if let Some(coded) = self.coded.get(name) {
            return Some(coded.encoding());
        }
        // What a plugin decodes are numbers like any others: whether they were rounded on the way, it does not say.
        let blocks = self.places.get(name)?.blocks?;
        Some(Encoding { name: Storage::Blocks(blocks).name().into(), blocks: Some(blocks.layout()) })
    }

    fn read_blocks(&self, name: &str, blocks: Range<u64>, part: BlockPart<'_>) -> Result<(), SourceError> {
        let info = self.info(name)?;
        if let Some(coded) = self.coded.get(name) {
            return coded.read_blocks(name, blocks, part);
        }
        let what = part.name();
        let missing = || SourceError::NoSuchPart { tensor: name.to_owned(), part: what };
        let stored = self.places.get(name).and_then(|place| place.blocks).ok_or_else(missing)?;
        let length = stored.layout().length;
        let elements = blocks.start.saturating_mul(length)..blocks.end.saturating_mul(length);
        let Some(Located { mapping, bytes, before, .. }) = self.locate(name, &elements) else {
            let count = info.shape.iter().product();
            return Err(SourceError::OutOfRange { tensor: name.to_owned(), range: elements, count });
        };
        let bytes =
            mapping.bytes(bytes).map_err(|error| SourceError::Read { tensor: name.to_owned(), error: error.into() })?;
        let first = (before / length) as usize;
        let wanted = first..first + (blocks.end - blocks.start) as usize;
        if stored.read_part(bytes, wanted, part) { Ok(()) } else { Err(missing()) }
    }

    fn release(&self, name: &str, elements: Range<u64>) {
        if let Some(coded) = self.coded.get(name) {
            return coded.release(elements);
        }
        if let Some(encoded) = self.encoded.get(name) {
            return encoded.release(elements);
        }
        if let Some(Located { mapping, bytes, .. }) = self.locate(name, &elements) {
            mapping.release(bytes);
        }
    }
}

/// Names in `dir`, sorted so that messages do not depend on the file system.
fn list(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    let read = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    };
    read().map_err(|error| CheckpointError::Io { path: dir.to_owned(), error })
}

fn read_weight_map(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let io = |error| CheckpointError::Io { path: path.to_owned(), error };
    let wrong = |why: String| CheckpointError::Index { path: path.to_owned(), why };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > MAX_INDEX {
        return Err(wrong(format!("it has {length} bytes; an index has at most {MAX_INDEX}")));
    }
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).map_err(io)?).map_err(|e| wrong(format!("it is not JSON: {e}")))?;
    let map = json.get("weight_map").and_then(serde_json::Value::as_object);
    let map = map.ok_or_else(|| wrong("it has no object `weight_map` from tensor names to files".into()))?;
    if map.is_empty() {
        return Err(wrong("its `weight_map` is empty".into()));
    }
    let entry = |(tensor, file): (&String, &serde_json::Value)| match file.as_str() {
        Some(file) => Ok((tensor.clone(), file.to_owned())),
        None => Err(wrong(format!("`weight_map` has {file} for tensor `{tensor}`; a file name was expected"))),
    };
    map.iter().map(entry).collect()
}

#[cfg(test)]
mod tests;
