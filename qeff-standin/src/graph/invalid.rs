//! Rows that do not exist, as a card treats them: a write there is dropped, a read from there is 0.
//!
//! Engines refuse such indices. Here the axis gets one row more, the slack row, which takes what is to be dropped and gives
//! zeros; every index outside of the axis is turned into its. It is cut off again behind a write.
//!
//! Exporters mark such rows by INT32_MAX. A row number of −1 is another matter: ONNX counts it from the end, and a card is
//! said to take it for padding. [`Negative`] says which of the two a program is to be run with; a right one is right with
//! both.

use anyhow::{Result, bail};
use qeff_plugin_api::DType;
use qeff_plugin_api::onnx::{GraphProto, NodeProto, TensorProto, data_type};
use serde::{Deserialize, Serialize};

use super::build::Build;
use super::rewrite;

/// What a negative row number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Negative {
    /// No row, as a card is said to take it.
    #[default]
    Drop,
    /// A row counted from the end, as ONNX says.
    Wrap,
}

/// Guards every `ScatterND` and `GatherND` of a graph.
///
/// # Errors
/// If one has fewer operands than it needs.
pub fn guard(graph: &mut GraphProto, negative: Negative) -> Result<()> {
    let mut made = 0;
    rewrite(graph, &mut |node, out| {
        let standard = matches!(node.domain.as_str(), "" | "ai.onnx");
        match node.op_type.as_str() {
            "ScatterND" if standard && node.input.len() == 3 => scatter(&node, negative, &mut made, out),
            "GatherND" if standard && node.input.len() == 2 => gather(&node, negative, &mut made, out),
            "ScatterND" | "GatherND" if standard => bail!("node `{}` has {} inputs", node.name, node.input.len()),
            _ => out.push(node),
        }
        Ok(())
    })
}

fn scatter(node: &NodeProto, negative: Negative, made: &mut usize, out: &mut Vec<NodeProto>) {
    let mut build = Build::new("slack", node, made, out);
    let (data, indices) = build.with_slack(&node.input[0], &node.input[1], 0, negative);
    let written = build.name();
    let scattered =
        NodeProto { input: vec![data, indices, node.input[2].clone()], output: vec![written.clone()], ..node.clone() };
    build.out.push(scattered);
    let (zero, first) = (build.ints(&[0]), build.ints(&[0]));
    let shape = build.node("Shape", &[&node.input[0]], &[]);
    let one = build.ints(&[1]);
    let rows = build.node("Slice", &[&shape, &zero, &one, &zero], &[]);
    build.node_for(&node.output[0], "Slice", &[&written, &zero, &rows, &first], &[]);
}

fn gather(node: &NodeProto, negative: Negative, made: &mut usize, out: &mut Vec<NodeProto>) {
    let batch = node.attribute.iter().find(|attribute| attribute.name == "batch_dims").and_then(|batch| batch.i);
    let mut build = Build::new("slack", node, made, out);
    let (data, indices) = build.with_slack(&node.input[0], &node.input[1], batch.unwrap_or(0), negative);
    out.push(NodeProto { input: vec![data, indices], ..node.clone() });
}

impl Build<'_> {
    /// `data` with one row of zeros more on axis `axis`, the first that `indices` choose from, and `indices` with each tuple
    /// that chooses no element turned into one that chooses from that row.
    fn with_slack(&mut self, data: &str, indices: &str, axis: i64, negative: Negative) -> (String, String) {
        let (zero, one, end) = (self.ints(&[0]), self.ints(&[1]), self.ints(&[i64::from(i32::MAX)]));
        let (last, from, behind) = (self.ints(&[-1]), self.ints(&[axis]), self.ints(&[axis + 1]));
        let shape = self.node("Shape", &[data], &[]);
        let tuples = self.node("Shape", &[indices], &[]);
        let length = self.node("Slice", &[&tuples, &last, &end, &zero], &[]);
        let to = self.node("Add", &[&length, &from], &[]);
        // [k]: lengths of the axes that a tuple chooses from.
        let sizes = self.node("Slice", &[&shape, &from, &to, &zero], &[]);

        let indices = match negative {
            Negative::Drop => indices.to_owned(),
            Negative::Wrap => {
                let below = self.node("Less", &[indices, &zero], &[]);
                // A sum with INT32_MAX would not be a number of 32 bits.
                let low = self.node("Min", &[indices, &zero], &[]);
                let wrapped = self.node("Add", &[&low, &sizes], &[]);
                self.node("Where", &[&below, &wrapped, indices], &[])
            }
        };
        let low = self.node("GreaterOrEqual", &[&indices, &zero], &[]);
        let high = self.node("Less", &[&indices, &sizes], &[]);
        let inside = self.node("And", &[&low, &high], &[]);
        let inside = self.node("Cast", &[&inside], &[("to", vec![i64::from(data_type(DType::I32))])]);
        let inside = self.node("ReduceMin", &[&inside], &[("axes", vec![-1]), ("keepdims", vec![1])]);
        let inside = self.node("Cast", &[&inside], &[("to", vec![i64::from(data_type(DType::Bool))])]);
        // [k]: the slack row of the first axis, row 0 of the others.
        let row = self.node("Slice", &[&sizes, &zero, &one, &zero], &[]);
        let others = self.node("Sub", &[&length, &one], &[]);
        let scalar = self.node("ConstantOfShape", &[&others], &[]);
        let scalar = self.node("Cast", &[&scalar], &[("to", vec![i64::from(data_type(DType::I64))])]);
        let slack = self.node("Concat", &[&row, &scalar], &[("axis", vec![0])]);
        let indices = self.node("Where", &[&inside, &indices, &slack], &[]);

        let before = self.node("Slice", &[&shape, &zero, &from, &zero], &[]);
        let after = self.node("Slice", &[&shape, &behind, &end, &zero], &[]);
        let one_row = self.node("Concat", &[&before, &one, &after], &[("axis", vec![0])]);
        let number = self.constant(TensorProto {
            data_type: data_type(DType::F32),
            raw_data: Some(0f32.to_le_bytes().to_vec()),
            ..Default::default()
        });
        let number = self.node("CastLike", &[&number, data], &[]);
        let zeros = self.node("Expand", &[&number, &one_row], &[]);
        let data = self.node("Concat", &[data, &zeros], &[("axis", vec![axis])]);
        (data, indices)
    }
}
