//! The tools of QNN: a converter that makes a `.dlc`, and a generator that makes the QPC.
//!
//! A `.dlc` of ours is a text: it says where the model is and what the converter was told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use yaml_rust2::{Yaml, YamlLoader};

use super::files::{self, Precision, Sizes};
use super::{Job, Refused, compile, digest};
use crate::config::SimConfig;
use crate::graph::model::{Dim, Model};

/// Exit code of everything that is refused.
const REFUSED: u8 = 1;

/// What a `.dlc` of ours says.
#[derive(Debug, Serialize, Deserialize)]
struct Dlc {
    model: PathBuf,
    sha256: String,
    specializations: Vec<Sizes>,
    custom_io: Precisions,
}

/// Ports that are stored in another type than the graph's, with QNN's word for it.
type Precisions = Vec<(String, String)>;

/// `qairt-converter`.
///
/// # Errors
/// What is missing or not understood.
pub fn convert(arguments: &[String]) -> Result<(), Refused> {
    let args = pairs(
        arguments,
        &["input_network", "output_path", "config", "float_bias_bitwidth", "float_bitwidth", "target_backend"],
        &["preserve_io_datatype", "onnx_skip_simplification"],
    )?;
    expect(&args, &[("float_bias_bitwidth", "32"), ("float_bitwidth", "16"), ("target_backend", "AIC")])?;
    let model = Path::new(required(&args, "input_network")?);
    let opened = Model::open(model)?;
    let (specializations, custom_io) = io_config(&files::text(Path::new(required(&args, "config")?))?, &opened)?;
    let bytes = std::fs::read(model).map_err(|error| refuse(format!("{}: {error}", model.display())))?;
    let model = std::path::absolute(model).map_err(|error| refuse(error.to_string()))?;
    let dlc = Dlc { model, sha256: digest(&bytes), specializations, custom_io };
    let text = serde_json::to_string(&dlc).map_err(|error| refuse(error.to_string()))?;
    let path = required(&args, "output_path")?;
    std::fs::write(path, text).map_err(|error| refuse(format!("{path}: {error}")))
}

/// `qnn-context-binary-generator`.
///
/// # Errors
/// What is missing or not understood.
pub fn generate(arguments: &[String], config: &SimConfig) -> Result<(), Refused> {
    let known = [
        "binary_file",
        "backend_binary",
        "output_dir",
        "backend",
        "dlc_path",
        "config_file",
        "data_format_config",
        "log_level",
    ];
    let args = pairs(arguments, &known, &[])?;
    let json = |path: &str| -> Result<Json, Refused> {
        serde_json::from_str(&files::text(Path::new(path))?).map_err(|error| refuse(format!("{path}: {error}")))
    };
    let backend = required(&args, "backend")?;
    if !Path::new(backend).is_file() {
        return Err(refuse(format!("unable to load backend {backend}")));
    }
    let dlc: Dlc = serde_json::from_value(json(required(&args, "dlc_path")?)?)
        .map_err(|error| refuse(format!("the .dlc is not one of the stand-in's: {error}")))?;
    let bytes = std::fs::read(&dlc.model).map_err(|error| refuse(format!("{}: {error}", dlc.model.display())))?;
    if digest(&bytes) != dlc.sha256 {
        return Err(refuse(format!("{} was changed since it was converted", dlc.model.display())));
    }
    let extensions = json(required(&args, "config_file")?)?;
    let extensions = &extensions["backend_extensions"];
    let library = extensions["shared_library_path"].as_str().unwrap_or_default();
    if !Path::new(library).is_file() {
        return Err(refuse(format!("unable to load {library}")));
    }
    let told = json(extensions["config_file_path"].as_str().unwrap_or_default())?;
    let cores = told["compiler_num_of_cores"].as_u64().and_then(|cores| u32::try_from(cores).ok());
    let cores = cores.filter(|cores| (1..=16).contains(cores));
    let cores = cores.ok_or_else(|| refuse("compiler_num_of_cores: expected a number from 1 to 16"))?;
    let graphs = told["graph_names"].as_array().map_or(0, Vec::len);
    if graphs != dlc.specializations.len().max(1) {
        return Err(refuse(format!("{graphs} graph names for {} specializations", dlc.specializations.len())));
    }
    let partition = match told.get("compiler_mdp_load_partition_config").map(Json::as_str) {
        Some(Some(path)) => Some(files::text(Path::new(path))?),
        Some(None) => return Err(refuse("compiler_mdp_load_partition_config: expected a path")),
        None => None,
    };
    let mut custom_io = vec![];
    for (name, precision) in &dlc.custom_io {
        custom_io.push((name.clone(), if precision == "float16" { Precision::Float16 } else { Precision::Float }));
    }
    if let Some(path) = args.get("data_format_config") {
        mx(&json(path)?, &mut custom_io)?;
    }
    let out = PathBuf::from(required(&args, "output_dir")?);
    let job = Job {
        model: &dlc.model,
        cores,
        retained: told["compiler_retained_state"] == true,
        specializations: dlc.specializations,
        custom_io,
        partition,
        node_precision: None,
        options: vec![],
        out: out.clone(),
    };
    compile(&job, config, required(&args, "backend_binary")?)?;
    let context = out.join(required(&args, "binary_file")?);
    std::fs::write(&context, "stand-in\n").map_err(|error| refuse(format!("{}: {error}", context.display())))
}

