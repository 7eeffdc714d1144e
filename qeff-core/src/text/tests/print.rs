//! What graphs look like when printed.

use std::collections::BTreeMap;

use qeff_plugin_api::blocks::{Attn, Linear, Norm, Rope, RopeConfig, attention, embed, linear, lm, rotary};
use qeff_plugin_api::build::{GraphBuilder, Kv};
use qeff_plugin_api::graph::{
    AttentionMask, AttrValue, Dim, Embedding, ExpertActivation, Experts, Link, NegativeIds, NormProduct, OnnxOp, Op,
    PositionLimit, Program, RmsNorm, Role, Select, SelectMode, StateKind, StateWrite, Type, Weigh,
};
use qeff_plugin_api::weight::RopeKind;
use qeff_plugin_api::{DType, Elem, TensorIndex, WeightExpr};

use super::{model, tensors};
use crate::text::{compact, parse, print, same};
use crate::validate::validate;

/// The text of a program is `expected`, and reads back as the same model.
#[track_caller]
fn check(program: Program, index: &TensorIndex, expected: &str) {
    let model = model(vec![program]);
    let text = print(&model);
    let body = text.split_once('\n').map_or("", |(_, body)| body);
    assert_eq!(body, dedent(expected), "\n{body}");
    let read = parse(&text, index).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert!(same(&read, &model), "{read:#?}\n{model:#?}");
    assert_eq!(print(&read), text);
}

/// Without the empty first line and the indentation of the code around it.
fn dedent(text: &str) -> String {
    let lines = text.lines().skip(1).filter(|line| !line.trim().is_empty());
    lines.map(|line| format!("{}\n", &line[8..])).collect()
}

#[test]
fn a_decoder() {
    let index = tensors(&[
        ("model.embed_tokens.weight", &[32, 8]),
        ("model.layers.0.norm.weight", &[8]),
        ("model.layers.0.attn.q.weight", &[8, 8]),
        ("model.layers.0.attn.kv.weight", &[8, 8]),
        ("model.norm.weight", &[8]),
        ("model.norm.bias", &[8]),
    ]);
    let g = GraphBuilder::new("main", &index);
    let (ids, pos) = (g.tokens(), g.positions());
    let slot = g.kv(0, Kv { kind: StateKind::Rolling, ..Kv::full(1, 4) });
    let rope = RopeConfig { kind: RopeKind::Default, base: 10_000.0, width: 4, positions: 16 };
    let rope = Rope::table(g.at("model"), &rope);
    let h = embed(g.at("model.embed_tokens"), ids, [32, 8], Embedding::default());
    let l = g.at("model").at(("layers", 0));
    let x = Norm::Rms { eps: 1e-6, product: NormProduct::AfterCast }.apply(l.at("norm"), h);
    let a = l.at("attn");
    let q = rotary(a, linear(a.at("q"), x, &Linear::heads(2, 4)), rope, pos);
    let part = |name, n: u64| {
        let rows = qeff_plugin_api::blocks::linear::Rows { groups: 1, width: 8, columns: 4 * n..4 * n + 4 };
        linear(a.at("kv").at(name), x, &Linear::heads(1, 4).part_of("", rows))
    };
    slot.write(a, [rotary(a, part("k", 0), rope, pos), part("v", 1)], pos);
    let o = attention(a, q, slot, pos, Attn { mask: AttentionMask::Sliding(8), ..Attn::causal(0.5) });
    let h = l.add(h, o);
    let head = lm::Head { vocab: 32, tied_to: Some("model.embed_tokens"), ..lm::Head::default() };
    lm::tail(g.root(), h, pos, ("model.norm", Norm::Layer { eps: 1e-5 }), &head);
    let program = g.finish().unwrap();
    assert_eq!(validate(&model(vec![program.clone()]), &index), Ok(()));
    check(
        program,
        &index,
        r#"
        program main (batch_size, seq_len, sliding_window)
          %ids = input input_ids : i64[batch_size, seq_len] @tokens
          %pos = input position_ids : i64[batch_size, seq_len] @positions
          %k0, %v0 = State kv.0 rolling names(past_key.0, past_value.0) : act[batch_size, 1, sliding_window, 4]
          %cos = weight rope(cos, default, base=10000, width=4, positions=16, reach=0) : act[16, 2]
          %sin = weight rope(sin, default, base=10000, width=4, positions=16, reach=0) : act[16, 2]
          model
            embed_tokens
              %0 = Embedding %ids, w"weight" : act[batch_size, seq_len, 8]
            layers.0
              norm
                %1 = RmsNorm %0, w"weight" eps 1e-6 : act[batch_size, seq_len, 8]
              attn
                q
                  %2 = Linear %1, w"weight" heads 2 : act[batch_size, seq_len, 2, 4]
                %3 = Rotary %2, %cos, %sin, %pos half : act[batch_size, seq_len, 2, 4]
                kv
                  k
                    %4 = Linear %1, w"/model.layers.0.attn.kv.weight".take(0, 1, 8, 0..4) heads 1 : act[batch_size, seq_len, 1, 4]
                %5 = Rotary %4, %cos, %sin, %pos half : act[batch_size, seq_len, 1, 4]
                kv
                  v
                    %6 = Linear %1, w"/model.layers.0.attn.kv.weight".take(0, 1, 8, 4..8) heads 1 : act[batch_size, seq_len, 1, 4]
                %k0', %v0' = StateWrite (%k0, %v0) <- (%5, %6) at %pos
                %7 = Attention %3, %k0', %v0' at %pos sliding(8) scale 0.5 : act[batch_size, seq_len, 8]
              %8 = Add %0, %7 : act[batch_size, seq_len, 8]
            norm
              %9 = LayerNormalization %8, w"weight", w"bias" {axis: -1, epsilon: 1e-5} : act[batch_size, seq_len, 8]
          select
            %10, %11 = Select %9, %pos last : act[batch_size, 1, 8], i64[batch_size, 1]
          lm_head
            %12 = Linear %10, w"/model.embed_tokens.weight" : act[batch_size, 1, 32]
          logits
            %13 = Cast %12 {to: f32} : f32[batch_size, 1, 32]
          output logits = %13 : f32[batch_size, 1, 32] @logits
        "#,
    );
}

