//! Goldens: what the reference wrote for a tiny model (`tests/goldens/README.md`), and the checkpoint it stood for.

use std::borrow::Cow;
use std::ops::Range;

use anyhow::{Context as _, Result, bail};
use qeff_core::passes::Features;
use qeff_core::weights::{BlockLayout, CodeBits, Encoding, SourceError, TensorSource, ZeroPoint};
use qeff_plugin_api::config::Config;
use qeff_plugin_api::{DType, TensorIndex, TensorInfo};
use serde_json::Value as Json;

use crate::golden_speech;
use crate::root;
use crate::scratch::Stored;

/// One recorded export.
#[derive(Debug)]
pub struct Golden {
    /// Name of the case.
    pub name: String,
    /// Passes that stand for what the export was asked for.
    pub features: Features,
    /// Length of the blocks that its projections are stored in, if they are quantised.
    pub block: Option<u64>,
    /// All that was recorded.
    pub facts: Json,
}

/// The tensors of a golden's checkpoint, as far as a lowering asks: there are no numbers.
#[derive(Debug)]
pub struct GoldenTensors {
    index: TensorIndex,
    block: Option<u64>,
}

impl TensorSource for GoldenTensors {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn lend(&self, name: &str, _: Range<u64>) -> Result<Cow<'_, [u8]>, SourceError> {
        Err(SourceError::Missing(name.to_owned()))
    }

    fn encoding(&self, name: &str) -> Option<Encoding<'_>> {
        let length = self.block.filter(|_| name.ends_with("_proj.weight"))?;
        let blocks = BlockLayout { bits: CodeBits::Four, length, zero: ZeroPoint::PerBlock, ordered: false };
        Some(Encoding { name: "recorded".into(), blocks: Some(blocks) })
    }
}

/// Every golden, by name.
pub fn goldens() -> Result<Vec<Golden>> {
    let mut paths: Vec<_> = std::fs::read_dir(root().join("tests/goldens"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let facts: Json = serde_json::from_str(&std::fs::read_to_string(path)?)
                .with_context(|| format!("{} is not JSON", path.display()))?;
            let asked = |feature: &str| facts["features"][feature].as_bool().unwrap_or(false);
            let act = (facts["features"]["act"] == "f16").then_some(DType::F16);
            let features = Features {
                act,
                batching: asked("batching"),
                last_k: asked("last_k"),
                context: asked("context"),
                ..Features::default()
            };
            let name = facts["case"].as_str().context("case without a name")?.to_owned();
            Ok(Golden { name, features, block: facts["block"].as_u64(), facts })
        })
        .collect()
}

