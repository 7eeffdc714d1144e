//! config.json of an encoder: the sizes all families have, under the names each of them has for them.

use super::Encoder;
use crate::blocks::{Activation, Norm};
use crate::config::{Config, ConfigError};

/// What a family calls its sizes, and what its config class says where the file does not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fields {
    /// Width between the layers.
    pub hidden: &'static str,
    /// Width within the feed-forward part.
    pub inner: &'static str,
    /// Number of layers.
    pub layers: &'static str,
    /// Number of heads.
    pub heads: &'static str,
    /// Activation of the feed-forward part; gelu where the file does not say.
    pub act: &'static str,
    /// What norms add to the variance.
    pub eps: Eps,
    /// `vocab_size` where the file does not say.
    pub vocab: u64,
    /// `max_position_embeddings` where the file does not say.
    pub positions: u64,
}

/// What norms add to the variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Eps {
    /// A field, and its default.
    Field(&'static str, f32),
    /// A number that no file changes.
    Fixed(f32),
}

impl Fields {
    /// The names that most families have, of a family without words and positions.
    pub const USUAL: Fields = Fields {
        hidden: "hidden_size",
        inner: "intermediate_size",
        layers: "num_hidden_layers",
        heads: "num_attention_heads",
        act: "hidden_act",
        eps: Eps::Field("layer_norm_eps", 1e-12),
        vocab: 0,
        positions: 0,
    };
}

impl Encoder {
    /// Reads the sizes that all families have.
    ///
    /// # Errors
    /// If a field is missing, malformed, does not fit another, or asks for a decoder.
    pub fn read(config: &Config, family: &Fields) -> Result<Self, ConfigError> {
        // Either makes tokens look backwards only, or at another text.
        for field in ["is_decoder", "add_cross_attention"] {
            config.refuse_unless(field, &false.into())?;
        }
        config.refuse("pruned_heads", "none: pruned heads leave layers of different widths")?;
        // There is no head to tie the words to.
        config.pass_over("tie_word_embeddings");
        let architecture = config.texts("architectures")?.into_iter().next().unwrap_or_default();
        let (hidden, heads) = (config.count(family.hidden)?, config.count(family.heads)?);
        if !hidden.is_multiple_of(heads) {
            return Err(config.unsupported(family.heads, format!("a divisor of {} = {hidden}", family.hidden)));
        }
        let eps = match family.eps {
            Eps::Field(field, default) => config.positive_or(field, default)?,
            Eps::Fixed(eps) => eps,
        };
        let positions = config.count_or("max_position_embeddings", family.positions)?;
        let classes = architecture.ends_with("ForSequenceClassification").then(|| classes(config)).transpose()?;
        Ok(Encoder {
            layers: config.layers(family.layers)?,
            hidden,
            inner: config.count(family.inner)?,
            heads,
            vocab: config.count_or("vocab_size", family.vocab)?,
            table: positions,
            positions,
            hard: true,
            norm: Norm::Layer { eps },
            act: Activation::read(config, family.act, Activation::Gelu)?,
            classes,
        })
    }

    /// Positions are counted from `padding + 1`, so that many rows of the table are never a token's.
    ///
    /// # Errors
    /// If no rows are left.
    pub fn number_from(&mut self, config: &Config, padding: u64) -> Result<(), ConfigError> {
        match self.table.checked_sub(padding.saturating_add(1)).filter(|n| *n > 0) {
            Some(positions) => {
                self.positions = positions;
                Ok(())
            }
            None => Err(config.unsupported(
                "max_position_embeddings",
                format!("more than {}: positions are counted from there", padding.saturating_add(1)),
            )),
        }
    }
}

/// The number of classes: as many as `id2label` names, else `num_labels`, else two.
///
/// # Errors
/// If a field is malformed.
pub fn classes(config: &Config) -> Result<u64, ConfigError> {
    let named = config.opt_object("id2label")?.map(|names| {
        config.pass_over("id2label");
        names.keys().count() as u64
    });
    let counted = config.count_or("num_labels", 2)?;
    match named {
        Some(0) => Err(config.unsupported("id2label", "a name for each of one class or more")),
        named => Ok(named.unwrap_or(counted)),
    }
}

/// Refuses positions by distance, which a few old models of the BERT kind have.
///
/// # Errors
/// If the config asks for them.
pub fn refuse_other_positions(config: &Config) -> Result<(), ConfigError> {
    config.refuse_unless("position_embedding_type", &"absolute".into())
}
