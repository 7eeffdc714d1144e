//! Chat templates: a conversation becomes the text of a prompt.
//!
//! An instruction-tuned checkpoint answers well only to the exact layout it was trained on, and ships that layout as a Jinja
//! template written for Python. The engine here is set up like transformers' own: block trimming, loop controls,
//! Python's string methods, a `tojson` that leaves HTML alone, `raise_exception` and `strftime_now`.
//!
//! A rendered prompt already contains its special tokens, so it is encoded without adding any ([`Tokenizer::encode_chat`]).
//!
//! This module knows messages and templates. It does not know which template a user prefers nor what a model answers.

use std::error::Error as _;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::{TextError, Tokenizer, config};

/// Instructions a template may execute. A long conversation needs some hundred thousand; a loop without end needs more.
const FUEL: u64 = 50_000_000;

/// Nesting that `tojson` follows, so that a value built by a loop cannot exhaust the stack.
const MAX_DEPTH: usize = 128;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    #[serde(default)]
    pub content: Content,
    /// Further fields a template may read, such as `tool_calls` or `name`.
    #[serde(flatten)]
    pub more: Map<String, serde_json::Value>,
}

/// The content of a turn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts, such as `{"type": "image"}` and `{"type": "text", "text": …}`.
    Parts(Vec<serde_json::Value>),
    /// Nothing, as in a turn that only calls tools.
    #[default]
    Nothing,
}

impl Message {
    /// A turn of plain text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Message {
        Message { role: role.into(), content: Content::Text(text.into()), more: Map::new() }
    }
}

/// What a template is told beside the messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatOptions {
    /// End the prompt where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Tools the model may call, as JSON schemas.
    pub tools: Option<serde_json::Value>,
    /// Variables of this family's template, such as `enable_thinking`.
    pub variables: Map<String, serde_json::Value>,
}

/// A parsed template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    file: String,
}

impl ChatTemplate {
    /// Parses `source`; `file` is its name in messages.
    ///
    /// # Errors
    ///
    /// [`TextError::Template`] with the line that does not parse.
    pub fn new(file: &str, source: &str) -> Result<ChatTemplate, TextError> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| TextError::Template {
            file: file.into(),
            at: None,
            reason: e.to_string(),
        })?);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.set_fuel(Some(FUEL));
        env.set_debug(true);
        env.add_filter("tojson", to_json);
        // In Python whatever has a length and takes an index is one, text included.
        env.add_test("sequence", |value: &Value| {
            matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
        });
        env.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "the template raised").with_source(Raised(message)))
        });
        env.add_function("strftime_now", |format: String| {
            jiff::fmt::strtime::format(&format, &jiff::Zoned::now())
                .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
        });
        // Jinja reads every line ending as \n.
        let source = without_generation_tags(&source.replace("\r\n", "\n").replace('\r', "\n"));
        let mut template = ChatTemplate { env, file: file.to_owned() };
        let parsed = template.env.add_template_owned(NAME, source);
        parsed.map_err(|e| template.failed(&e))?;
        Ok(template)
    }

    /// Reads a template from a file, as `--chat-template FILE` does.
    ///
    /// # Errors
    ///
    /// The file is absent, no text, or no template.
    pub fn open(path: &Path) -> Result<ChatTemplate, TextError> {
        let absent = || TextError::Read { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() };
        ChatTemplate::new(&path.display().to_string(), &config::read_text(path)?.ok_or_else(absent)?)
    }

    /// Whether turns may have parts (`{"type": "image"}`) rather than plain text: whether the template asks for their type.
    pub fn takes_parts(&self) -> bool {
        let source = self.env.get_template(NAME).map(|template| template.source().to_owned()).unwrap_or_default();
        ["'type'", "\"type\"", ".type"].iter().any(|word| source.contains(word))
    }

    /// Renders a conversation; `special` are the special tokens by role, such as `bos_token`.
    ///
    /// # Errors
    ///
    /// [`TextError::Raised`] when the template refuses the conversation, [`TextError::Template`] when it fails.
    pub fn render<'a>(
        &self,
        messages: &[Message],
        special: impl IntoIterator<Item = (&'a str, &'a str)>,
        options: &ChatOptions,
    ) -> Result<String, TextError> {
        let unwritable = |e: serde_json::Error| TextError::Template {
            file: self.file.clone(),
            at: None,
            reason: format!("the messages are no JSON: {e}"),
        };
        let messages = serde_json::to_value(messages).map_err(unwritable)?;
        let mut context: Vec<(String, Value)> =
            special.into_iter().map(|(role, token)| (role.to_owned(), Value::from(token))).collect();
        context.extend(options.variables.iter().map(|(name, value)| (name.clone(), to_value(value))));
        // Present even where they are nothing: templates ask `is none`, which an undefined name is not.
        context.push(("tools".into(), options.tools.as_ref().map_or(Value::from(()), to_value)));
        context.push(("documents".into(), Value::from(())));
        context.push(("messages".into(), to_value(&messages)));
        context.push(("add_generation_prompt".into(), options.add_generation_prompt.into()));
        let rendered = self.env.get_template(NAME).and_then(|t| t.render(Value::from_pairs(context)));
        rendered.map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &Error) -> TextError {
        let mut cause = error.source();
        while let Some(inner) = cause {
            if let Some(Raised(message)) = inner.downcast_ref() {
                return TextError::Raised { file: self.file.clone(), message: message.clone() };
            }
            cause = inner.source();
        }
        let reason = match error.detail() {
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        };
        TextError::Template { file: self.file.clone(), at: error.line(), reason }
    }
}

