//! Where texts come from: the command line, a file, or what is piped in.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Longest input that is read, in bytes.
const MOST: u64 = 4 << 30;

/// Texts of a verb.
#[derive(Debug, clap::Args)]
pub(crate) struct SourceArgs {
    /// Texts. Without any, and without --file, those of stdin are taken, one a line.
    #[arg(value_name = "TEXT", conflicts_with = "file")]
    texts: Vec<String>,
    /// A file with one text a line; - is stdin.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl SourceArgs {
    /// All texts in order, at least one.
    pub(crate) fn texts(&self) -> Result<Vec<String>> {
        let texts = match &self.file {
            Some(file) if file != Path::new("-") => {
                lines(read(fs_err::File::open(file)?, &file.display().to_string())?)
            }
            None if !self.texts.is_empty() => self.texts.clone(),
            None if std::io::stdin().is_terminal() => {
                bail!("there is no text: give some as arguments, with --file, or on stdin")
            }
            _ => lines(read(std::io::stdin().lock(), "stdin")?),
        };
        if texts.is_empty() {
            bail!("there is no text: expected one a line");
        }
        Ok(texts)
    }
}

fn read(from: impl std::io::Read, name: &str) -> Result<String> {
    let mut bytes = vec![];
    from.take(MOST + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > MOST {
        bail!("{name} has more than {MOST} bytes; split it");
    }
    String::from_utf8(bytes).map_err(|error| anyhow::anyhow!("{name} is not UTF-8: {}", error.utf8_error()))
}

/// Lines that are not empty.
fn lines(text: String) -> Vec<String> {
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}
