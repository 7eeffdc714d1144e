//! Nodes in order: definition before use, types, and the versions of states.
//!
//! A state is updated in place on the device, so its versions form one line: a write consumes the current one, and
//! nothing may read a version after it was replaced. Only writes and attention know what a version is; any other
//! operator would see the buffer at a moment that nobody promised.

use qeff_plugin_api::graph::{
    Attention, AttentionMask, Def, ExpertActivation, Experts, Node, NodeId, Op, Role, Select, SlotId, StateKind,
    StateRead, StateWrite, Type, ValueId,
};
use qeff_plugin_api::infer::{Mismatch, infer};

use super::{Problem, Report};

pub(super) fn check(report: &mut Report<'_, '_>) {
    let program = report.program;
    let mut versions = Versions {
        of: vec![None; program.values().len()],
        current: program.states().map(|(_, state)| vec![0; state.parts.len()]).collect(),
    };
    for (slot, state) in program.states() {
        for (part, &value) in state.parts.iter().enumerate() {
            versions.of[value.index()] = Some(Version { slot, part, number: 0 });
        }
    }
    for (id, node) in program.nodes() {
        let mut found = order(report, id, node);
        // The types of what comes later mean nothing here.
        if found.is_empty() {
            found.extend(types(report, node));
            found.extend(states(report, node, &mut versions));
        }
        found.into_iter().for_each(|problem| report.node(id, problem));
    }
    for output in &program.outputs {
        if let Some(version) = versions.of[output.value.index()] {
            let op = format!("output {}", output.name);
            report.at(op, Problem::StateOutput { slot: program.state(version.slot).slot.clone() });
        }
    }
    if let Some(output) = program.output(Role::Logits) {
        let found = selects(report, output.value);
        if found > 1 {
            report.at(format!("output {}", output.name), Problem::Selects { found });
        }
    }
}

fn order(report: &Report<'_, '_>, id: NodeId, node: &Node) -> Vec<Problem> {
    let later = |value: ValueId| report.program.producer(value).is_some_and(|producer| producer >= id);
    let operands = node.operands.iter().enumerate();
    operands
        .filter(|(_, operand)| operand.is_some_and(later))
        .map(|(operand, _)| Problem::UsedBeforeDefined { operand })
        .collect()
}

fn types(report: &Report<'_, '_>, node: &Node) -> Vec<Problem> {
    let program = report.program;
    let mut found = vec![];
    let most = match &node.op {
        Op::Onnx(op) => {
            if op.domain == "qeff" {
                found.push(Problem::UnknownOperator);
            }
            usize::MAX
        }
        Op::StateWrite(_) => StateWrite::guard(node.outputs.len()) + 1,
        Op::StateRead(_) => StateRead::BATCH_INDEX + 1,
        Op::Embedding(_) | Op::RmsNorm(_) => 2,
        Op::Linear(_) => 3,
        Op::Rotary(_) => 4,
        Op::Attention(_) => Attention::BIAS + 1,
        Op::Experts(_) => Experts::DOWN_BIAS + 1,
        Op::Select(_) => Select::KEEP + 1,
    };
    if node.operands.len() > most {
        found.push(Problem::Surplus { most, found: node.operands.len() });
    }
    let numbers = match &node.op {
        Op::Embedding(embedding) => vec![("scale", embedding.scale)],
        Op::RmsNorm(norm) => vec![("eps", norm.eps)],
        Op::Attention(attention) => vec![("scale", attention.scale), ("softcap", attention.softcap)],
        Op::Experts(Experts { activation: ExpertActivation::ClampedSwiglu { limit, alpha }, .. }) => {
            vec![("limit", *limit), ("alpha", *alpha)]
        }
        _ => vec![],
    };
    for (attribute, number) in numbers.into_iter().filter(|(_, number)| !number.is_finite()) {
        found.push(Problem::Number { attribute, found: number.to_string() });
    }
    let operands: Vec<Option<&Type>> = node.operands.iter().map(|id| id.map(|id| program.ty(id))).collect();
    match infer(&node.op, &operands) {
        Ok(types) if types.len() != node.outputs.len() => {
            found.push(Problem::Results { expected: types.len(), found: node.outputs.len() });
        }
        Ok(types) => {
            for (result, (expected, &value)) in types.into_iter().zip(&node.outputs).enumerate() {
                let ty = program.ty(value);
                if expected != *ty {
                    found.push(Problem::ResultType { result, expected, found: ty.clone() });
                }
            }
        }
        // The author has stated the types.
        Err(Mismatch::Unknown(_)) => {}
        Err(mismatch) => found.push(mismatch.into()),
    }
    found
}

/// A version of one part of a state.
#[derive(Clone, Copy, PartialEq)]
struct Version {
    slot: SlotId,
    part: usize,
    /// How many writes came before.
    number: usize,
}

struct Versions {
    /// Which version a value is.
    of: Vec<Option<Version>>,
    /// The number that counts, by slot and part.
    current: Vec<Vec<usize>>,
}

impl Versions {
    fn operand(&self, node: &Node, index: usize) -> Option<Version> {
        self.of[node.operand(index)?.index()]
    }

