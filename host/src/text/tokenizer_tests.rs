//! Every row of the tokenizer fixtures, and the side effects of loading.

use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn fixture(style: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(style)
}

fn open(dir: &Path) -> Tokenizer {
    Tokenizer::open(dir).expect("valid files").expect("a tokenizer")
}

fn expected(dir: &Path) -> Value {
    let text = std::fs::read_to_string(dir.join("expected.json")).expect("expected.json");
    serde_json::from_str(&text).expect("JSON")
}

fn ids(row: &Value, key: &str) -> Vec<u32> {
    row[key].as_array().expect(key).iter().map(|id| id.as_u64().expect("id") as u32).collect()
}

/// A checkpoint directory with these files.
fn checkpoint(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).expect("write");
    }
    dir
}

#[test]
fn every_row_of_the_json_fixtures() {
    for style in
        ["tokenizers/gpt2", "tokenizers/llama2", "tokenizers/llama3", "tokenizers/chatml", "llama/base", "gpt2/base"]
    {
        check_rows(&fixture(style));
    }
}

/// The ids and texts of transformers' fast tokenizer.
fn check_rows(dir: &Path) {
    let tokenizer = open(dir);
    let rows = expected(dir)["tokenizer"].clone();
    for row in rows.as_array().expect("rows") {
        let text = row["text"].as_str().expect("text");
        let at = format!("{tokenizer:?} {text:?}");
        assert_eq!(tokenizer.encode(text, true).expect(&at), ids(row, "ids"), "{at}");
        assert_eq!(tokenizer.encode(text, false).expect(&at), ids(row, "ids_plain"), "{at}");
        assert_eq!(tokenizer.decode(&ids(row, "ids_plain"), false).expect(&at), row["decoded"], "{at}");
        assert_eq!(tokenizer.decode(&ids(row, "ids"), true).expect(&at), row["decoded_skip_special"], "{at}");
    }
}

#[test]
fn every_row_of_the_bare_sentencepiece_fixtures() {
    for style in ["spm-bpe", "spm-unigram"] {
        check_sentencepiece(&fixture("tokenizers").join(style));
    }
}

/// The ids of the sentencepiece library, which adds no special tokens; ours adds a BOS when asked.
fn check_sentencepiece(dir: &Path) {
    let tokenizer = open(dir);
    let expected = expected(dir);
    let id = |key: &str| expected[key].as_u64().map(|id| id as u32);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (id("bos_id"), id("eos_id")), "{tokenizer:?}");
    for row in expected["tokenizer"].as_array().expect("rows") {
        let text = row["text"].as_str().expect("text");
        let at = format!("{tokenizer:?} {text:?}");
        let plain = tokenizer.encode(text, false).expect(&at);
        assert_eq!(plain, ids(row, "ids"), "{at}");
        let framed: Vec<u32> = tokenizer.bos_id().into_iter().chain(plain.iter().copied()).collect();
        assert_eq!(tokenizer.encode(text, true).expect(&at), framed, "{at}");
        // SentencePiece shows an unknown token as ⁇ between spaces, transformers by its name.
        if !plain.contains(&id("unk_id").expect("unk")) {
            assert_eq!(tokenizer.decode(&plain, false).expect(&at), row["decoded"], "{at}");
        }
    }
}

#[test]
fn a_directory_without_a_tokenizer_has_none() {
    let dir = checkpoint(&[("config.json", b"{}"), ("vocab.json", b"{}")]);
    assert!(Tokenizer::open(dir.path()).expect("nothing wrong").is_none());
}

