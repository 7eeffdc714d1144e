//! `classify`, and the task of `run`: classes of texts, and scores of pairs.

use qeff::{fixture, rows};
use serde_json::Value as Json;

use crate::qeff;

fn numbers(json: &Json) -> Vec<f32> {
    json.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
}

#[test]
fn the_machine_form_equals_hugging_face() {
    for name in ["roberta-cls", "xlm-roberta-cls", "deberta-v2-cls", "llama-cls", "qwen3-cls"] {
        let dir = fixture(&format!("encoders/{name}"));
        let cases: Json = serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap();
        let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut command = qeff("run").model(&dir).words("--json");
        for case in cases["cases"].as_array().unwrap() {
            let ids: Vec<_> = case["ids"].as_array().unwrap().iter().map(Json::to_string).collect();
            command = command.arg("--prompt-ids").arg(ids.join(","));
        }
        // Ids are of one text: the case without a second segment.
        let outputs = command.succeeds().json()["outputs"].clone();
        let count = if name.starts_with("deberta") { 1 } else { outputs.as_array().unwrap().len() };
        for case in 0..count {
            let expected = rows(&tensors, &format!("{case}.logits")).unwrap().concat();
            let found = numbers(&outputs[case]["logits"]);
            let apart = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(found.len() == expected.len() && apart < 1e-4, "{name} {case}: {apart}");
        }
    }
}

#[test]
fn pairs_are_told_apart_where_the_model_does() {
    let logits = |name: &str, words: &[&str]| -> (Vec<u64>, Vec<f32>) {
        let json = qeff("classify").model(&fixture(name)).args(words).words("--json").succeeds().json();
        let ids = json["outputs"][0]["prompt_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        (ids, numbers(&json["outputs"][0]["logits"]))
    };
    for name in ["encoders/bert-cls", "encoders/roberta-cls"] {
        let pair = logits(name, &["the fox", "--text-pair", "a dog"]);
        assert_eq!(pair, logits(name, &["a dog", "--query", "the fox"]), "{name}");
        // The same ids as one text: only BERT hears where the second one begins.
        let ids: Vec<_> = pair.0.iter().map(u64::to_string).collect();
        let one = qeff("run").model(&fixture(name)).words("--json --prompt-ids").arg(ids.join(",")).succeeds().json();
        let same = numbers(&one["outputs"][0]["logits"]) == pair.1;
        assert_eq!(same, name.contains("roberta"), "{name}");
    }
}

#[test]
fn lines_have_texts_labels_and_scores() {
    let outcome = qeff("classify").model(&fixture("encoders/bert-cls")).args(["the fox", "a dog"]).succeeds();
    let lines: Vec<Json> = outcome.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["text"], "a dog");
    let (logits, scores) = (numbers(&lines[0]["logits"]), numbers(&lines[0]["scores"]));
    assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    let best = (0..3).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    let config: Json =
        serde_json::from_str(&std::fs::read_to_string(fixture("encoders/bert-cls/config.json")).unwrap()).unwrap();
    assert_eq!(lines[0]["label"], config["id2label"][best.to_string()]);
    assert!(outcome.stderr.contains("2 texts of"), "{}", outcome.stderr);
}
