//! Printing a model.
//!
//! A text is reviewed by people, so it must be the same for the same model: labels are dealt out in the order of
//! printing and depend on nothing that the text does not show. Models that do not hold together are printed too, since
//! that is when one wants to look at them: what cannot be named prints as `%?`.
//!
//! The printer knows no operator's semantics and checks nothing.

use std::collections::HashSet;
use std::fmt::Write as _;

use qeff_plugin_api::graph::{
    AttentionMask, AttrValue, Declaration, ExpertActivation, Model, NegativeIds, Node, NormProduct, OnnxOp, Op,
    Program, Role, RotaryLayout, SelectMode, StateKind, StateWrite, ValueId, Weigh,
};
use qeff_plugin_api::weight::{RopePart, WeightExpr};
use qeff_plugin_api::{DType, Elem};

use super::spell;

/// The text of a model; [`super::parse()`] reads it back.
pub fn print(model: &Model) -> String {
    let mut out = format!("model {:?} qeff {} task {}", model.architecture, model.since(), model.task.name());
    if let Some(limit) = model.positions {
        let hard = if limit.hard { " hard" } else { "" };
        let _ = write!(out, " positions {}{hard}", limit.trained);
    }
    out.push('\n');
    if !model.stale_tensors.is_empty() {
        let _ = writeln!(out, "stale {}", joined(model.stale_tensors.iter().map(|ending| format!("{ending:?}"))));
    }
    for link in &model.links {
        let [from, output, to, input] =
            [&link.from.0, &link.from.1, &link.to.0, &link.to.1].map(|part| spell::name(part));
        let _ = writeln!(out, "link {from} {output} -> {to} {input}");
    }
    for program in &model.programs {
        Printer::new(program, &mut out).program();
    }
    out
}

fn joined(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().collect::<Vec<_>>().join(", ")
}

/// How the text calls a value.
#[derive(Clone)]
struct Label {
    text: String,
    /// For a version of a state: the label of the part without primes, and the number of writes before.
    version: Option<(String, usize)>,
}

struct Printer<'p> {
    program: &'p Program,
    out: &'p mut String,
    labels: Vec<Option<Label>>,
    used: HashSet<String>,
    /// The next number of a value without a better name.
    next: usize,
    /// Headings under which the last line stands.
    open: Vec<&'p str>,
}

impl<'p> Printer<'p> {
    fn new(program: &'p Program, out: &'p mut String) -> Self {
        let labels = vec![None; program.values().len()];
        Printer { program, out, labels, used: HashSet::new(), next: 0, open: vec![] }
    }

    fn program(mut self) {
        let program = self.program;
        let symbols = joined(program.symbols().iter().map(|symbol| spell::word(symbol.name()).into_owned()));
        let _ = write!(self.out, "program {} ({symbols})", spell::name(&program.name));
        if program.act != DType::F32 {
            let _ = write!(self.out, " act {}", program.act);
        }
        self.out.push('\n');
        for declaration in program.declarations() {
            self.declaration(*declaration);
        }
        self.tables();
        for (_, node) in program.nodes() {
            self.node(node);
        }
        self.open.clear();
        for output in &program.outputs {
            let value = self.operand(Some(output.value), "");
            let ty = self.types(&[output.value]);
            let name = spell::name(&output.name);
            let _ = writeln!(self.out, "  output {name} = {value}{ty} @{}", output.role.name());
        }
    }

