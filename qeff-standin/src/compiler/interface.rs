//! From the ports of a graph to bindings: which are states, how they are stored, and their shapes in every specialization.

use std::collections::BTreeSet;

use anyhow::Context as _;

use super::files::{Precision, Sizes};
use super::{Job, Refused};
use crate::config::SimConfig;
use crate::graph::engine::{Executable, LoadError};
use crate::graph::model::{Dim, Model, Port, RETAINED, elem};
use crate::graph::tensor::{Form, stored};
use crate::graph::weights::Files;
use crate::qpc::image::PortFact;
use crate::qpc::network::{Binding, Elem, Network};

/// Symbols that efficient-transformers writes whether or not the graph has them. Any other that no input has is a mistake.
const UNUSED: &[&str] = &[
    "batch_size",
    "ctx_len",
    "full_batch_exec_size",
    "full_batch_size",
    // Of programs that look at images: sizes of the other program, and such as became part of the graph.
    "image_size_height",
    "image_size_width",
    "img_size",
    "max_num_images",
    "num_patches",
    "seq_len",
    "sliding_window",
    "vision_batch_size",
];

/// The ports of a program, inputs first.
pub(super) struct Interface {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    forms: Vec<Form>,
    /// See [`crate::qpc::image::Facts`].
    pub(super) ports: Vec<PortFact>,
    pub(super) retained: Vec<(usize, usize)>,
}

/// Reads the interface of a model, and refuses what does not fit it.
pub(super) fn of(job: &Job<'_>, model: &Model, config: &SimConfig) -> Result<Interface, Refused> {
    let (inputs, outputs) = model.interface()?;
    let retained = if job.retained { states(&inputs, &outputs)? } else { vec![] };
    if job.retained && retained.is_empty() && config.strict_retained {
        return Err(Refused::new(255, "-retained-state: no output is the next value of an input."));
    }
    let all: Vec<&Port> = inputs.iter().chain(&outputs).collect();
    let mut forms = vec![];
    for port in &all {
        forms.push(Form { stored: stored(port.elem)?, elem: port.elem, mxint8: false });
    }
    for (name, precision) in &job.custom_io {
        let i = all.iter().position(|port| port.name == *name).ok_or_else(|| {
            Refused::new(255, format!("custom-IO-list-file: `{name}` is no input or output of the graph"))
        })?;
        if !matches!(all[i].elem, elem::F32 | elem::F16 | elem::BF16) {
            return Err(Refused::new(255, format!("custom-IO-list-file: `{name}` holds no floats")));
        }
        (forms[i].stored, forms[i].mxint8) = match precision {
            Precision::Float => (Elem::F32, false),
            Precision::Float16 => (Elem::F16, false),
            Precision::Bfloat16 => (Elem::BF16, false),
            Precision::Mxint8 => (Elem::I8, true),
        };
    }
    for &(input, output) in &retained {
        if forms[input].stored != forms[output].stored || forms[input].mxint8 != forms[output].mxint8 {
            return Err(Refused::new(
                255,
                format!(
                    "custom-IO-list-file: `{}` and `{}` are one state in two types",
                    all[input].name, all[output].name
                ),
            ));
        }
    }
    if let Some(i) = forms.iter().position(|form| form.mxint8)
        && !retained.iter().any(|&(input, output)| i == input || i == output)
    {
        return Err(Refused::new(255, format!("custom-IO-list-file: `{}` is mxint8, and no state", all[i].name)));
    }
    let ports = all.iter().zip(&forms).map(|(port, form)| PortFact {
        name: port.name.clone(),
        elem: port.elem,
        mxint8: form.mxint8,
    });
    let ports = ports.collect();
    Ok(Interface { inputs, outputs, forms, ports, retained })
}

/// Pairs of an input and the output that is its next value. Such an output without such an input is a mistake.
fn states(inputs: &[Port], outputs: &[Port]) -> Result<Vec<(usize, usize)>, Refused> {
    let mut pairs = vec![];
    for (i, output) in outputs.iter().enumerate() {
        let Some(name) = RETAINED.iter().find_map(|ending| output.name.strip_suffix(ending)) else { continue };
        let refuse = |what: String| Refused::new(255, format!("-retained-state: output `{}` {what}", output.name));
        let input = inputs.iter().position(|input| input.name == name);
        let input = input.ok_or_else(|| refuse(format!("has no input `{name}`")))?;
        if inputs[input].elem != output.elem {
            return Err(refuse(format!("and input `{name}` have two types")));
        }
        pairs.push((input, inputs.len() + i));
    }
    Ok(pairs)
}

