//! What a plugin says of itself: who it is, what it contributes, how it was built.

use serde_json::{Value as Json, json};

use crate::plugin::{Registration, registered};

/// Self-description of a plugin; items are in the order in which the boundary numbers them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Name of the plugin, e.g. `llama`.
    pub name: String,
    /// Version of its crate.
    pub version: String,
    /// Version of qeff-plugin-api it was built with.
    pub api: String,
    /// Names of each architecture entry.
    pub architectures: Vec<Vec<String>>,
    /// Pooling heads.
    pub pooling: Vec<String>,
    /// Rewrites.
    pub rewrites: Vec<String>,
    /// Weight formats.
    pub formats: Vec<String>,
    /// Compiler that built it.
    pub rustc: String,
    /// Machine and system it was built for.
    pub target: String,
    /// Panic strategy; only `unwind` lets a host survive a panic.
    pub panic: String,
}

impl Manifest {
    /// The manifest of this image.
    pub(super) fn of_image(name: &str, version: &str) -> Self {
        let mut manifest = Manifest {
            name: name.to_owned(),
            version: version.to_owned(),
            api: env!("CARGO_PKG_VERSION").to_owned(),
            architectures: vec![],
            pooling: vec![],
            rewrites: vec![],
            formats: vec![],
            rustc: env!("QEFF_RUSTC").to_owned(),
            target: env!("QEFF_TARGET").to_owned(),
            panic: if cfg!(panic = "unwind") { "unwind" } else { "abort" }.to_owned(),
        };
        for entry in registered() {
            match &entry.item {
                Registration::Architecture(item) => {
                    manifest.architectures.push(item.names().into_iter().map(str::to_owned).collect());
                }
                Registration::Pooling(item) => manifest.pooling.push(item.name().to_owned()),
                Registration::Rewrite(item) => manifest.rewrites.push(item.name().to_owned()),
                Registration::Format(item) => manifest.formats.push(item.name().to_owned()),
            }
        }
        manifest
    }

    /// The manifest as JSON.
    pub fn to_json(&self) -> Json {
        json!({
            "name": self.name,
            "version": self.version,
            "api": self.api,
            "architectures": self.architectures,
            "pooling": self.pooling,
            "rewrites": self.rewrites,
            "formats": self.formats,
            "rustc": self.rustc,
            "target": self.target,
            "panic": self.panic,
        })
    }

    /// Reads a manifest; fields of later versions are skipped.
    ///
    /// # Errors
    /// Names the field that is missing or malformed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let json: Json = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let text = |key: &str| {
            let value = json.get(key).and_then(Json::as_str).filter(|text| !text.is_empty());
            value.map(str::to_owned).ok_or_else(|| format!("`{key}` is no text"))
        };
        let list = |value: &Json| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
        };
        let names = |key: &str| json.get(key).and_then(list).ok_or_else(|| format!("`{key}` is no list of names"));
        let architectures = json.get("architectures").and_then(Json::as_array);
        let architectures = architectures.and_then(|entries| entries.iter().map(list).collect());
        Ok(Manifest {
            name: text("name")?,
            version: text("version")?,
            api: text("api")?,
            architectures: architectures.ok_or("`architectures` is no list of lists of names")?,
            pooling: names("pooling")?,
            rewrites: names("rewrites")?,
            formats: names("formats")?,
            rustc: text("rustc")?,
            target: text("target")?,
            panic: text("panic")?,
        })
    }
}
