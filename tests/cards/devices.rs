//! What is installed and which cards are there: libraries, headers, boards, cards that are busy or in error.

use std::path::Path;

use qeff::cards::{of, several};
use qeff::{cases, fixture};
use qeff_standin::config::{Card, CardStatus, Layout, SimConfig};
use qeff_standin::graph::invalid::Negative;
use serde_json::Value as Json;

use crate::{ask, cards, check, qeff, run};

const WORDS: &str = "--prompt-ids 1,2,3 --max-new-tokens 2 --ctx-len 48";

#[test]
fn both_layouts_of_the_properties_and_none() {
    let all = cases(&fixture("llama/base")).expect("a fixture");
    for layout in [Layout::Classic, Layout::New] {
        let sdk = cards(&SimConfig { layout, ..several(4) });
        let outcome = ask(run("llama/base", &sdk), &all).words("--device-group 2,3 --ctx-len 48").succeeds();
        check("a layout", &all, &outcome);
        let calls = sdk.clean_calls();
        assert!(of(&calls, "run").iter().all(|run| run["cards"] == Json::from(vec![2, 3])), "{layout:?}");
    }
    let sdk = cards(&SimConfig { header: false, ..several(4) });
    run("llama/base", &sdk).words(WORDS).words("--device-group 3").succeeds();
    assert!(of(&sdk.clean_calls(), "run").iter().all(|run| run["cards"] == Json::from(vec![3])));
    let said = run("llama/base", &sdk).words(WORDS).words("--device-group 0,1").fails(3);
    assert!(said.contains("a program for several cards needs QAicApi.h of the SDK"), "{said}");
    sdk.clean_calls();
}

#[test]
fn a_header_that_is_not_understood() {
    let sdk = cards(&several(2));
    let header = sdk.root().join("dev/inc/QAicApi.h");
    std::fs::write(&header, "struct QAicProgramProperties { Unknown a; const char *devMapping; };\n")
        .expect("a header");
    run("llama/base", &sdk).words(WORDS).words("--device-group 1").succeeds();
    sdk.clean_calls();
    let said = run("llama/base", &sdk).words(WORDS).words("--device-group 0,1").fails(3);
    assert!(said.contains("cannot tell the layout because of `Unknown a`"), "{said}");
}

#[test]
fn libraries_that_do_not_do() {
    let cases: [(SimConfig, &str); 4] = [
        (SimConfig { library: false, ..several(1) }, "cannot open the AI 100 runtime SDK/dev/lib/x86_64/libQAic.so"),
        (
            SimConfig { missing_symbols: vec!["qaicExecObjSetDataExt".into()], ..several(1) },
            "has no function qaicExecObjSetDataExt; expected the AI 100 runtime of SDK 1.6 or later",
        ),
        (
            SimConfig { library_version: [10, 0], header_version: [10, 3], ..several(1) },
            "has version 10.0, and its header SDK/dev/inc/QAicApi.h is of 10.3",
        ),
        (SimConfig { library_version: [11, 0], ..several(1) }, "has version 11.0, and its header"),
    ];
    for (config, expected) in cases {
        let sdk = cards(&config);
        let said = run("llama/base", &sdk).words(WORDS).fails(3);
        assert!(said.contains(expected), "{said}");
        sdk.clean_calls();
    }
}

#[test]
fn the_library_that_the_environment_names() {
    let sdk = cards(&several(1));
    let library = sdk.root().join("dev/lib/x86_64/libQAic.so");
    let command = || qeff("devices", &sdk).arg("--json");
    let json = command().env("QAIC_SDK_ROOT", sdk.root()).succeeds().json();
    assert_eq!(json["library"], Json::from(library.display().to_string()));
    let json = command().env("QAIC_LIB", "/nowhere/libQAic.so").succeeds().json();
    assert_eq!((&json["library"], &json["library_opens"]), (&"/nowhere/libQAic.so".into(), &false.into()));
}

