//! The files beside the model: specializations, custom I/O, partitions over cards, precision of nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use qeff_plugin_api::onnx::GraphProto;
use serde_json::Value as Json;
use yaml_rust2::{Yaml, YamlLoader};

use super::Refused;
use crate::config::SpecFormat;

/// Exit code of everything that is wrong with a config file.
const CONFIG: u8 = 255;

pub(super) fn text(path: &Path) -> Result<String, Refused> {
    std::fs::read_to_string(path)
        .map_err(|error| Refused::new(CONFIG, format!("Failed to open {}: {error}", path.display())))
}

/// Sizes of a specialization, by symbol.
pub(super) type Sizes = BTreeMap<String, u64>;

/// The specializations of a file, in either form.
pub(super) fn specializations(text: &str, format: SpecFormat) -> Result<Vec<Sizes>, Refused> {
    let refuse = |what: String| Refused::new(CONFIG, what);
    let json: Json = serde_json::from_str(text)
        .map_err(|error| refuse(format!("[json.exception.parse_error.101] parse error: {error}")))?;
    let list = json["specializations"].as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| refuse("network-specialization-config: no specializations".into()))?;
    let mut names = BTreeSet::new();
    let mut all = vec![];
    for entry in list {
        let Json::Object(map) = entry else {
            return Err(refuse("network-specialization-config: an entry is no object".into()));
        };
        let named = map.contains_key("symbols");
        let symbols = match (named, format) {
            (true, SpecFormat::Classic) => {
                return Err(refuse("[json.exception.type_error.302] type must be string, but is object".into()));
            }
            (true, _) => {
                let name = map.get("name").and_then(Json::as_str);
                let name = name.ok_or_else(|| refuse("network-specialization-config: an entry has no name".into()))?;
                if !names.insert(name.to_owned()) {
                    return Err(refuse(format!("network-specialization-config: `{name}` is there twice")));
                }
                if let Some(other) = map.keys().find(|key| !matches!(key.as_str(), "name" | "symbols")) {
                    return Err(refuse(format!("network-specialization-config: unknown key `{other}`")));
                }
                let Some(Json::Object(symbols)) = map.get("symbols") else {
                    return Err(refuse("network-specialization-config: `symbols` is no object".into()));
                };
                symbols
            }
            (false, SpecFormat::Named) => {
                return Err(refuse("[json.exception.out_of_range.403] key 'symbols' not found".into()));
            }
            (false, _) => map,
        };
        let mut sizes = Sizes::new();
        for (symbol, value) in symbols {
            let kind = match value {
                Json::String(text) => {
                    let number = text.parse().ok().filter(|&number: &u64| number > 0);
                    let number =
                        number.ok_or_else(|| refuse(format!("symbol {symbol}: `{text}` is no positive number")))?;
                    sizes.insert(symbol.clone(), number);
                    continue;
                }
                Json::Null => "null",
                Json::Bool(_) => "boolean",
                Json::Number(_) => "number",
                Json::Array(_) => "array",
                Json::Object(_) => "object",
            };
            return Err(refuse(format!("[json.exception.type_error.302] type must be string, but is {kind}")));
        }
        all.push(sizes);
    }
    Ok(all)
}

/// How a port is stored, by the compiler's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    Float,
    Float16,
    Bfloat16,
    Mxint8,
}

/// The entries of a custom I/O list, in their order.
pub(super) fn custom_io(text: &str) -> Result<Vec<(String, Precision)>, Refused> {
    let refuse = |what: String| Refused::new(CONFIG, format!("custom-IO-list-file: {what}"));
    let documents = YamlLoader::load_from_str(text).map_err(|error| refuse(error.to_string()))?;
    let Some(Yaml::Array(entries)) = documents.first() else { return Err(refuse("expected a list".into())) };
    let mut list: Vec<(String, Precision)> = vec![];
    for entry in entries {
        let Yaml::Hash(map) = entry else { return Err(refuse("an entry is no map".into())) };
        let (mut name, mut precision) = (None, None);
        for (key, value) in map {
            let value = value.as_str().ok_or_else(|| refuse(format!("{value:?} is no text")))?;
            match key.as_str() {
                Some("IOName") => name = Some(value.to_owned()),
                Some("Precision") => precision = Some(value),
                Some("Layout") => return Err(refuse("the stand-in knows no layouts".into())),
                _ => return Err(refuse(format!("unknown key {key:?}"))),
            }
        }
        let name = name.ok_or_else(|| refuse("an entry has no IOName".into()))?;
        let precision = match precision.ok_or_else(|| refuse(format!("`{name}` has no Precision")))? {
            "float" => Precision::Float,
            "float16" => Precision::Float16,
            "bfloat16" => Precision::Bfloat16,
            "mxint8" => Precision::Mxint8,
            "int8" => {
                return Err(refuse(format!(
                    "`{name}`: int8 wants Scale and Offset, which the stand-in has no model of"
                )));
            }
            other => return Err(refuse(format!("`{name}`: unknown precision `{other}`"))),
        };
        if list.iter().any(|(other, _)| *other == name) {
            return Err(refuse(format!("`{name}` is there twice")));
        }
        list.push((name, precision));
    }
    Ok(list)
}

