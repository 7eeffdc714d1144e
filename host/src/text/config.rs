//! The small JSON files beside a tokenizer: `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`,
//! and the chat templates.
//!
//! The vocabulary alone does not say which token ends a text, whether a BOS is put in front, or how a conversation is
//! laid out; three generations of files say it, and they disagree. The order of precedence here is the one of
//! transformers 4.57: once `tokenizer_config.json` has `added_tokens_decoder`, the older maps are not read.
//!
//! This module knows names and flags. It does not know whether a token exists in the vocabulary (`tokenizer`) nor what a
//! template means (`chat`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TextError;

/// The roles a special token can have, in the order transformers adds missing ones to the vocabulary.
pub(super) const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A special token as a file spells it: the text, and matching flags if the file gives them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Special {
    pub(super) content: String,
    pub(super) flags: Option<AddedToken>,
}

/// A chat template and where it was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TemplateSource {
    /// `default` unless the file lists several.
    pub(super) name: String,
    /// File name, for messages.
    pub(super) file: String,
    pub(super) text: String,
}

/// Everything the small files say, after precedence.
#[derive(Debug, Default)]
pub(super) struct Config {
    /// Role (one of [`ROLES`]) to token.
    pub(super) roles: BTreeMap<&'static str, Special>,
    /// Special tokens without a role.
    pub(super) additional: Vec<Special>,
    /// Tokens to be known beside the vocabulary, by id.
    pub(super) added: Vec<(u32, AddedToken)>,
    pub(super) tokenizer_class: Option<String>,
    pub(super) add_bos_token: Option<bool>,
    pub(super) add_eos_token: Option<bool>,
    pub(super) add_prefix_space: Option<bool>,
    pub(super) legacy: Option<bool>,
    pub(super) clean_up_tokenization_spaces: bool,
    pub(super) split_special_tokens: bool,
    /// Most tokens that the model takes; absent where the file has the huge number that stands for "unknown".
    pub(super) model_max_length: Option<usize>,
    /// Whether the beginning of a text is what is cut off, rather than its end.
    pub(super) cut_left: bool,
    /// Whether the model is given no segments.
    pub(super) without_segments: bool,
    pub(super) templates: Vec<TemplateSource>,
}

/// Largest JSON side file that is read, in bytes; published ones stay below a few MiB even with long templates.
const MAX_SIDE_FILE: u64 = 64 << 20;

/// Lengths from here on mean that there is no limit.
const MAX_TOKENS: f64 = 1e9;

impl Config {
    /// Reads the side files of the checkpoint `dir`; absent files are fine.
    pub(super) fn open(dir: &Path) -> Result<Config, TextError> {
        let mut config = Config::default();
        let path = dir.join("tokenizer_config.json");
        let main = read_object(&path)?.unwrap_or_default();
        config.read_main(&path, &main)?;
        if !main.contains_key("added_tokens_decoder") {
            config.read_legacy(dir)?;
        }
        config.read_template_files(dir)?;
        Ok(config)
    }

    /// The text of the token with this role.
    pub(super) fn role(&self, role: &str) -> Option<&str> {
        self.roles.get(role).map(|special| special.content.as_str())
    }

