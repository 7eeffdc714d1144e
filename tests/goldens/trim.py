#!/usr/bin/env python3
"""Makes the files of this folder from full recordings: python3 trim.py FOLDER_OF_RECORDINGS

A recording says everything about one export; a golden keeps what a compiler or a runtime can tell from outside, and the
wiring of the custom operators. See README.md.
"""

import json
import sys
from pathlib import Path

CASES = [
    "gpt2", "gpt2+cb", "llama-gqa", "llama-gqa+cb", "llama-gqa+tlm", "llama-gqa+cb+tlm", "llama-gqa+ccl", "llama-tied",
    "llama-rope3", "mistral", "mistral-sw", "qwen2", "qwen2+cb", "qwen3", "granite", "granite+cb", "gpt_oss", "llama-awq", "llama-gptq",
    "llama-gqa+fp16", "llama-swiftkv", "whisper", "wav2vec2",
]
# Everything else in these configs is bookkeeping that no graph depends on.
CONFIG = [
    "architectures", "model_type", "vocab_size", "tie_word_embeddings",
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "max_position_embeddings", "rope_parameters", "rms_norm_eps", "hidden_act", "attention_bias", "mlp_bias",
    "sliding_window", "use_sliding_window", "max_window_layers", "layer_types",
    "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling",
    "n_embd", "n_inner", "n_layer", "n_head", "n_positions", "layer_norm_epsilon", "activation_function",
    "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention",
    "num_local_experts", "num_experts_per_tok", "num_key_value_layers", "key_value_group_size", "swiftkv",
    "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "decoder_layers", "decoder_attention_heads", "decoder_ffn_dim",
    "num_mel_bins", "max_source_positions", "max_target_positions", "scale_embedding",
    "conv_dim", "conv_kernel", "conv_stride", "conv_bias", "feat_extract_norm", "feat_extract_activation", "num_feat_extract_layers",
    "num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "do_stable_layer_norm", "layer_norm_eps", "add_adapter", "adapter_attn_dim",
]


def trimmed(case: str, recording: dict) -> dict:
    (model,) = recording["models"]
    config = model["hashed_export_params"]["config"]
    features = case.split("+")[1:]
    return {
        "case": case,
        "features": {"batching": "cb" in features, "last_k": "tlm" in features}
        | ({"context": True} if "ccl" in features else {})
        | ({"act": "f16"} if "fp16" in features else {}),
        **quantised(model, config),
        "config": {key: config[key] for key in CONFIG if key in config},
        "ir_version": model["ir_version"],
        "opset_import": model["opset_import"],
        "inputs": model["inputs"],
        "outputs": model["outputs"],
        "custom_op_calls": [
            {key: call[key] for key in ("op", "in", "out", "attr") if key in call} for call in model["custom_op_calls"]
        ],
        "functions": [
            {key: function[key] for key in ("domain", "name", "inputs", "outputs", "attributes", "opset_import", "nodes")}
            for function in model["functions"]
        ],
    }


PROGRAMS = ["llava+dual", "llava+single", "llava_next+dual"]
PARTS = ["image_size", "patch_size", "image_token_index", "image_grid_pinpoints", "vision_feature_layer",
         "vision_feature_select_strategy", "projector_hidden_act", "multimodal_projector_bias", "layer_norm_eps", "num_channels"]


def of_programs(case: str, recording: dict) -> dict:
    """Of models with several programs, what can be seen from outside."""
    config = recording["models"][0]["hashed_export_params"]["config"]
    kept = lambda values: {
        key: kept(value) if key in ("text_config", "vision_config") else value
        for key, value in values.items() if key in CONFIG + PARTS + ["text_config", "vision_config"]
    }
    return {
        "case": case,
        "config": kept(config),
        "programs": [
            {key: model[key] for key in ("ir_version", "opset_import", "inputs", "outputs")}
            | {"custom_ops": sorted(call["op"] for call in model["custom_op_calls"])}
            for model in recording["models"]
        ],
    }


def quantised(model: dict, config: dict) -> dict:
    """The length of blocks, and the operands that hold them: name, element type and dimensions."""
    if "quantization_config" not in config:
        return {}
    operands = ("qweight", "scales", "qzeros")
    held = [entry[:3] for entry in model["initializers"] if entry[0].endswith(operands)]
    return {"block": config["quantization_config"]["group_size"], "quantised": sorted(held)}


def written(value, depth=0) -> str:
    """JSON with one fact a line: lists of objects are broken up, everything below them is not."""
    pad = "  " * (depth + 1)
    if isinstance(value, dict) and (depth == 0 or "nodes" in value):
        lines = [f"{pad}{json.dumps(key)}: {written(entry, depth + 1)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + pad[2:] + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(pad + written(entry, depth + 1) for entry in value) + "\n" + pad[2:] + "]"
    return json.dumps(value)


def main() -> None:
    source, here = Path(sys.argv[1]), Path(__file__).parent
    for case in CASES:
        golden = trimmed(case, json.loads((source / f"{case}.json").read_text()))
        text = written(golden) + "\n"
        assert json.loads(text) == golden
        (here / f"{case}.json").write_text(text)
    for case in PROGRAMS:
        golden = of_programs(case, json.loads((source / f"{case}.json").read_text()))
        (here / "programs" / f"{case}.json").write_text(written(golden) + "\n")


main()
