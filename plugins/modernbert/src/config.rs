//! Fields of config.json that this family alone has.

use qeff_plugin_api::blocks::encoder::Encoder;
use qeff_plugin_api::blocks::{Activation, Bias, Norm, RopeConfig};
use qeff_plugin_api::config::{Config, ConfigError};
use qeff_plugin_api::weight::RopeKind;

/// What the family has beside the sizes of an encoder.
pub(crate) struct ModernBert {
    /// Rotation of layers that look at everything.
    pub(crate) full: RopeConfig,
    /// Rotation of layers that look at their neighbourhood.
    pub(crate) local: RopeConfig,
    /// For each layer, how far it looks to either side if that is limited.
    neighbours: Vec<Option<u64>>,
    pub(crate) attention_bias: Bias,
    pub(crate) mlp_bias: Bias,
    pub(crate) classifier_bias: Bias,
    pub(crate) classifier_act: Activation,
    pub(crate) classes_of_mean: bool,
}

impl ModernBert {
    pub(crate) fn read(config: &Config, c: &mut Encoder) -> Result<Self, ConfigError> {
        let eps = config.positive_or("norm_eps", 1e-5)?;
        if !config.flag_or("norm_bias", false)? {
            c.norm = Norm::LayerWithoutBias { eps };
        }
        // How training went, and heads that are not described.
        for field in ["decoder_bias", "sparse_prediction", "sparse_pred_ignore_index", "reference_compile"] {
            config.pass_over(field);
        }
        for field in ["repad_logits_with_grad", "deterministic_flash_attn", "initializer_cutoff_factor"] {
            config.pass_over(field);
        }
        let (full, local) = bases(config)?;
        let width = c.hidden / c.heads;
        if !width.is_multiple_of(2) {
            return Err(config.unsupported("num_attention_heads", format!("heads of an even width, not {width}")));
        }
        let rope = |base| RopeConfig { kind: RopeKind::Default, base, width, positions: c.positions };
        Ok(ModernBert {
            full: rope(full),
            local: rope(local),
            neighbours: neighbours(config, c.layers)?,
            attention_bias: config.flag_or("attention_bias", false)?.into(),
            mlp_bias: config.flag_or("mlp_bias", false)?.into(),
            classifier_bias: config.flag_or("classifier_bias", false)?.into(),
            classifier_act: Activation::read(config, "classifier_activation", Activation::Gelu)?,
            classes_of_mean: match config.opt_text("classifier_pooling")?.as_deref() {
                None | Some("cls") => false,
                Some("mean") => true,
                Some(_) => return Err(config.unsupported("classifier_pooling", "cls or mean")),
            },
        })
    }

    /// How far a layer looks to either side, if that is limited.
    pub(crate) fn neighbours(&self, layer: usize) -> Option<u64> {
        self.neighbours.get(layer).copied().flatten()
    }
}

/// The bases of the two rotations: two fields in transformers 4, two objects in transformers 5.
fn bases(config: &Config) -> Result<(f32, f32), ConfigError> {
    config.refuse("rope_scaling", "null: this family has no rule that scales its rotary positions")?;
    let full = config.positive_or("global_rope_theta", 160_000.0)?;
    let local = match (config.has("local_rope_theta"), config.mentions("local_rope_theta")) {
        (false, true) => full,
        _ => config.positive_or("local_rope_theta", 10_000.0)?,
    };
    let Some(rules) = config.opt_object("rope_parameters")? else { return Ok((full, local)) };
    let base = |kind: &str, default: f32| {
        let Some(rule) = rules.opt_object(kind)? else { return Ok(default) };
        rule.refuse_unless("rope_type", &"default".into())?;
        rule.positive_or("rope_theta", default)
    };
    Ok((base("full_attention", full)?, base("sliding_attention", local)?))
}

/// Which layers look at their neighbourhood only: all but every n-th, or as a list says.
fn neighbours(config: &Config, layers: u64) -> Result<Vec<Option<u64>>, ConfigError> {
    let side = config.count_or("local_attention", 128)? / 2;
    let every = config.count_or("global_attn_every_n_layers", 3)?;
    let types = config.texts("layer_types")?;
    if types.is_empty() {
        return Ok((0..layers).map(|layer| (layer % every != 0).then_some(side)).collect());
    }
    if types.len() as u64 != layers {
        return Err(config.unsupported("layer_types", format!("num_hidden_layers = {layers} of them")));
    }
    let kind = |kind: &String| match kind.as_str() {
        "full_attention" => Ok(None),
        "sliding_attention" => Ok(Some(side)),
        _ => Err(config.unsupported("layer_types", "each to be full_attention or sliding_attention")),
    };
    types.iter().map(kind).collect()
}
