//! The registry; see [`Registry`].

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use qeff_plugin_api::abi::Manifest;
use qeff_plugin_api::config::Config;
use qeff_plugin_api::plugin::{Architecture, Fit, GraphRewrite, PoolingHead, WeightFormat, registered};
use serde::Serialize;

use super::PluginsError;
use super::entry::{Entry, Origin, Source, is_path, same_file};
use super::file::{self, PluginFile};
use super::items::Items;
use super::loading::{self, Loading, Opened, Place};
use super::search::{Folders, shared_objects};
use super::trust::{Standing, Trust, TrustError};

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

impl Listed {
    /// A plugin of a file as it declares itself; nothing of it is executed.
    pub fn declared(file: &PluginFile) -> Self {
        let manifest = &file.manifest;
        let sorted = |names: &mut dyn Iterator<Item = &String>| {
            let mut names: Vec<_> = names.cloned().collect();
            names.sort();
            names
        };
        Listed {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            source: file.path.display().to_string(),
            architectures: sorted(&mut manifest.architectures.iter().flatten()),
            pooling: sorted(&mut manifest.pooling.iter()),
            rewrites: sorted(&mut manifest.rewrites.iter()),
            formats: sorted(&mut manifest.formats.iter()),
        }
    }
}

/// Everything that linked and loaded plugins contribute, in an order that depends on names alone.
///
/// Plugins that were found in a folder ([`Registry::search`]) are loaded when somebody asks for what they declare.
#[derive(Default)]
pub struct Registry {
    items: Items,
    origins: Vec<Arc<Origin>>,
    found: Vec<Found>,
    /// Those of found plugins included, once anybody asked.
    formats: OnceLock<Vec<Entry<dyn WeightFormat>>>,
    loading: Loading,
    trust: Trust,
    remarks: Mutex<Vec<String>>,
    /// Everything from files, for what they have to say beside answers.
    opened: Mutex<Vec<(Arc<Origin>, Opened)>>,
}

