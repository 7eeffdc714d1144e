//! One program: declarations, nodes, values and scopes in arenas.

use std::collections::{HashMap, HashSet};

use super::{Attention, AttentionMask, Dim, NodeId, Op, Role, ScopeId, SlotId, Symbol, Type, ValueId};
use crate::{DType, WeightExpr};

/// Something the outside hands in; declarations are kept in the order in which the file lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declaration {
    /// Entry of [`Program::inputs`].
    Input(usize),
    /// A state.
    State(SlotId),
}

/// A graph input.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Name in the file.
    pub name: String,
    /// Meaning.
    pub role: Role,
    /// The value, which holds the type.
    pub value: ValueId,
}

/// A graph output that is not a retained state.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Name in the file.
    pub name: String,
    /// Meaning.
    pub role: Role,
    /// What is put out.
    pub value: ValueId,
}

/// How positions map to rows of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// Position `p` lives in row `p`.
    Full,
    /// Position `p` lives in row `p mod length`.
    ///
    /// A row is lost once a position that shares it is written, also to queries that were written in the same call. So reads
    /// are exact only if the length is at least [`Program::window`] and the width of the widest call, less one.
    Rolling,
    /// As [`Self::Full`] in shape, but written as a whole or not at all, and read as a whole: the keys and values that a
    /// decoder makes once of what an encoder puts out.
    Fill,
    /// Any shape without an axis of positions. One that is never written stays what the host made it, such as what an image
    /// encoder put out.
    Row,
}

impl StateKind {
    /// Every kind with the word that text forms use.
    pub const ALL: &'static [(StateKind, &'static str)] = &[
        (StateKind::Full, "full"),
        (StateKind::Rolling, "rolling"),
        (StateKind::Fill, "fill"),
        (StateKind::Row, "row"),
    ];

    /// The word that text forms use.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// The kind of a word.
    pub fn from_name(name: &str) -> Option<StateKind> {
        Self::ALL.iter().find(|(_, word)| *word == name).map(|(kind, _)| *kind)
    }

    /// Whether positions say which rows are written.
    pub fn has_positions(self) -> bool {
        matches!(self, StateKind::Full | StateKind::Rolling)
    }
}

/// What stays on the device between two runs. Prints as input `X` and output `X_RetainedState` for each name.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Unique name of the slot, e.g. `kv.3`.
    pub slot: String,
    /// How positions map to rows.
    pub kind: StateKind,
    /// Emitted name of each part, e.g. `past_key.3`, `past_value.3`.
    pub names: Vec<String>,
    /// The part values, before any write. Each is `[lead, heads, axis, dim]`, or anything in a [`StateKind::Row`].
    pub parts: Vec<ValueId>,
}

impl State {
    /// The version of domain `qeff` in which such a state appeared.
    pub fn since(&self) -> i64 {
        if self.kind.has_positions() { 1 } else { 3 }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Def {
    /// Entry of [`Program::inputs`].
    Input(usize),
    /// A part of a state as it is before the run.
    State {
        /// The state.
        slot: SlotId,
        /// Which part.
        part: usize,
    },
    /// A weight.
    Weight(WeightExpr),
    /// An output of a node.
    Node {
        /// The node.
        node: NodeId,
        /// Which output.
        output: usize,
    },
}

/// A value: its type and origin.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueData {
    /// Element type and dimensions.
    pub ty: Type,
    /// Origin.
    pub def: Def,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Module path, which is the checkpoint's prefix for the module.
    pub scope: ScopeId,
    /// Operands; `None` is an absent optional one. Trailing absent operands are not stored.
    pub operands: Vec<Option<ValueId>>,
    /// Results.
    pub outputs: Vec<ValueId>,
}

impl Node {
    /// Operand `index`, if present.
    pub fn operand(&self, index: usize) -> Option<ValueId> {
        self.operands.get(index).copied().flatten()
    }

