//! An ONNX file as the compiler finds it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use prost::Message as _;
use qeff_plugin_api::onnx::{
    EXTERNAL, GraphProto, ModelProto, StringStringEntryProto, TensorProto, ValueInfoProto, data_type, dtype,
    tensor_shape_proto, type_proto,
};
use serde_json::Value as Json;

/// Key of the metadata that binds inputs to stored tensors.
const WEIGHT_SPEC: &str = "com.qti.aisw.extdata";

/// Endings of an output that is the next value of the input before it; the second is what sub-functions leave.
pub const RETAINED: [&str; 2] = ["_RetainedState", "_InternalRetainedState"];

/// A model with the files that its weights are in.
#[derive(Debug)]
pub struct Model {
    /// The file.
    pub proto: ModelProto,
    /// Where each file of weights is, by the name that the model has for it.
    pub files: BTreeMap<String, PathBuf>,
}

/// A dimension of an input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// A number.
    Fixed(usize),
    /// A name that a specialization binds.
    Symbol(String),
    /// Nothing is said.
    Unknown,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name in the graph.
    pub name: String,
    /// ONNX's number for its type.
    pub elem: i32,
    /// Dimensions.
    pub dims: Vec<Dim>,
}

impl Model {
    /// Reads a file, and finds the files of its weights without reading them.
    ///
    /// # Errors
    /// If it is no model, or a file of weights is missing or shorter than the model says.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("Unable to read model {}", path.display()))?;
        let proto = ModelProto::decode(&*bytes).context("Unable to parse the ONNX model")?;
        let mut model = Model { proto, files: BTreeMap::new() };
        let folder = path.parent().unwrap_or(Path::new("."));
        model.bind_stored(folder)?;
        model.find_files(folder)?;
        Ok(model)
    }

    /// A model of its bytes, with files that were found before. Inputs that stand for stored tensors are bound again.
    ///
    /// # Errors
    /// If it is no model.
    pub fn of(bytes: &[u8], files: BTreeMap<String, PathBuf>) -> Result<Self> {
        Ok(Model { proto: ModelProto::decode(bytes).context("the model in the QPC")?, files })
    }

    /// The graph.
    ///
    /// # Errors
    /// If there is none.
    pub fn graph(&self) -> Result<&GraphProto> {
        self.proto.graph.as_ref().context("the model has no graph")
    }

    /// Inputs that are no weights, then outputs, in the order of the file.
    ///
    /// # Errors
    /// If one has no tensor type.
    pub fn interface(&self) -> Result<(Vec<Port>, Vec<Port>)> {
        let graph = self.graph()?;
        let weights: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        let inputs = graph.input.iter().filter(|input| !weights.contains(input.name.as_str()));
        Ok((inputs.map(port).collect::<Result<_>>()?, graph.output.iter().map(port).collect::<Result<_>>()?))
    }

    /// Makes an initializer of each input that the weight spec binds to a tensor of a safetensors file.
    fn bind_stored(&mut self, folder: &Path) -> Result<()> {
        let Some(entry) = self.proto.metadata_props.iter().find(|entry| entry.key == WEIGHT_SPEC) else {
            return Ok(());
        };
        let spec: Json = serde_json::from_str(&entry.value).context(WEIGHT_SPEC)?;
        if spec["version"] != 5 {
            bail!("{WEIGHT_SPEC}: version {} of the weight spec, expected 5", spec["version"]);
        }
        let mut stored = vec![];
        for file in spec["files"].as_array().context("weight spec: `files` is no list")? {
            let location = file["path"].as_str().context("weight spec: a file has no path")?;
            let path = folder.join(relative(location)?);
            let header = header(&path).with_context(|| path.display().to_string())?;
            stored.push((location.to_owned(), path, header));
        }
        let graph = self.proto.graph.as_mut().context("the model has no graph")?;
        let mut bound = BTreeMap::new();
        for input in spec["inputs"].as_array().context("weight spec: `inputs` is no list")? {
            let name = input["name"].as_str().context("weight spec: an input has no name")?;
            let place = || format!("weight spec: input `{name}`");
            let file = input["location"]["file"].as_u64().and_then(|file| usize::try_from(file).ok());
            let key = input["location"]["key"].as_str().with_context(place)?;
            let (location, path, (data, header)) = file.and_then(|file| stored.get(file)).with_context(place)?;
            let info = header.info(key).with_context(|| format!("{}: {} has no `{key}`", place(), path.display()))?;
            let put = graph.input.iter().find(|put| put.name == name);
            let put = port(put.with_context(|| format!("{}: the graph has no such input", place()))?)?;
            let fixed: Vec<usize> = put.dims.iter().filter_map(|dim| dim.fixed()).collect();
            let same_type = dtype(put.elem).is_some_and(|dtype| spelled(dtype) == format!("{:?}", info.dtype));
            if fixed != info.shape || !same_type {
                bail!(
                    "{}: {:?} of type {}, but {:?} {:?} is stored",
                    place(),
                    put.dims,
                    put.elem,
                    info.dtype,
                    info.shape
                );
            }
            let (begin, end) = info.data_offsets;
            let tensor = TensorProto {
                dims: info.shape.iter().map(|&n| n as i64).collect(),
                data_type: put.elem,
                name: name.to_owned(),
                external_data: entries(&[
                    ("location", location),
                    ("offset", &(data + begin).to_string()),
                    ("length", &(end - begin).to_string()),
                ]),
                data_location: EXTERNAL,
                ..TensorProto::default()
            };
            bound.insert(name.to_owned(), tensor);
        }
        graph.input.retain(|input| !bound.contains_key(&input.name));
        graph.initializer.extend(bound.into_values());
        // What is compiled is whole; nobody shall bind it a second time.
        self.proto.metadata_props.retain(|entry| entry.key != WEIGHT_SPEC);
        Ok(())
    }

    fn find_files(&mut self, folder: &Path) -> Result<()> {
        let mut files = BTreeMap::new();
        for tensor in &self.graph()?.initializer {
            let Some(place) = Place::of(tensor)? else {
                if tensor.raw_data.is_none() && !tensor.dims.contains(&0) {
                    bail!("initializer `{}` holds no raw data", tensor.name);
                }
                continue;
            };
            let path = folder.join(relative(place.location)?);
            let meta = std::fs::metadata(&path).with_context(|| format!("Failed to open {}", path.display()))?;
            if place.end > meta.len() {
                bail!(
                    "Failed to mmap {}: `{}` ends at {} of {} bytes",
                    path.display(),
                    tensor.name,
                    place.end,
                    meta.len()
                );
            }
            let whole = std::fs::canonicalize(&path).with_context(|| path.display().to_string())?;
            files.insert(place.location.to_owned(), whole);
        }
        self.files = files;
        Ok(())
    }
}

