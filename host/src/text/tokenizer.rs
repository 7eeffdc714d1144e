//! A checkpoint's tokenizer: text to ids and ids to text.
//!
//! The same vocabulary is published in three forms (`tokenizer.json`, a SentencePiece `tokenizer.model`, GPT-2's
//! `vocab.json` with `merges.txt`) and the small files beside it change what it does. Here they become one object that
//! answers as transformers' fast tokenizer does after loading the same directory, side effects of loading included: padding
//! and truncation stored in the file are ignored, special tokens the vocabulary lacks are appended to it.
//!
//! This module knows files and ids. It does not know conversations (`chat`) nor how text is shown while it grows
//! (`stream`).

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use qeff_core::weights::gguf::Header;
use serde::Deserialize;
use serde_json::json;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Decoder, DecoderWrapper, PreTokenizerWrapper};

use super::config::{self, Config, ROLES, Special, TemplateSource};
use super::{ChatTemplate, TextError, charsmap, gguf, sentencepiece};

/// Largest vocabulary file read, in bytes. The largest published ones have about 35 MiB.
const MAX_VOCABULARY: u64 = 512 << 20;

/// Text to ids and back, for one checkpoint.
pub struct Tokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    dir: PathBuf,
    file: PathBuf,
    pub(super) config: Config,
    byte_fallback: bool,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("file", &self.file).field("vocab_size", &self.vocab_size()).finish()
    }
}

impl Tokenizer {
    /// Opens the tokenizer of the checkpoint in `dir`; `None` when it carries none at all.
    ///
    /// `tokenizer.json` comes first, then `tokenizer.model`, then `vocab.json` with `merges.txt`.
    ///
    /// # Errors
    ///
    /// A file that exists but cannot be read, or that is not what its name says.
    pub fn open(dir: &Path) -> Result<Option<Tokenizer>, TextError> {
        let [json, model, vocab, merges] = config::sources(dir);
        let read = |path: &Path| config::read_bytes(path, MAX_VOCABULARY);
        let mut config = Config::open(dir)?;
        let (file, inner) = if let Some(bytes) = read(&json)? {
            (json.clone(), parse_json(&json, &bytes)?)
        } else if let Some(bytes) = read(&model)? {
            (model.clone(), from_sentencepiece(&model, &bytes, &mut config)?)
        } else if let (Some(vocab_bytes), Some(merge_text)) = (read(&vocab)?, config::read_text(&merges)?) {
            (vocab.clone(), from_gpt2(&vocab, &vocab_bytes, &merges, &merge_text, &mut config)?)
        } else {
            return Ok(None);
        };
        let bare_model = file.extension().is_some_and(|e| e == "model");
        let gpt2_files = file.ends_with("vocab.json");
        let class = config.tokenizer_class.as_deref().unwrap_or_default();
        let class = class.strip_suffix("Fast").unwrap_or(class);
        let follows_flags =
            ["LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "CohereTokenizer"].contains(&class);
        let framed = follows_flags || bare_model || gpt2_files && config.add_bos_token == Some(true);
        Self::adopted(inner, dir, file, config, framed).map(Some)
    }

    /// The tokenizer inside the GGUF file at `file`; `None` when it carries none.
    ///
    /// # Errors
    ///
    /// A vocabulary that contradicts itself, or of a kind that is not known.
    pub fn from_gguf(file: &Path, header: &Header<'_>) -> Result<Option<Tokenizer>, TextError> {
        let Some((inner, config)) = gguf::read(file, header)? else { return Ok(None) };
        let dir = file.parent().unwrap_or(Path::new(""));
        Self::adopted(inner, dir, file.to_owned(), config, true).map(Some)
    }

    /// Side effects of loading; `framed` if two flags of the config, not the file itself, say what stands around a text.
    fn adopted(
        mut inner: tokenizers::Tokenizer,
        dir: &Path,
        file: PathBuf,
        config: Config,
        framed: bool,
    ) -> Result<Tokenizer, TextError> {
        guarded(|| adopt(&mut inner, &config)).map_err(|e| {
            TextError::malformed(&file, "the added tokens", e, "tokens the vocabulary can take", RESAVE)
        })?;
        let byte_fallback =
            inner.get_decoder().is_some_and(|d| any_step(d, &|d| matches!(d, DecoderWrapper::ByteFallback(_))));
        let mut tokenizer = Tokenizer { inner, dir: dir.to_owned(), file, config, byte_fallback };
        if framed {
            tokenizer.frame_as_flags_say()?;
        }
        Ok(tokenizer)
    }

    /// The ids of `text`; with `add_special_tokens`, also what the checkpoint puts around it (usually a BOS in front).
    ///
    /// # Errors
    ///
    /// The library refuses, which a sound tokenizer does only when a character is neither known nor has an unknown token.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        let encoded = guarded(|| self.inner.encode_fast(text, add_special_tokens));
        let library = |reason| self.library(format!("encode {} bytes of text", text.len()), reason);
        Ok(encoded.map_err(library)?.get_ids().to_vec())
    }

