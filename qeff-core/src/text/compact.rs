//! Compaction: the one numbering of a program.
//!
//! Passes leave unused weights and scopes behind and make values in whatever order suits them. A printed graph, a
//! comparison in a test and a stored file must not depend on that, so handles are dealt out anew in the order in which
//! the program uses them.
//!
//! Nodes and their order are kept, used or not: what may be removed is a pass's decision.

use qeff_plugin_api::graph::{Declaration, Def, Model, Program, ValueId};

/// The same program with handles in order of use, without weights and scopes that no node or output uses.
///
/// # Panics
/// If the program holds handles of another program; [`crate::validate::validate`] finds those.
pub fn compact(program: &Program) -> Program {
    let mut new = Program::new(program.name.clone());
    new.act = program.act;
    let mut map: Vec<Option<ValueId>> = vec![None; program.values().len()];
    for declaration in program.declarations() {
        match *declaration {
            Declaration::Input(i) => {
                let input = &program.inputs[i];
                let value = new.add_input(input.name.clone(), input.role, program.ty(input.value).clone());
                map[input.value.index()] = Some(value);
            }
            Declaration::State(slot) => {
                let state = program.state(slot);
                let types = state.parts.iter().map(|&part| program.ty(part).clone());
                let parts = state.names.iter().cloned().zip(types).collect();
                let slot = new.add_state(state.slot.clone(), state.kind, parts);
                for (&old, &part) in state.parts.iter().zip(&new.state(slot).parts) {
                    map[old.index()] = Some(part);
                }
            }
        }
    }
    for (_, node) in program.nodes() {
        let operands = node.operands.iter().map(|operand| operand.map(|id| renumber(program, &mut new, &mut map, id)));
        let operands = operands.collect();
        let types = node.outputs.iter().map(|&output| program.ty(output).clone()).collect();
        let scope = new.intern_scope(program.scope_path(node.scope));
        let id = new.add_node(scope, node.op.clone(), operands, types);
        for (&old, &output) in node.outputs.iter().zip(&new.node(id).outputs) {
            map[old.index()] = Some(output);
        }
    }
    for output in &program.outputs {
        let value = renumber(program, &mut new, &mut map, output.value);
        new.add_output(output.name.clone(), output.role, value);
    }
    new
}

/// The new handle of a value; a weight gets one at its first use.
fn renumber(old: &Program, new: &mut Program, map: &mut [Option<ValueId>], id: ValueId) -> ValueId {
    if let Some(known) = map[id.index()] {
        return known;
    }
    match &old.value(id).def {
        Def::Weight(expr) => {
            let value = new.add_weight(expr.clone(), old.ty(id).clone());
            map[id.index()] = Some(value);
            value
        }
        def => panic!("{id:?} ({def:?}) is used before it is defined"),
    }
}

/// Whether two models are the same up to the numbering of their handles.
///
/// # Panics
/// As [`compact`].
pub fn same(a: &Model, b: &Model) -> bool {
    let compacted = |model: &Model| Model { programs: model.programs.iter().map(compact).collect(), ..model.clone() };
    compacted(a) == compacted(b)
}
