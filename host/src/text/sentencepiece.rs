//! A bare SentencePiece `tokenizer.model`, turned into a tokenizer of the `tokenizers` library.
//!
//! Checkpoints from before `tokenizer.json` carry only this protobuf. transformers converts it on the fly, and the
//! outcome is part of what a checkpoint means, so the conversion here makes the same pipeline: merges rebuilt from
//! scores, spaces spelled `▁`, unknown characters spelled as bytes. The switches of the file's normaliser
//! (`add_dummy_prefix`, `remove_extra_whitespaces`, the character map) are honoured as SentencePiece itself does;
//! for the Llama files transformers' conversion was written for, both readings agree.
//!
//! This module knows the file and the pipeline. It does not know which tokens a conversation uses nor whether a BOS goes
//! in front (`tokenizer`).

use std::collections::HashMap;
use std::path::Path;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::precompiled::Precompiled;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Sequence as NormalizerSequence};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

use super::{TextError, charsmap};

/// Longest piece accepted, in bytes. Rebuilding merges looks at every cut of every piece, which is quadratic in its
/// length; SentencePiece itself trains pieces of at most a few dozen characters.
const MAX_PIECE: usize = 1024;

/// What the caller may say about the conversion.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// transformers' `legacy`: a space is put before every stretch between special tokens, not only at the start.
    pub(super) legacy: bool,
    /// Overrides the file's `add_dummy_prefix`.
    pub(super) add_prefix_space: Option<bool>,
}

/// A converted model and the names its file gives to special pieces.
pub(super) struct Converted {
    pub(super) tokenizer: Tokenizer,
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
    pub(super) unk: String,
    pub(super) pad: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(enumeration = "Kind", optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(string, optional, tag = "46")]
    bos_piece: Option<String>,
    #[prost(string, optional, tag = "47")]
    eos_piece: Option<String>,
    #[prost(string, optional, tag = "48")]
    pad_piece: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// Reads the bytes of `file` and converts them.
pub(super) fn convert(file: &Path, bytes: &[u8], options: Options) -> Result<Converted, TextError> {
    let refuse = |field: &str, found: &dyn std::fmt::Display, expected: &str, hint: &str| {
        TextError::malformed(file, field, found, expected, hint)
    };
    let model = <ModelProto as prost::Message>::decode(bytes).map_err(|e| {
        // Llama 3's original download has this name too and holds `base64 rank` lines.
        let hint = if bytes.iter().take(64).all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
            "this looks like a tiktoken vocabulary; put the checkpoint's tokenizer.json beside it"
        } else {
            "fetch the file again; a git-lfs pointer or a cut download looks like this"
        };
        refuse("the document", &e, "a SentencePiece model (protobuf)", hint)
    })?;
    convert_model(file, model, options)
}

/// Pieces that come from elsewhere than a SentencePiece file: text, score, and kind by SentencePiece's number.
pub(super) fn convert_pieces(
    file: &Path,
    pieces: impl Iterator<Item = (String, f32, i32)>,
    options: Options,
) -> Result<Converted, TextError> {
    let pieces = pieces.map(|(piece, score, kind)| Piece { piece: Some(piece), score: Some(score), kind: Some(kind) });
    let trainer = TrainerSpec { model_type: Some(2), ..TrainerSpec::default() };
    let normalizer = NormalizerSpec { remove_extra_whitespaces: Some(false), ..NormalizerSpec::default() };
    let model = ModelProto { pieces: pieces.collect(), trainer: Some(trainer), normalizer: Some(normalizer) };
    convert_model(file, model, options)
}