#[test]
fn gpt2_files_answer_as_the_json_of_the_same_tokenizer() {
    let dir = fixture("tokenizers/gpt2");
    let json: Value = serde_json::from_slice(&std::fs::read(dir.join("tokenizer.json")).expect("file")).expect("JSON");
    let mut merges = "#version: 0.2\n".to_owned();
    for merge in json["model"]["merges"].as_array().expect("merges") {
        let halves: Vec<_> =
            merge.as_array().expect("a pair").iter().map(|half| half.as_str().expect("text")).collect();
        merges.push_str(&format!("{}\n", halves.join(" ")));
    }
    let vocab = json["model"]["vocab"].to_string();
    let old = checkpoint(&[("vocab.json", vocab.as_bytes()), ("merges.txt", merges.as_bytes())]);
    let old = open(old.path());
    assert_eq!((old.bos_token(), old.eos_id()), (Some("<|endoftext|>"), Some(0)));
    for row in expected(&dir)["tokenizer"].as_array().expect("rows") {
        let text = row["text"].as_str().expect("text");
        assert_eq!(old.encode(text, true).expect("encodes"), ids(row, "ids"), "{text:?}");
        assert_eq!(old.decode(&ids(row, "ids"), true).expect("decodes"), row["decoded_skip_special"], "{text:?}");
    }

    let framed = checkpoint(&[
        ("vocab.json", vocab.as_bytes()),
        ("merges.txt", merges.as_bytes()),
        ("tokenizer_config.json", br#"{"add_bos_token": true}"#),
    ]);
    assert_eq!(open(framed.path()).encode("", true).expect("encodes"), [0]);
}

#[test]
fn gpt2_files_that_do_not_belong_together_name_the_line() {
    for (merges, line) in [("#version: 0.2\na b\nb a\n", "line 3"), ("a b c\n", "line 1"), ("ab\n", "line 1")] {
        let dir = checkpoint(&[("vocab.json", br#"{"a": 0, "b": 1, "ab": 2}"#), ("merges.txt", merges.as_bytes())]);
        let error = Tokenizer::open(dir.path()).expect_err("must be refused").to_string();
        assert!(error.contains("merges.txt") && error.contains(line), "{error}");
    }
}

/// A word-level tokenizer of three words, with whatever else a file may say.
fn words(more: Value) -> String {
    let mut json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[U]": 2}, "unk_token": "[U]"},
    });
    for (key, value) in more.as_object().expect("an object") {
        json[key] = value.clone();
    }
    json.to_string()
}

#[test]
fn padding_and_truncation_of_the_file_are_ignored() {
    let json = words(json!({
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 2,
                    "pad_type_id": 0, "pad_token": "[U]"},
    }));
    let dir = checkpoint(&[("tokenizer.json", json.as_bytes())]);
    assert_eq!(open(dir.path()).encode("a b a b", true).expect("encodes"), [0, 1, 0, 1]);
}

#[test]
fn special_tokens_the_vocabulary_lacks_are_appended() {
    let config = br#"{"pad_token": "[PAD]", "eos_token": {"content": "b"}}"#;
    let dir = checkpoint(&[("tokenizer.json", words(json!({})).as_bytes()), ("tokenizer_config.json", config)]);
    let tokenizer = open(dir.path());
    assert_eq!((tokenizer.eos_id(), tokenizer.pad_id(), tokenizer.bos_id()), (Some(1), Some(3), None));
    assert_eq!(tokenizer.vocab_size(), 4);
    assert_eq!(tokenizer.encode("a[PAD]", true).expect("encodes"), [0, 3]);
    assert_eq!(tokenizer.decode(&[0, 1, 3, 99], true).expect("decodes"), "a", "99 is no token");
}

#[test]
fn a_special_token_that_is_normalised_stays_special() {
    let model = std::fs::read(fixture("tokenizers/spm-bpe/tokenizer.model")).expect("fixture");
    let config = br#"{"added_tokens_decoder": {"0": {"content": "<unk>", "special": true, "normalized": true}}}"#;
    let dir = checkpoint(&[("tokenizer.model", &model), ("tokenizer_config.json", config)]);
    let tokenizer = open(dir.path());
    let the = tokenizer.encode("The", false).expect("encodes");
    let ids = [&the[..], &[0]].concat();
    assert_eq!(tokenizer.decode(&ids, true).expect("decodes"), "The");
    assert_eq!(tokenizer.decode(&ids, false).expect("decodes"), "The<unk>");
}

#[test]
fn llama_classes_follow_the_flags() {
    let json = words(json!({}));
    let encode = |config: Value| {
        let config = config.to_string();
        let dir = checkpoint(&[("tokenizer.json", json.as_bytes()), ("tokenizer_config.json", config.as_bytes())]);
        Tokenizer::open(dir.path()).map(|t| t.expect("a tokenizer").encode("b", true).expect("encodes"))
    };
    let class = "LlamaTokenizerFast";
    let both = json!({"tokenizer_class": class, "bos_token": "a", "eos_token": "[U]", "add_eos_token": true});
    assert_eq!(encode(both).expect("valid"), [0, 1, 2]);
    let off = json!({"tokenizer_class": class, "bos_token": "a", "add_bos_token": false});
    assert_eq!(encode(off).expect("valid"), [1]);
    let plain = json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "a", "add_bos_token": true});
    assert_eq!(encode(plain).expect("valid"), [1], "this class leaves it to tokenizer.json");
    let error = encode(json!({"tokenizer_class": class, "add_bos_token": true})).expect_err("no BOS").to_string();
    assert!(error.contains("`add_bos_token` is true; expected a bos_token"), "{error}");
}

