//! How GGUF files call the tensors of these families: they agree on all names, and on all layouts but one.

use super::Decoder;
use crate::build::GgufLayout;

/// Modules outside of layers.
pub(super) const MODULES: &[(&str, &str)] =
    &[("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Modules of a layer.
pub(super) fn of_layer(c: &Decoder) -> [(&'static str, &'static str, GgufLayout); 11] {
    let rotated = |heads| if c.gguf_pairs { GgufLayout::RotaryPairs { heads } } else { GgufLayout::Same };
    [
        ("input_layernorm", "attn_norm", GgufLayout::Same),
        ("self_attn.q_proj", "attn_q", rotated(c.heads)),
        ("self_attn.k_proj", "attn_k", rotated(c.kv_heads)),
        ("self_attn.v_proj", "attn_v", GgufLayout::Same),
        ("self_attn.o_proj", "attn_output", GgufLayout::Same),
        ("self_attn.q_norm", "attn_q_norm", GgufLayout::Same),
        ("self_attn.k_norm", "attn_k_norm", GgufLayout::Same),
        ("post_attention_layernorm", "ffn_norm", GgufLayout::Same),
        ("mlp.gate_proj", "ffn_gate", GgufLayout::Same),
        ("mlp.up_proj", "ffn_up", GgufLayout::Same),
        ("mlp.down_proj", "ffn_down", GgufLayout::Same),
    ]
}
