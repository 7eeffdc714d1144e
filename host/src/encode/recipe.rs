//! What a sentence-transformers folder says about its model, read as it is.
//!
//! | file | says |
//! |---|---|
//! | `modules.json` | the steps in order: transformer, pooling, then dense layers and normalisation |
//! | `1_Pooling/config.json` | which poolings, whose vectors stand one after the other |
//! | `2_Dense/config.json` with weights | a projection of the pooled vector |
//! | `sentence_bert_config.json` | the longest text, and whether it is lower-cased first |
//! | `config_sentence_transformers.json` | prompts that stand before a text, by name |
//!
//! The names in brackets are usual; where a step's files are, `modules.json` says.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value as Json;

use super::fields::{count, fields, flag};
use super::stages::{Dense, Stage};
use crate::checkpoint::read_json_text;

/// The file that makes a folder one of sentence-transformers.
pub const FILE: &str = "modules.json";

/// The pooling of a model whose folder says nothing.
pub const DEFAULT_POOLING: &str = "mean";

/// Fields of a pooling's config, in the order in which its vectors are joined, and the heads they mean.
const MODES: &[(&str, &str)] = &[
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_mean_sqrt_len_tokens", "mean-sqrt-len"),
    ("pooling_mode_weightedmean_tokens", "weighted-mean"),
    ("pooling_mode_lasttoken", "last"),
];

/// How a text becomes a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The folder of the transformer itself.
    pub transformer: PathBuf,
    /// Most tokens of a text, special ones included.
    pub longest: Option<usize>,
    /// Whether texts are lower-cased before they become tokens.
    pub lower_case: bool,
    /// Pooling heads whose vectors are joined.
    pub pooling: Vec<String>,
    /// Width of the hidden states that pooling expects, if the folder says it.
    pub width: Option<u64>,
    /// Whether a prompt's tokens take part in pooling.
    pub pools_prompt: bool,
    /// What follows pooling.
    pub stages: Vec<Stage>,
    /// Texts to put before a text, by name.
    pub prompts: BTreeMap<String, String>,
    /// The prompt that is used if nobody names one.
    pub default_prompt: Option<String>,
}

