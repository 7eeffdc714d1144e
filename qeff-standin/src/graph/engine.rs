//! Executes a model on rten.

use anyhow::{Context as _, Result, anyhow, bail};
use prost::Message as _;
use qeff_plugin_api::onnx::GraphProto;
use rten::{ModelOptions, NodeId, Value, ValueOrView};
use rten_tensor::prelude::*;

use super::invalid::{self, Negative};
use super::model::Model;
use super::tensor::{Data, Tensor};
use super::weights::{self, Files};
use super::{dialect, inline, model};

/// A model that can be run, with its ports in the order of the file.
pub struct Executable {
    model: rten::Model,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
}

/// Why a model cannot be executed.
#[derive(Debug)]
pub enum LoadError {
    /// A node has an operator that the engine does not know, or does not know in this form.
    Operator {
        /// Name of the node.
        node: String,
        /// What the engine says.
        why: String,
    },
    /// Anything else.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for LoadError {
    fn from(error: anyhow::Error) -> Self {
        LoadError::Other(error)
    }
}

impl Executable {
    /// Loads a model whose files of weights are `files`.
    ///
    /// # Errors
    /// If the model is malformed, or the engine refuses it.
    pub fn load(model: Model, files: Files, negative: Negative) -> Result<Self, LoadError> {
        let (inputs, outputs) = model.interface()?;
        let Model { mut proto, .. } = model;
        inline::inline(&mut proto)?;
        let graph = proto.graph.as_mut().context("the model has no graph")?;
        weights::multiply_out(graph, &files)?;
        invalid::guard(graph, negative)?;
        dialect::translate(graph)?;
        let mut options = ModelOptions::with_all_ops();
        for (i, (location, bytes)) in files.into_iter().enumerate() {
            // The engine is particular about the names of files, and exporters are not.
            let name = format!("weights{i}.data");
            rename(graph, &location, &name);
            options.external_data(&name, bytes);
        }
        let model = options.load(proto.encode_to_vec()).map_err(|error| match error.node() {
            Some(node) => LoadError::Operator { node: node.to_owned(), why: error.to_string() },
            None => LoadError::Other(anyhow!("{error}")),
        })?;
        let find = |port: &model::Port| model.node_id(&port.name).map_err(|error| anyhow!("{error}"));
        let (inputs, outputs) =
            (inputs.iter().map(find).collect::<Result<_>>()?, outputs.iter().map(find).collect::<Result<_>>()?);
        Ok(Executable { model, inputs, outputs })
    }

    /// One run: inputs and outputs in the order of the file.
    ///
    /// # Errors
    /// If the engine fails, or an output is no tensor.
    pub fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        if inputs.len() != self.inputs.len() {
            bail!("{} inputs for {}", inputs.len(), self.inputs.len());
        }
        let mut feeds: Vec<(NodeId, ValueOrView<'_>)> = vec![];
        for (&node, tensor) in self.inputs.iter().zip(inputs) {
            let Tensor { dims, data } = tensor;
            let value = match data {
                Data::F32(numbers) => value(&dims, numbers),
                Data::I32(numbers) => value(&dims, numbers),
                Data::I8(numbers) => value(&dims, numbers),
                Data::U8(numbers) => value(&dims, numbers),
            };
            feeds.push((node, value?.into()));
        }
        let results = self.model.run(feeds, &self.outputs, None).map_err(|error| anyhow!("{error}"))?;
        results.into_iter().map(tensor).collect()
    }
}

/// Renames a file of weights.
fn rename(graph: &mut GraphProto, from: &str, to: &str) {
    let entries = graph.initializer.iter_mut().flat_map(|tensor| &mut tensor.external_data);
    entries.filter(|entry| entry.key == "location" && entry.value == from).for_each(|entry| entry.value = to.into());
}

fn value<T>(dims: &[usize], numbers: Vec<T>) -> Result<Value>
where
    Value: From<rten_tensor::Tensor<T>>,
{
    let tensor = rten_tensor::Tensor::try_from_data(dims, numbers).map_err(|error| anyhow!("{error:?}"))?;
    Ok(tensor.into())
}

fn tensor(value: Value) -> Result<Tensor> {
    Ok(match value {
        Value::FloatTensor(tensor) => Tensor { dims: tensor.shape().to_vec(), data: Data::F32(tensor.into_data()) },
        Value::Int32Tensor(tensor) => Tensor { dims: tensor.shape().to_vec(), data: Data::I32(tensor.into_data()) },
        Value::Int8Tensor(tensor) => Tensor { dims: tensor.shape().to_vec(), data: Data::I8(tensor.into_data()) },
        Value::UInt8Tensor(tensor) => Tensor { dims: tensor.shape().to_vec(), data: Data::U8(tensor.into_data()) },
        _ => bail!("an output is no tensor"),
    })
}
