//! Projections on quantised weights.
//!
//! The pass puts a tensor that does not exist in the place of each projection's weight, and says what it is to be made of;
//! [`weights::Quantised`](crate::weights::Quantised) is the source that has it. From there on the model is one that was
//! stored quantised, so nothing behind this pass knows of it.
//!
//! Tables stay as they are: rows are looked up in them, not multiplied. So do norms and biases, which are small. The head
//! gets eight bits where the others get four: it decides between tokens whose scores are close, and is a small part of all
//! but the smallest models.

use std::collections::{BTreeMap, BTreeSet};

use qeff_plugin_api::graph::{Linear, Model, NodeId, Op, Program, Role, Type};
use qeff_plugin_api::{TensorIndex, WeightExpr};

use super::PassReport;
use crate::weights::{BlockIndex, CodeBits, QuantisedTensor, Scheme};

const PASS: &str = "quantise";

/// Quantises the weights of projections, except those that `stored` says are quantised already. Returns what the tensors
/// that the model now names are made of.
pub fn quantise(
    model: &mut Model,
    tensors: &TensorIndex,
    stored: Option<&BlockIndex>,
    scheme: Scheme,
) -> (Vec<QuantisedTensor>, PassReport) {
    let mut report = PassReport::new(PASS);
    let mut made: BTreeMap<String, QuantisedTensor> = BTreeMap::new();
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut left = BTreeSet::new();
    for program in &mut model.programs {
        let head = head(program);
        for id in program.node_ids() {
            let Some(expr) = projection(program, id).map(|expr| expr.clone().simplified(tensors)) else { continue };
            if stored.is_some_and(|stored| stored.encoding(&expr).is_some()) {
                continue;
            }
            let Ok(shape) = expr.shape(tensors) else { continue };
            if !shape.last().is_some_and(|width| width.is_multiple_of(scheme.length)) {
                left.insert(program.scope_path(program.node(id).scope).to_owned());
                continue;
            }
            let scheme = if head == Some(id) { Scheme { bits: CodeBits::Eight, ..scheme } } else { scheme };
            let name = match &expr {
                WeightExpr::Tensor(name) => format!("{name}#{}", scheme.name()),
                expr => format!("{expr}#{}", scheme.name()),
            };
            let weight = program.node(id).operand(Linear::WEIGHT).map(|weight| program.ty(weight).elem);
            let ty = weight.map_or_else(|| Type::weight(&shape), |elem| Type::weight(&shape).with_elem(elem));
            let value = program.add_weight(WeightExpr::tensor(name.clone()), ty);
            program.node_mut(id).set_operand(Linear::WEIGHT, Some(value));
            *counts.entry(scheme.name()).or_insert(0) += 1;
            made.entry(name.clone()).or_insert(QuantisedTensor { name, expr, scheme });
        }
    }
    let kind = if scheme.symmetric { "symmetric" } else { "asymmetric" };
    for (name, count) in counts {
        report.did.push(format!("{count} projections to {name}, {kind}, in blocks of {}", scheme.length));
    }
    if let Some(first) = left.first() {
        let length = scheme.length;
        report.warnings.push(format!(
            "{} projections stay as they are: their rows are no whole number of blocks of {length} (the first is {first}); \
             a smaller --weights-block may fit",
            left.len()
        ));
    }
    (made.into_values().collect(), report)
}

/// The weight of a projection.
fn projection(program: &Program, id: NodeId) -> Option<&WeightExpr> {
    let node = program.node(id);
    matches!(node.op, Op::Linear(_)).then(|| program.weight(node.operand(Linear::WEIGHT)?)).flatten()
}

/// The projection that logits are made of.
fn head(program: &Program) -> Option<NodeId> {
    let mut value = program.output(Role::Logits)?.value;
    // Each step goes to a node made earlier, so this ends.
    loop {
        let id = program.producer(value)?;
        let node = program.node(id);
        match node.op {
            Op::Linear(_) => return Some(id),
            _ => value = node.operand(0)?,
        }
    }
}
