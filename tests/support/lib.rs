//! Support for the integration tests: fixtures, and what Hugging Face computed for them; goldens, and what they stand for.

pub mod golden;
mod golden_speech;

pub mod cards;
pub mod command;
pub mod scratch;
pub mod speech;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::engines::{self, Choice, LIBRARY_VARIABLE, Located};
use qeff_host::forms::{Stored, WeightForms};
use qeff_host::generate::{self, Completion, Flow, Observer, Options, Request, Sampling};
use qeff_host::plugins::Registry;
use qeff_host::prepare::{self, CpuOptions};
use qeff_host::runtime::Session;
use qeff_host::runtime::cpu::engine::Engine;
use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::Model;

/// Largest difference of logits allowed, relative to the largest logit of the reference.
pub const TOLERANCE: f32 = 1e-4;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The folder of a fixture, e.g. `llama/base`.
pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

/// The fixtures of a family, sorted.
pub fn fixtures_of(family: &str) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(fixture(family))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| format!("{family}/{}", entry.file_name().to_string_lossy()))
        .collect();
    names.sort();
    names
}

/// What the linked plugin for a checkpoint describes.
pub fn describe(checkpoint: &Checkpoint) -> Result<Model> {
    describe_with(&checkpoint.config, checkpoint.weights.index())
}

/// What the linked plugin for a config describes over a tensor index.
pub fn describe_with(config: &Config, tensors: &TensorIndex) -> Result<Model> {
    let request = qeff_plugin_api::plugin::Request { config: config.clone(), tensors: tensors.clone() };
    Ok(Registry::builtin().architecture_for(config, None)?.describe(&request)?)
}

/// The engines that numbers are checked on: rten, and ONNX Runtime where there is a library.
pub fn engines() -> Result<Vec<Box<dyn Engine>>> {
    let mut all = vec![engines::select(Choice::Rten, None)?.engine];
    if ort_library().is_some() {
        all.push(engines::select(Choice::Ort, None)?.engine);
    }
    Ok(all)
}

/// The library of ONNX Runtime that `ORT_DYLIB_PATH` names or that is installed. Without one, what is to be checked on it is
/// left out, and it is said; `.ci/run` installs one.
#[allow(clippy::print_stderr)]
pub fn ort_library() -> Option<Located> {
    let located = engines::locate(None);
    if located.is_none() {
        eprintln!("left out: ONNX Runtime (`qeff-host engines install ort` installs it, {LIBRARY_VARIABLE} names one)");
    }
    located
}

/// A session as a test wants it: `slots` sequences of `context` positions, weights in their default forms.
pub fn options(engine: &dyn Engine, slots: usize, context: usize) -> CpuOptions<'_> {
    CpuOptions { engine, slots, context, chunk: 512, forms: WeightForms::default() }
}

/// One prompt of a fixture with the reference's answer.
#[derive(Debug)]
pub struct Case {
    /// Name within the fixture: the prefix of its tensors.
    pub name: String,
    /// Ids of the prompt.
    pub prompt: Vec<u32>,
    /// Greedy ids.
    pub greedy: Vec<u32>,
    /// Difference between the two largest logits at each step.
    pub margins: Vec<f32>,
    /// Logits of each step, `[steps][vocab]`.
    pub step_logits: Vec<Vec<f32>>,
}

/// Expected outputs of a fixture.
pub fn cases(dir: &Path) -> Result<Vec<Case>> {
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json"))?)?;
    let bytes = std::fs::read(dir.join("expected.safetensors"))?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes)?;
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().into_iter().flatten().filter_map(|id| id.as_u64()).map(|id| id as u32).collect()
    };
    let list = json["cases"].as_array().context("expected.json has no cases")?;
    list.iter()
        .enumerate()
        .map(|(i, case)| {
            let name = i.to_string();
            let step_logits = rows(&tensors, &format!("{name}.step_logits"))?;
            Ok(Case {
                name,
                prompt: ids(&case["prompt_ids"]),
                greedy: ids(&case["greedy_ids"]),
                margins: case["margins"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|m| m.as_f64())
                    .map(|m| m as f32)
                    .collect(),
                step_logits,
            })
        })
        .collect()
}

/// Logits of every position of the prompt of case `i`, `[positions][vocab]`.
pub fn prompt_logits(dir: &Path, i: usize) -> Result<Vec<Vec<f32>>> {
    tensor_rows(dir, &format!("{i}.logits"))
}

