use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::blocks::moe::{Experts, Projection, Routing, experts};
use crate::blocks::rope::RopeDefaults;
use crate::blocks::{Activation, Attn, Linear, Norm, Rope, RopeConfig, attention, embed, linear, lm, mlp, rotary};
use crate::build::{GraphBuilder, Kv};
use crate::config::Config;
use crate::graph::{
    AttentionMask, AttrValue, Embedding, ExpertActivation, Link, Model, NegativeIds, NormProduct, OnnxOp,
    PositionLimit, Program, Role, StateKind, Task, Type, Weigh,
};
use crate::onnx::ModelProto;
use crate::{DType, Elem, TensorIndex, TensorInfo, WeightExpr};

/// What varies between the models of these tests.
#[derive(Debug, Clone)]
struct Shape {
    layers: u64,
    kv_heads: u64,
    group: u64,
    rolling: bool,
    sliding: bool,
    bias: bool,
    learned_positions: bool,
    act: DType,
    activation: Activation,
    stated_node: bool,
    /// Sinks in attention, and experts behind the feed-forward part.
    mixture: bool,
}

const LLAMA: Shape = Shape {
    layers: 2,
    kv_heads: 2,
    group: 2,
    rolling: false,
    sliding: false,
    bias: false,
    learned_positions: false,
    act: DType::F32,
    activation: Activation::Silu,
    stated_node: false,
    mixture: false,
};

const GPT2: Shape = Shape { learned_positions: true, bias: true, group: 1, activation: Activation::GeluTanh, ..LLAMA };

const HEAD: u64 = 4;
const VOCAB: u64 = 11;

fn tensors(s: &Shape) -> TensorIndex {
    let hidden = s.kv_heads * s.group * HEAD;
    let mut index = TensorIndex::new();
    let mut add = |name: String, shape: &[u64]| {
        index.insert(name, TensorInfo { dtype: DType::BF16, shape: shape.to_vec() });
    };
    add("m.embed.weight".into(), &[VOCAB, hidden]);
    add("m.pos.weight".into(), &[64, hidden]);
    for norm in ["m.norm".to_owned()].into_iter().chain((0..s.layers).map(|i| format!("m.layers.{i}.norm"))) {
        add(format!("{norm}.weight"), &[hidden]);
        add(format!("{norm}.bias"), &[hidden]);
    }
    for i in 0..s.layers {
        let sizes = [("q", s.kv_heads * s.group), ("k", s.kv_heads), ("v", s.kv_heads), ("o", s.kv_heads * s.group)];
        for (name, heads) in sizes {
            add(format!("m.layers.{i}.attn.{name}.weight"), &[heads * HEAD, hidden]);
            add(format!("m.layers.{i}.attn.{name}.bias"), &[heads * HEAD]);
        }
        add(format!("m.layers.{i}.attn.sinks"), &[s.kv_heads * s.group]);
        add(format!("m.layers.{i}.experts.in"), &[3, hidden, 2]);
        add(format!("m.layers.{i}.experts.out"), &[3, 2, hidden]);
        for name in ["up", "down"] {
            add(format!("m.layers.{i}.mlp.{name}.weight"), &[hidden, hidden]);
            add(format!("m.layers.{i}.mlp.{name}.bias"), &[hidden]);
        }
    }
    index
}

