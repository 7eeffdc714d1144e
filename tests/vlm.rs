//! Models that look at images compute what Hugging Face computes, with one image, with several of different shapes, with
//! none, and however a prompt is cut into calls.

use anyhow::{Context as _, Result, ensure};
use qeff::{Case, TOLERANCE, cases, compare, continue_all, describe, engines, fixture, fixtures_of, options};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::prepare::CpuOptions;
use qeff_host::runtime::cpu::engine::Engine;
use qeff_host::vision::session::ImageSession;
use qeff_host::vision::{Family, ready};
use safetensors::SafeTensors;
use serde_json::Value as Json;

const FAMILIES: [&str; 3] = ["llava", "llava_next", "internvl"];

/// What a prompt says, and which images it shows.
struct Asked {
    text: String,
    images: Vec<String>,
}

fn asked(dir: &std::path::Path) -> Result<Vec<Asked>> {
    let json: Json = serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json"))?)?;
    let list = json["cases"].as_array().context("no cases")?;
    let text = |value: &Json| value.as_str().map(str::to_owned).context("expected a text");
    list.iter()
        .map(|case| {
            let images = case["images"].as_array().into_iter().flatten().map(text).collect::<Result<_>>()?;
            Ok(Asked { text: text(&case["text"])?, images })
        })
        .collect()
}

/// Runs the prompts of a fixture one after the other, as `run` does.
fn check(name: &str, engine: &dyn Engine, chunk: usize) -> Result<()> {
    let dir = fixture(name);
    let checkpoint = Checkpoint::open(&dir)?;
    let model = describe(&checkpoint)?;
    let tokenizer = checkpoint.tokenizer()?;
    let mut family = Family::open(&checkpoint, &model, Some(&tokenizer))?;
    let (cases, asked) = (cases(&dir)?, asked(&dir)?);
    let reach = |case: &Case| case.prompt.len() + case.greedy.len() - 1;
    let context = cases.iter().map(reach).max().context("no cases")?;
    let how = CpuOptions { chunk, ..options(engine, 1, context) };
    let mut ready = ready::cpu(&model, &checkpoint.weights, how)?;
    let bytes = std::fs::read(dir.join("expected.safetensors"))?;
    let expected = SafeTensors::deserialize(&bytes)?;
    let mut shown = vec![];
    for (i, (case, asked)) in cases.iter().zip(&asked).enumerate() {
        let pictures: Vec<_> =
            asked.images.iter().map(|file| family.picture(&fixture("vision").join(file))).collect::<Result<_, _>>()?;
        let rows: Vec<usize> = pictures.iter().map(|picture| picture.rows).collect();
        let marks = family.marks().context("no tokenizer")?;
        let ids = tokenizer.encode(&marks.expand(&asked.text, &rows)?, true)?;
        ensure!(ids == case.prompt, "prompt {i} is {ids:?} instead of {:?}", case.prompt);
        let embeds = pictures.iter().map(|picture| ready.encoder.encode(picture)).collect::<Result<Vec<_>, _>>()?;
        let found: Vec<f32> = embeds.iter().flat_map(|image| image.data.iter().copied()).collect();
        if !pictures.is_empty() {
            let rows = expected.tensor(&format!("{i}.features"))?;
            let rows = rows.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let largest = rows.clone().map(f32::abs).fold(0.0, f32::max);
            ensure!(rows.len() == found.len(), "{} numbers instead of {}", found.len(), rows.len());
            let most = rows.zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            ensure!(most <= TOLERANCE * largest, "rows of images of prompt {i} differ by up to {most}");
        }
        shown.push(embeds);
    }
    // rgb.png is shown twice.
    ensure!(ready.encoder.calls() == 3, "{} images were encoded, of which there are three", ready.encoder.calls());
    let sequences = shown.iter().map(|of_prompt| of_prompt.iter().map(|embeds| &**embeds));
    let mut session = ImageSession::new(ready.session, ready.ports, sequences);
    let got = continue_all(&mut session, &cases, chunk)?;
    cases.iter().zip(&got).try_for_each(|(case, got)| compare(case, got))
}

fn check_all(chunk: usize) {
    let names: Vec<_> = FAMILIES.iter().flat_map(|family| fixtures_of(family)).collect();
    assert!(names.len() >= FAMILIES.len(), "{names:?}");
    for engine in engines().expect("engines") {
        let failure = |name: &String| Some(format!("{name}: {:#}", check(name, &*engine, chunk).err()?));
        let failures: Vec<_> = names.iter().filter_map(failure).collect();
        assert!(failures.is_empty(), "{}, {} fail:\n{}", engine.name(), failures.len(), failures.join("\n"));
    }
}

#[test]
fn images_among_text() {
    check_all(512);
}

/// Cuts fall within images, before them and after them.
#[test]
fn prompts_cut_within_images() {
    check_all(5);
}
