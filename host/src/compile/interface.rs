//! What can be seen of a program from outside: inputs, outputs, and which of them are states.
//!
//! Read from the ONNX graph, so a file that somebody else wrote is treated like one of ours. Names are the contract here:
//! the compiler pairs states by name, and a runtime binds buffers by name.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use qeff_plugin_api::DType;
use qeff_plugin_api::graph::Dim;
use qeff_plugin_api::onnx::{GraphProto, ValueInfoProto, dtype, tensor_shape_proto, type_proto};

/// Endings of the output that carries a state to the next run; the second is what sub-functions leave.
const RETAINED: [&str; 2] = ["_RetainedState", "_InternalRetainedState"];

/// An input or output.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub elem: DType,
    /// Dimensions, slowest first.
    pub dims: Vec<Dim>,
}

impl Port {
    /// Whether elements are floating-point numbers.
    pub fn is_float(&self) -> bool {
        self.elem.is_float()
    }
}

/// An input that stays on the device, with the output that is its next value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct State<'a> {
    /// The input.
    pub input: &'a Port,
    /// The output.
    pub output: &'a Port,
}

impl State<'_> {
    /// Whether this is a cache of keys or values, which may be stored as MXINT8, unlike other states.
    pub fn is_kv(&self) -> bool {
        // Penalty buffers of an on-device sampler begin with `past_`, too, but are no numbers.
        self.input.name.starts_with("past_") && self.input.is_float()
    }
}

/// What a program is, which decides which specializations it has and what they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writes a KV cache token by token.
    Decoder,
    /// A decoder together with the encoder whose result it attends to, as in Whisper.
    EncoderDecoder,
    /// Images to embeddings.
    Vision,
    /// A text to hidden states or a vector.
    Embedding,
    /// A text to scores of classes.
    Classifier,
    /// Sound to scores of characters, frame by frame.
    Ctc,
}

/// Inputs and outputs of a program, in file order.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Inputs.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
}

impl Interface {
    /// The interface of an ONNX graph. An initializer that is also listed as an input is a weight, not an input.
    ///
    /// # Errors
    /// If an input or output has no tensor type of a known element type.
    pub fn of(graph: &GraphProto) -> Result<Self> {
        let weights: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        let inputs = graph.input.iter().filter(|port| !weights.contains(port.name.as_str())).map(port);
        let inputs = inputs.collect::<Result<_>>()?;
        Ok(Interface { inputs, outputs: graph.output.iter().map(port).collect::<Result<_>>()? })
    }

    /// The input of a name.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|port| port.name == name)
    }

    /// The output of a name.
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|port| port.name == name)
    }

    /// States in the order of their inputs.
    pub fn states(&self) -> impl Iterator<Item = State<'_>> {
        self.inputs.iter().filter_map(|input| {
            let output = RETAINED.iter().find_map(|ending| self.output(&format!("{}{ending}", input.name)))?;
            Some(State { input, output })
        })
    }

    /// Symbols of the inputs in order of first appearance. Those of outputs follow from them, or are a tracer's inventions.
    pub fn symbols(&self) -> Vec<&str> {
        let mut symbols = vec![];
        for dim in self.inputs.iter().flat_map(|port| &port.dims) {
            if let Dim::Symbol(symbol) = dim
                && !symbols.contains(&symbol.name())
            {
                symbols.push(symbol.name());
            }
        }
        symbols
    }

    /// Whether an input has a dimension of this name.
    pub fn has_symbol(&self, name: &str) -> bool {
        self.symbols().contains(&name)
    }

    /// Whether rows of a call choose their slots.
    pub fn is_batched(&self) -> bool {
        self.input("batch_index").is_some()
    }

    /// Whether the number of logits is an input: a speculation target.
    pub fn is_speculation_target(&self) -> bool {
        self.input("num_logits_to_keep").is_some()
    }

    /// Whether attention is told how much of the context to look at.
    pub fn has_context_lengths(&self) -> bool {
        self.input("comp_ctx_lengths").is_some()
    }

    /// What the program is.
    ///
    /// # Errors
    /// If the names of its inputs are none that a known kind of program has.
    pub fn kind(&self) -> Result<Kind> {
        let has = |name: &str| self.input(name).is_some();
        if self.states().next().is_some() {
            return Ok(if has("input_features") { Kind::EncoderDecoder } else { Kind::Decoder });
        }
        if has("pixel_values") {
            return Ok(Kind::Vision);
        }
        if has("input_values") {
            return Ok(Kind::Ctc);
        }
        if has("input_ids") {
            return Ok(if self.output("logits").is_some() { Kind::Classifier } else { Kind::Embedding });
        }
        let names: Vec<_> = self.inputs.iter().map(|port| port.name.as_str()).collect();
        bail!(
            "cannot tell what this program is: expected an input input_ids, pixel_values, input_features or input_values, \
             found {}",
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        )
    }
}

fn port(info: &ValueInfoProto) -> Result<Port> {
    let place = || format!("input or output `{}`", info.name);
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) else {
        bail!("{}: expected a tensor type, found none", place());
    };
    let elem = dtype(tensor.elem_type)
        .with_context(|| format!("{}: element type {} of ONNX is not one of ours", place(), tensor.elem_type))?;
    let shape = tensor.shape.as_ref().with_context(|| format!("{}: expected a shape, found none", place()))?;
    let dims = shape.dim.iter().map(|dim| match &dim.value {
        Some(tensor_shape_proto::dimension::Value::DimValue(n)) => {
            let n = u64::try_from(*n).ok().with_context(|| format!("{}: dimension {n} is negative", place()))?;
            Ok(Dim::Fixed(n))
        }
        Some(tensor_shape_proto::dimension::Value::DimParam(name)) if !name.is_empty() => Ok(Dim::symbol(name)),
        // Nobody can bind a dimension without a name; as one of an output it does not matter.
        _ => Ok(Dim::symbol("?")),
    });
    Ok(Port { name: info.name.clone(), elem, dims: dims.collect::<Result<_>>()? })
}
