//! A checkpoint as it lies in a folder, or in one GGUF file: config, generation defaults, weights, tokenizer.
//!
//! The parts are optional to different verbs (an export needs no tokenizer, a run by ids needs none either), so each is
//! opened when it is asked for, and complains then.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use fs_err as fs;
use qeff_core::weights::gguf::Header;
use qeff_core::weights::quantised::Quantization;
use qeff_core::weights::{Checkpoint as Weights, CheckpointError};
use qeff_plugin_api::config::Config;
use qeff_plugin_api::plugin::WeightFormat;
use serde_json::Value as Json;

use crate::foreign;
use crate::gguf;
use crate::plugins::Entry;
use crate::text::Tokenizer;

/// Largest config file that is read: the hub's are a few kilobytes.
const MAX_CONFIG: u64 = 16 << 20;

/// Files in which older tools left what belongs into `quantization_config` of config.json, and the method of the tool.
const QUANTIZATION_FILES: &[(&str, &str)] = &[("quantize_config.json", "gptq"), ("quant_config.json", "awq")];

/// A folder with a checkpoint, or a GGUF file.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder, or the file.
    pub dir: PathBuf,
    /// config.json.
    pub config: Config,
    /// Weight files; of a quantised checkpoint, with its logical tensors.
    pub weights: Weights,
    /// How the weights were quantised, if config.json says that they were.
    pub quantization: Option<Quantization>,
    eos: Vec<u32>,
    /// Tensors that are part of the config, not of the model.
    consumed: Vec<String>,
}

impl Checkpoint {
    /// Opens the config and the weights of `dir`, a folder or a GGUF file.
    ///
    /// # Errors
    /// If either is missing or malformed.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_with(dir, &[])
    }

    /// The same for a folder whose weights may be in a format of plugins, which are asked if there is no safetensors file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(dir: &Path, formats: &[Entry<dyn WeightFormat>]) -> Result<Self> {
        if !dir.exists() {
            bail!(
                "there is no checkpoint at {}: give the folder that holds config.json and the weights, or a .gguf file",
                dir.display()
            );
        }
        if is_gguf(dir) {
            return Self::open_gguf(dir);
        }
        if !dir.is_dir() {
            bail!(
                "{} is a file: give the folder that holds config.json and the weights, or a .gguf file",
                dir.display()
            );
        }
        let text = read_json_text(&dir.join("config.json"))?
            .with_context(|| format!("{} has no config.json: is it a checkpoint folder?", dir.display()))?;
        let cannot = || format!("cannot read {}", dir.join("config.json").display());
        let config = match quantization_file(dir, &text)? {
            Some((file, text)) => {
                let config = Config::parse(&text)?;
                Quantization::read(&config).with_context(|| format!("{file} stands in for `quantization_config`"))?;
                config
            }
            None => Config::parse(&text).with_context(cannot)?,
        };
        let quantization = Quantization::read(&config).with_context(cannot)?;
        let generation = match read_json_text(&dir.join("generation_config.json"))? {
            Some(text) => serde_json::from_str(&text)
                .with_context(|| format!("{} is not JSON", dir.join("generation_config.json").display()))?,
            None => Json::Null,
        };
        let eos = eos_ids(&generation, "generation_config.json")?;
        let eos = match eos {
            Some(ids) => ids,
            // transformers falls back on the model's own config.
            None => eos_ids(&serde_json::from_str(&text)?, "config.json")?.unwrap_or_default(),
        };
        let explained = |error: CheckpointError| match &error {
            CheckpointError::Header { path, .. } if is_lfs_pointer(path) => {
                anyhow!("{} is a git-lfs pointer, not the weights: fetch them with `git lfs pull`", path.display())
            }
            _ => error.into(),
        };
        let weights = match Weights::open(dir) {
            Err(error @ (CheckpointError::NoWeights { .. } | CheckpointError::PytorchOnly { .. })) => {
                foreign::open(dir, formats)?.ok_or(error)
            }
            opened => opened,
        };
        let weights = weights.and_then(|weights| weights.dequantised(quantization.as_ref())).map_err(explained)?;
        Ok(Checkpoint { dir: dir.to_owned(), config, weights, quantization, eos, consumed: vec![] })
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let weights = Weights::open_gguf(path)?;
        let read = || -> Result<_> {
            let from = gguf::read(&header(&weights)?, &weights)?;
            Ok((Config::parse(&from.config.to_string())?, from))
        };
        let (config, from) = read().with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Checkpoint {
            dir: path.to_owned(),
            config,
            weights,
            quantization: None,
            eos: from.eos,
            consumed: from.consumed,
        })
    }

    /// Whether a stored tensor is part of the config, so that a model need not read it.
    pub fn consumes(&self, tensor: &str) -> bool {
        self.consumed.iter().any(|name| name == tensor)
    }

    /// Ids that end a sequence.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// If there is none, or it is malformed.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        self.opt_tokenizer()?.with_context(|| {
            if !self.dir.is_dir() {
                return format!("{} has no vocabulary, so text cannot be encoded: give ids with --prompt-ids", self.dir.display());
            }
            format!(
                "{} has no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with merges.txt), so text cannot be \
                 encoded: add one, or give ids with --prompt-ids",
                self.dir.display()
            )
        })
    }

    /// The tokenizer, if there is one.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn opt_tokenizer(&self) -> Result<Option<Tokenizer>> {
        if self.dir.is_dir() {
            return Ok(Tokenizer::open(&self.dir)?);
        }
        Ok(Tokenizer::from_gguf(&self.dir, &header(&self.weights)?)?)
    }
}