/// Tensors that a data format file makes MXINT8.
fn mx(json: &Json, custom_io: &mut Vec<(String, Precision)>) -> Result<(), Refused> {
    for graph in json["graphs"].as_array().into_iter().flatten() {
        for tensor in graph["tensors"].as_array().into_iter().flatten() {
            let name = tensor["tensor_name"].as_str().unwrap_or_default();
            if tensor["dataFormat"] != "QNN_TENSOR_DATA_FORMAT_MX" {
                return Err(refuse(format!("`{name}`: unknown data format {}", tensor["dataFormat"])));
            }
            custom_io.retain(|(other, _)| other != name);
            custom_io.push((name.to_owned(), Precision::Mxint8));
        }
    }
    Ok(())
}

fn refuse(said: impl Into<String>) -> Refused {
    Refused::new(REFUSED, said)
}

/// `--name value` pairs and flags.
fn pairs(arguments: &[String], known: &[&str], flags: &[&str]) -> Result<BTreeMap<String, String>, Refused> {
    let mut found = BTreeMap::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let name = argument.strip_prefix("--").unwrap_or_default();
        let value = if flags.contains(&name) {
            String::new()
        } else if known.contains(&name) {
            arguments.next().cloned().ok_or_else(|| refuse(format!("{argument}: expected a value")))?
        } else {
            return Err(refuse(format!("unrecognized arguments: {argument}")));
        };
        if found.insert(name.to_owned(), value).is_some() {
            return Err(refuse(format!("{argument} is given more than once")));
        }
    }
    if let Some(flag) = flags.iter().find(|&&flag| !found.contains_key(flag)) {
        return Err(refuse(format!("without --{flag} the converter makes something else")));
    }
    Ok(found)
}

fn required<'a>(args: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str, Refused> {
    args.get(name).map(String::as_str).ok_or_else(|| refuse(format!("the following arguments are required: --{name}")))
}

fn expect(args: &BTreeMap<String, String>, values: &[(&str, &str)]) -> Result<(), Refused> {
    for (name, value) in values {
        if required(args, name)? != *value {
            return Err(refuse(format!("--{name}: the stand-in knows {value} only")));
        }
    }
    Ok(())
}

/// Reads the converter's config: the shapes of inputs give the specializations, the types of states their precision.
fn io_config(text: &str, model: &Model) -> Result<(Vec<Sizes>, Precisions), Refused> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| refuse(error.to_string()))?;
    let document = documents.first().ok_or_else(|| refuse("the config is empty"))?;
    let (inputs, outputs) = model.interface()?;
    let mut precisions = vec![];
    let mut shapes = vec![];
    for (key, ports) in [("Input Tensor Configuration", &inputs), ("Output Tensor Configuration", &outputs)] {
        let entries = document[key].as_vec().ok_or_else(|| refuse(format!("{key}: expected a list")))?;
        for entry in entries {
            let name = entry["Name"].as_str().ok_or_else(|| refuse(format!("{key}: an entry has no name")))?;
            let port = ports.iter().find(|port| port.name == name);
            let port = port.ok_or_else(|| refuse(format!("{key}: the graph has no `{name}`")))?;
            let wanted = &entry["Desired Model Parameters"];
            let ty = wanted["DataType"].as_str().ok_or_else(|| refuse(format!("`{name}`: no DataType")))?;
            if ty == "float16" && port.elem != crate::graph::model::elem::F16 {
                precisions.push((name.to_owned(), ty.to_owned()));
            }
            match &wanted["Shape"] {
                Yaml::BadValue => {}
                Yaml::String(text) => shapes.push((port, parse_shapes(text, name)?)),
                other => return Err(refuse(format!("`{name}`: shape {other:?}"))),
            }
        }
    }
    let count = shapes.iter().map(|(_, shapes)| shapes.len()).max().unwrap_or(0);
    let mut specializations = vec![Sizes::new(); count];
    for (port, shapes) in &shapes {
        for (i, sizes) in specializations.iter_mut().enumerate() {
            // One shape stands for all.
            let dims = shapes.get(i).unwrap_or(&shapes[0]);
            if dims.len() != port.dims.len() {
                return Err(refuse(format!("`{}` has {} dimensions, not {dims:?}", port.name, port.dims.len())));
            }
            for (dim, &size) in port.dims.iter().zip(dims) {
                match dim {
                    Dim::Fixed(n) if *n as u64 != size => {
                        return Err(refuse(format!("`{}`: {n} in the graph, {size} in the config", port.name)));
                    }
                    Dim::Symbol(symbol) if sizes.insert(symbol.clone(), size).is_some_and(|other| other != size) => {
                        return Err(refuse(format!("`{}`: `{symbol}` has two values", port.name)));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok((specializations, precisions))
}

/// `(1, 32), (1, 1)`.
fn parse_shapes(text: &str, name: &str) -> Result<Vec<Vec<u64>>, Refused> {
    let bad = || refuse(format!("`{name}`: shape `{text}`"));
    let mut shapes = vec![];
    for shape in text.split_inclusive(')') {
        let inner = shape.trim_start_matches([',', ' ']).strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let numbers = inner.ok_or_else(bad)?.split(',').map(str::trim).filter(|number| !number.is_empty());
        shapes.push(numbers.map(|number| number.parse().map_err(|_| bad())).collect::<Result<Vec<u64>, _>>()?);
    }
    if shapes.is_empty() { Err(bad()) } else { Ok(shapes) }
}