#[test]
fn attributes_and_optional_operands() {
    let index = tensors(&[("t", &[4, 8]), ("a.w", &[8, 8]), ("a.b", &[8])]);
    let g = GraphBuilder::new("odd name", &index);
    let (ids, pos) = (g.tokens(), g.positions());
    let batch = g.input("batch_index", Role::BatchIndex, Elem::I64, ["batch_size".into(), 1.into()]);
    let keep = g.input("keep", Role::Keep, Elem::I64, ["logits to keep".into(), 1.into()]);
    let mask = g.input("mask", Role::Mask, Elem::I64, ["batch_size".into(), "seq_len".into()]);
    let table = g.root().weight(WeightExpr::tensor("t"));
    let embedding = Embedding { scale: 2.0, offset: -2, negative: NegativeIds::Zero };
    let h = g.at("a").node(Op::Embedding(embedding), &[Some(ids), Some(table)]);
    let norm = Op::RmsNorm(RmsNorm { eps: 0.25, product: NormProduct::InF32 });
    let h = g.at("a.0").node(norm, &[Some(h), None]);
    let w = g.root().weight(WeightExpr::tensor("a.w").transposed());
    let b = g.root().weight(WeightExpr::tensor("a.b"));
    let linear = Op::Linear(qeff_plugin_api::graph::Linear { heads: 2 });
    let q = g.at("a").node(linear, &[Some(h), Some(w), Some(b)]);
    let attention = qeff_plugin_api::graph::Attention { scale: 1.0, mask: AttentionMask::Bidirectional, softcap: 30.0 };
    let operands = [Some(q), Some(q), Some(q), None, Some(mask), Some(batch)];
    let o = g.at("a.1.output").node(Op::Attention(attention), &operands);
    let select = Op::Select(Select { mode: SelectMode::LastK });
    let rows = g.at("a.1").nodes(select, &[Some(o), Some(pos), Some(keep)])[0];
    g.output("hidden", Role::Hidden, rows);
    check(
        g.finish().unwrap(),
        &index,
        r#"
        program "odd name" (batch_size, seq_len, "logits to keep")
          %ids = input input_ids : i64[batch_size, seq_len] @tokens
          %pos = input position_ids : i64[batch_size, seq_len] @positions
          %batch = input batch_index : i64[batch_size, 1] @batch_index
          %keep = input keep : i64["logits to keep", 1] @keep
          %mask = input mask : i64[batch_size, seq_len] @mask
          a
            %0 = Embedding %ids, w"/t" scale 2.0 offset -2 negative zero : act[batch_size, seq_len, 8]
          a.0
            %1 = RmsNorm %0 eps 0.25 product f32 : act[batch_size, seq_len, 8]
          a
            %2 = Linear %1, w"w".transpose(1, 0), w"b" heads 2 : act[batch_size, seq_len, 2, 4]
          a.1
            output
              %3 = Attention %2, %2, %2 mask %mask batch %batch bidirectional scale 1.0 softcap 30.0 : act[batch_size, seq_len, 8]
            %4, %5 = Select %3, %pos keep %keep last_k : act[batch_size, "logits to keep", 8], i64[batch_size, "logits to keep"]
          output hidden = %4 : act[batch_size, "logits to keep", 8] @hidden
        "#,
    );
}

