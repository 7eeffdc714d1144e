//! Partitions over several devices (the compiler's MDP file).
//!
//! Devices are numbered from 0 here; which cards those are is decided when the program is loaded.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::{Context as _, Result, bail};
use qeff_plugin_api::onnx::{FunctionProto, GraphProto, NodeProto};
use serde_json::{Value as Json, json};

/// Which nodes of the graph are listed in a file of stages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Every node that the compiler can still see once constants are folded.
    #[default]
    Onnx,
    /// Of those, the ones that a partition file dumped by the compiler names, too.
    Intersection {
        /// Nodes of the dump.
        dumped: BTreeSet<String>,
    },
}

impl Strategy {
    /// The intersection with what the compiler dumped (`-mdp-dump-partition-config`).
    ///
    /// # Errors
    /// If `text` is no such dump.
    pub fn from_dump(text: &str) -> Result<Self> {
        let json: Json = serde_json::from_str(text).context("a dumped partition config is JSON")?;
        let partitions = json["partitions"].as_array().context("a dumped partition config has a list `partitions`")?;
        let nodes = partitions.iter().flat_map(|partition| partition["nodeList"].as_array().into_iter().flatten());
        let dumped: BTreeSet<String> = nodes.filter_map(|node| Some(node.as_str()?.to_owned())).collect();
        if dumped.is_empty() {
            bail!("the dumped partition config names no node in any `nodeList`");
        }
        Ok(Strategy::Intersection { dumped })
    }
}

/// Every tensor cut across all devices. QNN takes the number of cores from elsewhere.
pub(super) fn slices(devices: u64, cores: Option<u64>) -> Json {
    let partition =
        json!({ "name": "Partition0", "devices": (0..devices).map(|id| device(id, cores)).collect::<Vec<_>>() });
    json!({ "connections": [connection(devices)], "partitions": [partition] })
}

fn connection(devices: u64) -> Json {
    json!({ "devices": (0..devices).collect::<Vec<_>>(), "type": "p2p" })
}

fn device(id: u64, cores: Option<u64>) -> Json {
    match cores {
        Some(cores) => json!({ "deviceId": id, "numCores": cores }),
        None => json!({ "deviceId": id }),
    }
}

/// Consecutive layers in stages, each on as many devices as the others; devices that do not come out even stay unused.
pub(super) fn stages(
    graph: &GraphProto,
    functions: &[FunctionProto],
    stages: u64,
    devices: u64,
    cores: u64,
    strategy: &Strategy,
) -> Result<Json> {
    if stages == 0 || stages > devices {
        bail!("--mdp-num-partitions {stages}: expected 1 to {devices}, a device for each stage at least");
    }
    let mut lists = node_lists(graph, functions, stages)?;
    if let Strategy::Intersection { dumped } = strategy {
        lists.iter_mut().for_each(|list| list.retain(|node| dumped.contains(node)));
    }
    if let Some(empty) = lists.iter().position(Vec::is_empty) {
        bail!("--mdp-num-partitions {stages}: stage {empty} has no node left; ask for fewer stages");
    }
    let each = devices / stages;
    let partitions: Vec<Json> = (0..stages)
        .zip(&lists)
        .map(|(i, nodes)| {
            let devices: Vec<Json> = (i * each..(i + 1) * each).map(|id| device(id, Some(cores))).collect();
            json!({ "name": format!("Partition{i}"), "nodeList": nodes, "devices": devices })
        })
        .collect();
    Ok(json!({ "connections": [connection(devices)], "partitions": partitions }))
}

/// Names of the nodes of each stage, in graph order.
fn node_lists(graph: &GraphProto, functions: &[FunctionProto], stages: u64) -> Result<Vec<Vec<String>>> {
    in_order(graph)?;
    let layers = graph.node.iter().filter_map(|node| layer(&node.name)).max().map_or(0, |last| u64::from(last) + 1);
    if layers < stages {
        bail!(
            "--mdp-num-partitions {stages}: the graph has {layers} layers, told by node names like /model/layers.3/…"
        );
    }
    let bounds = bounds(layers, stages);
    let bodies: HashMap<(&str, &str), &FunctionProto> =
        functions.iter().map(|function| ((function.domain.as_str(), function.name.as_str()), function)).collect();
    let folded = folded(graph);
    let mut lists = vec![vec![]; stages as usize];
    let mut stage = 0;
    for (i, node) in graph.node.iter().enumerate() {
        // What belongs to no layer follows its neighbour before.
        if let Some(layer) = layer(&node.name) {
            stage = bounds.partition_point(|&bound| bound <= u64::from(layer));
        }
        if !node.name.is_empty() && !folded.contains(&i) {
            let body = bodies.get(&(node.domain.as_str(), node.op_type.as_str()));
            lists[stage].extend(visible_names(node, body.copied()));
        }
    }
    Ok(lists)
}