    fn read_main(&mut self, path: &Path, main: &Map<String, Value>) -> Result<(), TextError> {
        let file = File { path };
        self.tokenizer_class = file.string(main, "tokenizer_class")?;
        self.add_bos_token = file.boolean(main, "add_bos_token")?;
        self.add_eos_token = file.boolean(main, "add_eos_token")?;
        self.add_prefix_space = file.boolean(main, "add_prefix_space")?;
        self.legacy = file.boolean(main, "legacy")?;
        self.clean_up_tokenization_spaces = file.boolean(main, "clean_up_tokenization_spaces")?.unwrap_or(false);
        self.split_special_tokens = file.boolean(main, "split_special_tokens")?.unwrap_or(false);
        self.read_lengths(&file, main)?;
        self.read_roles(&file, main)?;
        // A list in newer files, a map from attribute name to token in some multimodal ones.
        match main.get("extra_special_tokens") {
            Some(Value::Object(tokens)) => {
                for (name, token) in tokens {
                    let special = file.special(&format!("extra_special_tokens.{name}"), token)?;
                    self.add_additional(special);
                }
            }
            other => self.read_additional(&file, "extra_special_tokens", other)?,
        }
        if let Some(added) = main.get("added_tokens_decoder").filter(|v| !v.is_null()) {
            let Value::Object(added) = added else {
                return Err(file.wrong("added_tokens_decoder", added, "an object from id to token"));
            };
            for (id, token) in added {
                let field = format!("added_tokens_decoder.{id}");
                let number = id.parse::<u32>().map_err(|_| {
                    TextError::malformed(path, &field, format!("keyed by {id:?}"), "an id as key", RESAVE)
                })?;
                let special = file.special(&field, token)?;
                let token = special.flags.unwrap_or_else(|| AddedToken::from(special.content, false));
                self.added.push((number, token));
            }
            self.added.sort_by_key(|(id, _)| *id);
        }
        self.templates = file.templates(main)?;
        Ok(())
    }

    /// What encoders need to know about the length of texts, and about pairs.
    fn read_lengths(&mut self, file: &File<'_>, main: &Map<String, Value>) -> Result<(), TextError> {
        self.model_max_length = match main.get("model_max_length") {
            None | Some(Value::Null) => None,
            Some(value) => match value.as_f64().filter(|n| *n >= 1.0) {
                // Tokenizers without a limit are saved with 10³⁰.
                Some(n) => (n < MAX_TOKENS).then_some(n as usize),
                None => return Err(file.wrong("model_max_length", value, "a number of tokens, 1 or more")),
            },
        };
        self.cut_left = match file.string(main, "truncation_side")?.as_deref() {
            None | Some("right") => false,
            Some("left") => true,
            Some(_) => return Err(file.wrong("truncation_side", &main["truncation_side"], "left or right")),
        };
        self.without_segments = match main.get("model_input_names") {
            None | Some(Value::Null) => false,
            Some(Value::Array(names)) => names.iter().all(|name| name != "token_type_ids"),
            Some(other) => return Err(file.wrong("model_input_names", other, "a list of names")),
        };
        Ok(())
    }

    /// Files written before `added_tokens_decoder` existed; their map wins over the config.
    fn read_legacy(&mut self, dir: &Path) -> Result<(), TextError> {
        let path = dir.join("special_tokens_map.json");
        if let Some(map) = read_object(&path)? {
            self.read_roles(&File { path: &path }, &map)?;
        }
        let path = dir.join("added_tokens.json");
        if let Some(map) = read_object(&path)? {
            for (content, id) in &map {
                let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let Some(number) = number else {
                    return Err(File { path: &path }.wrong(content, id, "an id (an integer below 2^32)"));
                };
                let special = self.roles.values().chain(&self.additional).any(|s| s.content == *content);
                self.added.push((number, AddedToken::from(content.as_str(), special).normalized(!special)));
            }
            self.added.sort_by_key(|(id, _)| *id);
        }
        Ok(())
    }

    fn read_roles(&mut self, file: &File<'_>, map: &Map<String, Value>) -> Result<(), TextError> {
        for role in ROLES {
            if let Some(value) = map.get(role).filter(|v| !v.is_null()) {
                let special = file.special(role, value)?;
                // Some old configs write "" or false-like values for "there is none".
                if !special.content.is_empty() {
                    self.roles.insert(role, special);
                }
            }
        }
        self.read_additional(file, "additional_special_tokens", map.get("additional_special_tokens"))
    }

    fn read_additional(&mut self, file: &File<'_>, field: &str, value: Option<&Value>) -> Result<(), TextError> {
        match value {
            None | Some(Value::Null) => {}
            Some(Value::Array(tokens)) => {
                for (i, token) in tokens.iter().enumerate() {
                    let special = file.special(&format!("{field}[{i}]"), token)?;
                    self.add_additional(special);
                }
            }
            Some(other) => return Err(file.wrong(field, other, "a list of tokens")),
        }
        Ok(())
    }

    fn add_additional(&mut self, special: Special) {
        if !special.content.is_empty() && !self.additional.iter().any(|s| s.content == special.content) {
            self.additional.push(special);
        }
    }

