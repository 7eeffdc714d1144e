//! config.json of the family.

use qeff_plugin_api::blocks::Activation;
use qeff_plugin_api::blocks::decoder::text::TextModel;
use qeff_plugin_api::blocks::vision::{Projector, Tower, clip, feature_layers, siglip};
use qeff_plugin_api::config::{Config, ConfigError};

/// What a model is.
pub(crate) struct Llava {
    pub(crate) encoder: Encoder,
    pub(crate) tower: Tower,
    /// After how many layers of the tower rows are taken, once or several times; they stand side by side.
    pub(crate) after: Vec<u64>,
    /// Whether the first row, CLIP's row of the whole image, is left out.
    pub(crate) drops_first: bool,
    pub(crate) projector: Projector,
    pub(crate) text: TextModel,
    /// The token in whose place rows of images stand.
    pub(crate) token: u64,
    pub(crate) packing: Packing,
}

/// Families of image encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoder {
    Clip,
    Siglip,
}

/// In which order rows are put out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// As they stand (LLaVA).
    None,
    /// By an index that depends on the image's size (LLaVA-Next).
    ByImage,
}

impl Llava {
    pub(crate) fn read(config: &Config, packing: Packing) -> Result<Self, ConfigError> {
        // What a file says that has no `vision_config`.
        const SIZES: &[(&str, u64)] = &[
            ("hidden_size", 1024),
            ("intermediate_size", 4096),
            ("num_hidden_layers", 24),
            ("num_attention_heads", 16),
            ("image_size", 336),
            ("patch_size", 14),
        ];
        let vision = config.object_or("vision_config", if config.has("vision_config") { &[] } else { SIZES })?;
        let (encoder, tower) = match vision.opt_text("model_type")?.as_deref() {
            None | Some("clip_vision_model") => (Encoder::Clip, clip::read(&vision)?),
            Some("siglip_vision_model") => (Encoder::Siglip, siglip::read(&vision)?),
            Some(_) => return Err(vision.unsupported("model_type", "clip_vision_model or siglip_vision_model")),
        };
        // They are about training, or about CLIP's text, of which there is none.
        for field in ["initializer_factor", "projection_dim", "vocab_size", "tie_word_embeddings", "vision_use_head"] {
            vision.mentions(field);
        }
        let text = TextModel::read(config, "llama")?;
        let after = feature_layers(config, tower.layers)?;
        let drops_first = match config.opt_text("vision_feature_select_strategy")?.as_deref() {
            None | Some("default") => true,
            Some("full") => false,
            Some(_) => return Err(config.unsupported("vision_feature_select_strategy", "`default` or `full`")),
        };
        let projector = Projector {
            norm: None,
            act: Activation::read(config, "projector_hidden_act", Activation::Gelu)?,
            bias: config.flag_or("multimodal_projector_bias", true)?.into(),
            hidden: text.decoder.hidden,
        };
        let token = match config.opt_u64("image_token_index")? {
            Some(token) => token,
            // As later versions of transformers call it.
            None => config.opt_u64("image_token_id")?.unwrap_or(32_000),
        };
        if token >= text.decoder.head.vocab {
            let vocab = text.decoder.head.vocab;
            return Err(config.unsupported("image_token_index", format!("an id below vocab_size = {vocab}")));
        }
        // They say how many image tokens a prompt has, and which grids an image may get: what the host asks the processor.
        for field in ["image_seq_length", "image_grid_pinpoints", "use_image_newline_parameter"] {
            config.mentions(field);
        }
        // The last says whether weights of the whole are shared; those of the text are by its own config.
        config.flag_or("tie_word_embeddings", false)?;
        let llava = Llava { encoder, tower, after, drops_first, projector, text, token, packing };
        if packing == Packing::ByImage && llava.rows() != llava.tower.patches.count() {
            let rows = if llava.tower.class { "default" } else { "full" };
            return Err(config.unsupported(
                "vision_feature_select_strategy",
                format!("`{rows}`, since tiles are packed by their patches, one row each"),
            ));
        }
        if packing == Packing::ByImage && llava.tower.patches.image[0] != llava.tower.patches.image[1] {
            return Err(vision.unsupported("image_size", "one number: tiles are square"));
        }
        Ok(llava)
    }

    /// Rows of a tile.
    pub(crate) fn rows(&self) -> u64 {
        self.tower.rows().saturating_sub(u64::from(self.drops_first))
    }
}
