//! Whether a program's handles hold together: the only check that looks nothing up before asking.
//!
//! A handle of another program may be out of range here, or in range and mean something else. The second cannot be told
//! from a right one by itself, but its value then says another origin than the place that holds it.

use qeff_plugin_api::graph::{Declaration, Def, Program, ValueId};

use super::{Problem, Report};

/// Reports every handle that does not hold; true if all do.
pub(super) fn check(report: &mut Report<'_, '_>) -> bool {
    let before = report.findings.len();
    declarations(report);
    let program = report.program;
    for (id, node) in program.nodes() {
        let mut found = vec![];
        if !program.contains_scope(node.scope) {
            found.push(Problem::Foreign { what: "its scope".into() });
        }
        for (i, operand) in node.operands.iter().enumerate() {
            found.extend(operand.and_then(|value| unusable(program, value, format!("operand {i}"))));
        }
        for (output, &value) in node.outputs.iter().enumerate() {
            found.extend(origin(report, value, &Def::Node { node: id, output }, format!("result {output}")));
        }
        found.into_iter().for_each(|problem| report.node(id, problem));
    }
    for output in &program.outputs {
        if let Some(problem) = unusable(program, output.value, "its value".into()) {
            report.at(format!("output {}", output.name), problem);
        }
    }
    report.findings.len() == before
}

fn declarations(report: &mut Report<'_, '_>) {
    let program = report.program;
    let mut declared = 0;
    for declaration in program.declarations() {
        match *declaration {
            Declaration::Input(i) => match program.inputs.get(i) {
                Some(input) => {
                    declared += 1;
                    if let Some(problem) = origin(report, input.value, &Def::Input(i), "its value".into()) {
                        report.at(format!("input {}", input.name), problem);
                    }
                }
                None => report.at(format!("input {i}"), Problem::InputGone),
            },
            Declaration::State(slot) => {
                let state = program.state(slot);
                let op = format!("State {}", state.slot);
                if state.parts.is_empty() || state.parts.len() != state.names.len() {
                    let (parts, names) = (state.parts.len(), state.names.len());
                    report.at(op.clone(), Problem::StateNames { parts, names });
                }
                for (part, &value) in state.parts.iter().enumerate() {
                    if let Some(problem) = origin(report, value, &Def::State { slot, part }, format!("part {part}")) {
                        report.at(op.clone(), problem);
                    }
                }
            }
        }
    }
    for input in program.inputs.iter().skip(declared) {
        report.at(format!("input {}", input.name), Problem::Undeclared);
    }
}

/// What is wrong if `value` is not the one that comes from `def`.
fn origin(report: &Report<'_, '_>, value: ValueId, def: &Def, what: String) -> Option<Problem> {
    if !report.program.contains(value) {
        return Some(Problem::Foreign { what });
    }
    (report.program.value(value).def != *def).then_some(Problem::Torn { what })
}

/// What is wrong if `value` cannot be used. A pass may leave values behind that nothing makes any more; only their use is
/// wrong.
fn unusable(program: &Program, value: ValueId, what: String) -> Option<Problem> {
    if !program.contains(value) {
        return Some(Problem::Foreign { what });
    }
    let made = match program.value(value).def {
        Def::Input(i) => program.inputs.get(i).is_some_and(|input| input.value == value),
        Def::State { slot, part } => program.state(slot).parts.get(part) == Some(&value),
        Def::Node { node, output } => program.node(node).outputs.get(output) == Some(&value),
        Def::Weight(_) => true,
    };
    (!made).then_some(Problem::Dropped { what })
}
