//! What can be wrong with text and with the files that describe it.
//!
//! Tokenizer files come from strangers, and a wrong one usually shows only as odd output. Each refusal therefore
//! carries the file, the field, what was found, what was expected, and the next thing to try.
//!
//! The variants know values, not sentences about commands; exit codes belong to the command line.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Why text could not be turned into ids, or ids into text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file that exists could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file holds something the format does not allow, or that this build does not support.
    #[error("{}: {field} is {found}; expected {expected}\nhint: {hint}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The place inside the file.
        field: String,
        /// What stands there.
        found: String,
        /// What would have been accepted.
        expected: String,
        /// The next thing to try.
        hint: String,
    },
    /// The tokenizer library refused a text or a list of ids.
    #[error("{}: cannot {action}: {reason}", file.display())]
    Library {
        /// The file the tokenizer came from.
        file: PathBuf,
        /// `encode` or `decode`, and what.
        action: String,
        /// The library's words.
        reason: String,
    },
    /// The checkpoint has no chat template (or none of that name).
    #[error(
        "{} has no chat template{}\nhint: give one with --chat-template FILE, or send the prompt as plain text",
        dir.display(), available(names)
    )]
    NoChatTemplate {
        /// The checkpoint.
        dir: PathBuf,
        /// Templates that exist under other names.
        names: Vec<String>,
    },
    /// The chat template cannot be parsed or fails while it renders.
    #[error("chat template {file}{}: {reason}\nhint: supply another one with --chat-template FILE", line(*at))]
    Template {
        /// Where the template came from.
        file: String,
        /// Line in the template, counted from 1, where known.
        at: Option<usize>,
        /// What went wrong.
        reason: String,
    },
    /// The chat template itself refused the conversation (`raise_exception`).
    #[error(
        "chat template {file} refuses this conversation: {message}\nhint: change the messages; the rule is the model's, not ours"
    )]
    Raised {
        /// Where the template came from.
        file: String,
        /// The template's own words.
        message: String,
    },
    /// A stop string that would end every text at once.
    #[error("stop string {index} is empty; expected at least one character\nhint: leave it out")]
    EmptyStop {
        /// Position in the list, counted from 0.
        index: usize,
    },
}

impl TextError {
    /// A malformed file, with the parts every refusal has.
    pub(crate) fn malformed(
        file: &Path,
        field: impl Into<String>,
        found: impl Display,
        expected: impl Into<String>,
        hint: impl Into<String>,
    ) -> TextError {
        TextError::Malformed {
            file: file.to_owned(),
            field: field.into(),
            found: shortened(&found.to_string()),
            expected: expected.into(),
            hint: hint.into(),
        }
    }
}

/// Names the templates that do exist, so that the reader need not open the file.
fn available(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" of that name (it has: {})", names.join(", ")) }
}

fn line(at: Option<usize>) -> String {
    at.map(|line| format!(", line {line}")).unwrap_or_default()
}

/// Keeps one error message on the screen whatever a file contains.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 160;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}