    /// `chat_template.jinja` wins over `tokenizer_config.json`; `chat_template.json` is what processors of multimodal
    /// checkpoints carried before, and only fills a gap.
    fn read_template_files(&mut self, dir: &Path) -> Result<(), TextError> {
        if let Some(text) = read_text(&dir.join("chat_template.jinja"))? {
            self.templates.retain(|t| t.name != "default");
            self.templates
                .insert(0, TemplateSource { name: "default".into(), file: "chat_template.jinja".into(), text });
        }
        if self.templates.is_empty() {
            let path = dir.join("chat_template.json");
            if let Some(map) = read_object(&path)? {
                self.templates = File { path: &path }.templates(&map)?;
            }
        }
        Ok(())
    }
}

const RESAVE: &str = "save the tokenizer again with a current transformers, or correct the file by hand";

/// A JSON file, for errors that name it.
struct File<'a> {
    path: &'a Path,
}

impl File<'_> {
    fn wrong(&self, field: &str, found: &Value, expected: &str) -> TextError {
        TextError::malformed(self.path, format!("`{field}`"), found, expected, RESAVE)
    }

    fn boolean(&self, map: &Map<String, Value>, field: &str) -> Result<Option<bool>, TextError> {
        match map.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(field, other, "true or false")),
        }
    }

    fn string(&self, map: &Map<String, Value>, field: &str) -> Result<Option<String>, TextError> {
        match map.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(value)) => Ok(Some(value.clone())),
            Some(other) => Err(self.wrong(field, other, "a string")),
        }
    }

    /// A token given as text, or as an object with matching flags.
    fn special(&self, field: &str, value: &Value) -> Result<Special, TextError> {
        match value {
            Value::String(content) => Ok(Special { content: content.clone(), flags: None }),
            Value::Object(map) => {
                let Some(Value::String(content)) = map.get("content") else {
                    return Err(self.wrong(field, value, "an object with a string `content`"));
                };
                let flag = |name: &str| self.boolean(map, name);
                let special = flag("special")?.unwrap_or(false);
                let token = AddedToken::from(content.as_str(), special)
                    .single_word(flag("single_word")?.unwrap_or(false))
                    .lstrip(flag("lstrip")?.unwrap_or(false))
                    .rstrip(flag("rstrip")?.unwrap_or(false))
                    .normalized(flag("normalized")?.unwrap_or(!special));
                Ok(Special { content: content.clone(), flags: Some(token) })
            }
            other => Err(self.wrong(field, other, "a string, or an object with `content`")),
        }
    }

    /// One template, a list of named ones, or a map of named ones.
    fn templates(&self, map: &Map<String, Value>) -> Result<Vec<TemplateSource>, TextError> {
        let file = self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let source =
            |name: &str, text: &str| TemplateSource { name: name.into(), file: file.clone(), text: text.into() };
        let expected = "a string, or a list of {name, template}";
        match map.get("chat_template") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![source("default", text)]),
            Some(Value::Array(list)) => list
                .iter()
                .enumerate()
                .map(|(i, entry)| match (entry.get("name"), entry.get("template")) {
                    (Some(Value::String(name)), Some(Value::String(text))) => Ok(source(name, text)),
                    _ => Err(self.wrong(&format!("chat_template[{i}]"), entry, expected)),
                })
                .collect(),
            Some(Value::Object(named)) => named
                .iter()
                .map(|(name, text)| match text {
                    Value::String(text) => Ok(source(name, text)),
                    other => Err(self.wrong(&format!("chat_template.{name}"), other, expected)),
                })
                .collect(),
            Some(other) => Err(self.wrong("chat_template", other, expected)),
        }
    }
}

/// Reads a file whole, refusing sizes no such file has; `None` when there is none.
pub(super) fn read_bytes(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TextError> {
    let failed = |source| TextError::Read { path: path.to_owned(), source };
    let size = match std::fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(failed(e)),
    };
    if size > limit {
        return Err(TextError::malformed(
            path,
            "its size",
            format!("{size} bytes"),
            format!("at most {limit} bytes"),
            "check that the download is the file its name says",
        ));
    }
    std::fs::read(path).map(Some).map_err(failed)
}

