use super::*;
use crate::gguf::testing::File;

fn llama(architecture: &str) -> File {
    let key = |name: &str| format!("{architecture}.{name}");
    File::default()
        .text("general.architecture", architecture)
        .whole(&key("block_count"), 2)
        .whole(&key("context_length"), 128)
        .whole(&key("embedding_length"), 32)
        .whole(&key("feed_forward_length"), 64)
        .whole(&key("attention.head_count"), 4)
        .number(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .tensor("token_embd.weight", &[3, 2], &[0.0; 6])
}

fn config(file: &File) -> Result<FromFile> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("x.gguf");
    std::fs::write(&path, file.bytes())?;
    let weights = Weights::open_gguf(&path)?;
    read(&Header::read(weights.files()[0].mapping().all())?, &weights)
}

#[track_caller]
fn check(file: File, expected: Json) {
    let found = config(&file).unwrap().config;
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(found.get(key).unwrap_or(&Json::Null), value, "{key} of {found}");
    }
}

#[track_caller]
fn refuse(file: File, reason: &str) {
    let error = format!("{:#}", config(&file).map(|_| ()).unwrap_err());
    assert!(error.contains(reason), "{error}");
}

#[test]
fn sizes_become_fields() {
    check(
        llama("llama"),
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128,
            "vocab_size": 3, "rms_norm_eps": f64::from(1e-5f32), "rope_theta": 10000.0, "head_dim": null,
            "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false, "rope_scaling": null,
        }),
    );
}

#[test]
fn a_family_is_named_by_what_it_has() {
    let named = |name| json!({"architectures": [name]});
    check(llama("qwen2"), named("Qwen2ForCausalLM"));
    check(llama("qwen3"), named("Qwen3ForCausalLM"));
    check(llama("llama").whole("llama.attention.sliding_window", 8), named("MistralForCausalLM"));
    check(llama("llama").whole("llama.attention.sliding_window", 0), named("LlamaForCausalLM"));
}

#[test]
fn what_differs_from_the_default_is_said() {
    check(
        llama("llama")
            .wholes("llama.attention.head_count_kv", &[2, 2])
            .whole("llama.attention.key_length", 16)
            .whole("llama.attention.value_length", 16)
            .whole("llama.rope.dimension_count", 8)
            .number("llama.rope.freq_base", 5e5)
            .tensor("output.weight", &[3, 2], &[0.0; 6])
            .tensor("blk.0.attn_q.bias", &[2], &[0.0; 2]),
        json!({
            "num_key_value_heads": 2, "head_dim": 16, "partial_rotary_factor": 0.5, "rope_theta": 5e5,
            "tie_word_embeddings": false, "attention_bias": true,
        }),
    );
}

#[test]
fn rotary_rules() {
    let scaled = |kind: &str, factor: f32| {
        llama("llama").text("llama.rope.scaling.type", kind).number("llama.rope.scaling.factor", factor)
    };
    check(scaled("none", 4.0), json!({"rope_scaling": null}));
    check(scaled("linear", 2.5), json!({"rope_scaling": {"rope_type": "linear", "factor": 2.5}}));
    check(
        llama("llama").number("llama.rope.scale_linear", 2.0),
        json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    );
    check(
        scaled("yarn", 4.0).whole("llama.rope.scaling.original_context_length", 32),
        json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}),
    );
    let divided = llama("llama").tensor("rope_freqs.weight", &[4], &[1.0, 1.0, 2.0, 8.0]);
    assert_eq!(config(&divided).unwrap().consumed, ["rope_freqs.weight"]);
    let factors = json!([1.0, 1.0, 2.0, 8.0]);
    let rule =
        json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0});
    check(divided, json!({"rope_scaling": rule}));
}

#[test]
fn every_end_counts_once() {
    let ends =
        |eos, eot| llama("llama").whole("tokenizer.ggml.eos_token_id", eos).whole("tokenizer.ggml.eot_token_id", eot);
    assert_eq!(config(&ends(2, 7)).unwrap().eos, [2, 7]);
    assert_eq!(config(&ends(2, 2)).unwrap().eos, [2]);
}

#[test]
fn what_is_not_expressed_is_refused() {
    let cases = [
        (File::default(), "no `general.architecture`"),
        (File::default().whole("general.architecture", 3), "`general.architecture`: expected a text, found 3"),
        (llama("rwkv"), "architecture `rwkv`"),
        (llama("llama").whole("split.count", 3), "one of 3 parts"),
        (llama("llama").whole("llama.expert_count", 8), "8 experts"),
        (File::default().text("general.architecture", "llama"), "no `llama.attention.head_count`"),
        (llama("llama").wholes("llama.attention.head_count_kv", &[2, 1]), "found a list of 2"),
        (llama("llama").whole("llama.attention.value_length", 5), "keys are 8 wide and values 5"),
        (llama("llama").text("llama.rope.scaling.type", "su"), "expected none, linear or yarn, found \"su\""),
        (llama("llama").text("llama.rope.scaling.type", "yarn"), "no `llama.rope.scaling.factor`"),
        (llama("llama").tensor("rope_freqs.weight", &[2], &[1.0, 0.0]), "holds 0; numbers above 0"),
    ];
    for (file, reason) in cases {
        refuse(file, reason);
    }
}
