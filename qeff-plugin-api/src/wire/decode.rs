//! Bytes to a model, believing nothing.

use std::collections::{HashMap, HashSet};

use prost::Message as _;
use serde_json::{Map, Value as Json};

use super::attrs::{Reader, operator};
use super::{
    DOMAIN, DOMAIN_VERSION, MAX_DIM, MAX_EXPRESSION, MAX_LINKS, MAX_NAME, MAX_NODES, MAX_PROGRAMS, MAX_RANK,
    ONNX_OPSET, SCHEMA, WireError, WireFault, shorten,
};
use crate::graph::{Dim, Link, Model, Op, PositionLimit, Program, Role, StateKind, Task, Type, ValueId};
use crate::infer::{Mismatch, infer};
use crate::onnx::{self, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto};
use crate::onnx::{tensor_shape_proto::dimension, type_proto};
use crate::{DType, Elem, TensorIndex, WeightExpr};

/// Reads a wire form; weights must fit `tensors`.
///
/// # Errors
/// If the bytes are too many, not ONNX, made for a later version, or describe something inconsistent; the error says
/// where.
pub fn decode(bytes: &[u8], tensors: &TensorIndex) -> Result<Model, WireError> {
    super::scan::scan(bytes)?;
    let proto = ModelProto::decode(bytes).map_err(|error| WireFault::NotOnnx(error.to_string()).at(""))?;
    let metadata = Metadata::new(&proto.metadata_props).map_err(|fault| fault.at("metadata"))?;
    versions(&proto, &metadata).map_err(|fault| fault.at(""))?;
    let mut model = model_metadata(&metadata).map_err(|fault| fault.at("metadata"))?;
    let Some(graph) = &proto.graph else { return Err(WireFault::NotOnnx("it has no graph".into()).at("")) };
    if graph.node.iter().any(|node| is_qeff(node, "Program")) {
        model.programs = programs(graph, tensors)?;
    } else {
        model.programs = vec![program(graph, tensors)?];
    }
    links(&model).map_err(|fault| fault.at("metadata `qeff.links`"))?;
    Ok(model)
}

fn is_qeff(node: &NodeProto, op_type: &str) -> bool {
    node.domain == DOMAIN && node.op_type == op_type
}

/// Refuses what a later qeff made, before anything of it is misread.
fn versions(proto: &ModelProto, metadata: &Metadata<'_>) -> Result<(), WireFault> {
    let schema: i64 = metadata.parsed("qeff.schema", "a whole number")?;
    let newer = |what: &str, needs: i64, has: i64| {
        if needs > has { Err(WireFault::Newer { what: what.to_owned(), needs, has }) } else { Ok(()) }
    };
    newer("the wire schema", schema, SCHEMA)?;
    if schema != SCHEMA {
        return Err(WireFault::expected("qeff.schema", SCHEMA.to_string(), schema.to_string()));
    }
    for opset in &proto.opset_import {
        match opset.domain.as_str() {
            DOMAIN => newer("qeff", opset.version, DOMAIN_VERSION)?,
            "" => newer("the ONNX operator set", opset.version, ONNX_OPSET)?,
            _ => {}
        }
    }
    if !proto.opset_import.iter().any(|opset| opset.domain == DOMAIN) {
        return Err(WireFault::expected("opset_import", "a version of domain qeff", "none"));
    }
    if !proto.functions.is_empty() {
        return Err(WireFault::expected("functions", "none", format!("{}", proto.functions.len())));
    }
    Ok(())
}

struct Metadata<'m>(HashMap<&'m str, &'m str>);

impl<'m> Metadata<'m> {
    fn new(entries: &'m [StringStringEntryProto]) -> Result<Self, WireFault> {
        let mut all = HashMap::new();
        for StringStringEntryProto { key, value } in entries {
            if all.insert(key.as_str(), value.as_str()).is_some() {
                return Err(WireFault::Twice(shorten(key)));
            }
        }
        Ok(Metadata(all))
    }

