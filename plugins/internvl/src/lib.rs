//! The InternVL family: InternVLForConditionalGeneration.
//!
//! The tower, the projector and the language program of [`blocks::vision`](qeff_plugin_api::blocks::vision) once more. What
//! differs from LLaVA: names, a factor on what each part of a layer adds, and that squares of patches become one row.
//! Tiles of an image stand one after the other, so nothing depends on its size.

use qeff_plugin_api::TensorIndex;
use qeff_plugin_api::blocks::decoder::text::TextModel;
use qeff_plugin_api::blocks::vision::{
    self, Names, Patches, Projector, Tower, VISION, language, pixel_shuffle, with_class,
};
use qeff_plugin_api::blocks::{Activation, Bias, Norm};
use qeff_plugin_api::build::{BuildError, Scope, Value};
use qeff_plugin_api::config::{Config, ConfigError};
use qeff_plugin_api::graph::{Dim, Link, Model, NormProduct, PositionLimit, Program, Role, Task};
use qeff_plugin_api::plugin::{Architecture, PluginError, Request};

/// The family.
pub struct InternVl;

qeff_plugin_api::register!(architecture: InternVl);

const NAME: &str = "InternVLForConditionalGeneration";

/// What the tower calls its parts.
const NAMES: Names = Names {
    layers: "encoder.layer",
    norms: ["layernorm_before", "layernorm_after"],
    attention: "attention",
    out: "projection_layer",
    scales: Some(["lambda_1", "lambda_2"]),
};

impl Architecture for InternVl {
    fn names(&self) -> Vec<&str> {
        vec![NAME]
    }

    fn describe(&self, Request { config, tensors }: &Request) -> Result<Model, PluginError> {
        let c = Sizes::read(config)?;
        let programs = vec![see(&c, tensors)?, language(&c.text, tensors, c.token)?];
        let end = |program: &str| (program.to_owned(), vision::EMBEDS.to_owned());
        Ok(Model {
            architecture: NAME.to_owned(),
            task: Task::ImageTextToText,
            positions: Some(PositionLimit { trained: c.text.decoder.rope.positions, hard: false }),
            stale_tensors: vec![".rotary_emb.inv_freq".into()],
            programs,
            links: vec![Link { from: end(VISION), to: end(vision::LANGUAGE) }],
        })
    }
}

struct Sizes {
    tower: Tower,
    /// The norm behind the last layer, if there is one.
    last_norm: Option<Norm>,
    /// Whether the row of the whole image is left out.
    drops_first: bool,
    /// Patches of a square that become one row, in each direction.
    square: u64,
    projector: Projector,
    text: TextModel,
    token: u64,
}

