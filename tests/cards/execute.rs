//! `execute` and `inspect`: QPCs that are there, ours and those that lie as the reference leaves them.

use std::path::{Path, PathBuf};

use qeff::cards::{Cards, several};
use qeff::{cases, fixture};

use crate::{ask, cards, check, qeff};

/// Compiles a fixture; the folder that is printed.
fn compiled(name: &str, cards: &Cards, words: &str) -> PathBuf {
    let command = qeff("compile", cards).model(&fixture(name)).path("--sdk", cards.root(), "SDK").words(words);
    PathBuf::from(command.succeeds().stdout.trim_end())
}

fn execute(qpc: &Path, cards: &Cards) -> qeff::command::Command {
    qeff("execute", cards).path("--qpc-path", qpc, "QPC").path("--sdk", cards.root(), "SDK")
}

#[test]
fn ours_by_its_manifest() {
    let sdk = cards(&several(2));
    let all = cases(&fixture("llama/base")).expect("a fixture");
    let qpc = compiled("llama/base", &sdk, "--full-batch-size 2 --prompt-len 4 --ctx-len 48");
    sdk.calls();
    for place in [&qpc, &qpc.join("programqpc.bin"), &qpc.parent().expect("an artifact").to_path_buf()] {
        let command = execute(place, &sdk).model(&fixture("llama/base")).words("--full-batch-size 2 --ctx-len 48");
        check("manifest", &all, &ask(command, &all).succeeds());
        sdk.clean_calls();
    }
    // Ids need no model.
    check("ids", &all, &ask(execute(&qpc, &sdk), &all).succeeds());

    let said = execute(&qpc, &sdk).words("--prompt-ids 1 --full-batch-size 4").refuses();
    assert!(said.contains("--full-batch-size 4: the QPC is compiled for 2 sequences at once"), "{said}");
    let said = execute(&qpc, &sdk).words("--prompt-ids 1 --ctx-len 64").refuses();
    assert!(said.contains("--ctx-len 64: the QPC is compiled for 48 positions"), "{said}");
    let said = execute(&qpc, &sdk).words("--prompt-ids 1 --device-group 0,1").refuses();
    assert!(said.contains("--device-group names 2 cards, and the QPC is compiled for 1"), "{said}");
    let said = execute(&qpc, &sdk).words("--prompt hello").refuses();
    assert!(said.contains("name the checkpoint with --model"), "{said}");
    let said = execute(&qpc, &sdk).words("--prompt-ids 100000").refuses();
    assert!(said.contains("the program's vocabulary ends at"), "{said}");
    sdk.clean_calls();
}

#[test]
fn the_references_by_its_specializations() {
    let sdk = cards(&several(2));
    let all = cases(&fixture("gpt2/base")).expect("a fixture");
    for (words, group) in [
        ("--prompt-len 8 --ctx-len 40 --batch-size 2", "1"),
        ("--full-batch-size 2 --ctx-len 40 --num-devices 2", "1,0"),
    ] {
        let ours = compiled("gpt2/base", &sdk, words);
        // As the reference leaves it: the QPC in a folder `qpc`, the sizes beside that, and nothing of ours.
        let theirs = sdk.folder(&format!("theirs-{}", group.len()));
        std::fs::create_dir_all(theirs.join("qpc")).expect("a folder");
        std::fs::copy(ours.join("programqpc.bin"), theirs.join("qpc/programqpc.bin")).expect("a QPC");
        let sizes = ours.parent().expect("an artifact").join("specializations.json");
        std::fs::copy(sizes, theirs.join("specializations.json")).expect("sizes");
        sdk.calls();
        let command =
            execute(&theirs.join("qpc"), &sdk).model(&fixture("gpt2/base")).words("--device-group").arg(group);
        let outcome = ask(command, &all).succeeds();
        check(words, &all, &outcome);
        sdk.clean_calls();

        // And with nothing beside it: the states say how long sequences are.
        std::fs::remove_file(theirs.join("specializations.json")).expect("sizes");
        let command = execute(&theirs.join("qpc"), &sdk).words("--device-group").arg(group);
        let outcome = ask(command, &all).succeeds();
        check(words, &all, &outcome);
        assert!(outcome.warnings()[0].contains("its states have 40 positions"), "{}", outcome.stderr);
        sdk.clean_calls();
    }
}