impl Interface {
    /// The descriptor. The graph is run once for each specialization: that shows its shapes, and that it can be run.
    pub(super) fn network(
        &self,
        job: &Job<'_>,
        model: Model,
        files: Files,
        config: &SimConfig,
    ) -> Result<Network, Refused> {
        let opset =
            model.proto.opset_import.iter().find(|opset| opset.domain.is_empty()).map_or(0, |opset| opset.version);
        let none = vec![Sizes::new()];
        let specializations = if job.specializations.is_empty() { &none } else { &job.specializations };
        let bound = specializations.iter().map(|sizes| self.input_shapes(sizes)).collect::<Result<Vec<_>, _>>()?;
        let executable = Executable::load(model, files, config.negative_rows).map_err(|error| match error {
            LoadError::Operator { node, why } => Refused::new(
                255,
                format!(
                    "QAIC_ERROR:\nError message:  [Operator-'{node}', opset_version-{opset}] : not supported ({why})"
                ),
            ),
            LoadError::Other(error) => error.into(),
        })?;
        let mut rows = vec![];
        for (sizes, dims) in specializations.iter().zip(bound) {
            let feeds = dims.iter().zip(&self.forms).map(|(dims, form)| form.filled(dims, 0.0)).collect();
            let results = executable.run(feeds).with_context(|| format!("with {sizes:?}"))?;
            let mut row = dims;
            for (port, result) in self.outputs.iter().zip(&results) {
                agree(port, &result.dims, sizes)?;
                row.push(result.dims.clone());
            }
            for &(input, output) in &self.retained {
                if row[input] != row[output] {
                    let what = format!("is {:?}, its input {:?}", row[output], row[input]);
                    let name = &self.ports[output].name;
                    return Err(Refused::new(255, format!("-retained-state: output `{name}` {what}")));
                }
            }
            rows.push(row);
        }
        let bindings = (0..self.ports.len()).map(|i| Binding {
            name: public(&self.ports[i].name),
            output: i >= self.inputs.len(),
            elem: self.forms[i].stored,
            dims: largest(rows.iter().map(|row| &row[i])),
            partial: self.retained.iter().any(|&(input, output)| i == input || i == output),
        });
        Ok(Network { name: "QAicGraph".into(), cores: job.cores, bindings: bindings.collect(), rows })
    }

    fn input_shapes(&self, sizes: &Sizes) -> Result<Vec<Vec<usize>>, Refused> {
        let mut used = BTreeSet::new();
        let mut shapes = vec![];
        for port in &self.inputs {
            let dims = port.dims.iter().map(|dim| match dim {
                Dim::Fixed(n) => Ok(*n),
                Dim::Symbol(symbol) => {
                    used.insert(symbol.as_str());
                    let size = sizes.get(symbol).and_then(|&size| usize::try_from(size).ok());
                    size.ok_or_else(|| {
                        Refused::new(255, format!("input `{}`: symbol `{symbol}` has no value in {sizes:?}", port.name))
                    })
                }
                Dim::Unknown => Err(Refused::new(255, format!("input `{}` has a dimension without a name", port.name))),
            });
            shapes.push(dims.collect::<Result<Vec<_>, _>>()?);
        }
        let unused = |symbol: &&String| !used.contains(symbol.as_str()) && !UNUSED.contains(&symbol.as_str());
        if let Some(symbol) = sizes.keys().find(unused) {
            return Err(Refused::new(
                255,
                format!("network-specialization-config: no input has a dimension `{symbol}`"),
            ));
        }
        Ok(shapes)
    }
}

/// Refuses an output whose declared dimensions are others than its real ones.
fn agree(port: &Port, dims: &[usize], sizes: &Sizes) -> Result<(), Refused> {
    let fits = port.dims.len() == dims.len()
        && port.dims.iter().zip(dims).all(|(declared, &real)| match declared {
            Dim::Fixed(n) => *n == real,
            // A tracer's own symbols are bound by nobody.
            Dim::Symbol(symbol) => sizes.get(symbol).is_none_or(|&size| size == real as u64),
            Dim::Unknown => true,
        });
    if fits {
        return Ok(());
    }
    Err(Refused::new(255, format!("output `{}` is declared {:?} and is {dims:?} with {sizes:?}", port.name, port.dims)))
}

/// The name of a binding: what sub-functions call it stays within.
fn public(name: &str) -> String {
    name.replace("_InternalRetainedState", "_RetainedState")
}

fn largest<'a>(shapes: impl Iterator<Item = &'a Vec<usize>>) -> Vec<usize> {
    shapes.cloned().reduce(|a, b| a.iter().zip(&b).map(|(&a, &b)| a.max(b)).collect()).unwrap_or_default()
}