    /// The version of domain `qeff` in which this appeared: its operator, or the newest operand or attribute it has.
    pub fn since(&self) -> i64 {
        match &self.op {
            Op::StateRead(_) => 3,
            Op::Attention(Attention { mask: AttentionMask::Band { .. }, .. }) => 3,
            Op::Attention(_) if self.operand(Attention::BIAS).is_some() => 3,
            Op::Experts(_) => 2,
            Op::Attention(_) if self.operand(Attention::SINKS).is_some() => 2,
            Op::StateWrite(_)
            | Op::Embedding(_)
            | Op::Linear(_)
            | Op::RmsNorm(_)
            | Op::Rotary(_)
            | Op::Attention(_)
            | Op::Select(_)
            | Op::Onnx(_) => 1,
        }
    }

    /// Sets operand `index`.
    pub fn set_operand(&mut self, index: usize, value: Option<ValueId>) {
        if self.operands.len() <= index {
            self.operands.resize(index + 1, None);
        }
        self.operands[index] = value;
        while self.operands.last() == Some(&None) {
            self.operands.pop();
        }
    }
}

/// A version of one part of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The state.
    pub slot: SlotId,
    /// Which part.
    pub part: usize,
    /// How many writes came before.
    pub number: usize,
}

/// A graph; see the module documentation.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Name within the model; `main` if there is only one.
    pub name: String,
    /// The activation type.
    pub act: DType,
    /// Inputs that are not states.
    pub inputs: Vec<Input>,
    /// Outputs that are not states.
    pub outputs: Vec<Output>,
    declarations: Vec<Declaration>,
    states: Vec<State>,
    scopes: Vec<String>,
    scope_ids: HashMap<String, ScopeId>,
    values: Vec<ValueData>,
    weight_ids: HashMap<String, ValueId>,
    nodes: Vec<Node>,
}

impl Program {
    /// A program without nodes; activations are f32.
    pub fn new(name: impl Into<String>) -> Self {
        Program {
            name: name.into(),
            act: DType::F32,
            inputs: vec![],
            outputs: vec![],
            declarations: vec![],
            states: vec![],
            scopes: vec![],
            scope_ids: HashMap::new(),
            values: vec![],
            weight_ids: HashMap::new(),
            nodes: vec![],
        }
    }

    // --- reading

    /// Inputs and states in file order.
    pub fn declarations(&self) -> &[Declaration] {
        &self.declarations
    }

    /// All states in declaration order.
    pub fn states(&self) -> impl ExactSizeIterator<Item = (SlotId, &State)> {
        self.states.iter().enumerate().map(|(i, state)| (SlotId(i as u32), state))
    }

    /// A state.
    pub fn state(&self, slot: SlotId) -> &State {
        &self.states[slot.index()]
    }

    /// A state, to be edited; part values stay where they are.
    pub fn state_mut(&mut self, slot: SlotId) -> &mut State {
        &mut self.states[slot.index()]
    }

