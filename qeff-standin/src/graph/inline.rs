//! Local functions, put where they are called.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use qeff_plugin_api::onnx::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

use super::rewrite;

/// Functions that call functions that call functions: deeper than any exporter writes.
const MAX_DEPTH: usize = 16;

/// Replaces every call of a local function by its body. Afterwards the model has none.
///
/// # Errors
/// If a function calls itself, or with more operands than it has.
pub fn inline(model: &mut ModelProto) -> Result<()> {
    let functions: HashMap<_, _> = model
        .functions
        .drain(..)
        .map(|function| ((function.domain.clone(), function.name.clone()), function))
        .collect();
    let Some(graph) = model.graph.as_mut() else { return Ok(()) };
    let mut calls = 0;
    rewrite(graph, &mut |node, out| expand(node, &functions, &mut calls, 0, out))
}

type Functions = HashMap<(String, String), FunctionProto>;

fn expand(
    node: NodeProto,
    functions: &Functions,
    calls: &mut usize,
    depth: usize,
    out: &mut Vec<NodeProto>,
) -> Result<()> {
    let Some(function) = functions.get(&(node.domain.clone(), node.op_type.clone())) else {
        out.push(node);
        return Ok(());
    };
    let place = || format!("node `{}`, function {}::{}", node.name, function.domain, function.name);
    if depth > MAX_DEPTH {
        bail!("{}: calls are nested too deeply", place());
    }
    if node.input.len() > function.input.len() || node.output.len() > function.output.len() {
        bail!("{}: more operands than the function has", place());
    }
    *calls += 1;
    let missing = String::new();
    let inputs = function.input.iter().zip(node.input.iter().chain(std::iter::repeat(&missing)));
    let outputs = function.output.iter().zip(&node.output);
    let names: HashMap<&str, &str> = inputs.chain(outputs).map(|(inner, outer)| (&**inner, &**outer)).collect();
    let call = Call { names, attributes: &node.attribute, prefix: format!("{}/#{calls}/", node.name) };
    for inner in &function.node {
        expand(call.node(inner).with_context(place)?, functions, calls, depth + 1, out)?;
    }
    Ok(())
}

/// What names and attributes mean within a call.
struct Call<'a> {
    names: HashMap<&'a str, &'a str>,
    attributes: &'a [AttributeProto],
    prefix: String,
}

impl Call<'_> {
    fn node(&self, node: &NodeProto) -> Result<NodeProto> {
        Ok(NodeProto {
            name: format!("{}{}", self.prefix, node.name),
            input: node.input.iter().map(|name| self.name(name)).collect(),
            output: node.output.iter().map(|name| self.name(name)).collect(),
            attribute: node
                .attribute
                .iter()
                .filter_map(|attribute| self.attribute(attribute).transpose())
                .collect::<Result<_>>()?,
            ..node.clone()
        })
    }

    fn name(&self, name: &str) -> String {
        match self.names.get(name) {
            Some(outer) => (*outer).to_owned(),
            None if name.is_empty() => String::new(),
            None => format!("{}{name}", self.prefix),
        }
    }

    /// An attribute that refers to one of the call's takes its value, or is left out if the call does not give it.
    fn attribute(&self, attribute: &AttributeProto) -> Result<Option<AttributeProto>> {
        if !attribute.ref_attr_name.is_empty() {
            let given = self.attributes.iter().find(|given| given.name == attribute.ref_attr_name);
            return Ok(given.map(|given| AttributeProto { name: attribute.name.clone(), ..given.clone() }));
        }
        let g = attribute.g.as_ref().map(|graph| self.graph(graph)).transpose()?;
        Ok(Some(AttributeProto { g, ..attribute.clone() }))
    }

    /// A graph within a function sees the function's names only, so all of its names are renamed alike.
    fn graph(&self, graph: &GraphProto) -> Result<GraphProto> {
        let mut renamed = graph.clone();
        renamed.node = graph.node.iter().map(|node| self.node(node)).collect::<Result<_>>()?;
        renamed.initializer.iter_mut().for_each(|tensor| tensor.name = self.name(&tensor.name));
        for info in renamed.input.iter_mut().chain(&mut renamed.output).chain(&mut renamed.value_info) {
            info.name = self.name(&info.name);
        }
        Ok(renamed)
    }
}
