use super::*;
use crate::compile::testing::{decoder, program};

fn lines(program: &Program, shape: &Shape) -> Vec<String> {
    let line = |one: Specialization| {
        let symbols = one.symbols.iter().map(|(symbol, n)| format!(" {symbol}={n}"));
        format!("{}{}", one.name, symbols.collect::<String>())
    };
    of(program, shape).expect("specializations").into_iter().map(line).collect()
}

fn refused(program: &Program, shape: &Shape) -> String {
    of(program, shape).expect_err("a refusal").to_string()
}

const BATCHED: &str = "batch_index i64 batch_size 1";
const TARGET: &str = "num_logits_to_keep i64 num_logits_to_keep 1";

/// A target whose prefill is as long as its decode keeps another number of logits: both are needed.
#[test]
fn a_target_with_a_short_prefill() {
    let shape = Shape { prompt_len: Some(4), speculative_tokens: vec![3, 3], ..Shape::default() };
    assert_eq!(
        lines(&decoder("f32", TARGET), &shape),
        [
            "Prefill batch_size=1 ctx_len=128 num_logits_to_keep=1 seq_len=4",
            "Decode batch_size=1 ctx_len=128 num_logits_to_keep=4 seq_len=4"
        ]
    );
}

#[test]
fn a_rolling_buffer_has_room_for_a_call_and_its_window() {
    let mut program = decoder("f32", "past_key.1 f32 batch_size 2 sliding_window 16");
    program.windows.insert("sliding_window".into(), 16);
    let window = |shape: &Shape| of(&program, shape).expect("specializations")[1].symbols["sliding_window"];
    let shape =
        |prompt_len, ctx_len| Shape { prompt_len: Some(prompt_len), ctx_len: Some(ctx_len), ..Shape::default() };
    assert_eq!(window(&shape(32, 128)), 16 + 32 - 1);
    assert_eq!(window(&shape(32, 40)), 40, "no more than there are positions");
    let mut asked = shape(32, 128);
    asked.symbols.insert("sliding_window".into(), 16);
    assert_eq!(window(&asked), 16, "what the user says wins");
}

#[test]
fn what_does_not_fit_together() {
    let plain = decoder("f32", "");
    let with = |change: fn(&mut Shape)| {
        let mut shape = Shape::default();
        change(&mut shape);
        shape
    };
    let cases: [(&Program, Shape, &str); 10] = [
        (&plain, with(|s| s.prompt_len = Some(256)), "--prompt-len 256 does not fit --ctx-len 128"),
        (&plain, with(|s| s.kv_cache_batch_size = Some(4)), "without --full-batch-size"),
        (&plain, with(|s| s.seq_lens = vec![8]), "--seq-len: the graph has no use for it"),
        (&plain, with(|s| s.encoder_ctx_len = Some(8)), "--encoder-ctx-len: the graph has no use for it"),
        (&plain, with(|s| s.ctx_len = Some(1 << 40)), "`ctx_len`: expected a number from 1 to"),
        (&plain, with(|s| s.symbols = [("seq_len".into(), 3)].into()), "--symbol seq_len=3: this number has a flag"),
        (&decoder("f32", BATCHED), with(|_| {}), "--full-batch-size is missing"),
        (
            &decoder("f32", BATCHED),
            with(|s| (s.full_batch_size, s.kv_cache_batch_size) = (Some(4), Some(2))),
            "expected at least 4",
        ),
        (&decoder("f32", TARGET), with(|s| s.speculative_tokens = vec![u64::MAX]), "does not fit --prompt-len 32"),
        (&decoder("f32", "extra f32 strange"), with(|_| {}), "give it with --symbol strange=N"),
    ];
    for (program, shape, part) in cases {
        let said = refused(program, &shape);
        assert!(said.contains(part), "{said}");
    }
    let said = refused(&program("x f32 n", "y f32 n"), &Shape::default());
    assert!(said.contains("cannot tell what this program is"), "{said}");
}

#[test]
fn both_forms_of_the_file() {
    let all = of(&decoder("f32", ""), &Shape { prompt_len: Some(1), ..Shape::default() }).expect("specializations");
    let named = r#"{
    "specializations":[
        {
            "name":"Prefill",
            "symbols":{
                "batch_size":"1",
                "ctx_len":"128",
                "seq_len":"1"
            }
        }
    ]
}"#;
    assert_eq!(text(&all, Dialect::Named), named);
    let classic: Json = serde_json::from_str(&text(&all, Dialect::Classic)).expect("JSON");
    assert_eq!(classic, json!({ "specializations": [{ "batch_size": "1", "ctx_len": "128", "seq_len": "1" }] }));
}
