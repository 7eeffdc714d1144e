//! The validator: what every model must hold, whoever made it.
//!
//! A model comes from a plugin in another process, from a text, or from a pass with a mistake. Everything behind this
//! door (lowerings, emission, the runtime's tables) relies on what is checked here and may treat the rest as unreachable;
//! so nothing here may: handles can be foreign, numbers huge, names anything. A program whose handles do not hold
//! together is judged by that alone, since no look-up in it is safe.
//!
//! All findings are reported, not only the first. The validator knows no target: that an engine lacks an operator or a
//! name is too long for a tool is found where that is known.

mod handles;
mod names;
mod nodes;
mod problem;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::BTreeSet;

use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::graph::{Link, Model, NodeId, Program, Type};

pub use problem::{Findings, Invalid, Problem};

/// Checks a model against the tensors of its checkpoint.
///
/// # Errors
/// Everything that is wrong with it.
pub fn validate(model: &Model, tensors: &TensorIndex) -> Result<(), Findings> {
    let mut findings = vec![];
    if model.programs.is_empty() {
        findings.push(about_model("", Problem::NoPrograms));
    }
    let mut unsound = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for program in &model.programs {
        if !seen.insert(program.name.as_str()) {
            let problem = Problem::NameTaken { name: program.name.clone(), by: "another program".into() };
            findings.push(about_model("program", problem));
        }
        let mut report = Report { program, findings: &mut findings };
        if handles::check(&mut report) {
            names::check(&mut report);
            nodes::check(&mut report);
            weights::check(&mut report, tensors);
        } else {
            unsound.insert(program.name.as_str());
        }
    }
    let mut fed = BTreeSet::new();
    for link in &model.links {
        if [&link.from.0, &link.to.0].iter().any(|name| unsound.contains(name.as_str())) {
            continue;
        }
        let problem = match fed.insert(&link.to) {
            true => check_link(model, link).err(),
            false => Some(Problem::LinkTwice { port: port("input", &link.to) }),
        };
        findings.extend(problem.map(|problem| about_model("link", problem)));
    }
    if findings.is_empty() { Ok(()) } else { Err(Findings(findings)) }
}

fn about_model(op: &str, problem: Problem) -> Invalid {
    Invalid { program: String::new(), scope: String::new(), op: op.to_owned(), problem }
}

fn port(direction: &str, (program, name): &(String, String)) -> String {
    format!("{direction} `{name}` of `{program}`")
}

fn check_link(model: &Model, link: &Link) -> Result<(), Problem> {
    let missing = |direction, end| Problem::LinkEnd { port: port(direction, end) };
    let from: &Type = model
        .program(&link.from.0)
        .and_then(|program| Some(program.ty(program.outputs.iter().find(|output| output.name == link.from.1)?.value)))
        .ok_or_else(|| missing("output", &link.from))?;
    let to: &Type = model
        .program(&link.to.0)
        .and_then(|program| Some(program.ty(program.port(&link.to.1)?)))
        .ok_or_else(|| missing("input", &link.to))?;
    // Two programs may call one dimension differently, but numbers are numbers.
    let alike = from.elem == to.elem
        && from.rank() == to.rank()
        && from.dims.iter().zip(&to.dims).all(|(a, b)| a == b || a.fixed().is_none() || b.fixed().is_none());
    if alike { Ok(()) } else { Err(Problem::LinkType { from: from.clone(), to: to.clone() }) }
}

/// The program under examination and what was found so far.
struct Report<'m, 'f> {
    program: &'m Program,
    findings: &'f mut Vec<Invalid>,
}

impl Report<'_, '_> {
    /// A finding about a declaration, an output, or the program itself.
    fn at(&mut self, op: impl Into<String>, problem: Problem) {
        let program = self.program.name.clone();
        self.findings.push(Invalid { program, scope: String::new(), op: op.into(), problem });
    }

    /// A finding about a node.
    fn node(&mut self, id: NodeId, problem: Problem) {
        let node = self.program.node(id);
        let scope = match self.program.contains_scope(node.scope) {
            true => self.program.scope_path(node.scope).to_owned(),
            false => String::new(),
        };
        let program = self.program.name.clone();
        self.findings.push(Invalid { program, scope, op: node.op.name().to_owned(), problem });
    }
}
