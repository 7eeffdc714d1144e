//! Models of whole texts: several lengths in one program, and calls of the smallest that fits.

use std::path::PathBuf;

use qeff::cards::{of, several};
use qeff::{TOLERANCE, describe, fixture, fixtures_of, rows};
use qeff_core::lower::Target;
use qeff_core::passes::Features;
use qeff_host::checkpoint::Checkpoint;
use qeff_host::encode::Encoder;
use qeff_host::encode::batches::Shapes;
use qeff_host::prepare::prepare;
use qeff_host::text::Framed;
use serde_json::Value as Json;

use crate::{FULL, HALF, Held, calls, cards, ids, join, qeff, run};

/// Every pooling head of this repository, and what the reference's vector of it is called.
const HEADS: [(&str, &str); 7] = [
    ("avg", "mean"),
    ("cls", "cls"),
    ("last", "last"),
    ("max", "max"),
    ("mean", "mean"),
    ("mean-sqrt-len", "mean-sqrt-len"),
    ("weighted-mean", "weighted-mean"),
];

/// A case of a fixture: its ids, their segments if they have several, and tensors that Hugging Face computed.
struct Case {
    ids: Vec<u32>,
    segments: Option<Vec<u32>>,
    place: usize,
}

fn cases(name: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(fixture(name).join("expected.json")).expect("a file");
    let json: Json = serde_json::from_str(&text).expect("JSON");
    let case = |(place, case): (usize, &Json)| {
        let segments = (!case["segments"].is_null()).then(|| ids(&case["segments"]));
        // One segment is what a program without that input has.
        let segments = segments.filter(|segments| segments.iter().any(|&segment| segment != 0));
        Case { ids: ids(&case["ids"]), segments, place }
    };
    json["cases"].as_array().expect("cases").iter().enumerate().map(case).collect()
}

fn expected(name: &str, case: &Case, what: &str) -> Vec<f32> {
    let bytes = std::fs::read(fixture(name).join("expected.safetensors")).expect("a file");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    rows(&tensors, &format!("{}.{what}", case.place)).expect("a tensor").concat()
}

/// The numbers of an answer, row after row.
fn numbers(json: &Json) -> Vec<f32> {
    match json {
        Json::Array(all) => all.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().expect("a number") as f32],
    }
}

/// Refuses numbers that are not Hugging Face's. Such programs keep nothing on the card, so nothing is f16 there.
fn compare(what: &str, expected: &[f32], found: &[f32]) {
    let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    let worst = expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert_eq!(found.len(), expected.len(), "{what}");
    assert!(worst <= TOLERANCE * largest, "{what}: differs by {worst} of {largest}");
}

/// The place of the largest number.
fn likeliest(scores: &[f32]) -> Option<usize> {
    (0..scores.len()).reduce(|best, i| if scores[i] > scores[best] { i } else { best })
}

/// Compares with Hugging Face, and counts calls.
fn check(name: &str, what: &str, words: &str, calls: usize) {
    let sdk = cards(&several(2));
    let cases: Vec<_> = cases(name).into_iter().filter(|case| case.segments.is_none()).collect();
    let command = cases.iter().fold(run(name, &sdk).words("--json").words(words), |command, case| {
        command.arg("--prompt-ids").arg(join(&case.ids))
    });
    let outputs = command.succeeds().json()["outputs"].clone();
    assert_eq!(outputs.as_array().map(Vec::len), Some(cases.len()), "{name}");
    for (case, output) in cases.iter().zip(outputs.as_array().expect("outputs")) {
        let place = format!("{name}, case {}, {what}", case.place);
        match what {
            "logits" => {
                let (found, expected) = (numbers(&output["logits"]), expected(name, case, "logits"));
                compare(&place, &expected, &found);
                assert_eq!(likeliest(&found), likeliest(&expected), "{place}");
            }
            "heads" => {
                let all: Vec<_> = HEADS.iter().flat_map(|(_, stored)| expected(name, case, stored)).collect();
                compare(&place, &all, &numbers(&output["embedding"]));
            }
            what => compare(&place, &expected(name, case, what), &numbers(&output["embedding"])),
        }
    }
    let called = sdk.clean_calls();
    assert_eq!(of(&called, "qaicLoadProgram").len(), 1, "{name}: one program for all lengths");
    assert_eq!(of(&called, "run").len(), calls, "{name}");
}

/// Fixtures of models of texts.
fn fixtures() -> Vec<String> {
    let names: Vec<_> = fixtures_of("encoders").into_iter().filter(|name| fixture(name).is_dir()).collect();
    assert!(names.len() > 30, "{names:?}");
    names
}

/// Hidden states of every token, all pooling heads at once, classes: two texts a call, which are not equally long. Compiled for
/// f32 or as the reference does it.
#[test]
fn every_fixture() {
    for name in &fixtures() {
        let cases: Vec<_> = cases(name).into_iter().filter(|case| case.segments.is_none()).collect();
        let longest = cases.iter().map(|case| case.ids.len()).max().expect("a case");
        let calls = cases.len().div_ceil(2);
        let words = |held: Held| {
            format!("--seq-len {longest} --max-tokens {longest} --batch-size 2 --device-group 1 {}", held.words)
        };
        if name.ends_with("-cls") {
            check(name, "logits", &format!("--task classify {}", words(FULL)), calls);
            check(name, "logits", &words(HALF), calls);
        } else {
            check(name, "hidden", &format!("--task embed --pooling none {}", words(FULL)), calls);
            let heads: Vec<_> = HEADS.iter().map(|(head, _)| *head).collect();
            check(name, "heads", &format!("--task embed --pooling {} {}", heads.join(","), words(HALF)), calls);
        }
    }
}