    fn get(&self, key: &str) -> Option<&'m str> {
        self.0.get(key).copied()
    }

    fn needed(&self, key: &str) -> Result<&'m str, WireFault> {
        self.get(key).ok_or_else(|| WireFault::expected(key, "a value", "nothing"))
    }

    fn parsed<T: std::str::FromStr>(&self, key: &str, expected: &str) -> Result<T, WireFault> {
        let text = self.needed(key)?;
        text.parse().map_err(|_| WireFault::expected(key, expected, text))
    }

    /// A list of texts, empty if it is not there.
    fn texts(&self, key: &str) -> Result<Vec<String>, WireFault> {
        let Some(text) = self.get(key) else { return Ok(vec![]) };
        serde_json::from_str(text).map_err(|_| WireFault::expected(key, "a list of texts", text))
    }
}

fn model_metadata(metadata: &Metadata<'_>) -> Result<Model, WireFault> {
    let task = metadata.needed("qeff.task")?;
    let positions = metadata.get("qeff.positions").map(|text| {
        let parsed = text.split_once(' ').and_then(|(trained, kind)| {
            let hard = match kind {
                "hard" => true,
                "trained" => false,
                _ => return None,
            };
            Some(PositionLimit { trained: trained.parse().ok()?, hard })
        });
        parsed.ok_or_else(|| WireFault::expected("qeff.positions", "a number and `hard` or `trained`", text))
    });
    Ok(Model {
        architecture: metadata.needed("qeff.architecture")?.to_owned(),
        task: Task::from_name(task).ok_or_else(|| WireFault::expected("qeff.task", "a task", task))?,
        positions: positions.transpose()?,
        stale_tensors: metadata.texts("qeff.stale_tensors")?,
        programs: vec![],
        links: metadata.get("qeff.links").map_or(Ok(vec![]), read_links)?,
    })
}

fn read_links(text: &str) -> Result<Vec<Link>, WireFault> {
    let malformed =
        || WireFault::expected("qeff.links", r#"[{"from":[program,output],"to":[program,input]}, …]"#, text);
    let json: Json = serde_json::from_str(text).map_err(|_| malformed())?;
    let end = |link: &Json, key: &str| match link.get(key)?.as_array()?.as_slice() {
        [Json::String(program), Json::String(name)] => Some((program.clone(), name.clone())),
        _ => None,
    };
    let list = json.as_array().ok_or_else(malformed)?;
    limit("links", list.len(), MAX_LINKS)?;
    let links = list.iter().map(|link| Some(Link { from: end(link, "from")?, to: end(link, "to")? }));
    links.collect::<Option<_>>().ok_or_else(malformed)
}

fn links(model: &Model) -> Result<(), WireFault> {
    let programs: HashMap<_, _> = model.programs.iter().map(|program| (program.name.as_str(), program)).collect();
    for link in &model.links {
        let from = programs.get(link.from.0.as_str());
        if !from.is_some_and(|program| program.outputs.iter().any(|output| output.name == link.from.1)) {
            return Err(WireFault::Undefined(shorten(&format!("{}.{}", link.from.0, link.from.1))));
        }
        let to = programs.get(link.to.0.as_str());
        if to.is_none_or(|program| program.port(&link.to.1).is_none()) {
            return Err(WireFault::Undefined(shorten(&format!("{}.{}", link.to.0, link.to.1))));
        }
    }
    Ok(())
}

fn programs(graph: &GraphProto, tensors: &TensorIndex) -> Result<Vec<Program>, WireError> {
    limit("programs", graph.node.len(), MAX_PROGRAMS).map_err(|fault| fault.at(""))?;
    let mut names = HashSet::new();
    let mut programs = Vec::with_capacity(graph.node.len());
    for node in &graph.node {
        let mut body = || {
            if !is_qeff(node, "Program") {
                return Err(WireFault::expected("node beside programs", "Program", node.op_type.clone()));
            }
            let mut attributes = Reader::new(node)?;
            let body = attributes.graph("body")?.ok_or_else(|| WireFault::expected("body", "a graph", "nothing"))?;
            attributes.finish()?;
            if !names.insert(body.name.as_str()) {
                return Err(WireFault::Twice(shorten(&body.name)));
            }
            Ok(body)
        };
        programs.push(program(body().map_err(|fault| fault.at(&node.name))?, tensors)?);
    }
    Ok(programs)
}

fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), WireFault> {
    if found > limit {
        return Err(WireFault::TooMany { what, found: found as u64, limit: limit as u64 });
    }
    Ok(())
}