/// Reads a text file, naming the byte where it stops being UTF-8.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, TextError> {
    let Some(bytes) = read_bytes(path, MAX_SIDE_FILE)? else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        TextError::malformed(path, format!("byte {at}"), "not UTF-8", "UTF-8 text", "fetch the file again")
    })
}

/// Reads a JSON file that must hold an object.
pub(super) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, TextError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(other) => Err(TextError::malformed(path, "the document", other, "a JSON object", "fetch the file again")),
        Err(e) => Err(TextError::malformed(path, "the document", e, "valid JSON", "fetch the file again")),
    }
}

/// The file names whose presence means that a checkpoint carries a tokenizer.
pub(super) fn sources(dir: &Path) -> [PathBuf; 4] {
    ["tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"].map(|name| dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn open(files: &[(&str, &str)]) -> Result<Config, TextError> {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("write");
        }
        Config::open(dir.path())
    }

    #[test]
    fn the_old_map_wins_only_without_added_tokens_decoder() {
        let map = r#"{"bos_token": {"content": "<new>"}, "additional_special_tokens": ["<x>"]}"#;
        let old = open(&[("tokenizer_config.json", r#"{"bos_token": "<old>"}"#), ("special_tokens_map.json", map)]);
        let old = old.expect("valid");
        assert_eq!(old.role("bos_token"), Some("<new>"));
        assert_eq!(old.additional.len(), 1);
        let new = r#"{"bos_token": "<old>", "added_tokens_decoder": {"7": {"content": "<old>", "special": true}}}"#;
        let new = open(&[("tokenizer_config.json", new), ("special_tokens_map.json", map)]).expect("valid");
        assert_eq!(new.role("bos_token"), Some("<old>"));
        assert_eq!(new.added[0].0, 7);
        assert!(new.added[0].1.special);
    }

    #[test]
    fn templates_are_found_in_order() {
        let config = r#"{"chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]}"#;
        let found = open(&[("tokenizer_config.json", config), ("chat_template.jinja", "c")]).expect("valid");
        let found: Vec<_> = found.templates.iter().map(|t| (t.name.as_str(), t.text.as_str())).collect();
        assert_eq!(found, [("default", "c"), ("rag", "b")]);
        let found = open(&[("chat_template.json", r#"{"chat_template": "d"}"#)]).expect("valid");
        assert_eq!(found.templates[0].text, "d");
    }

    #[test]
    fn refusals_name_file_and_field() {
        let rows = [
            (json!({"bos_token": 3}), "`bos_token` is 3"),
            (json!({"eos_token": {"lstrip": true}}), "`eos_token`"),
            (json!({"add_bos_token": "yes"}), "`add_bos_token` is \"yes\"; expected true or false"),
            (json!({"added_tokens_decoder": {"-1": "<s>"}}), "added_tokens_decoder.-1"),
            (json!({"chat_template": [1]}), "`chat_template[0]`"),
            (json!([1]), "a JSON object"),
        ];
        for (config, expected) in rows {
            let error =
                open(&[("tokenizer_config.json", &config.to_string())]).expect_err("must be refused").to_string();
            assert!(error.contains(expected) && error.contains("tokenizer_config.json"), "{error}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            Just("content".to_owned()),
            Just("special".to_owned()),
            Just("name".to_owned()),
            Just("template".to_owned()),
            Just("chat_template".to_owned()),
            Just("added_tokens_decoder".to_owned()),
            Just("additional_special_tokens".to_owned()),
            Just("extra_special_tokens".to_owned()),
            proptest::sample::select(&ROLES[..]).prop_map(str::to_owned),
            "[0-9a-z_]{0,6}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_makes_it_panic(config in any_json(), map in any_json()) {
            let _ = open(&[("tokenizer_config.json", &config.to_string()), ("special_tokens_map.json", &map.to_string())]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let dir = tempfile::tempdir().expect("temporary directory");
            std::fs::write(dir.path().join("tokenizer_config.json"), bytes).expect("write");
            let _ = Config::open(dir.path());
        }
    }
}
