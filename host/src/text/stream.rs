//! Text while it grows: ids arrive one by one, and what can no longer change is given out.
//!
//! Decoding is not concatenation. A character may be spread over several tokens; the first token of a text loses its
//! leading space and the same token later keeps it; three byte tokens that spell a character turn into four replacement
//! characters if a fourth breaks the run. [`TextStream`] gives out a piece of text only when no later id can alter it,
//! so that the pieces joined are what decoding all ids at once gives. It compares decodes over a short window of recent
//! tokens, so a token costs the same at the end of a long answer as at its beginning.
//!
//! [`StopStrings`] sits behind it and holds back text that may be the beginning of a stop string.
//!
//! This module knows a tokenizer and strings. It does not know models, sampling or who reads the text.

use super::tokenizer::clean_up;
use super::{TextError, Tokenizer};

/// Recent tokens kept as context for the next ones. A character has at most four bytes, so at most four tokens.
const KEPT: usize = 8;

/// Window length at which it is cut back to [`KEPT`].
const WINDOW: usize = 24;

/// Byte tokens of one run held back while they may still turn out to be no text. A run this long is text; if it breaks
/// after all, the characters shown stay, where decoding everything at once would have replaced them.
const HELD_BYTES: usize = 48;

/// Turns ids into text, one id at a time.
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    /// The last tokens, as context: silent ones never enter.
    window: Vec<u32>,
    /// Bytes of the window's text already given out.
    given: usize,
    run: Run,
    /// Text waiting for its neighbours, where spaces are cleaned up.
    uncleaned: String,
}

/// A run of tokens that stand for single bytes and become text together or not at all.
#[derive(Debug, Default)]
struct Run {
    /// Tokens at the end of the window not yet given out.
    held: usize,
    /// The incomplete character at the end.
    tail: Vec<u8>,
    /// The run is no UTF-8, so each of its bytes is a replacement character.
    broken: bool,
}

const REPLACEMENT: &str = "\u{FFFD}";

