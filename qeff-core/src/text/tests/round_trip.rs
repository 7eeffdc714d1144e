//! Printing and reading are inverse, for whatever the builder can build; and no text makes the reader panic.

use proptest::collection::vec;
use proptest::prelude::*;
use qeff_plugin_api::blocks::{Attn, Linear, Norm, Rope, RopeConfig, attention, linear, rotary};
use qeff_plugin_api::build::{GraphBuilder, Kv, Scope, Slot, Value};
use qeff_plugin_api::graph::{
    Attention, AttentionMask, AttrValue, Dim, Embedding, ExpertActivation, Experts, Link, Model, NegativeIds,
    NormProduct, OnnxOp, Op, PositionLimit, RmsNorm, Role, Rotary, RotaryLayout, Select, SelectMode, StateKind, Task,
    Type, Weigh,
};
use qeff_plugin_api::weight::{RopeKind, RopePart, RopeTable};
use qeff_plugin_api::{DType, Elem, TensorIndex, TensorInfo, WeightExpr};

use super::tensors;
use crate::text::{compact, parse, print, same};
use crate::validate::validate;

/// Scopes that real checkpoints have, and then those that only a stranger's has.
const PLAIN: &[&str] = &["model", "model.layers.0.attn", "model.layers.1.attn", "h.0.0.output", "model.mlp", "0"];
const ODD: &[&str] =
    &["", "a..b", "a.", "two words", "é.\"q\".\\", "%0 = x", "_", "/abs", "-", "tab\there", "output.0"];

const WIDTH: u64 = 8;

/// One step of a description, decided by numbers that are reduced to whatever there is to choose from.
#[derive(Debug, Clone)]
struct Step {
    kind: u8,
    scope: usize,
    pick: [usize; 3],
    number: f32,
    text: String,
}

#[derive(Debug, Clone)]
struct Script {
    odd: bool,
    slots: u64,
    rolling: bool,
    kv_heads: u64,
    steps: Vec<Step>,
    select: Option<u8>,
}

fn script(odd: bool) -> impl Strategy<Value = Script> {
    let number = if odd {
        proptest::num::f32::ANY.prop_filter("equal to itself", |x| !x.is_nan()).boxed()
    } else {
        (0.1f32..9.0).boxed()
    };
    let text = if odd { ".{0,6}".boxed() } else { "[A-Za-z][a-z0-9_]{0,6}".boxed() };
    let step = (0u8..13, any::<usize>(), any::<[usize; 3]>(), number, text)
        .prop_map(|(kind, scope, pick, number, text)| Step { kind, scope, pick, number, text });
    (0u64..3, any::<bool>(), 1u64..3, vec(step, 0..24), proptest::option::of(0u8..3)).prop_map(
        move |(slots, rolling, kv_heads, steps, select)| Script { odd, slots, rolling, kv_heads, steps, select },
    )
}

fn index(script: &Script) -> TensorIndex {
    let mut index = tensors(&[("table", &[32, WIDTH]), ("table.of.positions", &[16, WIDTH])]);
    for scope in PLAIN.iter().chain(ODD) {
        for (leaf, shape) in [
            ("weight", vec![WIDTH, WIDTH]),
            ("norm.weight", vec![WIDTH]),
            ("norm.bias", vec![WIDTH]),
            ("fused", vec![3 * WIDTH, WIDTH]),
            ("kv.weight", vec![script.kv_heads * 4, WIDTH]),
            ("experts.in", vec![3, WIDTH, 2]),
            ("experts.out", vec![3, 2, WIDTH]),
        ] {
            let name = if scope.is_empty() { leaf.to_owned() } else { format!("{scope}.{leaf}") };
            index.insert(name, TensorInfo { dtype: DType::F16, shape: shape.clone() });
            // The builder names a tensor of the top scope itself with a dot in front.
            index.insert(format!("{scope}.{leaf}"), TensorInfo { dtype: DType::F16, shape });
        }
    }
    index
}

/// What a step may use besides earlier results.
struct Context<'g> {
    ids: Value<'g>,
    positions: Value<'g>,
    mask: Value<'g>,
    batch: Value<'g>,
    slots: Vec<Slot<'g>>,
    kv_heads: u64,
}