/// The rows of an f32 matrix of a fixture's expected outputs.
pub fn tensor_rows(dir: &Path, name: &str) -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(dir.join("expected.safetensors"))?;
    rows(&safetensors::SafeTensors::deserialize(&bytes)?, name)
}

/// The rows of a stored f32 matrix; a vector is one row.
pub fn rows(tensors: &safetensors::SafeTensors<'_>, name: &str) -> Result<Vec<Vec<f32>>> {
    let tensor = tensors.tensor(name)?;
    let width = *tensor.shape().last().context("a matrix or a vector")?;
    let numbers: Vec<f32> =
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(numbers.chunks(width).map(<[f32]>::to_vec).collect())
}

/// An observer that lets everything pass.
pub struct Silent;

impl Observer for Silent {
    fn token(&mut self, _: usize, _: u32) -> Result<Flow> {
        Ok(Flow::Continue)
    }
}

/// Greedy continuations of the cases, with logits, ignoring EOS.
pub fn continue_all(session: &mut dyn Session, cases: &[Case], chunk: usize) -> Result<Vec<Completion>> {
    let requests: Vec<_> =
        cases.iter().map(|case| Request { prompt: case.prompt.clone(), max_new_tokens: case.greedy.len() }).collect();
    let options = Options { sampling: Sampling::default(), eos: vec![], chunk, keep_logits: true };
    Ok(generate::generate(session, &requests, &options, &mut Silent)?.0)
}

/// Compares a continuation with the reference: logits first, then ids up to the first near-tie.
pub fn compare(case: &Case, got: &Completion) -> Result<()> {
    compare_within(case, got, TOLERANCE)
}

/// The same with another difference of logits allowed, relative to the largest: where states are kept in f16.
pub fn compare_within(case: &Case, got: &Completion, tolerance: f32) -> Result<()> {
    let largest = case.step_logits.iter().flatten().fold(0f32, |max, x| max.max(x.abs()));
    let allowed = tolerance * largest;
    for (step, (expected, found)) in case.step_logits.iter().zip(&got.logits).enumerate() {
        let worst = expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        ensure!(
            expected.len() == found.len(),
            "case {}: {} logits, expected {}",
            case.name,
            found.len(),
            expected.len()
        );
        ensure!(worst <= allowed, "case {} step {step}: logits differ by {worst}, allowed {allowed}", case.name);
        let (want, id) = (case.greedy[step], got.ids[step]);
        if case.margins[step] <= 2.0 * allowed {
            break; // Either answer is right, and what follows depends on it.
        }
        ensure!(want == id, "case {} step {step}: id {id}, expected {want}", case.name);
    }
    Ok(())
}

/// Checks every fixture of `names`, of which there are more than `least`, and tells of all that fail.
pub fn for_each(names: &[String], least: usize, check: impl Fn(&str) -> Result<()>) {
    assert!(names.len() > least, "{names:?}");
    let failures: Vec<_> =
        names.iter().filter_map(|name| check(name).err().map(|error| format!("{name}: {error:#}"))).collect();
    assert!(failures.is_empty(), "{} of {} fixtures:\n{}", failures.len(), names.len(), failures.join("\n"));
}

/// Runs the prompts of the fixture `name` on a checkpoint, its quantised weights dense or `stored` as they are, on every
/// engine; how many weights were kept in blocks.
pub fn check_stored(checkpoint: &Checkpoint, name: &str, stored: Stored) -> Result<usize> {
    let model = describe(checkpoint)?;
    let forms = WeightForms { stored, ..WeightForms::default() };
    let mut kept = 0;
    for case in cases(&fixture(name))? {
        let context = case.prompt.len() + case.greedy.len();
        for engine in engines()? {
            let how = CpuOptions { forms, ..options(&*engine, 1, context) };
            let mut ready = prepare::cpu(&model, &checkpoint.weights, how)?;
            let got = continue_all(&mut ready.session, std::slice::from_ref(&case), 512)?;
            compare(&case, &got[0]).with_context(|| engine.name())?;
            kept = ready.quantised.kept.values().sum();
        }
    }
    ensure!(stored == Stored::Keep || kept == 0, "{kept} weights were kept, though dense ones were asked for");
    Ok(kept)
}
