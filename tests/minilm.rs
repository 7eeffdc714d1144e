//! all-MiniLM-L6-v2, the real one, where it is at hand: the vectors of Hugging Face.
//!
//! `QEFF_MINILM` names its folder; `.ci/minilm` fetches it. Without it, nothing is tested here, and it is said.

use qeff::command::Command;
use qeff::{fixture, ort_library, rows};

/// The texts of `tests/fixtures/minilm/make.py`.
fn texts() -> Vec<String> {
    let long = "Sentence embeddings of several lengths, with NUMBERS 1234.5, naïve accents and an emoji 🙂, share a call when it \
                pays. ";
    let short = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby.", "x"];
    short.map(str::to_owned).into_iter().chain([long.repeat(3)]).collect()
}

#[test]
#[allow(clippy::print_stderr)]
fn vectors_are_hugging_faces() {
    let Some(model) = std::env::var_os("QEFF_MINILM") else {
        eprintln!("left out: all-MiniLM-L6-v2 (QEFF_MINILM names its folder; .ci/minilm fetches it)");
        return;
    };
    let bytes = std::fs::read(fixture("minilm/expected.safetensors")).unwrap();
    let expected = rows(&safetensors::SafeTensors::deserialize(&bytes).unwrap(), "vectors").unwrap();
    let library = ort_library();
    for engine in ["rten", "ort"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"), "embed");
        match (engine, &library) {
            ("ort", None) => continue,
            ("ort", Some(library)) => command = command.arg("--ort-library").arg(&library.path),
            _ => {}
        }
        let outcome = command.arg("--model").arg(&model).words("--json").args(texts()).succeeds();
        let outputs = outcome.json()["outputs"].clone();
        for (i, expected) in expected.iter().enumerate() {
            let found: Vec<f32> =
                outputs[i]["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
            let worst = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(found.len() == 384 && worst < 1e-5, "{engine}, text {i}: {worst}");
        }
    }
}
