//! What a program computes: an ONNX file turned into something that a CPU engine executes with the semantics of a card.
//!
//! | module | does |
//! |---|---|
//! | [`model`] | reads the file: interface, files of weights, weights bound to stored tensors |
//! | [`inline`] | puts the bodies of local functions where they are called |
//! | [`invalid`] | makes writes to rows that do not exist be dropped, and reads of them be 0 |
//! | [`dialect`] | says what the engine does not understand in other words |
//! | [`weights`] | multiplies out what the engine cannot read: products of four-bit codes, bfloat16 |
//! | [`tensor`] | numbers as they are stored on either side of the interface |
//! | [`engine`] | executes |

mod build;
pub mod dialect;
pub mod engine;
pub mod inline;
pub mod invalid;
pub mod model;
pub mod tensor;
pub mod weights;

#[cfg(test)]
mod tests;

use qeff_plugin_api::onnx::{GraphProto, NodeProto};

/// Replaces every node of a graph and of the graphs within its nodes by what `replace` makes of it.
fn rewrite(
    graph: &mut GraphProto,
    replace: &mut dyn FnMut(NodeProto, &mut Vec<NodeProto>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut nodes = vec![];
    for mut node in std::mem::take(&mut graph.node) {
        for inner in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
            rewrite(inner, replace)?;
        }
        replace(node, &mut nodes)?;
    }
    graph.node = nodes;
    Ok(())
}