fn convert_model(file: &Path, model: ModelProto, options: Options) -> Result<Converted, TextError> {
    let refuse = |field: &str, found: &dyn std::fmt::Display, expected: &str, hint: &str| {
        TextError::malformed(file, field, found, expected, hint)
    };
    let vocabulary = Vocabulary::check(file, &model)?;
    let trainer = model.trainer.unwrap_or_default();
    let normalizer = model.normalizer.unwrap_or_default();
    if trainer.treat_whitespace_as_suffix.unwrap_or(false) || !normalizer.escape_whitespaces.unwrap_or(true) {
        return Err(refuse(
            "the normalizer",
            &"one that keeps spaces or puts them behind words",
            "spaces escaped and put before words",
            "convert the tokenizer to tokenizer.json with transformers",
        ));
    }
    let bytes_known = trainer.byte_fallback.unwrap_or(false) || vocabulary.has_bytes;
    let library = |e: tokenizers::Error| refuse("the vocabulary", &e, "one the tokenizer library accepts", REPORT);
    let unk = vocabulary.pieces[vocabulary.unknown].0.clone();
    let model = match trainer.model_type.unwrap_or(1) {
        1 => {
            let pieces = vocabulary.pieces.iter().map(|(piece, score)| (piece.clone(), f64::from(*score))).collect();
            ModelWrapper::from(Unigram::from(pieces, Some(vocabulary.unknown), bytes_known).map_err(library)?)
        }
        2 => {
            let merges = merges(&vocabulary.pieces);
            let ids = vocabulary.pieces.iter().zip(0u32..).map(|((piece, _), id)| (piece.clone(), id));
            let bpe = BPE::builder()
                .vocab_and_merges(ids.collect::<Vocab>(), merges)
                .unk_token(unk.clone())
                .fuse_unk(true)
                .byte_fallback(bytes_known);
            ModelWrapper::from(bpe.build().map_err(library)?)
        }
        other => {
            let hint = "convert the tokenizer to tokenizer.json with transformers";
            return Err(refuse("trainer_spec.model_type", &other, "1 (Unigram) or 2 (BPE)", hint));
        }
    };

    let mut tokenizer = Tokenizer::new(model);
    let dummy_prefix = options.add_prefix_space.or(normalizer.add_dummy_prefix).unwrap_or(true);
    let mut steps = Vec::<NormalizerWrapper>::new();
    if let Some(map) = normalizer.precompiled_charsmap.filter(|map| !map.is_empty()) {
        let damaged =
            |e: String| refuse("normalizer_spec.precompiled_charsmap", &e, "a sound trie", "fetch the file again");
        charsmap::check(&map).map_err(damaged)?;
        steps.push(Precompiled::from(&map).map_err(|e| damaged(e.to_string()))?.into());
    }
    let replace =
        |pattern: ReplacePattern, by: &str| Replace::new(pattern, by).map(NormalizerWrapper::from).map_err(library);
    if normalizer.remove_extra_whitespaces.unwrap_or(true) {
        // Only U+0020, and at the end the mark that stands for it: SentencePiece leaves other white space to the
        // character map.
        steps.push(replace(ReplacePattern::Regex("^ +|[ ▁]+$".into()), "")?);
        steps.push(replace(ReplacePattern::Regex(" {2,}".into()), " ")?);
    }
    if options.legacy {
        if dummy_prefix {
            steps.push(Prepend::new("▁".into()).into());
        }
        steps.push(replace(ReplacePattern::String(" ".into()), "▁")?);
    } else {
        let scheme = if dummy_prefix { PrependScheme::First } else { PrependScheme::Never };
        tokenizer.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
    }
    if !steps.is_empty() {
        tokenizer.with_normalizer(Some(NormalizerSequence::new(steps))).map_err(library)?;
    }
    let spaces = Replace::new(ReplacePattern::String("▁".into()), " ").map_err(library)?;
    let mut decoders = vec![spaces.into(), ByteFallback::new().into(), Fuse::new().into()];
    if dummy_prefix {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));

    let added = vocabulary.added.iter().map(|(piece, control)| AddedToken::from(piece, *control).normalized(false));
    tokenizer.add_tokens(added.collect::<Vec<_>>()).map_err(library)?;

    let named = |name: Option<String>, default: &str| {
        let name = name.unwrap_or_else(|| default.to_owned());
        tokenizer.token_to_id(&name).is_some().then_some(name)
    };
    let bos = named(trainer.bos_piece, "<s>");
    let eos = named(trainer.eos_piece, "</s>");
    let pad = named(trainer.pad_piece, "<pad>");
    Ok(Converted { tokenizer, bos, eos, unk, pad })
}

const REPORT: &str = "please report this file; a vocabulary that passed our checks should be accepted";

/// The pieces, checked.
struct Vocabulary {
    pieces: Vec<(String, f32)>,
    unknown: usize,
    /// Control and user-defined pieces, which match before the model runs; `true` for control.
    added: Vec<(String, bool)>,
    has_bytes: bool,
}