impl Sizes {
    fn read(config: &Config) -> Result<Self, ConfigError> {
        let vision = config.object_or("vision_config", &[])?;
        let hidden = vision.count_or("hidden_size", 1024)?;
        let eps = vision.positive_or("layer_norm_eps", 1e-6)?;
        // One that is a root mean square has a constant of its own where heads are normed.
        let rms = |eps| Norm::Rms { eps, product: NormProduct::AfterCast };
        let norm = match vision.opt_text("norm_type")?.as_deref() {
            None | Some("layer_norm") => Norm::Layer { eps },
            Some("rms_norm") => rms(eps),
            Some(_) => return Err(vision.unsupported("norm_type", "layer_norm or rms_norm")),
        };
        vision.refuse_unless("use_absolute_position_embeddings", &true.into())?;
        vision.refuse_unless("use_mask_token", &false.into())?;
        // These act while training only.
        for field in ["projection_dropout", "layer_scale_init_value", "hidden_dropout_prob", "tie_word_embeddings"] {
            vision.mentions(field);
        }
        let tower = Tower {
            layers: vision.layers_or("num_hidden_layers", 24)?,
            inner: vision.count_or("intermediate_size", 4096)?,
            heads: vision.count_or("num_attention_heads", 16)?,
            patches: Patches::read(&vision, hidden, [448, 14])?,
            class: true,
            norm,
            head_norm: vision.flag_or("use_qk_norm", false)?.then(|| rms(1e-6)),
            act: Activation::read(&vision, "hidden_act", Activation::Gelu)?,
            bias: vision.flag_or("attention_bias", false)?.into(),
            names: NAMES,
        }
        .check(&vision)?;
        let last = config.whole_numbers_or("vision_feature_layer", &[-1])?;
        if last != [-1] {
            return Err(config.unsupported("vision_feature_layer", "-1, as transformers has no other for this family"));
        }
        let drops_first = match config.opt_text("vision_feature_select_strategy")?.as_deref() {
            None | Some("default") => true,
            _ => return Err(config.unsupported("vision_feature_select_strategy", "`default`: patches fill a square")),
        };
        let ratio = config.positive_or("downsample_ratio", 0.5)?;
        let square = (1.0 / ratio) as u64;
        let [rows, columns] = tower.patches.grid();
        let fits = rows == columns && square >= 1 && rows.is_multiple_of(square) && ratio * square as f32 == 1.0;
        if !fits {
            let expected =
                format!("one over a whole number that divides a square of patches; there are {rows}x{columns}");
            return Err(config.unsupported("downsample_ratio", expected));
        }
        let text = TextModel::read(config, "qwen2")?;
        let projector = Projector {
            norm: Some(Norm::Layer { eps: 1e-5 }),
            act: Activation::read(config, "projector_hidden_act", Activation::Gelu)?,
            bias: Bias::Yes,
            hidden: text.decoder.hidden,
        };
        let token = config.opt_u64("image_token_id")?.unwrap_or(151_667);
        if token >= text.decoder.head.vocab {
            let vocab = text.decoder.head.vocab;
            return Err(config.unsupported("image_token_id", format!("an id below vocab_size = {vocab}")));
        }
        config.mentions("image_seq_length");
        config.flag_or("tie_word_embeddings", false)?;
        // A plain one, whatever the layers have.
        let last_norm = (!vision.flag_or("use_mean_pooling", true)?).then_some(Norm::Layer { eps });
        Ok(Sizes { tower, last_norm, drops_first, square, projector, text, token })
    }
}

/// The vision program.
fn see(c: &Sizes, tensors: &TensorIndex) -> Result<Program, BuildError> {
    let g = vision::program(VISION, tensors);
    let tower = &c.tower;
    let pixels = vision::pixels(&g, &["num_patches"], tower.patches.channels);
    let at = g.at("vision_tower");
    let rows = tower.run(at, embed(tower, at, pixels), &[tower.layers]);
    let Some(&rows) = rows.first() else { return g.finish() };
    let rows = c.last_norm.map_or(rows, |norm| norm.apply(at.at("layernorm"), rows));
    let rows = if c.drops_first { at.slice(rows, 1, 1, i64::MAX, tower.patches.count()) } else { rows };
    let rows = pixel_shuffle(at, rows, tower.patches.grid(), c.square);
    let shown = c.projector.apply(g.at("multi_modal_projector"), rows);
    // Tiles one after the other: to a text, an image is one row of rows.
    let width = c.text.decoder.hidden;
    let dims = [Dim::Fixed(1), "vision_size".into(), Dim::Fixed(width)];
    g.output(vision::EMBEDS, Role::Embeds, at.reshape(shown, &[1, -1, width as i64], dims));
    g.finish()
}

/// Patches behind a row for the whole image, with their positions.
fn embed<'g>(tower: &Tower, at: Scope<'g>, pixels: Value<'g>) -> Value<'g> {
    let e = at.at("embeddings");
    let hidden = tower.hidden();
    let x = tower.patches.embed(e.at("patch_embeddings.projection"), pixels, true);
    let x = with_class(e, x, e.weight_of_shape(e.tensor("cls_token"), &[1, 1, hidden]));
    e.add(x, e.weight_of_shape(e.tensor("position_embeddings"), &[1, tower.rows(), hidden]))
}

qeff_plugin_api::export_plugin! { architectures: [NAME] }
