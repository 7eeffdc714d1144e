//! Fixtures of models that listen, and what they must compute and hear, whatever executes them.

use anyhow::{Context as _, Result, bail, ensure};
use qeff_host::audio::extractor::Samples;
use qeff_host::audio::{Extractor, Limits, LogMel, Waveform, read};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::speech::ctc::{self, Frames, Labeller, Spelling};
use qeff_host::speech::listen::{Fallback, PassOptions, pass};
use qeff_host::speech::prompt::{Prompt, Wish, likeliest_language};
use qeff_host::speech::transcribe::{Options, Transcript, check_windows, features};
use qeff_host::speech::{Decoder, Language, Settings, SpeechTask, transcribe};
use serde_json::Value as Json;

use crate::{TOLERANCE, fixture, tensor_rows};

/// A fixture with what it must compute.
pub struct Fixture {
    name: String,
    /// Its checkpoint.
    pub checkpoint: Checkpoint,
    extractor: Extractor,
    expected: Json,
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

impl Fixture {
    /// A fixture by its name, e.g. `whisper/base`.
    pub fn open(name: &str) -> Result<Self> {
        let dir = fixture(name);
        let expected = serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json"))?)?;
        let (checkpoint, extractor) = (Checkpoint::open(&dir)?, Extractor::open(&dir)?);
        Ok(Fixture { name: name.to_owned(), checkpoint, extractor, expected })
    }

    fn recording(&self) -> Result<Waveform> {
        Ok(read(&fixture("audio/jfk.wav"), self.extractor.rate(), Limits::default())?)
    }

    fn list(&self, key: &str) -> Result<&Vec<Json>> {
        self.expected[key].as_array().with_context(|| format!("expected.json has no {key}"))
    }

    fn log_mel(&self) -> Result<&LogMel> {
        match &self.extractor {
            Extractor::LogMel(extractor) => Ok(extractor),
            _ => bail!("no log-mel extractor"),
        }
    }

    fn samples(&self) -> Result<Samples> {
        match self.extractor {
            Extractor::Samples(extractor) => Ok(extractor),
            _ => bail!("no extractor of samples"),
        }
    }

    /// The settings of a model that writes sentences.
    pub fn settings(&self) -> Result<Settings> {
        let settings = Settings::open(&self.checkpoint)?;
        check_windows(self.log_mel()?, &settings)?;
        Ok(settings)
    }

    /// Refuses a decoder that hears something else than Hugging Face: in one pass over a window, and in all of a recording.
    pub fn check_sentences(&self, settings: &Settings, decoder: &mut dyn Decoder) -> Result<()> {
        let waveform = self.recording()?;
        // The plain form: one pass over the first window.
        decoder.listen(&self.log_mel()?.first_window(&waveform.samples))?;
        let scores = decoder.step(&[settings.start], 0)?;
        let detected = likeliest_language(settings, scores.row(0));
        ensure!(
            settings.languages.get(text(&self.expected["detected"])?).copied() == detected,
            "language {detected:?}"
        );
        for expected in self.list("cases")? {
            self.check_pass(settings, decoder, expected)?;
        }
        // All of the recording.
        for expected in self.list("transcripts")? {
            let what = text(&expected["name"])?;
            let found = self.whole(settings, decoder, &waveform, expected)?;
            let segments = expected["segments"].as_array().context("no segments")?;
            let (count, wanted) = (found.segments.len(), segments.len());
            ensure!(count == wanted, "{what}: {count} segments of {wanted}");
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

    fn check_pass(&self, settings: &Settings, decoder: &mut dyn Decoder, expected: &Json) -> Result<()> {
        let what = text(&expected["name"])?;
        let wish = Wish {
            language: Language::Given(text(&expected["language"])?.to_owned()),
            task: Some(SpeechTask::Transcribe),
            timestamps: false,
        };
        let prompt = Prompt::new(settings, &wish)?.tokens(None);
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
        let done = pass(decoder, settings, &prompt, prompt.len(), &options)?;
        let rows = tensor_rows(&fixture(&self.name), &format!("{what}.step_logits"))?;
        compare_rows(what, &rows, &done.logits.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        ensure!(done.ids == greedy, "{what}: ids {:?}, expected {greedy:?}", done.ids);
        Ok(())
    }

    /// Transcribes the recording as a case of expected.json asks.
    fn whole(
        &self,
        settings: &Settings,
        decoder: &mut dyn Decoder,
        waveform: &Waveform,
        asked: &Json,
    ) -> Result<Transcript> {
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
        transcribe(decoder, settings, &features(self.log_mel()?, waveform), &options, &mut |_| {})
    }

    /// Beginnings of the recording, as long as the cases say: samples of each.
    pub fn lengths(&self) -> Result<Vec<usize>> {
        let length = |case: &Json| Ok(case["samples"].as_u64().context("samples")? as usize);
        self.list("cases")?.iter().map(length).collect()
    }

    /// Refuses a labeller that labels frames otherwise than Hugging Face.
    pub fn check_labels(&self, labeller: &mut Labeller) -> Result<()> {
        let extractor = self.samples()?;
        let frames = Frames::read(&self.checkpoint.config.to_text())?;
        let spelling = Spelling::open(&self.checkpoint)?.context("no vocab.json")?;
        let recording = self.recording()?;
        for (expected, count) in self.list("cases")?.iter().zip(self.lengths()?) {
            let what = text(&expected["name"])?;
            let waveform = Waveform { samples: recording.samples[..count].to_vec(), rate: recording.rate };
            let logits = frames.label(labeller, &extractor, &waveform)?;
            let rows: Vec<_> = (0..logits.rows()).map(|row| logits.row(row)).collect();
            let expected_rows = tensor_rows(&fixture(&self.name), &format!("{what}.logits"))?;
            compare_rows(what, &expected_rows, &rows)?;
            // A frame whose two likeliest labels are as good as equal may have either.
            let near = |row: &[f32]| {
                let mut sorted = row.to_vec();
                sorted.sort_by(|a, b| b.total_cmp(a));
                sorted[0] - sorted[1] < 1e-3
            };
            let (found, labels) = (ctc::likeliest(&logits), ids(&expected["ids"]));
            let ties = expected_rows.iter().filter(|row| near(row)).count();
            let wrong =
                found.iter().zip(&labels).zip(&expected_rows).filter(|((a, b), row)| a != b && !near(row)).count();
            ensure!(wrong == 0 && ties * 20 < labels.len().max(20), "{what}: {wrong} labels differ, {ties} ties");
            ensure!(spelling.text(&labels) == text(&expected["text"])?, "{what}: text {:?}", spelling.text(&labels));
        }
        Ok(())
    }
}

/// The largest difference of rows of numbers, relative to the largest number that is expected.
pub fn worst(found: &[Json], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().flatten().fold(0f32, |most, x| most.max(x.abs()));
    let rows = found.iter().zip(expected).map(|(found, expected)| {
        let found = found.as_array().expect("a row").iter().map(|x| x.as_f64().expect("a number") as f32);
        found.zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
    });
    rows.fold(0f32, f32::max) / largest
}