impl Vocabulary {
    fn check(file: &Path, model: &ModelProto) -> Result<Vocabulary, TextError> {
        let hint = "fetch the file again; SentencePiece does not write this";
        let mut seen = HashMap::<&str, usize>::with_capacity(model.pieces.len());
        let mut found = Vocabulary { pieces: Vec::new(), unknown: 0, added: Vec::new(), has_bytes: false };
        let mut unknown = None;
        for (id, piece) in model.pieces.iter().enumerate() {
            let refuse = |found: String, expected: &str| {
                Err(TextError::malformed(file, format!("pieces[{id}]"), found, expected, hint))
            };
            let text = piece.piece.as_deref().unwrap_or_default();
            let score = piece.score.unwrap_or(0.0);
            if text.is_empty() || text.len() > MAX_PIECE {
                return refuse(format!("{} bytes long", text.len()), &format!("1 to {MAX_PIECE} bytes"));
            }
            if !score.is_finite() {
                return refuse(format!("scored {score}"), "a finite score");
            }
            if let Some(first) = seen.insert(text, id) {
                return refuse(format!("{text:?} again, as pieces[{first}]"), "each piece once");
            }
            match piece.kind() {
                Kind::Unknown if unknown.replace(id).is_some() => {
                    return refuse("a second unknown piece".into(), "exactly one");
                }
                Kind::Control => found.added.push((text.to_owned(), true)),
                Kind::UserDefined => found.added.push((text.to_owned(), false)),
                Kind::Byte => found.has_bytes = true,
                Kind::Unknown | Kind::Normal | Kind::Unused => {}
            }
            found.pieces.push((text.to_owned(), score));
        }
        found.unknown = unknown.ok_or_else(|| {
            let count = format!("{} pieces, none of them unknown", model.pieces.len());
            TextError::malformed(file, "pieces", count, "one piece of type UNKNOWN", hint)
        })?;
        Ok(found)
    }
}

