//! Writes nodes of a lowered graph: names, constants, weights, and the bookkeeping between value handles and names.
//!
//! Names follow from places: node `/model/layers.3/self_attn/MatMul_1` is the second MatMul of that scope, so names are
//! stable under changes elsewhere and mean the same in a diff, in Netron and in a compiler's list. Counters are per scope.

use std::collections::{HashMap, HashSet};

use half::bf16;
use qeff_plugin_api::graph::{
    AttrValue, Declaration, Dim, Node, OnnxOp, Program, Role, ScopeId, SlotId, StateKind, Type, ValueId,
};
use qeff_plugin_api::onnx::{
    AttributeProto, GraphProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_type, data_type, tensor_shape_proto, type_proto,
};
use qeff_plugin_api::{DType, Elem, WeightExpr};

use super::quantised::{Quantised, Tensors};
use super::{Initializer, LowerError, Lowered, Options, Target, WeightsAs, retained_name};
use crate::weights::clip;

/// Longest list of integers that is written as a constant.
const LONGEST_LIST: u64 = 1024;

/// An attribute of a node.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attr<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
    To(DType),
}

pub(super) struct Writer<'a> {
    pub(super) program: &'a Program,
    pub(super) tensors: Tensors<'a>,
    pub(super) target: Target,
    weights_as: WeightsAs<'a>,
    zeros: &'a [Role],
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    constant_names: HashSet<String>,
    weights: Vec<Initializer>,
    /// Where each expression was put: the name of an initializer, or of what nodes make of initializers.
    weight_names: HashMap<String, String>,
    /// Names that no further weight may have.
    taken: HashSet<String>,
    counters: HashMap<(String, String), u32>,
    names: HashMap<ValueId, String>,
    /// Names that the file's interface fixes: outputs and retained states.
    ports: HashMap<ValueId, String>,
    /// Results made once for several users, by what they mean.
    shared: HashMap<String, String>,
    /// Nodes of the scope that layers share, by what they compute: none is written twice.
    shared_nodes: HashMap<String, String>,
    sharing: bool,
    /// Scope of nodes that layers share: the first segment of the first node's path.
    top: String,
    /// Scope of the node being lowered.
    scope: String,
    /// What became of quantised weights.
    pub(super) quantised: Quantised,
}

impl<'a> Writer<'a> {
    pub(super) fn new(program: &'a Program, tensors: Tensors<'a>, options: Options<'a>) -> Self {
        let path = program.nodes().map(|(_, node)| program.scope_path(node.scope)).find(|path| !path.is_empty());
        let top = path.and_then(|path| path.split('.').next()).unwrap_or("").to_owned();
        let mut writer = Writer {
            program,
            tensors,
            target: options.target,
            weights_as: options.weights,
            zeros: options.zeros,
            nodes: vec![],
            constants: vec![],
            constant_names: HashSet::new(),
            weights: vec![],
            weight_names: HashMap::new(),
            taken: HashSet::new(),
            counters: HashMap::new(),
            names: HashMap::new(),
            ports: HashMap::new(),
            shared: HashMap::new(),
            shared_nodes: HashMap::new(),
            sharing: false,
            top,
            scope: String::new(),
            quantised: Quantised::default(),
        };
        for input in &program.inputs {
            let name = if writer.zeros.contains(&input.role) { writer.int(0) } else { input.name.clone() };
            writer.names.insert(input.value, name);
        }
        for (_, state) in program.states() {
            for (&part, name) in state.parts.iter().zip(&state.names) {
                writer.names.insert(part, name.clone());
            }
        }
        for ((_, state), last) in program.states().zip(program.retained()) {
            for (&version, name) in last.iter().zip(&state.names) {
                writer.ports.insert(version, retained_name(name));
            }
        }
        for output in &program.outputs {
            // A value that is put out twice is named by its first output; `finish` copies it for the others.
            writer.ports.entry(output.value).or_insert_with(|| output.name.clone());
        }
        writer.taken.extend(writer.names.values().chain(writer.ports.values()).cloned());
        writer
    }

    /// Makes `scope` the place of the nodes that follow.
    pub(super) fn enter(&mut self, scope: ScopeId) {
        self.scope = self.program.scope_path(scope).to_owned();
    }

    pub(super) fn refuse(&self, node: &Node, why: impl Into<String>) -> LowerError {
        let node = format!("{} in {}", node.op.name(), self.program.scope_path(node.scope));
        LowerError { target: self.target.name(), node, why: why.into() }
    }

    // --- values

