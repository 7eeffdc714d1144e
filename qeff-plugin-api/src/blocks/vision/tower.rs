//! The tower: layers over the rows of an image, all of which see each other.
//!
//! CLIP, Siglip and InternVL differ in what goes before the layers, in the names of their parts, and in whether what a
//! part adds is scaled. A norm comes before each part everywhere.

use super::Patches;
use super::patches::with_class;
use crate::blocks::{Activation, Bias, InCall, Linear, Norm, attention_in_call, linear, mlp};
use crate::build::{Scope, Value};
use crate::config::{Config, ConfigError};
use crate::graph::Dim;

/// The sizes of a tower, and what it calls its parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Tower {
    /// Number of layers.
    pub layers: u64,
    /// Width within the feed-forward part.
    pub inner: u64,
    /// Heads.
    pub heads: u64,
    /// How an image becomes rows; their width is that between the layers.
    pub patches: Patches,
    /// Whether a row for the whole image stands before the patches.
    pub class: bool,
    /// Every norm but those of heads.
    pub norm: Norm,
    /// The norm of queries and keys before they are split into heads, if there is one.
    pub head_norm: Option<Norm>,
    /// Activation of the feed-forward part.
    pub act: Activation,
    /// Bias of queries, keys and values.
    pub bias: Bias,
    /// What the parts of a layer are called.
    pub names: Names,
}

/// What a tower calls the parts of its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// The layers, in the tower's scope.
    pub layers: &'static str,
    /// The norms before attention and before the feed-forward part.
    pub norms: [&'static str; 2],
    /// Attention.
    pub attention: &'static str,
    /// The projection out of attention.
    pub out: &'static str,
    /// Factors on what the parts add, `[hidden]` each, if there are any.
    pub scales: Option<[&'static str; 2]>,
}

/// Names of CLIP and Siglip.
const CLIP: Names = Names {
    layers: "encoder.layers",
    norms: ["layer_norm1", "layer_norm2"],
    attention: "self_attn",
    out: "out_proj",
    scales: None,
};

impl Tower {
    /// Width between the layers.
    pub fn hidden(&self) -> u64 {
        self.patches.hidden
    }

    /// Rows of an image.
    pub fn rows(&self) -> u64 {
        self.patches.count().saturating_add(u64::from(self.class))
    }

    /// Refuses heads that do not divide the width.
    ///
    /// # Errors
    /// If they do not.
    pub fn check(self, config: &Config) -> Result<Self, ConfigError> {
        if self.hidden().is_multiple_of(self.heads) {
            return Ok(self);
        }
        Err(config.unsupported("num_attention_heads", format!("a divisor of hidden_size = {}", self.hidden())))
    }

    /// The rows `x[N, rows, hidden]` after each number of layers in `after`, from 0 to all of them, which need not be in
    /// order. Layers after the last of them are left out.
    pub fn run<'g>(&self, at: Scope<'g>, x: Value<'g>, after: &[u64]) -> Vec<Value<'g>> {
        let mut states = vec![x];
        for layer in 0..after.iter().copied().max().unwrap_or(0).min(self.layers) {
            let before = states.last().copied().unwrap_or(x);
            states.push(self.layer(at.at((self.names.layers, layer)), before));
        }
        after.iter().filter_map(|&n| states.get(usize::try_from(n).ok()?).copied()).collect()
    }

    fn layer<'g>(&self, l: Scope<'g>, x: Value<'g>) -> Value<'g> {
        let Names { norms, attention, scales, .. } = self.names;
        let scaled = |part: usize, y: Value<'g>| match scales {
            Some(names) => l.mul(y, l.weight_of_shape(l.tensor(names[part]), &[self.hidden()])),
            None => y,
        };
        let y = self.attend(l.at(attention), self.norm.apply(l.at(norms[0]), x));
        let x = l.add(x, scaled(0, y));
        let spec = Linear::to(self.hidden()).bias(Bias::Yes);
        let y = self.norm.apply(l.at(norms[1]), x);
        let y = mlp::plain(l.at("mlp"), y, self.inner, ["fc1", "fc2"], self.act, &spec);
        l.add(x, scaled(1, y))
    }

    fn attend<'g>(&self, a: Scope<'g>, x: Value<'g>) -> Value<'g> {
        let width = self.hidden() / self.heads;
        let heads = |name, norm: Option<(&str, Norm)>| match norm {
            None => linear(a.at(name), x, &Linear::heads(self.heads, width).bias(self.bias)),
            Some((norm, how)) => {
                let whole = linear(a.at(name), x, &Linear::to(self.hidden()).bias(self.bias));
                split(a, how.apply(a.at(norm), whole), [self.heads, width])
            }
        };
        let normed = |name| self.head_norm.map(|norm| (name, norm));
        let (q, k, v) = (heads("q_proj", normed("q_norm")), heads("k_proj", normed("k_norm")), heads("v_proj", None));
        let o = attention_in_call(a, q, [k, v], InCall::all((width as f32).powf(-0.5)));
        linear(a.at(self.names.out), o, &Linear::to(self.hidden()).bias(Bias::Yes))
    }
}