#[test]
fn experts_and_sinks() {
    let index =
        tensors(&[("t", &[4, 8]), ("q.weight", &[8, 8]), ("s", &[2]), ("up", &[3, 8, 5]), ("down", &[3, 5, 8])]);
    let g = GraphBuilder::new("main", &index);
    let (root, ids) = (g.root(), g.tokens());
    let [table, sinks, up, down] = ["t", "s", "up", "down"].map(|name| root.weight(WeightExpr::tensor(name)));
    let x = root.node(Op::Embedding(Embedding::default()), &[Some(ids), Some(table)]);
    let attention = qeff_plugin_api::graph::Attention { scale: 1.0, mask: AttentionMask::Bidirectional, softcap: 0.0 };
    let q = linear(g.at("q"), x, &Linear { heads: 2, ..Linear::default() });
    let x = root.node(Op::Attention(attention), &[Some(q), Some(q), Some(q), None, None, None, Some(sinks)]);
    let [weights, sent] = root.top(x, 2);
    let activation = ExpertActivation::ClampedSwiglu { limit: 7.0, alpha: 1.5 };
    let gated = Op::Experts(Experts { activation, weigh: Weigh::Output });
    let x = root.node(gated, &[Some(x), Some(sent), Some(weights), Some(up), Some(up), Some(down)]);
    let plain = Op::Experts(Experts { activation: ExpertActivation::Relu, weigh: Weigh::Input });
    let x = root.node(plain, &[Some(x), Some(sent), Some(weights), None, Some(up), Some(down)]);
    g.output("hidden", Role::Hidden, x);
    check(
        g.finish().unwrap(),
        &index,
        r#"
        program main (batch_size, seq_len)
          %ids = input input_ids : i64[batch_size, seq_len] @tokens
          %0 = Embedding %ids, w"t" : act[batch_size, seq_len, 8]
          q
            %1 = Linear %0, w"weight" heads 2 : act[batch_size, seq_len, 2, 4]
          %2 = Attention %1, %1, %1 sinks w"s" bidirectional scale 1.0 : act[batch_size, seq_len, 8]
          %3, %4 = TopK %2, fill(2, [1]) as i64 {axis: -1} : act[batch_size, seq_len, 2], i64[batch_size, seq_len, 2]
          %5 = Experts %2, %4, %3, w"up", w"up", w"down" clamped_swiglu limit 7.0 alpha 1.5 : act[batch_size, seq_len, 8]
          %6 = Experts %5, %4, %3, _, w"up", w"down" relu weigh input : act[batch_size, seq_len, 8]
          output hidden = %6 : act[batch_size, seq_len, 8] @hidden
        "#,
    );
}