    /// All nodes in execution order.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (NodeId, &Node)> + DoubleEndedIterator {
        self.nodes.iter().enumerate().map(|(i, node)| (NodeId(i as u32), node))
    }

    /// All node handles in execution order, for passes that edit while they walk.
    pub fn node_ids(&self) -> impl ExactSizeIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A node, to be edited.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// All values in the order in which they were made.
    pub fn values(&self) -> impl ExactSizeIterator<Item = (ValueId, &ValueData)> {
        self.values.iter().enumerate().map(|(i, value)| (ValueId(i as u32), value))
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &ValueData {
        &self.values[id.index()]
    }

    /// Type of a value.
    pub fn ty(&self, id: ValueId) -> &Type {
        &self.values[id.index()].ty
    }

    /// Type of a value, to be edited by a pass.
    pub fn ty_mut(&mut self, id: ValueId) -> &mut Type {
        &mut self.values[id.index()].ty
    }

    /// Whether a handle belongs to this program.
    pub fn contains(&self, id: ValueId) -> bool {
        id.index() < self.values.len()
    }

    /// Every weight with its value.
    pub fn weights(&self) -> impl Iterator<Item = (ValueId, &WeightExpr)> {
        self.values().filter_map(|(id, value)| match &value.def {
            Def::Weight(expr) => Some((id, expr)),
            _ => None,
        })
    }

    /// The weight expression of a value, if it is a weight.
    pub fn weight(&self, id: ValueId) -> Option<&WeightExpr> {
        match &self.value(id).def {
            Def::Weight(expr) => Some(expr),
            _ => None,
        }
    }

    /// Path of a scope, e.g. `model.layers.3.self_attn`; empty for the top.
    pub fn scope_path(&self, scope: ScopeId) -> &str {
        &self.scopes[scope.index()]
    }

    /// Whether a scope handle belongs to this program.
    pub fn contains_scope(&self, scope: ScopeId) -> bool {
        scope.index() < self.scopes.len()
    }

    /// The node that makes a value, if a node does.
    pub fn producer(&self, id: ValueId) -> Option<NodeId> {
        match self.value(id).def {
            Def::Node { node, .. } => Some(node),
            _ => None,
        }
    }

    /// The input of a role.
    pub fn input(&self, role: Role) -> Option<&Input> {
        self.inputs.iter().find(|input| input.role == role)
    }

    /// What the outside hands in under a name: an input, or a part of a state.
    pub fn port(&self, name: &str) -> Option<ValueId> {
        let input = self.inputs.iter().find(|input| input.name == name).map(|input| input.value);
        let part = |state: &State| state.parts.get(state.names.iter().position(|part| part == name)?).copied();
        input.or_else(|| self.states.iter().find_map(part))
    }

    /// The output of a role.
    pub fn output(&self, role: Role) -> Option<&Output> {
        self.outputs.iter().find(|output| output.role == role)
    }

    /// Which state a value is a version of, found by walking writes back to the declaration.
    pub fn version(&self, id: ValueId) -> Option<Version> {
        let mut number = 0;
        let mut at = id;
        loop {
            match self.value(at).def {
                Def::State { slot, part } => return Some(Version { slot, part, number }),
                Def::Node { node, output } => {
                    let node = self.node(node);
                    if !matches!(node.op, Op::StateWrite(_)) {
                        return None;
                    }
                    at = node.operand(output)?;
                    number += 1;
                }
                _ => return None,
            }
        }
    }

    /// How many positions back, its own included, any read of a state looks; `None` if one looks at all of them.
    pub fn window(&self, slot: SlotId) -> Option<u64> {
        let reads = self.nodes.iter().filter_map(|node| match &node.op {
            Op::Attention(op) => node.operand(Attention::K).and_then(|k| self.version(k)).map(|of| (of.slot, op.mask)),
            _ => None,
        });
        let windows = reads.filter(|(of, _)| *of == slot).map(|(_, mask)| match mask {
            AttentionMask::Sliding(window) => Some(window),
            AttentionMask::Causal | AttentionMask::Bidirectional | AttentionMask::Band { .. } => None,
        });
        windows.reduce(|a, b| Some(a?.max(b?))).unwrap_or(Some(0))
    }

    /// The last version of every part of every state: what is retained.
    pub fn retained(&self) -> Vec<Vec<ValueId>> {
        let mut last: Vec<Vec<ValueId>> = self.states.iter().map(|state| state.parts.clone()).collect();
        for node in &self.nodes {
            if matches!(node.op, Op::StateWrite(_)) {
                for &output in &node.outputs {
                    if let Some(version) = self.version(output) {
                        last[version.slot.index()][version.part] = output;
                    }
                }
            }
        }
        last
    }

    /// Symbols in order of first appearance in the declarations. Declarations whose value was taken away have none.
    pub fn symbols(&self) -> Vec<Symbol> {
        let (mut symbols, mut seen) = (vec![], HashSet::new());
        let mut add = |id: ValueId| {
            for dim in self.values.get(id.index()).iter().flat_map(|value| &value.ty.dims) {
                if let Dim::Symbol(symbol) = dim
                    && seen.insert(symbol)
                {
                    symbols.push(symbol.clone());
                }
            }
        };
        for declaration in &self.declarations {
            match *declaration {
                Declaration::Input(i) => self.inputs.get(i).into_iter().for_each(|input| add(input.value)),
                Declaration::State(slot) => self.state(slot).parts.iter().for_each(|&part| add(part)),
            }
        }
        symbols
    }

    // --- writing

    /// The handle of a scope path, made on first use.
    pub fn intern_scope(&mut self, path: &str) -> ScopeId {
        if let Some(&id) = self.scope_ids.get(path) {
            return id;
        }
        let id = ScopeId(self.scopes.len() as u32);
        self.scopes.push(path.to_owned());
        self.scope_ids.insert(path.to_owned(), id);
        id
    }

    /// Declares an input.
    pub fn add_input(&mut self, name: impl Into<String>, role: Role, ty: Type) -> ValueId {
        let index = self.inputs.len();
        let value = self.push_value(ty, Def::Input(index));
        self.inputs.push(Input { name: name.into(), role, value });
        self.declarations.push(Declaration::Input(index));
        value
    }

    /// Takes an input away that no node uses any more. Its value stays in the arena, for nobody to use.
    pub fn remove_input(&mut self, index: usize) {
        if index >= self.inputs.len() {
            return;
        }
        self.inputs.remove(index);
        self.declarations.retain(|declaration| *declaration != Declaration::Input(index));
        for declaration in &mut self.declarations {
            if let Declaration::Input(i) = declaration
                && *i > index
            {
                *i -= 1;
            }
        }
        for value in &mut self.values {
            if let Def::Input(i) = &mut value.def
                && *i > index
            {
                *i -= 1;
            }
        }
    }

    /// Declares a state with parts of the given names and types.
    pub fn add_state(&mut self, slot: impl Into<String>, kind: StateKind, parts: Vec<(String, Type)>) -> SlotId {
        let id = SlotId(self.states.len() as u32);
        let (names, types): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let parts = types
            .into_iter()
            .enumerate()
            .map(|(part, ty)| self.push_value(ty, Def::State { slot: id, part }))
            .collect();
        self.states.push(State { slot: slot.into(), kind, names, parts });
        self.declarations.push(Declaration::State(id));
        id
    }

    /// The value of a weight expression of a known shape; equal expressions are one value.
    pub fn add_weight(&mut self, expr: WeightExpr, ty: Type) -> ValueId {
        let key = format!("{}:{expr}", ty.elem);
        if let Some(&id) = self.weight_ids.get(&key) {
            return id;
        }
        let id = self.push_value(ty, Def::Weight(expr));
        self.weight_ids.insert(key, id);
        id
    }

    /// Replaces the expression of a weight by another of the given shape.
    pub fn set_weight(&mut self, id: ValueId, expr: WeightExpr, shape: &[u64]) {
        let elem = self.ty(id).elem;
        self.weight_ids.retain(|_, other| *other != id);
        self.weight_ids.insert(format!("{elem}:{expr}"), id);
        self.values[id.index()] = ValueData { ty: Type::weight(shape).with_elem(elem), def: Def::Weight(expr) };
    }

    /// Appends a node whose results have the given types.
    pub fn add_node(&mut self, scope: ScopeId, op: Op, mut operands: Vec<Option<ValueId>>, types: Vec<Type>) -> NodeId {
        while operands.last() == Some(&None) {
            operands.pop();
        }
        let id = NodeId(self.nodes.len() as u32);
        let outputs = types
            .into_iter()
            .enumerate()
            .map(|(output, ty)| self.push_value(ty, Def::Node { node: id, output }))
            .collect();
        self.nodes.push(Node { op, scope, operands, outputs });
        id
    }

    /// Names an output.
    pub fn add_output(&mut self, name: impl Into<String>, role: Role, value: ValueId) {
        self.outputs.push(Output { name: name.into(), role, value });
    }

    fn push_value(&mut self, ty: Type, def: Def) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(ValueData { ty, def });
        id
    }
}
