//! Guards: a program that does more in its first call than in later ones becomes two programs.
//!
//! ```text
//! main:  StateWrite(part, new, guard)      ⇒  filled: StateWrite(part, new)     part is made anew, nobody need give it
//!                                             kept:   part                      what `new` was made of is gone
//! ```
//! For a target whose compiler does not know the guard: there, a decoder's step would otherwise compute the encoder, too, and
//! throw it away.

use std::collections::HashMap;

use qeff_plugin_api::graph::{Declaration, Def, Model, Node, Op, Program, StateWrite, ValueId};

use super::PassReport;

const PASS: &str = "guards";

/// The name of the program that fills what is guarded.
pub const FILLED: &str = "filled";
/// The name of the program that keeps it.
pub const KEPT: &str = "kept";

/// Splits every program with guards, which are taken to be all one. `None` if there is none.
pub fn guards(model: &mut Model) -> Option<PassReport> {
    let mut report = PassReport::new(PASS);
    let mut programs = vec![];
    for program in std::mem::take(&mut model.programs) {
        let guarded = program.nodes().filter(|(_, node)| guard(node).is_some()).count();
        if guarded == 0 {
            programs.push(program);
            continue;
        }
        report.did.push(format!("program {} split by {guarded} guarded writes", program.name));
        programs.push(Half { program: &program, filled: true }.built(FILLED));
        programs.push(Half { program: &program, filled: false }.built(KEPT));
    }
    model.programs = programs;
    (!report.did.is_empty()).then_some(report)
}

/// The operand that is the guard of a write, if the node is one with a guard.
fn guard(node: &Node) -> Option<usize> {
    let operand = StateWrite::guard(node.outputs.len());
    (matches!(node.op, Op::StateWrite(_)) && node.operand(operand).is_some()).then_some(operand)
}

/// A program under the assumption that its guards hold, or that they do not.
struct Half<'a> {
    program: &'a Program,
    filled: bool,
}

impl Half<'_> {
    /// The value that stands for `value`: a version that is not written is the one before it.
    fn stands_for(&self, mut value: ValueId) -> ValueId {
        while let Def::Node { node, output } = self.program.value(value).def {
            let node = self.program.node(node);
            match node.operand(StateWrite::part(output)) {
                Some(before) if !self.filled && guard(node).is_some() => value = before,
                _ => break,
            }
        }
        value
    }

    /// The operands of a node as they are in this half.
    fn operands(&self, node: &Node) -> Vec<Option<ValueId>> {
        let dropped = guard(node);
        let kept = node.operands.iter().enumerate().map(|(i, operand)| operand.filter(|_| Some(i) != dropped));
        kept.map(|operand| operand.map(|value| self.stands_for(value))).collect()
    }

    /// Which values are needed for what the half puts out and retains.
    fn needed(&self) -> Vec<bool> {
        let program = self.program;
        let mut needed = vec![false; program.values().len()];
        let outputs = program.outputs.iter().map(|output| output.value);
        let mut open: Vec<ValueId> = outputs.chain(program.retained().into_iter().flatten()).collect();
        while let Some(value) = open.pop() {
            let value = self.stands_for(value);
            if std::mem::replace(&mut needed[value.index()], true) {
                continue;
            }
            if let Some(node) = program.producer(value) {
                open.extend(self.operands(program.node(node)).into_iter().flatten());
            }
        }
        needed
    }

    /// The program of this half, without what it does not need. States are all kept.
    fn built(&self, name: &str) -> Program {
        let (program, needed) = (self.program, self.needed());
        let mut half = Program::new(name);
        half.act = program.act;
        let mut values: HashMap<ValueId, ValueId> = HashMap::new();
        for declaration in program.declarations() {
            match *declaration {
                Declaration::Input(i) => {
                    let input = &program.inputs[i];
                    if needed[input.value.index()] {
                        let ty = program.ty(input.value).clone();
                        values.insert(input.value, half.add_input(input.name.clone(), input.role, ty));
                    }
                }
                Declaration::State(slot) => {
                    let state = program.state(slot);
                    let types = state.parts.iter().map(|&part| program.ty(part).clone());
                    let slot = half.add_state(
                        state.slot.clone(),
                        state.kind,
                        state.names.iter().cloned().zip(types).collect(),
                    );
                    values.extend(state.parts.iter().copied().zip(half.state(slot).parts.clone()));
                }
            }
        }
        for (_, node) in program.nodes().filter(|(_, node)| node.outputs.iter().any(|output| needed[output.index()])) {
            let operands = self.operands(node);
            for &value in operands.iter().flatten() {
                if let Some(expr) = program.weight(value) {
                    let weight = half.add_weight(expr.clone(), program.ty(value).clone());
                    values.insert(value, weight);
                }
            }
            let operands =
                operands.into_iter().map(|operand| operand.and_then(|value| values.get(&value).copied())).collect();
            let types = node.outputs.iter().map(|&output| program.ty(output).clone()).collect();
            let scope = half.intern_scope(program.scope_path(node.scope));
            let made = half.add_node(scope, node.op.clone(), operands, types);
            values.extend(node.outputs.iter().copied().zip(half.node(made).outputs.clone()));
        }
        for output in &program.outputs {
            if let Some(&value) = values.get(&self.stands_for(output.value)) {
                half.add_output(output.name.clone(), output.role, value);
            }
        }
        half
    }
}