#[test]
fn raw_operators() {
    let index = tensors(&[]);
    let g = GraphBuilder::new("main", &index);
    let ids = g.tokens();
    let op = |domain: &str, op_type: &str, attrs: &[(&str, AttrValue)]| OnnxOp {
        domain: domain.into(),
        op_type: op_type.into(),
        attrs: attrs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect::<BTreeMap<_, _>>(),
    };
    let root = g.root();
    let x = root.cast(ids, DType::F32);
    root.onnx_typed(op("", "Linear", &[]), &[Some(x)], vec![Type::new(Elem::I32, [])]);
    let attrs = [
        ("axis", AttrValue::Int(-1)),
        ("big", AttrValue::Float(1e30)),
        ("dims", AttrValue::Ints(vec![1, -2])),
        ("none", AttrValue::Ints(vec![])),
        ("not a word", AttrValue::Text("say \"é\"\n".into())),
        ("one", AttrValue::Float(1.0)),
        ("to", AttrValue::DType(DType::BF16)),
    ];
    let types = vec![Type::new(Elem::Bool, ["batch_size".into()]), Type::new(Elem::Act, [Dim::Fixed(2)])];
    root.onnx_typed(op("com.acme", "Fancy", &attrs), &[None, Some(x)], types);
    root.onnx_typed(op("", "Print", &[]), &[Some(x)], vec![]);
    root.onnx_typed(op("", "Now", &[]), &[], vec![Type::new(Elem::I64, [])]);
    check(
        g.finish().unwrap(),
        &index,
        r#"
        program main (batch_size, seq_len)
          %ids = input input_ids : i64[batch_size, seq_len] @tokens
          %0 = Cast %ids {to: f32} : f32[batch_size, seq_len]
          %1 = ::Linear %0 : i32[]
          %2, %3 = com.acme::Fancy _, %0 {axis: -1, big: 1e30, dims: [1, -2], none: [], "not a word": "say \"é\"\n", one: 1.0, to: bf16} : bool[batch_size], act[2]
          _ = Print %0
          %4 = Now : i64[]
        "#,
    );
}

#[test]
fn states_of_other_shapes_and_weights_of_other_types() {
    let index = tensors(&[("s", &[1])]);
    let mut program = Program::new("main");
    program.act = DType::F16;
    let dims = |dim: u64| Type::new(Elem::Act, ["b".into(), Dim::Fixed(2), "t".into(), Dim::Fixed(dim)]);
    let latent = vec![("c".to_owned(), dims(4)), ("k pe".to_owned(), dims(2))];
    let slot = program.add_state("latent.0", StateKind::Full, latent);
    let new = |dim: u64| Type::new(Elem::Act, ["b".into(), "s".into(), Dim::Fixed(1), Dim::Fixed(dim)]);
    let c = program.add_input("new_c", Role::Hidden, new(4));
    let k = program.add_input("new_k", Role::Hidden, new(2));
    let pos = program.add_input("p", Role::Positions, Type::new(Elem::I64, ["b".into(), "s".into()]));
    let scope = program.intern_scope("");
    let mut parts = program.state(slot).parts.clone();
    for _ in 0..5 {
        let operands = parts.iter().copied().chain([c, k, pos]).map(Some).collect();
        let write = Op::StateWrite(StateWrite { repeat: 2 });
        let node = program.add_node(scope, write, operands, vec![dims(4), dims(2)]);
        parts = program.node(node).outputs.clone();
    }
    let weight = program.add_weight(WeightExpr::tensor("s"), Type::weight(&[1]).with_elem(Elem::F32));
    program.add_output("w", Role::Pooled, weight);
    check(
        program,
        &index,
        r#"
        program main (b, t, s) act f16
          %s0.0, %s0.1 = State latent.0 names(c, "k pe") : act[b, 2, t, 4], act[b, 2, t, 2]
          %hidden = input new_c : act[b, s, 1, 4] @hidden
          %0 = input new_k : act[b, s, 1, 2] @hidden
          %pos = input p : i64[b, s] @positions
          %s0.0', %s0.1' = StateWrite (%s0.0, %s0.1) <- (%hidden, %0) at %pos repeat 2
          %s0.0'', %s0.1'' = StateWrite (%s0.0', %s0.1') <- (%hidden, %0) at %pos repeat 2
          %s0.0''', %s0.1''' = StateWrite (%s0.0'', %s0.1'') <- (%hidden, %0) at %pos repeat 2
          %s0.0'4, %s0.1'4 = StateWrite (%s0.0''', %s0.1''') <- (%hidden, %0) at %pos repeat 2
          %s0.0'5, %s0.1'5 = StateWrite (%s0.0'4, %s0.1'4) <- (%hidden, %0) at %pos repeat 2
          output w = w"s" as f32 : f32[1] @pooled
        "#,
    );
}