/// Names under which the compiler knows a node. It inlines small functions, except those it has kernels for.
fn visible_names(node: &NodeProto, body: Option<&FunctionProto>) -> Vec<String> {
    const KERNELS: [&str; 2] = ["CustomRMSNorm", "CastToUInt4"];
    const SMALL: usize = 100;
    match body {
        Some(body) if body.node.len() < SMALL && !KERNELS.contains(&body.name.as_str()) => body
            .node
            .iter()
            .enumerate()
            .map(|(i, inner)| {
                // The tracer that the reference uses numbers nodes of a function; ours have no names of their own.
                if inner.name.is_empty() {
                    format!("{}/n{i}", node.name)
                } else {
                    format!("{}/{}", node.name, inner.name)
                }
            })
            .collect(),
        _ => vec![node.name.clone()],
    }
}

/// First layer of each stage but the first.
fn bounds(layers: u64, stages: u64) -> Vec<u64> {
    let base = layers / stages;
    let rest = layers % stages;
    let mut sizes = vec![base; stages as usize];
    let last = sizes.len() - 1;
    if sizes.len() == 2 {
        sizes[0] += rest;
    } else if last > 0 {
        // The outer stages have the embedding and the head to carry, so what is left over goes to the middle.
        let middle = (sizes.len() - 1) / 2;
        let mut order = vec![];
        for distance in 0..sizes.len() {
            for i in [Some(middle + distance), middle.checked_sub(distance)].into_iter().flatten() {
                if i > 0 && i < last && !order.contains(&i) {
                    order.push(i);
                }
            }
        }
        order.push(0);
        for i in order.into_iter().take(rest as usize) {
            sizes[i] += 1;
        }
    }
    sizes.truncate(last);
    let ends = sizes.iter().scan(0, |end, size| {
        *end += size;
        Some(*end)
    });
    ends.collect()
}

/// The layer that a node's path names: `layers.N`, `h.N` or `layer_N` as one of its parts.
fn layer(name: &str) -> Option<u32> {
    name.split('/').find_map(|part| {
        let digits = ["layers.", "h.", "layer_"].iter().find_map(|head| part.strip_prefix(head))?;
        digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// Nodes that the compiler computes away: all they read is constant.
fn folded(graph: &GraphProto) -> HashSet<usize> {
    const NEVER: [&str; 5] = ["Loop", "Const", "Identity", "If", "DequantizeLinear"];
    let mut constant: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut folded = HashSet::new();
    // Nodes stand in order, so one walk is enough.
    for (i, node) in graph.node.iter().enumerate() {
        let mut inputs = node.input.iter().filter(|input| !input.is_empty()).peekable();
        let reads_constants = inputs.peek().is_some() && inputs.all(|input| constant.contains(input.as_str()));
        if reads_constants && !NEVER.contains(&node.op_type.as_str()) {
            folded.insert(i);
        }
        // A node without inputs makes a constant, and stays itself.
        if folded.contains(&i) || node.op_type == "Constant" {
            constant.extend(node.output.iter().map(String::as_str));
        }
    }
    folded
}

/// Checks that nodes stand after what they read, without which stages could depend on each other in circles.
fn in_order(graph: &GraphProto) -> Result<()> {
    let made: HashMap<&str, &str> = graph
        .node
        .iter()
        .flat_map(|node| node.output.iter().map(|output| (output.as_str(), node.name.as_str())))
        .collect();
    let mut seen = HashSet::new();
    for node in &graph.node {
        for input in node.input.iter().map(String::as_str) {
            if let Some(producer) = made.get(input).filter(|_| !seen.contains(input)) {
                bail!("the graph is not in order: node `{}` reads `{input}` before `{producer}` makes it", node.name);
            }
        }
        seen.extend(node.output.iter().map(String::as_str));
    }
    Ok(())
}

/// How many devices a partition file speaks of, and with how many cores each.
///
/// # Errors
/// If the file is no partition config.
pub(super) fn devices_of(text: &str) -> Result<BTreeMap<u64, Option<u64>>> {
    let json: Json = serde_json::from_str(text).context("expected JSON")?;
    let partitions = json["partitions"].as_array().context("expected a list `partitions`")?;
    let mut found = BTreeMap::new();
    for device in partitions.iter().flat_map(|partition| partition["devices"].as_array().into_iter().flatten()) {
        let id = device["deviceId"].as_u64().context("expected a number `deviceId` in every device")?;
        found.insert(id, device["numCores"].as_u64());
    }
    if found.is_empty() {
        bail!("expected devices in `partitions`, found none");
    }
    Ok(found)
}

#[cfg(test)]
#[path = "mdp_tests.rs"]
mod tests;
