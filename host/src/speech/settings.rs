//! What a Whisper checkpoint says of how text is made: generation_config.json, and config.json for what only stands there.
//!
//! A checkpoint without generation_config.json is one from before there were such files; its config.json has what is needed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value as Json;

use crate::checkpoint::{self, Checkpoint};

/// Everything about ids and lengths that generation needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The token that every transcript begins with.
    pub start: u32,
    /// Tokens that end one.
    pub eos: Vec<u32>,
    /// Language tokens by code; none in a model of one language.
    pub languages: BTreeMap<String, u32>,
    /// Task tokens by name.
    pub tasks: BTreeMap<String, u32>,
    /// Whether the model knows several languages.
    pub multilingual: bool,
    /// The token that turns timestamps off; the tokens after it are timestamps, and the one before it says that nobody speaks.
    pub no_timestamps: Option<u32>,
    /// Never generated.
    pub suppress: Vec<u32>,
    /// Never generated first.
    pub begin_suppress: Vec<u32>,
    /// Tokens after the first that the checkpoint wants unless somebody says otherwise; `None` stands for a language that is to
    /// be found out.
    pub forced: Vec<Option<u32>>,
    /// The language that the checkpoint wants, if it says so.
    pub language: Option<String>,
    /// The task that the checkpoint wants, if it says so.
    pub task: Option<String>,
    /// The token before what was said earlier.
    pub previous: Option<u32>,
    /// Latest timestamp that may come first, as a number of steps.
    pub latest_start: Option<u32>,
    /// Most tokens of a transcript, prompt included.
    pub max_length: usize,
    /// Most tokens after the prompt, if the checkpoint says so.
    pub max_new: Option<usize>,
    /// Positions of the decoder.
    pub positions: usize,
    /// Frames of features that the encoder takes.
    pub frames: usize,
    /// Mel bands of these.
    pub mels: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
}

/// Fields with which transformers would choose other tokens, none of which is followed here; and the number that each may be
/// because it changes nothing.
const NOT_FOLLOWED: &[(&str, Option<f64>)] = &[
    ("bad_words_ids", None),
    ("do_sample", None),
    ("encoder_no_repeat_ngram_size", Some(0.0)),
    ("encoder_repetition_penalty", Some(1.0)),
    ("exponential_decay_length_penalty", None),
    ("forced_eos_token_id", None),
    ("guidance_scale", Some(1.0)),
    ("min_length", Some(0.0)),
    ("min_new_tokens", Some(0.0)),
    ("no_repeat_ngram_size", Some(0.0)),
    ("num_beams", Some(1.0)),
    ("penalty_alpha", None),
    ("repetition_penalty", Some(1.0)),
    ("sequence_bias", None),
];

/// Frames of features that become one position of the encoder.
pub const STRIDE: usize = 2;