    fn declaration(&mut self, declaration: Declaration) {
        match declaration {
            Declaration::Input(i) => {
                let Some(input) = self.program.inputs.get(i) else { return };
                let label = self.name_value(input.value, input_label(input.role));
                let ty = self.types(&[input.value]);
                let name = spell::name(&input.name);
                let _ = writeln!(self.out, "  {label} = input {name}{ty} @{}", input.role.name());
            }
            Declaration::State(slot) => {
                let state = self.program.state(slot);
                let key_value =
                    state.slot.strip_prefix("kv.").filter(|layer| layer.bytes().all(|b| b.is_ascii_digit()));
                let labels = state.parts.iter().enumerate().map(|(part, &value)| {
                    let label = match (key_value, state.parts.len()) {
                        (Some(layer), 2) => format!("{}{layer}", ["k", "v"][part]),
                        _ => format!("s{}.{part}", slot.index()),
                    };
                    self.name_version(value, format!("%{label}"), 0)
                });
                let labels = results(labels.collect());
                let kind = match state.kind {
                    StateKind::Full => String::new(),
                    kind => format!(" {}", kind.name()),
                };
                let names = joined(state.names.iter().map(|name| spell::name(name).into_owned()));
                // The parts of one state nearly always agree; one type then stands for all.
                let alike = state.parts.iter().all(|&part| self.ty(part) == self.ty(state.parts[0]));
                let ty =
                    if alike { self.types(&state.parts[..state.parts.len().min(1)]) } else { self.types(&state.parts) };
                let slot = spell::name(&state.slot);
                let _ = writeln!(self.out, "  {labels} = State {slot}{kind} names({names}){ty}");
            }
        }
    }

    /// Generated tables are long and shared by all layers, so they are declared once before the first node.
    fn tables(&mut self) {
        let (mut cos, mut sin, mut other) = (0, 0, 0);
        let operands = self.program.nodes().flat_map(|(_, node)| node.operands.iter().flatten().copied());
        let users: Vec<ValueId> = operands.chain(self.program.outputs.iter().map(|output| output.value)).collect();
        for id in users {
            if !self.program.contains(id) || self.labels[id.index()].is_some() {
                continue;
            }
            let Some(expr) = self.program.weight(id).filter(|expr| is_generated(expr)) else { continue };
            let (stem, count) = match expr {
                WeightExpr::Rope(table) if table.part == RopePart::Cos => ("cos", &mut cos),
                WeightExpr::Rope(_) => ("sin", &mut sin),
                _ => ("table", &mut other),
            };
            let number = if *count == 0 { String::new() } else { count.to_string() };
            *count += 1;
            let label = self.name_value(id, &format!("{stem}{number}"));
            let text = expr.to_text(&|tensor| spell::from_scope("", tensor));
            let ty = self.types(&[id]);
            let _ = writeln!(self.out, "  {label} = weight {text}{ty}");
        }
    }

    fn node(&mut self, node: &Node) {
        let scope = if self.program.contains_scope(node.scope) { self.program.scope_path(node.scope) } else { "?" };
        self.enter(scope);
        let op = self.operation(node, scope);
        // The type of a new version is that of the version before; it is written only where it is not.
        let part_types = node.outputs.iter().enumerate().map(|(i, _)| self.operand_ty(node.operand(i)));
        let implied =
            matches!(node.op, Op::StateWrite(_)) && part_types.eq(node.outputs.iter().map(|&output| self.ty(output)));
        let labels = node.outputs.iter().enumerate().map(|(i, &output)| {
            let written = matches!(node.op, Op::StateWrite(_)).then(|| node.operand(i)).flatten();
            let version = written.and_then(|part| self.labels.get(part.index())?.as_ref()?.version.clone());
            match version {
                Some((base, number)) => self.name_version(output, base, number + 1),
                None => self.name_value(output, ""),
            }
        });
        let labels = results(labels.collect());
        let ty = if implied { String::new() } else { self.types(&node.outputs) };
        self.indent();
        let _ = writeln!(self.out, "{labels} = {op}{ty}");
    }

    /// Prints the headings that lead from the last line's scope to `scope`.
    fn enter(&mut self, scope: &'p str) {
        let headings = spell::headings(scope);
        let shared = self.open.iter().zip(&headings).take_while(|(a, b)| a == b).count();
        self.open.truncate(shared);
        for heading in headings.into_iter().skip(shared) {
            self.indent();
            let _ = writeln!(self.out, "{}", spell::name(heading));
            self.open.push(heading);
        }
    }

    fn indent(&mut self) {
        for _ in 0..=self.open.len() {
            self.out.push_str("  ");
        }
    }