fn build(script: &Script, index: &TensorIndex) -> Model {
    let g = GraphBuilder::new("main", index);
    let (ids, positions) = (g.tokens(), g.positions());
    let kind = if script.rolling { StateKind::Rolling } else { StateKind::Full };
    let slots = g.kv_all(script.slots, Kv { kind, ..Kv::full(script.kv_heads, 4) });
    let mask = g.input("attention_mask", Role::Mask, Elem::I64, ["batch_size".into(), "seq_len".into()]);
    let batch = g.input("batch_index", Role::BatchIndex, Elem::I64, ["batch_size".into(), 1.into()]);
    let keep_rows = if script.odd { "rows to keep" } else { "rows" };
    let keep = g.input("keep", Role::Keep, Elem::I64, [keep_rows.into(), 1.into()]);
    let context = Context { ids, positions, mask, batch, slots, kv_heads: script.kv_heads };
    let table = g.root().weight(WeightExpr::tensor("table"));
    let mut values = vec![g.at("embed").node(Op::Embedding(Embedding::default()), &[Some(ids), Some(table)])];
    for step in &script.steps {
        let scopes = if script.odd { ODD } else { PLAIN };
        let at = g.at(scopes[step.scope % scopes.len()]);
        values.extend(apply(step, at, &context, &values));
    }
    let mut last = values[values.len() - 1];
    if let Some(mode) = script.select {
        let mode = [SelectMode::Last, SelectMode::LastK, SelectMode::All][usize::from(mode)];
        let keep = (mode == SelectMode::LastK).then_some(keep);
        last = g.at("select").nodes(Op::Select(Select { mode }), &[Some(last), Some(positions), keep])[0];
    }
    g.output("logits", Role::Logits, last);
    let program = g.finish().unwrap_or_else(|error| panic!("{error}"));
    let text = |i: usize| script.steps.get(i).map_or_else(|| "x".to_owned(), |step| step.text.clone());
    Model {
        architecture: text(0),
        task: if script.rolling { Task::Encoder } else { Task::CausalLm },
        positions: script.select.map(|mode| PositionLimit { trained: u64::MAX, hard: mode == 0 }),
        stale_tensors: (0..script.steps.len() / 8).map(text).collect(),
        programs: vec![program],
        links: match script.odd {
            true => {
                (0..script.steps.len() / 8).map(|i| Link { from: (text(i), text(1)), to: (text(2), text(i)) }).collect()
            }
            false => vec![],
        },
    }
}