#[test]
fn inspect_needs_no_card() {
    let sdk = cards(&several(1));
    let qpc = compiled("llama/base", &sdk, "--full-batch-size 2 --prompt-len 4 --ctx-len 48");
    sdk.calls();
    let json = qeff("inspect", &sdk).arg(&qpc).arg("--json").succeeds().json();
    assert_eq!((&json["devices"], &json["cores"], &json["kind"]), (&1.into(), &16.into(), &"decoder".into()));
    assert_eq!(json["specializations"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["states"].as_array().map(Vec::len), Some(4));
    let text = qeff("inspect", &sdk).arg(qpc.join("programqpc.bin")).succeeds().stdout;
    assert!(text.contains("in  input_ids : i64"), "{text}");
    assert!(sdk.calls().is_empty(), "nothing was called");

    let several = compiled("llama/base", &sdk, "--num-devices 4 --ctx-len 48");
    let json = qeff("inspect", &sdk).arg(&several).arg("--json").succeeds().json();
    assert_eq!((&json["devices"], json["slices"].as_array().map(Vec::len)), (&4.into(), Some(4)));
}

#[test]
fn what_is_no_qpc() {
    let sdk = cards(&several(1));
    let qpc = compiled("llama/base", &sdk, "--ctx-len 48");
    let sound = std::fs::read(qpc.join("programqpc.bin")).expect("a QPC");
    let folder = sdk.folder("damaged");
    let file = folder.join("programqpc.bin");
    let cases: [(&str, Vec<u8>, &str); 3] = [
        ("cut", sound[..sound.len() / 2].to_vec(), "a copy stopped early, or it is damaged"),
        ("magic", [b"ELF!", &sound[4..]].concat(), "expected a QPC, which begins with 0x00a1cd7c"),
        ("empty", vec![], "expected a QPC, whose header has 40 bytes; found 0 bytes"),
    ];
    for (name, bytes, expected) in cases {
        std::fs::write(&file, bytes).expect("a file");
        let said = execute(&folder, &sdk).words("--prompt-ids 1").fails(3);
        assert!(said.contains(expected), "{name}: {said}");
    }
    std::fs::remove_file(&file).expect("the file");
    let said = execute(&folder, &sdk).words("--prompt-ids 1").refuses();
    assert!(said.contains("expected a QPC, a folder with programqpc.bin"), "{said}");
}

/// The same QPC by the other writer: addresses are those of its memory.
fn rebased(qpc: &[u8], base: u64) -> Vec<u8> {
    let mut bytes = qpc.to_vec();
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (count, table) = (number(&bytes, 24) as usize, number(&bytes, 32) as usize);
    let places = (0..count).flat_map(|i| [table + 32 * i + 16, table + 32 * i + 24]);
    for at in places.chain([32]) {
        let moved = number(&bytes, at) + base;
        bytes[at..at + 8].copy_from_slice(&moved.to_le_bytes());
    }
    bytes[16..24].copy_from_slice(&base.to_le_bytes());
    bytes
}

#[test]
fn addresses_may_be_relative_to_anything() {
    let sdk = cards(&several(1));
    let all = cases(&fixture("llama/base")).expect("a fixture");
    // Prompts token by token: a single specialization.
    let qpc = compiled("llama/base", &sdk, "--prompt-len 1 --ctx-len 48");
    let sound = std::fs::read(qpc.join("programqpc.bin")).expect("a QPC");
    let folder = sdk.folder("rebased");
    std::fs::write(folder.join("programqpc.bin"), rebased(&sound, 0x7f00_0000_1000)).expect("a QPC");
    sdk.calls();
    let listed = |path: &Path| {
        let mut json = qeff("inspect", &sdk).arg(path).arg("--json").succeeds().json();
        let bindings = json["bindings"].take();
        (bindings, json["specializations"].take(), json["slices"].take())
    };
    assert_eq!(listed(&folder), listed(&qpc));
    check("rebased", &all, &ask(execute(&folder, &sdk), &all).succeeds());
    sdk.clean_calls();
}
