//! A model to bytes.

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;
use serde_json::{Map, Value as Json, json};

use super::attrs::{Writer, attributes};
use super::{DOMAIN, DOMAIN_VERSION, IR_VERSION, ONNX_OPSET, SCHEMA};
use crate::Elem;
use crate::graph::{Declaration, Dim, Model, Node, Op, Program, StateKind, Type, ValueId};
use crate::infer::infer;
use crate::onnx::{
    self, AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_type, tensor_shape_proto, type_proto,
};

/// The wire form of a model; equal models give equal bytes.
pub fn encode(model: &Model) -> Vec<u8> {
    let mut metadata = vec![
        entry("qeff.schema", SCHEMA.to_string()),
        entry("qeff.architecture", model.architecture.clone()),
        entry("qeff.task", model.task.name().to_owned()),
    ];
    if let Some(limit) = model.positions {
        let kind = if limit.hard { "hard" } else { "trained" };
        metadata.push(entry("qeff.positions", format!("{} {kind}", limit.trained)));
    }
    if !model.stale_tensors.is_empty() {
        metadata.push(entry("qeff.stale_tensors", json!(model.stale_tensors).to_string()));
    }
    if !model.links.is_empty() {
        let link = |(program, name): &(String, String)| json!([program, name]);
        let links: Vec<_> = model.links.iter().map(|l| json!({"from": link(&l.from), "to": link(&l.to)})).collect();
        metadata.push(entry("qeff.links", Json::Array(links).to_string()));
    }
    let graph = match model.programs.as_slice() {
        [only] => graph(only),
        programs => GraphProto {
            name: "programs".to_owned(),
            node: programs.iter().map(program_node).collect(),
            ..Default::default()
        },
    };
    let proto = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "qeff".to_owned(),
        graph: Some(graph),
        opset_import: opsets(model),
        metadata_props: metadata,
        ..Default::default()
    };
    proto.encode_to_vec()
}

fn opsets(model: &Model) -> Vec<OperatorSetIdProto> {
    let mut versions = BTreeMap::from([("", ONNX_OPSET), (DOMAIN, model.since())]);
    for (_, node) in model.programs.iter().flat_map(Program::nodes) {
        if let Op::Onnx(op) = &node.op {
            versions.entry(&op.domain).or_insert(1);
        }
    }
    debug_assert!(versions[DOMAIN] <= DOMAIN_VERSION);
    versions.into_iter().map(|(domain, version)| OperatorSetIdProto { domain: domain.to_owned(), version }).collect()
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_owned(), value }
}

fn program_node(program: &Program) -> NodeProto {
    let body = AttributeProto {
        name: "body".to_owned(),
        r#type: attribute_type::GRAPH,
        g: Some(graph(program)),
        ..Default::default()
    };
    NodeProto {
        name: program.name.clone(),
        op_type: "Program".to_owned(),
        domain: DOMAIN.to_owned(),
        attribute: vec![body],
        ..Default::default()
    }
}

/// The graph of one program.
fn graph(program: &Program) -> GraphProto {
    let mut e = Encoder { program, names: Names::new(program), f32: vec![], out: GraphProto::default() };
    e.out.name = program.name.clone();
    e.declarations();
    e.weights();
    for (number, (_, node)) in program.nodes().enumerate() {
        e.node(number, node);
    }
    e.outputs();
    e.metadata();
    e.out
}

/// Wire names of values. Node results are numbered in file order, so the bytes do not depend on the arena's history.
struct Names(Vec<Option<String>>);

impl Names {
    fn new(program: &Program) -> Self {
        let mut names = vec![None; program.values().len()];
        let mut set = |id: ValueId, name: String| {
            if let Some(slot) = names.get_mut(id.index()) {
                *slot = Some(name);
            }
        };
        for input in &program.inputs {
            set(input.value, input.name.clone());
        }
        for (_, state) in program.states() {
            for (&part, name) in state.parts.iter().zip(&state.names) {
                set(part, name.clone());
            }
        }
        let mut known = HashMap::new();
        for (id, expr) in program.weights() {
            let number = known.len();
            let key = format!("{}:{expr}", program.ty(id).elem);
            let name = known.entry(key).or_insert_with(|| {
                let mut first = None;
                expr.for_each_source(&mut |source| first = first.or(Some(source)));
                // Named for the reader; the number makes it unique, and the expression is what counts.
                format!("{}#{number}", first.unwrap_or("table"))
            });
            set(id, name.clone());
        }
        let outputs = program.nodes().flat_map(|(_, node)| node.outputs.iter().copied());
        for (number, id) in outputs.enumerate() {
            set(id, format!("%{number}"));
        }
        Names(names)
    }

    fn get(&self, id: ValueId) -> String {
        // A handle of another program is a mistake that the reader reports.
        self.0.get(id.index()).cloned().flatten().unwrap_or_else(|| "%?".to_owned())
    }
}

struct Encoder<'p> {
    program: &'p Program,
    names: Names,
    /// Names of values whose elements are f32 whatever the activation type is.
    f32: Vec<String>,
    out: GraphProto,
}

