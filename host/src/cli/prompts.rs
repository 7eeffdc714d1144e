//! Prompts as they are typed: repeated flags, `|` between them, a file, or ids.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Where prompts come from.
#[derive(Debug, clap::Args)]
pub(crate) struct PromptArgs {
    /// A prompt; repeat the flag for several, or separate them by `|` (`\|` is a plain `|`).
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Vec<String>,
    /// A file with one prompt a line.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_ids"])]
    prompts_txt_file_path: Option<PathBuf>,
    /// A prompt as token ids separated by commas; repeat the flag for several. No tokenizer is needed.
    #[arg(long, value_name = "IDS", conflicts_with = "prompt", allow_negative_numbers = true)]
    prompt_ids: Vec<String>,
}

/// A prompt as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl PromptArgs {
    /// Whether any is given.
    pub(crate) fn any(&self) -> bool {
        !self.prompt.is_empty() || !self.prompt_ids.is_empty() || self.prompts_txt_file_path.is_some()
    }

    /// All prompts in order, at least one.
    pub(crate) fn prompts(&self) -> Result<Vec<Prompt>> {
        let mut prompts: Vec<Prompt> = self.prompt.iter().flat_map(|text| split(text)).map(Prompt::Text).collect();
        if let Some(path) = &self.prompts_txt_file_path {
            prompts.extend(from_file(path)?.into_iter().map(Prompt::Text));
        }
        for text in &self.prompt_ids {
            prompts.push(Prompt::Ids(ids(text)?));
        }
        if prompts.is_empty() {
            bail!("there is no prompt: give one with --prompt, --prompt-ids or --prompts-txt-file-path");
        }
        for (i, prompt) in prompts.iter().enumerate() {
            if matches!(prompt, Prompt::Text(text) if text.is_empty())
                || matches!(prompt, Prompt::Ids(ids) if ids.is_empty())
            {
                bail!("prompt {i} is empty: a model continues at least one token");
            }
        }
        Ok(prompts)
    }
}

/// Splits at `|`; `\|` is a plain `|` and `\\` a plain backslash before one.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let last = parts.len() - 1;
        match c {
            '\\' if chars.peek() == Some(&'|') => {
                chars.next();
                parts[last].push('|');
            }
            '|' => parts.push(String::new()),
            c => parts[last].push(c),
        }
    }
    parts
}

fn from_file(path: &Path) -> Result<Vec<String>> {
    let bytes = fs_err::read(path)?;
    let text = String::from_utf8(bytes)
        .map_err(|error| anyhow::anyhow!("{} is not UTF-8: {}", path.display(), error.utf8_error()))?;
    let prompts: Vec<_> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if prompts.is_empty() {
        bail!("{} holds no prompt: expected one a line", path.display());
    }
    Ok(prompts)
}

fn ids(text: &str) -> Result<Vec<u32>> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    if inner.trim().is_empty() {
        return Ok(vec![]);
    }
    inner
        .split(',')
        .map(|id| {
            id.trim()
                .parse()
                .with_context(|| format!("--prompt-ids: expected ids such as 1,2,3, found `{}`", id.trim()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_separate_prompts_unless_escaped() {
        assert_eq!(split("a|b c|"), ["a", "b c", ""]);
        assert_eq!(split(r"a\|b|c\d"), ["a|b", r"c\d"]);
    }

    #[test]
    fn ids_are_numbers() {
        assert_eq!(ids("1, 2,3").unwrap(), [1, 2, 3]);
        assert!(ids("1,x").unwrap_err().to_string().contains("`x`"));
        assert!(ids("-1").is_err());
    }
}