    /// The text of `ids`. Ids the vocabulary does not have are left out; with `skip_special`, special tokens are too.
    ///
    /// # Errors
    ///
    /// The library refuses to join the tokens.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        let text = self.decode_raw(ids, skip_special)?;
        Ok(if self.config.clean_up_tokenization_spaces { clean_up(&text) } else { text })
    }

    /// [`decode`](Self::decode) before spaces are cleaned up.
    pub(super) fn decode_raw(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        let library = |reason| self.library(format!("decode {} ids", ids.len()), reason);
        let heard: Vec<u32> = ids.iter().copied().filter(|id| !self.is_silent(*id, skip_special)).collect();
        // The library's own decode has the same trouble as its `id_to_token`: a space before such a token, and a special
        // one that is not skipped. Only byte-level decoding needs that spelling to read the token at all.
        let decoded = guarded(|| match self.inner.get_decoder() {
            Some(decoder) if !any_step(decoder, &|d| matches!(d, DecoderWrapper::ByteLevel(_))) => {
                decoder.decode(heard.iter().filter_map(|id| self.id_to_token(*id)).collect())
            }
            _ => self.inner.decode(&heard, false),
        });
        decoded.map_err(library)
    }

    /// The id of a token spelled exactly `token`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The spelling of a token in the vocabulary, which is not the text it decodes to.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        // Not the library's method of this name, which since 0.23 spells some added tokens as their normaliser would.
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id);
        added.map(|token| token.content.clone()).or_else(|| self.inner.id_to_token(id))
    }

    /// Number of tokens, added ones included. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that begins a text, as written.
    pub fn bos_token(&self) -> Option<&str> {
        self.config.role("bos_token")
    }

    /// The token that ends a text, as written.
    pub fn eos_token(&self) -> Option<&str> {
        self.config.role("eos_token")
    }

    /// The token that fills a batch, as written.
    pub fn pad_token(&self) -> Option<&str> {
        self.config.role("pad_token")
    }

    /// The id of [`bos_token`](Self::bos_token).
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_token().and_then(|token| self.token_to_id(token))
    }

    /// The id of [`eos_token`](Self::eos_token). A model may end on more ids; its generation config lists them.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_token().and_then(|token| self.token_to_id(token))
    }

    /// The id of [`pad_token`](Self::pad_token).
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_token().and_then(|token| self.token_to_id(token))
    }

    /// Whether decoding closes up spaces before punctuation, as `clean_up_tokenization_spaces` asks.
    pub fn cleans_up_spaces(&self) -> bool {
        self.config.clean_up_tokenization_spaces
    }

    /// The checkpoint's chat template: the one called `name`, or the default one.
    ///
    /// # Errors
    ///
    /// There is none, or it does not parse.
    pub fn chat_template(&self, name: Option<&str>) -> Result<ChatTemplate, TextError> {
        let templates = &self.config.templates;
        let wanted = name.unwrap_or("default");
        let only_one = || templates.first().filter(|_| templates.len() == 1 && name.is_none());
        match templates.iter().find(|t| t.name == wanted).or_else(only_one) {
            Some(TemplateSource { file, text, .. }) => {
                let path = self.dir.join(file);
                ChatTemplate::new(&path.display().to_string(), text)
            }
            None => Err(TextError::NoChatTemplate {
                dir: self.dir.clone(),
                names: templates.iter().map(|t| t.name.clone()).collect(),
            }),
        }
    }

    /// The special tokens a chat template may name, by role.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        self.config.roles.iter().map(|(role, special)| (*role, special.content.as_str()))
    }

    /// The byte a token stands for, where decoding joins such tokens into characters.
    pub(super) fn fallback_byte(&self, id: u32) -> Option<u8> {
        if !self.byte_fallback {
            return None;
        }
        let token = self.id_to_token(id)?;
        let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
        (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
    }

    /// Whether decoding leaves this id out.
    pub(super) fn is_silent(&self, id: u32, skip_special: bool) -> bool {
        match self.id_to_token(id) {
            Some(token) => skip_special && self.inner.get_added_vocabulary().is_special_token(&token),
            None => true,
        }
    }

    /// Some classes of transformers ignore what `tokenizer.json` puts around a text and follow two flags instead.
    fn frame_as_flags_say(&mut self) -> Result<(), TextError> {
        let frame = |flag: Option<bool>, default: bool, field: &str, role: &str| {
            if !flag.unwrap_or(default) {
                return Ok(None);
            }
            let token = self.config.role(role).map(str::to_owned);
            match token.and_then(|token| self.inner.token_to_id(&token).map(|id| (token, id))) {
                Some(found) => Ok(Some(found)),
                None if flag.is_none() => Ok(None),
                None => {
                    let expected = format!("a {role} that the vocabulary has");
                    let hint = "name the token in tokenizer_config.json, or set the flag to false";
                    let config = self.dir.join("tokenizer_config.json");
                    Err(TextError::malformed(&config, field, "true", expected, hint))
                }
            }
        };
        let bos = frame(self.config.add_bos_token, true, "`add_bos_token`", "bos_token")?;
        if bos.is_none() && self.config.add_bos_token.is_none() {
            return Ok(()); // Nothing names a BOS, so the file's own frame is the better guess.
        }
        let eos = frame(self.config.add_eos_token, false, "`add_eos_token`", "eos_token")?;
        let token = |(text, _): &(String, u32), kind: u8| json!({"SpecialToken": {"id": text, "type_id": kind}});
        let one = |side: &str, kind: u8| {
            let text = json!({"Sequence": {"id": side, "type_id": kind}});
            let around = [bos.as_ref().map(|t| token(t, kind)), Some(text), eos.as_ref().map(|t| token(t, kind))];
            around.into_iter().flatten().collect::<Vec<_>>()
        };
        let named: serde_json::Map<_, _> = [&bos, &eos]
            .into_iter()
            .flatten()
            .map(|(text, id)| (text.clone(), json!({"id": text, "ids": [id], "tokens": [text]})))
            .collect();
        let pair = [one("A", 0), one("B", 1)].concat();
        let description =
            json!({"type": "TemplateProcessing", "single": one("A", 0), "pair": pair, "special_tokens": named});
        let frame: TemplateProcessing = serde_json::from_value(description)
            .map_err(|e| self.library("put special tokens around text".into(), e.to_string()))?;
        self.inner.with_post_processor(Some(frame));
        Ok(())
    }

    pub(super) fn library(&self, action: String, reason: String) -> TextError {
        TextError::Library { file: self.file.clone(), action, reason }
    }
}

