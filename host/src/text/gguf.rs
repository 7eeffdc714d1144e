//! The vocabulary inside a GGUF file, as a tokenizer.
//!
//! These files carry tokens, their kinds, and scores or merges, but not the pipeline around them: for byte-level
//! vocabularies an identifier (`tokenizer.ggml.pre`) stands for the pattern that cuts text into words. The identifiers
//! in common use are here with the pipeline of the tokenizer they were made from; one that is not known is refused,
//! because a near miss shows only as slightly worse answers.
//!
//! This module knows keys and pipelines. It does not know tensors nor config.json (`crate::gguf`).

use std::collections::BTreeMap;
use std::path::Path;

use qeff_core::weights::gguf::{Array, Header, Value};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::config::{Config, Special, TemplateSource};
use super::{TextError, sentencepiece};

/// Kinds of tokens that matter here, by the format's numbers, which are SentencePiece's.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

const HINT: &str = "give ids with --prompt-ids, or use the checkpoint this file was made from";
const DAMAGED: &str = "fetch or convert the file again";

/// Role, key of its id, and the id it has in SentencePiece vocabularies that do not say.
const ROLES: [(&str, &str, Option<u64>); 7] = [
    ("bos_token", "tokenizer.ggml.bos_token_id", Some(1)),
    ("eos_token", "tokenizer.ggml.eos_token_id", Some(2)),
    ("unk_token", "tokenizer.ggml.unknown_token_id", Some(0)),
    ("sep_token", "tokenizer.ggml.seperator_token_id", None), // the format's spelling
    ("pad_token", "tokenizer.ggml.padding_token_id", None),
    ("cls_token", "tokenizer.ggml.cls_token_id", None),
    ("mask_token", "tokenizer.ggml.mask_token_id", None),
];

/// Patterns that cut text into words, by the tokenizers they come from.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a byte-level vocabulary is used.
struct Pipeline {
    names: &'static [&'static str],
    words: Words,
    /// Unicode is composed first.
    composed: bool,
    /// A word that is a token as it stands is not merged.
    whole_words: bool,
    /// A BOS goes in front where the file does not say.
    bos: bool,
}

enum Words {
    /// GPT-2's own pattern.
    Gpt2,
    /// The same, with each digit by itself.
    Digits,
    Pattern(&'static str),
}

const fn pipeline(names: &'static [&'static str], words: Words) -> Pipeline {
    Pipeline { names, words, composed: false, whole_words: false, bos: false }
}

const PIPELINES: &[Pipeline] = &[
    // Files from before the key existed say nothing or `default`; gpt2's own are among them.
    pipeline(&["gpt-2", "default", "gpt2", "phi-2", "olmo", "mpt", "jina-v2-code", "trillion"], Words::Gpt2),
    pipeline(&["starcoder", "refact", "smollm", "codeshell", "exaone"], Words::Digits),
    Pipeline { composed: true, ..pipeline(&["command-r"], Words::Digits) },
    Pipeline {
        whole_words: true,
        bos: true,
        ..pipeline(&["llama-bpe", "llama3", "llama-v3", "falcon3"], Words::Pattern(LLAMA3))
    },
    pipeline(&["dbrx", "smaug-bpe"], Words::Pattern(LLAMA3)),
    Pipeline { composed: true, ..pipeline(&["qwen2", "deepseek-r1-qwen"], Words::Pattern(QWEN2)) },
    Pipeline { whole_words: true, bos: true, ..pipeline(&["tekken"], Words::Pattern(TEKKEN)) },
    pipeline(&["gpt-4o"], Words::Pattern(GPT_4O)),
];

