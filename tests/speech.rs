//! Models that listen: every fixture computes what Hugging Face computes, and hears what it hears.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use qeff::{TOLERANCE, describe, engines, fixture, fixtures_of, tensor_rows};
use qeff_host::audio::{Extractor, Limits, Waveform, read};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::forms::WeightForms;
use qeff_host::prepare::{CpuPrograms, cpu_programs};
use qeff_host::runtime::cpu::engine::Engine;
use qeff_host::speech::cpu::CpuDecoder;
use qeff_host::speech::ctc::{self, Frames, Labeller, Spelling};
use qeff_host::speech::listen::{Fallback, PassOptions, pass};
use qeff_host::speech::prompt::{Prompt, Wish, likeliest_language};
use qeff_host::speech::transcribe::{Options, Transcript, check_windows, features};
use qeff_host::speech::{Decoder, Language, Settings, SpeechTask, transcribe};
use serde_json::Value as Json;

/// A fixture with what it must compute.
struct Case {
    checkpoint: Checkpoint,
    extractor: Extractor,
    expected: Json,
}

impl Case {
    fn open(name: &str) -> Result<Self> {
        let dir = fixture(name);
        let expected = serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json"))?)?;
        Ok(Case { checkpoint: Checkpoint::open(&dir)?, extractor: Extractor::open(&dir)?, expected })
    }

    fn programs(&self, engine: &dyn Engine) -> Result<CpuPrograms> {
        cpu_programs(&describe(&self.checkpoint)?, &self.checkpoint.weights, engine, WeightForms::default())
    }

    fn recording(&self) -> Result<Waveform> {
        Ok(read(&fixture("audio/jfk.wav"), self.extractor.rate(), Limits::default())?)
    }

    fn list(&self, key: &str) -> Result<&Vec<Json>> {
        self.expected[key].as_array().with_context(|| format!("expected.json has no {key}"))
    }
}

fn ids(value: &Json) -> Vec<u32> {
    value.as_array().into_iter().flatten().filter_map(Json::as_u64).map(|id| id as u32).collect()
}

fn text(value: &Json) -> Result<&str> {
    value.as_str().with_context(|| format!("expected a text, found {value}"))
}

