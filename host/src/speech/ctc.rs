//! Frames of a CTC model into text: repeated ids are one, blanks are none, and a delimiter parts words.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use qeff_plugin_api::graph::{Program, Role};
use serde_json::Value as Json;

use crate::audio::Waveform;
use crate::audio::extractor::Samples;
use crate::checkpoint::{self, Checkpoint};
use crate::runtime::{Callable, Logits, Tensor};

/// How ids are spelled.
#[derive(Debug, Clone, PartialEq)]
pub struct Spelling {
    tokens: BTreeMap<u32, String>,
    blank: String,
    delimiter: Option<String>,
    replacement: String,
    lower: bool,
}

/// A word and the frames in which it is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The word.
    pub text: String,
    /// First frame.
    pub start: usize,
    /// The frame after the last.
    pub end: usize,
}

impl Spelling {
    /// Reads vocab.json and tokenizer_config.json of a checkpoint; `None` if there is no vocab.json.
    ///
    /// # Errors
    /// If a file is malformed.
    pub fn open(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let read = |file: &str| -> Result<Option<Json>> {
            let text = checkpoint::read_json_text(&checkpoint.dir.join(file))?;
            text.map(|text| serde_json::from_str(&text).with_context(|| format!("{file} is not JSON"))).transpose()
        };
        let Some(vocab) = read("vocab.json")? else { return Ok(None) };
        let config = read("tokenizer_config.json")?.unwrap_or(Json::Null);
        Self::read(&vocab, &config).map(Some)
    }

    fn read(vocab: &Json, config: &Json) -> Result<Self> {
        // A token is a text, or an object that has it as `content`.
        let token = |key: &str, default: &str| match config.get(key) {
            None => default.to_owned(),
            Some(value) => value.get("content").unwrap_or(value).as_str().unwrap_or(default).to_owned(),
        };
        let flag = |key: &str| config.get(key).and_then(Json::as_bool).unwrap_or(false);
        let vocab = vocab.as_object().context("vocab.json: expected an object of ids by token")?;
        let vocab = match config.get("target_lang").and_then(Json::as_str).map(|lang| vocab.get(lang)) {
            Some(Some(Json::Object(of_language))) => of_language,
            _ => vocab,
        };
        let mut tokens = BTreeMap::new();
        for (token, id) in vocab {
            let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
                bail!("vocab.json: `{token}`: expected a token id, found {id}");
            };
            tokens.insert(id, token.clone());
        }
        // Tokens that were added to the vocabulary stand in another file.
        for (id, entry) in config.get("added_tokens_decoder").and_then(Json::as_object).into_iter().flatten() {
            if let (Ok(id), Some(content)) = (id.parse(), entry.get("content").and_then(Json::as_str)) {
                tokens.entry(id).or_insert_with(|| content.to_owned());
            }
        }
        let delimiter = token("word_delimiter_token", "|");
        Ok(Spelling {
            tokens,
            blank: token("pad_token", "<pad>"),
            delimiter: Some(delimiter).filter(|token| !token.is_empty()),
            replacement: token("replace_word_delimiter_char", " "),
            lower: flag("do_lower_case"),
        })
    }

    /// The text of the ids of all frames.
    pub fn text(&self, ids: &[u32]) -> String {
        let spelled = self.runs(ids).map(|(_, token)| match &self.delimiter {
            Some(delimiter) if token == delimiter => self.replacement.as_str(),
            _ => token,
        });
        let text = spelled.collect::<String>().trim().to_owned();
        if self.lower { text.to_lowercase() } else { text }
    }

    /// The words of the ids of all frames.
    pub fn words(&self, ids: &[u32]) -> Vec<Word> {
        let mut words: Vec<Word> = vec![];
        let mut open = false;
        for (frames, token) in self.runs(ids) {
            if self.delimiter.as_deref() == Some(token) {
                open = false;
                continue;
            }
            let token = if self.lower { token.to_lowercase() } else { token.to_owned() };
            match words.last_mut().filter(|_| open) {
                Some(word) => {
                    word.text.push_str(&token);
                    word.end = frames.end;
                }
                None => words.push(Word { text: token, start: frames.start, end: frames.end }),
            }
            open = true;
        }
        words
    }

    /// The tokens that are not blank, repeated ones once, with the frames of each.
    fn runs<'a>(&'a self, ids: &'a [u32]) -> impl Iterator<Item = (std::ops::Range<usize>, &'a str)> {
        let mut at = 0;
        ids.chunk_by(|a, b| a == b).filter_map(move |run| {
            let frames = at..at + run.len();
            at = frames.end;
            let token = self.tokens.get(run.first()?)?;
            (*token != self.blank).then_some((frames, token.as_str()))
        })
    }
}