const RESAVE: &str = "save the tokenizer again with a current transformers";

/// Runs library code on a stranger's data. The library panics on some malformed vocabularies (a merge longer than every
/// token, for one); to the user that is a refusal like any other.
pub(super) fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
            Err(format!("a failure inside the tokenizer library ({})", words.unwrap_or("no message")))
        }
    }
}

fn parse_json(file: &Path, bytes: &[u8]) -> Result<tokenizers::Tokenizer, TextError> {
    #[derive(Deserialize)]
    struct Maps {
        normalizer: Option<serde_json::Value>,
    }
    let hint = "fetch the file again; a git-lfs pointer or a cut download looks like this";
    let refuse = |found: String| TextError::malformed(file, "the document", found, "a tokenizers JSON document", hint);
    let maps: Maps = serde_json::from_slice(bytes).map_err(|e| refuse(e.to_string()))?;
    let mut open: Vec<_> = maps.normalizer.iter().collect();
    while let Some(normalizer) = open.pop() {
        if let Some(map) = normalizer.get("precompiled_charsmap").and_then(|map| map.as_str()) {
            let sound = base64::decode(map).map_err(|e| e.to_string()).and_then(|map| charsmap::check(&map));
            sound.map_err(|e| {
                TextError::malformed(file, "`normalizer.precompiled_charsmap`", e, "a sound trie", hint)
            })?;
        }
        open.extend(normalizer.get("normalizers").and_then(|list| list.as_array()).into_iter().flatten());
    }
    guarded(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(refuse)
}

fn from_sentencepiece(file: &Path, bytes: &[u8], config: &mut Config) -> Result<tokenizers::Tokenizer, TextError> {
    let options =
        sentencepiece::Options { legacy: config.legacy.unwrap_or(true), add_prefix_space: config.add_prefix_space };
    let converted = sentencepiece::convert(file, bytes, options)?;
    let unk = Some(converted.unk);
    for (role, name) in
        [("bos_token", converted.bos), ("eos_token", converted.eos), ("unk_token", unk), ("pad_token", converted.pad)]
    {
        if let Some(content) = name {
            config.roles.entry(role).or_insert(Special { content, flags: None });
        }
    }
    Ok(converted.tokenizer)
}

fn from_gpt2(
    file: &Path,
    vocab: &[u8],
    merges_file: &Path,
    merges: &str,
    config: &mut Config,
) -> Result<tokenizers::Tokenizer, TextError> {
    let hint = "fetch vocab.json and merges.txt again; they must be of the same tokenizer";
    let vocab: HashMap<String, u32> = serde_json::from_slice(vocab)
        .map_err(|e| TextError::malformed(file, "the document", e, "an object from token to id", hint))?;
    let mut pairs = Vec::new();
    for (number, line) in merges.lines().enumerate() {
        if line.trim().is_empty() || number == 0 && line.starts_with("#version") {
            continue;
        }
        let halves = line.split_once(' ').filter(|(_, right)| !right.contains(' '));
        // Checked here because the library trusts that a merge is made of tokens and makes one.
        let known = |(left, right): &(&str, &str)| {
            vocab.contains_key(*left) && vocab.contains_key(*right) && vocab.contains_key(&format!("{left}{right}"))
        };
        let (left, right) = halves.filter(known).ok_or_else(|| {
            let expected = "two tokens of vocab.json whose join is one too";
            TextError::malformed(merges_file, format!("line {}", number + 1), format!("{line:?}"), expected, hint)
        })?;
        pairs.push((left.to_owned(), right.to_owned()));
    }
    let end = "<|endoftext|>";
    if vocab.contains_key(end) {
        for role in ["bos_token", "eos_token", "unk_token"] {
            config.roles.entry(role).or_insert(Special { content: end.into(), flags: None });
        }
    }
    let refuse = |e: tokenizers::Error| TextError::malformed(file, "the vocabulary", e, "a byte-level BPE", hint);
    let model = BPE::builder().vocab_and_merges(vocab.into_iter().collect::<Vocab>(), pairs).build().map_err(refuse)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let spaced = config.add_prefix_space.unwrap_or(false);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(spaced)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

/// What transformers does to a loaded tokenizer before the first text.
fn adopt(inner: &mut tokenizers::Tokenizer, config: &Config) -> tokenizers::Result<()> {
    inner.with_truncation(None)?;
    inner.with_padding(None);
    inner.set_encode_special_tokens(config.split_special_tokens);

    let special =
        |content: &str| config.roles.values().chain(&config.additional).any(|special| special.content == content);
    let mut missing: Vec<AddedToken> = Vec::new();
    for (_, token) in &config.added {
        let is_special = token.special || special(&token.content);
        missing.push(token.clone().special(is_special));
    }
    let known: Vec<_> = inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    let in_order = ROLES.iter().filter_map(|role| config.roles.get(role)).chain(&config.additional);
    for token in in_order {
        let listed = known.contains(&token.content) || missing.iter().any(|m| m.content == token.content);
        if !listed {
            let flags = token.flags.clone().unwrap_or_else(|| AddedToken::from(&token.content, true));
            missing.push(flags.special(true));
        }
    }
    inner.add_tokens(missing)?;

    // A byte-level tokenizer follows the config in whether a space is put in front, whatever its own file says.
    if let Some(PreTokenizerWrapper::ByteLevel(bytes)) = inner.get_pre_tokenizer() {
        let spaced = config.add_prefix_space.unwrap_or(false);
        if bytes.add_prefix_space != spaced {
            let bytes = bytes.add_prefix_space(spaced);
            inner.with_pre_tokenizer(Some(bytes));
        }
    }
    Ok(())
}

/// Whether a decoder or one of its steps is of some kind.
fn any_step(decoder: &DecoderWrapper, kind: &dyn Fn(&DecoderWrapper) -> bool) -> bool {
    match decoder {
        DecoderWrapper::Sequence(steps) => steps.get_decoders().iter().any(|step| any_step(step, kind)),
        step => kind(step),
    }
}

/// The rewrites of `clean_up_tokenization_spaces`, in the order transformers applies them. Each one drops only spaces,
/// which `stream` relies on.
const CLEAN_UP: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

pub(super) fn clean_up(text: &str) -> String {
    CLEAN_UP
        .iter()
        .fold(text.to_owned(), |text, (from, to)| if text.contains(from) { text.replace(from, to) } else { text })
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
