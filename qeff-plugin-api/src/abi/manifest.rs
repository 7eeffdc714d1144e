//! What a plugin says of itself: who it is, what it contributes, how it was built.

use serde_json::{Value as Json, json};

use super::note;
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
            rustc: note::RUSTC.to_owned(),
            target: note::TARGET.to_owned(),
            panic: note::PANIC.to_owned(),
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

    /// Everything it contributes, as `(kind, name)`, sorted.
    pub fn contributions(&self) -> Vec<(&'static str, &str)> {
        fn all<'a>(kind: &'static str, names: &'a [String]) -> impl Iterator<Item = (&'static str, &'a str)> {
            names.iter().map(move |name| (kind, name.as_str()))
        }
        let architectures = self.architectures.iter().flat_map(|names| all("architecture", names));
        let others = all("pooling head", &self.pooling).chain(all("rewrite", &self.rewrites));
        let mut all: Vec<_> = architectures.chain(others).chain(all("weight format", &self.formats)).collect();
        all.sort_unstable();
        all
    }

    /// Whether it names nothing that it contributes.
    pub fn declares_nothing(&self) -> bool {
        self.contributions().is_empty()
    }

    /// Checks what a plugin says of itself against what stands in its file (`self`). A file that declares nothing may
    /// contribute anything; one that declares something must contribute exactly that, or whoever looked at the
    /// declaration trusts something else than what he gets.
    ///
    /// # Errors
    /// Says what differs, and what to do.
    pub fn agrees_with(&self, said: &Manifest) -> Result<(), String> {
        let differs = |what: &str, declared: &str, said: &str| {
            format!("its {what} is {declared} in its file and {said} once it is loaded; rebuild it")
        };
        if self.name != said.name {
            return Err(differs("name", &self.name, &said.name));
        }
        if self.version != said.version {
            return Err(differs("version", &self.version, &said.version));
        }
        let (declared, contributed) = (self.contributions(), said.contributions());
        if declared.is_empty() || declared == contributed {
            return Ok(());
        }
        let only = |here: &[(&str, &str)], there: &[(&str, &str)]| {
            here.iter().find(|item| !there.contains(item)).map(|(kind, name)| format!("the {kind} `{name}`"))
        };
        Err(match (only(&contributed, &declared), only(&declared, &contributed)) {
            (Some(more), _) => format!("it contributes {more}, which `export_plugin!` does not name"),
            (None, Some(less)) => format!("`export_plugin!` names {less}, which it does not contribute"),
            (None, None) => "it contributes something twice".to_owned(),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(architectures: &[&[&str]], pooling: &[&str]) -> Manifest {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Manifest {
            architectures: architectures.iter().map(|names| owned(names)).collect(),
            pooling: owned(pooling),
            rewrites: vec![],
            formats: vec![],
            ..Manifest::of_image("a", "1.0.0")
        }
    }

    #[test]
    fn what_is_declared_is_what_is_contributed() {
        let said = manifest(&[&["A"], &["B", "C"]], &["mean"]);
        assert_eq!(manifest(&[], &[]).agrees_with(&said), Ok(()));
        assert_eq!(manifest(&[&["C", "A", "B"]], &["mean"]).agrees_with(&said), Ok(()));
        let more = manifest(&[&["A", "B", "C"]], &[]).agrees_with(&said).unwrap_err();
        assert_eq!(more, "it contributes the pooling head `mean`, which `export_plugin!` does not name");
        let less = manifest(&[&["A", "B", "C", "D"]], &["mean"]).agrees_with(&said).unwrap_err();
        assert_eq!(less, "`export_plugin!` names the architecture `D`, which it does not contribute");
        let other = Manifest { version: "2.0.0".into(), ..said.clone() }.agrees_with(&said).unwrap_err();
        assert_eq!(other, "its version is 2.0.0 in its file and 1.0.0 once it is loaded; rebuild it");
    }

    #[test]
    fn text_and_back() {
        let said = manifest(&[&["A"], &["B", "C"]], &["mean"]);
        assert_eq!(Manifest::parse(&said.to_json().to_string()), Ok(said));
        for text in ["", "[]", "{}", r#"{"name": ""}"#, r#"{"name": "a", "version": 1}"#] {
            assert!(Manifest::parse(text).is_err(), "{text}");
        }
    }
}
