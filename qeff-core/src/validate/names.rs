//! Names, roles, and the types of what a program declares.
//!
//! Files have one name space for inputs, outputs and what is retained of a state, and the compiler pairs `X` with
//! `X_RetainedState` by name alone; so a collision would silently join two things.

use std::collections::{HashMap, HashSet};

use qeff_plugin_api::DType;
use qeff_plugin_api::graph::{Declaration, Dim, OnnxOp, Op, Role, StateKind};

use super::{Problem, Report};

pub(super) fn check(report: &mut Report<'_, '_>) {
    let program = report.program;
    if !matches!(program.act, DType::F32 | DType::F16 | DType::BF16) {
        report.at("", Problem::Activations { found: program.act });
    }
    name(report, "", &program.name);
    ports(report);
    roles(report, "input", program.inputs.iter().map(|input| (input.role, input.name.as_str())));
    roles(report, "output", program.outputs.iter().map(|output| (output.role, output.name.as_str())));
    states(report);
    symbols(report);
    for (id, node) in program.nodes() {
        let mut words = vec![program.scope_path(node.scope)];
        if let Op::Onnx(op) = &node.op {
            words.extend(op.attrs.keys().map(String::as_str));
            words.extend([op.domain.as_str(), &op.op_type]);
            if op.op_type.is_empty() {
                report.node(id, Problem::Name { name: String::new() });
            }
        }
        // The top scope and the standard domain are the empty name.
        for word in words.into_iter().filter(|word| !is_plain(word)) {
            report.node(id, Problem::Name { name: word.to_owned() });
        }
    }
}

/// Printable ASCII without spaces: what file formats, compilers and command lines carry without quoting.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_graphic())
}

fn name(report: &mut Report<'_, '_>, op: &str, name: &str) {
    if name.is_empty() || !is_plain(name) {
        report.at(op, Problem::Name { name: name.to_owned() });
    }
}

/// Names that a file shows, and slots.
fn ports(report: &mut Report<'_, '_>) {
    let program = report.program;
    let mut ports: Vec<Port> = vec![];
    let mut slots = HashSet::new();
    for declaration in program.declarations() {
        match *declaration {
            Declaration::Input(i) => ports.push(Port::new("input", &program.inputs[i].name)),
            Declaration::State(slot) => {
                let state = program.state(slot);
                let op = format!("State {}", state.slot);
                name(report, &op, &state.slot);
                if !slots.insert(&state.slot) {
                    report.at(&op, Problem::NameTaken { name: state.slot.clone(), by: "another state".into() });
                }
                for part in &state.names {
                    ports.push(Port { op: op.clone(), name: part.clone(), retained: false });
                    ports.push(Port { op: op.clone(), name: format!("{part}_RetainedState"), retained: true });
                }
            }
        }
    }
    ports.extend(program.outputs.iter().map(|output| Port::new("output", &output.name)));
    let mut taken: HashMap<&str, &Port> = HashMap::new();
    for port in &ports {
        if !port.retained {
            name(report, &port.op, &port.name);
        }
        match taken.insert(&port.name, port) {
            // Then their parts collide too, which is the finding.
            Some(by) if by.retained && port.retained => {}
            Some(by) => report.at(&port.op, Problem::NameTaken { name: port.name.clone(), by: by.op.clone() }),
            None => {}
        }
    }
}

/// A name that a file shows.
struct Port {
    /// What it belongs to.
    op: String,
    name: String,
    /// Whether it is made from the name of a state's part.
    retained: bool,
}

impl Port {
    fn new(direction: &str, name: &str) -> Self {
        Port { op: format!("{direction} {name}"), name: name.to_owned(), retained: false }
    }
}

/// Passes and runtimes look for roles, so a second port of a role would be overlooked.
fn roles<'p>(report: &mut Report<'_, '_>, direction: &str, ports: impl Iterator<Item = (Role, &'p str)>) {
    let mut taken: HashMap<Role, &str> = HashMap::new();
    for (role, port) in ports {
        if let Some(by) = taken.insert(role, port) {
            report.at(format!("{direction} {port}"), Problem::RoleTaken { role, by: by.to_owned() });
        }
    }
}

fn states(report: &mut Report<'_, '_>) {
    let program = report.program;
    for (_, state) in program.states() {
        for (part, &value) in state.parts.iter().enumerate() {
            let ty = program.ty(value);
            let rows = ty.rank() == 4
                && ty.dims[1].fixed().is_some()
                && ty.dims[2].fixed().is_none()
                && ty.dims[3].fixed().is_some();
            if !rows && state.kind != StateKind::Row {
                report.at(format!("State {}", state.slot), Problem::StateType { part, found: ty.clone() });
            }
        }
    }
}

/// Every symbol must be bound by an input or a state when the program runs, or be a length that an operator makes of others.
fn symbols(report: &mut Report<'_, '_>) {
    let program = report.program;
    let symbols = program.symbols();
    for symbol in &symbols {
        name(report, "dimension", symbol.name());
    }
    let mut bound: HashSet<_> = symbols.iter().collect();
    for (_, node) in program.nodes() {
        let makes_lengths = |op: &OnnxOp| matches!(op.op_type.as_str(), "Concat" | "Conv" | "Reshape");
        if matches!(&node.op, Op::Onnx(op) if op.domain.is_empty() && makes_lengths(op)) {
            let dims = node.outputs.iter().flat_map(|&output| &program.ty(output).dims);
            bound.extend(dims.filter_map(|dim| match dim {
                Dim::Symbol(symbol) => Some(symbol),
                Dim::Fixed(_) => None,
            }));
        }
    }
    let unbound = |dim: &Dim| match dim {
        Dim::Symbol(symbol) if !bound.contains(symbol) => Some(symbol.name().to_owned()),
        _ => None,
    };
    for (id, node) in program.nodes() {
        let mut dims = node.outputs.iter().flat_map(|&output| &program.ty(output).dims);
        if let Some(symbol) = dims.find_map(unbound) {
            report.node(id, Problem::Symbol { symbol });
        }
    }
}
