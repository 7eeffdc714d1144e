//! Every architecture, from the checkpoint to tokens: compiled, loaded, prompts in chunks, states that stay on the card.

use std::collections::BTreeSet;

use qeff::cards::{of, several};
use qeff::{cases, fixture, fixtures_of};
use qeff_standin::config::{SimConfig, StateInit};
use qeff_standin::graph::invalid::Negative;
use serde_json::Value as Json;

use crate::{FULL, HALF, Held, ask, cards, check, check_within, run};

/// How a program may be compiled and called; all give the same tokens.
const WAYS: [&str; 5] = [
    "--device-group [0] --ctx-len 48 --prompt-len 32",
    // Chunks that do not divide prompts, a context that chunks do not divide.
    "--device-group 1 --ctx-len 43 --prompt-len 5 --batch-size 2",
    "--prompt-len 1 --ctx-len 48 --batch-size 3",
    // Slots that are filled again while others run.
    "--full-batch-size 2 --prompt-len 4 --ctx-len 48",
    "--full-batch-size 3 --prompt-len 1 --ctx-len 48",
];

fn answers_are_the_references(name: &str, ways: &[&str]) {
    answers_are_held(HALF, name, ways);
}

fn answers_are_held(held: Held, name: &str, ways: &[&str]) {
    let cards = cards(&several(2));
    let all = cases(&fixture(name)).expect("a fixture");
    for way in ways {
        // More prompts than slots.
        let outcome = ask(run(name, &cards), &all).words(way).words(held.words).succeeds();
        check_within(held.tolerance, &format!("{name} {way} {}", held.words), &all, &outcome);
        let calls = cards.clean_calls();
        assert_eq!(of(&calls, "qaicLoadProgram").len(), 1, "{name} {way}: one load for all prompts");
        for run in of(&calls, "run") {
            let skipped = run["skipped"].as_array().map_or(0, Vec::len);
            assert!(skipped > 0, "{name} {way}: states stay on the card: {run}");
        }
    }
}

#[test]
fn llama_in_every_way() {
    answers_are_the_references("llama/base", &WAYS);
}

#[test]
fn gpt2_in_every_way() {
    answers_are_the_references("gpt2/base", &WAYS);
}

#[test]
fn gpt_oss_in_every_way() {
    answers_are_the_references("gpt_oss/base", &WAYS);
}

#[test]
fn every_family() {
    for name in ["mistral/base", "qwen2/base", "qwen3/base", "granite/base"] {
        answers_are_the_references(name, &[WAYS[1], WAYS[3]]);
    }
    for name in &fixtures_of("swiftkv") {
        answers_are_the_references(name, &[WAYS[1], WAYS[3]]);
    }
}

/// Where nothing is rounded, all that is left of a difference is the order of sums.
#[test]
fn nothing_is_lost_but_by_rounding() {
    let families = ["llama", "mistral", "qwen2", "qwen3", "granite", "gpt_oss", "gpt2"];
    for family in families {
        answers_are_held(FULL, &format!("{family}/base"), &[WAYS[1], WAYS[3]]);
    }
    for name in fixtures_of("swiftkv") {
        answers_are_held(FULL, &name, &[WAYS[1], WAYS[3]]);
    }
}

#[test]
fn windows_and_odd_shapes() {
    for name in ["mistral/sliding", "mistral/head-dim", "qwen2/sliding", "llama/one-kv-head", "llama/odd-vocab"] {
        answers_are_the_references(name, &[WAYS[1], WAYS[3]]);
    }
    for name in ["gpt_oss/one-kv-head", "gpt_oss/no-bias", "llama/tied", "llama/sharded", "qwen3/one-kv-head"] {
        answers_are_the_references(name, &[WAYS[3]]);
    }
}

#[test]
fn quantised_weights() {
    for name in ["quantised/gptq", "quantised/awq", "quantised/mxfp4", "quantised/ct-int8", "quantised/fp8-block"] {
        answers_are_the_references(name, &[WAYS[1]]);
    }
}

#[test]
fn several_cards() {
    let name = "llama/base";
    let all = cases(&fixture(name)).expect("a fixture");
    let sdk = cards(&several(16));
    for group in ["0,1", "3,1,2,0", "4,5,6,7,8,9,10,11", "15,14,13,12,11,10,9,8,7,6,5,4,3,2,1,0"] {
        let way = format!("--device-group {group} --full-batch-size 2 --prompt-len 4 --ctx-len 48");
        let outcome = ask(run(name, &sdk), &all).words(&way).succeeds();
        check(&way, &all, &outcome);
        let calls = sdk.clean_calls();
        // What the header says of `devMapping` was right: the library read the cards back in their order.
        let wanted: Vec<i64> = group.split(',').map(|id| id.parse().expect("a card")).collect();
        let runs = of(&calls, "run");
        assert!(runs.iter().all(|run| run["cards"] == Json::from(wanted.clone())), "{}", runs[0]);
    }
    let outcome = ask(run(name, &sdk), &all).words("--num-devices 4 --ctx-len 48").succeeds();
    check("cards that are chosen", &all, &outcome);
    let calls = sdk.clean_calls();
    assert_eq!(of(&calls, "run")[0]["cards"], Json::from(vec![0, 1, 2, 3]), "of one board");
}

