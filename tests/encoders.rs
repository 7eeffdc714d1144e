//! Encoders compute what Hugging Face computes, one text at a time and many at once, and every pooling on top.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use qeff::{TOLERANCE, describe, engines, fixture, fixtures_of, rows};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::encode::batches::Shapes;
use qeff_host::encode::pooling::pooled;
use qeff_host::encode::ready::{self, CpuOptions};
use qeff_host::encode::{Encoded, Encoder};
use qeff_host::forms::WeightForms;
use qeff_host::plugins::Registry;
use qeff_host::runtime::cpu::engine::Engine;
use qeff_host::text::Framed;

/// Every pooling head of this repository.
const HEADS: &[&str] = &["avg", "cls", "last", "max", "mean", "mean-sqrt-len", "weighted-mean"];

/// Texts of a fixture.
fn texts(dir: &Path) -> Result<Vec<Framed>> {
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json"))?)?;
    let numbers = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().into_iter().flatten().filter_map(|n| n.as_u64()).map(|n| n as u32).collect()
    };
    let cases = json["cases"].as_array().context("expected.json has no cases")?;
    let text = |case: &serde_json::Value| {
        let ids = numbers(&case["ids"]);
        let segments = if case["segments"].is_null() { vec![0; ids.len()] } else { numbers(&case["segments"]) };
        Framed { whole: ids.len(), ids, segments }
    };
    Ok(cases.iter().map(text).collect())
}

/// The encoder of a fixture with these pooling heads.
fn encoder(dir: &Path, engine: &dyn Engine, heads: &[&str]) -> Result<Encoder> {
    let checkpoint = Checkpoint::open(dir)?;
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let model = pooled(describe(&checkpoint)?, &heads, &Registry::builtin(), checkpoint.weights.index())?;
    let padding = checkpoint.config.opt_i64("pad_token_id")?.and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
    let options = CpuOptions { engine, longest: 200, rows: None, padding, forms: WeightForms::default() };
    Ok(ready::cpu(model, &checkpoint.weights, options)?.encoder)
}

/// The stored answers `{case}.{what}`, of each case.
fn expected(dir: &Path, what: &str, count: usize) -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(dir.join("expected.safetensors"))?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes)?;
    (0..count).map(|case| Ok(rows(&tensors, &format!("{case}.{what}"))?.concat())).collect()
}

fn compare(what: &str, expected: &[Vec<f32>], found: &[Encoded]) -> Result<()> {
    for (case, (expected, found)) in expected.iter().zip(found).enumerate() {
        ensure!(expected.len() == found.numbers.len(), "{what} of case {case}: {} numbers", found.numbers.len());
        let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        let worst = expected.iter().zip(&found.numbers).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        ensure!(worst <= TOLERANCE * largest, "{what} of case {case}: differs by {worst}, the largest is {largest}");
    }
    Ok(())
}

/// One text a call, then all in one.
fn check(what: &str, expected: &[Vec<f32>], encoder: &mut Encoder, texts: &[Framed]) -> Result<()> {
    let single = texts.iter().map(|text| Ok(encoder.encode(std::slice::from_ref(text), &|_| {})?.0.remove(0)));
    compare(what, expected, &single.collect::<Result<Vec<_>>>()?)?;
    let (ragged, work) = encoder.encode(texts, &|_| {})?;
    ensure!(work.calls == 1 && work.places > work.tokens, "a ragged batch was expected, not {work:?}");
    compare(&format!("{what}, ragged"), expected, &ragged)
}

fn check_fixture(name: &str, engine: &dyn Engine) -> Result<()> {
    let dir = fixture(name);
    let texts = texts(&dir)?;
    let mut encoder = encoder(&dir, engine, &[])?;
    let what = if name.ends_with("-cls") { "logits" } else { "hidden" };
    check(what, &expected(&dir, what, texts.len())?, &mut encoder, &texts)
}

#[test]
fn every_fixture_on_every_engine() {
    let names = fixtures_of("encoders");
    let names: Vec<_> = names.iter().filter(|name| fixture(name).is_dir()).collect();
    assert!(names.len() > 30, "{names:?}");
    for engine in engines().expect("engines") {
        let failure = |name: &&String| Some(format!("{name}: {:#}", check_fixture(name, &*engine).err()?));
        let failures: Vec<_> = names.iter().copied().filter_map(|name| failure(&name)).collect();
        assert!(
            failures.is_empty(),
            "{}, {} of {}:\n{}",
            engine.name(),
            failures.len(),
            names.len(),
            failures.join("\n")
        );
    }
}

#[test]
fn every_pooling_on_every_engine() {
    for engine in engines().expect("engines") {
        for name in ["encoders/bert", "encoders/qwen3"] {
            let dir = fixture(name);
            let texts = texts(&dir).expect("texts");
            for head in HEADS {
                let mut encoder = encoder(&dir, &*engine, &[head]).expect("an encoder");
                let stored = if *head == "avg" { "mean" } else { head };
                let expected = expected(&dir, stored, texts.len()).expect("expected vectors");
                check(head, &expected, &mut encoder, &texts).expect(name);
            }
        }
    }
}

#[test]
fn several_poolings_are_joined_in_their_order() {
    let dir = fixture("encoders/bert");
    let texts = texts(&dir).unwrap();
    let engine = &*engines().unwrap()[0];
    let mut encoder = encoder(&dir, engine, &["max", "cls"]).unwrap();
    let [max, cls] = ["max", "cls"].map(|head| expected(&dir, head, texts.len()).unwrap());
    let joined: Vec<_> = max.iter().zip(&cls).map(|(max, cls)| [max.as_slice(), cls].concat()).collect();
    check("max, cls", &joined, &mut encoder, &texts).unwrap();
}

#[test]
fn a_checkpoint_with_names_of_tensorflow_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let from = fixture("encoders/bert");
    std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let old =
        |name: &str| name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
    let renamed = tensors.iter().map(|(name, view)| (old(name), view));
    safetensors::serialize_to_file(renamed, None, &dir.path().join("model.safetensors")).unwrap();
    let texts = texts(&from).unwrap();
    let mut encoder = encoder(dir.path(), &*engines().unwrap()[0], &[]).unwrap();
    let hidden = expected(&from, "hidden", texts.len()).unwrap();
    check("hidden", &hidden, &mut encoder, &texts).unwrap();
}

#[test]
fn shapes_do_not_change_results() {
    let dir = fixture("encoders/deberta-v2");
    let texts = texts(&dir).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let shapes = Shapes::Compiled(vec![[2, 32], [2, 16], [2, 4]]);
    for engine in engines().unwrap() {
        let options =
            CpuOptions { engine: &*engine, longest: 64, rows: None, padding: 1, forms: WeightForms::default() };
        let ready = ready::cpu(describe(&checkpoint).unwrap(), &checkpoint.weights, options).unwrap();
        let mut encoder = ready.encoder.with_shapes(shapes.clone());
        let (found, work) = encoder.encode(&texts, &|_| {}).unwrap();
        assert_eq!((work.calls, work.places), (3, 2 * (32 + 16 + 4)));
        compare("hidden", &expected(&dir, "hidden", texts.len()).unwrap(), &found).unwrap();
    }
}
