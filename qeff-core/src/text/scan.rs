//! One line of text, read from left to right.
//!
//! The text form has no construct that crosses a line, so a reader never needs more than this; it knows columns and
//! tokens, and nothing of models.

use std::str::FromStr;

use qeff_plugin_api::Elem;
use qeff_plugin_api::graph::{Dim, Type};

use super::error::{ParseError, ParseErrorKind};
use super::spell;

pub(super) type Result<T> = std::result::Result<T, ParseError>;

/// A line and how far it has been read.
pub(super) struct Scan<'t> {
    line: usize,
    text: &'t str,
    /// Bytes read.
    at: usize,
}

impl<'t> Scan<'t> {
    pub(super) fn new(line: usize, text: &'t str) -> Self {
        Scan { line, text, at: 0 }
    }

    /// The number of spaces the line begins with.
    pub(super) fn indent(&self) -> usize {
        self.text.len() - self.text.trim_start_matches(' ').len()
    }

    /// The place of the next token, for errors found later.
    pub(super) fn mark(&mut self) -> usize {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start_matches(' ').len();
        self.at
    }

    /// What has not been read, from the next token on.
    pub(super) fn rest(&mut self) -> &'t str {
        let at = self.mark();
        &self.text[at..]
    }

    /// Goes on where `rest`, an end of this line, begins.
    pub(super) fn resume(&mut self, rest: &str) {
        self.at = self.text.len() - rest.len();
    }

    pub(super) fn error(&self, at: usize, kind: ParseErrorKind) -> ParseError {
        ParseError { line: self.line, column: self.text[..at].chars().count() + 1, kind }
    }

    /// The error that something else should stand at `at`.
    pub(super) fn unexpected(&self, at: usize, expected: impl Into<String>) -> ParseError {
        let rest = &self.text[at..];
        let found = match rest.split(' ').next() {
            None | Some("") => "the end of the line".to_owned(),
            Some(token) => format!("`{}`", token.chars().take(32).collect::<String>()),
        };
        self.error(at, ParseErrorKind::Unexpected { expected: expected.into(), found })
    }

    pub(super) fn expected<T>(&mut self, expected: impl Into<String>) -> Result<T> {
        let at = self.mark();
        Err(self.unexpected(at, expected))
    }

    pub(super) fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    pub(super) fn expect(&mut self, token: &str) -> Result<()> {
        if self.eat(token) { Ok(()) } else { self.expected(format!("`{token}`")) }
    }

    pub(super) fn end(&mut self) -> Result<()> {
        if self.rest().is_empty() { Ok(()) } else { self.expected("the end of the line") }
    }

    fn take(&mut self, fits: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !fits(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// The next word, not read; empty if there is none.
    pub(super) fn peek(&mut self) -> &'t str {
        let rest = self.rest();
        let word = &rest[..rest.find(|c| !spell::in_word(c)).unwrap_or(rest.len())];
        if spell::is_word(word) { word } else { "" }
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        self.peek() == word && self.eat(word)
    }

    /// A keyword that must stand here.
    pub(super) fn keyword(&mut self, word: &str) -> Result<()> {
        if self.eat_word(word) { Ok(()) } else { self.expected(format!("`{word}`")) }
    }

    /// One of the words of a table; `what` says in messages what they are.
    pub(super) fn one_of<T: Copy>(&mut self, what: &str, words: &[(&str, T)]) -> Result<T> {
        let word = self.peek();
        match words.iter().find(|(known, _)| *known == word) {
            Some(&(known, value)) => {
                self.eat(known);
                Ok(value)
            }
            None => {
                let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                self.expected(format!("{what} ({})", known.join(", ")))
            }
        }
    }

    /// A name, quoted or not.
    pub(super) fn name(&mut self, what: &str) -> Result<String> {
        if self.rest().starts_with('"') {
            return self.quoted(what);
        }
        if self.rest().starts_with('-') {
            return self.expected(what);
        }
        match self.take(spell::in_name) {
            "" => self.expected(what),
            name => Ok(name.to_owned()),
        }
    }

    /// A word, quoted if it is none.
    pub(super) fn word(&mut self, what: &str) -> Result<String> {
        if self.rest().starts_with('"') {
            return self.quoted(what);
        }
        match self.peek() {
            "" => self.expected(what),
            word => {
                self.eat(word);
                Ok(word.to_owned())
            }
        }
    }

    /// A text in quotes with the escapes of Rust's debug form.
    pub(super) fn quoted(&mut self, what: &str) -> Result<String> {
        let start = self.mark();
        if !self.eat("\"") {
            return self.expected(format!("{what} in quotes"));
        }
        let mut out = String::new();
        let mut chars = self.text[self.at..].char_indices();
        while let Some((i, c)) = chars.next() {
            out.push(match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(out);
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some(c @ ('"' | '\\' | '\'')) => c,
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some('0') => '\0',
                    Some('u') => {
                        let digits: String = chars.by_ref().skip(1).map(|(_, c)| c).take_while(|&c| c != '}').collect();
                        match u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32) {
                            Some(c) => c,
                            None => return Err(self.unexpected(self.at + i, "a character code `\\u{…}`")),
                        }
                    }
                    _ => return Err(self.unexpected(self.at + i, "an escape: \\\" \\\\ \\' \\n \\t \\r \\0 \\u{…}")),
                },
                c => c,
            });
        }
        Err(self.unexpected(start, format!("{what} with a closing quote")))
    }

    /// The name of a value with its `%`.
    pub(super) fn label(&mut self) -> Result<&'t str> {
        let start = self.mark();
        if self.eat("%") && !self.take(|c| spell::in_word(c) || matches!(c, '.' | '\'')).is_empty() {
            return Ok(&self.text[start..self.at]);
        }
        Err(self.unexpected(start, "a value `%…`"))
    }

    /// The characters of a number, unread if they are none.
    pub(super) fn number<T: FromStr>(&mut self, what: &str) -> Result<T> {
        let start = self.mark();
        match self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')).parse() {
            Ok(number) => Ok(number),
            Err(_) => Err(self.unexpected(start, what)),
        }
    }

    /// Things between brackets, separated by commas.
    pub(super) fn list<T>(
        &mut self,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.expect(open)?;
        let mut items = vec![];
        if self.eat(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.eat(close) {
                return Ok(items);
            }
            if !self.eat(",") {
                return self.expected(format!("`,` or `{close}`"));
            }
        }
    }

    pub(super) fn dim(&mut self) -> Result<Dim> {
        if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return self.number("a size that fits 64 bits").map(Dim::Fixed);
        }
        self.word("a dimension").map(|name| Dim::symbol(&name))
    }

    pub(super) fn elem(&mut self) -> Result<Elem> {
        let names: Vec<_> = Elem::ALL.iter().map(|&elem| (elem.name(), elem)).collect();
        self.one_of("an element type", &names)
    }

    pub(super) fn ty(&mut self) -> Result<Type> {
        let elem = self.elem()?;
        Ok(Type::new(elem, self.list("[", "]", Self::dim)?))
    }

    /// Types separated by commas, with the place of each.
    pub(super) fn types(&mut self) -> Result<Vec<(usize, Type)>> {
        let mut types = vec![];
        loop {
            types.push((self.mark(), self.ty()?));
            if !self.eat(",") {
                return Ok(types);
            }
        }
    }
}
