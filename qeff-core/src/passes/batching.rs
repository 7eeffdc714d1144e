//! Continuous batching: rows of a call choose their state slots.
//!
//! ```text
//! state [batch_size, …]            ⇒  state [full_batch_size, …]
//! StateWrite(…), Attention(…)      ⇒  the same with batch_index[batch_size, 1]
//! ```
//! Every operator that touches a state takes the batch index, so nothing else in a description can be affected; a raw
//! operator on a state would be, but the validator admits none.

use qeff_plugin_api::Elem;
use qeff_plugin_api::graph::{Dim, Model, Role, Type};

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
    }
    let mut report = PassReport::new(PASS);
    let (batch, slots) = (Dim::symbol("batch_size"), Dim::symbol("full_batch_size"));
    for program in &mut model.programs {
        let mut states = 0;
        // Every version of a state has the state's type.
        let versions: Vec<_> = program.values().map(|(id, _)| id).filter(|&id| program.version(id).is_some()).collect();
        for version in versions {
            let lead = &mut program.ty_mut(version).dims[0];
            if *lead == batch {
                *lead = slots.clone();
                states += 1;
            }
        }
        let ty = Type::new(Elem::I64, [batch.clone(), Dim::Fixed(1)]);
        let index = program.add_input("batch_index", Role::BatchIndex, ty);
        let mut users = 0;
        for id in program.node_ids() {
            let node = program.node_mut(id);
            if let Some(operand) = node.op.batch_index(node.outputs.len()) {
                node.set_operand(operand, Some(index));
                users += 1;
            }
        }
        report.did.push(format!("{states} state versions per slot, {users} operators by batch index"));
    }
    Ok(report)
}