impl Settings {
    /// Reads the files of a checkpoint.
    ///
    /// # Errors
    /// If one is malformed, or lacks what nothing can be done without.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self> {
        let text = checkpoint::read_json_text(&checkpoint.dir.join("generation_config.json"))?;
        let config = checkpoint.config.to_text();
        Self::read(&config, text.as_deref(), checkpoint.eos())
            .with_context(|| format!("cannot tell from {} how text is generated", Path::new(&checkpoint.dir).display()))
    }

    fn read(config: &str, generation: Option<&str>, eos: &[u32]) -> Result<Self> {
        let parse = |file, text| serde_json::from_str(text).with_context(|| format!("{file} is not JSON"));
        let config = Fields { file: "config.json", json: parse("config.json", config)? };
        let generation = match generation {
            Some(text) => Fields { file: "generation_config.json", json: parse("generation_config.json", text)? },
            None => config.clone(),
        };
        generation.follow_only_known()?;
        let positions = config.size("max_target_positions")?.unwrap_or(448);
        let vocab = config.size("vocab_size")?.unwrap_or(51_865);
        let start = match generation.id("decoder_start_token_id")? {
            Some(id) => Some(id),
            None => config.id("decoder_start_token_id")?,
        };
        let forced = match generation.forced()? {
            Some(forced) => forced,
            None => config.forced()?.unwrap_or_default(),
        };
        let suppress = generation.ids("suppress_tokens")?;
        // What transformers takes where the file does not say: the last but one of the suppressed tokens.
        let previous = match generation.id("prev_sot_token_id")? {
            Some(id) => Some(id),
            None => suppress.len().checked_sub(2).map(|i| suppress[i]),
        };
        let settings = Settings {
            start: start.with_context(|| {
                anyhow!("generation_config.json: `decoder_start_token_id`: expected a token id, found nothing")
            })?,
            eos: eos.to_vec(),
            languages: generation.tokens("lang_to_id")?,
            tasks: generation.tokens("task_to_id")?,
            multilingual: generation.flag("is_multilingual")?.unwrap_or(true),
            no_timestamps: generation.id("no_timestamps_token_id")?,
            suppress,
            begin_suppress: generation.ids("begin_suppress_tokens")?,
            forced,
            language: generation.text("language")?,
            task: generation.text("task")?,
            previous,
            latest_start: generation.id("max_initial_timestamp_index")?,
            max_length: generation.size("max_length")?.unwrap_or(positions).min(positions),
            max_new: generation.size("max_new_tokens")?,
            positions,
            frames: config.size("max_source_positions")?.unwrap_or(1_500).saturating_mul(STRIDE),
            mels: config.size("num_mel_bins")?.unwrap_or(80),
            vocab,
        };
        settings.check()?;
        Ok(settings)
    }

    /// Refuses ids past the vocabulary: they would be written into a prompt.
    fn check(&self) -> Result<()> {
        let named = self.languages.iter().chain(&self.tasks).map(|(name, &id)| (name.as_str(), id));
        let others = [("decoder_start_token_id", Some(self.start)), ("no_timestamps_token_id", self.no_timestamps)];
        let others = others.into_iter().filter_map(|(name, id)| Some((name, id?)));
        let forced = self.forced.iter().flatten().map(|&id| ("forced_decoder_ids", id));
        match named.chain(others).chain(forced).find(|&(_, id)| id as usize >= self.vocab) {
            Some((name, id)) => bail!(
                "generation_config.json: `{name}`: expected a token id below {}, the size of the vocabulary; found {id}",
                self.vocab
            ),
            None => Ok(()),
        }
    }

    /// The first timestamp token; past every token if the model has none.
    pub fn first_timestamp(&self) -> u32 {
        self.no_timestamps.map_or(u32::MAX, |id| id.saturating_add(1))
    }

    /// Whether a token is no timestamp.
    pub fn is_text(&self, id: u32) -> bool {
        id < self.first_timestamp()
    }

    /// The token that says that nobody speaks.
    pub fn no_speech(&self) -> Option<u32> {
        self.no_timestamps.and_then(|id| id.checked_sub(1))
    }
}

/// The fields of a JSON file.
#[derive(Clone)]
struct Fields {
    file: &'static str,
    json: Json,
}

