//! The builder: how a description is written.
//!
//! A [`Scope`] is a place in the checkpoint's module tree; its path is the prefix of weight names and of node names, so
//! nobody concatenates either. Parts of a model are plain functions that take a scope and values and return values.
//!
//! Every call checks types at once. The first mistake is kept with its scope and operator, later calls do nothing, and
//! [`GraphBuilder::finish`] returns it: a description needs no `?` on every line. A value of another builder is such a
//! mistake, caught where it enters.

mod error;
mod gguf;
mod ops;
mod slot;

pub use error::{BuildError, BuildErrorKind};
pub use gguf::{GgufLayout, GgufNames};
pub use slot::{Kv, Slot};

use std::cell::RefCell;

use crate::graph::{Dim, OnnxOp, Op, Program, Role, ScopeId, SlotId, StateKind, Type, ValueId};
use crate::infer::infer;
use crate::{Elem, TensorIndex, WeightExpr};

/// Builds one [`Program`]; see the module documentation.
pub struct GraphBuilder<'r> {
    index: &'r TensorIndex,
    /// Prefix of the base model that this checkpoint's names lack, with its dot.
    absent_prefix: Option<String>,
    /// Beginnings of names, and what they are in this checkpoint.
    renamed: &'r [(&'r str, &'r str)],
    /// Set if this checkpoint is a GGUF file.
    gguf: Option<&'r GgufNames<'r>>,
    state: RefCell<State>,
}

struct State {
    program: Program,
    /// Current version of every part of every slot.
    versions: Vec<Vec<ValueId>>,
    error: Option<BuildError>,
}

/// A value of the graph under construction.
#[derive(Clone, Copy)]
pub struct Value<'g> {
    pub(crate) builder: &'g GraphBuilder<'g>,
    /// `None` once the description has failed.
    pub(crate) id: Option<ValueId>,
}

/// A place in the module tree.
#[derive(Clone, Copy)]
pub struct Scope<'g> {
    builder: &'g GraphBuilder<'g>,
    id: ScopeId,
}

/// A step down the module tree: `"mlp"`, `"attn.self"` or `("layers", 3)`.
pub trait Segment {
    /// The path text of the step.
    fn text(&self) -> String;
}

impl Segment for &str {
    fn text(&self) -> String {
        (*self).to_owned()
    }
}

impl Segment for String {
    fn text(&self) -> String {
        self.clone()
    }
}

impl Segment for (&str, u64) {
    fn text(&self) -> String {
        format!("{}.{}", self.0, self.1)
    }
}

impl<'r> GraphBuilder<'r> {
    /// A builder over the tensors of a checkpoint.
    pub fn new(program: &str, index: &'r TensorIndex) -> Self {
        let mut program = Program::new(program);
        program.intern_scope("");
        let state = RefCell::new(State { program, versions: vec![], error: None });
        GraphBuilder { index, absent_prefix: None, renamed: &[], gguf: None, state }
    }

    /// A builder that goes on where a program ends, over the tensors of its checkpoint: for pooling heads and rewrites.
    pub fn resume(program: Program, index: &'r TensorIndex) -> Self {
        let versions = program.retained();
        let state = RefCell::new(State { program, versions, error: None });
        GraphBuilder { index, absent_prefix: None, renamed: &[], gguf: None, state }
    }

    /// Says that tensors live under `prefix`, except in files saved from the base model alone, which leave it out: if no
    /// tensor begins with it, names are looked up without.
    pub fn base_prefix(mut self, prefix: &str) -> Self {
        let prefix = format!("{prefix}.");
        self.absent_prefix = (!self.index.has_prefix(&prefix)).then_some(prefix);
        self
    }

    /// Says that tensors whose name begins as the first of a pair are stored under a name that begins as the second.
    pub fn renamed(mut self, names: &'r [(&'r str, &'r str)]) -> Self {
        self.renamed = names;
        self
    }

    /// Says how GGUF files call the tensors; without effect on other checkpoints.
    pub fn gguf(mut self, names: &'r GgufNames<'r>) -> Self {
        self.gguf = GgufNames::fit(self.index).then_some(names);
        self
    }

    /// The program, if nothing went wrong.
    ///
    /// # Errors
    /// The first mistake.
    pub fn finish(self) -> Result<Program, BuildError> {
        let state = self.state.into_inner();
        match state.error {
            None => Ok(state.program),
            Some(error) => Err(error),
        }
    }

    /// A tensor by the name that the description uses.
    fn stored(&self, name: &str) -> WeightExpr {
        let elsewhere = self.gguf.and_then(|names| names.expr(name, self.index));
        let renamed = || self.renamed.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
        elsewhere.unwrap_or_else(|| WeightExpr::tensor(renamed().unwrap_or_else(|| self.stored_name(name).to_owned())))
    }

