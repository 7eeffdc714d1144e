//! Context lengths: attention reads the beginning of the cache only, so that a short sequence does not pay for a long context.
//!
//! ```text
//! Attention(q, k, v, …)    ⇒  Attention(q, k, v, …, context)      context[comp_ctx_lengths]
//! ```
//! How much is read is the length of a new input, a number that is fixed for each specialization when the program is
//! compiled. Writes are as they were: the cache has room for the whole context. A state that is a rolling buffer is short
//! already, and stays as it is.

use qeff_plugin_api::Elem;
use qeff_plugin_api::graph::{Attention, Dim, Model, NodeId, Op, Program, Role, StateKind, Type};

use super::{PassReport, Refusal};

const PASS: &str = "context-lengths";

pub(super) fn apply(model: &mut Model) -> Result<PassReport, Refusal> {
    let readers: Vec<Vec<NodeId>> = model.programs.iter().map(full_readers).collect();
    if readers.iter().all(Vec::is_empty) {
        let why = "no attention reads a cache of the whole context".into();
        return Err(Refusal { pass: PASS, place: "the model".into(), why });
    }
    let mut report = PassReport::new(PASS);
    for (program, readers) in model.programs.iter_mut().zip(readers) {
        if readers.is_empty() {
            continue;
        }
        let ty = Type::new(Elem::I64, [Dim::symbol("comp_ctx_lengths")]);
        let context = program.add_input("comp_ctx_lengths", Role::Context, ty);
        for &reader in &readers {
            program.node_mut(reader).set_operand(Attention::CONTEXT, Some(context));
        }
        report.did.push(format!("{} attentions read as much as comp_ctx_lengths is long", readers.len()));
    }
    Ok(report)
}

/// Attention over a state that has a row for each position.
fn full_readers(program: &Program) -> Vec<NodeId> {
    let reads_full = |operand| {
        let version = program.version(operand)?;
        (program.state(version.slot).kind == StateKind::Full).then_some(())
    };
    program
        .nodes()
        .filter(|(_, node)| matches!(node.op, Op::Attention(_)))
        .filter(|(_, node)| node.operand(Attention::K).and_then(reads_full).is_some())
        .map(|(id, _)| id)
        .collect()
}