    fn stale(&self, report: &Report<'_, '_>, operand: usize, version: Version) -> Option<Problem> {
        let current = self.current[version.slot.index()][version.part];
        let slot = || report.program.state(version.slot).slot.clone();
        (version.number != current).then(|| Problem::StaleVersion {
            operand,
            slot: slot(),
            current,
            found: version.number,
        })
    }
}

fn states(report: &Report<'_, '_>, node: &Node, versions: &mut Versions) -> Vec<Problem> {
    let mut found = vec![];
    let doors = match &node.op {
        Op::StateWrite(_) => 0..node.outputs.len(),
        Op::Attention(_) => Attention::K..Attention::V + 1,
        Op::StateRead(_) => StateRead::PART..StateRead::PART + 1,
        _ => 0..0,
    };
    for operand in (0..node.operands.len()).filter(|operand| !doors.contains(operand)) {
        if let Some(version) = versions.operand(node, operand) {
            found.push(Problem::StateUse { operand, slot: report.program.state(version.slot).slot.clone() });
        }
    }
    match &node.op {
        Op::StateWrite(_) => found.extend(write(report, node, versions)),
        Op::StateRead(_) => match versions.operand(node, StateRead::PART) {
            Some(version) => {
                found.extend(versions.stale(report, StateRead::PART, version));
                found.extend(door(report, node, version.slot, |kind| !kind.has_positions()));
            }
            None => found.push(Problem::NoState { operand: StateRead::PART }),
        },
        Op::Attention(attention) => {
            let sides = [Attention::K, Attention::V].map(|operand| (operand, versions.operand(node, operand)));
            match (sides[0].1, sides[1].1) {
                (None, None) => {}
                (Some(k), Some(v)) if k.slot == v.slot => {
                    found.extend(sides.into_iter().filter_map(|(i, version)| versions.stale(report, i, version?)));
                    let whole = attention.mask == AttentionMask::Bidirectional;
                    found.extend(door(report, node, k.slot, |kind| match kind {
                        StateKind::Full | StateKind::Rolling => true,
                        StateKind::Fill => whole,
                        StateKind::Row => false,
                    }));
                }
                (k, v) => {
                    let found_text = format!("{} and {}", describe(report, k), describe(report, v));
                    found.push(Problem::KeysAndValues { found: found_text });
                }
            }
        }
        _ => {}
    }
    found
}

/// What is wrong if a node touches a state of a kind that it cannot.
fn door(report: &Report<'_, '_>, node: &Node, slot: SlotId, takes: impl Fn(StateKind) -> bool) -> Option<Problem> {
    let state = report.program.state(slot);
    let (slot, kind) = (state.slot.clone(), state.kind.name());
    (!takes(state.kind)).then(|| Problem::Kind { slot, kind, op: node.op.name().to_owned() })
}

/// Checks a write and makes the new versions.
fn write(report: &Report<'_, '_>, node: &Node, versions: &mut Versions) -> Vec<Problem> {
    let parts = node.outputs.len();
    let written: Vec<_> = (0..parts).map(|part| versions.operand(node, StateWrite::part(part))).collect();
    let slot = written.first().copied().flatten().map(|version| version.slot);
    let in_order =
        written.iter().enumerate().all(|(i, version)| version.is_some_and(|v| v.part == i && Some(v.slot) == slot));
    let expected = slot.map_or(parts, |slot| report.program.state(slot).parts.len());
    if !in_order || expected != parts || parts == 0 {
        let found = written.iter().map(|version| describe(report, *version)).collect::<Vec<_>>().join(", ");
        return vec![Problem::WriteParts { expected, found: format!("({found})") }];
    }
    let mut found = vec![];
    if let Some(slot) = slot {
        let by_position = node.operand(StateWrite::positions(parts)).is_some();
        let guarded = node.operand(StateWrite::guard(parts)).is_some();
        found.extend(door(report, node, slot, |kind| match kind {
            StateKind::Full | StateKind::Rolling => by_position && !guarded,
            StateKind::Fill => !by_position,
            StateKind::Row => false,
        }));
    }
    for (part, version) in written.into_iter().flatten().enumerate() {
        let stale = versions.stale(report, part, version);
        let current = &mut versions.current[version.slot.index()][part];
        // A write over an old version is one finding; those who read what it makes are none.
        let number = version.number + 1;
        *current = number.max(*current);
        versions.of[node.outputs[part].index()] = Some(Version { number, ..version });
        found.extend(stale);
    }
    found
}

fn describe(report: &Report<'_, '_>, version: Option<Version>) -> String {
    match version {
        Some(version) => format!("part {} of `{}`", version.part, report.program.state(version.slot).slot),
        None => "no state".into(),
    }
}

/// How many selections lie before a value.
fn selects(report: &Report<'_, '_>, value: ValueId) -> usize {
    let program = report.program;
    let mut seen = vec![false; program.nodes().len()];
    let (mut open, mut count) = (vec![value], 0);
    while let Some(value) = open.pop() {
        let Def::Node { node: id, .. } = program.value(value).def else { continue };
        if std::mem::replace(&mut seen[id.index()], true) {
            continue;
        }
        let node = program.node(id);
        count += usize::from(matches!(node.op, Op::Select(_)));
        open.extend(node.operands.iter().flatten());
    }
    count
}