/// A program that is told which tokens are of the second text.
#[test]
fn segments_are_those_of_hugging_face() {
    let with = |name: &&String| cases(name).iter().any(|case| case.segments.is_some());
    let fixtures = fixtures();
    let names: Vec<_> = fixtures.iter().filter(with).collect();
    assert!(names.len() > 1, "{names:?}");
    for name in names {
        let sdk = cards(&several(1)).with_own_library();
        let folder = sdk.folder("exported");
        let export = qeff("export", &sdk).model(&fixture(name)).path("--output", &folder, "FOLDER");
        let onnx = export.words("--target aic --token-type-ids").succeeds().stdout;
        let command = qeff("compile", &sdk).path("--onnx-path", onnx.trim_end().as_ref(), "ONNX");
        let compiled = command.path("--sdk", sdk.root(), "SDK").words("--seq-len 16,32").succeeds();
        sdk.calls();
        let program = calls::open(sdk.root(), &PathBuf::from(compiled.stdout.trim_end()), 0).expect("a program");
        let checkpoint = Checkpoint::open(&fixture(name)).expect("a checkpoint");
        let model = describe(&checkpoint).expect("a model");
        let prepared = prepare(model, checkpoint.weights.index(), &Features::default(), Target::Aic).expect("graphs");
        let shapes = Shapes::Compiled(vec![[1, 16], [1, 32]]);
        let mut encoder = Encoder::new(&prepared.model, Box::new(program), shapes, 1).expect("an encoder");
        for case in &cases(name) {
            let (ids, whole) = (case.ids.clone(), case.ids.len());
            let segments = case.segments.clone().unwrap_or_else(|| vec![0; whole]);
            let (found, _) = encoder.encode(&[Framed { ids, segments, whole }], &|_| {}).expect("an answer");
            compare(&format!("{name}, case {}", case.place), &expected(name, case, "logits"), &found[0].numbers);
        }
        drop(encoder);
        assert_eq!(of(&sdk.clean_calls(), "run").len(), 3, "{name}");
    }
}

#[test]
fn vectors_from_the_smallest_length_that_fits() {
    // Texts of 3, 11 and 29 tokens.
    check("encoders/bert", "mean", "--task embed --pooling mean --seq-len 4,16,32 --device-group 1", 3);
    check(
        "encoders/deberta-v2",
        "cls",
        "--task embed --pooling cls --seq-len 16,32 --batch-size 2 --device-group 0",
        2,
    );
    check(
        "encoders/modernbert",
        "max",
        "--task embed --pooling max --seq-len 32,64 --batch-size 4 --device-group 0",
        1,
    );
    check("encoders/qwen3", "last", "--task embed --pooling last --seq-len 32 --device-group 0", 3);
}

#[test]
fn classes() {
    check("encoders/roberta-cls", "logits", "--task classify --seq-len 32 --device-group 0", 3);
    check("encoders/llama-cls", "logits", "--seq-len 32 --batch-size 3 --device-group 0", 1);
}

/// A pair needs to be told which of its tokens belong to the second text: then the program has an input for it.
#[test]
fn pairs_are_those_of_the_cpu() {
    let sdk = cards(&several(1));
    let logits = |words: &str| -> Vec<f64> {
        let command = qeff("classify", &sdk).model(&fixture("encoders/bert-cls")).arg("the fox");
        let command = command.arg("--text-pair").arg("a dog").words("--json").words(words);
        let command = if words.is_empty() { command } else { command.path("--sdk", sdk.root(), "SDK") };
        let found = command.succeeds().json()["outputs"][0]["logits"].clone();
        found.as_array().expect("logits").iter().map(|x| x.as_f64().expect("a number")).collect()
    };
    let (there, here) = (logits("--seq-len 16 --device-group 0"), logits(""));
    let largest = here.iter().fold(0f64, |max, x| max.max(x.abs()));
    let worst = there.iter().zip(&here).map(|(a, b)| (a - b).abs()).fold(0f64, f64::max);
    assert!(there.len() == here.len() && worst <= f64::from(TOLERANCE) * largest, "{there:?}, expected {here:?}");
}

#[test]
fn texts_longer_than_every_length_are_refused_or_cut() {
    let sdk = cards(&several(1));
    let embed = || qeff("embed", &sdk).model(&fixture("encoders/bert")).path("--sdk", sdk.root(), "SDK");
    let said = embed().arg("the fox and the dog and the fox").words("--seq-len 4,8").refuses();
    assert!(said.contains("expected at most 8: shorten it, or cut it with --truncate"), "{said}");
    let cut = embed().arg("the fox and the dog and the fox").words("--seq-len 4,8 --truncate --json").succeeds().json();
    assert_eq!(cut["outputs"][0]["prompt_ids"].as_array().unwrap().len(), 8);
    assert_eq!(cut["metrics"]["engine"], "qaic");
    // Without lengths, those up to the checkpoint's longest text are compiled.
    assert!(embed().arg("the fox").succeeds().stderr.contains("1 text of"));
    let said = qeff("embed", &sdk).model(&fixture("encoders/bert")).words("fox --seq-len 8").refuses();
    assert!(said.contains("--seq-len is about AI 100"), "{said}");
}
