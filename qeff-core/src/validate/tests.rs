//! One test for each finding. Graphs that a text can hold are written as text.

use proptest::collection::vec;
use proptest::prelude::*;
use qeff_plugin_api::graph::{
    AttrValue, Dim, Linear, Model, OnnxOp, Op, Program, Role, StateKind, StateWrite, Type, ValueId,
};
use qeff_plugin_api::{DType, Elem, TensorIndex, WeightExpr};

use super::{Findings, Problem, validate};
use crate::text::tests::{model, tensors};
use crate::text::{parse, print};

const GOOD: &str = r#"model "Tiny" qeff 1 task causal_lm
link main logits -> second embeds
program main (b, s, t)
  %ids = input input_ids : i64[b, s] @tokens
  %pos = input position_ids : i64[b, s] @positions
  %k0, %v0 = State kv.0 names(past_key.0, past_value.0) : act[b, 2, t, 4]
  %k1, %v1 = State kv.1 names(past_key.1, past_value.1) : act[b, 2, t, 4]
  embed
    %0 = Embedding %ids, w"weight" : act[b, s, 8]
  layers.0
    %1 = Linear %0, w"weight" heads 2 : act[b, s, 2, 4]
    %k0', %v0' = StateWrite (%k0, %v0) <- (%1, %1) at %pos
    %2 = Attention %1, %k0', %v0' at %pos causal scale 0.5 : act[b, s, 8]
    %3 = Softmax %2 {axis: -1} : act[b, s, 8]
  %4, %5 = Select %3, %pos last : act[b, 1, 8], i64[b, 1]
  output logits = %4 : act[b, 1, 8] @logits
program second (b, s)
  %x = input embeds : act[b, s, 8] @hidden
  output out = %x : act[b, s, 8] @hidden
"#;

fn index() -> TensorIndex {
    tensors(&[("embed.weight", &[8, 8]), ("layers.0.weight", &[8, 8])])
}