/// The tokenizer of the file, and what other checkpoints say in side files; `None` if there is no vocabulary.
pub(super) fn read(file: &Path, header: &Header<'_>) -> Result<Option<(tokenizers::Tokenizer, Config)>, TextError> {
    let source = Source { file, header };
    let Some(tokens) = source.texts("tokenizer.ggml.tokens")?.filter(|tokens| !tokens.is_empty()) else {
        return Ok(None);
    };
    let kinds = source.kinds(tokens.len())?;
    let mut config = Config { templates: source.templates()?, ..Config::default() };
    config.add_prefix_space = source.flag("tokenizer.ggml.add_space_prefix")?;
    let pieces = match source.text("tokenizer.ggml.model")? {
        Some("llama") => true,
        Some("gpt2") => false,
        None | Some("none" | "no_vocab") => return Ok(None),
        Some(other) => return Err(source.wrong("tokenizer.ggml.model", other, "llama or gpt2", HINT)),
    };
    for (role, key, default) in ROLES {
        let id = source.whole(key)?.or(default.filter(|_| pieces));
        if let Some(id) = id {
            let token = usize::try_from(id).ok().and_then(|id| tokens.get(id));
            let token = token.ok_or_else(|| source.wrong(key, id, &format!("below {}", tokens.len()), DAMAGED))?;
            config.roles.insert(role, Special { content: (*token).to_owned(), flags: None });
        }
    }
    let (tokenizer, bos) = if pieces {
        (source.piece_tokenizer(&tokens, &kinds, &config)?, true)
    } else {
        source.byte_tokenizer(&tokens, &kinds, &mut config)?
    };
    let known = config.roles.contains_key("bos_token");
    config.add_bos_token = Some(source.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(bos && known));
    config.add_eos_token = Some(source.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false));
    Ok(Some((tokenizer, config)))
}

struct Source<'s> {
    file: &'s Path,
    header: &'s Header<'s>,
}