    /// The name of a value; a weight becomes an initializer called after `operand` of the current scope.
    pub(super) fn operand(&mut self, value: ValueId, operand: &str) -> String {
        match self.program.weight(value) {
            Some(expr) => {
                let elem = self.program.ty(value).elem;
                self.note_plain_use(expr);
                self.weight(expr.clone(), elem, operand)
            }
            None => self.name(value),
        }
    }

    /// The name of a value that is no weight.
    pub(super) fn name(&self, value: ValueId) -> String {
        self.names.get(&value).cloned().unwrap_or_else(|| unreachable!("{value:?} is used before it is lowered"))
    }

    /// Gives a value the name of what was made for it.
    pub(super) fn bind(&mut self, value: ValueId, name: String) {
        self.names.insert(value, name);
    }

    /// Whether anything uses a value.
    pub(super) fn is_used(&self, value: ValueId) -> bool {
        self.ports.contains_key(&value) || self.program.nodes().any(|(_, node)| node.operands.contains(&Some(value)))
    }

    /// The value of an expression in the type that `elem` is here. A number without axes and a short list of equal integers
    /// are constants.
    pub(super) fn weight(&mut self, expr: WeightExpr, elem: Elem, operand: &str) -> String {
        let expr = expr.simplified(self.tensors.index);
        if let WeightExpr::Fill { value, shape } = &expr {
            match shape[..] {
                [] => return self.scalar_in(elem.resolve(self.program.act), *value),
                [count] if elem == Elem::I64 && count <= LONGEST_LIST => {
                    return self.ints(&vec![*value as i64; count as usize]);
                }
                _ => {}
            }
        }
        self.tensor(expr, elem.resolve(self.program.act), operand)
    }

    /// The value of an expression in a stored type. If it is new, it is an initializer called `{scope}.{operand}`, or nodes
    /// over initializers.
    pub(super) fn tensor(&mut self, expr: WeightExpr, dtype: DType, operand: &str) -> String {
        let expr = expr.simplified(self.tensors.index);
        let key = format!("{dtype}:{expr}");
        if let Some(name) = self.weight_names.get(&key) {
            return name.clone();
        }
        let name = match self.weights_as {
            WeightsAs::Stored { usable, runs } if self.is_made_by_nodes(&expr, dtype, usable, runs) => {
                self.make_by_nodes(&expr, dtype, operand)
            }
            _ => {
                let name = self.scoped(operand);
                self.initializer(expr, dtype, name)
            }
        };
        self.weight_names.insert(key, name.clone());
        name
    }

    /// `{scope}.{operand}`.
    pub(super) fn scoped(&self, operand: &str) -> String {
        if self.scope.is_empty() { operand.to_owned() } else { format!("{}.{operand}", self.scope) }
    }

    /// A new initializer, called `base` if that is free.
    pub(super) fn initializer(&mut self, expr: WeightExpr, dtype: DType, base: String) -> String {
        let shape = expr.shape(self.tensors.index).unwrap_or_else(|error| unreachable!("a valid program: {error}"));
        let mut name = base.clone();
        let mut k = 0;
        while !self.taken.insert(name.clone()) {
            k += 1;
            name = format!("{base}_{k}");
        }
        self.weights.push(Initializer { name: name.clone(), expr, dtype, shape });
        name
    }

    // --- constants: small, shared, named by what they are

    /// A number in the type of activations.
    pub(super) fn scalar(&mut self, value: f32) -> String {
        self.scalar_in(self.program.act, value)
    }

    fn scalar_in(&mut self, dtype: DType, value: f32) -> String {
        let bytes = match dtype {
            DType::F16 => clip(value).to_le_bytes().to_vec(),
            DType::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        };
        let dtype = if matches!(dtype, DType::F16 | DType::BF16) { dtype } else { DType::F32 };
        let name =
            if value.is_finite() { format!("const_{dtype}_{value:e}") } else { format!("const_{dtype}_{value}") };
        self.constant(name, data_type(dtype), vec![], bytes)
    }

    /// A 0-dimensional integer.
    pub(super) fn int(&mut self, value: i64) -> String {
        self.constant(format!("const_i64_{value}"), data_type(DType::I64), vec![], value.to_le_bytes().to_vec())
    }