/// The merges a BPE model was trained with: every way to cut a piece into two pieces, best score first.
///
/// Equal scores are told apart the way transformers does (longer left half, then longer right half, then the order of
/// pieces and of their halves' ids), because the rank of a merge decides how text is cut.
fn merges(pieces: &[(String, f32)]) -> Vec<(String, String)> {
    struct Merge<'a> {
        score: f32,
        left: &'a str,
        right: &'a str,
        lengths: (usize, usize),
    }
    let ids: HashMap<&str, usize> = pieces.iter().enumerate().map(|(id, (piece, _))| (piece.as_str(), id)).collect();
    let mut all = Vec::new();
    for (piece, score) in pieces {
        let mut cuts = Vec::new();
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                cuts.push(((*l, *r), left, right));
            }
        }
        cuts.sort_by_key(|(ids, ..)| *ids);
        all.extend(cuts.into_iter().map(|(_, left, right)| {
            let lengths = (left.chars().count(), right.chars().count());
            Merge { score: *score, left, right, lengths }
        }));
    }
    // Stable, so that what is still equal keeps the order above. `+ 0.0` makes the two zeros equal, as they are to Python.
    all.sort_by(|a, b| (b.score + 0.0).total_cmp(&(a.score + 0.0)).then(b.lengths.cmp(&a.lengths)));
    all.into_iter().map(|merge| (merge.left.to_owned(), merge.right.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    const PLAIN: Options = Options { legacy: true, add_prefix_space: None };

    fn piece(text: &str, score: f32, kind: Kind) -> Piece {
        Piece { piece: Some(text.into()), score: Some(score), kind: Some(kind as i32) }
    }

    fn model(model_type: i32, pieces: Vec<Piece>) -> ModelProto {
        let trainer = TrainerSpec { model_type: Some(model_type), ..TrainerSpec::default() };
        let normalizer = NormalizerSpec { remove_extra_whitespaces: Some(false), ..NormalizerSpec::default() };
        ModelProto { pieces, trainer: Some(trainer), normalizer: Some(normalizer) }
    }

    fn small(model_type: i32) -> ModelProto {
        let words = [("a", -9.0), ("b", -9.0), ("▁", -9.0), ("ab", -4.0), ("▁a", -5.0), ("▁ab", -6.0)];
        let mut pieces = vec![piece("<unk>", 0.0, Kind::Unknown), piece("<s>", 0.0, Kind::Control)];
        pieces.extend(words.map(|(word, score)| piece(word, score, Kind::Normal)));
        pieces.push(piece("<|user|>", 0.0, Kind::UserDefined));
        model(model_type, pieces)
    }

    fn read(model: &ModelProto) -> Result<Converted, TextError> {
        convert(Path::new("tokenizer.model"), &model.encode_to_vec(), PLAIN)
    }

    fn tokens(model: &ModelProto, text: &str) -> Vec<String> {
        let tokenizer = read(model).expect("valid").tokenizer;
        // By id: for an unknown piece the encoding itself repeats the text.
        let ids = tokenizer.encode(text, false).expect("encodes").get_ids().to_vec();
        ids.into_iter().map(|id| tokenizer.id_to_token(id).expect("a piece")).collect()
    }

    #[test]
    fn both_kinds_of_model_cut_text() {
        for kind in [1, 2] {
            assert_eq!(tokens(&small(kind), "ab a"), ["▁ab", "▁a"], "model type {kind}");
            assert_eq!(tokens(&small(kind), "a<|user|>b"), ["▁a", "<|user|>", "▁", "b"], "model type {kind}");
            assert_eq!(tokens(&small(kind), "aé"), ["▁a", "<unk>"], "model type {kind}");
        }
    }

    #[test]
    fn merges_of_equal_score_prefer_longer_halves() {
        let pieces = [("a", 0.0), ("aa", -1.0), ("aaa", -1.0), ("aaaa", -0.5)].map(|(p, s)| (p.to_owned(), s));
        let merges = merges(&pieces);
        let merges: Vec<_> = merges.iter().map(|(l, r)| format!("{l}+{r}")).collect();
        assert_eq!(merges, ["aaa+a", "aa+aa", "a+aaa", "aa+a", "a+aa", "a+a"]);
    }

    #[test]
    fn normaliser_switches() {
        let mut clean = small(2);
        let switches = clean.normalizer.get_or_insert_default();
        switches.remove_extra_whitespaces = Some(true);
        assert_eq!(tokens(&clean, "  ab   a "), ["▁ab", "▁a"]);
        assert!(tokens(&clean, "   ").is_empty());
        clean.normalizer.get_or_insert_default().add_dummy_prefix = Some(false);
        assert_eq!(tokens(&clean, "ab a"), ["ab", "▁a"]);
    }

    #[test]
    fn later_behaviour_puts_a_space_only_in_front() {
        let options = Options { legacy: false, add_prefix_space: None };
        let converted = convert(Path::new("m"), &small(2).encode_to_vec(), options).expect("valid");
        let tokens = converted.tokenizer.encode("a<|user|>b", false).expect("encodes");
        assert_eq!(tokens.get_tokens(), ["▁a", "<|user|>", "b"]);
    }

    #[test]
    fn refusals() {
        let mut twice = small(2);
        twice.pieces.push(piece("ab", 0.0, Kind::Normal));
        let mut empty = small(2);
        empty.pieces.push(piece("", 0.0, Kind::Normal));
        let mut nan = small(1);
        nan.pieces.push(piece("x", f32::NAN, Kind::Normal));
        let mut suffix = small(1);
        suffix.trainer.get_or_insert_default().treat_whitespace_as_suffix = Some(true);
        let mut map = small(1);
        map.normalizer.get_or_insert_default().precompiled_charsmap = Some(vec![255; 9]);
        let rows = [
            (twice, "pieces[9] is \"ab\" again, as pieces[5]"),
            (empty, "pieces[9] is 0 bytes long"),
            (nan, "pieces[9] is scored NaN"),
            (suffix, "spaces"),
            (map, "precompiled_charsmap is declaring a trie"),
            (small(3), "model_type is 3"),
            (model(1, vec![]), "0 pieces, none of them unknown"),
        ];
        for (model, expected) in rows {
            let error = read(&model).err().expect("must be refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
        let tiktoken = convert(Path::new("m"), b"IQ== 0\nIg== 1\nIw== 2\n", PLAIN).err().expect("refused");
        assert!(tiktoken.to_string().contains("tiktoken"), "{tiktoken}");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = convert(Path::new("m"), &bytes, PLAIN);
        }

        #[test]
        fn damaged_models_never_panic(
            kind in 1..=2, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            text in "[ab ▁é<|]{0,12}",
        ) {
            let mut bytes = small(kind).encode_to_vec();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(converted) = convert(Path::new("m"), &bytes, PLAIN) {
                let _ = converted.tokenizer.encode(text, true).map(|e| converted.tokenizer.decode(e.get_ids(), false));
            }
        }
    }
}
