//! Typed access to metadata, with errors that name the key.

use anyhow::{Result, bail};
use qeff_core::weights::gguf::{Header, Value};

/// Metadata of a file, with the prefix of its family.
pub(super) struct Metadata<'h> {
    header: &'h Header<'h>,
    pub(super) architecture: &'h str,
}

impl<'h> Metadata<'h> {
    pub(super) fn new(header: &'h Header<'h>) -> Result<Self> {
        let mut metadata = Metadata { header, architecture: "" };
        match metadata.text("general.architecture")? {
            Some(architecture) => metadata.architecture = architecture,
            None => bail!("the metadata has no `general.architecture`: it does not say what model this is"),
        }
        Ok(metadata)
    }

    /// The key `name` of the family.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl Fn(&Value<'h>) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.header.metadata.get(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => bail!("metadata `{key}`: expected {expected}, found {}", found(value)),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'h str>> {
        self.typed(key, "a text", Value::as_text)
    }

    pub(super) fn whole(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a whole number of 0 or more", Value::as_u64)
    }

    /// A whole number of the family that must be there.
    pub(super) fn size(&self, name: &str) -> Result<u64> {
        let key = self.key(name);
        match self.whole(&key)? {
            Some(n) if n > 0 => Ok(n),
            Some(n) => bail!("metadata `{key}`: expected a whole number of 1 or more, found {n}"),
            None => bail!("the metadata has no `{key}`"),
        }
    }

    /// A whole number of the family, which some files give once for each layer.
    pub(super) fn size_of_layers(&self, name: &str) -> Result<Option<u64>> {
        let read = |value: &Value<'h>| match value.as_array() {
            None => value.as_u64(),
            Some(list) => {
                let mut sizes = list.iter().map(|size| size.as_u64());
                let first = sizes.next()??;
                sizes.all(|size| size == Some(first)).then_some(first)
            }
        };
        self.typed(&self.key(name), "a whole number, or the same one for every layer", read)
    }

    /// A number of the family.
    pub(super) fn number(&self, name: &str) -> Result<Option<f64>> {
        let read = |value: &Value<'h>| value.as_f64().or(value.as_u64().map(|n| n as f64)).filter(|x| x.is_finite());
        self.typed(&self.key(name), "a finite number", read)
    }

    pub(super) fn length_of(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a list", |value| value.as_array().map(|list| list.len()))
    }
}

/// A value in a message.
fn found(value: &Value<'_>) -> String {
    match value {
        Value::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Bool(flag) => flag.to_string(),
        other => match (other.as_u64(), other.as_f64()) {
            (Some(n), _) => n.to_string(),
            (_, Some(x)) => x.to_string(),
            _ => other.kind().to_owned(),
        },
    }
}