    /// The operator with its operands and attributes.
    fn operation(&self, node: &Node, scope: &str) -> String {
        let operand = |index: usize| self.operand(node.operand(index), scope);
        let first = |count: usize| joined((0..count.min(node.operands.len())).map(operand));
        let all = first(usize::MAX);
        let mut text = match &node.op {
            Op::Onnx(op) => return onnx(op, &all),
            Op::StateWrite(_) => {
                let parts = node.outputs.len();
                let old = joined((0..parts).map(|i| operand(StateWrite::part(i))));
                let new = joined((0..parts).map(|i| operand(StateWrite::new_rows(i, parts))));
                format!("({old}) <- ({new})")
            }
            Op::Attention(_) => first(3),
            Op::StateRead(_) => first(1),
            Op::Select(_) => first(2),
            _ => all,
        };
        // Optional operands behind the positional ones are labelled.
        let optional: &[(&str, usize)] = match &node.op {
            Op::StateWrite(_) => {
                let parts = node.outputs.len();
                &[
                    ("at", StateWrite::positions(parts)),
                    ("batch", StateWrite::batch_index(parts)),
                    ("if", StateWrite::guard(parts)),
                ]
            }
            Op::Attention(_) => super::ATTENTION_OPTIONAL,
            Op::StateRead(_) => super::STATE_READ_OPTIONAL,
            Op::Select(_) => super::SELECT_OPTIONAL,
            _ => &[],
        };
        for &(label, index) in optional {
            if node.operand(index).is_some() {
                let _ = write!(text, " {label} {}", operand(index));
            }
        }
        let surplus = optional.iter().map(|(_, index)| index + 1).max().unwrap_or(usize::MAX);
        for index in surplus..node.operands.len() {
            let _ = write!(text, " + {}", operand(index));
        }
        let space = if text.is_empty() { "" } else { " " };
        format!("{}{space}{text}{}", node.op.name(), attributes(&node.op))
    }

    fn operand(&self, id: Option<ValueId>, scope: &str) -> String {
        let Some(id) = id else { return "_".into() };
        if !self.program.contains(id) {
            return format!("%?{}", id.index());
        }
        if let Some(label) = &self.labels[id.index()] {
            return label.text.clone();
        }
        match self.program.weight(id) {
            Some(expr) => {
                let text = expr.to_text(&|tensor| spell::from_scope(scope, tensor));
                match self.program.ty(id).elem {
                    Elem::Act => text,
                    elem => format!("{text} as {elem}"),
                }
            }
            None => format!("%?{}", id.index()),
        }
    }

    fn operand_ty(&self, id: Option<ValueId>) -> String {
        id.map_or_else(String::new, |id| self.ty(id))
    }

    fn ty(&self, id: ValueId) -> String {
        if self.program.contains(id) { spell::ty(self.program.ty(id)) } else { "?".into() }
    }

    fn types(&self, ids: &[ValueId]) -> String {
        if ids.is_empty() { String::new() } else { format!(" : {}", joined(ids.iter().map(|&id| self.ty(id)))) }
    }

    /// Labels a version of a state; should the label be taken, as when a version is written twice, by number.
    fn name_version(&mut self, id: ValueId, base: String, number: usize) -> String {
        let primes = if number <= 3 { "'".repeat(number) } else { format!("'{number}") };
        let text = format!("{base}{primes}");
        if self.used.contains(&text) {
            return self.name_value(id, "");
        }
        self.set(id, Label { text, version: Some((base, number)) })
    }

    /// Labels a value with `name`, or with the next number if the name is empty or taken.
    fn name_value(&mut self, id: ValueId, name: &str) -> String {
        let mut text = format!("%{name}");
        if name.is_empty() || self.used.contains(&text) {
            text = format!("%{}", self.next);
            self.next += 1;
        }
        self.set(id, Label { text, version: None })
    }

    fn set(&mut self, id: ValueId, label: Label) -> String {
        let text = label.text.clone();
        self.used.insert(text.clone());
        if let Some(entry) = self.labels.get_mut(id.index()) {
            *entry = Some(label);
        }
        text
    }
}

