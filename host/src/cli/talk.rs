//! Talking to people (stderr) and handing over data (stdout); the only place that does either.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Writes data. An error is the reader's: it may have closed its end.
pub(crate) fn data(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to stdout")
}

/// Writes one JSON document as the last line of stdout.
pub(crate) fn json(value: &serde_json::Value) -> Result<()> {
    data(&format!("{value}\n"))
}

/// Says something to whoever watches; nobody may be there.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A warning.
pub(crate) fn warn(text: &str) {
    say(&format!("warning: {text}"));
}

/// Several warnings, one a line.
pub(crate) fn warnings(texts: &[String]) {
    texts.iter().for_each(|text| warn(text));
}

/// What is good to know, one a line.
pub(crate) fn notes(texts: &[String]) {
    texts.iter().for_each(|text| say(&format!("note: {text}")));
}

/// An error with what led to it, and its hint last.
pub(crate) fn error(error: &anyhow::Error) {
    let mut lines = vec![];
    let mut said = String::new();
    for (i, cause) in error.chain().enumerate() {
        let text = cause.to_string();
        // Some libraries repeat their cause in their own words.
        if i > 0 && said.contains(&text) {
            continue;
        }
        said.push_str(&text);
        lines.push(if i == 0 { format!("error: {text}") } else { format!("  {text}") });
    }
    if error.chain().any(is_file_limit) {
        lines.push("hint: files of this size are not allowed here; `ulimit -f` shows and sets the limit".into());
    }
    say(&lines.join("\n"));
}

fn is_file_limit(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::FileTooLarge)
}

/// A bar over bytes with their rate, on a terminal only.
pub(crate) fn bytes_bar(what: &'static str, total: u64) -> ProgressBar {
    bar(what, total, "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}")
}

/// A bar over a number of things with their rate, on a terminal only.
pub(crate) fn count_bar(what: &'static str, total: u64) -> ProgressBar {
    bar(what, total, "{msg} {wide_bar} {pos}/{len} {per_sec}")
}

fn bar(what: &'static str, total: u64, template: &str) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::with_draw_target(Some(total), target).with_message(what);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A bar over seconds of sound, counted in thousandths, on a terminal only.
pub(crate) fn seconds_bar(what: &'static str, total: f64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some((total * 1000.0) as u64), target).with_message(what);
    match ProgressStyle::with_template("{msg} {wide_bar} {percent}% {elapsed} ({eta} left)") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// How long something has been going on, on a terminal only. Nothing is shown before it has a message.
pub(crate) fn spinner() -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let spinner = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        spinner.set_style(style);
    }
    spinner
}

/// Most memory that the process has had resident, in bytes; `None` where the system does not say.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// `12.3 MB`.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// `0.123 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}