/// `[N, rows, heads · width]` as `[N, rows, heads, width]`.
fn split<'g>(at: Scope<'g>, x: Value<'g>, heads: [u64; 2]) -> Value<'g> {
    let Some(ty) = x.ty() else { return x };
    let dims = ty.dims.into_iter().take(2).chain(heads.map(Dim::Fixed));
    at.reshape(x, &[0, 0, heads[0] as i64, heads[1] as i64], dims)
}

/// Reads the sizes of a CLIP or Siglip tower.
fn read(config: &Config, class: bool, sizes: [u64; 2], act: Activation, eps: f32) -> Result<Tower, ConfigError> {
    let hidden = config.count_or("hidden_size", 768)?;
    Tower {
        layers: config.layers_or("num_hidden_layers", 12)?,
        inner: config.count_or("intermediate_size", 3072)?,
        heads: config.count_or("num_attention_heads", 12)?,
        patches: Patches::read(config, hidden, sizes)?,
        class,
        norm: Norm::Layer { eps: config.positive_or("layer_norm_eps", eps)? },
        head_norm: None,
        act: Activation::read(config, "hidden_act", act)?,
        bias: Bias::Yes,
        names: CLIP,
    }
    .check(config)
}

/// CLIP's image encoder: its sizes, and its rows before any layer, of `pixels[N, 3, height, width]` in the scope of its
/// `vision_model`.
pub mod clip {
    use super::{Activation, Config, ConfigError, Scope, Tower, Value, with_class};

    /// Reads the sizes.
    ///
    /// # Errors
    /// If a field is malformed, or does not fit another.
    pub fn read(config: &Config) -> Result<Tower, ConfigError> {
        super::read(config, true, [224, 32], Activation::QuickGelu, 1e-5)
    }

    /// Patches behind a row for the whole image, with their positions, normed.
    pub fn embed<'g>(tower: &Tower, at: Scope<'g>, pixels: Value<'g>) -> Value<'g> {
        let e = at.at("embeddings");
        let x = tower.patches.embed(e.at("patch_embedding"), pixels, false);
        let class =
            e.weight_of_shape(e.tensor("class_embedding").reshape([1, 1, tower.hidden()]), &[1, 1, tower.hidden()]);
        let p = e.at("position_embedding");
        let positions = p.weight_of_shape(p.tensor("weight"), &[tower.rows(), tower.hidden()]);
        let x = p.add(with_class(e, x, class), positions);
        // The name is the checkpoints'.
        tower.norm.apply(at.at("pre_layrnorm"), x)
    }
}

/// Siglip's image encoder, likewise.
pub mod siglip {
    use super::{Activation, Config, ConfigError, Scope, Tower, Value};

    /// Reads the sizes.
    ///
    /// # Errors
    /// If a field is malformed, or does not fit another.
    pub fn read(config: &Config) -> Result<Tower, ConfigError> {
        super::read(config, false, [224, 16], Activation::GeluTanh, 1e-6)
    }

    /// Patches with their positions.
    pub fn embed<'g>(tower: &Tower, at: Scope<'g>, pixels: Value<'g>) -> Value<'g> {
        let e = at.at("embeddings");
        let x = tower.patches.embed(e.at("patch_embedding"), pixels, true);
        let p = e.at("position_embedding");
        p.add(x, p.weight_of_shape(p.tensor("weight"), &[tower.rows(), tower.hidden()]))
    }
}

/// The field `vision_feature_layer`: after how many of `layers` the rows are taken, once or several times; negative numbers
/// count from the end, −1 being all of them.
///
/// # Errors
/// If it is neither a number nor a list of them, or names no layer.
pub fn feature_layers(config: &Config, layers: u64) -> Result<Vec<u64>, ConfigError> {
    let named = config.whole_numbers_or("vision_feature_layer", &[-2])?;
    let after = |&n: &i64| {
        let states = i64::try_from(layers).ok()?.checked_add(1)?;
        let index = if n < 0 { n.checked_add(states)? } else { n };
        u64::try_from(index).ok().filter(|&index| index <= layers)
    };
    let all: Option<Vec<u64>> = named.iter().map(after).collect();
    all.filter(|all| !all.is_empty()).ok_or_else(|| {
        config.unsupported("vision_feature_layer", format!("numbers from -{} to {layers}", layers.saturating_add(1)))
    })
}