/// Whether a file is what git-lfs leaves where it did not fetch: the commonest of all broken weights.
fn is_lfs_pointer(path: &Path) -> bool {
    const BEGINNING: &[u8] = b"version https://git-lfs.github.com/";
    let mut head = [0; BEGINNING.len()];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok_and(|()| head == *BEGINNING)
}

/// Whether a path leads to a GGUF file: by its name, or by its first bytes where a cache calls it by a hash.
fn is_gguf(path: &Path) -> bool {
    let marked = || {
        let mut mark = [0; 4];
        fs::File::open(path).and_then(|mut file| file.read_exact(&mut mark)).is_ok() && &mark == b"GGUF"
    };
    path.is_file() && (path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) || marked())
}

/// The header of the GGUF file that `weights` are.
fn header(weights: &Weights) -> Result<Header<'_>> {
    let file = weights.files().first().context("a GGUF file has one file")?;
    Ok(Header::read(file.mapping().all())?)
}

/// For a config without `quantization_config`: the file beside it that says how the weights are quantised, and the config
/// with what the file says. `None` if there is no such file.
fn quantization_file(dir: &Path, config: &str) -> Result<Option<(&'static str, String)>> {
    let Ok(Json::Object(mut config)) = serde_json::from_str(config) else { return Ok(None) };
    let says = |field: &str| config.get(field).is_some_and(|value| !value.is_null());
    if says("quantization_config") || says("compression_config") {
        return Ok(None);
    }
    for &(file, method) in QUANTIZATION_FILES {
        let Some(text) = read_json_text(&dir.join(file))? else { continue };
        let mut json: Json =
            serde_json::from_str(&text).with_context(|| format!("{} is not JSON", dir.join(file).display()))?;
        let Some(fields) = json.as_object_mut() else {
            bail!("{} holds no object; expected the fields of `quantization_config`", dir.join(file).display());
        };
        fields.entry("quant_method").or_insert_with(|| method.into());
        config.insert("quantization_config".into(), json);
        return Ok(Some((file, Json::Object(config).to_string())));
    }
    Ok(None)
}

/// The text of a JSON file, `None` if there is no such file.
pub(crate) fn read_json_text(path: &Path) -> Result<Option<String>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
        Ok(meta) if meta.len() > MAX_CONFIG => {
            bail!("{} has {} bytes; expected a config file of at most {MAX_CONFIG}", path.display(), meta.len())
        }
        Ok(_) => {}
    }
    let bytes = fs::read(path)?;
    let text = String::from_utf8(bytes)
        .map_err(|error| anyhow::anyhow!("{} is not UTF-8: {}", path.display(), error.utf8_error()))?;
    Ok(Some(text))
}

/// `eos_token_id`: a number or a list of them.
fn eos_ids(json: &Json, file: &str) -> Result<Option<Vec<u32>>> {
    let id = |value: &Json| {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .with_context(|| format!("{file}: `eos_token_id`: expected a token id or a list of them, found {value}"))
    };
    match json.get("eos_token_id") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Array(ids)) => ids.iter().map(id).collect::<Result<Vec<_>>>().map(Some),
        Some(value) => Ok(Some(vec![id(value)?])),
    }
}