fn name(text: &str) -> Result<&str, WireFault> {
    match text.len() {
        0 => Err(WireFault::expected("name", "a name", "nothing")),
        length => limit("bytes of a name", length, MAX_NAME).map(|()| text),
    }
}

fn program(graph: &GraphProto, tensors: &TensorIndex) -> Result<Program, WireError> {
    let place = format!("program `{}`", shorten(&graph.name));
    Decoder::new(graph, tensors).and_then(|decoder| decoder.run()).map_err(|mut error| {
        error.place = if error.place.is_empty() { place } else { format!("{place}, {}", error.place) };
        error
    })
}

struct Decoder<'g> {
    graph: &'g GraphProto,
    tensors: &'g TensorIndex,
    program: Program,
    /// Roles by input name and by output name.
    roles: (Map<String, Json>, Map<String, Json>),
    /// Names of values that are f32 whatever the activation type is.
    f32: HashSet<String>,
    names: HashMap<&'g str, ValueId>,
    slots: HashSet<&'g str>,
    results: HashSet<&'g str>,
    /// Stated types that nobody has asked for yet.
    stated: HashMap<&'g str, &'g ValueInfoProto>,
}

impl<'g> Decoder<'g> {
    fn new(graph: &'g GraphProto, tensors: &'g TensorIndex) -> Result<Self, WireError> {
        let metadata = Metadata::new(&graph.metadata_props).map_err(|fault| fault.at("metadata"))?;
        let read = || {
            limit("nodes", graph.node.len(), MAX_NODES)?;
            let act: DType = metadata.parsed("qeff.act", "an element type")?;
            if !act.is_float() {
                return Err(WireFault::expected("qeff.act", "a floating-point type", act.name()));
            }
            let f32 = metadata.texts("qeff.f32")?.into_iter().collect();
            let text = metadata.needed("qeff.roles")?;
            let mut roles: Map<String, Json> = serde_json::from_str(text).unwrap_or_default();
            let mut side = |key: &str| match roles.get_mut(key).map(Json::take) {
                Some(Json::Object(roles)) => Ok(roles),
                _ => Err(WireFault::expected("qeff.roles", format!("an object with `{key}`"), text)),
            };
            let roles = (side("inputs")?, side("outputs")?);
            let mut stated = HashMap::new();
            for value in &graph.value_info {
                if stated.insert(value.name.as_str(), value).is_some() {
                    return Err(WireFault::Twice(shorten(&value.name)));
                }
            }
            let mut program = Program::new(name(&graph.name)?);
            program.act = act;
            program.intern_scope("");
            Ok(Decoder {
                graph,
                tensors,
                program,
                roles,
                f32,
                names: HashMap::new(),
                slots: HashSet::new(),
                results: HashSet::new(),
                stated,
            })
        };
        read().map_err(|fault| fault.at(""))
    }