#[test]
fn prompts_are_read_while_others_run() {
    let name = "llama/base";
    let sdk = cards(&several(1));
    let command = run(name, &sdk).words("--json --ignore-eos --full-batch-size 2 --prompt-len 2 --ctx-len 24");
    // What the context leaves is answered, so the second ends first, and the third is read beside the first.
    let (short, long) = ("1,2,3,4,5,6", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16");
    let outcome = command.args(["--prompt-ids", short, "--prompt-ids", long, "--prompt-ids", short]).succeeds();
    let json = outcome.json();
    assert_eq!(json["outputs"][0]["generated_ids"], json["outputs"][2]["generated_ids"]);
    // Between two calls that were handed over there was no wait: both were in progress.
    let calls = sdk.clean_calls();
    let names: Vec<&str> = calls.iter().filter_map(|call| call["call"].as_str()).collect();
    let data = names.iter().filter(|name| name.starts_with("qaicEnqueue") || name.starts_with("qaicExecObjWait"));
    let data: Vec<_> = data.collect();
    assert!(data.windows(2).any(|pair| pair[0].starts_with("qaicEnqueue") && pair[0] == pair[1]), "{names:?}");
}

#[test]
fn text_streams_as_on_the_cpu() {
    let sdk = cards(&several(1));
    let words = "--prompt hello --max-new-tokens 5 --ctx-len 64";
    let on_cards = run("llama/base", &sdk).words(words).succeeds();
    let on_cpu = crate::qeff("run", &sdk).model(&fixture("llama/base")).words(words).succeeds();
    assert_eq!(on_cards.stdout, on_cpu.stdout);
}

#[test]
fn a_device_may_take_a_negative_row_for_one_from_the_end() {
    // Only windows rely on the device to drop such writes; see the list of what is unproven.
    let sdk = cards(&SimConfig { negative_rows: Negative::Wrap, ..several(2) });
    let name = "llama/base";
    let all = cases(&fixture(name)).expect("a fixture");
    for way in WAYS {
        check(way, &all, &ask(run(name, &sdk), &all).words(way).succeeds());
    }
    // Prompts that fill the context, which chunks do not divide.
    let longest = all.iter().map(|case| case.prompt.len()).max().unwrap_or(0);
    let way = format!("--ctx-len {longest} --prompt-len 4 --batch-size 2 --max-new-tokens 1 --prompt-ids");
    let case = all.iter().find(|case| case.prompt.len() == longest).expect("the longest");
    let outcome = run(name, &sdk).words("--json").words(&way).arg(crate::join(&case.prompt)).succeeds();
    assert_eq!(crate::ids(&outcome.json()["outputs"][0]["generated_ids"]), case.greedy[..1]);
    assert!(longest % 4 != 0 && longest > 4, "{longest}: the last chunk has padding");
}

#[test]
fn states_may_hold_anything_at_first() {
    let sdk = cards(&SimConfig { state_init: StateInit::Nan, ..several(2) });
    for (name, way) in [("llama/base", WAYS[3]), ("gpt2/base", WAYS[1]), ("gpt_oss/base", WAYS[3])] {
        let all = cases(&fixture(name)).expect("a fixture");
        check(name, &all, &ask(run(name, &sdk), &all).words(way).succeeds());
    }
}

#[test]
fn whatever_else_a_program_is_compiled_for() {
    let name = "llama/base";
    let all = cases(&fixture(name)).expect("a fixture");
    let sdk = cards(&several(1));
    let sizes = "--prompt-len 8 --ctx-len 48";
    // Formats that cost numbers their precision: there are answers.
    let outcome = ask(run(name, &sdk), &all).words(sizes).words("--mxfp6-matmul --mxint8-kv-cache").succeeds();
    assert_eq!(outcome.json()["outputs"].as_array().map(Vec::len), Some(all.len()));
    sdk.clean_calls();
    let ways = [
        format!("--enable-qnn --qnn-sdk {}", sdk.root().display()),
        "--num-cores 4 --mos 1 --aic-enable-depth-first".to_owned(),
    ];
    for way in ways {
        check(&way, &all, &ask(run(name, &sdk), &all).words(sizes).words(&way).succeeds());
        sdk.clean_calls();
    }
    // Several decode programs of a speculation target, and lengths that attention looks at: the cheapest that fits is called.
    let compiled = |words: &str| {
        let command = crate::qeff("compile", &sdk).model(&fixture(name)).path("--sdk", sdk.root(), "SDK").words(words);
        command.succeeds().stdout.trim_end().to_owned()
    };
    let rows = |words: &str| {
        let qpc = compiled(words);
        sdk.calls();
        let command = crate::qeff("execute", &sdk).path("--sdk", sdk.root(), "SDK").words("--qpc-path").arg(qpc);
        check(words, &all, &ask(command, &all).succeeds());
        let calls = sdk.clean_calls();
        let rows: BTreeSet<u64> = of(&calls, "run").iter().filter_map(|run| run["row"].as_u64()).collect();
        rows.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(
        rows("--prompt-len 8 --ctx-len 48 --num-speculative-tokens 0,3"),
        [0, 1, 2],
        "the four of drafts take short ends"
    );
    assert_eq!(rows("--prompt-len 8 --ctx-len 48 --num-speculative-tokens 2"), [0, 1]);
    let lengths = "--comp-ctx-lengths-prefill 16,32 --comp-ctx-lengths-decode 24,48";
    assert_eq!(rows(&format!("--prompt-len 8 --ctx-len 48 --ccl-enabled {lengths}")), [0, 1]);
}