impl<'s> Source<'s> {
    fn wrong(&self, key: &str, found: impl std::fmt::Display, expected: &str, hint: &str) -> TextError {
        TextError::malformed(self.file, format!("metadata `{key}`"), found, expected, hint)
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value<'s>) -> Option<T>,
    ) -> Result<Option<T>, TextError> {
        let Some(value) = self.header.metadata.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(key, value.kind(), expected, DAMAGED))
    }

    fn text(&self, key: &str) -> Result<Option<&'s str>, TextError> {
        self.typed(key, "a text", Value::as_text)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, TextError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn whole(&self, key: &str) -> Result<Option<u64>, TextError> {
        self.typed(key, "a whole number of 0 or more", Value::as_u64)
    }

    fn texts(&self, key: &str) -> Result<Option<Vec<&'s str>>, TextError> {
        self.typed(key, "a list of texts", |value| Some(value.as_array()?.texts()?.collect()))
    }

    /// A list with an entry for each token.
    fn per_token<T>(
        &self,
        key: &str,
        tokens: usize,
        expected: &str,
        read: impl Fn(Value<'s>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, TextError> {
        let list = |value: &Value<'s>| value.as_array().filter(|list: &Array<'s>| list.len() == tokens as u64);
        self.typed(key, expected, |value| list(value)?.iter().map(&read).collect())
    }

    fn kinds(&self, tokens: usize) -> Result<Vec<i32>, TextError> {
        let expected = format!("a list of {tokens} kinds, 1 to 6");
        let read = |kind: Value<'_>| kind.as_u64().filter(|kind| (1..=6).contains(kind)).map(|kind| kind as i32);
        let kinds = self.per_token("tokenizer.ggml.token_type", tokens, &expected, read)?;
        Ok(kinds.unwrap_or_else(|| vec![NORMAL; tokens]))
    }

    /// `tokenizer.chat_template`, and others with a name behind it.
    fn templates(&self) -> Result<Vec<TemplateSource>, TextError> {
        const KEY: &str = "tokenizer.chat_template";
        let file = self.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut templates = vec![];
        for key in self.header.metadata.keys() {
            let name = match key.strip_prefix(KEY) {
                Some("") => "default",
                Some(rest) => match rest.strip_prefix('.') {
                    Some(name) => name,
                    None => continue, // `chat_templates`: the list of the names
                },
                None => continue,
            };
            if let Some(text) = self.text(key)? {
                templates.push(TemplateSource { name: name.to_owned(), file: file.clone(), text: text.to_owned() });
            }
        }
        Ok(templates)
    }

    fn piece_tokenizer(
        &self,
        tokens: &[&str],
        kinds: &[i32],
        config: &Config,
    ) -> Result<tokenizers::Tokenizer, TextError> {
        let key = "tokenizer.ggml.scores";
        let read = |score: Value<'_>| score.as_f64().map(|score| score as f32);
        let scores = self.per_token(key, tokens.len(), &format!("a list of {} scores", tokens.len()), read)?;
        let scores = scores.ok_or_else(|| self.wrong(key, "absent", "a score for each token", DAMAGED))?;
        let pieces = tokens.iter().zip(scores).zip(kinds);
        let pieces = pieces.map(|((token, score), kind)| ((*token).to_owned(), score, *kind));
        let options = sentencepiece::Options { legacy: true, add_prefix_space: config.add_prefix_space };
        Ok(sentencepiece::convert_pieces(self.file, pieces, options)?.tokenizer)
    }

    /// A byte-level vocabulary, and whether a BOS goes in front of a text where the file does not say.
    fn byte_tokenizer(
        &self,
        tokens: &[&str],
        kinds: &[i32],
        config: &mut Config,
    ) -> Result<(tokenizers::Tokenizer, bool), TextError> {
        let key = "tokenizer.ggml.pre";
        let pre = self.text(key)?.unwrap_or("default");
        let pipeline = PIPELINES.iter().find(|pipeline| pipeline.names.contains(&pre));
        let pipeline = pipeline.ok_or_else(|| {
            let known: Vec<_> = PIPELINES.iter().flat_map(|pipeline| pipeline.names).copied().collect();
            self.wrong(key, format!("{pre:?}"), &format!("one of {}", known.join(", ")), HINT)
        })?;
        let mut ids: BTreeMap<&str, u32> = BTreeMap::new();
        for (id, token) in (0u32..).zip(tokens) {
            if let Some(first) = ids.insert(token, id) {
                let found = format!("{token:?} as {first} and as {id}");
                return Err(self.wrong("tokenizer.ggml.tokens", found, "each token once", DAMAGED));
            }
        }
        let key = "tokenizer.ggml.merges";
        let lines = self.texts(key)?.ok_or_else(|| self.wrong(key, "absent", "a list of merges", DAMAGED))?;
        let mut merges = Vec::with_capacity(lines.len());
        for line in lines {
            // Checked here because the library trusts that a merge is made of tokens and makes one.
            let known = |(left, right): &(&str, &str)| {
                ids.contains_key(left) && ids.contains_key(right) && ids.contains_key(format!("{left}{right}").as_str())
            };
            let (left, right) = line
                .split_once(' ')
                .filter(known)
                .ok_or_else(|| self.wrong(key, format!("{line:?}"), "two tokens whose join is a token too", DAMAGED))?;
            merges.push((left.to_owned(), right.to_owned()));
        }
        for ((id, token), kind) in (0u32..).zip(tokens).zip(kinds) {
            if matches!(*kind, CONTROL | USER_DEFINED) && !token.is_empty() {
                config.added.push((id, AddedToken::from(*token, *kind == CONTROL).normalized(false)));
            }
        }
        let vocabulary: Vocab = ids.into_iter().map(|(token, id)| (token.to_owned(), id)).collect();
        let library = |e: tokenizers::Error| self.wrong("tokenizer.ggml.tokens", e, "a byte-level BPE", DAMAGED);
        let model = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(pipeline.whole_words);
        let mut tokenizer = tokenizers::Tokenizer::new(model.build().map_err(library)?);
        if pipeline.composed {
            tokenizer.with_normalizer(Some(NFC)).map_err(library)?;
        }
        let bytes = ByteLevel::default().add_prefix_space(config.add_prefix_space.unwrap_or(false));
        let steps: Vec<PreTokenizerWrapper> = match pipeline.words {
            Words::Gpt2 => vec![bytes.into()],
            Words::Digits => vec![Digits::new(true).into(), bytes.into()],
            Words::Pattern(pattern) => {
                let pattern = SplitPattern::Regex(pattern.into());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(library)?;
                vec![split.into(), bytes.use_regex(false).into()]
            }
        };
        tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        Ok((tokenizer, pipeline.bos))
    }
}

#[cfg(test)]
#[path = "gguf_tests.rs"]
mod tests;