/// Appends what a step says; its result, `[batch, seq, WIDTH]`, if it has one.
fn apply<'g>(step: &Step, at: Scope<'g>, c: &Context<'g>, values: &[Value<'g>]) -> Option<Value<'g>> {
    let [p0, p1, p2] = step.pick;
    let (x, y) = (values[p0 % values.len()], values[p1 % values.len()]);
    let layout = if p2 % 2 == 0 { RotaryLayout::Half } else { RotaryLayout::Interleaved };
    let masks = [AttentionMask::Causal, AttentionMask::Sliding(p2 as u64), AttentionMask::Bidirectional];
    let how =
        Attn { mask: masks[p2 % 3], softcap: if p2 % 2 == 0 { 0.0 } else { step.number }, ..Attn::causal(step.number) };
    Some(match step.kind {
        0 => linear(at, x, &Linear::default()),
        1 => {
            let product = if p2 % 2 == 0 { NormProduct::AfterCast } else { NormProduct::InF32 };
            let weight = (p1 % 2 == 0).then(|| at.weight(at.tensor("norm.weight")));
            at.node(Op::RmsNorm(RmsNorm { eps: step.number, product }), &[Some(x), weight])
        }
        2 => Norm::Layer { eps: step.number }.apply(at.at("norm"), x),
        3 => at.add(x, y),
        4 => at.div(at.mul(x, y), at.scalar(step.number)),
        5 => {
            let how = Embedding {
                scale: step.number,
                offset: p1 as i64,
                negative: if p2 % 2 == 0 { NegativeIds::Any } else { NegativeIds::Zero },
            };
            let rows = embed_from(at, c.positions, "table.of.positions", how);
            at.add(x, rows)
        }
        6 => {
            // Rows taken apart and put together in ways that do not simplify.
            let row = |n: u64| at.tensor("fused").take(0, 3, WIDTH, n..n + 2);
            let stacked = WeightExpr::Stack { axis: p0 % 3, parts: vec![row(0), row(3), row(6), row(1)] };
            let weight = stacked.reshape([3 * WIDTH, WIDTH]).take(0, 1, 3 * WIDTH, 5..5 + WIDTH).transposed();
            let weight = weight.affine(step.number, 1.0).take(0, 1, WIDTH, 0..4).repeat(0, 2, 2);
            let weight = at.weight(weight);
            let bias = at.weight(WeightExpr::Fill { value: step.number, shape: vec![WIDTH] });
            at.node(Op::Linear(Default::default()), &[Some(x), Some(weight), Some(bias)])
        }
        7 | 8 => {
            let config = RopeConfig {
                kind: if p1 % 2 == 0 { RopeKind::Default } else { RopeKind::Linear { factor: step.number } },
                base: 10_000.0,
                width: 2 + 2 * (p0 % 2) as u64,
                positions: 16,
            };
            let slot = *c.slots.get(p0.checked_rem(c.slots.len())?)?;
            let q = rotary(
                at,
                linear(at, x, &Linear { heads: 2, ..Linear::default() }),
                Rope::table(at, &config),
                c.positions,
            );
            let k = linear(at.at("kv"), x, &Linear { heads: c.kv_heads, ..Linear::default() });
            let k = if p2 % 2 == 0 { rotary(at, k, Rope::table(at, &config), c.positions) } else { k };
            if step.kind == 7 {
                slot.write(
                    at,
                    [k, linear(at.at("kv"), y, &Linear { heads: c.kv_heads, ..Linear::default() })],
                    c.positions,
                );
            }
            attention(at, q, slot, c.positions, how)
        }
        9 => {
            let heads = |x| linear(at, x, &Linear { heads: 4, ..Linear::default() });
            let table = RopeTable {
                part: RopePart::Sin,
                kind: RopeKind::LongRope {
                    short: vec![step.number],
                    long: vec![2.0],
                    original: 8,
                    attention_factor: 1.0,
                },
                base: 1.5,
                width: 2,
                positions: 16,
                reach: p1 as u64,
            };
            let table = at.weight(WeightExpr::Rope(table).affine(2.0, 0.0));
            let q =
                at.node(Op::Rotary(Rotary { layout }), &[Some(heads(x)), Some(table), Some(table), Some(c.positions)]);
            let op = Attention { scale: how.scale, mask: how.mask, softcap: how.softcap };
            let (mask, batch) = ((p0 % 2 == 0).then_some(c.mask), (p1 % 2 == 0).then_some(c.batch));
            let sinks = at.weight(WeightExpr::Fill { value: step.number, shape: vec![4] });
            let (positions, sinks) = (Some(c.positions), (p2 % 2 == 0).then_some(sinks));
            at.node(Op::Attention(op), &[Some(q), Some(heads(y)), Some(heads(x)), positions, mask, batch, sinks])
        }
        10 => {
            let (limit, alpha) = (step.number.abs().clamp(0.1, 1e9), step.number);
            let activations = [
                ExpertActivation::Silu,
                ExpertActivation::Gelu,
                ExpertActivation::GeluTanh,
                ExpertActivation::Relu,
                ExpertActivation::ClampedSwiglu { limit, alpha },
            ];
            let (number, gated) = (p0 % activations.len(), p1 % 2 == 0 || p0 % activations.len() == 4);
            let weigh = if p2 % 2 == 0 { Weigh::Output } else { Weigh::Input };
            let [weights, sent] = at.top(x, 1 + (p2 % 3) as u32);
            let [into, out] = ["experts.in", "experts.out"].map(|name| Some(at.weight(at.tensor(name))));
            let operands = [Some(x), Some(sent), Some(weights), into.filter(|_| gated), into, out];
            at.node(Op::Experts(Experts { activation: activations[number], weigh }), &operands)
        }
        _ => {
            let attrs = [
                (step.text.clone(), AttrValue::Float(step.number)),
                ("int".into(), AttrValue::Int(p0 as i64)),
                ("ints".into(), AttrValue::Ints(step.pick.iter().map(|&p| p as i64).collect())),
                ("text".into(), AttrValue::Text(step.text.clone())),
                ("type".into(), AttrValue::DType(DType::ALL[p1 % DType::ALL.len()])),
            ];
            let attrs = attrs.into_iter().skip(p2 % 6).collect();
            let op = OnnxOp {
                domain: if step.kind == 11 { format!("com.{}", step.text) } else { String::new() },
                op_type: format!("Op{}", step.text),
                attrs,
            };
            let same = Type::new(Elem::Act, ["batch_size".into(), "seq_len".into(), Dim::Fixed(WIDTH)]);
            let types = [same, Type::new(Elem::Bool, ["batch_size".into()]), Type::new(Elem::I32, [])];
            let operands = [None, Some(x), Some(c.ids), None, Some(y), None];
            let operands = &operands[p0 % 3..operands.len() - p1 % 3];
            let results = at.onnx_typed(op, operands, types[..p2 % 4].to_vec());
            *results.first()?
        }
    })
}

