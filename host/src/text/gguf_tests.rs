use super::*;
use crate::gguf::testing::File;
use crate::text::Tokenizer;

fn open(file: &File) -> Result<Option<Tokenizer>, TextError> {
    let bytes = file.bytes();
    Tokenizer::from_gguf(Path::new("x.gguf"), &Header::read(&bytes).expect("a sound file"))
}

fn bytes_bpe(pre: &str) -> File {
    File::default()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .texts("tokenizer.ggml.tokens", &["<s>", "1", "2", "a", "b", "12", "ab", "<|x|>", "Ġ", "Ġa", "aba"])
        .wholes("tokenizer.ggml.token_type", &[3, 1, 1, 1, 1, 1, 1, 4, 1, 1, 1])
        .texts("tokenizer.ggml.merges", &["a b", "1 2", "Ġ a"])
        .whole("tokenizer.ggml.bos_token_id", 0)
}

#[test]
fn a_pipeline_is_chosen_by_its_identifier() {
    let cases: [(&str, &str, &[u32]); 9] = [
        ("gpt-2", "ab12", &[6, 5]),
        ("default", "b a", &[4, 9]),
        ("starcoder", "ab12", &[6, 1, 2]),
        ("llama-bpe", "ab12", &[0, 6, 5]),
        ("qwen2", "ab12", &[6, 1, 2]),
        ("tekken", "ab12", &[0, 6, 1, 2]),
        ("gpt-4o", "ab12", &[6, 5]),
        // No merge makes it; where whole words are looked up first, it is a token all the same.
        ("llama-bpe", "aba", &[0, 10]),
        ("qwen2", "aba<|x|>a", &[6, 3, 7, 3]),
    ];
    for (pre, text, ids) in cases {
        let tokenizer = open(&bytes_bpe(pre)).expect("known").expect("a vocabulary");
        assert_eq!(tokenizer.encode(text, true).expect("encodes"), ids, "{pre}: {text}");
    }
}

#[test]
fn flags_say_what_stands_around_a_text() {
    let file = bytes_bpe("gpt-2").flag("tokenizer.ggml.add_bos_token", true).whole("tokenizer.ggml.eos_token_id", 7);
    let tokenizer = open(&file.flag("tokenizer.ggml.add_eos_token", true)).expect("known").expect("a vocabulary");
    assert_eq!(tokenizer.encode("a", true).expect("encodes"), [0, 3, 7]);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(0), Some(7)));
    let file = bytes_bpe("llama-bpe").flag("tokenizer.ggml.add_bos_token", false);
    assert_eq!(open(&file).expect("known").expect("a vocabulary").encode("a", true).expect("encodes"), [3]);
}

#[test]
fn templates_keep_their_names() {
    let file =
        bytes_bpe("gpt-2").text("tokenizer.chat_template", "plain").text("tokenizer.chat_template.tools", "other");
    let tokenizer = open(&file).expect("known").expect("a vocabulary");
    assert!(tokenizer.chat_template(None).is_ok() && tokenizer.chat_template(Some("tools")).is_ok());
    assert!(tokenizer.chat_template(Some("none")).is_err());
}

#[test]
fn a_file_may_have_no_vocabulary() {
    assert!(open(&File::default()).expect("sound").is_none());
    assert!(open(&File::default().text("tokenizer.ggml.model", "none")).expect("sound").is_none());
}

#[test]
fn vocabularies_that_contradict_themselves_are_refused() {
    let model = |model: &str| File::default().text("tokenizer.ggml.model", model);
    let tokens = "tokenizer.ggml.tokens";
    let cases = [
        (bytes_bpe("made-up"), "`tokenizer.ggml.pre` is \"made-up\"; expected one of gpt-2"),
        (model("bert").texts(tokens, &["a"]), "is bert; expected llama or gpt2"),
        (model("gpt2").texts(tokens, &["a", "a"]), "\"a\" as 0 and as 1"),
        (model("gpt2").texts(tokens, &["a"]), "`tokenizer.ggml.merges` is absent"),
        (model("gpt2").texts(tokens, &["a"]).texts("tokenizer.ggml.merges", &["a b"]), "is \"a b\""),
        (model("gpt2").texts(tokens, &["a"]).texts("tokenizer.ggml.merges", &["ab"]), "is \"ab\""),
        (model("gpt2").wholes(tokens, &[1]), "is a list; expected a list of texts"),
        (model("llama").texts(tokens, &["a", "b", "c"]), "`tokenizer.ggml.scores` is absent"),
        (model("gpt2").texts(tokens, &["a"]).whole("tokenizer.ggml.bos_token_id", 9), "is 9; expected below 1"),
        (model("gpt2").texts(tokens, &["a"]).wholes("tokenizer.ggml.token_type", &[1, 1]), "a list of 1 kinds"),
        (model("gpt2").texts(tokens, &["a"]).wholes("tokenizer.ggml.token_type", &[0]), "a list of 1 kinds"),
    ];
    for (file, reason) in cases {
        let error = open(&file).map(|_| ()).expect_err(reason).to_string();
        assert!(error.contains("x.gguf") && error.contains(reason), "{error}");
    }
}
