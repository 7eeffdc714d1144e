//! Values of config.json that a family cannot honour: refused with the field, what was expected and what was found.

use std::collections::BTreeSet;

use qeff::scratch::Scratch;
use qeff_core::lower::Target;
use qeff_core::passes::Features;
use qeff_core::text;
use qeff_host::checkpoint::Checkpoint;
use qeff_host::prepare::prepare;
use qeff_plugin_api::config::Config;
use serde_json::{Value as Json, json};

use crate::{qeff, refusals, snapshot};

/// Spoils config.json of a fixture once for each row, and collects what is said.
fn spoiled(fixture: &str, rows: &[Json]) -> String {
    let names: Vec<_> = rows.iter().map(Json::to_string).collect();
    refusals(names.iter().zip(rows).map(|(name, fields)| {
        let scratch = Scratch::new(fixture);
        scratch.set(fields);
        (name.as_str(), scratch)
    }))
}

#[test]
fn llama() {
    let rows = [
        json!({ "hidden_act": "mish" }),
        json!({ "hidden_act": 3 }),
        json!({ "hidden_size": "(absent)" }),
        json!({ "hidden_size": 0 }),
        json!({ "hidden_size": -32 }),
        json!({ "hidden_size": 32.5 }),
        json!({ "hidden_size": "32" }),
        json!({ "hidden_size": 48 }),
        json!({ "vocab_size": 1_000_000_000_000_u64 }),
        json!({ "vocab_size": 299 }),
        json!({ "intermediate_size": 1e300 }),
        json!({ "intermediate_size": 49 }),
        json!({ "num_hidden_layers": 1_000_000_000_u64 }),
        json!({ "num_hidden_layers": 3 }),
        json!({ "num_attention_heads": 5 }),
        json!({ "num_attention_heads": u64::MAX, "num_key_value_heads": u64::MAX }),
        json!({ "num_attention_heads": i32::MAX, "num_key_value_heads": i32::MAX, "head_dim": i32::MAX - 1 }),
        json!({ "num_key_value_heads": 3 }),
        json!({ "num_key_value_heads": 0 }),
        json!({ "num_key_value_heads": null }),
        json!({ "head_dim": 7 }),
        json!({ "head_dim": 1_000_000 }),
        json!({ "max_position_embeddings": 0 }),
        json!({ "max_position_embeddings": 1_000_000_000_000_u64 }),
        json!({ "rms_norm_eps": 0 }),
        json!({ "rms_norm_eps": "small" }),
        json!({ "attention_bias": "yes" }),
        json!({ "attention_bias": true }),
        json!({ "mlp_bias": true }),
        json!({ "tie_word_embeddings": 1 }),
        json!({ "layer_types": ["full_attention", "sliding_attention"] }),
        json!({ "quantization_config": { "quant_method": "fp8" } }),
        json!({ "compression_config": { "format": "int-quantized" } }),
    ];
    snapshot("config-llama", &spoiled("llama/base", &rows));
}

