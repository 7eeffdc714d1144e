//! Models that listen: every fixture computes what Hugging Face computes, and hears what it hears.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use qeff::speech::Fixture;
use qeff::{describe, engines, fixture, fixtures_of};
use qeff_host::audio::{Extractor, Limits, read};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::forms::WeightForms;
use qeff_host::prepare::{CpuPrograms, cpu_programs};
use qeff_host::runtime::cpu::engine::Engine;
use qeff_host::speech::cpu::CpuDecoder;
use qeff_host::speech::ctc::{Frames, Labeller};

fn check_whisper(name: &str, engine: &dyn Engine) -> Result<()> {
    let case = Fixture::open(name)?;
    let settings = case.settings()?;
    let mut decoder = CpuDecoder::new(&mut programs(&case, engine)?, settings.positions)?;
    case.check_sentences(&settings, &mut decoder)
}

fn check_wav2vec2(name: &str, engine: &dyn Engine) -> Result<()> {
    let case = Fixture::open(name)?;
    let model = describe(&case.checkpoint)?;
    case.check_labels(&mut Labeller::new(programs(&case, engine)?.take("main")?, &model.programs[0])?)
}

fn programs(case: &Fixture, engine: &dyn Engine) -> Result<CpuPrograms> {
    cpu_programs(&describe(&case.checkpoint)?, &case.checkpoint.weights, engine, WeightForms::default())
}

fn check_family(family: &str, check: fn(&str, &dyn Engine) -> Result<()>) {
    let names = fixtures_of(family);
    assert!(!names.is_empty(), "no fixtures of {family}");
    for engine in engines().expect("engines") {
        let failure = |name: &String| Some(format!("{name}: {:#}", check(name, &*engine).err()?));
        let failures: Vec<_> = names.iter().filter_map(failure).collect();
        assert!(failures.is_empty(), "{}:\n{}", engine.name(), failures.join("\n"));
    }
}

#[test]
fn whisper() {
    check_family("whisper", check_whisper);
}

#[test]
fn wav2vec2() {
    check_family("wav2vec2", check_wav2vec2);
}

/// A fixture's folder with other text in one of its files.
fn changed(name: &str, file: &str, from: &str, to: &str) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    for entry in std::fs::read_dir(fixture(name))? {
        let entry = entry?;
        std::fs::copy(entry.path(), dir.path().join(entry.file_name()))?;
    }
    let text = std::fs::read_to_string(dir.path().join(file))?;
    ensure!(text.contains(from), "{file} has no {from}");
    std::fs::write(dir.path().join(file), text.replace(from, to))?;
    Ok(dir)
}

/// The weight norm in the spelling of older torch is the same weight.
#[test]
fn both_spellings_of_the_weight_norm() -> Result<()> {
    let engine = &*engines()?[0];
    let logits = |dir: &Path| -> Result<Vec<f32>> {
        let checkpoint = Checkpoint::open(dir)?;
        let model = describe(&checkpoint)?;
        let mut programs = cpu_programs(&model, &checkpoint.weights, engine, WeightForms::default())?;
        let mut labeller = Labeller::new(programs.take("main")?, &model.programs[0])?;
        let Extractor::Samples(extractor) = Extractor::open(dir)? else { anyhow::bail!("samples") };
        let waveform = read(&fixture("audio/float.wav"), 16_000, Limits::default())?;
        let logits = Frames::read(&checkpoint.config.to_text())?.label(&mut labeller, &extractor, &waveform)?;
        Ok((0..logits.rows()).flat_map(|row| logits.row(row).to_vec()).collect())
    };
    let dir = tempfile::tempdir()?;
    for entry in std::fs::read_dir(fixture("wav2vec2/base"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), dir.path().join(entry.file_name()))?;
    }
    let bytes = std::fs::read(dir.path().join("model.safetensors"))?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes)?;
    let renamed: Vec<_> = tensors
        .iter()
        .map(|(name, view)| {
            let name = name.replace("parametrizations.weight.original0", "weight_g");
            (name.replace("parametrizations.weight.original1", "weight_v"), view)
        })
        .collect();
    ensure!(renamed.iter().any(|(name, _)| name.ends_with("conv.weight_v")), "nothing was renamed");
    safetensors::serialize_to_file(renamed, None, &dir.path().join("model.safetensors"))?;
    assert_eq!(logits(&fixture("wav2vec2/base"))?, logits(dir.path())?);
    Ok(())
}

#[test]
fn adapters_and_odd_convolutions_are_refused() -> Result<()> {
    let said = |from: &str, to: &str| -> Result<String> {
        let dir = changed("wav2vec2/base", "config.json", from, to)?;
        let error = describe(&Checkpoint::open(dir.path())?).err().context("it was not refused")?;
        Ok(error.root_cause().to_string())
    };
    let said = [
        said("\"add_adapter\": false", "\"add_adapter\": true")?,
        said("\"adapter_attn_dim\": null", "\"adapter_attn_dim\": 16")?,
        said("\"feat_extract_norm\": \"group\"", "\"feat_extract_norm\": \"batch\"")?,
        said("\"num_feat_extract_layers\": 7", "\"num_feat_extract_layers\": 6")?,
        said("\"num_conv_pos_embedding_groups\": 4", "\"num_conv_pos_embedding_groups\": 5")?,
        said("\"num_attention_heads\": 4", "\"num_attention_heads\": 5")?,
    ];
    insta::assert_snapshot!(said.join("\n"), @r#"
    config.json: `add_adapter`: expected false, found true
    config.json: `adapter_attn_dim`: expected nothing: adapters of single languages are not supported, found 16
    config.json: `feat_extract_norm`: expected group or layer, found "batch"
    config.json: `num_feat_extract_layers`: expected 7, as many as conv_dim has, found 6
    config.json: `num_conv_pos_embedding_groups`: expected a divisor of hidden_size = 32, found 5
    config.json: `num_attention_heads`: expected a divisor of hidden_size = 32, found 5
    "#);
    Ok(())
}