fn results(labels: Vec<String>) -> String {
    if labels.is_empty() { "_".into() } else { joined(labels) }
}

fn input_label(role: Role) -> &'static str {
    match role {
        Role::Tokens => "ids",
        Role::Positions => "pos",
        Role::BatchIndex => "batch",
        other => other.name(),
    }
}

fn is_generated(expr: &WeightExpr) -> bool {
    matches!(expr, WeightExpr::Rope(_)) || expr.operands().iter().any(is_generated)
}

/// The attributes of an operator of domain `qeff`, those at their default left out.
fn attributes(op: &Op) -> String {
    let mut out = String::new();
    let mut put = |shown: bool, text: String| {
        if shown {
            out.push(' ');
            out.push_str(&text);
        }
    };
    match op {
        Op::StateRead(_) => {}
        Op::StateWrite(write) => put(write.repeat != 1, format!("repeat {}", write.repeat)),
        Op::Embedding(embedding) => {
            put(embedding.scale != 1.0, format!("scale {:?}", embedding.scale));
            put(embedding.offset != 0, format!("offset {}", embedding.offset));
            put(embedding.negative == NegativeIds::Zero, "negative zero".into());
        }
        Op::Linear(linear) => put(linear.heads != 0, format!("heads {}", linear.heads)),
        Op::RmsNorm(norm) => {
            put(true, format!("eps {:?}", norm.eps));
            put(norm.product == NormProduct::InF32, "product f32".into());
        }
        Op::Rotary(rotary) => put(
            true,
            match rotary.layout {
                RotaryLayout::Half => "half".into(),
                RotaryLayout::Interleaved => "interleaved".into(),
            },
        ),
        Op::Attention(attention) => {
            put(
                true,
                match attention.mask {
                    AttentionMask::Causal => "causal".into(),
                    AttentionMask::Sliding(window) => format!("sliding({window})"),
                    AttentionMask::Bidirectional => "bidirectional".into(),
                    AttentionMask::Band { left, right } => format!("band({left}, {right})"),
                },
            );
            put(true, format!("scale {:?}", attention.scale));
            put(attention.softcap != 0.0, format!("softcap {:?}", attention.softcap));
        }
        Op::Experts(experts) => {
            put(
                true,
                match experts.activation {
                    ExpertActivation::Silu => "silu".into(),
                    ExpertActivation::Gelu => "gelu".into(),
                    ExpertActivation::GeluTanh => "gelu_tanh".into(),
                    ExpertActivation::Relu => "relu".into(),
                    ExpertActivation::ClampedSwiglu { limit, alpha } => {
                        format!("clamped_swiglu limit {limit:?} alpha {alpha:?}")
                    }
                },
            );
            put(experts.weigh == Weigh::Input, "weigh input".into());
        }
        Op::Select(select) => put(
            true,
            match select.mode {
                SelectMode::Last => "last".into(),
                SelectMode::LastK => "last_k".into(),
                SelectMode::All => "all".into(),
            },
        ),
        Op::Onnx(_) => {}
    }
    out
}

fn onnx(op: &OnnxOp, operands: &str) -> String {
    let mut text = spell::onnx_op(&op.domain, &op.op_type);
    if !operands.is_empty() {
        let _ = write!(text, " {operands}");
    }
    if !op.attrs.is_empty() {
        let attrs = op.attrs.iter().map(|(key, value)| format!("{}: {}", spell::word(key), attr_value(value)));
        let _ = write!(text, " {{{}}}", joined(attrs));
    }
    text
}

fn attr_value(value: &AttrValue) -> String {
    match value {
        AttrValue::Int(n) => n.to_string(),
        // The debug form always has a point or an exponent, which tells it from an integer.
        AttrValue::Float(x) => format!("{x:?}"),
        AttrValue::Text(text) => format!("{text:?}"),
        AttrValue::Ints(items) => format!("[{}]", joined(items.iter().map(i64::to_string))),
        AttrValue::DType(dtype) => dtype.to_string(),
    }
}