fn program(name: &str, s: &Shape, index: &TensorIndex) -> Program {
    let g = GraphBuilder::new(name, index);
    let ids = g.tokens();
    let kind = if s.rolling { StateKind::Rolling } else { StateKind::Full };
    let kv = g.kv_all(s.layers, Kv { kind, ..Kv::full(s.kv_heads, HEAD) });
    let positions = g.positions();
    let norm = if s.learned_positions {
        Norm::Layer { eps: 1e-5 }
    } else {
        Norm::Rms { eps: 1e-6, product: NormProduct::AfterCast }
    };
    let config = Config::parse(r#"{"rope_theta": 10000.0}"#).unwrap();
    let defaults = RopeDefaults { head_dim: HEAD, positions: 64, base: 1e4, partial: false };
    let table = Rope::table(g.at("m"), &RopeConfig::read(&config, &defaults).unwrap());
    let hidden = s.kv_heads * s.group * HEAD;
    let mut h = embed(g.at("m.embed"), ids, [VOCAB, hidden], Embedding::default());
    if s.learned_positions {
        let learned = Embedding { negative: NegativeIds::Zero, offset: 2, ..Embedding::default() };
        h = g.at("m").add(h, embed(g.at("m.pos"), positions, [64, hidden], learned));
    }
    let spec = |heads| Linear { heads, ..Linear::default() }.bias(s.bias);
    for (i, &slot) in (0..).zip(&kv) {
        let l = g.at("m").at(("layers", i));
        let x = norm.apply(l.at("norm"), h);
        let a = l.at("attn");
        let project = |name, heads| linear(a.at(name), x, &spec(heads));
        let (mut q, mut k) = (project("q", s.kv_heads * s.group), project("k", s.kv_heads));
        if !s.learned_positions {
            (q, k) = (rotary(a, q, table, positions), rotary(a, k, table, positions));
        }
        slot.write(a, [k, project("v", s.kv_heads)], positions);
        let mask = if s.sliding { AttentionMask::Sliding(3) } else { AttentionMask::Causal };
        let o =
            attention(a, q, slot, positions, Attn { mask, sinks: s.mixture.then_some("sinks"), ..Attn::causal(0.5) });
        h = l.add(h, linear(a.at("o"), o, &spec(0)));
        h = l.add(h, mlp::plain(l.at("mlp"), h, hidden, ["up", "down"], s.activation, &spec(0)));
        if s.mixture {
            let at = l.at("experts");
            let [weights, ids] = at.top(h, 2);
            let [into, out] = ["in", "out"].map(|name| Projection { weight: at.tensor(name), bias: None });
            let activation = ExpertActivation::ClampedSwiglu { limit: 7.0, alpha: 1.702 };
            let (gate, up, down) = (Some(into.clone()), into, out);
            let spec = Experts { count: 3, inner: 2, gate, up, down, activation, weigh: Weigh::Input };
            h = experts(at, h, Routing { ids, weights }, &spec);
        }
    }
    if s.stated_node
        && let Some(ty) = h.ty()
    {
        let attrs = [
            ("axes".to_owned(), AttrValue::Ints(vec![-1])),
            ("mode".to_owned(), AttrValue::Text("é".into())),
            ("x".to_owned(), AttrValue::Float(f32::MIN_POSITIVE)),
        ];
        let op = OnnxOp { domain: "vendor".into(), op_type: "Odd/Op_3".into(), attrs: attrs.into() };
        let types = vec![ty.clone(), Type::new(Elem::F32, ["seq_len".into(), 3.into()])];
        h = g.at("a/b_1").onnx_typed(op, &[None, Some(h), None], types)[0];
    }
    let head = lm::Head { vocab: VOCAB, tied_to: Some("m.embed"), ..lm::Head::default() };
    lm::tail(g.root(), h, positions, ("m.norm", norm), &head);
    g.output("hidden", Role::Hidden, h);
    let mut program = g.finish().unwrap();
    program.act = s.act;
    program
}

fn model(s: &Shape) -> (Model, TensorIndex) {
    let index = tensors(s);
    let model = Model {
        architecture: "TestForCausalLM".into(),
        task: Task::CausalLm,
        positions: Some(PositionLimit { trained: 64, hard: s.learned_positions }),
        stale_tensors: vec![".inv_freq".into()],
        programs: vec![program("main", s, &index)],
        links: vec![],
    };
    (model, index)
}

#[track_caller]
fn check_round_trip(model: &Model, index: &TensorIndex) -> Model {
    let bytes = encode(model);
    let read = decode(&bytes, index).unwrap_or_else(|error| panic!("{error}"));
    assert!(encode(&read) == bytes, "encode(decode(b)) differs from b");
    assert_eq!(decode(&encode(&read), index).as_ref(), Ok(&read));
    read
}

#[test]
fn a_llama_a_gpt2_and_a_mixture_survive() {
    for shape in [LLAMA, GPT2, Shape { mixture: true, ..LLAMA }] {
        let (model, index) = model(&shape);
        let read = check_round_trip(&model, &index);
        let (a, b) = (&model.programs[0], &read.programs[0]);
        assert_eq!(a.nodes().len(), b.nodes().len());
        assert_eq!(a.declarations(), b.declarations());
        for ((_, a_node), (_, b_node)) in a.nodes().zip(b.nodes()) {
            assert_eq!(a_node.op, b_node.op);
            assert_eq!(a.scope_path(a_node.scope), b.scope_path(b_node.scope));
            let types = |p: &Program, ids: &[crate::graph::ValueId]| -> Vec<Type> {
                ids.iter().map(|&id| p.ty(id).clone()).collect()
            };
            assert_eq!(types(a, &a_node.outputs), types(b, &b_node.outputs));
        }
        assert_eq!(model.sources(), read.sources());
        let names = |p: &Program| p.outputs.iter().map(|o| (o.name.clone(), o.role)).collect::<Vec<_>>();
        assert_eq!(names(a), names(b));
        assert_eq!((model.positions, &model.stale_tensors), (read.positions, &read.stale_tensors));
    }
}

/// What a host of version 1 can read, it is not told to refuse.
#[test]
fn a_description_asks_for_the_version_it_needs() {
    for (shape, version) in [(LLAMA, 1), (GPT2, 1), (Shape { mixture: true, ..LLAMA }, 2)] {
        let (model, _) = model(&shape);
        let proto = ModelProto::decode(encode(&model).as_slice()).unwrap();
        let qeff = proto.opset_import.iter().find(|opset| opset.domain == DOMAIN).unwrap();
        assert_eq!(qeff.version, version, "{shape:?}");
    }
}

#[test]
fn several_programs_and_their_links_survive() {
    let (mut model, index) = model(&LLAMA);
    let mut second = program("second", &Shape { learned_positions: true, ..LLAMA }, &index);
    second.add_input("extra", Role::Hidden, Type::new(Elem::Act, ["batch_size".into(), 16.into()]));
    model.programs.push(second);
    model.links.push(Link { from: ("main".into(), "hidden".into()), to: ("second".into(), "extra".into()) });
    let read = check_round_trip(&model, &index);
    assert_eq!(read.links, model.links);
    assert_eq!(read.programs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["main", "second"]);
}

#[test]
fn equal_weights_are_one_initializer() {
    let (mut model, index) = model(&LLAMA);
    let program = &mut model.programs[0];
    let scope = program.intern_scope("x");
    // A pass may leave two values with one expression.
    let expr = WeightExpr::tensor("m.embed.weight");
    let id = program.add_weight(WeightExpr::tensor("m.pos.weight"), Type::weight(&[64, 16]));
    program.set_weight(id, expr, &[VOCAB, 16]);
    let ids = program.inputs[0].value;
    let types = vec![Type::new(Elem::Act, ["batch_size".into(), "seq_len".into(), 16.into()])];
    program.add_node(scope, crate::graph::Op::Embedding(Embedding::default()), vec![Some(ids), Some(id)], types);
    check_round_trip(&model, &index);
}

/// The error for a valid wire form with one thing changed.
#[track_caller]
fn refused(change: impl FnOnce(&mut ModelProto)) -> String {
    let (model, index) = model(&LLAMA);
    let mut proto = ModelProto::decode(encode(&model).as_slice()).unwrap();
    change(&mut proto);
    decode(&proto.encode_to_vec(), &index).unwrap_err().to_string()
}

#[test]
fn refusals_say_what_and_where() {
    fn linear(m: &ModelProto) -> usize {
        m.graph.as_ref().unwrap().node.iter().position(|n| n.op_type == "Linear").unwrap()
    }
    type Change = Box<dyn FnOnce(&mut ModelProto)>;
    let cases: [(&str, Change); 9] = [
        ("needs qeff 4, this host has 3", Box::new(|m| m.opset_import[1].version = 4)),
        ("needs the wire schema 9, this host has 1", Box::new(|m| m.metadata_props[0].value = "9".into())),
        (
            "m.layers.0.attn.q/Linear_2: there is no operator `Quadratic` in qeff 3",
            Box::new(|m| {
                let i = linear(m);
                m.graph.as_mut().unwrap().node[i].op_type = "Quadratic".into();
            }),
        ),
        (
            "m.layers.0.attn.q/Linear_2: there is no such attribute: `hands`",
            Box::new(|m| {
                let i = linear(m);
                m.graph.as_mut().unwrap().node[i].attribute[0].name = "hands".into();
            }),
        ),
        (
            "m.layers.0.attn.q/Linear_2: operand `x`: expected",
            Box::new(|m| {
                let i = linear(m);
                m.graph.as_mut().unwrap().node[i].input[0] = "input_ids".into();
            }),
        ),
        (
            "m.layers.0.attn.q/Linear_2: `%99` is not defined here",
            Box::new(|m| {
                let i = linear(m);
                m.graph.as_mut().unwrap().node[i].input[0] = "%99".into();
            }),
        ),
        (
            "the checkpoint has no tensor `elsewhere`",
            Box::new(|m| {
                m.graph.as_mut().unwrap().initializer[2].external_data[1].value = "w\"elsewhere\"".into();
            }),
        ),
        (
            "shape: expected [11, 16], found [11, 17]",
            Box::new(|m| m.graph.as_mut().unwrap().initializer[2].dims[1] = 17),
        ),
        (
            "output `logits`: type: expected",
            Box::new(|m| {
                let value = m.graph.as_mut().unwrap().output[0].r#type.as_mut().unwrap().value.as_mut().unwrap();
                let crate::onnx::type_proto::Value::TensorType(tensor) = value;
                tensor.shape.as_mut().unwrap().dim.pop();
            }),
        ),
    ];
    for (expected, change) in cases {
        let found = refused(change);
        assert!(found.contains(expected), "expected `{expected}` in `{found}`");
    }
}

#[test]
fn memory_is_bounded_before_parsing() {
    // A graph of a million empty nodes: two bytes each on the wire, a hundred times that once parsed.
    let mut graph = vec![];
    for _ in 0..=MAX_RECORDS {
        graph.extend([0x0a, 0x00]);
    }
    let mut bytes = vec![0x3a];
    prost::encoding::encode_varint(graph.len() as u64, &mut bytes);
    bytes.extend(graph);
    let error = decode(&bytes, &TensorIndex::new()).unwrap_err();
    assert_eq!(error.to_string(), "wire form: 1048577 fields; at most 1048576 are read");
    let long = vec![0; MAX_BYTES + 1];
    assert!(decode(&long, &TensorIndex::new()).unwrap_err().to_string().contains("67108865 bytes"));
}

#[test]
fn graphs_in_graphs_do_not_exhaust_the_stack() {
    let mut bytes = vec![];
    for _ in 0..10_000 {
        // graph.node.attribute.g, from the inside out
        for tag in [0x32, 0x2a, 0x0a] {
            let mut outer = vec![tag];
            prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
            outer.extend(&bytes);
            bytes = outer;
            if bytes.len() > 200_000 {
                break;
            }
        }
    }
    let mut outer = vec![0x3a];
    prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
    outer.extend(&bytes);
    assert!(decode(&outer, &TensorIndex::new()).is_err());
}

fn shapes() -> impl Strategy<Value = Shape> {
    let act = prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::BF16)];
    let activation = prop_oneof![Just(Activation::Silu), Just(Activation::Gelu), Just(Activation::Relu2)];
    let flags = any::<[bool; 6]>();
    (0..3u64, 1..4u64, 1..3u64, flags, act, activation).prop_map(|(layers, kv_heads, group, flags, act, activation)| {
        let [rolling, sliding, bias, learned_positions, stated_node, mixture] = flags;
        Shape {
            layers,
            kv_heads,
            group,
            rolling,
            sliding,
            bias,
            learned_positions,
            act,
            activation,
            stated_node,
            mixture,
        }
    })
}