    fn run(mut self) -> Result<Program, WireError> {
        let nodes = self.graph.node.as_slice();
        let states = nodes.iter().take_while(|node| is_qeff(node, "State")).count();
        let outputs = nodes.iter().rev().take_while(|node| is_qeff(node, "Output")).count();
        let mut inputs = self.graph.input.iter();
        for node in &nodes[..states] {
            self.state(node, &mut inputs).map_err(|fault| fault.at(place(node)))?;
        }
        for value in inputs {
            self.input(value).map_err(|fault| fault.at(format!("input `{}`", value.name)))?;
        }
        for tensor in &self.graph.initializer {
            self.weight(tensor).map_err(|fault| fault.at(format!("weight `{}`", tensor.name)))?;
        }
        for node in &nodes[states..nodes.len() - outputs] {
            self.node(node).map_err(|fault| fault.at(place(node)))?;
        }
        let (nodes, values) = (&nodes[nodes.len() - outputs..], &self.graph.output);
        if nodes.len() != values.len() {
            let (expected, found) = (format!("{} nodes `Output`", values.len()), nodes.len().to_string());
            return Err(WireFault::expected("outputs", expected, found).at(""));
        }
        for (node, value) in nodes.iter().zip(values) {
            self.output(node, value).map_err(|fault| fault.at(format!("output `{}`", value.name)))?;
        }
        match self.stated.keys().min() {
            Some(unused) => Err(WireFault::Undefined(shorten(unused)).at("value_info")),
            None => Ok(self.program),
        }
    }

    fn define(&mut self, text: &'g str, id: ValueId) -> Result<(), WireFault> {
        match self.names.insert(name(text)?, id) {
            None => Ok(()),
            Some(_) => Err(WireFault::Twice(shorten(text))),
        }
    }

    fn role(roles: &Map<String, Json>, name: &str) -> Result<Role, WireFault> {
        let word = roles.get(name).and_then(Json::as_str).unwrap_or("nothing");
        Role::from_name(word).ok_or_else(|| WireFault::expected("role", "a role in `qeff.roles`", word))
    }

    fn input(&mut self, value: &'g ValueInfoProto) -> Result<(), WireFault> {
        let role = Self::role(&self.roles.0, &value.name)?;
        let ty = self.ty(value)?;
        let id = self.program.add_input(&value.name, role, ty);
        self.define(&value.name, id)
    }

    fn state(
        &mut self,
        node: &'g NodeProto,
        inputs: &mut std::slice::Iter<'g, ValueInfoProto>,
    ) -> Result<(), WireFault> {
        let mut attributes = Reader::new(node)?;
        let slot = name(attributes.text("slot")?.unwrap_or_default())?;
        let word = attributes.text("kind")?.unwrap_or("full");
        let kind = StateKind::from_name(word)
            .ok_or_else(|| WireFault::expected("kind", "full, rolling, fill or row", word))?;
        let before = attributes.count("inputs_before")?.unwrap_or(self.graph.input.len() as u64);
        attributes.finish()?;
        // An earlier state that was declared after more inputs is moved by this, never lost.
        while (self.program.inputs.len() as u64) < before
            && let Some(value) = inputs.next()
        {
            self.input(value)?;
        }
        if self.program.inputs.len() as u64 != before {
            return Err(WireFault::expected("inputs_before", "as many as there are, in order", before.to_string()));
        }
        if node.output.is_empty() || node.input.iter().any(|operand| !operand.is_empty()) {
            return Err(WireFault::expected("State", "parts and no operands", format!("{} parts", node.output.len())));
        }
        if !self.slots.insert(slot) {
            return Err(WireFault::Twice(shorten(slot)));
        }
        let parts = node.output.iter().map(|part| {
            let ty = self.take_stated(part)?.ok_or_else(|| WireFault::expected(shorten(part), "a type", "none"))?;
            if kind != StateKind::Row && ty.rank() != 4 {
                return Err(WireFault::expected(part, "[lead, heads, axis, width]", ty.to_string()));
            }
            Ok((part.clone(), ty))
        });
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let id = self.program.add_state(slot, kind, parts);
        let values = self.program.state(id).parts.clone();
        for (part, id) in node.output.iter().zip(values) {
            self.define(part, id)?;
        }
        Ok(())
    }

