//! Continuous batching: rows of a call choose their state slots.
//!
//! ```text
//! state [batch_size, …]            ⇒  state [full_batch_size, …]
//! StateWrite(…), Attention(…)      ⇒  the same with batch_index[batch_size, 1]
//! ```
//! Every operator that touches a state takes the batch index, so nothing else in a description can be affected; a raw
//! operator on a state would be, but the validator admits none.

use qeff_plugin_api::Elem;
use qeff_plugin_api::graph::{
    Attention, Dim, Model, NodeId, Op, Program, Role, StateKind, StateRead, StateWrite, Type,
};

use super::{PassReport, Refusal};

const PASS: &str = "continuous-batching";

pub(super) fn apply(model: &mut Model) -> Result<PassReport, Refusal> {
    let refuse = |place: &str, why: &str| Refusal { pass: PASS, place: format!("program {place}"), why: why.into() };
    for program in &model.programs {
        if program.states().len() == 0 {
            return Err(refuse(&program.name, "it keeps no state, so there are no slots to choose"));
        }
        if program.input(Role::BatchIndex).is_some() {
            return Err(refuse(&program.name, "it has a batch index already"));
        }
        if let Some((_, state)) = program.states().find(|(_, state)| state.kind == StateKind::Fill) {
            return Err(refuse(
                &program.name,
                &format!("its state `{}` is made as a whole, for all rows of a call", state.slot),
            ));
        }
    }
    let mut report = PassReport::new(PASS);
    let (batch, slots) = (Dim::symbol("batch_size"), Dim::symbol("full_batch_size"));
    for program in &mut model.programs {
        let (mut states, mut users) = (0, vec![]);
        for id in program.node_ids() {
            if touches(program, id, &batch) {
                users.push(id);
            }
        }
        // Every version of a state has the state's type.
        let versions: Vec<_> = program.values().map(|(id, _)| id).filter(|&id| program.version(id).is_some()).collect();
        for version in versions {
            let Some(lead) = program.ty_mut(version).dims.first_mut() else { continue };
            if *lead == batch {
                *lead = slots.clone();
                states += 1;
            }
        }
        let ty = Type::new(Elem::I64, [batch.clone(), Dim::Fixed(1)]);
        let index = program.add_input("batch_index", Role::BatchIndex, ty);
        for &id in &users {
            let node = program.node_mut(id);
            if let Some(operand) = node.op.batch_index(node.outputs.len()) {
                node.set_operand(operand, Some(index));
            }
        }
        report.did.push(format!("{states} state versions per slot, {} operators by batch index", users.len()));
    }
    Ok(report)
}

/// Whether a node touches a state that has a slot for each row of a call.
fn touches(program: &Program, id: NodeId, batch: &Dim) -> bool {
    let node = program.node(id);
    let state = match &node.op {
        Op::StateWrite(_) => node.operand(StateWrite::part(0)),
        Op::StateRead(_) => node.operand(StateRead::PART),
        Op::Attention(_) => node.operand(Attention::K),
        _ => None,
    };
    state.is_some_and(|part| program.version(part).is_some() && program.ty(part).dims.first() == Some(batch))
}