fn read(text: &str) -> Model {
    parse(text, &index()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn found(model: &Model) -> String {
    validate(model, &index()).map_or_else(|findings| findings.to_string(), |()| String::new())
}

/// What replaces what in [`GOOD`], and everything that is found.
const CASES: &[(&str, &str, &str)] = &[
    // names
    (
        "past_key.1,",
        "past_key.0,",
        "program main, State kv.1: expected a unique name, found `past_key.0`, which State kv.0 has",
    ),
    (
        "input position_ids",
        "input past_key.0_RetainedState",
        "program main, State kv.0: expected a unique name, found `past_key.0_RetainedState`, which input past_key.0_RetainedState has",
    ),
    (
        "output logits = %4 : act[b, 1, 8] @logits\nprogram second",
        "output input_ids = %4 : act[b, 1, 8] @logits\nprogram second",
        "program main, output input_ids: expected a unique name, found `input_ids`, which input input_ids has\nmodel, link: expected a program with output `logits` of `main`, found none",
    ),
    (
        "State kv.1",
        "State kv.0",
        "program main, State kv.0: expected a unique name, found `kv.0`, which another state has",
    ),
    (
        "State kv.1",
        "State \"kv 1\"",
        "program main, State kv 1: expected a name of printable ASCII without spaces, found \"kv 1\"",
    ),
    (
        "input position_ids",
        "input \"pös\"",
        "program main, input pös: expected a name of printable ASCII without spaces, found \"pös\"",
    ),
    ("past_key.1,", "\"\",", "program main, State kv.1: expected a name of printable ASCII without spaces, found \"\""),
    (
        "  layers.0",
        "  \"layers 0\"\n    %y = Softmax %0 : act[b, s, 8]\n  layers.0",
        "program main, layers 0, Softmax: expected a name of printable ASCII without spaces, found \"layers 0\"",
    ),
    (
        "{axis: -1}",
        "{\"é\": -1}",
        "program main, layers.0, Softmax: expected a name of printable ASCII without spaces, found \"é\"",
    ),
    (
        "program second",
        "program \"second one\"",
        "program second one: expected a name of printable ASCII without spaces, found \"second one\"\nmodel, link: expected a program with input `embeds` of `second`, found none",
    ),
    (
        "program second",
        "program main",
        "model, program: expected a unique name, found `main`, which another program has\nmodel, link: expected a program with input `embeds` of `second`, found none",
    ),
    (
        "%3 = Softmax",
        "%3 = ::\"\"",
        "program main, layers.0: expected a name of printable ASCII without spaces, found \"\"",
    ),
    // roles
    (
        "@positions",
        "@tokens",
        "program main, input position_ids: expected role `tokens` at most once, found it at `input_ids` too",
    ),
    (
        "@logits\n",
        "@logits\n  output more = %4 : act[b, 1, 8] @logits\n",
        "program main, output more: expected role `logits` at most once, found it at `logits` too",
    ),
    // declarations
    ("(b, s, t)", "(b, s, t) act i64", "program main: expected f32, f16 or bf16 activations, found i64"),
    (
        "past_value.1) : act[b, 2, t, 4]",
        "past_value.1) : act[b, 2, t, 4], act[b, 2, t]",
        "program main, State kv.1: part 1: expected [lead, heads, axis, dim] with numbers for heads and dim, found act[b, 2, t]",
    ),
    (
        "past_value.1) : act[b, 2, t, 4]",
        "past_value.1) : act[b, 2, 7, 4]",
        "program main, State kv.1: part 0: expected [lead, heads, axis, dim] with numbers for heads and dim, found act[b, 2, 7, 4]\nprogram main, State kv.1: part 1: expected [lead, heads, axis, dim] with numbers for heads and dim, found act[b, 2, 7, 4]",
    ),
    (
        "    %3 =",
        "    %y = NonZero %2 : i64[3, found]\n    %3 =",
        "program main, layers.0, NonZero: expected symbols of inputs and states, or lengths made of them, found `found`",
    ),
    // nodes
    (
        "Linear %0, w\"weight\" heads 2",
        "Linear %0, w\"weight\", _, %pos heads 2",
        "program main, layers.0, Linear: expected at most 3 operands, found 4",
    ),
    (
        "%3 = Softmax",
        "%3 = qeff::Experts",
        "program main, layers.0, Experts: expected an operator of another domain than `qeff`, found one that version 1 does not have",
    ),
    (
        "scale 0.5",
        "scale NaN softcap inf",
        "program main, layers.0, Attention: attribute `scale`: expected a finite number, found NaN\nprogram main, layers.0, Attention: attribute `softcap`: expected a finite number, found inf",
    ),
    (
        "    %3 = Softmax %2",
        "    %y, %p = Select %2, %pos all : act[b, s, 8], i64[b, s]\n    %3 = Softmax %y",
        "program main, output logits: expected at most one Select on the way to it, found 2",
    ),
    // states; what is read before a write is current then
    (
        "    %k0', %v0' = StateWrite",
        "    %y = Attention %1, %k0, %v0 at %pos causal scale 0.5 : act[b, s, 8]\n    %k0', %v0' = StateWrite",
        "",
    ),
    (
        "%3 = Softmax %2 {axis: -1}",
        "%y = Softmax %k1 : act[b, 2, t, 4]\n    %3 = Softmax %2",
        "program main, layers.0, Softmax: operand 0: expected a value that is no version of a state, found one of `kv.1`",
    ),
    (
        "Attention %1, %k0', %v0'",
        "Attention %1, %k0, %v0",
        "program main, layers.0, Attention: operand 1: expected version 1 of `kv.0`, found version 0, replaced by then\nprogram main, layers.0, Attention: operand 2: expected version 1 of `kv.0`, found version 0, replaced by then",
    ),
    (
        "Attention %1, %k0', %v0'",
        "Attention %1, %k0', %v1",
        "program main, layers.0, Attention: expected keys and values of one state, or none, found part 0 of `kv.0` and part 1 of `kv.1`",
    ),
    (
        "    %2 =",
        "    %kx, %vx = StateWrite (%k0, %v0) <- (%1, %1) at %pos\n    %2 =",
        "program main, layers.0, StateWrite: operand 0: expected version 1 of `kv.0`, found version 0, replaced by then\nprogram main, layers.0, StateWrite: operand 1: expected version 1 of `kv.0`, found version 0, replaced by then",
    ),
    (
        "    %2 =",
        "    %kx, %vx = StateWrite (%v1, %k1) <- (%1, %1) at %pos\n    %2 =",
        "program main, layers.0, StateWrite: expected the 2 parts of one state in order, found (part 1 of `kv.1`, part 0 of `kv.1`)",
    ),
    (
        "    %2 =",
        "    %kx = StateWrite (%k1) <- (%1) at %pos\n    %2 =",
        "program main, layers.0, StateWrite: expected the 2 parts of one state in order, found (part 0 of `kv.1`)",
    ),
    (
        "@logits\n",
        "@logits\n  output kept = %k0' : act[b, 2, t, 4] @hidden\n",
        "program main, output kept: expected a value that is no version of a state, found one of `kv.0`",
    ),
    // links
    (
        "link main logits",
        "link main hidden",
        "model, link: expected a program with output `hidden` of `main`, found none",
    ),
    ("second embeds", "third embeds", "model, link: expected a program with input `embeds` of `third`, found none"),
    ("second embeds", "main input_ids", "model, link: expected an input like act[b, 1, 8], found i64[b, s]"),
    (
        "program main",
        "link second out -> second embeds\nprogram main",
        "model, link: expected one link to input `embeds` of `second`, found another",
    ),
];

#[test]
fn each_finding_is_named_with_its_place() {
    assert_eq!(found(&read(GOOD)), "");
    let mut failures = String::new();
    for (from, to, expected) in CASES {
        assert_eq!(GOOD.matches(from).count(), 1, "{from:?} does not stand exactly once in the good text");
        let found = found(&read(&GOOD.replace(from, to)));
        if found != *expected {
            failures += &format!("{from:?} → {to:?}\n  expected {expected}\n  found    {found}\n");
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

/// The good model with its first program changed.
#[track_caller]
fn edited(edit: impl FnOnce(&mut Program), expected: &str) {
    let mut model = read(GOOD);
    edit(&mut model.programs[0]);
    assert_eq!(found(&model), expected);
    // Whatever is wrong with it, it prints.
    assert!(print(&model).starts_with("model"));
}

fn node(program: &Program, op: &str) -> qeff_plugin_api::graph::NodeId {
    program.nodes().find(|(_, node)| node.op.name() == op).map(|(id, _)| id).unwrap()
}

/// A program with more of everything than the good one has, whose handles are therefore foreign there.
fn large() -> Program {
    let mut program = Program::new("large");
    for i in 0..99 {
        let value = program.add_input(format!("x{i}"), Role::Hidden, Type::new(Elem::Act, []));
        let scope = program.intern_scope(&format!("scope{i}"));
        let op = OnnxOp { domain: String::new(), op_type: "Relu".into(), attrs: Default::default() };
        program.add_node(scope, Op::Onnx(op), vec![Some(value)], vec![Type::new(Elem::Act, [])]);
    }
    program
}

#[test]
fn no_programs() {
    assert_eq!(found(&model(vec![])), "model: expected at least one program, found none");
}

#[test]
fn foreign_handles() {
    let large = large();
    let (_, far) = large.nodes().last().unwrap();
    let (value, scope) = (far.outputs[0], far.scope);
    edited(
        |p| p.node_mut(node(p, "Linear")).operands[0] = Some(value),
        "program main, layers.0, Linear: operand 0 belongs to another program",
    );
    edited(
        |p| p.node_mut(node(p, "Linear")).outputs[0] = value,
        "program main, layers.0, Linear: result 0 belongs to another program\n\
         program main, layers.0, StateWrite: operand 2: expected a value that an input, state or node has, found one that none has any more\n\
         program main, layers.0, StateWrite: operand 3: expected a value that an input, state or node has, found one that none has any more\n\
         program main, layers.0, Attention: operand 0: expected a value that an input, state or node has, found one that none has any more",
    );
    edited(
        |p| p.node_mut(node(p, "Linear")).scope = scope,
        "program main, Linear: its scope belongs to another program",
    );
    edited(|p| p.outputs[0].value = value, "program main, output logits: its value belongs to another program");
    edited(
        |p| p.inputs[0].value = value,
        "program main, input input_ids: its value belongs to another program\n\
         program main, embed, Embedding: operand 0: expected a value that an input, state or node has, found one that none has any more",
    );
    let slot = read(GOOD).programs[0].states().next().unwrap().0;
    edited(
        |p| p.state_mut(slot).parts[1] = value,
        "program main, State kv.0: part 1 belongs to another program\n\
         program main, layers.0, StateWrite: operand 1: expected a value that an input, state or node has, found one that none has any more",
    );
}

#[test]
fn halves_that_do_not_refer_to_each_other() {
    edited(
        |p| p.inputs.truncate(1),
        "program main, input 1: expected the input that is declared here, found none\n\
         program main, layers.0, StateWrite: operand 4: expected a value that an input, state or node has, found one that none has any more\n\
         program main, layers.0, Attention: operand 3: expected a value that an input, state or node has, found one that none has any more\n\
         program main, Select: operand 1: expected a value that an input, state or node has, found one that none has any more",
    );
    edited(
        |p| p.inputs.swap(0, 1),
        "program main, input position_ids: its value: expected a value that comes from here, found one that comes from elsewhere\n\
         program main, input input_ids: its value: expected a value that comes from here, found one that comes from elsewhere\n\
         program main, embed, Embedding: operand 0: expected a value that an input, state or node has, found one that none has any more\n\
         program main, layers.0, StateWrite: operand 4: expected a value that an input, state or node has, found one that none has any more\n\
         program main, layers.0, Attention: operand 3: expected a value that an input, state or node has, found one that none has any more\n\
         program main, Select: operand 1: expected a value that an input, state or node has, found one that none has any more",
    );
    edited(
        |p| p.inputs.push(p.inputs[0].clone()),
        "program main, input input_ids: expected a declaration of this input, found none",
    );
    edited(
        |p| p.node_mut(node(p, "Linear")).outputs.clear(),
        "program main, layers.0, StateWrite: operand 2: expected a value that an input, state or node has, found one that none has any more\n\
         program main, layers.0, StateWrite: operand 3: expected a value that an input, state or node has, found one that none has any more\n\
         program main, layers.0, Attention: operand 0: expected a value that an input, state or node has, found one that none has any more",
    );
    edited(
        |p| {
            let value = p.node(node(p, "Linear")).outputs[0];
            p.set_weight(value, WeightExpr::tensor("embed.weight"), &[8, 8]);
        },
        "program main, layers.0, Linear: result 0: expected a value that comes from here, found one that comes from elsewhere",
    );
}

#[test]
fn names_of_a_state() {
    let slot = read(GOOD).programs[0].states().next().unwrap().0;
    edited(
        |p| p.state_mut(slot).names.truncate(1),
        "program main, State kv.0: expected a name for each of 2 parts, at least one, found 1 names",
    );
    edited(
        |p| {
            p.add_state("empty", StateKind::Full, vec![]);
        },
        "program main, State empty: expected a name for each of 0 parts, at least one, found 0 names",
    );
}

#[test]
fn values_used_before_they_are_defined() {
    edited(
        |p| {
            let last = p.node(node(p, "Softmax")).outputs[0];
            p.node_mut(node(p, "Linear")).set_operand(0, Some(last));
        },
        "program main, layers.0, Linear: operand 0 is made by a later node, expected one before",
    );
    // A write of itself, at which a walk along versions would never end.
    edited(
        |p| {
            let own = p.node(node(p, "StateWrite")).outputs.clone();
            p.node_mut(node(p, "StateWrite")).set_operand(StateWrite::part(0), Some(own[0]));
        },
        "program main, layers.0, StateWrite: operand 0 is made by a later node, expected one before",
    );
}

#[test]
fn a_write_over_no_state() {
    edited(
        |p| {
            let rows = p.node(node(p, "Linear")).outputs[0];
            p.node_mut(node(p, "StateWrite")).set_operand(StateWrite::part(1), Some(rows));
        },
        "program main, layers.0, StateWrite: attribute `repeat`: 1 does not divide the heads of act[b, s, 2, 4]\n\
         program main, layers.0, StateWrite: expected the 2 parts of one state in order, found (part 0 of `kv.0`, no state)",
    );
}

#[test]
fn types_that_are_not_inferred_ones() {
    edited(
        |p| *p.ty_mut(p.node(node(p, "Softmax")).outputs[0]) = Type::new(Elem::Bool, []),
        "program main, layers.0, Softmax: result 0: expected act[b, s, 8], found bool[]\n\
         program main, Select: operand `h`: expected [batch, seq, width], found bool[]",
    );
    edited(
        |p| {
            let ids = p.inputs[0].value;
            p.node_mut(node(p, "Linear")).set_operand(Linear::X, Some(ids));
        },
        "program main, layers.0, Linear: operand `x`: expected […, 8], as wide as the weight act[8, 8], found i64[b, s]",
    );
    edited(
        |p| {
            let node = p.node_mut(node(p, "Select"));
            node.outputs.truncate(1);
        },
        "program main, Select: expected 2 results, found 1",
    );
}

#[test]
fn weights() {
    let weight = |p: &Program| p.weights().next().unwrap().0;
    edited(
        |p| p.set_weight(weight(p), WeightExpr::tensor("gone"), &[8, 8]),
        "program main, embed, Embedding: the checkpoint has no tensor `gone`",
    );
    edited(
        |p| p.set_weight(weight(p), WeightExpr::tensor("embed.weight"), &[9, 8]),
        "program main, embed, Embedding: expected [8, 8], the shape of w\"embed.weight\", found act[9, 8]",
    );
    edited(
        |p| p.set_weight(weight(p), WeightExpr::tensor("embed.weight").take(0, 3, 3, 0..1), &[3, 8]),
        "program main, embed, Embedding: take(0, 3, 3, 0..1) does not fit an operand of shape [8, 8]: axis 0 is not 3 groups of 3, or 0..1 is not inside a group",
    );
    let deep = (0..300).fold(WeightExpr::tensor("embed.weight"), |expr, _| expr.affine(2.0, 0.0));
    edited(
        |p| p.set_weight(weight(p), deep, &[8, 8]),
        "program main, embed, Embedding: expected a weight expression at most 256 steps deep, found a deeper one",
    );
    // Nobody uses it, but `Model::sources` would still ask the checkpoint for it.
    edited(
        |p| {
            p.add_weight(WeightExpr::tensor("gone"), Type::weight(&[1]));
        },
        "program main, weight: the checkpoint has no tensor `gone`",
    );
}

#[test]
fn an_unsound_program_silences_its_links_only() {
    let mut model = read(GOOD);
    model.programs[0].inputs.clear();
    model.programs.push(model.programs[1].clone());
    let Err(Findings(findings)) = validate(&model, &index()) else { panic!("valid") };
    assert!(findings.iter().all(|finding| finding.op != "link"), "{findings:?}");
    assert!(findings.iter().any(|finding| matches!(finding.problem, Problem::NameTaken { .. })), "{findings:?}");
}

/// An edit that a hostile plugin, or a pass with a mistake, makes; numbers are reduced to what there is.
#[derive(Debug, Clone)]
struct Edit {
    kind: u8,
    at: [usize; 3],
    size: u64,
    name: String,
}

fn edit() -> impl Strategy<Value = Edit> {
    let size = prop_oneof![0u64..9, any::<u64>(), Just(u64::MAX), Just(1 << 63)];
    (0u8..14, any::<[usize; 3]>(), size, "\\PC{0,5}").prop_map(|(kind, at, size, name)| Edit { kind, at, size, name })
}

fn apply(edit: &Edit, p: &mut Program, foreign: &Program) {
    let [a, b, c] = edit.at;
    let nodes: Vec<_> = p.node_ids().collect();
    let node = nodes[a % nodes.len()];
    let pick = |p: &Program| -> ValueId {
        let of = if c % 4 == 0 { foreign } else { p };
        of.values().nth(b % of.values().len()).unwrap().0
    };
    let value = pick(p);
    match edit.kind {
        0 => p.node_mut(node).set_operand(c % 8, (b % 5 > 0).then_some(value)),
        1 => p.node_mut(node).outputs.push(value),
        2 => {
            p.node_mut(node).outputs.pop();
        }
        3 => p.node_mut(node).operands.clear(),
        4 => p.node_mut(node).scope = foreign.nodes().nth(b % 99).unwrap().1.scope,
        5 => p.inputs.truncate(b % 3),
        6 => p.add_output(edit.name.clone(), Role::ALL[b % Role::ALL.len()].0, value),
        7 => {
            let slot = p.states().nth(a % 2).unwrap().0;
            let state = p.state_mut(slot);
            state.names.push(edit.name.clone());
            if b % 2 == 0 {
                state.parts.push(value);
            } else {
                state.parts.rotate_left(b % 2);
            }
        }
        8 if p.contains(value) => {
            let dims = &mut p.ty_mut(value).dims;
            let dim = if c % 3 == 0 { Dim::symbol(&edit.name) } else { Dim::Fixed(edit.size) };
            let len = dims.len();
            match c % 5 {
                0 => dims.push(dim),
                1 => dims.clear(),
                _ if len > 0 => dims[b % len] = dim,
                _ => {}
            }
        }
        9 if p.contains(value) => {
            let expr = WeightExpr::tensor("embed.weight").take(b % 3, edit.size, edit.size, 0..edit.size);
            p.set_weight(value, expr.repeat(c % 3, edit.size, edit.size), &[edit.size, 8]);
        }
        10 => p.node_mut(node).op = Op::Linear(Linear { heads: edit.size }),
        11 => p.node_mut(node).op = Op::StateWrite(StateWrite { repeat: edit.size }),
        12 => {
            let op = p.node(nodes[b % nodes.len()]).op.clone();
            p.node_mut(node).op = op;
        }
        _ => {
            let attrs = [(edit.name.clone(), AttrValue::DType(DType::F16))].into();
            let op = Op::Onnx(OnnxOp { domain: String::new(), op_type: edit.name.clone(), attrs });
            let scope = p.intern_scope(&edit.name);
            p.add_node(scope, op, vec![Some(value)], vec![Type::new(Elem::Act, [Dim::Fixed(edit.size)])]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_program_makes_the_validator_panic(edits in vec(edit(), 1..6)) {
        let (mut model, foreign) = (read(GOOD), large());
        for edit in &edits {
            apply(edit, &mut model.programs[0], &foreign);
        }
        let text = print(&model);
        if validate(&model, &index()).is_ok() {
            // What the validator passes can be compacted, printed and read.
            let read = parse(&text, &index()).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            prop_assert!(crate::text::same(&read, &model));
        }
    }
}
