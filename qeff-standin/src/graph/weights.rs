//! Weights that the engine cannot read, multiplied out.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use half::{bf16, f16};
use qeff_plugin_api::onnx::{AttributeProto, GraphProto, NodeProto, TensorProto};

use super::model::{Place, elem, f32_number};
use super::rewrite;

/// Bytes of the files of weights by the name that the model has for them.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Makes dense products of `MatMulNBits`, and f32 of bfloat16; what is no longer needed of the weights is left out.
///
/// # Errors
/// If a weight is missing or has another length than it should.
pub fn multiply_out(graph: &mut GraphProto, files: &Files) -> Result<()> {
    let stored: BTreeMap<String, TensorProto> =
        graph.initializer.drain(..).map(|tensor| (tensor.name.clone(), tensor)).collect();
    let mut made = vec![];
    rewrite(graph, &mut |node, out| {
        if node.op_type == "MatMulNBits" && node.domain == "com.microsoft" {
            let weight = dense(&node, &stored, files).with_context(|| format!("node `{}`", node.name))?;
            let name = format!("{}/dense", node.name);
            let bias = node.input.get(5).filter(|name| !name.is_empty());
            let product = bias.map_or(node.output[0].clone(), |_| format!("{}/product", node.name));
            out.push(plain("MatMul", &[&node.input[0], &name], &product));
            if let Some(bias) = bias {
                out.push(plain("Add", &[&product, bias], &node.output[0]));
            }
            made.push(TensorProto { name, ..weight });
        } else {
            out.push(within_f32(node));
        }
        Ok(())
    })?;
    let mut used = BTreeSet::new();
    names(graph, &mut used);
    for (name, tensor) in stored {
        if used.contains(&name) {
            graph.initializer.push(if tensor.data_type == elem::BF16 { widened(&tensor, files)? } else { tensor });
        }
    }
    graph.initializer.extend(made);
    for info in graph.input.iter_mut().chain(&mut graph.output) {
        if let Some(qeff_plugin_api::onnx::type_proto::Value::TensorType(tensor)) =
            info.r#type.as_mut().and_then(|ty| ty.value.as_mut())
            && matches!(tensor.elem_type, elem::F16 | elem::BF16)
        {
            tensor.elem_type = f32_number();
        }
    }
    Ok(())
}

fn plain(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: format!("{output}/{op}"),
        op_type: op.into(),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

/// A node whose casts and constants of bfloat16 are f32: between ports, everything is.
fn within_f32(mut node: NodeProto) -> NodeProto {
    if node.op_type == "Cast" {
        for to in node.attribute.iter_mut().filter(|attribute| attribute.name == "to") {
            to.i = to.i.map(|to| if to == i64::from(elem::BF16) { i64::from(f32_number()) } else { to });
        }
    }
    for tensor in node.attribute.iter_mut().filter_map(|attribute| attribute.t.as_mut()) {
        if tensor.data_type == elem::BF16
            && let Ok(wide) = widened(tensor, &Files::new())
        {
            *tensor = wide;
        }
    }
    node
}

fn names(graph: &GraphProto, used: &mut BTreeSet<String>) {
    for node in &graph.node {
        used.extend(node.input.iter().cloned());
        node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()).for_each(|inner| names(inner, used));
    }
    used.extend(graph.output.iter().map(|output| output.name.clone()));
}

fn widened(tensor: &TensorProto, files: &Files) -> Result<TensorProto> {
    let numbers = bytes(tensor, files)?.chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32());
    Ok(floats(&tensor.name, &tensor.dims, numbers))
}

fn floats(name: &str, dims: &[i64], numbers: impl Iterator<Item = f32>) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: f32_number(),
        raw_data: Some(numbers.flat_map(f32::to_le_bytes).collect()),
        ..TensorProto::default()
    }
}

fn bytes<'a>(tensor: &'a TensorProto, files: &'a Files) -> Result<&'a [u8]> {
    let found = match Place::of(tensor)? {
        None => tensor.raw_data.as_deref(),
        Some(place) => files.get(place.location).and_then(|file| file.get(place.begin as usize..place.end as usize)),
    };
    found.with_context(|| format!("`{}` has no bytes", tensor.name))
}

/// The matrix `[K, N]` behind the operands of a `MatMulNBits`.
fn dense(node: &NodeProto, stored: &BTreeMap<String, TensorProto>, files: &Files) -> Result<TensorProto> {
    let number = |name: &str| -> Result<usize> {
        let found = node.attribute.iter().find(|attribute: &&AttributeProto| attribute.name == name);
        let number = found.and_then(|attribute| attribute.i).and_then(|number| usize::try_from(number).ok());
        number.with_context(|| format!("attribute {name}"))
    };
    let operand = |i: usize| -> Result<Option<(&TensorProto, &[u8])>> {
        let Some(name) = node.input.get(i).filter(|name| !name.is_empty()) else { return Ok(None) };
        let tensor = stored.get(name).with_context(|| format!("operand `{name}` is no weight"))?;
        Ok(Some((tensor, bytes(tensor, files)?)))
    };
    let (columns, rows, length) = (number("K")?, number("N")?, number("block_size")?);
    if number("bits")? != 4 || length == 0 || !length.is_multiple_of(2) {
        bail!("expected 4 bits in blocks of an even length");
    }
    let per_row = columns.div_ceil(length);
    let (_, codes) = operand(1)?.context("no codes")?;
    let (scales, scale_bytes) = operand(2)?.context("no scales")?;
    let scales: Vec<f32> = match scales.data_type {
        elem::F32 => scale_bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        elem::F16 => scale_bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        other => bail!("scales of type {other}"),
    };
    let zeros = operand(3)?.map(|(_, zeros)| zeros);
    let groups = operand(4)?.map(|(_, groups)| {
        groups.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<_>>()
    });
    if codes.len() != rows * per_row * length / 2 || scales.len() != rows * per_row {
        bail!("codes or scales have the wrong length");
    }
    let zero_row = per_row.div_ceil(2);
    if zeros.is_some_and(|zeros| zeros.len() != rows * zero_row) {
        bail!("zero points have the wrong length");
    }
    if groups.as_ref().is_some_and(|groups| groups.len() < columns) {
        bail!("g_idx has the wrong length");
    }
    let nibble = |byte: u8, i: usize| if i.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
    let mut matrix = vec![0f32; columns * rows];
    for row in 0..rows {
        for column in 0..columns {
            let block = match &groups {
                None => column / length,
                Some(groups) => usize::try_from(groups[column]).ok().filter(|&g| g < per_row).context("g_idx")?,
            };
            let code = nibble(codes[(row * per_row * length + column) / 2], column);
            let zero = zeros.map_or(8, |zeros| nibble(zeros[row * zero_row + block / 2], block));
            matrix[column * rows + row] = (f32::from(code) - f32::from(zero)) * scales[row * per_row + block];
        }
    }
    Ok(floats("", &[columns as i64, rows as i64], matrix.into_iter()))
}
