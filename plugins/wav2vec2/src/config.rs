//! config.json of the wav2vec2 family, with transformers' defaults for fields a file leaves out.

use qeff_plugin_api::blocks::Activation;
use qeff_plugin_api::config::{Config, ConfigError};

/// How the convolutions that cut samples into frames are normalised.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameNorm {
    /// The first, each channel over time.
    Group,
    /// All of them, each frame over its channels.
    Layer,
}

/// A convolution of the feature extractor.
pub(crate) struct Cut {
    pub(crate) out: u64,
    pub(crate) kernel: u64,
    pub(crate) stride: u64,
}

/// Everything that shapes a model of the family.
pub(crate) struct Wav2Vec2 {
    pub(crate) cuts: Vec<Cut>,
    pub(crate) cut_bias: bool,
    pub(crate) frame_norm: FrameNorm,
    pub(crate) frame_act: Activation,
    pub(crate) hidden: u64,
    pub(crate) layers: u64,
    pub(crate) heads: u64,
    pub(crate) inner: u64,
    pub(crate) act: Activation,
    pub(crate) position_kernel: u64,
    pub(crate) position_groups: u64,
    /// Whether norms come before what they norm for, and one at the end.
    pub(crate) stable: bool,
    pub(crate) eps: f32,
    pub(crate) vocab: u64,
}

/// Of training, and of heads that this architecture does not have.
const INERT: &[&str] = &[
    "activation_dropout",
    "adapter_kernel_size",
    "adapter_stride",
    "apply_spec_augment",
    "classifier_proj_size",
    "codevector_dim",
    "contrastive_logits_temperature",
    "ctc_loss_reduction",
    "ctc_zero_infinity",
    "diversity_loss_weight",
    "feat_extract_dropout",
    "feat_proj_dropout",
    "feat_quantizer_dropout",
    "final_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "layerdrop",
    "mask_channel_length",
    "mask_channel_min_space",
    "mask_channel_other",
    "mask_channel_prob",
    "mask_channel_selection",
    "mask_feature_length",
    "mask_feature_min_masks",
    "mask_feature_prob",
    "mask_time_length",
    "mask_time_min_masks",
    "mask_time_min_space",
    "mask_time_other",
    "mask_time_prob",
    "mask_time_selection",
    "num_adapter_layers",
    "num_codevector_groups",
    "num_codevectors_per_group",
    "num_negatives",
    "output_hidden_size", // of an adapter
    "proj_codevector_dim",
    "tdnn_dilation",
    "tdnn_dim",
    "tdnn_kernel",
    "tie_word_embeddings", // there are no embeddings
    "use_weighted_layer_sum",
    "xvector_output_dim",
];

/// Longest kernel, widest step and most channels of a convolution that anybody means.
const MAX_CUT: f32 = 65_536.0;

impl Wav2Vec2 {
    pub(crate) fn read(config: &Config) -> Result<Self, ConfigError> {
        INERT.iter().for_each(|key| config.pass_over(key));
        config.refuse_unless("add_adapter", &false.into())?;
        config.refuse("adapter_attn_dim", "nothing: adapters of single languages are not supported")?;
        let hidden = config.count_or("hidden_size", 768)?;
        let heads = config.count_or("num_attention_heads", 12)?;
        if !hidden.is_multiple_of(heads) {
            return Err(config.unsupported("num_attention_heads", format!("a divisor of hidden_size = {hidden}")));
        }
        let position_groups = config.count_or("num_conv_pos_embedding_groups", 16)?;
        if !hidden.is_multiple_of(position_groups) {
            let expected = format!("a divisor of hidden_size = {hidden}");
            return Err(config.unsupported("num_conv_pos_embedding_groups", expected));
        }
        let frame_norm = match config.opt_text("feat_extract_norm")?.as_deref() {
            None | Some("group") => FrameNorm::Group,
            Some("layer") => FrameNorm::Layer,
            Some(_) => return Err(config.unsupported("feat_extract_norm", "group or layer")),
        };
        Ok(Wav2Vec2 {
            cuts: cuts(config)?,
            cut_bias: config.flag_or("conv_bias", false)?,
            frame_norm,
            frame_act: Activation::read(config, "feat_extract_activation", Activation::Gelu)?,
            hidden,
            layers: config.layers_or("num_hidden_layers", 12)?,
            heads,
            inner: config.count_or("intermediate_size", 3072)?,
            act: Activation::read(config, "hidden_act", Activation::Gelu)?,
            position_kernel: config.count_or("num_conv_pos_embeddings", 128)?,
            position_groups,
            stable: config.flag_or("do_stable_layer_norm", false)?,
            eps: config.positive_or("layer_norm_eps", 1e-5)?,
            vocab: config.count_or("vocab_size", 32)?,
        })
    }
}

fn cuts(config: &Config) -> Result<Vec<Cut>, ConfigError> {
    let list = |key: &str, default: &[f32]| {
        let numbers = if config.has(key) { config.numbers(key)? } else { default.to_vec() };
        let fits = |n: &f32| n.fract() == 0.0 && (1.0..=MAX_CUT).contains(n);
        if numbers.is_empty() || !numbers.iter().all(fits) {
            return Err(config.unsupported(key, format!("whole numbers from 1 to {MAX_CUT}")));
        }
        Ok(numbers.into_iter().map(|n| n as u64).collect::<Vec<_>>())
    };
    let dims = list("conv_dim", &[512.0; 7])?;
    let kernels = list("conv_kernel", &[10.0, 3.0, 3.0, 3.0, 3.0, 2.0, 2.0])?;
    let strides = list("conv_stride", &[5.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])?;
    let count = dims.len();
    for (key, found) in [("conv_kernel", kernels.len()), ("conv_stride", strides.len())] {
        if found != count {
            return Err(config.unsupported(key, format!("{count} numbers, as many as conv_dim has")));
        }
    }
    if config.count_or("num_feat_extract_layers", count as u64)? != count as u64 {
        return Err(config.unsupported("num_feat_extract_layers", format!("{count}, as many as conv_dim has")));
    }
    let sizes = dims.into_iter().zip(kernels).zip(strides);
    Ok(sizes.map(|((out, kernel), stride)| Cut { out, kernel, stride }).collect())
}
