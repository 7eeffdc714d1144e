//! A program as the compiler will see it, in memory: from a lowered model, or from a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use fs_err as fs;
use prost::Message as _;
use qeff_core::lower::Lowered;
use qeff_plugin_api::graph::{self, AttentionMask, Dim, Op, StateKind, StateWrite};
use qeff_plugin_api::onnx::{EXTERNAL, FunctionProto, GraphProto, ModelProto, dtype};

use serde_json::Value as Json;

use super::{Interface, Weights};

/// What is compiled.
#[derive(Debug, Clone)]
pub struct Program {
    /// What its files and folders are called after.
    pub stem: String,
    /// Inputs and outputs.
    pub interface: Interface,
    /// Nodes; weights are not in it if they are elsewhere.
    pub graph: GraphProto,
    /// Local functions.
    pub functions: Vec<FunctionProto>,
    /// Sizes of the weights.
    pub weights: Weights,
    /// Symbols that are lengths of rolling buffers, with the window that attention looks through.
    pub windows: BTreeMap<String, u64>,
    /// Numbers of symbols that follow from what the program is made for, where nobody says otherwise.
    pub symbols: BTreeMap<String, u64>,
}

impl Program {
    /// A lowered program of a model.
    ///
    /// # Errors
    /// If its interface is none that can be compiled.
    pub fn lowered(stem: &str, program: &graph::Program, lowered: &Lowered) -> Result<Self> {
        let mut weights = Weights::default();
        for weight in &lowered.weights {
            weights.add(&weight.shape, weight.dtype);
        }
        Ok(Program {
            stem: stem.to_owned(),
            interface: Interface::of(&lowered.graph)?,
            graph: lowered.graph.clone(),
            functions: lowered.functions.clone(),
            weights,
            windows: windows(program),
            symbols: fills(program),
        })
    }

    /// A program from an ONNX file, and the files that hold its weights.
    ///
    /// # Errors
    /// If there is no such file, it is not ONNX, or its weights lie outside its folder.
    pub fn open(path: &Path) -> Result<(Self, Vec<PathBuf>)> {
        /// No message of protobuf is larger.
        const MOST: u64 = 2 << 30;
        if !path.is_file() {
            bail!(
                "--onnx-path {}: there is no such file; expected an ONNX file, as `export` prints it",
                path.display()
            );
        }
        let size = fs::metadata(path)?.len();
        if size > MOST {
            bail!("{} has {size} bytes; an ONNX file has at most {MOST}, its weights are beside it", path.display());
        }
        let model = ModelProto::decode(fs::read(path)?.as_slice())
            .with_context(|| format!("{} is not an ONNX file", path.display()))?;
        let graph = model.graph.with_context(|| format!("{} is not an ONNX file: it has no graph", path.display()))?;
        let mut interface = Interface::of(&graph).with_context(|| format!("cannot compile {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut weights = Weights::default();
        let mut files = vec![path.to_owned()];
        if let Some(entry) = model.metadata_props.iter().find(|entry| entry.key == LINKED) {
            let linked =
                Linked::parse(&entry.value).with_context(|| format!("{}: metadata {LINKED}", path.display()))?;
            for location in &linked.files {
                files.push(
                    data_file(folder, location).with_context(|| format!("{}: metadata {LINKED}", path.display()))?,
                );
            }
            for port in interface.inputs.extract_if(.., |port| linked.weights.contains(&port.name)) {
                let shape: Vec<u64> = port.dims.iter().filter_map(Dim::fixed).collect();
                weights.add(&shape, port.elem);
            }
        }
        for tensor in &graph.initializer {
            let shape: Vec<u64> = tensor.dims.iter().map(|&n| u64::try_from(n).unwrap_or(0)).collect();
            if let Some(dtype) = dtype(tensor.data_type) {
                weights.add(&shape, dtype);
            }
            if tensor.data_location == EXTERNAL {
                let location =
                    tensor.external_data.iter().find(|entry| entry.key == "location").map(|e| e.value.as_str());
                let file = data_file(folder, location.unwrap_or_default())
                    .with_context(|| format!("{}: weight `{}`", path.display(), tensor.name))?;
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        let stem = path.file_stem().map_or("model".into(), |stem| stem.to_string_lossy().into_owned());
        let windows = BTreeMap::new();
        let symbols = BTreeMap::new();
        Ok((Program { stem, interface, graph, functions: model.functions, weights, windows, symbols }, files))
    }
}

/// Metadata of a graph that refers to a checkpoint's own files; its weights are inputs.
const LINKED: &str = qeff_core::onnx::WEIGHT_SPEC_KEY;

/// What a graph says of a checkpoint that it refers to.
struct Linked {
    files: Vec<String>,
    weights: BTreeSet<String>,
}

impl Linked {
    fn parse(text: &str) -> Result<Self> {
        let json: Json = serde_json::from_str(text).context("expected JSON")?;
        let texts = |list: &str, key: &str| -> Result<Vec<String>> {
            let list = json[list].as_array().with_context(|| format!("expected a list `{list}`"))?;
            let text = |entry: &Json| entry[key].as_str().map(str::to_owned);
            list.iter().map(|entry| text(entry).with_context(|| format!("expected a text `{key}`"))).collect()
        };
        Ok(Linked { files: texts("files", "path")?, weights: texts("inputs", "name")?.into_iter().collect() })
    }
}

/// The file of external data, which has to lie in the model's folder.
fn data_file(folder: &Path, location: &str) -> Result<PathBuf> {
    use std::path::Component;
    let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if location.is_empty() || !Path::new(location).components().all(inside) {
        bail!("its data is said to be in `{location}`; expected a plain path beside the file");
    }
    let file = folder.join(location);
    if !file.is_file() {
        bail!("its data is said to be in {}, which is missing", file.display());
    }
    Ok(file)
}

/// Symbols along which a state is made as a whole, with the rows that it is made of where the graph says how many.
fn fills(program: &graph::Program) -> BTreeMap<String, u64> {
    let writes = program.nodes().filter(|(_, node)| matches!(node.op, Op::StateWrite(_)));
    let lengths = writes.filter_map(|(_, node)| {
        let state = program.ty(node.operand(StateWrite::part(0))?);
        let new = program.ty(node.operand(StateWrite::new_rows(0, node.outputs.len()))?);
        let by_position = node.operand(StateWrite::positions(node.outputs.len())).is_some();
        match (&state.dims[2], new.dims[1].fixed()) {
            (Dim::Symbol(symbol), Some(rows)) if !by_position => Some((symbol.name().to_owned(), rows)),
            _ => None,
        }
    });
    lengths.collect()
}

/// The widest window over each symbol that is the length of rolling buffers.
fn windows(program: &graph::Program) -> BTreeMap<String, u64> {
    let mut windows = BTreeMap::new();
    for (_, node) in program.nodes() {
        let Op::Attention(attention) = &node.op else { continue };
        let state = node.operand(graph::Attention::K).and_then(|keys| program.version(keys));
        let Some(state) = state.map(|version| program.state(version.slot)) else { continue };
        let axis = state.parts.first().and_then(|&part| program.ty(part).dims.get(2));
        if let (StateKind::Rolling, Some(Dim::Symbol(axis)), AttentionMask::Sliding(window)) =
            (state.kind, axis, attention.mask)
        {
            let widest = windows.entry(axis.name().to_owned()).or_insert(0);
            *widest = window.max(*widest);
        }
    }
    windows
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
