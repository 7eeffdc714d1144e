//! Last-k logits: a speculation target scores several positions at once.
//!
//! ```text
//! Select(h, positions) last    ⇒  Select(h, positions, keep) last_k      keep[num_logits_to_keep, 1]
//! ```
//! What follows the selection works on `[B, rows, N]` whatever the number of rows is, because it was described on the
//! selection's result; only the types have to be carried along.

use qeff_plugin_api::Elem;
use qeff_plugin_api::graph::{Dim, Model, NodeId, Op, Program, Role, Select, SelectMode, Type};
use qeff_plugin_api::infer::infer;

use super::{PassReport, Refusal};

const PASS: &str = "last-k-logits";

pub(super) fn apply(model: &mut Model) -> Result<PassReport, Refusal> {
    let mut report = PassReport::new(PASS);
    let mut found = false;
    for program in &mut model.programs {
        if program.output(Role::Logits).is_none() {
            continue;
        }
        found = true;
        rewrite(program).map_err(|why| Refusal { pass: PASS, place: format!("program {}", program.name), why })?;
        report.did.push("logits of the last num_logits_to_keep positions".into());
    }
    if found {
        Ok(report)
    } else {
        Err(Refusal { pass: PASS, place: "the model".into(), why: "no program puts out logits".into() })
    }
}

fn rewrite(program: &mut Program) -> Result<(), String> {
    let selects: Vec<NodeId> =
        program.nodes().filter(|(_, node)| matches!(node.op, Op::Select(_))).map(|(id, _)| id).collect();
    let &[select] = selects.as_slice() else {
        return Err(format!("expected one selection of positions, found {}", selects.len()));
    };
    if !matches!(program.node(select).op, Op::Select(Select { mode: SelectMode::Last })) {
        return Err("its selection does not keep the last position".into());
    }
    // On a copy: a refusal on the way must leave the program as it was.
    let mut changed = program.clone();
    let ty = Type::new(Elem::I64, [Dim::symbol("num_logits_to_keep"), Dim::Fixed(1)]);
    let keep = changed.add_input("num_logits_to_keep", Role::Keep, ty);
    let node = changed.node_mut(select);
    node.op = Op::Select(Select { mode: SelectMode::LastK });
    node.set_operand(Select::KEEP, Some(keep));
    retype_from(&mut changed, select)?;
    *program = changed;
    Ok(())
}

/// Infers types anew from `first` on.
fn retype_from(program: &mut Program, first: NodeId) -> Result<(), String> {
    for id in program.node_ids().skip(first.index()) {
        let node = program.node(id);
        let operands: Vec<_> = node.operands.iter().map(|operand| operand.map(|id| program.ty(id))).collect();
        let types = infer(&node.op, &operands).map_err(|mismatch| {
            format!("{} in {} works for one position only: {mismatch}", node.op.name(), program.scope_path(node.scope))
        })?;
        let outputs = node.outputs.clone();
        for (output, ty) in outputs.into_iter().zip(types) {
            *program.ty_mut(output) = ty;
        }
    }
    Ok(())
}