#[test]
fn cards_are_listed_with_what_is_free() {
    let mut config = several(4);
    config.cards[1].status = CardStatus::Error;
    config.cards[2].busy = 12;
    let sdk = cards(&config);
    let list = |json: bool| {
        let command = qeff("devices", &sdk).path("--sdk", sdk.root(), "SDK");
        if json { command.arg("--json") } else { command }
    };
    let json = list(true).succeeds().json();
    let cards: Vec<_> = json["devices"].as_array().expect("a list").iter().collect();
    assert_eq!(cards.len(), 4);
    assert_eq!((&cards[1]["status"], &cards[2]["free_cores"]), (&"Error".into(), &4.into()));
    let text = list(false).succeeds().stdout;
    assert!(text.contains(" 4 of 16 cores free"), "{text}");

    let none = crate::cards(&several(0));
    let outcome = qeff("devices", &none).path("--sdk", none.root(), "SDK").succeeds();
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("lists no card: is one plugged in"), "{}", outcome.stderr);
    let nowhere = Path::new("/nowhere");
    let outcome = qeff("devices", &none).path("--sdk", nowhere, "SDK").succeeds();
    assert!(outcome.stderr.contains("install the Platform SDK"), "{}", outcome.stderr);
}

#[test]
fn cards_that_cannot_take_a_program() {
    let mut config = several(4);
    config.cards[0].busy = 10;
    config.cards[1].status = CardStatus::Error;
    config.cards[2].status = CardStatus::Initializing;
    let sdk = cards(&config);
    let said = |group: &str| run("llama/base", &sdk).words(WORDS).words("--device-group").arg(group).fails(3);
    let cases = [
        ("0", "card 0 has 6 of 16 cores free, and the program takes 16"),
        ("1", "card 1 is in error"),
        ("2", "card 2 is still starting"),
        ("9", "card 9 is not here"),
        ("3,0", "card 0 has 6 of 16 cores free"),
    ];
    for (group, expected) in cases {
        let said = said(group);
        assert!(said.contains(expected), "{group}: {said}");
        sdk.clean_calls();
    }
    // Whoever names no card gets one that has room.
    run("llama/base", &sdk).words(WORDS).succeeds();
    assert_eq!(of(&sdk.clean_calls(), "run")[0]["cards"], Json::from(vec![3]));
    let outcome = run("llama/base", &sdk).words(WORDS).words("--num-devices 2").run();
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("takes 16 cores of each of 2 cards"), "{}", outcome.stderr);
    // Fewer cores fit beside another program.
    run("llama/base", &sdk).words(WORDS).words("--num-cores 6 --device-group 0").succeeds();
    sdk.clean_calls();
}

#[test]
fn boards_stay_together() {
    let mut config = SimConfig { cards: Card::several(8), ..SimConfig::default() };
    config.cards[1].busy = 16;
    let sdk = cards(&config);
    run("llama/base", &sdk).words(WORDS).words("--num-devices 4").succeeds();
    assert_eq!(of(&sdk.clean_calls(), "run")[0]["cards"], Json::from(vec![4, 5, 6, 7]));
    let said = run("llama/base", &sdk).words(WORDS).words("--num-devices 8").fails(1);
    assert!(said.contains("takes 16 cores of each of 8 cards"), "{said}");
}

#[test]
fn the_stand_in_is_what_was_assumed_and_a_wrong_one_is_found_out() {
    let sdk = cards(&several(2));
    let model = fixture("llama/base");
    let doctor = |sdk: &qeff::cards::Cards| {
        let command = qeff("doctor", sdk).path("--sdk", sdk.root(), "SDK").path("--acceptance", &model, "MODEL");
        command.words("--device-group 0,1 --json")
    };
    let outcome = doctor(&sdk).run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let json = outcome.json();
    let checks = json["checks"].as_array().expect("checks");
    assert_eq!((checks.len(), &json["failed"]), (12, &0.into()));
    assert!(checks.iter().all(|check| check["outcome"] == "holds"), "{json}");
    sdk.clean_calls();

    // A device that takes -1 for an index.
    let wrong = cards(&SimConfig { negative_rows: Negative::Wrap, ..several(2) });
    let outcome = doctor(&wrong).run();
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("1 of 12 checks failed on this machine"), "{}", outcome.stderr);
    let json = outcome.json();
    let failed: Vec<_> =
        json["checks"].as_array().expect("checks").iter().filter(|check| check["outcome"] == "FAILS").collect();
    assert_eq!(failed[0]["claim"], "a write at position -1 changes nothing");
    assert_eq!(failed.len(), 1, "everything else is right all the same: {failed:?}");
}
