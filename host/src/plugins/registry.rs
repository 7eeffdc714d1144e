//! The registry; see [`Registry`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qeff_plugin_api::abi;
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{
    Architecture, Fit, GraphRewrite, PluginError, PoolingHead, Registration, Request, WeightFormat, registered,
};
use serde::Serialize;

use super::PluginsError;
use super::linked::Linked;

/// Where a plugin's code comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// This binary.
    BuiltIn,
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::BuiltIn => f.write_str("built-in"),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

/// Which plugin contributes something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Name, e.g. `llama`.
    pub plugin: String,
    /// Where it comes from.
    pub source: Source,
    /// Version of its crate.
    pub version: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.plugin, self.version, self.source)
    }
}

impl Origin {
    /// Whether a user who says `choice` means this plugin: by name, or by its file.
    fn is(&self, choice: &str) -> bool {
        match &self.source {
            Source::File(path) if is_path(choice) => same_file(path, Path::new(choice)),
            Source::BuiltIn if is_path(choice) => false,
            _ => self.plugin == choice,
        }
    }
}

/// Whether an argument of `--plugin` is a file rather than a name.
pub fn is_path(choice: &str) -> bool {
    choice.contains(['/', std::path::MAIN_SEPARATOR])
        || Path::new(choice).extension().is_some_and(|ext| ["so", "dylib", "dll"].iter().any(|known| ext == *known))
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

/// An item with the plugin that contributes it.
pub struct Entry<T: ?Sized> {
    /// The plugin.
    pub origin: Arc<Origin>,
    /// The item.
    pub item: Arc<T>,
}

impl<T: ?Sized> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Entry { origin: Arc::clone(&self.origin), item: Arc::clone(&self.item) }
    }
}

impl<T: ?Sized> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry of {}", self.origin)
    }
}

impl<T: ?Sized> Entry<T> {
    fn refused(&self, source: PluginError) -> PluginsError {
        PluginsError::Refused { plugin: self.origin.to_string(), source: Box::new(source) }
    }
}

impl Entry<dyn Architecture> {
    /// Describes a model; an error names the plugin.
    ///
    /// # Errors
    /// As [`Architecture::describe`].
    pub fn describe(&self, request: &Request) -> Result<Model, PluginsError> {
        self.item.describe(request).map_err(|error| self.refused(error))
    }
}

impl Entry<dyn PoolingHead> {
    /// Appends the head; an error names the plugin.
    ///
    /// # Errors
    /// As [`PoolingHead::append`].
    pub fn append(&self, model: Model, tensors: &qeff_plugin_api::TensorIndex) -> Result<Model, PluginsError> {
        self.item.append(model, tensors).map_err(|error| self.refused(error))
    }
}

impl Entry<dyn GraphRewrite> {
    /// Rewrites a model; an error names the plugin.
    ///
    /// # Errors
    /// As [`GraphRewrite::rewrite`].
    pub fn rewrite(&self, model: Model, tensors: &qeff_plugin_api::TensorIndex) -> Result<Model, PluginsError> {
        self.item.rewrite(model, tensors).map_err(|error| self.refused(error))
    }
}

/// A plugin as `plugins list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Name.
    pub name: String,
    /// Version of its crate.
    pub version: String,
    /// `built-in`, or the file.
    pub source: String,
    /// Architectures it describes.
    pub architectures: Vec<String>,
    /// Pooling heads.
    pub pooling: Vec<String>,
    /// Rewrites.
    pub rewrites: Vec<String>,
    /// Weight formats.
    pub formats: Vec<String>,
}

/// Everything that linked and loaded plugins contribute, in an order that depends on names alone.
#[derive(Default)]
pub struct Registry {
    architectures: Vec<Entry<dyn Architecture>>,
    pooling: Vec<Entry<dyn PoolingHead>>,
    rewrites: Vec<Entry<dyn GraphRewrite>>,
    formats: Vec<Entry<dyn WeightFormat>>,
    origins: Vec<Arc<Origin>>,
}

impl Registry {
    /// A registry without plugins.
    pub fn empty() -> Self {
        Self::default()
    }

    /// What is linked into this binary.
    pub fn builtin() -> Self {
        let mut registry = Self::default();
        for entry in registered() {
            let origin =
                Origin { plugin: entry.plugin.to_owned(), source: Source::BuiltIn, version: entry.version.to_owned() };
            let origin = registry.origin(origin);
            match entry.item {
                Registration::Architecture(item) => {
                    registry.architectures.push(Entry { origin, item: Arc::new(Linked(item)) });
                }
                Registration::Pooling(item) => registry.pooling.push(Entry { origin, item: Arc::new(Linked(item)) }),
                Registration::Rewrite(item) => registry.rewrites.push(Entry { origin, item: Arc::new(Linked(item)) }),
                Registration::Format(item) => registry.formats.push(Entry { origin, item: Arc::new(Format(item)) }),
            }
        }
        registry.sort();
        registry
    }

