//! Models that look at images: a vision program for each image size, then the language program, which keeps the rows.

use qeff::{cases, fixture, fixtures_of};
use qeff_standin::config::SimConfig;
use serde_json::Value as Json;

use crate::{FULL, HALF, Held, cards, check_within, run};

/// All prompts of a fixture at once, with their images in order.
fn ask(held: Held, name: &str, words: &str) {
    ask_some(held, name, words, |_| true);
}

/// The prompts of a fixture whose images are like this, at once.
fn ask_some(held: Held, name: &str, words: &str, wanted: impl Fn(&[Json]) -> bool) {
    let cards = cards(&SimConfig::default());
    let dir = fixture(name);
    let text = std::fs::read_to_string(dir.join("expected.json")).expect("a file");
    let json: Json = serde_json::from_str(&text).expect("JSON");
    let images = |case: &Json| case["images"].as_array().expect("images").clone();
    let told = json["cases"].as_array().expect("cases").iter().zip(cases(&dir).expect("cases"));
    let (asked, cases): (Vec<_>, Vec<_>) = told.filter(|(told, _)| wanted(&images(told))).unzip();
    assert!(!cases.is_empty(), "{name}");
    let mut command =
        run(name, &cards).words("--json --logits --ignore-eos --max-new-tokens").arg(cases[0].greedy.len().to_string());
    for case in asked {
        command = command.arg("--prompt").arg(case["text"].as_str().expect("a text"));
        for file in &images(case) {
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

/// One program of both, which is shown an image a prompt.
#[test]
fn one_program_of_both() {
    for family in ["llava", "llava_next", "internvl"] {
        for name in &fixtures_of(family) {
            ask_some(FULL, name, "--single-qpc", |images| images.len() <= 1);
        }
    }
    ask_some(HALF, "llava/base", "--single-qpc --prompt-len 7", |images| images.len() <= 1);
}

#[test]
fn what_cards_cannot_do() {
    let cards = cards(&SimConfig::default());
    let said = run("llava/base", &cards).words("--prompt x --batch-size 2").refuses();
    assert!(said.contains("one at a time"), "{said}");
    let twice = |command: qeff::command::Command| {
        let image = |command: qeff::command::Command| command.arg("--image").arg(fixture("vision/rgb.png"));
        image(image(command)).words("--prompt x --single-qpc")
    };
    let said = twice(run("llava/base", &cards)).refuses();
    assert!(said.contains("shown an image a prompt, and prompt 0 shows 2"), "{said}");
    let said = twice(crate::qeff("run", &cards).model(&fixture("llava/base"))).refuses();
    assert!(said.contains("--single-qpc is about AI 100"), "{said}");
}
