//! Metadata as the fields of config.json.

use anyhow::{Context as _, Result, bail};
use qeff_core::weights::gguf::Header;
use qeff_core::weights::{Checkpoint as Weights, TensorSource as _};
use qeff_plugin_api::DType;
use serde_json::{Map, Value as Json, json};

use super::metadata::Metadata;

/// What a file says beside its weights and its vocabulary.
pub(crate) struct FromFile {
    /// config.json.
    pub(crate) config: Json,
    /// Ids that end a sequence.
    pub(crate) eos: Vec<u32>,
    /// Tensors that became part of the config.
    pub(crate) consumed: Vec<String>,
}

/// Divisors of the rotary frequencies, one each: how these files say what llama3's rule computes.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Longest list of divisors; it has half a head's width.
const MAX_DIVISORS: u64 = 4096;

/// Keys of ids that end a text: of the text, of a turn, of a message.
const ENDS: [&str; 3] = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Reads what is needed of a header whose tensors `weights` are.
pub(crate) fn read(header: &Header<'_>, weights: &Weights) -> Result<FromFile> {
    let metadata = Metadata::new(header)?;
    if let Some(parts) = metadata.whole("split.count")?.filter(|&parts| parts > 1) {
        bail!("the file is one of {parts} parts of a model; join them first (llama-gguf-split --merge)");
    }
    let mut consumed = vec![];
    let mut config = match metadata.architecture {
        "llama" | "qwen2" | "qwen3" => decoder(&metadata, weights, &mut consumed)?,
        "gpt2" => gpt2(&metadata, weights)?,
        other => {
            bail!("the file holds a model of architecture `{other}`; llama, qwen2, qwen3 and gpt2 are read from GGUF")
        }
    };
    let mut eos: Vec<u32> = vec![];
    for key in ENDS {
        if let Some(id) = metadata.whole(key)? {
            let id = u32::try_from(id).with_context(|| format!("metadata `{key}`: {id} is no token id"))?;
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
    }
    config.insert("model_type".into(), metadata.architecture.into());
    config.insert("vocab_size".into(), vocabulary(&metadata, weights)?.into());
    config.insert("tie_word_embeddings".into(), (!weights.index().contains("output.weight")).into());
    if let Some(id) = metadata.whole("tokenizer.ggml.bos_token_id")? {
        config.insert("bos_token_id".into(), id.into());
    }
    if !eos.is_empty() {
        config.insert("eos_token_id".into(), json!(eos));
    }
    Ok(FromFile { config: Json::Object(config), eos, consumed })
}

/// Number of tokens: those that are listed, or else the rows of the embedding.
fn vocabulary(metadata: &Metadata<'_>, weights: &Weights) -> Result<u64> {
    let rows = || weights.index().get("token_embd.weight").and_then(|info| info.shape.first().copied());
    let listed = metadata.length_of("tokenizer.ggml.tokens")?.filter(|&tokens| tokens > 0);
    listed.or_else(rows).context("the file has neither a list of tokens nor an embedding")
}

fn gpt2(metadata: &Metadata<'_>, _: &Weights) -> Result<Map<String, Json>> {
    let eps = metadata.number("attention.layer_norm_epsilon")?;
    Ok(object(json!({
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "layer_norm_epsilon": eps.unwrap_or(1e-5),
        "n_embd": metadata.size("embedding_length")?,
        "n_head": metadata.size("attention.head_count")?,
        "n_inner": metadata.size("feed_forward_length")?,
        "n_layer": metadata.size("block_count")?,
        "n_positions": metadata.size("context_length")?,
    })))
}

/// The decoders that have llama's shape.
fn decoder(metadata: &Metadata<'_>, weights: &Weights, consumed: &mut Vec<String>) -> Result<Map<String, Json>> {
    let window = metadata.whole(&metadata.key("attention.sliding_window"))?.filter(|&window| window > 0);
    let experts = metadata.whole(&metadata.key("expert_count"))?.filter(|&experts| experts > 0);
    let name = match (metadata.architecture, window, experts) {
        (_, _, Some(experts)) => bail!("the model has {experts} experts, which are not read from GGUF"),
        // Mistral is stored as llama; only it slides.
        ("llama", Some(_), _) => "MistralForCausalLM",
        ("llama", None, _) => "LlamaForCausalLM",
        ("qwen2", ..) => "Qwen2ForCausalLM",
        _ => "Qwen3ForCausalLM",
    };
    let heads = metadata.size_of_layers("attention.head_count")?.filter(|&heads| heads > 0);
    let heads = heads.with_context(|| format!("the metadata has no `{}`", metadata.key("attention.head_count")))?;
    let hidden = metadata.size("embedding_length")?;
    let positions = metadata.size("context_length")?;
    let key_length = metadata.whole(&metadata.key("attention.key_length"))?;
    let head_dim = key_length.unwrap_or(hidden / heads);
    let eps = metadata.number("attention.layer_norm_rms_epsilon")?;
    let mut config = object(json!({
        "architectures": [name],
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": metadata.size("feed_forward_length")?,
        "max_position_embeddings": positions,
        "num_attention_heads": heads,
        "num_hidden_layers": metadata.size("block_count")?,
        "num_key_value_heads": metadata.size_of_layers("attention.head_count_kv")?.unwrap_or(heads),
        "rms_norm_eps": eps.with_context(|| {
            format!("the metadata has no `{}`", metadata.key("attention.layer_norm_rms_epsilon"))
        })?,
        "rope_theta": metadata.number("rope.freq_base")?.unwrap_or(10_000.0),
    }));
    if key_length.is_some() {
        config.insert("head_dim".into(), head_dim.into());
    }
    let values = metadata.whole(&metadata.key("attention.value_length"))?.unwrap_or(head_dim);
    if values != head_dim {
        bail!("keys are {head_dim} wide and values {values}; this family has them equally wide");
    }
    if let Some(window) = window.filter(|_| name == "MistralForCausalLM") {
        config.insert("sliding_window".into(), window.into());
    }
    if name == "LlamaForCausalLM" {
        let has = |tensor: &str| weights.index().contains(tensor);
        config.insert("attention_bias".into(), has("blk.0.attn_q.bias").into());
        config.insert("mlp_bias".into(), has("blk.0.ffn_up.bias").into());
    }
    let rotated = metadata.whole(&metadata.key("rope.dimension_count"))?.unwrap_or(head_dim);
    if rotated != head_dim {
        config.insert("partial_rotary_factor".into(), (rotated as f64 / head_dim as f64).into());
    }
    if let Some(rule) = rope_scaling(metadata, weights, consumed)? {
        config.insert("rope_scaling".into(), rule);
    }
    Ok(config)
}

fn rope_scaling(metadata: &Metadata<'_>, weights: &Weights, consumed: &mut Vec<String>) -> Result<Option<Json>> {
    if let Some(divisors) = rope_divisors(weights)? {
        consumed.push(ROPE_DIVISORS.to_owned());
        // The one rule with a divisor for each frequency; with the same ones on either side of its window it has none.
        return Ok(Some(json!({
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "attention_factor": 1.0,
        })));
    }
    let key = metadata.key("rope.scaling.type");
    let old = metadata.number("rope.scale_linear")?;
    let kind = metadata.text(&key)?.or(old.map(|_| "linear")).unwrap_or("none");
    let factor = metadata.number("rope.scaling.factor")?.or(old);
    Ok(match (kind, factor) {
        ("none", _) | ("linear", None | Some(0.0 | 1.0)) => None,
        ("linear", Some(factor)) => Some(json!({"rope_type": "linear", "factor": factor})),
        ("yarn", Some(factor)) => {
            let mut rule = object(json!({"rope_type": "yarn", "factor": factor}));
            if let Some(original) = metadata.whole(&metadata.key("rope.scaling.original_context_length"))? {
                rule.insert("original_max_position_embeddings".into(), original.into());
            }
            for (field, name) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
                if let Some(beta) = metadata.number(&format!("rope.scaling.{name}"))? {
                    rule.insert(field.into(), beta.into());
                }
            }
            // Here it multiplies what the rule computes; in config.json it stands in its place.
            if let Some(attention) = metadata.number("rope.scaling.attn_factor")?.filter(|&x| x != 1.0) {
                rule.insert("attention_factor".into(), (attention * (0.1 * factor.ln() + 1.0)).into());
            }
            Some(Json::Object(rule))
        }
        ("yarn", None) => bail!("metadata `{key}` is yarn, and there is no `{}`", metadata.key("rope.scaling.factor")),
        (other, _) => bail!("metadata `{key}`: expected none, linear or yarn, found {other:?}"),
    })
}

/// The divisors of the rotary frequencies, if the file has any.
fn rope_divisors(weights: &Weights) -> Result<Option<Vec<f32>>> {
    let Some(info) = weights.index().get(ROPE_DIVISORS) else { return Ok(None) };
    let [count] = info.shape[..] else { bail!("`{ROPE_DIVISORS}` has shape {:?}; a list was expected", info.shape) };
    if info.dtype != DType::F32 || count > MAX_DIVISORS {
        bail!("`{ROPE_DIVISORS}` is {}[{count}]; at most {MAX_DIVISORS} f32 were expected", info.dtype);
    }
    let bytes = weights.lend(ROPE_DIVISORS, 0..count)?;
    let divisors: Vec<f32> =
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect();
    match divisors.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
        Some(wrong) => bail!("`{ROPE_DIVISORS}` holds {wrong}; numbers above 0 were expected"),
        None => Ok(Some(divisors)),
    }
}

fn object(json: Json) -> Map<String, Json> {
    match json {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