impl Tokenizer {
    /// The prompt's text for a conversation.
    ///
    /// # Errors
    ///
    /// The template refuses or fails.
    pub fn render_chat(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<String, TextError> {
        template.render(messages, self.special_tokens(), options)
    }

    /// The prompt's ids for a conversation. The template has placed the special tokens, so none are added.
    ///
    /// # Errors
    ///
    /// The template refuses or fails, or the tokenizer does.
    pub fn encode_chat(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        options: &ChatOptions,
    ) -> Result<Vec<u32>, TextError> {
        self.encode(&self.render_chat(template, messages, options)?, false)
    }
}

/// The template's name inside the engine; without an extension, so that nothing guesses a format from it.
const NAME: &str = "chat";

/// What `raise_exception` was called with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// transformers marks the assistant's turns for training with `{% generation %}`; when rendering, the tag means nothing. An
/// `if` that is always taken means nothing too, and keeps whatever white-space control the tag carries.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag[2..].find("%}").map(|end| end + 2) else {
            rest = tag;
            break;
        };
        let (inside, after) = (&tag[2..end], &tag[end..]);
        let word = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let with = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            other => other,
        };
        out.push_str("{%");
        out.push_str(&if with == word { inside.to_owned() } else { inside.replace(word, with) });
        rest = after;
    }
    out.push_str(rest);
    out
}

fn to_value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::from(value),
            (None, Some(value)) => Value::from(value),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(list) => list.iter().map(to_value).collect(),
        serde_json::Value::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, value)| (key.as_str(), to_value(value))))
        }
    }
}

/// Python's `json.dumps` with `ensure_ascii` off by default, as transformers replaces Jinja's own filter.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be a pair")),
    };
    let mut writer = JsonWriter {
        out: String::new(),
        indent,
        item,
        key,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    writer.write(value, 0)?;
    Ok(writer.out)
}

struct JsonWriter<'a> {
    out: String,
    indent: Option<usize>,
    item: &'a str,
    key: &'a str,
    ascii: bool,
    sorted: bool,
}

impl JsonWriter<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&python_float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list('[', ']', depth, items, |writer, item| writer.write(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let name = match key.kind() {
                        ValueKind::None => "null".to_owned(),
                        ValueKind::Bool => key.is_true().to_string(),
                        _ => key.to_string(),
                    };
                    entries.push((name, value.get_item(&key)?));
                }
                if self.sorted {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.list('{', '}', depth, entries, |writer, (name, value)| {
                    writer.string(&name);
                    writer.out.push_str(writer.key);
                    writer.write(&value, depth + 1)
                })?;
            }
            other => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: a value that is {other} is no JSON"),
                ));
            }
        }
        Ok(())
    }

    fn list<T>(
        &mut self,
        open: char,
        close: char,
        depth: usize,
        items: Vec<T>,
        mut write: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let empty = items.is_empty();
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.out.push_str(self.item);
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !empty {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent.min(64) * depth));
        }
    }

    fn string(&mut self, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            return self.out.push_str(&quoted);
        }
        let mut units = [0; 2];
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                for unit in c.encode_utf16(&mut units) {
                    self.out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

/// A float as Python prints it: the shortest digits, with an exponent outside 1e-4 .. 1e16.
fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    if value != 0.0 && !(1e-4..1e16).contains(&value.abs()) {
        let short = format!("{value:e}");
        let (digits, exponent) = short.split_once('e').unwrap_or((&short, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{value:?}")
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