    fn weight(&mut self, tensor: &'g TensorProto) -> Result<(), WireFault> {
        let mut text = None;
        let mut in_checkpoint = false;
        for StringStringEntryProto { key, value } in &tensor.external_data {
            match key.as_str() {
                "location" => in_checkpoint = value == "checkpoint",
                "qeff.weight" => text = Some(value),
                other => return Err(WireFault::UnknownAttribute(shorten(other))),
            }
        }
        let external = tensor.data_location == onnx::EXTERNAL && tensor.raw_data.is_none() && in_checkpoint;
        let Some(text) = text.filter(|_| external) else {
            return Err(WireFault::expected(
                "data",
                "an expression over the checkpoint in `qeff.weight`",
                "other data",
            ));
        };
        limit("bytes of an expression", text.len(), MAX_EXPRESSION)?;
        let expr = WeightExpr::parse(text)?;
        let shape = expr.shape(self.tensors)?;
        limit("axes", shape.len(), MAX_RANK)?;
        let stated: Option<Vec<u64>> = tensor.dims.iter().map(|&dim| u64::try_from(dim).ok()).collect();
        if stated.as_ref() != Some(&shape) || shape.iter().any(|&dim| dim > MAX_DIM) {
            return Err(WireFault::expected("shape", format!("{shape:?}"), format!("{:?}", tensor.dims)));
        }
        let ty = Type::weight(&shape).with_elem(self.elem(&tensor.name, tensor.data_type)?);
        let before = self.program.values().len();
        let id = self.program.add_weight(expr, ty);
        if self.program.values().len() == before {
            return Err(WireFault::Twice(shorten(text)));
        }
        self.define(&tensor.name, id)
    }

    fn node(&mut self, node: &'g NodeProto) -> Result<(), WireFault> {
        let op = operator(node)?;
        let scope = scope(node)?;
        let mut operands = Vec::with_capacity(node.input.len());
        for operand in &node.input {
            operands.push(match operand.as_str() {
                "" => None,
                text => Some(*self.names.get(text).ok_or_else(|| WireFault::Undefined(shorten(text)))?),
            });
        }
        let types = self.types(node, &op, &operands)?;
        let scope = self.program.intern_scope(scope);
        let id = self.program.add_node(scope, op, operands, types);
        for (text, index) in node.output.iter().zip(0..) {
            let value = self.program.node(id).outputs[index];
            self.define(text, value)?;
        }
        Ok(())
    }

    /// Types of a node's results: inferred, or stated where nobody can infer them.
    fn types(&mut self, node: &'g NodeProto, op: &Op, operands: &[Option<ValueId>]) -> Result<Vec<Type>, WireFault> {
        let inferred = {
            let operands: Vec<_> = operands.iter().map(|id| id.map(|id| self.program.ty(id))).collect();
            infer(op, &operands)
        };
        let results = node.output.len();
        let raw = matches!(op, Op::Onnx(_));
        let types = match inferred {
            Ok(types) if types.len() == results => {
                for (text, ty) in node.output.iter().zip(&types) {
                    if let Some(stated) = self.take_stated(text)?.filter(|stated| stated != ty) {
                        return Err(WireFault::expected(text, ty.to_string(), stated.to_string()));
                    }
                }
                types
            }
            Ok(_) | Err(Mismatch::Unknown(_)) if raw && results > 0 => {
                let stated = node.output.iter().map(|text| {
                    self.take_stated(text)?.ok_or_else(|| WireFault::expected(text, "a stated type", "none"))
                });
                stated.collect::<Result<_, _>>()?
            }
            Ok(types) => {
                return Err(WireFault::expected("results", types.len().to_string(), results.to_string()));
            }
            Err(mismatch) => return Err(mismatch.into()),
        };
        types.iter().try_for_each(bounded)?;
        Ok(types)
    }

    fn output(&mut self, node: &'g NodeProto, value: &'g ValueInfoProto) -> Result<(), WireFault> {
        Reader::new(node)?.finish()?;
        let ([source], [result]) = (node.input.as_slice(), node.output.as_slice()) else {
            return Err(WireFault::expected("Output", "one operand and one result", "another number"));
        };
        let id = *self.names.get(source.as_str()).ok_or_else(|| WireFault::Undefined(shorten(source)))?;
        if *result != value.name {
            return Err(WireFault::expected("name", &value.name, result));
        }
        if !self.results.insert(value.name.as_str()) {
            return Err(WireFault::Twice(shorten(&value.name)));
        }
        let (ty, stated) = (self.program.ty(id), self.ty(value)?);
        if *ty != stated {
            return Err(WireFault::expected("type", ty.to_string(), stated.to_string()));
        }
        let role = Self::role(&self.roles.1, &value.name)?;
        self.program.add_output(name(&value.name)?, role, id);
        Ok(())
    }

