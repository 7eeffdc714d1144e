//! How GGUF files call the tensors of the family.

use qeff_plugin_api::build::GgufLayout;

use crate::config::Decoder;

/// Modules outside of layers.
pub(crate) const MODULES: &[(&str, &str)] =
    &[("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Modules of a layer.
pub(crate) fn of_layer(c: &Decoder) -> [(&'static str, &'static str, GgufLayout); 9] {
    [
        ("input_layernorm", "attn_norm", GgufLayout::Same),
        ("self_attn.q_proj", "attn_q", GgufLayout::RotaryPairs { heads: c.heads }),
        ("self_attn.k_proj", "attn_k", GgufLayout::RotaryPairs { heads: c.kv_heads }),
        ("self_attn.v_proj", "attn_v", GgufLayout::Same),
        ("self_attn.o_proj", "attn_output", GgufLayout::Same),
        ("post_attention_layernorm", "ffn_norm", GgufLayout::Same),
        ("mlp.gate_proj", "ffn_gate", GgufLayout::Same),
        ("mlp.up_proj", "ffn_up", GgufLayout::Same),
        ("mlp.down_proj", "ffn_down", GgufLayout::Same),
    ]
}
