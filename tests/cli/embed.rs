//! `embed`, and the task of `run`: vectors of texts as tools and people ask for them.

use std::path::Path;

use qeff::command::Command;
use qeff::{fixture, rows};
use serde_json::{Value as Json, json};

use crate::qeff;

/// A sentence-transformers folder: mean pooling, then length 1; at most 40 tokens.
fn bert() -> std::path::PathBuf {
    fixture("encoders/bert")
}

fn numbers(json: &Json) -> Vec<f32> {
    json.as_array().expect("a vector").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
}

fn near(a: &[f32], b: &[f32]) {
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(a.len() == b.len() && worst < 1e-4, "{worst} apart:\n{a:?}\n{b:?}");
}

/// What Hugging Face computes for a case of a fixture.
fn expected(dir: &Path, what: &str) -> Vec<f32> {
    let bytes = std::fs::read(dir.join("expected.safetensors")).expect("a file");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    rows(&tensors, what).expect("a tensor").concat()
}

/// `run` by the ids of two cases of a fixture.
fn by_ids(dir: &Path, more: &str) -> Vec<Json> {
    let cases: Json = serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap();
    let mut command = qeff("run").model(dir).words("--json").words(more);
    for case in &cases["cases"].as_array().unwrap()[..2] {
        let ids: Vec<_> = case["ids"].as_array().unwrap().iter().map(Json::to_string).collect();
        command = command.arg("--prompt-ids").arg(ids.join(","));
    }
    command.succeeds().json()["outputs"].as_array().expect("outputs").clone()
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn the_machine_form_equals_hugging_face() {
    let dir = bert();
    for head in ["mean", "max", "cls", "last", "weighted_mean"] {
        let outputs = by_ids(&dir, &format!("--task embed --pooling {head}"));
        for (case, output) in outputs.iter().enumerate() {
            near(&numbers(&output["embedding"]), &expected(&dir, &format!("{case}.{}", head.replace('_', "-"))));
        }
    }
    let hidden = &by_ids(&dir, "--task embed --pooling none")[0]["embedding"];
    let tokens: Vec<f32> = hidden.as_array().unwrap().iter().flat_map(numbers).collect();
    near(&tokens, &expected(&dir, "0.hidden"));
    let normalised = numbers(&by_ids(&dir, "--task embed --pooling max --normalize")[0]["embedding"]);
    let max = expected(&dir, "0.max");
    near(&normalised, &max.iter().map(|x| x / length(&max)).collect::<Vec<_>>());
}

#[test]
fn the_folder_says_how_if_nobody_else_does() {
    let dir = bert();
    let vector = numbers(&by_ids(&dir, "")[0]["embedding"]);
    let mean = expected(&dir, "0.mean");
    near(&vector, &mean.iter().map(|x| x / length(&mean)).collect::<Vec<_>>());
}

#[test]
fn decoders_are_embedded_as_the_model_below_their_head() {
    let dir = fixture("encoders/qwen3");
    let cases = by_ids(&dir, "--task embed --pooling last");
    near(&numbers(&cases[1]["embedding"]), &expected(&dir, "1.last"));
    // The same tensors in a checkpoint that was saved with its head.
    let causal = fixture("qwen3/base");
    let vector = qeff("run").model(&causal).words("--task embed --json --prompt-ids 5,6,7").succeeds().json();
    assert_eq!(numbers(&vector["outputs"][0]["embedding"]).len(), 32);
}

#[test]
fn lines_files_and_similarities() {
    let embed = || qeff("embed").model(&bert());
    let lines = embed().args(["the fox", "a dog runs"]).succeeds().stdout;
    let lines: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[1]["text"], "a dog runs");
    let [a, b] = [0, 1].map(|i| numbers(&lines[i]["embedding"]));
    let cosine: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();

    let pairs = embed().args(["the fox", "a dog runs", "the fox", "--similarity"]).succeeds().stdout;
    let pairs: Vec<Json> = pairs.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |i: usize| pairs[i]["cosine"].as_f64().unwrap() as f32;
    assert_eq!(pairs.len(), 3);
    assert_eq!([&pairs[2]["a"], &pairs[2]["b"]], [&json!(1), &json!(2)]);
    near(&[of(0), of(1), of(2)], &[cosine, 1.0, cosine]);

    let dir = tempfile::tempdir().unwrap();
    let texts = dir.path().join("texts.txt");
    std::fs::write(&texts, "the fox\n\na dog runs\n").unwrap();
    for name in ["v.npy", "v.safetensors", "v.jsonl"] {
        let file = dir.path().join(name);
        let outcome = embed().arg("--file").arg(&texts).arg("--output").arg(&file).succeeds();
        assert_eq!(outcome.stdout, format!("{}\n", file.display()));
        let bytes = std::fs::read(&file).unwrap();
        let found: Vec<f32> = if name.ends_with("jsonl") {
            let text = String::from_utf8(bytes).unwrap();
            text.lines().flat_map(|line| numbers(&serde_json::from_str::<Json>(line).unwrap()["embedding"])).collect()
        } else {
            let numbers = &bytes[bytes.len() - 2 * 32 * 4..];
            numbers.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        near(&found, &[a.clone(), b.clone()].concat());
    }
    assert_eq!(qeff::command::entries(dir.path()).len(), 4, "no temporary file is left");
}

#[test]
fn texts_that_are_too_long_are_refused_or_cut() {
    let long = "fox ".repeat(60);
    let said = qeff("embed").model(&bert()).arg(&long).refuses();
    assert!(said.contains("expected at most 40: shorten it, or cut it with --truncate"), "{said}");
    let tokens = |more: &str| {
        let json = qeff("embed").model(&bert()).arg(&long).words(more).words("--json").succeeds().json();
        json["outputs"][0]["prompt_ids"].as_array().unwrap().len()
    };
    assert_eq!(tokens("--truncate"), 40);
    assert_eq!(tokens("--truncate --max-tokens 9"), 9);
    let said = qeff("embed").model(&bert()).arg("a").words("--max-tokens 65").refuses();
    assert!(said.contains("--max-tokens: expected at most 64, all positions that this model has; found 65"), "{said}");
}

#[test]
fn ragged_texts_equal_single_ones() {
    let texts = ["a", "the quick brown fox jumps over the lazy dog", "the fox", "a dog runs to the fox and the dog"];
    let embed = |texts: &[&str]| -> Vec<Vec<f32>> {
        let json = qeff("embed").model(&bert()).args(texts).words("--json").succeeds().json();
        json["outputs"].as_array().unwrap().iter().map(|output| numbers(&output["embedding"])).collect()
    };
    for (together, text) in embed(&texts).iter().zip(texts) {
        near(together, &embed(&[text])[0]);
    }
}

#[test]
fn refusals() {
    let run = |more: &str| qeff("run").model(&bert()).words("--prompt-ids 7,8").words(more);
    let said = |command: Command| command.refuses();
    for (command, expected) in [
        (run("--task embed --pooling median"), "there is no pooling head called `median`"),
        (run("--task classify"), "BertModel puts out no classes of texts"),
        (run("--task embed --prompt-name query"), "expected one of the checkpoint's prompts (none), found query"),
        (run("--task embed --prompt-ids 149"), "text 1 has token id 149; the model's vocabulary ends at 148"),
        (qeff("embed").model(&bert()).words("a --similarity"), "expected two or more, found 1"),
        (
            qeff("embed").model(&bert()).words("a --output v.csv"),
            "expected a name that ends in .npy, .safetensors or .jsonl",
        ),
    ] {
        let said = said(command);
        assert!(said.contains(expected), "{said}");
    }
}
