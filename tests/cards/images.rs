//! Models that look at images: a vision program for each image size, then the language program, which keeps the rows.

use qeff::{cases, fixture, fixtures_of};
use qeff_standin::config::SimConfig;
use serde_json::Value as Json;

use crate::{FULL, HALF, Held, cards, check_within, run};

/// All prompts of a fixture at once, with their images in order.
fn ask(held: Held, name: &str, words: &str) {
    let cards = cards(&SimConfig::default());
    let dir = fixture(name);
    let text = std::fs::read_to_string(dir.join("expected.json")).expect("a file");
    let json: Json = serde_json::from_str(&text).expect("JSON");
    let cases = cases(&dir).expect("cases");
    let mut command =
        run(name, &cards).words("--json --logits --ignore-eos --max-new-tokens").arg(cases[0].greedy.len().to_string());
    for case in json["cases"].as_array().expect("cases") {
        command = command.arg("--prompt").arg(case["text"].as_str().expect("a text"));
        for file in case["images"].as_array().expect("images") {
            command = command.arg("--image").arg(fixture("vision").join(file.as_str().expect("a name")));
        }
    }
    let outcome = command.words(words).words(held.words).succeeds();
    check_within(held.tolerance, &format!("{name} {}", held.words), &cases, &outcome);
    cards.clean_calls();
}

fn every_fixture(held: Held) {
    for family in ["llava", "llava_next", "internvl"] {
        let names = fixtures_of(family);
        assert!(!names.is_empty(), "{family}");
        names.iter().for_each(|name| ask(held, name, ""));
    }
}

#[test]
fn every_fixture_in_full() {
    every_fixture(FULL);
}

#[test]
fn every_fixture_in_half() {
    every_fixture(HALF);
}

/// Calls of seven tokens, which end within images.
#[test]
fn prompts_in_several_calls() {
    ask(FULL, "llava/base", "--prompt-len 7");
    ask(HALF, "llava_next/base", "--prompt-len 7 --ctx-len 160");
}

#[test]
fn what_cards_cannot_do() {
    let cards = cards(&SimConfig::default());
    let said = run("llava/base", &cards).words("--prompt x --batch-size 2").refuses();
    assert!(said.contains("one at a time"), "{said}");
}