/// A plugin in a folder that is searched.
struct Found {
    file: PluginFile,
    origin: Arc<Origin>,
    /// Nothing, if it could not be loaded.
    items: OnceLock<Items>,
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
            registry.items.link(entry, origin);
        }
        registry.items.sort();
        registry.origins.sort();
        registry
    }

    /// Loads plugins from files like this.
    pub fn with_loading(mut self, loading: Loading) -> Self {
        self.loading = loading;
        self
    }

    /// Judges files by what the user agreed to.
    pub fn with_trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Looks for plugins in folders, and reads what they declare. The first of a name hides those after it. A file that is
    /// not in order is left out, with a remark.
    pub fn search(&mut self, folders: &Folders) {
        for path in folders.searched().iter().flat_map(|folder| shared_objects(folder)) {
            match file::examine(&path) {
                Err(error) => self.remark(format!("left out: {error}")),
                Ok(file) if self.found.iter().any(|found| found.file.manifest.name == file.manifest.name) => {}
                Ok(file) => {
                    let origin = Arc::new(loading::origin(&file));
                    self.found.push(Found { file, origin, items: OnceLock::new() });
                }
            }
        }
    }

    fn origin(&mut self, origin: Origin) -> Arc<Origin> {
        if let Some(known) = self.origins.iter().find(|known| ***known == origin) {
            return Arc::clone(known);
        }
        let origin = Arc::new(origin);
        self.origins.push(Arc::clone(&origin));
        origin
    }

    fn remark(&self, remark: String) {
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).push(remark);
    }

    /// What there is to say about plugins from files since it was last asked: which are not pinned, which run without a
    /// sandbox, which print.
    pub fn take_remarks(&self) -> Vec<String> {
        for (origin, opened) in self.opened.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(error) = opened.plugin.take_unheard() {
                self.remark(format!("plugin {origin}: {error}"));
            }
            let printed = opened.worker.as_ref().map(|worker| worker.take_printed()).unwrap_or_default();
            if !printed.is_empty() {
                let printed: String = printed.replace('\n', " | ").chars().take(400).collect();
                self.remark(format!("plugin {origin} printed: {printed}"));
            }
        }
        std::mem::take(&mut *self.remarks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Loads the plugin of a file; one that is already here stays as it is.
    ///
    /// # Errors
    /// If the file is not in order, or no plugin for this host.
    pub fn add_file(&mut self, path: &Path) -> Result<Arc<Origin>, PluginsError> {
        match self.loaded_from(path) {
            Some(known) => Ok(known),
            None => self.add(&file::examine(path)?),
        }
    }

    fn loaded_from(&self, path: &Path) -> Option<Arc<Origin>> {
        let known = self.origins.iter().find(|origin| match &origin.source {
            Source::File(file) => same_file(file, path),
            Source::BuiltIn => false,
        });
        known.cloned()
    }

    /// Loads a plugin whose file has been looked at.
    ///
    /// # Errors
    /// If it is no plugin for this host.
    pub fn add(&mut self, file: &PluginFile) -> Result<Arc<Origin>, PluginsError> {
        let mut items = std::mem::take(&mut self.items);
        let origin = Arc::new(loading::origin(file));
        let loaded = self.load(file, &origin, &mut items);
        self.items = items;
        loaded?;
        self.origins.push(Arc::clone(&origin));
        self.origins.sort();
        Ok(origin)
    }

    fn load(&self, file: &PluginFile, origin: &Arc<Origin>, items: &mut Items) -> Result<(), PluginsError> {
        let opened = loading::open(file, &self.loading)?;
        if let Some(why) = opened.worker.as_ref().and_then(|worker| worker.unconfined()) {
            self.remark(format!("plugin {origin} runs with all your rights: {why}"));
        }
        items.load(&opened.plugin, origin);
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).push((Arc::clone(origin), opened));
        Ok(())
    }

    /// Takes an argument of `--plugin`: a path is loaded, a name must be built in or found. A file must be the one that
    /// was pinned, if it was; only one that was pinned may run in this process.
    ///
    /// # Errors
    /// If the file is not in order, not what was pinned or no plugin for this host, or nothing has the name.
    pub fn choose(&mut self, choice: &str) -> Result<Arc<Origin>, PluginsError> {
        if is_path(choice) {
            if let Some(known) = self.loaded_from(Path::new(choice)) {
                return Ok(known);
            }
            let file = file::examine(Path::new(choice))?;
            self.judge(&file)?;
            return self.add(&file);
        }
        if let Some(at) = self.found.iter().position(|found| found.origin.is(choice)) {
            self.judge(&self.found[at].file)?;
            let found = self.found.remove(at);
            return self.add(&found.file);
        }
        self.origins.iter().find(|origin| origin.is(choice)).cloned().ok_or_else(|| {
            let found = self.found.iter().map(|found| &found.origin);
            let mut known: Vec<_> = self.origins.iter().chain(found).map(|origin| origin.plugin.clone()).collect();
            known.sort();
            known.dedup();
            PluginsError::UnknownPlugin { name: choice.to_owned(), known }
        })
    }

    /// Whether a file may be loaded as it is to be loaded; remarks on what nobody pinned.
    fn judge(&self, file: &PluginFile) -> Result<(), TrustError> {
        let path = file.path.display();
        match (self.trust.standing(file)?, self.loading.place) {
            (Standing::Pinned, _) => {}
            (Standing::Unpinned, Place::Worker) => self.remark(format!(
                "plugin `{path}` is not pinned and runs in a sandbox; `qeff-host plugins add {path}` pins it"
            )),
            (Standing::Unpinned, Place::InProcess) => return Err(TrustError::NeedsPin { path: file.path.clone() }),
        }
        Ok(())
    }

    /// What found plugins contribute that declare something `wanted`. One that cannot be loaded contributes nothing, with
    /// a remark: whoever needs it chooses it, and hears the reason.
    fn found(&self, wanted: impl Fn(&Manifest) -> bool) -> impl Iterator<Item = &Items> {
        let load = |found: &Found| {
            let mut items = Items::default();
            let loaded = self.judge(&found.file).map_err(PluginsError::from);
            if let Err(error) = loaded.and_then(|()| self.load(&found.file, &found.origin, &mut items)) {
                self.remark(format!("left out: {error}"));
            }
            items
        };
        let wanted = self.found.iter().filter(move |found| wanted(&found.file.manifest));
        wanted.map(move |found| found.items.get_or_init(|| load(found)))
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
        let named = config.texts("architectures").unwrap_or_default();
        let names = |manifest: &Manifest| {
            named.first().is_some_and(|name| manifest.architectures.iter().flatten().any(|known| known == name))
        };
        let fitting = |items: &Items| -> Vec<(Fit, Entry<dyn Architecture>)> {
            let chosen = items.architectures.iter().filter(|entry| choose.is_none_or(|choice| entry.origin.is(choice)));
            chosen.filter_map(|entry| Some((entry.item.recognise(config)?, entry.clone()))).collect()
        };
        let mut fits = fitting(&self.items);
        if choose.is_none() {
            fits.extend(self.found(names).flat_map(fitting));
            if fits.iter().all(|(fit, _)| *fit != Fit::Exact) {
                // Nobody names it; some may know its kind.
                let others = |manifest: &Manifest| !names(manifest) && !manifest.architectures.is_empty();
                fits.extend(self.found(others).flat_map(fitting));
            }
        }
        let wanted = || match named.first() {
            Some(name) => format!("the architecture `{name}`"),
            None => "a config.json without `architectures`".to_owned(),
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
        self.items.architectures.iter().any(|entry| entry.origin.is(choice))
    }

    fn supported(&self) -> String {
        let line = |entry: &Entry<dyn Architecture>| format!("  {}: {}", entry.origin, entry.item.names().join(", "));
        let mut lines: Vec<_> = self.items.architectures.iter().map(line).collect();
        lines.extend(self.found.iter().filter(|found| !found.file.manifest.architectures.is_empty()).map(|found| {
            let names: Vec<_> = found.file.manifest.architectures.iter().flatten().map(String::as_str).collect();
            format!("  {}: {}", found.origin, names.join(", "))
        }));
        if lines.is_empty() { "  nothing".to_owned() } else { lines.join("\n") }
    }

    /// The pooling head called `name`, or `PLUGIN:NAME` with a plugin's name or the path of one that is loaded.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn pooling(&self, name: &str) -> Result<Entry<dyn PoolingHead>, PluginsError> {
        let found = self.found(|manifest| declares(&manifest.pooling, &manifest.name, name));
        let all: Vec<_> = [&self.items].into_iter().chain(found).flat_map(|items| &items.pooling).cloned().collect();
        find(&all, "pooling head", name, |item| item.name())
    }

    /// The rewrite called `name`, or `PLUGIN:NAME` with a plugin's name or the path of one that is loaded.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn rewrite(&self, name: &str) -> Result<Entry<dyn GraphRewrite>, PluginsError> {
        let found = self.found(|manifest| declares(&manifest.rewrites, &manifest.name, name));
        let all: Vec<_> = [&self.items].into_iter().chain(found).flat_map(|items| &items.rewrites).cloned().collect();
        find(&all, "rewrite", name, |item| item.name())
    }

    /// Every weight format. Found plugins that declare one are loaded.
    pub fn formats(&self) -> &[Entry<dyn WeightFormat>] {
        self.formats.get_or_init(|| {
            let found = self.found(|manifest| !manifest.formats.is_empty());
            [&self.items].into_iter().chain(found).flat_map(|items| &items.formats).cloned().collect()
        })
    }

    /// Every plugin with what it contributes; found ones, with what they declare.
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
            architectures: names(&self.items.architectures, origin, |item| item.names()),
            pooling: names(&self.items.pooling, origin, |item| vec![item.name()]),
            rewrites: names(&self.items.rewrites, origin, |item| vec![item.name()]),
            formats: names(&self.items.formats, origin, |item| vec![item.name()]),
        };
        let found = self.found.iter().map(|found| Listed::declared(&found.file));
        self.origins.iter().map(listed).chain(found).collect()
    }
}