fn embed_from<'g>(at: Scope<'g>, ids: Value<'g>, table: &str, how: Embedding) -> Value<'g> {
    let table = at.weight(WeightExpr::tensor(table));
    at.node(Op::Embedding(how), &[Some(ids), Some(table)])
}

fn check(script: &Script) -> Result<(), TestCaseError> {
    let index = index(script);
    let model = build(script, &index);
    let text = print(&model);
    let read = parse(&text, &index).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
    prop_assert!(same(&read, &model), "{text}");
    prop_assert_eq!(print(&read), text);
    prop_assert_eq!(compact(&read.programs[0]), read.programs[0].clone());
    let verdict = validate(&model, &index);
    prop_assert_eq!(&verdict, &validate(&read, &index), "the validator tells a model from its text");
    if !script.odd {
        prop_assert_eq!(verdict, Ok(()));
    }
    Ok(())
}

/// A change of a text as an editor, a merge or an enemy makes it.
#[derive(Debug, Clone)]
enum Mutation {
    Insert(usize, String),
    Delete(usize, usize),
    CopyLine(usize, usize),
    DropLine(usize),
    Swap(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let token = prop_oneof![
        ".{0,3}",
        prop::sample::select(vec![
            " ",
            "  ",
            "\n",
            "%0",
            "%k0'",
            "w\"",
            "\"",
            "\\u{",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            "::",
            "=",
            "_",
            "<-",
            "@",
            "'",
            "Linear ",
            "StateWrite (",
            "weight ",
            "input ",
            "State ",
            "program x ()\n",
            "concat(0, ",
            "18446744073709551615",
            "-1",
            "1e99",
            ".take(0, 1, 8, 0..4)",
            ".reshape(",
            " as f32",
            "rope(cos, default",
        ])
        .prop_map(str::to_owned),
    ];
    prop_oneof![
        (any::<usize>(), token).prop_map(|(at, text)| Mutation::Insert(at, text)),
        (any::<usize>(), 1usize..12).prop_map(|(at, count)| Mutation::Delete(at, count)),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Mutation::CopyLine(from, to)),
        any::<usize>().prop_map(Mutation::DropLine),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Mutation::Swap(a, b)),
    ]
}

fn mutate(text: &str, mutation: &Mutation) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let mut lines: Vec<&str> = text.split('\n').collect();
    match *mutation {
        Mutation::Insert(at, ref token) => {
            let at = at % (chars.len() + 1);
            chars.splice(at..at, token.chars());
            return chars.into_iter().collect();
        }
        Mutation::Delete(at, count) => {
            let at = at % (chars.len() + 1);
            chars.drain(at..(at + count).min(chars.len()));
            return chars.into_iter().collect();
        }
        Mutation::CopyLine(from, to) => lines.insert(to % lines.len(), lines[from % lines.len()]),
        Mutation::DropLine(at) => {
            lines.remove(at % lines.len());
        }
        Mutation::Swap(a, b) => {
            let count = lines.len();
            lines.swap(a % count, b % count);
        }
    }
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_builder_builds_reads_back(script in script(false)) {
        check(&script)?;
    }

    #[test]
    fn odd_names_and_numbers_read_back(script in script(true)) {
        check(&script)?;
    }

    #[test]
    fn no_text_makes_the_reader_panic(script in script(false), mutations in vec(mutation(), 1..4)) {
        let index = index(&script);
        let good = print(&build(&script, &index));
        let bad = mutations.iter().fold(good, |text, mutation| mutate(&text, mutation));
        if let Ok(model) = parse(&bad, &index) {
            // It may be another model, but it is one: it prints, and the validator has an opinion.
            let text = print(&model);
            let again = parse(&text, &index).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            prop_assert_eq!(print(&again), text);
            let _ = validate(&model, &index);
        }
    }

    #[test]
    fn nor_does_any_string(text in "\\PC{0,80}", indent in 0usize..6) {
        let index = tensors(&[("a", &[2])]);
        let lines = format!("model \"m\" qeff 1 task encoder\nprogram p ()\n{}{text}", " ".repeat(indent));
        let _ = parse(&lines, &index);
        let _ = parse(&text, &index);
    }
}