#[test]
fn spaces_are_cleaned_up_only_when_asked() {
    let json = words(json!({"model": {"type": "WordLevel", "unk_token": "?", "vocab": {"is": 0, "n't": 1, "?": 2}}}));
    let decode = |config: &str| {
        let dir = checkpoint(&[("tokenizer.json", json.as_bytes()), ("tokenizer_config.json", config.as_bytes())]);
        open(dir.path()).decode(&[0, 1, 0, 2], false).expect("decodes")
    };
    assert_eq!(decode("{}"), "is n't is ?");
    assert_eq!(decode(r#"{"clean_up_tokenization_spaces": true}"#), "isn't is?");
}

#[test]
fn damaged_files_are_refused_by_name() {
    let merge = json!({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]});
    let map = |bytes: &[u8]| {
        words(json!({"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Precompiled", "precompiled_charsmap": base64::encode(bytes)}]}}))
    };
    let rows = [
        ("tokenizer.json", "{".to_owned()),
        ("tokenizer.json", "[]".to_owned()),
        ("tokenizer.json", words(json!({"model": merge}))),
        ("tokenizer.json", map(&[0xFF; 8])),
        ("tokenizer.model", "version https://git-lfs.github.com/spec/v1".to_owned()),
    ];
    for (name, text) in rows {
        let dir = checkpoint(&[(name, text.as_bytes())]);
        let error = Tokenizer::open(dir.path()).expect_err("must be refused").to_string();
        assert!(error.contains(name) && error.contains("hint: "), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_model_bytes_are_refused_in_order(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = checkpoint(&[("tokenizer.model", &bytes)]);
        let _ = Tokenizer::open(dir.path());
    }

    /// A real file with some bytes replaced must load and work, or be refused; nothing else.
    #[test]
    fn damaged_fixtures_never_panic(
        model in prop::sample::select(vec!["spm-bpe/tokenizer.model", "spm-unigram/tokenizer.model", "llama2/tokenizer.json"]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        text in ".{0,20}",
    ) {
        let source = fixture("tokenizers").join(model);
        let mut bytes = std::fs::read(&source).expect("fixture");
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let name = source.file_name().and_then(|n| n.to_str()).expect("a name");
        let dir = checkpoint(&[(name, &bytes)]);
        if let Ok(Some(tokenizer)) = Tokenizer::open(dir.path()) {
            let _ = tokenizer.encode(&text, true).map(|ids| tokenizer.decode(&ids, false));
        }
    }

    /// Whatever tokens a config names, they are taken or refused.
    #[test]
    fn odd_special_tokens_never_panic(
        class in prop::sample::select(vec!["LlamaTokenizer", "GPT2TokenizerFast", ""]),
        bos in ".{0,3}", eos in "[▁ a]{0,3}", id: u32, special: bool, bits: [bool; 4], text in "[a▁ ]{0,6}",
    ) {
        let added = json!({"content": &eos, "special": special, "lstrip": bits[0], "rstrip": bits[1], "normalized": bits[2]});
        let config = json!({
            "tokenizer_class": class, "bos_token": &bos, "eos_token": &eos, "add_eos_token": bits[3],
            "added_tokens_decoder": {id.to_string(): added},
        });
        let config = config.to_string();
        for model in ["llama2", "gpt2"] {
            let json = std::fs::read(fixture("tokenizers").join(model).join("tokenizer.json")).expect("fixture");
            let dir = checkpoint(&[("tokenizer.json", &json), ("tokenizer_config.json", config.as_bytes())]);
            if let Ok(Some(tokenizer)) = Tokenizer::open(dir.path()) {
                let ids = tokenizer.encode(&format!("{text}{bos}{eos}"), true).expect("a sound vocabulary");
                tokenizer.decode(&ids, true).expect("a sound vocabulary");
            }
        }
    }
}
