//! Whether every weight has the shape that its value says.

use qeff_plugin_api::graph::{Def, Type};
use qeff_plugin_api::{TensorIndex, WeightExpr};

use super::{Problem, Report};

/// Far above what descriptions and passes build; far below what a stack holds.
const MAX_DEPTH: usize = 256;

pub(super) fn check(report: &mut Report<'_, '_>, tensors: &TensorIndex) {
    let program = report.program;
    let mut user = vec![None; program.values().len()];
    for (id, node) in program.nodes() {
        for operand in node.operands.iter().flatten() {
            user[operand.index()].get_or_insert(id);
        }
    }
    for (value, data) in program.values() {
        let Def::Weight(expr) = &data.def else { continue };
        if let Some(problem) = problem(expr, &data.ty, tensors) {
            match user[value.index()] {
                Some(node) => report.node(node, problem),
                None => report.at("weight", problem),
            }
        }
    }
}

fn problem(expr: &WeightExpr, ty: &Type, tensors: &TensorIndex) -> Option<Problem> {
    if !is_shallow(expr) {
        return Some(Problem::WeightDepth { most: MAX_DEPTH });
    }
    match expr.shape(tensors) {
        Err(error) => Some(error.into()),
        Ok(shape) if *ty == Type::weight(&shape).with_elem(ty.elem) => None,
        Ok(expected) => Some(Problem::WeightType { expr: expr.to_string(), expected, found: ty.clone() }),
    }
}

/// Whether the tree is low enough for functions that recurse; this one does not.
fn is_shallow(expr: &WeightExpr) -> bool {
    let mut open = vec![(expr, 1)];
    while let Some((expr, depth)) = open.pop() {
        if depth > MAX_DEPTH {
            return false;
        }
        open.extend(expr.operands().iter().map(|operand| (operand, depth + 1)));
    }
    true
}