/// Where the bytes of an external tensor are.
pub(super) struct Place<'a> {
    pub(super) location: &'a str,
    pub(super) begin: u64,
    pub(super) end: u64,
}

impl<'a> Place<'a> {
    /// `None` if the tensor is in the file.
    pub(super) fn of(tensor: &'a TensorProto) -> Result<Option<Self>> {
        if tensor.data_location != EXTERNAL {
            return Ok(None);
        }
        let find = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).map(|entry| &*entry.value);
        let number = |key: &str| find(key).and_then(|number| number.parse::<u64>().ok());
        let location = find("location").with_context(|| format!("initializer `{}` has no location", tensor.name))?;
        // The real one maps the file by these two, and says no more if they are missing.
        let (Some(begin), Some(length)) = (number("offset"), number("length")) else {
            bail!("Failed to mmap {location}: Invalid argument (`{}` has no offset or length)", tensor.name);
        };
        let end = begin.checked_add(length).with_context(|| format!("initializer `{}` has no end", tensor.name))?;
        let bytes = dtype(tensor.data_type).map(|dtype| dtype.size() as u64);
        let count = tensor.dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(u64::try_from(dim).ok()?));
        if bytes.zip(count).and_then(|(bytes, count)| bytes.checked_mul(count)) != Some(length) {
            bail!(
                "initializer `{}`: {length} bytes are not {:?} of type {}",
                tensor.name,
                tensor.dims,
                tensor.data_type
            );
        }
        Ok(Some(Place { location, begin, end }))
    }
}

impl Dim {
    /// The number, if it is one.
    pub fn fixed(&self) -> Option<usize> {
        if let Dim::Fixed(n) = self { Some(*n) } else { None }
    }
}

pub(super) fn entries(pairs: &[(&str, &str)]) -> Vec<StringStringEntryProto> {
    pairs.iter().map(|&(key, value)| StringStringEntryProto { key: key.into(), value: value.into() }).collect()
}

/// How safetensors spells a type.
fn spelled(dtype: qeff_plugin_api::DType) -> &'static str {
    use qeff_plugin_api::DType;
    match dtype {
        DType::F32 => "F32",
        DType::U8 => "U8",
        DType::I8 => "I8",
        DType::I16 => "I16",
        DType::I32 => "I32",
        DType::I64 => "I64",
        DType::Bool => "BOOL",
        DType::F16 => "F16",
        DType::F64 => "F64",
        DType::BF16 => "BF16",
    }
}

/// A path that stays below the folder of the model.
fn relative(location: &str) -> Result<&Path> {
    let path = Path::new(location);
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        bail!("external data `{location}`: the path leads out of the model's folder");
    }
    Ok(path)
}

/// Where the numbers of a safetensors file begin, and what it says of them.
fn header(path: &Path) -> Result<(usize, safetensors::tensor::Metadata)> {
    use std::io::Read as _;
    let mut file = std::fs::File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let whole = file.metadata()?.len();
    if length > whole {
        bail!("the header is cut short");
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes)?;
    Ok((8 + bytes.len(), serde_json::from_slice(&bytes)?))
}

fn port(info: &ValueInfoProto) -> Result<Port> {
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) else {
        bail!("`{}` has no tensor type", info.name);
    };
    dtype(tensor.elem_type).with_context(|| format!("`{}` has unknown type {}", info.name, tensor.elem_type))?;
    let shape = tensor.shape.as_ref().with_context(|| format!("`{}` has no shape", info.name))?;
    let dims = shape.dim.iter().map(|dim| match &dim.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(n)) => {
            Ok(Dim::Fixed(usize::try_from(*n).with_context(|| format!("`{}`: dimension {n}", info.name))?))
        }
        Some(tensor_shape_proto::dimension::Value::DimParam(name)) if !name.is_empty() => Ok(Dim::Symbol(name.clone())),
        _ => Ok(Dim::Unknown),
    });
    Ok(Port { name: info.name.clone(), elem: tensor.elem_type, dims: dims.collect::<Result<_>>()? })
}

/// ONNX's numbers for the types that an interface may have.
pub(crate) mod elem {
    pub(crate) const F32: i32 = 1;
    pub(crate) const U8: i32 = 2;
    pub(crate) const I8: i32 = 3;
    pub(crate) const I32: i32 = 6;
    pub(crate) const I64: i32 = 7;
    pub(crate) const BOOL: i32 = 9;
    pub(crate) const F16: i32 = 10;
    pub(crate) const BF16: i32 = 16;
}

/// ONNX's number for f32, which everything with another float becomes within.
pub(super) fn f32_number() -> i32 {
    data_type(qeff_plugin_api::DType::F32)
}