impl Golden {
    /// A checkpoint of the config whose weights are all zero.
    pub fn checkpoint(&self) -> Result<tempfile::TempDir> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("config.json"), self.facts["config"].to_string())?;
        let tensors = self.tensors()?;
        let stored: Vec<_> = tensors
            .index()
            .iter()
            .map(|(name, info)| {
                let shape: Vec<usize> = info.shape.iter().map(|&n| n as usize).collect();
                let data = vec![0; 4 * shape.iter().product::<usize>()];
                Stored { name: name.to_owned(), dtype: safetensors::Dtype::F32, shape, data }
            })
            .collect();
        let named = stored.iter().map(|tensor| (tensor.name.as_str(), tensor));
        safetensors::serialize_to_file(named, None, &dir.path().join("model.safetensors"))?;
        Ok(dir)
    }

    /// The config of the exported model.
    pub fn config(&self) -> Result<Config> {
        Ok(Config::parse(&self.facts["config"].to_string())?)
    }

    /// The tensors that a checkpoint with this config has.
    pub fn tensors(&self) -> Result<GoldenTensors> {
        let config = &self.facts["config"];
        let count = |field: &str| config[field].as_u64().with_context(|| format!("{}: no {field}", self.name));
        let mut tensors = TensorIndex::new();
        let mut add = |name: String, shape: &[u64]| {
            tensors.insert(name, TensorInfo { dtype: DType::F32, shape: shape.to_vec() });
        };
        match config["model_type"].as_str() {
            Some(family @ ("llama" | "llama_swiftkv" | "mistral" | "qwen2" | "qwen3" | "granite")) => {
                let (vocab, hidden, inner) = (count("vocab_size")?, count("hidden_size")?, count("intermediate_size")?);
                let heads = count("num_attention_heads")?;
                let width = count("head_dim").unwrap_or(hidden / heads);
                let (q, kv) = (heads * width, count("num_key_value_heads")? * width);
                add("model.embed_tokens.weight".into(), &[vocab, hidden]);
                for i in 0..count("num_hidden_layers")? {
                    let shapes: [(&str, &[u64]); 9] = [
                        ("input_layernorm", &[hidden]),
                        ("self_attn.q_proj", &[q, hidden]),
                        ("self_attn.k_proj", &[kv, hidden]),
                        ("self_attn.v_proj", &[kv, hidden]),
                        ("self_attn.o_proj", &[hidden, q]),
                        ("post_attention_layernorm", &[hidden]),
                        ("mlp.gate_proj", &[inner, hidden]),
                        ("mlp.up_proj", &[inner, hidden]),
                        ("mlp.down_proj", &[hidden, inner]),
                    ];
                    let late = family == "llama_swiftkv" && i >= count("num_key_value_layers")?;
                    let ending = |name: &str| match name {
                        "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" if late => "_swiftkv",
                        _ => "",
                    };
                    for (name, shape) in shapes {
                        add(format!("model.layers.{i}.{name}{}.weight", ending(name)), shape);
                    }
                    let more: &[(&str, u64)] = match family {
                        "qwen2" => &[("q_proj.bias", q), ("k_proj.bias", kv), ("v_proj.bias", kv)],
                        "qwen3" => &[("q_norm.weight", width), ("k_norm.weight", width)],
                        _ => &[],
                    };
                    more.iter().for_each(|(name, n)| add(format!("model.layers.{i}.self_attn.{name}"), &[*n]));
                }
                add("model.norm.weight".into(), &[hidden]);
                if family == "llama_swiftkv" {
                    add("model.norm_swiftkv.weight".into(), &[hidden]);
                }
                if config["tie_word_embeddings"] != true {
                    add("lm_head.weight".into(), &[vocab, hidden]);
                }
            }
            Some("gpt_oss") => {
                let (vocab, hidden, inner) = (count("vocab_size")?, count("hidden_size")?, count("intermediate_size")?);
                let (heads, experts) = (count("num_attention_heads")?, count("num_local_experts")?);
                let width = count("head_dim")?;
                let (q, kv) = (heads * width, count("num_key_value_heads")? * width);
                add("model.embed_tokens.weight".into(), &[vocab, hidden]);
                for i in 0..count("num_hidden_layers")? {
                    let shapes: [(&str, &[u64]); 17] = [
                        ("input_layernorm.weight", &[hidden]),
                        ("self_attn.q_proj.weight", &[q, hidden]),
                        ("self_attn.q_proj.bias", &[q]),
                        ("self_attn.k_proj.weight", &[kv, hidden]),
                        ("self_attn.k_proj.bias", &[kv]),
                        ("self_attn.v_proj.weight", &[kv, hidden]),
                        ("self_attn.v_proj.bias", &[kv]),
                        ("self_attn.o_proj.weight", &[hidden, q]),
                        ("self_attn.o_proj.bias", &[hidden]),
                        ("self_attn.sinks", &[heads]),
                        ("post_attention_layernorm.weight", &[hidden]),
                        ("mlp.router.weight", &[experts, hidden]),
                        ("mlp.router.bias", &[experts]),
                        ("mlp.experts.gate_up_proj", &[experts, hidden, 2 * inner]),
                        ("mlp.experts.gate_up_proj_bias", &[experts, 2 * inner]),
                        ("mlp.experts.down_proj", &[experts, inner, hidden]),
                        ("mlp.experts.down_proj_bias", &[experts, hidden]),
                    ];
                    shapes.iter().for_each(|(name, shape)| add(format!("model.layers.{i}.{name}"), shape));
                }
                add("model.norm.weight".into(), &[hidden]);
                add("lm_head.weight".into(), &[vocab, hidden]);
            }
            Some("gpt2") => {
                let (vocab, hidden, positions) = (count("vocab_size")?, count("n_embd")?, count("n_positions")?);
                add("transformer.wte.weight".into(), &[vocab, hidden]);
                add("transformer.wpe.weight".into(), &[positions, hidden]);
                let mut both = |name: String, shape: &[u64]| {
                    add(format!("{name}.weight"), shape);
                    add(format!("{name}.bias"), &shape[shape.len() - 1..]);
                };
                for i in 0..count("n_layer")? {
                    let shapes: [(&str, &[u64]); 6] = [
                        ("ln_1", &[hidden]),
                        ("attn.c_attn", &[hidden, 3 * hidden]),
                        ("attn.c_proj", &[hidden, hidden]),
                        ("ln_2", &[hidden]),
                        ("mlp.c_fc", &[hidden, 4 * hidden]),
                        ("mlp.c_proj", &[4 * hidden, hidden]),
                    ];
                    shapes.iter().for_each(|(name, shape)| both(format!("transformer.h.{i}.{name}"), shape));
                }
                both("transformer.ln_f".into(), &[hidden]);
            }
            Some("whisper") => golden_speech::whisper(config, &mut add)?,
            Some("wav2vec2") => golden_speech::wav2vec2(config, &mut add)?,
            other => bail!("{}: the tensors of model type {other:?} are not known", self.name),
        }
        Ok(GoldenTensors { index: tensors, block: self.block })
    }
}
