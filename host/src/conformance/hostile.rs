//! Configs that nobody should write: every field that is asked for missing, empty, of the wrong type, zero, negative, huge.
//!
//! A config comes from strangers. Whatever it says, the answer is a sound model or an error that names the field; a panic is
//! neither, nor is a model that no validator accepts, nor a minute of thinking.

use std::time::{Duration, Instant};

use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{Architecture, PluginError};
use qeff_plugin_api::wire;
use serde_json::{Value as Json, json};

use super::{Rows, describe, invalid};
use crate::checkpoint::Checkpoint;
use crate::plugins::{Entry, PluginsError};

/// Longest time for an answer; a real one takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest error that anybody reads.
const LONGEST: usize = 2000;

/// What was set, and what came of it.
#[derive(Default)]
struct Tally {
    configs: usize,
    refused: usize,
    problems: Vec<String>,
}

/// Sets every field to what it should not be.
pub(super) fn check(entry: &Entry<dyn Architecture>, checkpoint: &Checkpoint, model: &Model, rows: &mut Rows<'_>) {
    let Ok(config) = serde_json::from_str::<Json>(&checkpoint.config.to_text()) else { return };
    let tensors = checkpoint.weights.index();
    // Fields that the file leaves out can be written, too; what nobody asks for cannot matter.
    let read = describe(entry, &config.to_string(), tensors).map(|(_, asked)| asked.read).unwrap_or_default();
    let paths = read.iter().map(|field| field.split('.').map(str::to_owned).collect::<Vec<_>>());
    let fields: Vec<_> = paths.filter(|path| parent(&config, path).is_some_and(Json::is_object)).collect();
    let (plain, mut tally) = (wire::encode(model), Tally::default());
    for path in &fields {
        let name = path.join(".");
        let was = parent(&config, path).and_then(|parent| parent.get(path.last().map_or("", String::as_str)));
        for value in [None].into_iter().chain(values().into_iter().map(Some)) {
            let mut spoiled = config.clone();
            set(&mut spoiled, path, value.clone());
            let said = value.as_ref().map_or("missing".to_owned(), |value| format!("= {}", shortened(value)));
            let case = Case { name: &name, said: &said, mistyped: mistyped(was, value.as_ref()) };
            tally.configs += 1;
            let started = Instant::now();
            let answer = describe(entry, &spoiled.to_string(), tensors).map(|(model, _)| model);
            tally.refused += usize::from(answer.is_err());
            let problem = case.problem(&answer, tensors, &plain).or_else(|| {
                let took = started.elapsed();
                (took > PATIENCE).then(|| format!("`{name}` {said}: it takes {:.0} s", took.as_secs_f64()))
            });
            let dead = matches!(&answer, Err(PluginsError::Refused { source, .. }) if matches!(**source, PluginError::Retired(_)));
            tally.problems.extend(problem);
            if dead {
                // It panicked before, and is not asked any more.
                tally.problems.truncate(tally.problems.len().saturating_sub(1));
                rows.judge("hostile configs", &tally.problems, "");
                return;
            }
        }
    }
    let fine =
        format!("{} fields, {} configs: {} refused, the others described", fields.len(), tally.configs, tally.refused);
    rows.judge("hostile configs", &tally.problems, fine);
}

/// A field with a value, and what is known of it.
struct Case<'a> {
    name: &'a str,
    said: &'a str,
    /// Whether the value is of another type than a value that works.
    mistyped: bool,
}

impl Case<'_> {
    fn problem(
        &self,
        answer: &Result<Model, PluginsError>,
        tensors: &qeff_plugin_api::TensorIndex,
        plain: &[u8],
    ) -> Option<String> {
        let Case { name, said, .. } = self;
        match answer {
            Ok(model) => match invalid(model, tensors) {
                Some(findings) => Some(format!("`{name}` {said}: the answer is invalid: {findings}")),
                // What is truly without effect may have any type.
                None if self.mistyped && wire::encode(model) != plain => {
                    Some(format!("`{name}` {said}: it is taken for something else, and refused by nobody"))
                }
                None => None,
            },
            Err(error) => {
                let text = error.to_string();
                let leaf = name.rsplit('.').next().unwrap_or(name);
                match error {
                    PluginsError::Refused { source, .. } => match **source {
                        PluginError::Config(_) | PluginError::Build(_) | PluginError::Other(_)
                            if text.len() > LONGEST =>
                        {
                            Some(format!("`{name}` {said}: an error of {} bytes", text.len()))
                        }
                        PluginError::Config(_) | PluginError::Build(_) | PluginError::Other(_)
                            if self.mistyped && !text.contains(leaf) =>
                        {
                            Some(format!("`{name}` {said}: the error does not name the field: {text}"))
                        }
                        PluginError::Config(_) | PluginError::Build(_) | PluginError::Other(_) => None,
                        _ => Some(format!("`{name}` {said}: {source}")),
                    },
                    other => Some(format!("`{name}` {said}: {other}")),
                }
            }
        }
    }
}

fn values() -> Vec<Json> {
    vec![
        json!(0),
        json!(-1),
        json!(1),
        json!(0.5),
        json!(2_147_483_647),
        json!(u64::MAX),
        json!(1e308),
        json!("text"),
        json!(true),
        json!([]),
        json!([-1, "text"]),
        json!({}),
        json!({ "rope_type": "text", "factor": -1 }),
    ]
}

/// Whether a value is of another type than the one that stood there. Null and absence are of any, and so is a file without
/// the field. A number may stand for a list of numbers: of as many equal ones.
fn mistyped(was: Option<&Json>, value: Option<&Json>) -> bool {
    if let (Some(Json::Array(list)), Some(Json::Number(_))) = (was, value)
        && list.iter().all(Json::is_number)
    {
        return false;
    }
    let kind = |value: &Json| match value {
        Json::Null => None,
        Json::Bool(_) => Some(0),
        Json::Number(_) => Some(1),
        Json::String(_) => Some(2),
        Json::Array(_) => Some(3),
        Json::Object(_) => Some(4),
    };
    match (was.and_then(kind), value.and_then(kind)) {
        (Some(was), Some(value)) => was != value,
        _ => false,
    }
}

/// The object that holds the field of a path.
fn parent<'j>(config: &'j Json, path: &[String]) -> Option<&'j Json> {
    path.iter().rev().skip(1).rev().try_fold(config, |json, key| json.get(key))
}

/// Sets the field of a path, or takes it away.
fn set(config: &mut Json, path: &[String], value: Option<Json>) {
    let Some((leaf, parents)) = path.split_last() else { return };
    let mut json = config;
    for key in parents {
        let Some(next) = json.get_mut(key) else { return };
        json = next;
    }
    if let Some(object) = json.as_object_mut() {
        match value {
            Some(value) => drop(object.insert(leaf.clone(), value)),
            None => drop(object.remove(leaf)),
        }
    }
}

fn shortened(value: &Json) -> String {
    let text = value.to_string();
    if text.len() > 40 { format!("{}…", text.chars().take(40).collect::<String>()) } else { text }
}
