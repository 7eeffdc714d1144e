//! The whole command over a lone GGUF file: no other file is around.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn text_in_text_out() -> Result<(), Box<dyn std::error::Error>> {
    for name in ["llama-q8_0", "llama-spm", "gpt2-q4_0"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf").join(name);
        let expected: Value = serde_json::from_slice(&std::fs::read(fixture.join("expected.json"))?)?;
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("x.gguf");
        std::fs::copy(fixture.join("model.gguf"), &file)?;
        let case = &expected["cases"][0];
        let prompt = case["text"].as_str().ok_or("a prompt")?;
        let output = Command::new(env!("CARGO_BIN_EXE_qeff-host"))
            .args(["run", "--json", "--ignore-eos", "--max-new-tokens", "6", "--prompt", prompt, "--model"])
            .arg(&file)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(answer["outputs"][0]["prompt_ids"], case["prompt_ids"], "{name}");
        assert_eq!(answer["outputs"][0]["generated_ids"], case["greedy_ids"], "{name}");
        assert!(!said.contains("warning"), "{name}: {said}");
    }
    Ok(())
}