/// How many cards a partition file spreads a program over.
pub(super) fn partition(text: &str, cores: u32, graph: &GraphProto) -> Result<usize, Refused> {
    let refuse = |what: String| Refused::new(CONFIG, format!("mdp-load-partition-config: {what}"));
    let json: Json = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
    let list = |value: &Json, what: &str| value.as_array().cloned().ok_or_else(|| refuse(format!("{what} is no list")));
    let mut ids = vec![];
    let mut names = BTreeSet::new();
    let mut nodes = BTreeMap::new();
    let partitions = list(&json["partitions"], "`partitions`")?;
    for partition in &partitions {
        let name = partition["name"].as_str().ok_or_else(|| refuse("a partition has no name".into()))?;
        if !names.insert(name) {
            return Err(refuse(format!("partition {name} is there twice")));
        }
        for device in list(&partition["devices"], "`devices`")? {
            let id = device["deviceId"].as_u64().ok_or_else(|| refuse("a device has no deviceId".into()))?;
            // QNN's files leave the cores to another one.
            if device.get("numCores").is_some_and(|given| given.as_u64() != Some(cores.into())) {
                return Err(refuse(format!("device {id}: numCores is not -aic-num-cores={cores}")));
            }
            ids.push(id);
        }
        if let Some(listed) = partition.get("nodeList") {
            for node in list(listed, "`nodeList`")? {
                let node = node.as_str().ok_or_else(|| refuse("a node is no text".into()))?.to_owned();
                if let Some(other) = nodes.insert(node.clone(), name.to_owned()) {
                    return Err(refuse(format!("node `{node}` is in {other} and in {name}")));
                }
            }
        } else if partitions.len() > 1 {
            return Err(refuse(format!("partition {name} has no nodeList")));
        }
    }
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    if ids.is_empty() || sorted != (0..ids.len() as u64).collect::<Vec<_>>() {
        return Err(refuse(format!("device ids are {ids:?}, expected each of 0..{} once", ids.len())));
    }
    if ids.len() > 16 {
        return Err(refuse(format!("{} devices, at most 16 can be connected", ids.len())));
    }
    for connection in json.get("connections").map(|list_| list(list_, "`connections`")).transpose()?.unwrap_or_default()
    {
        let kind = connection["type"].as_str();
        if !matches!(kind, Some("p2p" | "host")) {
            return Err(refuse(format!("a connection has type {}", connection["type"])));
        }
        for device in list(&connection["devices"], "`devices`")? {
            if device.as_u64().is_none_or(|id| !ids.contains(&id)) {
                return Err(refuse(format!("a connection names device {device}")));
            }
        }
    }
    if !nodes.is_empty() {
        let known: BTreeSet<&str> = graph.node.iter().map(|node| node.name.as_str()).collect();
        // A call of a small function is listed by the nodes within it: `call/node`.
        let is_known =
            |node: &str| known.contains(node) || node.rsplit_once('/').is_some_and(|(call, _)| known.contains(call));
        if let Some(node) = nodes.keys().find(|node| !is_known(node)) {
            return Err(refuse(format!("the graph has no node `{node}`")));
        }
    }
    Ok(ids.len())
}

/// Refuses a precision list that names what is no first output of a node.
pub(super) fn node_precision(text: &str, graph: &GraphProto) -> Result<(), Refused> {
    let refuse = |what: String| Refused::new(CONFIG, format!("node-precision-info: {what}"));
    let documents = YamlLoader::load_from_str(text).map_err(|error| refuse(error.to_string()))?;
    let Some(Yaml::Hash(map)) = documents.first() else { return Err(refuse("expected a map".into())) };
    let outputs: BTreeSet<&str> =
        graph.node.iter().filter_map(|node| node.output.first()).map(String::as_str).collect();
    for (key, names) in map {
        if !matches!(key.as_str(), Some("FP16NodeInstanceNames" | "FP32NodeInstanceNames")) {
            return Err(refuse(format!("unknown key {key:?}")));
        }
        let Yaml::Array(names) = names else { return Err(refuse(format!("{key:?} is no list"))) };
        for name in names {
            let name = name.as_str().ok_or_else(|| refuse(format!("{name:?} is no text")))?;
            if !outputs.contains(name) {
                return Err(refuse(format!("no node has `{name}` as its first output")));
            }
        }
    }
    Ok(())
}
