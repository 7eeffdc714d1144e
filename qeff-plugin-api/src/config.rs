//! config.json as a plugin reads it: every access is typed, and remembered.
//!
//! A field that changes the result and is not read is the commonest way to be silently wrong. So the reader records what
//! was asked for, and the host names what nobody asked about (`Config::unread`).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

use serde_json::Value as Json;

/// A JSON object of a config file, with the memory of what was read.
#[derive(Debug, Clone)]
pub struct Config {
    json: Json,
    /// Dotted path of this object within the file; empty for the top.
    path: String,
    read: Rc<RefCell<BTreeSet<String>>>,
}

/// A field that is missing, of the wrong type, or of a value that is not supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("config.json: {}expected {expected}, found {found}", of_field(field))]
pub struct ConfigError {
    /// Dotted path of the field; empty for the whole file.
    pub field: String,
    /// What would have been right.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

fn of_field(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("`{field}`: ") }
}

/// Largest size a config may state. Engines index with 32 bits, and products of two sizes stay within 64.
const MAX_SIZE: u64 = i32::MAX as u64;

/// Most layers a config may state: several times as many as any model has, few enough to be described in no time.
const MAX_LAYERS: u64 = 4096;

/// Fields that never change what a model computes: training, bookkeeping, generation defaults (which the host reads
/// elsewhere).
const INERT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cls_dropout",
    "cls_token_id",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "embedding_dropout",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "is_composition",
    "is_decoder",
    "is_encoder_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "mlp_dropout",
    "model_type",
    "n_special",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "pooler_dropout",
    "predict_special_tokens",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "qa_dropout",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "sep_token_id",
    "seq_classif_dropout",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
];

/// Fields that transformers writes into every config file, and that ask for nothing if they are `false`.
const INERT_IF_FALSE: &[&str] = &["add_cross_attention", "rope_interleaved", "tie_encoder_decoder"];

