//! Whether a plugin keeps what the boundary promises: the checks of `plugins check`.
//!
//! A host believes nothing that a plugin says, so a bad answer is an error and no accident. But an author wants to know before
//! a user does, and some mistakes are no errors: an answer that depends on the order of fields, a config field that nobody
//! reads, a feature that a description made of plain ONNX does not get. Each check asks the plugin as the host would, and
//! says in a line what came out.
//!
//! | module | asks |
//! |---|---|
//! | `describing` | an architecture, for a checkpoint: again, in another order, with other tensors beside |
//! | `hostile` | an architecture, for configs that nobody should write |
//! | `features` | nobody: every pass, target and storage form over the description |
//! | `running` | nobody: the CPU engine, for prompts alone, in chunks and together, or for texts |
//! | `texts` | nobody: the CPU engine, for texts alone, again and together |
//! | `items` | pooling heads, rewrites, weight formats |
//!
//! This module prints nothing, and knows no plugin.

mod describing;
mod features;
mod hostile;
mod items;
mod running;
mod texts;

use qeff_core::validate::validate;
use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::Architecture;

use crate::checkpoint::Checkpoint;
use crate::plugins::{Entry, Listed, Registry};

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Worth knowing, and no mistake: a feature that there is not.
    Note,
    /// It was not looked at.
    Skipped,
    /// A mistake of the plugin.
    Fail,
}

impl Verdict {
    /// The word of tables and documents.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Note => "note",
            Verdict::Skipped => "skipped",
            Verdict::Fail => "FAIL",
        }
    }
}

/// One line of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What was checked: an architecture, a head, a rewrite, a format.
    pub subject: String,
    /// The check.
    pub check: &'static str,
    /// What it found.
    pub verdict: Verdict,
    /// In words.
    pub detail: String,
}

/// Rows about one subject.
struct Rows<'a> {
    subject: String,
    all: &'a mut Vec<Row>,
}

impl Rows<'_> {
    fn add(&mut self, check: &'static str, verdict: Verdict, detail: impl Into<String>) {
        self.all.push(Row { subject: self.subject.clone(), check, verdict, detail: detail.into() });
    }

    fn pass(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Verdict::Pass, detail);
    }

    fn fail(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Verdict::Fail, detail);
    }

    /// Passes without problems; else fails with the first of them.
    fn judge(&mut self, check: &'static str, problems: &[String], fine: impl Into<String>) {
        const SHOWN: usize = 5;
        if problems.is_empty() {
            return self.pass(check, fine);
        }
        let more = problems.len().saturating_sub(SHOWN);
        let mut text = problems[..problems.len().min(SHOWN)].join("; ");
        if more > 0 {
            text.push_str(&format!("; and {more} more"));
        }
        self.fail(check, text);
    }
}

/// Checks what `plugin` contributes; its architectures over `checkpoint`, which is opened with the plugin's formats.
///
/// `choice` is what the user calls the plugin: a name or a path.
pub fn check(registry: &Registry, plugin: &Listed, choice: &str, checkpoint: Option<&Checkpoint>) -> Vec<Row> {
    let mut all = vec![];
    let mut described = None;
    match checkpoint {
        Some(checkpoint) => {
            let subject = checkpoint.config.texts("architectures").ok().and_then(|mut names| names.pop());
            let mut rows = Rows { subject: subject.unwrap_or_else(|| "config.json".into()), all: &mut all };
            described = architecture(registry, choice, checkpoint, &mut rows);
        }
        None => {
            for name in &plugin.architectures {
                let mut rows = Rows { subject: name.clone(), all: &mut all };
                rows.add("description", Verdict::Skipped, "needs a checkpoint: --checkpoint DIR");
            }
        }
    }
    let described = described.as_ref().zip(checkpoint);
    for name in &plugin.pooling {
        let mut rows = Rows { subject: name.clone(), all: &mut all };
        match registry.pooling(&format!("{choice}:{name}")) {
            Ok(head) => items::pooling(&head, &mut rows),
            Err(error) => rows.fail(items::POOLS, error.to_string()),
        }
    }
    for name in &plugin.rewrites {
        let mut rows = Rows { subject: name.clone(), all: &mut all };
        items::rewrite(registry, &format!("{choice}:{name}"), described, &mut rows);
    }
    for format in registry.formats().iter().filter(|format| format.origin.source.to_string() == plugin.source) {
        let mut rows = Rows { subject: format.item.name().to_owned(), all: &mut all };
        items::format(&*format.item, checkpoint, &mut rows);
    }
    all
}

/// Everything about the architecture that fits a checkpoint; the description, if it is sound.
fn architecture(registry: &Registry, choice: &str, checkpoint: &Checkpoint, rows: &mut Rows<'_>) -> Option<Model> {
    let choice = registry.has_architectures(choice).then_some(choice)?;
    let entry = match registry.architecture_for(&checkpoint.config, Some(choice)) {
        Ok(entry) => entry,
        Err(error) => {
            rows.fail("recognised", error.to_string());
            return None;
        }
    };
    rows.pass("recognised", format!("by {}", entry.origin));
    let model = describing::check(&entry, checkpoint, rows)?;
    hostile::check(&entry, checkpoint, &model, rows);
    features::check(&model, checkpoint, rows);
    running::check(&model, checkpoint, rows);
    Some(model)
}

/// Config text described over tensors: the model, and fields that nobody read.
fn describe(
    entry: &Entry<dyn Architecture>,
    config: &str,
    tensors: &TensorIndex,
) -> Result<(Model, Asked), crate::plugins::PluginsError> {
    let config = qeff_plugin_api::config::Config::parse(config).map_err(|error| {
        let source = Box::new(qeff_plugin_api::plugin::PluginError::Config(error));
        crate::plugins::PluginsError::Refused { plugin: entry.origin.to_string(), source }
    })?;
    let request = qeff_plugin_api::plugin::Request { config, tensors: tensors.clone() };
    let model = entry.describe(&request)?;
    Ok((model, Asked { unread: request.config.unread(), read: request.config.read_fields() }))
}

/// What a description asked the config for.
struct Asked {
    unread: Vec<String>,
    read: Vec<String>,
}

/// What is wrong with a model, in one line.
fn invalid(model: &Model, tensors: &TensorIndex) -> Option<String> {
    validate(model, tensors).err().map(|findings| findings.to_string().replace('\n', "; "))
}

#[cfg(test)]
mod tests;