#[test]
fn rotary() {
    let rows = [
        json!({ "rope_theta": -1 }),
        json!({ "partial_rotary_factor": 0.5 }),
        json!({ "partial_rotary_factor": 2 }),
        json!({ "rope_scaling": "linear" }),
        json!({ "rope_scaling": { "type": "spiral", "factor": 2.0 } }),
        json!({ "rope_scaling": { "rope_type": "mrope" } }),
        json!({ "rope_scaling": { "type": "linear", "rope_type": "dynamic", "factor": 2.0 } }),
        json!({ "rope_scaling": { "type": "linear" } }),
        json!({ "rope_scaling": { "type": "linear", "factor": 0 } }),
        json!({ "rope_scaling": { "type": "dynamic", "factor": "2" } }),
        json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0 } }),
        json!({ "rope_scaling": { "rope_type": "yarn" } }),
        json!({ "rope_scaling": { "type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 2.0, 3.0, 4.0] } }),
        json!({ "rope_parameters": { "rope_type": "linear" } }),
    ];
    snapshot("config-rotary", &spoiled("llama/base", &rows));
}

#[test]
fn mistral() {
    let rows = [
        json!({ "sliding_window": 0 }),
        json!({ "sliding_window": -1 }),
        json!({ "sliding_window": 4096.5 }),
        json!({ "sliding_window": u64::MAX }),
        json!({ "attention_bias": true }),
        json!({ "mlp_bias": true }),
        json!({ "layer_types": ["sliding_attention", "full_attention"] }),
        json!({ "num_key_value_heads": "(absent)" }),
    ];
    snapshot("config-mistral", &spoiled("mistral/base", &rows));
}

#[test]
fn gpt2() {
    let rows = [
        json!({ "add_cross_attention": true }),
        json!({ "pruned_heads": { "0": [1] } }),
        json!({ "activation_function": "mish" }),
        json!({ "n_embd": "(absent)" }),
        json!({ "n_embd": -32 }),
        json!({ "hidden_size": 64 }),
        json!({ "n_head": 3 }),
        json!({ "n_layer": 1_000_000_000_u64 }),
        json!({ "n_layer": 0 }),
        json!({ "n_inner": 0 }),
        json!({ "n_inner": 100 }),
        json!({ "n_positions": 1.5 }),
        json!({ "n_positions": 49 }),
        json!({ "vocab_size": 7 }),
        json!({ "layer_norm_epsilon": -1 }),
        json!({ "scale_attn_weights": "true" }),
        json!({ "scale_attn_by_inverse_layer_idx": 1 }),
        json!({ "reorder_and_upcast_attn": "no" }),
        json!({ "tie_word_embeddings": "yes" }),
        json!({ "quantization_config": { "quant_method": "gptq", "bits": 4 } }),
    ];
    snapshot("config-gpt2", &spoiled("gpt2/base", &rows));
}

#[test]
fn gpt_oss() {
    let rows = [
        json!({ "num_local_experts": 4 }),
        json!({ "num_local_experts": 0 }),
        json!({ "num_experts_per_tok": 6 }),
        json!({ "num_experts_per_tok": 0 }),
        json!({ "num_experts_per_tok": u64::MAX, "num_local_experts": u64::MAX }),
        json!({ "experts_per_token": 3 }),
        json!({ "swiglu_limit": 5.0 }),
        json!({ "swiglu_limit": "7" }),
        json!({ "hidden_act": "gelu" }),
        json!({ "intermediate_size": 21 }),
        json!({ "sliding_window": null }),
        json!({ "sliding_window": null, "layer_types": "(absent)" }),
        json!({ "sliding_window": 0 }),
        json!({ "layer_types": ["sliding_attention", "full_attention"] }),
        json!({ "layer_types": ["sliding_attention", "full_attention", "chunked_attention"] }),
        json!({ "attention_bias": "yes" }),
        json!({ "initial_context_length": "long" }),
        json!({ "quantization_config": { "quant_method": "mxfp4" } }),
    ];
    snapshot("config-gpt-oss", &spoiled("gpt_oss/base", &rows));
}

/// Values that look odd and are right: what transformers makes of them is what we make of them.
#[test]
fn odd_values_that_are_right() {
    let rows = [
        ("llama/base", json!({ "hidden_size": 32.0 })),
        ("llama/base", json!({ "head_dim": null })),
        ("llama/base", json!({ "layer_types": ["full_attention", "full_attention"] })),
        ("llama/base", json!({ "rope_scaling": { "type": "linear", "rope_type": "linear", "factor": 2 } })),
        ("llama/base", json!({ "rope_scaling": {} })),
        ("llama/base", json!({ "quantization_config": null })),
        (
            "llama/base",
            json!({ "rms_norm_eps": "(absent)", "rope_theta": "(absent)", "tie_word_embeddings": "(absent)" }),
        ),
        ("mistral/base", json!({ "attention_bias": false })),
        ("mistral/base", json!({ "sliding_window": null, "layer_types": ["full_attention", "full_attention"] })),
        ("gpt_oss/base", json!({ "swiglu_limit": 7, "experts_per_token": 2, "initial_context_length": 16 })),
        (
            "gpt_oss/base",
            json!({ "rope_scaling": "(absent)", "layer_types": "(absent)", "sliding_window": "(absent)" }),
        ),
        ("gpt_oss/base", json!({ "rope_scaling": null })),
        ("gpt2/base", json!({ "n_embd": "(absent)", "hidden_size": 32 })),
        ("gpt2/base", json!({ "n_head": 7, "num_attention_heads": 4 })),
        ("gpt2/base", json!({ "n_ctx": "(absent)", "n_inner": null })),
    ];
    for (fixture, fields) in rows {
        let scratch = Scratch::new(fixture);
        scratch.set(&fields);
        let outcome = qeff("inspect").model(scratch.dir()).arg("--strict").succeeds();
        assert_eq!(outcome.stderr, "", "{fixture} with {fields}");
    }
}

/// Published configs, with the sizes of a fixture in place of their own: every other field is as it was published.
#[test]
fn published_configs_are_read_whole() {
    let rope3 = json!({
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    });
    let rows = [
        (
            "llama/base",
            "Llama 2",
            json!({
                "_name_or_path": "meta-llama/Llama-2-13b-hf", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
                "eos_token_id": 2, "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 2048,
                "model_type": "llama", "pad_token_id": 0, "pretraining_tp": 2, "rms_norm_eps": 1e-05, "rope_scaling": null,
                "tie_word_embeddings": false, "torch_dtype": "float16", "transformers_version": "4.31.0.dev0",
                "use_cache": true,
            }),
        ),
        (
            "gpt_oss/base",
            "gpt-oss 20B, its weights in bf16",
            json!({
                "architectures": ["GptOssForCausalLM"], "attention_bias": true, "attention_dropout": 0.0,
                "eos_token_id": 200_002, "experts_per_token": 2, "hidden_act": "silu", "initial_context_length": 4096,
                "initializer_range": 0.02, "max_position_embeddings": 131_072, "model_type": "gpt_oss",
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "num_experts_per_tok": 2,
                "num_local_experts": 5, "sliding_window": 128,
                "output_router_logits": false, "pad_token_id": 199_999, "rms_norm_eps": 1e-05,
                "rope_scaling": {
                    "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
                    "rope_type": "yarn", "truncate": false,
                },
                "rope_theta": 150_000, "router_aux_loss_coef": 0.9, "swiglu_limit": 7.0, "tie_word_embeddings": false,
                "transformers_version": "4.55.0.dev0", "use_cache": true,
            }),
        ),
        (
            "llama/tied",
            "Llama 3.2",
            json!({
                "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu",
                "initializer_range": 0.02, "max_position_embeddings": 131_072, "mlp_bias": false, "model_type": "llama",
                "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": rope3, "rope_theta": 500_000.0,
                "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0",
                "use_cache": true,
            }),
        ),
        (
            "llama/tied",
            "SmolLM2",
            json!({
                "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1,
                "eos_token_id": 2, "hidden_act": "silu", "initializer_range": 0.041_666_666_666_666_664,
                "is_llama_config": true, "max_position_embeddings": 8192, "mlp_bias": false, "model_type": "llama",
                "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false,
                "rope_scaling": null, "rope_theta": 100_000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
                "transformers_version": "4.42.3", "use_cache": true,
                "transformers.js_config": { "kv_cache_dtype": { "q4f16": "float16", "fp16": "float16" } },
            }),
        ),
        (
            "mistral/base",
            "Mistral 7B v0.3",
            json!({
                "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
                "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 32768, "model_type": "mistral",
                "rms_norm_eps": 1e-05, "rope_theta": 1_000_000.0, "sliding_window": null, "tie_word_embeddings": false,
                "torch_dtype": "bfloat16", "transformers_version": "4.42.0.dev0", "use_cache": true,
            }),
        ),
        (
            "gpt2/base",
            "GPT-2 medium",
            json!({
                "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
                "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
                "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_special": 0,
                "predict_special_tokens": true, "resid_pdrop": 0.1, "summary_activation": null,
                "summary_first_dropout": 0.1, "summary_proj_to_labels": true, "summary_type": "cls_index",
                "summary_use_proj": true,
                "task_specific_params": { "text-generation": { "do_sample": true, "max_length": 50 } },
            }),
        ),
    ];
    const SIZES: &[&str] = &[
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "n_embd",
        "n_head",
        "n_inner",
        "n_layer",
        "n_positions",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "vocab_size",
    ];
    for (name, model, mut config) in rows {
        let checkpoint = Checkpoint::open(&qeff::fixture(name)).expect("a fixture");
        let own: Json = serde_json::from_str(&checkpoint.config.to_text()).expect("JSON");
        for size in SIZES.iter().filter(|size| own.get(**size).is_some()) {
            config[*size] = own[*size].clone();
        }
        let scratch = Scratch::new(name);
        scratch.write("config.json", config.to_string());
        let outcome = qeff("inspect").model(scratch.dir()).arg("--strict").succeeds();
        assert_eq!(outcome.stderr, "", "{model}");
    }
}

/// Every field with every odd value: honoured or refused, but never a panic, on the way to either target.
#[test]
fn odd_values_never_panic() {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(3),
        json!(-1),
        json!(0.5),
        json!(1e300),
        json!(i32::MAX),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!([]),
        json!([1, "x", null]),
        json!({}),
        json!({ "rope_type": "yarn", "factor": 1e-30 }),
        json!({ "type": "dynamic", "factor": 1e30 }),
        json!({ "rope_type": "llama3", "factor": 1, "low_freq_factor": 1, "high_freq_factor": 1,
                "original_max_position_embeddings": 1 }),
    ];
    let mut refused = 0;
    let mut seen = BTreeSet::new();
    for name in ["llama/base", "mistral/sliding", "gpt2/base", "gpt_oss/base"] {
        let checkpoint = Checkpoint::open(&qeff::fixture(name)).expect("a fixture");
        let config: Json = serde_json::from_str(&checkpoint.config.to_text()).expect("JSON");
        let fields = config.as_object().expect("an object").keys().map(String::as_str);
        let absent = ["layer_types", "partial_rotary_factor", "rope_parameters", "quantization_config"];
        for field in fields.chain(absent) {
            for value in &values {
                let mut config = config.clone();
                config[field] = value.clone();
                let config = Config::parse(&config.to_string()).expect("an object");
                let Ok(model) = qeff::describe_with(&config, checkpoint.weights.index()) else {
                    refused += 1;
                    continue;
                };
                // Most fields change nothing: what is the same need not be lowered again.
                if !seen.insert(text::print(&model)) {
                    continue;
                }
                for target in [Target::Aic, Target::Cpu] {
                    let features = Features { last_k: true, batching: true, reach: 100, ..Features::default() };
                    prepare(model.clone(), checkpoint.weights.index(), &features, target)
                        .unwrap_or_else(|error| panic!("{name} with {field} = {value}: {error:#}"));
                }
            }
        }
    }
    assert!(refused > 500, "{refused}");
}