    fn take_stated(&mut self, name: &str) -> Result<Option<Type>, WireFault> {
        self.stated.remove(name).map(|value| self.ty(value)).transpose()
    }

    fn elem(&self, name: &str, data_type: i32) -> Result<Elem, WireFault> {
        let fixed = self.f32.contains(name);
        match onnx::dtype(data_type) {
            Some(DType::F32) if fixed => Ok(Elem::F32),
            Some(dtype) if dtype == self.program.act && !fixed => Ok(Elem::Act),
            Some(DType::I64) if !fixed => Ok(Elem::I64),
            Some(DType::I32) if !fixed => Ok(Elem::I32),
            Some(DType::Bool) if !fixed => Ok(Elem::Bool),
            other => {
                let found = other.map_or_else(|| format!("number {data_type}"), |dtype| dtype.to_string());
                let act = self.program.act;
                let expected =
                    if fixed { "f32".to_owned() } else { format!("i64, i32, bool or the activations' {act}") };
                Err(WireFault::expected("element type", expected, found))
            }
        }
    }

    fn ty(&self, value: &ValueInfoProto) -> Result<Type, WireFault> {
        let tensor = value.r#type.as_ref().and_then(|ty| ty.value.as_ref());
        let Some(type_proto::Value::TensorType(tensor)) = tensor else {
            return Err(WireFault::expected("type", "a tensor", "none"));
        };
        let elem = self.elem(&value.name, tensor.elem_type)?;
        let dims = tensor.shape.as_ref().map_or(&[][..], |shape| shape.dim.as_slice());
        limit("axes", dims.len(), MAX_RANK)?;
        let dims = dims.iter().map(|dim| match &dim.value {
            Some(dimension::Value::DimValue(n)) => match u64::try_from(*n) {
                Ok(n) => Ok(Dim::Fixed(n)),
                Err(_) => Err(WireFault::expected("dimension", "0 or more", n.to_string())),
            },
            Some(dimension::Value::DimParam(symbol)) => name(symbol).map(Dim::symbol),
            None => Err(WireFault::expected("dimension", "a number or a symbol", "nothing")),
        });
        let ty = Type::new(elem, dims.collect::<Result<Vec<_>, _>>()?);
        bounded(&ty).map(|()| ty)
    }
}

/// Operators may add axes and multiply lengths, so a long chain of them must be cut somewhere.
fn bounded(ty: &Type) -> Result<(), WireFault> {
    limit("axes", ty.rank(), MAX_RANK)?;
    match ty.dims.iter().filter_map(Dim::fixed).max() {
        Some(found) if found > MAX_DIM => {
            Err(WireFault::TooMany { what: "elements along an axis", found, limit: MAX_DIM })
        }
        _ => Ok(()),
    }
}

fn place(node: &NodeProto) -> String {
    if node.name.is_empty() { format!("a node `{}`", shorten(&node.op_type)) } else { shorten(&node.name) }
}

/// The scope in `{scope}/{operator}_{number}`. The operator is known, so slashes in a scope do not matter.
fn scope(node: &NodeProto) -> Result<&str, WireFault> {
    let number = node.name.rfind('_').filter(|&at| {
        let digits = &node.name[at + 1..];
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    });
    let scope = number.and_then(|at| node.name[..at].strip_suffix(node.op_type.as_str())?.strip_suffix('/'));
    let scope = scope.ok_or_else(|| WireFault::expected("name", format!("…/{}_0", node.op_type), node.name.clone()))?;
    limit("bytes of a name", scope.len(), MAX_NAME).map(|()| scope)
}