#[test]
fn compaction_drops_what_is_unused_and_keeps_nodes() {
    let index = tensors(&[("a.w", &[8])]);
    let g = GraphBuilder::new("main", &index);
    let ids = g.tokens();
    g.at("unused").scalar(2.0);
    g.at("used").cast(ids, DType::I32);
    let program = g.finish().unwrap();
    let compacted = compact(&program);
    assert_eq!(compacted.nodes().len(), 1);
    assert_eq!(compacted.weights().count(), 0);
    assert_eq!(compact(&compacted), compacted);
}

#[test]
fn the_head_of_a_model() {
    let index = tensors(&[]);
    let mut whole = model(vec![]);
    whole.architecture = "Odd \"name\"".into();
    whole.positions = Some(PositionLimit { trained: 2048, hard: true });
    whole.stale_tensors = vec![".attn.bias".into(), ".x".into()];
    whole.links = vec![Link { from: ("vision".into(), "embeds".into()), to: ("main".into(), "im ages".into()) }];
    for name in ["vision", "main"] {
        let g = GraphBuilder::new(name, &index);
        g.tokens();
        whole.programs.push(g.finish().unwrap());
    }
    let text = print(&whole);
    assert_eq!(
        text,
        dedent(
            r#"
        model "Odd \"name\"" qeff 1 task causal_lm positions 2048 hard
        stale ".attn.bias", ".x"
        link vision embeds -> main "im ages"
        program vision (batch_size, seq_len)
          %ids = input input_ids : i64[batch_size, seq_len] @tokens
        program main (batch_size, seq_len)
          %ids = input input_ids : i64[batch_size, seq_len] @tokens
        "#
        )
    );
    assert!(same(&parse(&text, &index).unwrap(), &whole));
}

#[test]
fn a_graph_that_does_not_hold_together_prints_too() {
    let index = tensors(&[]);
    let g = GraphBuilder::new("other", &index);
    let foreign = (0..9).map(|_| g.at("x").cast(g.tokens(), DType::F32)).last();
    assert!(foreign.is_some());
    let other = g.finish().unwrap();
    let g = GraphBuilder::new("main", &index);
    g.at("y").cast(g.tokens(), DType::F32);
    let mut program = g.finish().unwrap();
    let node = program.node_ids().next().unwrap();
    let (_, far) = other.nodes().last().unwrap();
    program.node_mut(node).operands = vec![Some(far.outputs[0]), None, Some(program.node(node).outputs[0])];
    program.node_mut(node).scope = far.scope;
    program.node_mut(node).outputs.push(far.outputs[0]);
    program.inputs.clear();
    let text = print(&model(vec![program]));
    assert_eq!(
        text,
        dedent(
            r#"
        model "Tiny" qeff 1 task causal_lm positions 16
        program main ()
          y
            %0, %1 = Cast %?17, _, %?1 {to: f32} : f32[batch_size, seq_len], ?
        "#
        )
    );
}