    fn origin(&mut self, origin: Origin) -> Arc<Origin> {
        if let Some(known) = self.origins.iter().find(|known| ***known == origin) {
            return Arc::clone(known);
        }
        let origin = Arc::new(origin);
        self.origins.push(Arc::clone(&origin));
        origin
    }

    fn sort(&mut self) {
        self.origins.sort();
        self.architectures.sort_by(|a, b| (&a.origin, a.item.names()).cmp(&(&b.origin, b.item.names())));
        self.pooling.sort_by(|a, b| (&a.origin, a.item.name()).cmp(&(&b.origin, b.item.name())));
        self.rewrites.sort_by(|a, b| (&a.origin, a.item.name()).cmp(&(&b.origin, b.item.name())));
        self.formats.sort_by(|a, b| (&a.origin, a.item.name()).cmp(&(&b.origin, b.item.name())));
    }

    /// Loads the plugin of a file into this process; a file that is already here stays as it is.
    ///
    /// # Errors
    /// If the file is no plugin for this host.
    pub fn add_file(&mut self, path: &Path) -> Result<Arc<Origin>, PluginsError> {
        let known = self.origins.iter().find(|origin| match &origin.source {
            Source::File(file) => same_file(file, path),
            Source::BuiltIn => false,
        });
        if let Some(known) = known {
            return Ok(Arc::clone(known));
        }
        let plugin = abi::load(path)?;
        let manifest = plugin.manifest();
        let origin = self.origin(Origin {
            plugin: manifest.name.clone(),
            source: Source::File(path.to_owned()),
            version: manifest.version.clone(),
        });
        fn entries<T: ?Sized>(origin: &Arc<Origin>, items: Vec<Box<T>>) -> impl Iterator<Item = Entry<T>> {
            items.into_iter().map(|item| Entry { origin: Arc::clone(origin), item: Arc::from(item) })
        }
        self.architectures.extend(entries(&origin, plugin.architectures()));
        self.pooling.extend(entries(&origin, plugin.pooling_heads()));
        self.rewrites.extend(entries(&origin, plugin.rewrites()));
        self.formats.extend(entries(&origin, plugin.formats()));
        self.sort();
        Ok(origin)
    }

    /// Takes an argument of `--plugin`: a path is loaded, a name must be known.
    ///
    /// # Errors
    /// If the file is no plugin for this host, or nothing has the name.
    pub fn choose(&mut self, choice: &str) -> Result<Arc<Origin>, PluginsError> {
        if is_path(choice) {
            return self.add_file(Path::new(choice));
        }
        self.origins.iter().find(|origin| origin.is(choice)).cloned().ok_or_else(|| {
            let mut known: Vec<_> = self.origins.iter().map(|origin| origin.plugin.clone()).collect();
            known.dedup();
            PluginsError::UnknownPlugin { name: choice.to_owned(), known }
        })
    }

    /// The architecture that fits a config best, among those of the plugin `choose` (a name or a path) if it is given.
    ///
    /// # Errors
    /// If none fits, or two fit equally.
    pub fn architecture_for(
        &self,
        config: &Config,
        choose: Option<&str>,
    ) -> Result<Entry<dyn Architecture>, PluginsError> {
        let mut fits: Vec<(Fit, &Entry<dyn Architecture>)> = self
            .architectures
            .iter()
            .filter(|entry| choose.is_none_or(|choice| entry.origin.is(choice)))
            .filter_map(|entry| Some((entry.item.recognise(config)?, entry)))
            .collect();
        let wanted = || {
            let named = config.texts("architectures").unwrap_or_default();
            match named.first() {
                Some(name) => format!("the architecture `{name}`"),
                None => "a config.json without `architectures`".to_owned(),
            }
        };
        let best = fits.iter().map(|(fit, _)| *fit).max();
        fits.retain(|(fit, _)| Some(*fit) == best);
        match fits.as_slice() {
            [(_, only)] => Ok((*only).clone()),
            [] => Err(PluginsError::UnknownArchitecture {
                wanted: wanted(),
                chosen: choose.map(str::to_owned),
                supported: self.supported(),
            }),
            several => Err(PluginsError::Ambiguous {
                what: wanted(),
                claims: several.iter().map(|(_, entry)| entry.origin.to_string()).collect(),
                how: "--plugin NAME, or --plugin PATH if the names are the same",
            }),
        }
    }

    /// Whether the plugin `choice` (a name or a path) describes models at all.
    pub fn has_architectures(&self, choice: &str) -> bool {
        self.architectures.iter().any(|entry| entry.origin.is(choice))
    }

    fn supported(&self) -> String {
        let line = |entry: &Entry<dyn Architecture>| format!("  {}: {}", entry.origin, entry.item.names().join(", "));
        let lines: Vec<_> = self.architectures.iter().map(line).collect();
        if lines.is_empty() { "  nothing".to_owned() } else { lines.join("\n") }
    }

