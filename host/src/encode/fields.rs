//! Fields of the small JSON files of a sentence-transformers folder.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value as Json};

use crate::checkpoint::read_json_text;

/// The fields of a JSON file, `None` if there is no such file.
pub(super) fn fields(file: &Path) -> Result<Option<Map<String, Json>>> {
    let Some(text) = read_json_text(file)? else { return Ok(None) };
    match serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))? {
        Json::Object(fields) => Ok(Some(fields)),
        other => bail!("{}: expected an object, found {other}", file.display()),
    }
}

/// A flag, `default` if absent.
pub(super) fn flag(file: &Path, fields: &Map<String, Json>, field: &str, default: bool) -> Result<bool> {
    match fields.get(field) {
        None | Some(Json::Null) => Ok(default),
        Some(Json::Bool(on)) => Ok(*on),
        Some(other) => bail!("{}: `{field}`: expected true or false, found {other}", file.display()),
    }
}

/// A whole number of 1 or more, if present.
pub(super) fn count(file: &Path, fields: &Map<String, Json>, field: &str) -> Result<Option<u64>> {
    match fields.get(field) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|n| *n > 0) {
            Some(n) => Ok(Some(n)),
            None => bail!("{}: `{field}`: expected a whole number of 1 or more, found {value}", file.display()),
        },
    }
}