impl<'t> TextStream<'t> {
    /// A stream at the beginning of a text. `skip_special` leaves special tokens out, as in [`Tokenizer::decode`].
    pub fn new(tokenizer: &'t Tokenizer, skip_special: bool) -> TextStream<'t> {
        let uncleaned = String::new();
        TextStream { tokenizer, skip_special, window: Vec::new(), given: 0, run: Run::default(), uncleaned }
    }

    /// Takes the next id and returns the text that has become certain, often empty.
    ///
    /// # Errors
    ///
    /// The tokenizer library refuses to decode.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        if self.tokenizer.is_silent(id, self.skip_special) {
            return Ok(String::new());
        }
        let text = match self.tokenizer.fallback_byte(id) {
            Some(byte) => self.push_byte(id, byte)?,
            None => {
                let mut text = self.end_broken_run()?;
                self.window.push(id);
                text.push_str(&self.settle(false)?);
                text
            }
        };
        Ok(self.clean(text, false))
    }

    /// Returns the rest of the text; what is incomplete becomes replacement characters, as in [`Tokenizer::decode`].
    ///
    /// # Errors
    ///
    /// The tokenizer library refuses to decode.
    pub fn finish(mut self) -> Result<String, TextError> {
        let mut text = self.end_broken_run()?;
        text.push_str(&self.settle(true)?);
        Ok(self.clean(text, true))
    }

    fn push_byte(&mut self, id: u32, byte: u8) -> Result<String, TextError> {
        self.window.push(id);
        self.run.held += 1;
        if !self.run.broken {
            self.run.tail.push(byte);
            match std::str::from_utf8(&self.run.tail) {
                Ok(_) => self.run.tail.clear(),
                Err(e) => self.run.broken = e.error_len().is_some(),
            }
        }
        if self.run.broken {
            let text = REPLACEMENT.repeat(self.run.held);
            self.anchor(1)?;
            self.run.held = 0;
            Ok(text)
        } else if self.run.held >= HELD_BYTES && self.run.tail.is_empty() {
            let text = self.rest()?;
            // The last character alone carries on the run: it is sound by itself, and what follows joins it.
            let mut bytes = self.window.iter().rev().filter_map(|id| self.tokenizer.fallback_byte(*id));
            let kept = 1 + bytes.by_ref().take(3).take_while(|byte| byte & 0xC0 == 0x80).count();
            self.anchor(kept)?;
            self.run.held = 0;
            Ok(text)
        } else {
            Ok(String::new())
        }
    }

    /// Closes a run that ends in the middle of a character. A sound one is left to the next decode.
    fn end_broken_run(&mut self) -> Result<String, TextError> {
        let run = std::mem::take(&mut self.run);
        if run.tail.is_empty() || run.broken {
            return Ok(String::new());
        }
        self.anchor(1)?;
        Ok(REPLACEMENT.repeat(run.held))
    }

    /// Gives out what the window decodes to, except a last character that more bytes may complete.
    fn settle(&mut self, last: bool) -> Result<String, TextError> {
        let text = self.tokenizer.decode_raw(&self.window, self.skip_special)?;
        let certain = if last { text.as_str() } else { text.strip_suffix(REPLACEMENT).unwrap_or(&text) };
        let new = certain.get(self.given..).unwrap_or_default().to_owned();
        self.given = self.given.max(certain.len());
        if self.window.len() > WINDOW {
            let waiting = text.len() - self.given.min(text.len());
            self.anchor(KEPT)?;
            self.given = self.given.saturating_sub(waiting);
        }
        Ok(new)
    }

    /// All text of the window that was not given out yet.
    fn rest(&self) -> Result<String, TextError> {
        let text = self.tokenizer.decode_raw(&self.window, self.skip_special)?;
        Ok(text.get(self.given..).unwrap_or_default().to_owned())
    }

    /// Cuts the window to its last tokens and counts their text as given. They stay as context because the first token
    /// of a decode may lose a space that is not lost in the middle.
    fn anchor(&mut self, kept: usize) -> Result<(), TextError> {
        self.window.drain(..self.window.len().saturating_sub(kept));
        self.given = self.tokenizer.decode_raw(&self.window, self.skip_special)?.len();
        Ok(())
    }

    /// Closes up spaces as decoding does. A rewrite may only begin in what is held back: behind a character that none of
    /// the patterns has before its end, text is certain, since the rewrites drop nothing but spaces.
    fn clean(&mut self, text: String, last: bool) -> String {
        if !self.tokenizer.cleans_up_spaces() {
            return text;
        }
        self.uncleaned.push_str(&text);
        let open = |c: char| matches!(c, ' ' | '\'' | 'n' | 'v' | 'r');
        let certain = if last { self.uncleaned.len() } else { self.uncleaned.trim_end_matches(open).len() };
        let held = self.uncleaned.split_off(certain);
        clean_up(&std::mem::replace(&mut self.uncleaned, held))
    }
}

/// Watches a stream for stop strings.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    matched: Option<usize>,
}

/// What [`StopStrings::push`] lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Text that belongs to the answer and to no stop string.
    pub text: String,
    /// The stop string that ended the answer, as an index into the list given. Text after it is dropped.
    pub stopped_by: Option<usize>,
}

impl StopStrings {
    /// Watches for any of `stops`; an empty list lets everything through.
    ///
    /// # Errors
    ///
    /// [`TextError::EmptyStop`] for an empty string.
    pub fn new(stops: Vec<String>) -> Result<StopStrings, TextError> {
        match stops.iter().position(String::is_empty) {
            Some(index) => Err(TextError::EmptyStop { index }),
            None => Ok(StopStrings { stops, held: String::new(), matched: None }),
        }
    }

    /// Takes the next text. The stop string that is complete first wins, and of those complete at the same place the
    /// longest; how the text is divided into pieces makes no difference.
    pub fn push(&mut self, text: &str) -> Watched {
        if self.matched.is_some() {
            return Watched { text: String::new(), stopped_by: self.matched };
        }
        self.held.push_str(text);
        let found = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, index))
        });
        if let Some((_, start, index)) = found.min() {
            self.matched = Some(index);
            self.held.truncate(start);
            return Watched { text: std::mem::take(&mut self.held), stopped_by: self.matched };
        }
        let certain = self.certain();
        let held = self.held.split_off(certain);
        Watched { text: std::mem::replace(&mut self.held, held), stopped_by: None }
    }

    /// The text held back at the end of an answer, where no stop string was completed.
    pub fn finish(self) -> String {
        self.held
    }

    /// Where the longest ending that some stop string begins with starts.
    fn certain(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        let mut starts = (from..self.held.len()).filter(|at| self.held.is_char_boundary(*at));
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        starts.find(begins).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