    /// The pooling head called `name`, or `PLUGIN:NAME`.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn pooling(&self, name: &str) -> Result<Entry<dyn PoolingHead>, PluginsError> {
        find(&self.pooling, "pooling head", name, |item| item.name())
    }

    /// The rewrite called `name`, or `PLUGIN:NAME`.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn rewrite(&self, name: &str) -> Result<Entry<dyn GraphRewrite>, PluginsError> {
        find(&self.rewrites, "rewrite", name, |item| item.name())
    }

    /// Every weight format.
    pub fn formats(&self) -> &[Entry<dyn WeightFormat>] {
        &self.formats
    }

    /// Every plugin with what it contributes.
    pub fn list(&self) -> Vec<Listed> {
        fn names<T: ?Sized>(entries: &[Entry<T>], origin: &Origin, name: impl Fn(&T) -> Vec<&str>) -> Vec<String> {
            let own = entries.iter().filter(|entry| *entry.origin == *origin);
            let mut names: Vec<_> = own.flat_map(|entry| name(&entry.item)).map(str::to_owned).collect();
            names.sort();
            names
        }
        let listed = |origin: &Arc<Origin>| Listed {
            name: origin.plugin.clone(),
            version: origin.version.clone(),
            source: origin.source.to_string(),
            architectures: names(&self.architectures, origin, |item| item.names()),
            pooling: names(&self.pooling, origin, |item| vec![item.name()]),
            rewrites: names(&self.rewrites, origin, |item| vec![item.name()]),
            formats: names(&self.formats, origin, |item| vec![item.name()]),
        };
        self.origins.iter().map(listed).collect()
    }
}

fn find<T: ?Sized>(
    entries: &[Entry<T>],
    kind: &'static str,
    wanted: &str,
    name_of: impl Fn(&T) -> &str,
) -> Result<Entry<T>, PluginsError> {
    let (plugin, name) = wanted.split_once(':').map_or((None, wanted), |(plugin, name)| (Some(plugin), name));
    let fits =
        |entry: &&Entry<T>| name_of(&entry.item) == name && plugin.is_none_or(|plugin| entry.origin.plugin == plugin);
    let found: Vec<_> = entries.iter().filter(fits).collect();
    match found.as_slice() {
        [only] => Ok((*only).clone()),
        [] => {
            let mut known: Vec<_> = entries.iter().map(|entry| name_of(&entry.item).to_owned()).collect();
            known.sort();
            known.dedup();
            Err(PluginsError::UnknownItem { kind, name: wanted.to_owned(), known })
        }
        several => Err(PluginsError::Ambiguous {
            what: format!("the {kind} `{wanted}`"),
            claims: several.iter().map(|entry| entry.origin.to_string()).collect(),
            how: "PLUGIN:NAME",
        }),
    }
}

/// A linked weight format: nothing of it is a model, so nothing has to cross.
struct Format(&'static dyn WeightFormat);

impl WeightFormat for Format {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn probe(&self, head: &[u8], file_name: &str) -> bool {
        self.0.probe(head, file_name)
    }

    fn index(&self, head: &[u8], length: u64) -> Result<qeff_plugin_api::plugin::HeaderNeed, PluginError> {
        self.0.index(head, length)
    }

    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError> {
        self.0.decode(encoding, bytes, out)
    }
}

#[cfg(all(test, feature = "builtin-plugins"))]
mod tests {
    use super::*;

    #[test]
    fn exactly_these_are_built_in() {
        let listed: Vec<_> =
            Registry::builtin().list().into_iter().map(|p| (p.name, p.source, p.architectures)).collect();
        let expected = [
            ("gpt-oss", vec!["GptOssForCausalLM"]),
            ("gpt2", vec!["GPT2LMHeadModel"]),
            ("granite", vec!["GraniteForCausalLM"]),
            ("llama", vec!["LlamaForCausalLM", "MistralForCausalLM"]),
            ("qwen2", vec!["Qwen2ForCausalLM"]),
            ("qwen3", vec!["Qwen3ForCausalLM"]),
            ("swiftkv", vec!["LlamaSwiftKVForCausalLM"]),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(name, names)| {
                (name.to_owned(), "built-in".to_owned(), names.into_iter().map(str::to_owned).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(listed, expected);
    }

    #[test]
    fn an_unknown_architecture_lists_what_is_supported() {
        let config = Config::parse(r#"{"architectures": ["FooForCausalLM"]}"#).unwrap();
        let error = Registry::builtin().architecture_for(&config, None).unwrap_err();
        assert!(error.is_user_input());
        let text = error.to_string();
        for part in ["`FooForCausalLM`", "llama 0.1.0 (built-in): LlamaForCausalLM, Mistral", "--plugin path/to"] {
            assert!(text.contains(part), "expected `{part}` in `{text}`");
        }
    }

    #[test]
    fn names_and_paths_are_told_apart() {
        assert!(is_path("./llama") && is_path("llama.so") && is_path("a/b") && is_path("x.dll"));
        assert!(!is_path("llama") && !is_path("so"));
        let error = Registry::builtin().choose("lama").unwrap_err().to_string();
        assert!(error.contains("`lama`") && error.contains("gpt2, granite, llama"), "{error}");
    }
}
