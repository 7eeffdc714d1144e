//! A lone GGUF file computes what its dequantised weights compute in Hugging Face transformers, with its own tokenizer.

use anyhow::{Context as _, Result, ensure};
use qeff::{check_stored, describe, fixture, fixtures_of, options, root};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::forms::Stored;
use qeff_host::plugins::Registry;
use qeff_host::prepare;
use qeff_host::runtime::cpu::rten::Rten;
use qeff_host::text::chat::ChatOptions;
use qeff_host::text::{Message, Tokenizer};
use serde_json::Value;

/// Ends of the names of fixtures whose weights are plain numbers, of which none is in blocks.
const PLAIN: &[&str] = &["f16", "f32", "rope-linear", "rope3"];

/// Folders with a model; the others hold types only.
fn models() -> Vec<String> {
    fixtures_of("gguf").into_iter().filter(|name| fixture(name).join("model.gguf").exists()).collect()
}

fn open(name: &str) -> Result<Checkpoint> {
    Checkpoint::open(&fixture(name).join("model.gguf"))
}

fn expected(name: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(fixture(name).join("expected.json"))?)?)
}

fn for_each(check: impl Fn(&str) -> Result<()>) {
    qeff::for_each(&models(), 15, check);
}

#[test]
fn logits_are_those_of_the_dequantised_weights() {
    for_each(|name| check_stored(&open(name)?, name, Stored::Dequantise).map(drop));
}

/// The same numbers, though most of them are never made: products with blocks as they are stored.
#[test]
fn kept_weights_have_the_same_logits() {
    for_each(|name| {
        let kept = check_stored(&open(name)?, name, Stored::Keep)?;
        let plain = PLAIN.iter().any(|ending| name.ends_with(ending));
        ensure!(plain == (kept == 0), "{kept} weights were kept");
        Ok(())
    });
}

#[test]
fn nothing_of_the_file_is_left_unread() {
    for_each(|name| {
        let described = qeff_host::describe::describe(
            &open(name)?,
            &Registry::builtin(),
            qeff_host::describe::DescribeOptions { strict: true, ..Default::default() },
        )?;
        ensure!(described.warnings.is_empty());
        Ok(())
    });
}

#[test]
fn plain_tensors_are_used_where_they_lie() -> Result<()> {
    let checkpoint = open("gguf/llama-f32")?;
    let ready = prepare::cpu(&describe(&checkpoint)?, &checkpoint.weights, options(&Rten, 1, 8))?;
    ensure!(ready.residence.linked > 0, "{:?}", ready.residence);
    Ok(())
}

/// What one side transposes and the other transposes back is neither.
#[test]
fn layouts_that_undo_each_other_leave_no_step() -> Result<()> {
    let model = describe(&open("gguf/gpt2-f32")?)?;
    let steps: Vec<_> = model.programs[0]
        .weights()
        .map(|(_, expr)| expr.to_string())
        .filter(|expr| expr.contains("transpose"))
        .collect();
    ensure!(steps.is_empty(), "{steps:?}");
    Ok(())
}

#[test]
fn the_vocabulary_cuts_text_as_the_original_does() {
    for_each(|name| {
        let tokenizer = open(name)?.tokenizer()?;
        let expected = expected(name)?;
        for row in expected["tokenizer"].as_array().context("rows")? {
            check_row(&tokenizer, row)?;
        }
        Ok(())
    });
}

fn ids(row: &Value, key: &str) -> Vec<u32> {
    row[key].as_array().into_iter().flatten().filter_map(Value::as_u64).map(|id| id as u32).collect()
}

fn check_row(tokenizer: &Tokenizer, row: &Value) -> Result<()> {
    let text = row["text"].as_str().context("a text")?;
    let (with, plain) = (ids(row, "ids"), ids(row, "ids_plain"));
    ensure!(tokenizer.encode(text, true)? == with, "{text:?}: {:?}, expected {with:?}", tokenizer.encode(text, true)?);
    ensure!(tokenizer.encode(text, false)? == plain, "{text:?} without special tokens");
    ensure!(Some(tokenizer.decode(&with, true)?.as_str()) == row["decoded_skip_special"].as_str(), "{text:?} decoded");
    Ok(())
}

#[test]
fn the_chat_template_is_the_original_one() {
    for_each(|name| {
        let (checkpoint, expected) = (open(name)?, expected(name)?);
        let chat = &expected["chat"];
        if chat.is_null() {
            return Ok(());
        }
        let tokenizer = checkpoint.tokenizer()?;
        let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone())?;
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let template = tokenizer.chat_template(None)?;
        ensure!(tokenizer.encode_chat(&template, &messages, &options)? == ids(chat, "ids"));
        Ok(())
    });
}

#[test]
fn the_ids_that_end_a_text_come_from_the_file() -> Result<()> {
    let config: Value = serde_json::from_str(&open("gguf/llama-f32")?.config.to_text())?;
    assert_eq!(open("gguf/llama-f32")?.eos(), [2]);
    assert_eq!(config["eos_token_id"], serde_json::json!([2]));
    Ok(())
}

#[test]
fn what_is_no_model_is_refused_with_the_file_and_a_reason() -> Result<()> {
    let types = root().join("tests/fixtures/gguf/types/types.gguf");
    let sound = std::fs::read(fixture("gguf/llama-q8_0").join("model.gguf"))?;
    let dir = tempfile::tempdir()?;
    let write = |name: &str, bytes: &[u8]| -> Result<_> {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    };
    let cases = [
        (types, "architecture `none`"),
        (write("cut.gguf", &sound[..sound.len() - 1000])?, "the download or copy stopped early"),
        (write("empty.gguf", b"")?, "at byte 0"),
        (write("other.gguf", b"PK\x03\x04 some other file")?, "it is no GGUF file"),
        (write("model.bin", b"not a model")?, "is a file: give the folder"),
    ];
    for (path, reason) in cases {
        let error = format!("{:#}", Checkpoint::open(&path).map(|_| ()).err().context("it was opened")?);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ensure!(error.contains(&name) && error.contains(reason), "{error}");
    }
    // The name does not matter: a cache calls files by their hash.
    Checkpoint::open(&write("0123abcd", &sound)?)?;
    Ok(())
}