impl Recipe {
    /// The recipe of `dir`; `None` if it is no sentence-transformers folder.
    ///
    /// # Errors
    /// If a file of the recipe is malformed, or asks for a step that there is not.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        if !dir.is_dir() {
            return Ok(None);
        }
        let file = dir.join(FILE);
        let Some(text) = read_json_text(&file)? else { return Ok(None) };
        let modules: Json = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
        let Json::Array(modules) = &modules else {
            bail!("{}: expected a list of modules, found {modules}", file.display());
        };
        let mut recipe = Recipe {
            transformer: dir.to_owned(),
            longest: None,
            lower_case: false,
            pooling: vec![],
            width: None,
            pools_prompt: true,
            stages: vec![],
            prompts: BTreeMap::new(),
            default_prompt: None,
        };
        for (i, module) in modules.iter().enumerate() {
            let at = format!("{}: module {i}", file.display());
            let kind = module["type"].as_str().with_context(|| format!("{at}: expected a `type`, found {module}"))?;
            let path = module["path"].as_str().with_context(|| format!("{at}: expected a `path`, found {module}"))?;
            if Path::new(path).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
                bail!("{at}: `path`: expected a folder within the checkpoint, found {path:?}");
            }
            let folder = if path.is_empty() { dir.to_owned() } else { dir.join(path) };
            // `sentence_transformers.models.Pooling`, or with the module's own file in between.
            match (i, kind.rsplit('.').next().unwrap_or(kind)) {
                (0, "Transformer") => recipe.transformer(folder)?,
                (0, other) => bail!("{at}: `type`: expected a Transformer as the first module, found {other}"),
                (1, "Pooling") => recipe.pooling(&folder.join("config.json"))?,
                (1, other) => bail!("{at}: `type`: expected Pooling as the second module, found {other}"),
                (_, "Normalize") => recipe.stages.push(Stage::Normalise),
                (_, "Dense") => recipe.stages.push(Stage::Dense(Dense::open(&folder)?)),
                (_, other) => bail!(
                    "{at}: `type`: expected Dense or Normalize after pooling, found {other}, which cannot be computed; with \
                     --pooling the folder's own steps are left out"
                ),
            }
        }
        if recipe.pooling.is_empty() {
            bail!("{}: expected a Transformer and a Pooling, found {} modules", file.display(), modules.len());
        }
        recipe.prompts(&dir.join("config_sentence_transformers.json"))?;
        Ok(Some(recipe))
    }

    fn transformer(&mut self, folder: PathBuf) -> Result<()> {
        let file = folder.join("sentence_bert_config.json");
        if let Some(fields) = fields(&file)? {
            self.longest = count(&file, &fields, "max_seq_length")?.and_then(|n| usize::try_from(n).ok());
            self.lower_case = flag(&file, &fields, "do_lower_case", false)?;
        }
        self.transformer = folder;
        Ok(())
    }

    fn pooling(&mut self, file: &Path) -> Result<()> {
        let Some(fields) = fields(file)? else {
            bail!("{} is missing; modules.json names it", file.display());
        };
        self.width = count(file, &fields, "word_embedding_dimension")?;
        self.pools_prompt = flag(file, &fields, "include_prompt", true)?;
        for &(field, head) in MODES {
            // Of a file without the field, the mean is what there is.
            if flag(file, &fields, field, head == DEFAULT_POOLING)? {
                self.pooling.push(head.to_owned());
            }
        }
        let modes = fields.iter().filter(|(field, on)| field.starts_with("pooling_mode") && **on == true);
        for (field, _) in modes {
            if !MODES.iter().any(|(known, _)| known == field) {
                let known: Vec<_> = MODES.iter().map(|(known, _)| *known).collect();
                bail!("{}: `{field}`: expected one of {}", file.display(), known.join(", "));
            }
        }
        if self.pooling.is_empty() {
            bail!("{}: expected a pooling mode that is true, found none", file.display());
        }
        Ok(())
    }

    fn prompts(&mut self, file: &Path) -> Result<()> {
        let Some(fields) = fields(file)? else { return Ok(()) };
        let wrong = |field: &str| {
            let found = &fields[field];
            format!("{}: `{field}`: found {found}", file.display())
        };
        match fields.get("prompts") {
            None | Some(Json::Null) => {}
            Some(Json::Object(prompts)) => {
                for (name, text) in prompts {
                    let text =
                        text.as_str().with_context(|| format!("{}, expected texts by name", wrong("prompts")))?;
                    self.prompts.insert(name.clone(), text.to_owned());
                }
            }
            Some(_) => bail!("{}, expected texts by name", wrong("prompts")),
        }
        match fields.get("default_prompt_name") {
            None | Some(Json::Null) => {}
            Some(Json::String(name)) if self.prompts.contains_key(name) => self.default_prompt = Some(name.clone()),
            Some(_) => bail!("{}, expected the name of a prompt", wrong("default_prompt_name")),
        }
        Ok(())
    }

    /// The text of a prompt by its name, or of the default one; nothing if there is none.
    ///
    /// # Errors
    /// If there is no prompt of that name.
    pub fn prompt(&self, name: Option<&str>) -> Result<&str> {
        let Some(name) = name.or(self.default_prompt.as_deref()) else { return Ok("") };
        self.prompts.get(name).map(String::as_str).with_context(|| {
            let names: Vec<_> = self.prompts.keys().map(String::as_str).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            format!("--prompt-name: expected one of the checkpoint's prompts ({names}), found {name}")
        })
    }
}

#[cfg(test)]
#[path = "recipe_tests.rs"]
mod tests;
