//! What ONNX allows and the engine does not, said in a way that it understands.

use anyhow::Result;
use qeff_plugin_api::onnx::{GraphProto, NodeProto};

use super::build::Build;
use super::rewrite;

/// Rewrites what the engine would refuse.
///
/// # Errors
/// None; rewriting may fail for others.
pub fn translate(graph: &mut GraphProto) -> Result<()> {
    let mut made = 0;
    rewrite(graph, &mut |node, out| {
        let standard = matches!(node.domain.as_str(), "" | "ai.onnx");
        match node.op_type.as_str() {
            // Bounds of a range may be tensors of one element, as ONNX Runtime has it.
            "Range" if standard => {
                let mut build = Build::new("scalar", &node, &mut made, out);
                let input = node.input.iter().map(|name| build.node("Squeeze", &[name], &[])).collect();
                out.push(NodeProto { input, ..node });
            }
            // An exponent may be of another type than what is raised.
            "Pow" if standard && node.input.len() == 2 => {
                let mut build = Build::new("exponent", &node, &mut made, out);
                let exponent = build.node("CastLike", &[&node.input[1], &node.input[0]], &[]);
                out.push(NodeProto { input: vec![node.input[0].clone(), exponent], ..node });
            }
            _ => out.push(node),
        }
        Ok(())
    })
}