fn find<T: ?Sized>(
    entries: &[Entry<T>],
    kind: &'static str,
    wanted: &str,
    name_of: impl Fn(&T) -> &str,
) -> Result<Entry<T>, PluginsError> {
    let (plugin, name) = wanted.rsplit_once(':').map_or((None, wanted), |(plugin, name)| (Some(plugin), name));
    let fits = |entry: &&Entry<T>| name_of(&entry.item) == name && plugin.is_none_or(|plugin| entry.origin.is(plugin));
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
            how: "PLUGIN:NAME, or PATH:NAME if the plugins' names are the same",
        }),
    }
}

/// Whether a plugin declares the item that `wanted` asks for, by name or as `PLUGIN:NAME`.
fn declares(items: &[String], plugin: &str, wanted: &str) -> bool {
    let name = wanted.strip_prefix(plugin).and_then(|rest| rest.strip_prefix(':')).unwrap_or(wanted);
    items.iter().any(|item| item == name)
}

#[cfg(all(test, feature = "builtin-plugins"))]
mod tests {
    use super::*;

    #[test]
    fn exactly_these_are_built_in() {
        let listed: Vec<_> =
            Registry::builtin().list().into_iter().map(|p| (p.name, p.source, p.architectures)).collect();
        let expected = [
            ("bert", vec!["BertForSequenceClassification", "BertModel"]),
            ("deberta-v2", vec!["DebertaV2ForSequenceClassification", "DebertaV2Model"]),
            ("distilbert", vec!["DistilBertForSequenceClassification", "DistilBertModel"]),
            ("gpt-oss", vec!["GptOssForCausalLM"]),
            ("gpt2", vec!["GPT2LMHeadModel"]),
            ("granite", vec!["GraniteForCausalLM"]),
            ("internvl", vec!["InternVLForConditionalGeneration"]),
            (
                "llama",
                vec![
                    "LlamaForCausalLM",
                    "LlamaForSequenceClassification",
                    "LlamaModel",
                    "MistralForCausalLM",
                    "MistralForSequenceClassification",
                    "MistralModel",
                ],
            ),
            ("llava", vec!["LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"]),
            ("modernbert", vec!["ModernBertForSequenceClassification", "ModernBertModel"]),
            ("mpnet", vec!["MPNetForSequenceClassification", "MPNetModel"]),
            ("pooling", vec![]),
            ("qwen2", vec!["Qwen2ForCausalLM", "Qwen2ForSequenceClassification", "Qwen2Model"]),
            ("qwen3", vec!["Qwen3ForCausalLM", "Qwen3ForSequenceClassification", "Qwen3Model"]),
            (
                "roberta",
                vec![
                    "RobertaForSequenceClassification",
                    "RobertaModel",
                    "XLMRobertaForSequenceClassification",
                    "XLMRobertaModel",
                ],
            ),
            ("swiftkv", vec!["LlamaSwiftKVForCausalLM"]),
            ("wav2vec2", vec!["Wav2Vec2ForCTC"]),
            ("whisper", vec!["WhisperForConditionalGeneration"]),
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
        for part in ["`FooForCausalLM`", "llama 0.1.0 (built-in): LlamaForCausalLM, ", "--plugin path/to"] {
            assert!(text.contains(part), "expected `{part}` in `{text}`");
        }
    }

    #[test]
    fn names_and_paths_are_told_apart() {
        assert!(is_path("./llama") && is_path("llama.so") && is_path("a/b") && is_path("x.dll"));
        assert!(!is_path("llama") && !is_path("so"));
        let error = Registry::builtin().choose("lama").unwrap_err().to_string();
        assert!(error.contains("`lama`") && error.contains("gpt2, granite, "), "{error}");
    }
}