/// The likeliest id of each frame of `[frames, vocab]`.
pub fn likeliest(logits: &Logits) -> Vec<u32> {
    let best = |row: &[f32]| {
        let largest = row
            .iter()
            .enumerate()
            .fold((0, f32::NEG_INFINITY), |best, (id, &x)| if x > best.1 { (id, x) } else { best });
        largest.0 as u32
    };
    (0..logits.rows()).map(|row| best(logits.row(row))).collect()
}

/// A program that labels frames, wherever it is called.
pub struct Labeller {
    program: Box<dyn Callable>,
    /// The input that takes the sound.
    input: String,
}

impl Labeller {
    /// A program that was made of `described`.
    ///
    /// # Errors
    /// If the description is not that of a model that labels frames.
    pub fn new(program: impl Callable + 'static, described: &Program) -> Result<Self> {
        let input = described.input(Role::Features).context("nothing takes the sound")?.name.clone();
        Ok(Labeller { program: Box::new(program), input })
    }
}

/// How a model's convolutions cut samples into frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frames {
    /// Samples that the first frame takes.
    pub first: usize,
    /// Samples from frame to frame.
    pub stride: usize,
}

impl Frames {
    /// Scores of each frame of a recording, `[frames, vocab]`, by a program whose one input is the sound and whose one output
    /// the scores.
    ///
    /// # Errors
    /// If the recording is shorter than a frame, or the program fails.
    pub fn label(&self, program: &mut Labeller, extractor: &Samples, waveform: &Waveform) -> Result<Logits> {
        let count = waveform.samples.len();
        if count < self.first {
            bail!("it has {count} samples; expected at least {}, which the first frame takes", self.first);
        }
        let samples = Tensor::floats([1, count], extractor.prepare(waveform));
        let results = program.program.call(&[(program.input.as_str(), &samples)])?;
        let (_, logits) = results.into_iter().next().context("there are no scores")?;
        Ok(logits.try_into()?)
    }

    /// Reads `conv_kernel` and `conv_stride` of config.json.
    ///
    /// # Errors
    /// If they are not lists of whole numbers of the same length.
    pub fn read(config: &str) -> Result<Self> {
        let config: Json = serde_json::from_str(config)?;
        let list = |key: &str, default: &[u64]| -> Result<Vec<u64>> {
            let read = |value: &Json| {
                let numbers: Option<Vec<u64>> = value.as_array()?.iter().map(Json::as_u64).collect();
                numbers.filter(|numbers| numbers.iter().all(|n| (1..=1 << 16).contains(n)))
            };
            match config.get(key) {
                None => Ok(default.to_vec()),
                Some(value) => read(value).with_context(|| {
                    format!("config.json: `{key}`: expected whole numbers of 1 or more, found {value}")
                }),
            }
        };
        let kernels = list("conv_kernel", &[10, 3, 3, 3, 3, 2, 2])?;
        let strides = list("conv_stride", &[5, 2, 2, 2, 2, 2, 2])?;
        let (mut first, mut stride) = (1u64, 1u64);
        for (kernel, step) in kernels.iter().zip(&strides) {
            first = first.saturating_add((kernel - 1).saturating_mul(stride));
            stride = stride.saturating_mul(*step);
        }
        Ok(Frames { first: first as usize, stride: stride as usize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelling() -> Spelling {
        let vocab = serde_json::json!({ "<pad>": 0, "|": 1, "A": 2, "B": 3, "<s>": 4 });
        Spelling::read(&vocab, &serde_json::json!({ "do_lower_case": true })).unwrap()
    }

    #[test]
    fn repeated_labels_are_one_and_blanks_part_them() {
        let ids = [1, 0, 2, 2, 0, 2, 3, 1, 1, 0, 3, 9, 3, 0];
        assert_eq!(spelling().text(&ids), "aab bb");
        let word = |text: &str, start, end| Word { text: text.into(), start, end };
        assert_eq!(spelling().words(&ids), [word("aab", 2, 7), word("bb", 10, 13)]);
        assert_eq!(spelling().text(&[]), "");
    }

    #[test]
    fn a_vocabulary_of_something_else_is_refused() {
        let read =
            |vocab: &str| Spelling::read(&serde_json::from_str(vocab).unwrap(), &Json::Null).unwrap_err().to_string();
        assert_eq!(read("[]"), "vocab.json: expected an object of ids by token");
        assert_eq!(read(r#"{"a": -1}"#), "vocab.json: `a`: expected a token id, found -1");
    }

    #[test]
    fn frames_follow_from_the_convolutions() {
        assert_eq!(Frames::read("{}").unwrap(), Frames { first: 400, stride: 320 });
        assert!(Frames::read(r#"{"conv_kernel": [0]}"#).is_err());
    }
}