#[derive(Debug, Clone)]
enum Mutation {
    Set(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Insert(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Copy(prop::sample::Index, prop::sample::Index, u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    use prop::sample::Index;
    prop_oneof![
        8 => (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Mutation::Set(i, b)),
        1 => any::<Index>().prop_map(Mutation::Remove),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Mutation::Insert(i, b)),
        1 => any::<Index>().prop_map(Mutation::Cut),
        4 => (any::<Index>(), any::<Index>(), any::<u8>()).prop_map(|(i, j, n)| Mutation::Copy(i, j, n)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match mutation {
        Mutation::Set(i, byte) => bytes[i.index(len)] = *byte,
        Mutation::Remove(i) => {
            bytes.remove(i.index(len));
        }
        Mutation::Insert(i, byte) => bytes.insert(i.index(len), *byte),
        Mutation::Cut(i) => bytes.truncate(i.index(len)),
        Mutation::Copy(from, to, n) => {
            let (from, to) = (from.index(len), to.index(len));
            let n = usize::from(*n).min(len - from.max(to));
            bytes.copy_within(from..from + n, to);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_model_survives(shape in shapes()) {
        let (model, index) = model(&shape);
        check_round_trip(&model, &index);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Whatever is read can be written and read again; nothing panics.
    #[test]
    fn mutated_bytes_never_panic(stated in any::<bool>(), mutations in prop::collection::vec(mutation(), 1..4)) {
        let (model, index) = model(&Shape { layers: 1, stated_node: stated, ..LLAMA });
        let mut bytes = encode(&model);
        mutations.iter().for_each(|m| mutate(&mut bytes, m));
        if let Ok(read) = decode(&bytes, &index) {
            let bytes = encode(&read);
            let again = decode(&bytes, &index);
            prop_assert!(again.is_ok(), "{:?}", again.err());
            prop_assert!(encode(&again.unwrap()) == bytes);
        }
    }
}

#[test]
fn tall_expressions_are_refused_before_anything_recurses() {
    // Each level nests once and then takes many steps; neither count alone is large.
    let mut text = "fill(1, [2, 2])".to_owned();
    for _ in 0..40 {
        text = format!("concat(0, {text}{})", ".transpose(1, 0)".repeat(40));
    }
    assert!(WeightExpr::parse(&text).is_err());
}

/// A change that keeps the bytes well-formed, so that what lies behind the parser is reached.
#[derive(Debug, Clone)]
enum Edit {
    Rewire(prop::sample::Index, prop::sample::Index, prop::sample::Index),
    Retype(prop::sample::Index, prop::sample::Index),
    Number(prop::sample::Index, i64),
    Dim(prop::sample::Index, i64),
    Weight(prop::sample::Index, prop::sample::Index),
    Drop(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    use prop::sample::Index;
    let number = prop_oneof![Just(i64::MAX), Just(i64::MIN), Just(0), Just(1 << 40), -2..9i64, any::<i64>()];
    prop_oneof![
        any::<[Index; 3]>().prop_map(|[a, b, c]| Edit::Rewire(a, b, c)),
        any::<[Index; 2]>().prop_map(|[a, b]| Edit::Retype(a, b)),
        (any::<Index>(), number.clone()).prop_map(|(i, n)| Edit::Number(i, n)),
        (any::<Index>(), number).prop_map(|(i, n)| Edit::Dim(i, n)),
        any::<[Index; 2]>().prop_map(|[a, b]| Edit::Weight(a, b)),
        any::<Index>().prop_map(Edit::Drop),
        any::<[Index; 2]>().prop_map(|[a, b]| Edit::Swap(a, b)),
    ]
}

const OPERATORS: [(&str, &str); 13] = [
    ("qeff", "StateWrite"),
    ("qeff", "Embedding"),
    ("qeff", "Linear"),
    ("qeff", "RmsNorm"),
    ("qeff", "Rotary"),
    ("qeff", "Attention"),
    ("qeff", "Select"),
    ("qeff", "State"),
    ("qeff", "Output"),
    ("", "Add"),
    ("", "Sigmoid"),
    ("", "Cast"),
    ("", "Greater"),
];

const WEIGHTS: [(&str, &[i64]); 4] = [
    ("fill(1, [])", &[]),
    ("fill(0.5, [1099511627776, 1099511627776])", &[1 << 40, 1 << 40]),
    ("fill(2, [0, 0, 0, 0])", &[0, 0, 0, 0]),
    ("rope(cos, default, base=10000, width=18446744073709551615, positions=1, reach=0)", &[1, i64::MAX]),
];

fn apply(proto: &mut ModelProto, edit: &Edit) {
    use crate::onnx::{tensor_shape_proto::dimension::Value as Dimension, type_proto::Value as Tensor};
    let graph = proto.graph.as_mut().unwrap();
    let nodes = graph.node.len();
    if nodes == 0 {
        return;
    }
    match edit {
        Edit::Rewire(node, operand, source) => {
            let names: Vec<String> = graph.node.iter().flat_map(|n| n.output.clone()).collect();
            let weights = graph.initializer.iter().map(|tensor| tensor.name.clone());
            let names: Vec<String> = names.into_iter().chain(weights).chain([String::new()]).collect();
            let node = &mut graph.node[node.index(nodes)];
            if !node.input.is_empty() {
                let at = operand.index(node.input.len());
                node.input[at] = names[source.index(names.len())].clone();
            }
        }
        Edit::Retype(node, operator) => {
            let node = &mut graph.node[node.index(nodes)];
            let (domain, op_type) = OPERATORS[operator.index(OPERATORS.len())];
            node.name = node.name.replace(&node.op_type, op_type);
            (node.domain, node.op_type) = (domain.to_owned(), op_type.to_owned());
            node.attribute.clear();
        }
        Edit::Number(at, number) => {
            let mut all: Vec<_> = graph.node.iter_mut().flat_map(|n| &mut n.attribute).collect();
            if !all.is_empty() {
                let at = at.index(all.len());
                all[at].i = all[at].i.map(|_| *number);
            }
        }
        Edit::Dim(at, number) => {
            let values = graph.input.iter_mut().chain(&mut graph.value_info).chain(&mut graph.output);
            let mut dims: Vec<_> = values
                .flat_map(|value| {
                    let Some(Tensor::TensorType(tensor)) = value.r#type.as_mut().and_then(|ty| ty.value.as_mut())
                    else {
                        unreachable!("every value has a type here")
                    };
                    &mut tensor.shape.as_mut().unwrap().dim
                })
                .collect();
            let at = at.index(dims.len());
            dims[at].value = Some(Dimension::DimValue(*number));
        }
        Edit::Weight(at, weight) => {
            let count = graph.initializer.len();
            let tensor = &mut graph.initializer[at.index(count)];
            let (text, dims) = WEIGHTS[weight.index(WEIGHTS.len())];
            tensor.external_data[1].value = text.to_owned();
            tensor.dims = dims.to_vec();
        }
        Edit::Drop(node) => {
            graph.node.remove(node.index(nodes));
        }
        Edit::Swap(a, b) => graph.node.swap(a.index(nodes), b.index(nodes)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn edited_graphs_never_panic(stated in any::<bool>(), edits in prop::collection::vec(edit(), 1..5)) {
        let (model, index) = model(&Shape { layers: 1, stated_node: stated, ..LLAMA });
        let mut proto = ModelProto::decode(encode(&model).as_slice()).unwrap();
        edits.iter().for_each(|edit| apply(&mut proto, edit));
        if let Ok(read) = decode(&proto.encode_to_vec(), &index) {
            let bytes = encode(&read);
            let again = decode(&bytes, &index);
            prop_assert!(again.is_ok(), "{:?}", again.err());
            prop_assert!(encode(&again.unwrap()) == bytes);
        }
    }
}