/// Compares logits, relative to the largest expected one.
fn compare_rows(what: &str, expected: &[Vec<f32>], found: &[&[f32]]) -> Result<()> {
    ensure!(expected.len() == found.len(), "{what}: {} rows, expected {}", found.len(), expected.len());
    let largest = expected.iter().flatten().fold(0f32, |max, x| max.max(x.abs()));
    for (row, (expected, found)) in expected.iter().zip(found).enumerate() {
        ensure!(expected.len() == found.len(), "{what}, row {row}: {} numbers", found.len());
        let worst = expected.iter().zip(*found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        ensure!(worst <= TOLERANCE * largest, "{what}, row {row}: differs by {worst} of {largest}");
    }
    Ok(())
}

fn check_whisper(name: &str, engine: &dyn Engine) -> Result<()> {
    let case = Case::open(name)?;
    let Extractor::LogMel(extractor) = &case.extractor else { anyhow::bail!("no log-mel extractor") };
    let settings = Settings::open(&case.checkpoint)?;
    check_windows(extractor, &settings)?;
    let mut decoder = CpuDecoder::new(&mut case.programs(engine)?, settings.positions)?;
    let waveform = case.recording()?;

    // The plain form: one pass over the first window.
    decoder.listen(&extractor.first_window(&waveform.samples))?;
    let scores = decoder.step(&[settings.start], 0)?;
    let detected = likeliest_language(&settings, scores.row(0));
    ensure!(settings.languages.get(text(&case.expected["detected"])?).copied() == detected, "language {detected:?}");
    for expected in case.list("cases")? {
        let what = text(&expected["name"])?;
        let wish = Wish {
            language: Language::Given(text(&expected["language"])?.to_owned()),
            task: Some(SpeechTask::Transcribe),
            timestamps: false,
        };
        let prompt = Prompt::new(&settings, &wish)?.tokens(None);
        ensure!(prompt == ids(&expected["prompt_ids"]), "{what}: prompt {prompt:?}");
        let greedy = ids(&expected["greedy_ids"]);
        let options = PassOptions {
            timestamps: false,
            max_new_tokens: greedy.len(),
            ignore_eos: true,
            keep_logits: true,
            temperature: 0.0,
            seed: 0,
        };
        let done = pass(&mut decoder, &settings, &prompt, prompt.len(), &options)?;
        let rows = tensor_rows(&fixture(name), &format!("{what}.step_logits"))?;
        compare_rows(what, &rows, &done.logits.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        ensure!(done.ids == greedy, "{what}: ids {:?}, expected {greedy:?}", done.ids);
    }

    // All of the recording.
    for expected in case.list("transcripts")? {
        let what = text(&expected["name"])?;
        let found = whole(&case, &settings, &mut decoder, &waveform, expected)?;
        let segments = expected["segments"].as_array().context("no segments")?;
        ensure!(
            found.segments.len() == segments.len(),
            "{what}: {} segments of {}",
            found.segments.len(),
            segments.len()
        );
        for (i, ((found, _), expected)) in found.segments.iter().zip(segments).enumerate() {
            let tokens = ids(&expected[2]);
            ensure!(found.tokens == tokens, "{what}, segment {i}: {:?}, expected {tokens:?}", found.tokens);
            for (at, expected) in [(found.start, &expected[0]), (found.end, &expected[1])] {
                let expected = expected.as_f64().context("a time")?;
                ensure!((at - expected).abs() < 1e-3, "{what}, segment {i}: {at} s, expected {expected}");
            }
        }
    }
    Ok(())
}

/// Transcribes the recording as a case of expected.json asks.
fn whole(
    case: &Case,
    settings: &Settings,
    decoder: &mut dyn Decoder,
    waveform: &Waveform,
    asked: &Json,
) -> Result<Transcript> {
    let Extractor::LogMel(extractor) = &case.extractor else { anyhow::bail!("no log-mel extractor") };
    let options = Options {
        wish: Wish {
            language: asked["language"].as_str().map_or(Language::Auto, |code| Language::Given(code.to_owned())),
            task: Some(if asked["task"] == "translate" { SpeechTask::Translate } else { SpeechTask::Transcribe }),
            timestamps: true,
        },
        before: ids(&asked["before"]),
        condition: asked["condition"] == true,
        fallback: Fallback::none(),
        max_new_tokens: None,
        seed: 0,
    };
    transcribe(decoder, settings, &features(extractor, waveform), &options, &mut |_| {})
}

fn check_wav2vec2(name: &str, engine: &dyn Engine) -> Result<()> {
    let case = Case::open(name)?;
    let Extractor::Samples(extractor) = case.extractor else { anyhow::bail!("no extractor of samples") };
    let frames = Frames::read(&case.checkpoint.config.to_text())?;
    let spelling = Spelling::open(&case.checkpoint)?.context("no vocab.json")?;
    let model = describe(&case.checkpoint)?;
    let mut labeller = Labeller::new(case.programs(engine)?.take("main")?, &model.programs[0])?;
    let recording = case.recording()?;
    for expected in case.list("cases")? {
        let what = text(&expected["name"])?;
        let count = expected["samples"].as_u64().context("samples")? as usize;
        let waveform = Waveform { samples: recording.samples[..count].to_vec(), rate: recording.rate };
        let logits = frames.label(&mut labeller, &extractor, &waveform)?;
        let rows: Vec<_> = (0..logits.rows()).map(|row| logits.row(row)).collect();
        let expected_rows = tensor_rows(&fixture(name), &format!("{what}.logits"))?;
        compare_rows(what, &expected_rows, &rows)?;
        // A frame whose two likeliest labels are as good as equal may have either.
        let near = |row: &[f32]| {
            let mut sorted = row.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted[0] - sorted[1] < 1e-3
        };
        let (found, labels) = (ctc::likeliest(&logits), ids(&expected["ids"]));
        let ties = expected_rows.iter().filter(|row| near(row)).count();
        let wrong = found.iter().zip(&labels).zip(&expected_rows).filter(|((a, b), row)| a != b && !near(row)).count();
        ensure!(wrong == 0 && ties * 20 < labels.len().max(20), "{what}: {wrong} labels differ, {ties} ties");
        ensure!(spelling.text(&labels) == text(&expected["text"])?, "{what}: text {:?}", spelling.text(&labels));
    }
    Ok(())
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
