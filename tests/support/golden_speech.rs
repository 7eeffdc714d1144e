//! The tensors of checkpoints that listen, as the goldens' configs say they are.

use anyhow::{Context as _, Result};
use serde_json::Value as Json;

/// Names a tensor and its shape.
type Add<'a> = &'a mut dyn FnMut(String, &[u64]);

fn count(config: &Json, field: &str) -> Result<u64> {
    config[field].as_u64().with_context(|| format!("no {field}"))
}

/// A module with a weight of this shape and a bias as long as its first axis.
fn both(add: Add<'_>, name: &str, shape: &[u64]) {
    add(format!("{name}.weight"), shape);
    add(format!("{name}.bias"), &shape[..1]);
}

/// The tensors of a Whisper checkpoint, its head tied.
pub(crate) fn whisper(config: &Json, add: Add<'_>) -> Result<()> {
    let count = |field: &str| count(config, field);
    let hidden = count("d_model")?;
    for (side, positions) in [("encoder", "max_source_positions"), ("decoder", "max_target_positions")] {
        let module = format!("model.{side}");
        add(format!("{module}.embed_positions.weight"), &[count(positions)?, hidden]);
        both(add, &format!("{module}.layer_norm"), &[hidden]);
        let inner = count(&format!("{side}_ffn_dim"))?;
        for i in 0..count(&format!("{side}_layers"))? {
            let layer = format!("{module}.layers.{i}");
            let attentions: &[&str] = if side == "encoder" { &["self_attn"] } else { &["self_attn", "encoder_attn"] };
            for name in attentions {
                add(format!("{layer}.{name}.k_proj.weight"), &[hidden, hidden]);
                for part in ["q_proj", "v_proj", "out_proj"] {
                    both(add, &format!("{layer}.{name}.{part}"), &[hidden, hidden]);
                }
                both(add, &format!("{layer}.{name}_layer_norm"), &[hidden]);
            }
            both(add, &format!("{layer}.fc1"), &[inner, hidden]);
            both(add, &format!("{layer}.fc2"), &[hidden, inner]);
            both(add, &format!("{layer}.final_layer_norm"), &[hidden]);
        }
    }
    add("model.decoder.embed_tokens.weight".into(), &[count("vocab_size")?, hidden]);
    both(add, "model.encoder.conv1", &[hidden, count("num_mel_bins")?, 3]);
    both(add, "model.encoder.conv2", &[hidden, hidden, 3]);
    Ok(())
}

/// The tensors of a wav2vec2 checkpoint whose first convolution alone is normalised.
pub(crate) fn wav2vec2(config: &Json, add: Add<'_>) -> Result<()> {
    let count = |field: &str| count(config, field);
    let list =
        |field: &str| -> Vec<u64> { config[field].as_array().into_iter().flatten().filter_map(Json::as_u64).collect() };
    let (hidden, inner) = (count("hidden_size")?, count("intermediate_size")?);
    let mut channels = 1;
    for (i, (&out, &kernel)) in list("conv_dim").iter().zip(&list("conv_kernel")).enumerate() {
        add(format!("wav2vec2.feature_extractor.conv_layers.{i}.conv.weight"), &[out, channels, kernel]);
        channels = out;
        if i == 0 {
            both(add, "wav2vec2.feature_extractor.conv_layers.0.layer_norm", &[out]);
        }
    }
    both(add, "wav2vec2.feature_projection.layer_norm", &[channels]);
    both(add, "wav2vec2.feature_projection.projection", &[hidden, channels]);
    let (kernel, groups) = (count("num_conv_pos_embeddings")?, count("num_conv_pos_embedding_groups")?);
    let places = "wav2vec2.encoder.pos_conv_embed.conv";
    add(format!("{places}.parametrizations.weight.original0"), &[1, 1, kernel]);
    add(format!("{places}.parametrizations.weight.original1"), &[hidden, hidden / groups, kernel]);
    add(format!("{places}.bias"), &[hidden]);
    both(add, "wav2vec2.encoder.layer_norm", &[hidden]);
    for i in 0..count("num_hidden_layers")? {
        let layer = format!("wav2vec2.encoder.layers.{i}");
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            both(add, &format!("{layer}.attention.{part}"), &[hidden, hidden]);
        }
        both(add, &format!("{layer}.layer_norm"), &[hidden]);
        both(add, &format!("{layer}.feed_forward.intermediate_dense"), &[inner, hidden]);
        both(add, &format!("{layer}.feed_forward.output_dense"), &[hidden, inner]);
        both(add, &format!("{layer}.final_layer_norm"), &[hidden]);
    }
    both(add, "lm_head", &[count("vocab_size")?, hidden]);
    Ok(())
}
