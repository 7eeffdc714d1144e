//! `chat_rows.json` holds templates written for these tests and what transformers 4.57.6 with Jinja 3.1.6 renders.

use std::path::Path;

use super::*;
use proptest::prelude::*;
use serde_json::json;

const SPECIAL: [(&str, &str); 2] = [("bos_token", "<s>"), ("eos_token", "</s>")];

fn prompt() -> ChatOptions {
    ChatOptions { add_generation_prompt: true, ..ChatOptions::default() }
}

fn render(template: &str, messages: &[Message]) -> Result<String, TextError> {
    ChatTemplate::new("test.jinja", template)?.render(messages, SPECIAL, &prompt())
}

#[test]
fn templates_render_as_in_python() {
    let rows: serde_json::Value = serde_json::from_str(include_str!("chat_rows.json")).expect("JSON");
    let messages: Vec<Message> = serde_json::from_value(rows["messages"].clone()).expect("messages");
    let mut wrong = String::new();
    for row in rows["rows"].as_array().expect("rows") {
        let template = row["template"].as_str().expect("a template");
        let found = render(template, &messages);
        if found.as_ref().ok().map(String::as_str) != row["text"].as_str() {
            wrong.push_str(&format!("\n{template}\n  gives    {found:?}\n  expected {:?}\n", row["text"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_conversation_of_the_fixtures() {
    for style in ["tokenizers/llama2", "tokenizers/llama3", "tokenizers/chatml", "llama/base"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(style);
        let expected = std::fs::read_to_string(dir.join("expected.json")).expect("expected.json");
        let chat = serde_json::from_str::<serde_json::Value>(&expected).expect("JSON")["chat"].clone();
        let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone()).expect("messages");
        let ids: Vec<u32> = serde_json::from_value(chat["ids"].clone()).expect("ids");
        let tokenizer = Tokenizer::open(&dir).expect("valid files").expect("a tokenizer");
        let template = tokenizer.chat_template(None).expect("a template");
        assert_eq!(tokenizer.render_chat(&template, &messages, &prompt()).expect("renders"), chat["text"], "{style}");
        assert_eq!(tokenizer.encode_chat(&template, &messages, &prompt()).expect("encodes"), ids, "{style}");
    }
}

#[test]
fn a_checkpoint_without_a_template_says_how_to_give_one() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers/gpt2");
    let tokenizer = Tokenizer::open(&dir).expect("valid files").expect("a tokenizer");
    let error = tokenizer.chat_template(None).expect_err("none").to_string();
    assert!(error.contains("--chat-template FILE"), "{error}");
    let error = ChatTemplate::open(&dir.join("absent.jinja")).expect_err("none").to_string();
    assert!(error.contains("absent.jinja"), "{error}");
}

#[test]
fn a_template_that_raises_is_quoted() {
    let template = "{% for m in messages %}{{ raise_exception('roles must alternate: ' ~ m.role) }}{% endfor %}";
    let error = render(template, &[Message::new("user", "hi")]).expect_err("raises");
    assert!(matches!(&error, TextError::Raised { message, .. } if message == "roles must alternate: user"), "{error}");
    assert!(error.to_string().contains("test.jinja"), "{error}");
    let inside = "{% macro f() %}{{ raise_exception('deep') }}{% endmacro %}{% set x = f() %}";
    assert!(matches!(render(inside, &[]), Err(TextError::Raised { message, .. }) if message == "deep"));
}

#[test]
fn a_template_that_fails_names_the_line() {
    let rows = [
        ("a\n{% if %}", "line 2"),
        ("a\nb\n{{ missing.field }}", "line 3"),
        ("{{ nothing_of_that_name() }}", "line 1"),
        ("{{ missing | tojson }}", "undefined is no JSON"),
        ("{{ strftime_now('%!') }}", "strftime_now"),
    ];
    for (template, expected) in rows {
        let error = render(template, &[]).expect_err("must fail").to_string();
        assert!(error.contains(expected) && error.contains("test.jinja"), "{error}");
    }
}

#[test]
fn a_template_without_end_is_stopped() {
    let loops = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
    assert!(render(loops, &[]).expect_err("must stop").to_string().contains("fuel"));
    let deep =
        "{% set n = namespace(x=[]) %}{% for i in range(300) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x | tojson }}";
    assert!(render(deep, &[]).expect_err("must stop").to_string().contains("nested"));
}

#[test]
fn the_date_is_todays() {
    let today = jiff::Zoned::now().strftime("%d %b %Y").to_string();
    assert_eq!(render("{{ strftime_now('%d %b %Y') }}", &[]).expect("renders"), today);
}

#[test]
fn variables_and_tools_reach_the_template() {
    let template = "{% if enable_thinking is false %}quick{% endif %}{% for t in tools %} {{ t.name }}{% endfor %}";
    let options = ChatOptions {
        tools: Some(json!([{"name": "search"}])),
        variables: json!({"enable_thinking": false}).as_object().cloned().unwrap_or_default(),
        ..prompt()
    };
    let template = ChatTemplate::new("t", template).expect("parses");
    assert_eq!(template.render(&[], SPECIAL, &options).expect("renders"), "quick search");
}

#[test]
fn floats_print_as_in_python() {
    let rows = [
        (1.0, "1.0"),
        (0.1, "0.1"),
        (1e16, "1e+16"),
        (1.5e-7, "1.5e-07"),
        (1e-4, "0.0001"),
        (123456789012345.0, "123456789012345.0"),
    ];
    for (value, expected) in rows {
        assert_eq!(python_float(value), expected);
    }
}

proptest! {
    #[test]
    fn no_template_panics(template in "(\\{[{%#]|[%}#]\\}|generation|endif|if|-| |x|'|messages|\\||[a-z(){}%]){0,12}") {
        let _ = render(&template, &[Message::new("user", "hi")]);
    }
}