    /// A 1-dimensional list of integers.
    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        let text: Vec<_> = values.iter().map(i64::to_string).collect();
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dims = vec![values.len() as i64];
        self.constant(format!("const_i64s_{}", text.join("_")), data_type(DType::I64), dims, bytes)
    }

    fn constant(&mut self, name: String, data_type: i32, dims: Vec<i64>, bytes: Vec<u8>) -> String {
        if self.constant_names.insert(name.clone()) {
            let tensor =
                TensorProto { dims, data_type, name: name.clone(), raw_data: Some(bytes), ..TensorProto::default() };
            self.constants.push(tensor);
        }
        name
    }

    // --- nodes

    /// A standard node with one result in the current scope.
    pub(super) fn node(&mut self, op: &str, inputs: &[&str], attrs: &[(&str, Attr<'_>)]) -> String {
        self.node_in("", op, inputs, attrs, None)
    }

    /// A node whose result is a value of the program, so that an output of the file keeps its fixed name.
    pub(super) fn node_for(
        &mut self,
        value: ValueId,
        domain: &str,
        op: &str,
        inputs: &[&str],
        attrs: &[(&str, Attr<'_>)],
    ) {
        let name = self.node_in(domain, op, inputs, attrs, Some(value));
        self.bind(value, name);
    }

    pub(super) fn node_in(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        attrs: &[(&str, Attr<'_>)],
        value: Option<ValueId>,
    ) -> String {
        let attribute: Vec<_> = attrs.iter().map(|(key, attr)| attribute(key, attr)).collect();
        let computes = (self.sharing && value.is_none()).then(|| format!("{domain}::{op}{inputs:?}{attribute:?}"));
        if let Some(name) = computes.as_ref().and_then(|key| self.shared_nodes.get(key)) {
            return name.clone();
        }
        let name = self.node_name(op);
        let fixed = value.and_then(|value| self.ports.get(&value).cloned());
        let output = fixed.unwrap_or_else(|| format!("{name}_output_0"));
        self.nodes.push(NodeProto {
            name,
            op_type: op.to_owned(),
            domain: domain.to_owned(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.clone()],
            attribute,
        });
        if let Some(key) = computes {
            self.shared_nodes.insert(key, output.clone());
        }
        output
    }

    /// A standard node with `count` results in the current scope.
    pub(super) fn node_with(
        &mut self,
        op: &str,
        inputs: &[&str],
        attrs: &[(&str, Attr<'_>)],
        count: usize,
    ) -> Vec<String> {
        let name = self.node_name(op);
        let output: Vec<_> = (0..count).map(|i| format!("{name}_output_{i}")).collect();
        self.nodes.push(NodeProto {
            name,
            op_type: op.to_owned(),
            domain: String::new(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: output.clone(),
            attribute: attrs.iter().map(|(key, attr)| attribute(key, attr)).collect(),
        });
        output
    }

    /// A raw ONNX operator of the program as it stands.
    pub(super) fn onnx(&mut self, node: &Node, op: &OnnxOp) {
        if let ("", "Constant", Some(AttrValue::Ints(ints)), [output]) =
            (op.domain.as_str(), op.op_type.as_str(), op.attrs.get("value_ints"), &node.outputs[..])
        {
            let name = self.ints(ints);
            return self.bind(*output, name);
        }
        // Operands of the standard operators that carry named weights; any other weight is called by its place.
        let names: &[&str] = match op.op_type.as_str() {
            "LayerNormalization" | "InstanceNormalization" | "Conv" => &["x", "weight", "bias"],
            _ => &[],
        };
        let mut input = Vec::with_capacity(node.operands.len());
        for (i, operand) in node.operands.iter().enumerate() {
            let place = names.get(i).map_or_else(|| format!("operand_{i}"), |name| (*name).to_owned());
            input.push(operand.map_or_else(String::new, |value| self.operand(value, &place)));
        }
        let name = self.node_name(&op.op_type);
        let mut output = Vec::with_capacity(node.outputs.len());
        for (i, &value) in node.outputs.iter().enumerate() {
            let text = self.ports.get(&value).cloned().unwrap_or_else(|| format!("{name}_output_{i}"));
            self.bind(value, text.clone());
            output.push(text);
        }
        let mut attrs = op.attrs.clone();
        // Axes of these became an operand between the operator sets of the two targets.
        let axes_are_operand = match (op.domain.as_str(), op.op_type.as_str()) {
            ("", "ReduceSum") => true,
            ("", "ReduceMean" | "ReduceMax" | "ReduceMin") => self.target == Target::Cpu,
            _ => false,
        };
        if axes_are_operand && let Some(AttrValue::Ints(axes)) = attrs.remove("axes") {
            input.push(self.ints(&axes));
        }
        let attribute = attrs.iter().map(|(key, value)| onnx_attribute(key, value)).collect();
        let (op_type, domain) = (op.op_type.clone(), op.domain.clone());
        self.nodes.push(NodeProto { name, op_type, domain, input, output, attribute });
    }

    /// The result of `make`, made once for each `key`; its nodes live in the scope that layers share.
    pub(super) fn shared(&mut self, key: String, make: impl FnOnce(&mut Self) -> String) -> String {
        if let Some(name) = self.shared.get(&key) {
            return name.clone();
        }
        let scope = std::mem::replace(&mut self.scope, self.top.clone());
        let sharing = std::mem::replace(&mut self.sharing, true);
        let name = make(self);
        self.scope = scope;
        self.sharing = sharing;
        self.shared.insert(key, name.clone());
        name
    }

    fn node_name(&mut self, op: &str) -> String {
        let path = node_path(&self.scope);
        let counter = self.counters.entry((path.clone(), op.to_owned())).or_insert(0);
        let name = if *counter == 0 { format!("{path}/{op}") } else { format!("{path}/{op}_{counter}") };
        *counter += 1;
        name
    }

    // --- steps that both targets write alike

    /// `Reshape` to a constant shape (0 keeps the operand's dimension, −1 follows from the others).
    pub(super) fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.ints(shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    /// `Transpose`.
    pub(super) fn transpose(&mut self, x: &str, perm: &[i64]) -> String {
        self.node("Transpose", &[x], &[("perm", Attr::Ints(perm))])
    }

    /// `Unsqueeze`.
    pub(super) fn unsqueeze(&mut self, x: &str, axes: &[i64]) -> String {
        let axes = self.ints(axes);
        self.node("Unsqueeze", &[x, &axes], &[])
    }

    /// Length of an axis, 0-dimensional.
    pub(super) fn dim(&mut self, x: &str, axis: i64) -> String {
        let shape = self.node("Shape", &[x], &[]);
        let axis = self.int(axis);
        self.node("Gather", &[&shape, &axis], &[])
    }

    /// The largest number of each row of `x[B, n]`: `[B, 1]`.
    pub(super) fn largest(&mut self, x: &str) -> String {
        match self.target {
            // Axes became an operand between the two operator sets.
            Target::Aic => self.node("ReduceMax", &[x], &[("axes", Attr::Ints(&[1])), ("keepdims", Attr::Int(1))]),
            Target::Cpu => {
                let axes = self.ints(&[1]);
                self.node("ReduceMax", &[x, &axes], &[("keepdims", Attr::Int(1))])
            }
        }
    }

    /// Sums along one axis, which goes.
    pub(super) fn sum(&mut self, x: &str, axis: i64) -> String {
        let axes = self.ints(&[axis]);
        self.node("ReduceSum", &[x, &axes], &[("keepdims", Attr::Int(0))])
    }

    /// Each head of `x[B, heads, L, width]` written `times` times in a row: `[B, heads · times, L, width]`.
    pub(super) fn repeat_heads(&mut self, x: &str, heads: u64, times: u64, width: u64) -> String {
        if times == 1 {
            return x.to_owned();
        }
        let x = self.unsqueeze(x, &[2]);
        // Expand broadcasts in both directions, so ones keep the other dimensions without reading their lengths.
        let shape = self.ints(&[1, 1, times as i64, 1, 1]);
        let x = self.node("Expand", &[&x, &shape], &[]);
        self.reshape(&x, &[0, (heads * times) as i64, -1, width as i64])
    }

    // --- the file

    /// Every (domain, operator) outside the standard domain that was written.
    pub(super) fn custom_ops(&self) -> Vec<(String, String)> {
        let mut ops: Vec<_> = self
            .nodes
            .iter()
            .filter(|node| !node.domain.is_empty())
            .map(|node| (node.domain.clone(), node.op_type.clone()))
            .collect();
        ops.sort();
        ops.dedup();
        ops
    }

    pub(super) fn finish(mut self, opsets: &[(&str, i64)], ir_version: i64) -> Lowered {
        let program = self.program;
        let retained = program.retained();
        // What a CPU program makes as a whole it need not be given, and what it leaves alone stays where the host has it.
        let moves = |slot: SlotId| {
            let state = program.state(slot);
            let written = retained[slot.index()] != state.parts;
            let cpu = self.target == Target::Cpu;
            (!(cpu && written && state.kind == StateKind::Fill), written || !cpu || state.kind.has_positions())
        };
        let mut input = vec![];
        for declaration in program.declarations() {
            match *declaration {
                Declaration::Input(i) if self.zeros.contains(&program.inputs[i].role) => {}
                Declaration::Input(i) => {
                    let port = &program.inputs[i];
                    input.push(value_info(&port.name, program.ty(port.value), program.act));
                }
                Declaration::State(slot) if !moves(slot).0 => {}
                Declaration::State(slot) => {
                    let state = program.state(slot);
                    for (&part, name) in state.parts.iter().zip(&state.names) {
                        input.push(value_info(name, program.ty(part), program.act));
                    }
                }
            }
        }
        let given: Vec<bool> = program.states().map(|(slot, _)| moves(slot).1).collect();
        let mut output = vec![];
        self.scope.clear();
        let mut put = |value: ValueId, name: &str| {
            self.put_out(value, name);
            output.push(value_info(name, program.ty(value), program.act));
        };
        // The reference's order: results, what rows of images a text has, how many of them were used, caches.
        let (counters, results): (Vec<_>, Vec<_>) = program.outputs.iter().partition(|port| port.role == Role::Carry);
        let states = program.states().zip(&retained).zip(given).filter(|(_, given)| *given);
        let states = states.flat_map(|(((_, state), last), _)| {
            last.iter().zip(&state.names).map(|(&version, name)| (state.kind, version, retained_name(name)))
        });
        let (rows, caches): (Vec<_>, Vec<_>) = states.partition(|(kind, _, _)| *kind == StateKind::Row);
        results.into_iter().for_each(|port| put(port.value, &port.name));
        rows.into_iter().for_each(|(_, version, name)| put(version, &name));
        counters.into_iter().for_each(|port| put(port.value, &port.name));
        caches.into_iter().for_each(|(_, version, name)| put(version, &name));
        let opset =
            |(domain, version): &(&str, i64)| OperatorSetIdProto { domain: (*domain).into(), version: *version };
        Lowered {
            graph: GraphProto {
                name: program.name.clone(),
                node: self.nodes,
                initializer: self.constants,
                input,
                output,
                ..GraphProto::default()
            },
            weights: self.weights,
            quantised: self.quantised,
            functions: vec![],
            opset_import: opsets.iter().map(opset).collect(),
            ir_version,
        }
    }

    /// Copies a value to an output's name where the node that made it could not take the name.
    fn put_out(&mut self, value: ValueId, name: &str) {
        let current = self.operand(value, "value");
        if current != name {
            let node = self.node_name("Identity");
            self.nodes.push(NodeProto {
                name: node,
                op_type: "Identity".into(),
                input: vec![current],
                output: vec![name.to_owned()],
                ..NodeProto::default()
            });
        }
    }
}

/// `model.layers.3.self_attn` → `/model/layers.3/self_attn`: an index stays with the name before it.
fn node_path(scope: &str) -> String {
    let mut path = String::new();
    for segment in scope.split('.').filter(|segment| !segment.is_empty()) {
        let index = segment.bytes().all(|byte| byte.is_ascii_digit());
        path.push(if index && !path.is_empty() { '.' } else { '/' });
        path.push_str(segment);
    }
    path
}

fn value_info(name: &str, ty: &Type, act: DType) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |dim: &Dim| Dimension {
        value: Some(match dim {
            Dim::Fixed(n) => Value::DimValue(*n as i64),
            Dim::Symbol(symbol) => Value::DimParam(symbol.name().to_owned()),
        }),
    };
    let shape = TensorShapeProto { dim: ty.dims.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: data_type(ty.dtype(act)), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(ty) }
}

fn attribute(name: &str, value: &Attr<'_>) -> AttributeProto {
    let base = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    match value {
        Attr::Int(i) => AttributeProto { r#type: attribute_type::INT, i: Some(*i), ..base },
        Attr::Float(f) => AttributeProto { r#type: attribute_type::FLOAT, f: Some(*f), ..base },
        Attr::Ints(ints) => AttributeProto { r#type: attribute_type::INTS, ints: ints.to_vec(), ..base },
        Attr::To(dtype) => AttributeProto { r#type: attribute_type::INT, i: Some(data_type(*dtype).into()), ..base },
    }
}

fn onnx_attribute(name: &str, value: &AttrValue) -> AttributeProto {
    match value {
        AttrValue::Int(i) => attribute(name, &Attr::Int(*i)),
        AttrValue::Float(f) => attribute(name, &Attr::Float(*f)),
        AttrValue::Ints(ints) => attribute(name, &Attr::Ints(ints)),
        AttrValue::DType(dtype) => attribute(name, &Attr::To(*dtype)),
        AttrValue::Text(text) => AttributeProto {
            name: name.to_owned(),
            r#type: attribute_type::STRING,
            s: Some(text.clone().into_bytes()),
            ..AttributeProto::default()
        },
    }
}