impl Encoder<'_> {
    fn declarations(&mut self) {
        let (mut before, total) = (0, self.program.inputs.len() as i64);
        for declaration in self.program.declarations() {
            match *declaration {
                Declaration::Input(index) => {
                    before += 1;
                    let id = self.program.inputs[index].value;
                    let value = self.stated(self.names.get(id), id);
                    self.out.input.push(value);
                }
                Declaration::State(slot) => {
                    let state = self.program.state(slot);
                    let mut attributes = Writer::default();
                    attributes.text("slot", &state.slot);
                    if state.kind != StateKind::Full {
                        attributes.text("kind", state.kind.name());
                    }
                    if before != total {
                        attributes.int("inputs_before", before);
                    }
                    self.out.node.push(NodeProto {
                        name: state.slot.clone(),
                        op_type: "State".to_owned(),
                        domain: DOMAIN.to_owned(),
                        output: state.parts.iter().map(|&part| self.names.get(part)).collect(),
                        attribute: attributes.finish(),
                        ..Default::default()
                    });
                    for &part in &state.parts {
                        let value = self.stated(self.names.get(part), part);
                        self.out.value_info.push(value);
                    }
                }
            }
        }
    }

    fn weights(&mut self) {
        let mut done = std::collections::HashSet::new();
        for (id, expr) in self.program.weights() {
            let name = self.names.get(id);
            if !done.insert(name.clone()) {
                continue;
            }
            let ty = self.program.ty(id);
            self.note_f32(&name, ty);
            self.out.initializer.push(TensorProto {
                dims: ty.dims.iter().map(|dim| dim.fixed().unwrap_or(0) as i64).collect(),
                data_type: onnx::data_type(ty.dtype(self.program.act)),
                name,
                external_data: vec![entry("location", "checkpoint".to_owned()), entry("qeff.weight", expr.to_string())],
                data_location: onnx::EXTERNAL,
                ..Default::default()
            });
        }
    }

    fn node(&mut self, number: usize, node: &Node) {
        let (domain, op_type) = match &node.op {
            Op::Onnx(op) => (op.domain.as_str(), op.op_type.as_str()),
            op => (DOMAIN, op.name()),
        };
        self.out.node.push(NodeProto {
            name: format!("{}/{op_type}_{number}", self.program.scope_path(node.scope)),
            op_type: op_type.to_owned(),
            domain: domain.to_owned(),
            input: node.operands.iter().map(|id| id.map_or(String::new(), |id| self.names.get(id))).collect(),
            output: node.outputs.iter().map(|&id| self.names.get(id)).collect(),
            attribute: attributes(&node.op),
        });
        if matches!(node.op, Op::Onnx(_)) && !self.is_inferred(node) {
            for &id in &node.outputs {
                let value = self.stated(self.names.get(id), id);
                self.out.value_info.push(value);
            }
        }
    }

    /// Whether a reader will find the types of a node's results by itself.
    fn is_inferred(&self, node: &Node) -> bool {
        let ty = |id: ValueId| self.program.contains(id).then(|| self.program.ty(id));
        let operands: Vec<_> = node.operands.iter().map(|id| id.and_then(ty)).collect();
        infer(&node.op, &operands).is_ok_and(|types| types.iter().eq(node.outputs.iter().filter_map(|&id| ty(id))))
    }

    fn outputs(&mut self) {
        for output in &self.program.outputs {
            self.out.node.push(NodeProto {
                op_type: "Output".to_owned(),
                domain: DOMAIN.to_owned(),
                input: vec![self.names.get(output.value)],
                output: vec![output.name.clone()],
                ..Default::default()
            });
            if self.program.contains(output.value) {
                let value = self.stated(output.name.clone(), output.value);
                self.out.output.push(value);
            }
        }
    }

    fn metadata(&mut self) {
        let inputs = self.program.inputs.iter().map(|input| (input.name.clone(), json!(input.role.name())));
        let outputs = self.program.outputs.iter().map(|output| (output.name.clone(), json!(output.role.name())));
        let (inputs, outputs): (Map<_, _>, Map<_, _>) = (inputs.collect(), outputs.collect());
        let roles = json!({"inputs": inputs, "outputs": outputs}).to_string();
        self.out.metadata_props =
            vec![entry("qeff.act", self.program.act.name().to_owned()), entry("qeff.roles", roles)];
        if !self.f32.is_empty() {
            self.out.metadata_props.push(entry("qeff.f32", json!(self.f32).to_string()));
        }
    }

    fn note_f32(&mut self, name: &str, ty: &Type) {
        if ty.elem == Elem::F32 {
            self.f32.push(name.to_owned());
        }
    }

    fn stated(&mut self, name: String, id: ValueId) -> ValueInfoProto {
        let ty = self.program.ty(id);
        self.note_f32(&name, ty);
        let dim = |dim: &Dim| tensor_shape_proto::Dimension {
            value: Some(match dim {
                Dim::Fixed(n) => tensor_shape_proto::dimension::Value::DimValue(*n as i64),
                Dim::Symbol(symbol) => tensor_shape_proto::dimension::Value::DimParam(symbol.name().to_owned()),
            }),
        };
        let tensor = type_proto::Tensor {
            elem_type: onnx::data_type(ty.dtype(self.program.act)),
            shape: Some(TensorShapeProto { dim: ty.dims.iter().map(dim).collect() }),
        };
        let value = Some(type_proto::Value::TensorType(tensor));
        ValueInfoProto { name, r#type: Some(TypeProto { value }) }
    }
}