impl Config {
    /// Reads the text of a config file.
    ///
    /// # Errors
    /// If the text is not JSON or not an object.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let top =
            |expected: &str, found: String| ConfigError { field: String::new(), expected: expected.into(), found };
        let json: Json = serde_json::from_str(text).map_err(|error| top("JSON", format!("a mistake: {error}")))?;
        if !json.is_object() {
            return Err(top("an object", kind(&json).into()));
        }
        Ok(Config { json, path: String::new(), read: Rc::default() })
    }

    /// The same file of another architecture; nothing of it has been read.
    pub fn with_architecture(&self, name: &str) -> Self {
        let mut json = self.json.clone();
        if let Some(fields) = json.as_object_mut() {
            fields.insert("architectures".into(), Json::Array(vec![name.into()]));
        }
        Config { json, path: self.path.clone(), read: Rc::default() }
    }

    /// The file's text, normalised.
    pub fn to_text(&self) -> String {
        self.json.to_string()
    }

    fn field(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a field; absent and null are the same.
    fn get(&self, key: &str) -> Option<&Json> {
        self.read.borrow_mut().insert(self.field(key));
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// Whether the field is there, be it null: some families mean different things by null and by absence.
    pub fn mentions(&self, key: &str) -> bool {
        self.read.borrow_mut().insert(self.field(key));
        self.json.get(key).is_some()
    }

    /// An error about a field's value: what would be right instead.
    pub fn unsupported(&self, key: &str, expected: impl fmt::Display) -> ConfigError {
        let found = self.json.get(key).map_or("nothing".into(), |value| shorten(&value.to_string()));
        ConfigError { field: self.field(key), expected: expected.to_string(), found }
    }

    fn typed<T>(&self, key: &str, what: &str, read: impl Fn(&Json) -> Option<T>) -> Result<Option<T>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.unsupported(key, what)),
        }
    }

    /// Whether the field is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A whole number ≥ 0, if present.
    ///
    /// # Errors
    /// If the field holds something else.
    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        let read = |v: &Json| {
            v.as_u64().or_else(|| v.as_f64().filter(|f| f.fract() == 0.0 && (0.0..=9e15).contains(f)).map(|f| f as u64))
        };
        self.typed(key, "a whole number of 0 or more", read)
    }

    /// A whole number, if present.
    ///
    /// # Errors
    /// If the field holds something else.
    pub fn opt_i64(&self, key: &str) -> Result<Option<i64>, ConfigError> {
        self.typed(key, "a whole number", Json::as_i64)
    }

    /// A whole number ≥ 1, of the size a dimension can have, that must be there.
    ///
    /// # Errors
    /// If it is missing or something else.
    pub fn count(&self, key: &str) -> Result<u64, ConfigError> {
        self.count_up_to(key, MAX_SIZE)
    }

    /// The number of layers, ≥ 1, that must be there.
    ///
    /// # Errors
    /// If it is missing, something else, or more than any model has.
    pub fn layers(&self, key: &str) -> Result<u64, ConfigError> {
        self.count_up_to(key, MAX_LAYERS)
    }

    /// The number of layers, ≥ 1, or `default` if absent.
    ///
    /// # Errors
    /// If it is something else, or more than any model has.
    pub fn layers_or(&self, key: &str, default: u64) -> Result<u64, ConfigError> {
        if self.has(key) { self.layers(key) } else { Ok(default) }
    }

    fn count_up_to(&self, key: &str, most: u64) -> Result<u64, ConfigError> {
        let in_range = self.opt_u64(key).ok().flatten().filter(|n| (1..=most).contains(n));
        in_range.ok_or_else(|| self.unsupported(key, format!("a whole number from 1 to {most}")))
    }

    /// A whole number ≥ 1, or `default` if absent.
    ///
    /// # Errors
    /// If it is something else.
    pub fn count_or(&self, key: &str, default: u64) -> Result<u64, ConfigError> {
        if self.has(key) { self.count(key) } else { Ok(default) }
    }

    /// A finite number, if present.
    ///
    /// # Errors
    /// If the field holds something else.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>, ConfigError> {
        self.typed(key, "a finite number", |v| v.as_f64().map(|f| f as f32).filter(|f| f.is_finite()))
    }

    /// A finite number, or `default` if absent.
    ///
    /// # Errors
    /// If the field holds something else.
    pub fn f32_or(&self, key: &str, default: f32) -> Result<f32, ConfigError> {
        Ok(self.opt_f32(key)?.unwrap_or(default))
    }

    /// A finite number > 0 that must be there.
    ///
    /// # Errors
    /// If it is missing or something else.
    pub fn positive(&self, key: &str) -> Result<f32, ConfigError> {
        match self.opt_f32(key)? {
            Some(x) if x > 0.0 => Ok(x),
            _ => Err(self.unsupported(key, "a number above 0")),
        }
    }

    /// A finite number > 0, or `default` if absent.
    ///
    /// # Errors
    /// If it is something else.
    pub fn positive_or(&self, key: &str, default: f32) -> Result<f32, ConfigError> {
        if self.has(key) { self.positive(key) } else { Ok(default) }
    }

    /// Finite numbers that must be there.
    ///
    /// # Errors
    /// If they are missing or something else.
    pub fn numbers(&self, key: &str) -> Result<Vec<f32>, ConfigError> {
        let read =
            |v: &Json| v.as_array()?.iter().map(|n| n.as_f64().map(|f| f as f32).filter(|f| f.is_finite())).collect();
        self.typed(key, "a list of finite numbers", read)?
            .ok_or_else(|| self.unsupported(key, "a list of finite numbers"))
    }

    /// A flag, or `default` if absent.
    ///
    /// # Errors
    /// If the field holds something else.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.typed(key, "true or false", Json::as_bool)?.unwrap_or(default))
    }

    /// A text, if present.
    ///
    /// # Errors
    /// If the field holds something else.
    pub fn opt_text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        self.typed(key, "a text", |v| v.as_str().map(str::to_owned))
    }

    /// A list of texts; empty if absent.
    ///
    /// # Errors
    /// If the field holds something else.
    pub fn texts(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        let read = |v: &Json| v.as_array()?.iter().map(|t| t.as_str().map(str::to_owned)).collect();
        Ok(self.typed(key, "a list of texts", read)?.unwrap_or_default())
    }

    /// A nested object, if present.
    ///
    /// # Errors
    /// If the field holds something else.
    pub fn opt_object(&self, key: &str) -> Result<Option<Config>, ConfigError> {
        let json = self.typed(key, "an object", |v| v.is_object().then(|| v.clone()))?;
        Ok(json.map(|json| Config { json, path: self.field(key), read: Rc::clone(&self.read) }))
    }

    /// A nested object, in which absent fields have these values; no more than those, if the object itself is absent.
    ///
    /// # Errors
    /// If the field holds something else.
    pub fn object_or(&self, key: &str, defaults: &[(&str, u64)]) -> Result<Config, ConfigError> {
        let empty =
            || Config { json: Json::Object(Default::default()), path: self.field(key), read: Rc::clone(&self.read) };
        let mut object = self.opt_object(key)?.unwrap_or_else(empty);
        if let Some(fields) = object.json.as_object_mut() {
            for &(name, value) in defaults {
                fields.entry(name).or_insert_with(|| value.into());
            }
        }
        Ok(object)
    }

    /// A whole number ≥ 1, of the size a dimension can have, or a list of two of them; one number stands for both.
    ///
    /// # Errors
    /// If it is something else.
    pub fn count_pair_or(&self, key: &str, default: u64) -> Result<[u64; 2], ConfigError> {
        let size = |v: &Json| v.as_u64().filter(|n| (1..=MAX_SIZE).contains(n));
        let pair = |v: &Json| match v {
            Json::Array(list) => list.iter().map(size).collect::<Option<Vec<_>>>()?.try_into().ok(),
            one => size(one).map(|n| [n; 2]),
        };
        let expected = format!("a whole number from 1 to {MAX_SIZE}, or two of them");
        Ok(self.typed(key, &expected, pair)?.unwrap_or([default; 2]))
    }

    /// Whole numbers: a list of them or a single one, `default` if absent.
    ///
    /// # Errors
    /// If it is something else.
    pub fn whole_numbers_or(&self, key: &str, default: &[i64]) -> Result<Vec<i64>, ConfigError> {
        let numbers = |v: &Json| match v {
            Json::Array(list) => list.iter().map(Json::as_i64).collect(),
            one => one.as_i64().map(|n| vec![n]),
        };
        Ok(self.typed(key, "a whole number or a list of them", numbers)?.unwrap_or_else(|| default.to_vec()))
    }

    /// The names of the fields, in the order of the file; looking at names reads none of them.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.json.as_object().into_iter().flat_map(|object| object.keys().map(String::as_str))
    }

    /// Notes a field as read with everything in it: nothing there changes the result.
    pub fn pass_over(&self, key: &str) {
        fn note(json: &Json, path: String, read: &mut BTreeSet<String>) {
            for (key, value) in json.as_object().into_iter().flatten() {
                note(value, format!("{path}.{key}"), read);
            }
            read.insert(path);
        }
        if let Some(value) = self.json.get(key) {
            note(value, self.field(key), &mut self.read.borrow_mut());
        }
    }

    /// Refuses a field that must be absent or have its only supported value.
    ///
    /// # Errors
    /// If it has another value.
    pub fn refuse_unless(&self, key: &str, supported: &Json) -> Result<(), ConfigError> {
        match self.get(key) {
            Some(value) if value != supported => Err(self.unsupported(key, supported)),
            _ => Ok(()),
        }
    }

    /// Refuses a field that must be absent or empty; `expected` says what would be right.
    ///
    /// # Errors
    /// If it has a value.
    pub fn refuse(&self, key: &str, expected: impl fmt::Display) -> Result<(), ConfigError> {
        match self.get(key) {
            Some(value) if !says_nothing(value) => Err(self.unsupported(key, expected)),
            _ => Ok(()),
        }
    }

    /// Dotted paths of every field that was asked for, in order.
    pub fn read_fields(&self) -> Vec<String> {
        self.read.borrow().iter().cloned().collect()
    }

    /// Remembers fields as asked for: a plugin behind the boundary reads a copy of the file.
    pub(crate) fn mark_read(&self, fields: impl IntoIterator<Item = String>) {
        self.read.borrow_mut().extend(fields);
    }

    /// Fields that are there, were not read, and are not known to be without effect; dotted paths in order.
    pub fn unread(&self) -> Vec<String> {
        let mut unread = vec![];
        let read = self.read.borrow();
        collect_unread(&self.json, "", &read, &mut unread);
        unread
    }
}

fn collect_unread(json: &Json, path: &str, read: &BTreeSet<String>, unread: &mut Vec<String>) {
    let Some(object) = json.as_object() else { return };
    for (key, value) in object {
        let field = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        // The config of a part of the model has the fields that every config has.
        let top = path.is_empty() || path.ends_with("_config") && path != "quantization_config";
        let inert = top && (INERT.contains(&key.as_str()) || *value == false && INERT_IF_FALSE.contains(&key.as_str()));
        if inert || says_nothing(value) {
            continue;
        }
        if !read.contains(&field) {
            unread.push(field);
        } else if value.is_object() {
            collect_unread(value, &field, read, unread);
        }
    }
}

/// Null and the empty list or object ask for nothing.
fn says_nothing(json: &Json) -> bool {
    match json {
        Json::Null => true,
        Json::Array(list) => list.is_empty(),
        Json::Object(object) => object.is_empty(),
        _ => false,
    }
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a flag",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