impl Fields {
    fn get<T>(&self, key: &str, expected: &str, read: impl Fn(&Json) -> Option<T>) -> Result<Option<T>> {
        match self.json.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| {
                let found: String = value.to_string().chars().take(80).collect();
                anyhow!("{}: `{key}`: expected {expected}, found {found}", self.file)
            }),
        }
    }

    /// Refuses [`NOT_FOLLOWED`].
    fn follow_only_known(&self) -> Result<()> {
        for &(key, neutral) in NOT_FOLLOWED {
            let inert = |value: &Json| match value {
                Json::Bool(on) => !on,
                Json::Array(list) => list.is_empty(),
                Json::Object(pairs) => pairs.is_empty(),
                number => number.as_f64() == neutral && neutral.is_some(),
            };
            let expected = match neutral {
                Some(neutral) => format!("{neutral} or nothing, since it is not followed: take it out to do without"),
                None => "nothing, since it is not followed: take it out to do without".to_owned(),
            };
            self.get(key, &expected, |value| inert(value).then_some(()))?;
        }
        Ok(())
    }

    fn id(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "a token id", as_id)
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        let size = |value: &Json| value.as_u64().filter(|size| (1..=1 << 24).contains(size)).map(|size| size as usize);
        self.get(key, "a whole number of 1 or more", size)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", Json::as_bool)
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        self.get(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// Token ids; negative ones, which stand for nothing, are left out.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let ids = |value: &Json| {
            let numbers: Option<Vec<i64>> = value.as_array()?.iter().map(Json::as_i64).collect();
            Some(numbers?.into_iter().filter_map(|id| u32::try_from(id).ok()).collect())
        };
        Ok(self.get(key, "a list of token ids", ids)?.unwrap_or_default())
    }

    /// Token ids by name; `<|en|>` is `en`.
    fn tokens(&self, key: &str) -> Result<BTreeMap<String, u32>> {
        let plain = |name: &String| name.trim_start_matches("<|").trim_end_matches("|>").to_owned();
        let tokens =
            |value: &Json| value.as_object()?.iter().map(|(name, id)| Some((plain(name), as_id(id)?))).collect();
        Ok(self.get(key, "token ids by name", tokens)?.unwrap_or_default())
    }

    /// `forced_decoder_ids`: pairs of a position, from 1 on without a gap, and an id or null.
    fn forced(&self) -> Result<Option<Vec<Option<u32>>>> {
        let expected = "pairs of a position and a token id, the positions 1, 2, … in order";
        self.get("forced_decoder_ids", expected, |value| {
            let mut ids = vec![];
            for pair in value.as_array()? {
                let [position, id] = pair.as_array()?.as_slice() else { return None };
                if position.as_u64()? != ids.len() as u64 + 1 {
                    return None;
                }
                ids.push(if id.is_null() { None } else { Some(as_id(id)?) });
            }
            Some(ids)
        })
    }
}

fn as_id(value: &Json) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(generation: &str) -> Result<Settings> {
        Settings::read(
            r#"{"decoder_start_token_id": 1, "max_target_positions": 40, "vocab_size": 9}"#,
            Some(generation),
            &[0],
        )
    }

    #[test]
    fn fields_that_would_choose_other_tokens_are_refused() {
        for (key, value) in [
            ("repetition_penalty", "1.7"),
            ("no_repeat_ngram_size", "2"),
            ("num_beams", "3"),
            ("do_sample", "true"),
            ("forced_eos_token_id", "0"),
            ("sequence_bias", "[[[9], 5.0]]"),
            ("min_length", "30"),
        ] {
            let error = read(&format!(r#"{{"{key}": {value}}}"#)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("generation_config.json: `{key}`: expected ")), "{error}");
            assert!(error.ends_with(&format!("found {}", value.replace(' ', ""))), "{error}");
        }
        for neutral in [
            r#"{"repetition_penalty": 1, "num_beams": 1, "do_sample": false, "bad_words_ids": [], "min_length": 0}"#,
            r#"{"forced_eos_token_id": null, "sequence_bias": {}, "temperature": 0.7, "length_penalty": 2.0}"#,
        ] {
            assert!(read(neutral).is_ok(), "{neutral}");
        }
    }

    #[test]
    fn lengths_are_read() {
        let lengths = |text: &str| read(text).map(|settings| (settings.max_length, settings.max_new)).unwrap();
        assert_eq!(lengths("{}"), (40, None));
        assert_eq!(lengths(r#"{"max_length": 12, "max_new_tokens": 4}"#), (12, Some(4)));
        assert_eq!(lengths(r#"{"max_length": 448}"#), (40, None));
    }
}