    fn stored_name<'n>(&self, name: &'n str) -> &'n str {
        match &self.absent_prefix {
            Some(prefix) => name.strip_prefix(prefix.as_str()).unwrap_or(name),
            None => name,
        }
    }

    /// What is wrong with an expression over integers.
    fn integers(&self, expr: &WeightExpr) -> Option<BuildErrorKind> {
        let mut found = None;
        expr.for_each_source(&mut |name| {
            let dtype = self.index.get(name).map(|info| info.dtype).filter(|dtype| !dtype.is_float());
            found = found.take().or(dtype.map(|dtype| BuildErrorKind::Integers { tensor: name.to_owned(), dtype }));
        });
        found
    }

    fn fail(&self, scope: ScopeId, kind: BuildErrorKind) {
        let mut state = self.state.borrow_mut();
        if state.error.is_none() {
            let scope = state.program.scope_path(scope).to_owned();
            state.error = Some(BuildError { scope, kind });
        }
    }
}

impl<'g> GraphBuilder<'g> {
    /// The top of the module tree.
    pub fn root(&'g self) -> Scope<'g> {
        let id = self.state.borrow_mut().program.intern_scope("");
        Scope { builder: self, id }
    }

    /// A place in the module tree.
    pub fn at(&'g self, path: impl Segment) -> Scope<'g> {
        self.root().at(path)
    }

    /// Declares an input.
    pub fn input(&'g self, name: &str, role: Role, elem: Elem, dims: impl IntoIterator<Item = Dim>) -> Value<'g> {
        let id = self.state.borrow_mut().program.add_input(name, role, Type::new(elem, dims));
        Value { builder: self, id: Some(id) }
    }

    /// Declares `input_ids: i64[batch_size, seq_len]`.
    pub fn tokens(&'g self) -> Value<'g> {
        self.input("input_ids", Role::Tokens, Elem::I64, ["batch_size".into(), "seq_len".into()])
    }

    /// Declares `position_ids: i64[batch_size, seq_len]`.
    pub fn positions(&'g self) -> Value<'g> {
        self.input("position_ids", Role::Positions, Elem::I64, ["batch_size".into(), "seq_len".into()])
    }

    /// Declares `attention_mask: i64[batch_size, seq_len]`, which is 1 for a token and 0 for padding.
    pub fn attention_mask(&'g self) -> Value<'g> {
        self.input("attention_mask", Role::Mask, Elem::I64, ["batch_size".into(), "seq_len".into()])
    }

    /// A value that the program had when it was [resumed](GraphBuilder::resume).
    pub fn existing(&'g self, id: ValueId) -> Value<'g> {
        Value { builder: self, id: Some(id) }
    }

    /// Declares a state: what its rows mean, and name and type of each part.
    pub fn state(&'g self, slot: &str, kind: StateKind, parts: impl IntoIterator<Item = (String, Type)>) -> Slot<'g> {
        let mut state = self.state.borrow_mut();
        let id = state.program.add_state(slot, kind, parts.into_iter().collect());
        let versions = state.program.state(id).parts.clone();
        state.versions.push(versions);
        Slot { builder: self, id }
    }

    /// Declares one key-value slot a layer.
    pub fn kv_all(&'g self, layers: u64, kv: Kv) -> Vec<Slot<'g>> {
        (0..layers).map(|layer| self.kv(layer, kv)).collect()
    }

    /// Declares the key-value slot of a layer: `past_key.{layer}`, `past_value.{layer}`. Rows of a rolling slot run along
    /// `sliding_window`, those of a full one along `ctx_len`.
    pub fn kv(&'g self, layer: u64, kv: Kv) -> Slot<'g> {
        let rows = match kv.kind {
            StateKind::Rolling => "sliding_window",
            _ => "ctx_len",
        };
        let dims =
            |dim: u64| Type::new(Elem::Act, ["batch_size".into(), Dim::Fixed(kv.heads), rows.into(), Dim::Fixed(dim)]);
        let parts =
            vec![(format!("past_key.{layer}"), dims(kv.key_dim)), (format!("past_value.{layer}"), dims(kv.value_dim))];
        self.state(&format!("kv.{layer}"), kv.kind, parts)
    }

    /// Names an output.
    pub fn output(&'g self, name: &str, role: Role, value: Value<'g>) {
        let Some(id) = self.root().admit(value) else { return };
        self.state.borrow_mut().program.add_output(name, role, id);
    }

    pub(crate) fn current(&self, slot: SlotId) -> Vec<ValueId> {
        self.state.borrow().versions[slot.index()].clone()
    }

    pub(crate) fn advance(&self, slot: SlotId, versions: Vec<ValueId>) {
        self.state.borrow_mut().versions[slot.index()] = versions;
    }
}

impl<'g> Scope<'g> {
    /// A place further down.
    pub fn at(self, step: impl Segment) -> Scope<'g> {
        let mut state = self.builder.state.borrow_mut();
        let path = match state.program.scope_path(self.id) {
            "" => step.text(),
            path => format!("{path}.{}", step.text()),
        };
        let id = state.program.intern_scope(&path);
        drop(state);
        Scope { builder: self.builder, id }
    }

    /// The path, e.g. `model.layers.3.mlp`.
    pub fn path(self) -> String {
        self.builder.state.borrow().program.scope_path(self.id).to_owned()
    }

    /// The path of `leaf` beside this scope; of the enclosing scope if `leaf` is empty.
    pub(crate) fn beside(self, leaf: &str) -> String {
        let path = self.path();
        let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
        match (parent, leaf) {
            (parent, "") => parent.to_owned(),
            ("", leaf) => leaf.to_owned(),
            (parent, leaf) => format!("{parent}.{leaf}"),
        }
    }

    /// The builder this scope belongs to.
    pub(crate) fn builder(self) -> &'g GraphBuilder<'g> {
        self.builder
    }

    /// The stored tensor `leaf` of this scope as an expression.
    pub fn tensor(self, leaf: &str) -> WeightExpr {
        match self.path().as_str() {
            "" => self.named_tensor(leaf),
            path => self.named_tensor(&format!("{path}.{leaf}")),
        }
    }

    /// A stored tensor by its full name as an expression.
    pub(crate) fn named_tensor(self, name: &str) -> WeightExpr {
        self.builder.stored(name)
    }

    /// Whether the checkpoint has the tensor `leaf` of this scope.
    pub fn has_tensor(self, leaf: &str) -> bool {
        let mut there = true;
        self.tensor(leaf).for_each_source(&mut |name| there &= self.builder.index.contains(name));
        there
    }

    /// The value of a weight expression.
    pub fn weight(self, expr: WeightExpr) -> Value<'g> {
        self.weight_as(expr, Elem::Act)
    }

    /// The value of a weight expression in another type than that of activations.
    pub fn weight_as(self, expr: WeightExpr, elem: Elem) -> Value<'g> {
        let id = match expr.shape(self.builder.index) {
            Ok(shape) => {
                if let Some(kind) = self.builder.integers(&expr) {
                    self.builder.fail(self.id, kind);
                    return Value { builder: self.builder, id: None };
                }
                let expr = expr.simplified(self.builder.index);
                Some(self.builder.state.borrow_mut().program.add_weight(expr, Type::weight(&shape).with_elem(elem)))
            }
            Err(error) => {
                self.builder.fail(self.id, BuildErrorKind::Weight(error));
                None
            }
        };
        Value { builder: self.builder, id }
    }

    /// The value of a weight expression that must have the given shape, as the config says it has.
    pub fn weight_of_shape(self, expr: WeightExpr, expected: &[u64]) -> Value<'g> {
        match expr.shape(self.builder.index) {
            Ok(found) if found != expected => {
                let kind = BuildErrorKind::Shape { weight: expr.to_string(), expected: expected.to_vec(), found };
                self.builder.fail(self.id, kind);
                Value { builder: self.builder, id: None }
            }
            _ => self.weight(expr),
        }
    }

    /// Appends a node with one result of inferred type.
    pub fn node(self, op: Op, operands: &[Option<Value<'g>>]) -> Value<'g> {
        let mut outputs = self.nodes(op, operands);
        outputs.truncate(1);
        outputs.pop().unwrap_or(Value { builder: self.builder, id: None })
    }

    /// Appends a node; its results, none if the description has failed.
    pub fn nodes(self, op: Op, operands: &[Option<Value<'g>>]) -> Vec<Value<'g>> {
        self.append(op, operands, None)
    }

    /// Appends an ONNX node whose result types are stated by the author.
    pub fn onnx_typed(self, op: OnnxOp, operands: &[Option<Value<'g>>], types: Vec<Type>) -> Vec<Value<'g>> {
        self.append(Op::Onnx(op), operands, Some(types))
    }

    fn append(self, op: Op, operands: &[Option<Value<'g>>], stated: Option<Vec<Type>>) -> Vec<Value<'g>> {
        let mut ids = Vec::with_capacity(operands.len());
        for operand in operands {
            match operand {
                None => ids.push(None),
                Some(value) => match self.admit(*value) {
                    Some(id) => ids.push(Some(id)),
                    None => return vec![],
                },
            }
        }
        let mut state = self.builder.state.borrow_mut();
        let types = match stated {
            Some(types) => Ok(types),
            None => {
                let operands: Vec<_> = ids.iter().map(|id| id.map(|id| state.program.ty(id))).collect();
                infer(&op, &operands)
            }
        };
        match types {
            Ok(types) => {
                let node = state.program.add_node(self.id, op, ids, types);
                let outputs = state.program.node(node).outputs.clone();
                drop(state);
                outputs.into_iter().map(|id| Value { builder: self.builder, id: Some(id) }).collect()
            }
            Err(mismatch) => {
                drop(state);
                self.builder.fail(self.id, BuildErrorKind::Mismatch { op: op.name().to_owned(), mismatch });
                vec![]
            }
        }
    }

    /// The handle of a value, if it belongs to this graph and the description has not failed.
    fn admit(self, value: Value<'g>) -> Option<ValueId> {
        if !std::ptr::eq(self.builder, value.builder) {
            self.builder.fail(self.id, BuildErrorKind::ForeignValue);
            return None;
        }
        value.id
    }
}

impl Value<'_> {
    /// Type of the value, `None` once the description has failed.
    pub fn ty(self) -> Option<Type> {
        let state = self.builder.state.borrow();
        self.id.map(|id| state.program.ty(id).clone())
    }
}
