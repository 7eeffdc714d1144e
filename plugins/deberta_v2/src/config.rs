//! Fields of config.json that this family alone has.

use qeff_plugin_api::blocks::Activation;
use qeff_plugin_api::blocks::encoder::Encoder;
use qeff_plugin_api::build::{Scope, Value};
use qeff_plugin_api::config::{Config, ConfigError};
use qeff_plugin_api::graph::AttrValue;

/// The farthest distance that is told from others: no text is that long.
pub(crate) const FARTHEST: u64 = 1 << 17;

/// What the family has beside the sizes of an encoder.
pub(crate) struct DebertaV2 {
    /// Width of the embedding.
    pub(crate) embedding: u64,
    /// Whether the embedding has positions in it.
    pub(crate) learned_positions: bool,
    /// Number of segments, if there are any.
    pub(crate) kinds: Option<u64>,
    /// How many terms of distance the scores are scaled for, be there any or not.
    pub(crate) terms: u64,
    /// The terms of distance, if there are any.
    pub(crate) relative: Option<Relative>,
    /// The convolution after the first layer.
    pub(crate) convolution: Option<Convolution>,
    pub(crate) pooler_act: Activation,
}

/// How scores depend on distance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relative {
    /// Rows of the table to either side.
    pub(crate) span: u64,
    /// Number of buckets, of both sides together, if far distances share rows.
    pub(crate) buckets: Option<u64>,
    /// The farthest distance that has a row of its own.
    pub(crate) farthest: u64,
    /// A query with the distance to its key.
    pub(crate) content_to_position: bool,
    /// A key with the distance to its query.
    pub(crate) position_to_content: bool,
    /// Whether distances go through the projections of queries and keys, instead of having their own.
    pub(crate) shared: bool,
    /// Whether the table goes through a norm.
    pub(crate) normed: bool,
}

/// A convolution along the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Convolution {
    kernel: u64,
    groups: u64,
    hidden: u64,
    pub(crate) act: Activation,
}

impl DebertaV2 {
    pub(crate) fn read(config: &Config, c: &Encoder) -> Result<Self, ConfigError> {
        // Of a head that is not described.
        for field in ["legacy", "z_steps"] {
            config.pass_over(field);
        }
        if config.count_or("attention_head_size", c.hidden / c.heads)? != c.hidden / c.heads {
            let expected = format!("{}, hidden_size over num_attention_heads", c.hidden / c.heads);
            return Err(config.unsupported("attention_head_size", expected));
        }
        if config.count_or("pooler_hidden_size", c.hidden)? != c.hidden {
            return Err(config.unsupported("pooler_hidden_size", format!("hidden_size = {}", c.hidden)));
        }
        let kinds = config.opt_u64("type_vocab_size")?.filter(|n| *n > 0);
        let (content_to_position, position_to_content) = terms(config)?;
        let relative = config.flag_or("relative_attention", false)?;
        let relative = relative.then(|| Relative::read(config, c.positions)).transpose()?;
        Ok(DebertaV2 {
            embedding: config.count_or("embedding_size", c.hidden)?,
            learned_positions: config.flag_or("position_biased_input", true)?,
            kinds,
            terms: u64::from(content_to_position) + u64::from(position_to_content),
            relative: relative.map(|relative| Relative { content_to_position, position_to_content, ..relative }),
            convolution: Convolution::read(config, c.hidden)?,
            pooler_act: Activation::read(config, "pooler_hidden_act", Activation::Gelu)?,
        })
    }
}

/// Whether scores have the terms `c2p` and `p2c`: a list, or a text with bars.
fn terms(config: &Config) -> Result<(bool, bool), ConfigError> {
    let listed = match config.opt_text("pos_att_type") {
        Ok(text) => text.map(|text| text.to_lowercase().split('|').map(|term| term.trim().to_owned()).collect()),
        Err(_) => Some(config.texts("pos_att_type")?),
    };
    let listed: Vec<String> = listed.unwrap_or_default();
    if listed.iter().any(|term| !["c2p", "p2c", ""].contains(&term.as_str())) {
        return Err(config.unsupported("pos_att_type", "c2p, p2c or both"));
    }
    let has = |term: &str| listed.iter().any(|listed| listed == term);
    Ok((has("c2p"), has("p2c")))
}

impl Relative {
    fn read(config: &Config, positions: u64) -> Result<Self, ConfigError> {
        let above_0 = |field| Ok(config.opt_i64(field)?.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0));
        let farthest = above_0("max_relative_positions")?.unwrap_or(positions);
        if farthest > FARTHEST {
            return Err(config.unsupported("max_relative_positions", format!("at most {FARTHEST}")));
        }
        let buckets = above_0("position_buckets")?;
        if buckets.is_some_and(|buckets| buckets < 4 || farthest <= buckets / 2 + 1) {
            let expected = format!("4 or more, and less than twice max_relative_positions = {farthest}");
            return Err(config.unsupported("position_buckets", expected));
        }
        let norms = config.opt_text("norm_rel_ebd")?.unwrap_or_else(|| "none".into()).to_lowercase();
        let norms: Vec<_> = norms.split('|').map(str::trim).collect();
        if norms.iter().any(|norm| !["none", "layer_norm", ""].contains(norm)) {
            return Err(config.unsupported("norm_rel_ebd", "none or layer_norm"));
        }
        Ok(Relative {
            span: buckets.unwrap_or(farthest),
            buckets,
            farthest,
            content_to_position: false,
            position_to_content: false,
            shared: config.flag_or("share_att_key", false)?,
            normed: norms.contains(&"layer_norm"),
        })
    }
}

impl Convolution {
    fn read(config: &Config, hidden: u64) -> Result<Option<Self>, ConfigError> {
        let Some(kernel) = config.opt_u64("conv_kernel_size")?.filter(|n| *n > 0) else { return Ok(None) };
        if kernel.is_multiple_of(2) || kernel > 1024 {
            return Err(config.unsupported("conv_kernel_size", "an odd number of positions, at most 1023"));
        }
        let groups = config.count_or("conv_groups", 1)?;
        if !hidden.is_multiple_of(groups) {
            return Err(config.unsupported("conv_groups", format!("a divisor of hidden_size = {hidden}")));
        }
        let act = Activation::read(config, "conv_act", Activation::Tanh)?;
        Ok(Some(Convolution { kernel, groups, hidden, act }))
    }

    /// The convolution of `x[B, hidden, S]`, as long as it.
    pub(crate) fn apply<'g>(&self, at: Scope<'g>, x: Value<'g>) -> Value<'g> {
        let Some(ty) = x.ty() else { return x };
        let weight = at.weight_of_shape(at.tensor("weight"), &[self.hidden, self.hidden / self.groups, self.kernel]);
        let bias = at.weight_of_shape(at.tensor("bias"), &[self.hidden]);
        let side = (self.kernel / 2) as i64;
        let attrs = [
            ("group", AttrValue::Int(self.groups as i64)),
            ("pads", AttrValue::Ints(vec![side, side])),
            ("strides", AttrValue::Ints(vec![1])),
            ("dilations", AttrValue::Ints(vec![1])),
        ];
        at.typed("Conv", &[x, weight, bias], &attrs, ty)
    }
}
