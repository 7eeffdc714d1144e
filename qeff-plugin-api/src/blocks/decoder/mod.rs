//! The decoder most families are a difference from: rotary positions, RMS norms, gated feed-forward, one slot a layer.
//!
//! What the families agree on is here: the sizes that config.json states ([`Decoder::read`]), the walk from token ids to
//! logits around the layers ([`Decoder::model`]), and the parts of a layer ([`Layer`]). What a layer *is*, each family
//! writes itself, in the five lines of its paper:
//!
//! ```
//! # use qeff_plugin_api::blocks::{Attn, Bias, decoder::Layer};
//! # use qeff_plugin_api::build::Value;
//! # fn layer<'g>(l: Layer<'_, 'g>, h: Value<'g>, how: Attn, bias: Bias) -> Value<'g> {
//! let x = l.norm("input_layernorm", h);
//! let h = l.add(h, l.attend(l.heads(x, bias), how, bias));
//! let x = l.norm("post_attention_layernorm", h);
//! l.add(h, l.mlp(x, bias))
//! # }
//! ```
//!
//! So a norm more, a factor on the residual or another order of the parts is a line that stands in that family and in no
//! other. This module has no switch for any of them.

mod gguf;
mod purpose;
pub mod text;

pub use purpose::Purpose;

use purpose::Keys;

use super::rope::RopeDefaults;
use super::{Activation, Attn, Bias, Linear, Norm, Rope, RopeConfig, embed, linear, lm, mlp, rotary};
use crate::TensorIndex;
use crate::build::{BuildError, GgufNames, GraphBuilder, Kv, Scope, Slot, Value};
use crate::config::{Config, ConfigError};
use crate::graph::{Embedding, Model, NormProduct, PositionLimit};

/// Scope of the embedding, and of the head where the two are one.
const EMBEDDING: &str = "model.embed_tokens";

/// The sizes of a decoder and its two ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoder {
    /// What the model is for.
    pub purpose: Purpose,
    /// Number of layers.
    pub layers: u64,
    /// Width between the layers.
    pub hidden: u64,
    /// Width within the feed-forward part.
    pub inner: u64,
    /// Query heads.
    pub heads: u64,
    /// Key-value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// What each layer attends to: a full slot of its own, unless the family says otherwise.
    pub caches: Vec<Cache>,
    /// Every norm.
    pub norm: Norm,
    /// Activation of the feed-forward part.
    pub act: Activation,
    /// Rotary positions.
    pub rope: RopeConfig,
    /// How token ids are read.
    pub embedding: Embedding,
    /// The projection to the vocabulary.
    pub head: lm::Head<'static>,
    /// See [`Defaults::gguf_pairs`].
    pub gguf_pairs: bool,
}

/// What a layer attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// A slot that it writes.
    Own(Kv),
    /// The slot of the last layer before it that has its own.
    Borrowed,
}

/// What a family's config class says where the file does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// `vocab_size`.
    pub vocab: u64,
    /// `intermediate_size`.
    pub inner: u64,
    /// `num_key_value_heads`; `None` is one for each query head, which is also what null means.
    pub kv_heads: Option<u64>,
    /// `head_dim`; `None` is the query heads' share of the hidden width.
    pub head_dim: Option<u64>,
    /// `max_position_embeddings`.
    pub positions: u64,
    /// Whether the family's GGUF files keep the rows of queries and keys in the order of interleaved rotary pairs.
    pub gguf_pairs: bool,
}

impl Decoder {
    /// Reads the fields that all families have, under the names they agree on.
    ///
    /// # Errors
    /// If a field is missing, malformed, or does not fit another.
    pub fn read(config: &Config, family: &Defaults) -> Result<Self, ConfigError> {
        let hidden = config.count("hidden_size")?;
        let heads = config.count("num_attention_heads")?;
        let head_dim = match family.head_dim {
            // Such a class takes null for a width, and fails.
            Some(_) if config.mentions("head_dim") => config.count("head_dim")?,
            Some(width) => width,
            None => config.count_or("head_dim", hidden / heads)?,
        };
        let kv_heads = match family.kv_heads {
            Some(count) if !config.mentions("num_key_value_heads") => count,
            _ => config.count_or("num_key_value_heads", heads)?,
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(config.unsupported(
                "num_key_value_heads",
                format!("a divisor of num_attention_heads = {heads}, not {kv_heads}"),
            ));
        }
        let positions = config.count_or("max_position_embeddings", family.positions)?;
        let tied = config.flag_or("tie_word_embeddings", false)?;
        let layers = config.layers("num_hidden_layers")?;
        Ok(Decoder {
            purpose: Purpose::read(config)?,
            layers,
            hidden,
            inner: config.count_or("intermediate_size", family.inner)?,
            heads,
            kv_heads,
            head_dim,
            caches: vec![Cache::Own(Kv::full(kv_heads, head_dim)); layers as usize],
            norm: Norm::Rms { eps: config.positive_or("rms_norm_eps", 1e-6)?, product: NormProduct::AfterCast },
            act: Activation::read(config, "hidden_act", Activation::Silu)?,
            rope: RopeConfig::read(config, &RopeDefaults { head_dim, positions, base: 10_000.0, partial: false })?,
            embedding: Embedding::default(),
            head: lm::Head {
                vocab: config.count_or("vocab_size", family.vocab)?,
                tied_to: tied.then_some(EMBEDDING),
                ..lm::Head::default()
            },
            gguf_pairs: family.gguf_pairs,
        })
    }

    /// Causal attention with the usual factor on query · key: one by the root of the head width.
    pub fn causal(&self) -> Attn {
        Attn::causal((self.head_dim as f32).powf(-0.5))
    }

    /// The model whose layers are `layer`: from what the layer before put out to what the next one takes. What it puts out
    /// in the end follows from [`Decoder::purpose`].
    ///
    /// # Errors
    /// If the description does not fit the checkpoint.
    pub fn model(
        &self,
        architecture: &str,
        tensors: &TensorIndex,
        layer: impl for<'g> Fn(Layer<'_, 'g>, Value<'g>) -> Value<'g>,
    ) -> Result<Model, BuildError> {
        self.model_of(architecture, tensors, |stack| {
            let h = stack.layers().fold(stack.embed(), |h, l| layer(l, h));
            stack.tail(h);
        })
    }

    /// The language model that `walk` describes: from token ids to logits.
    ///
    /// # Errors
    /// If the description does not fit the checkpoint.
    pub fn model_of(
        &self,
        architecture: &str,
        tensors: &TensorIndex,
        walk: impl for<'g> Fn(&Stack<'_, 'g>),
    ) -> Result<Model, BuildError> {
        let of_layer = gguf::of_layer(self);
        let names = GgufNames { modules: gguf::MODULES, layers: "model.layers", of_layer: &of_layer };
        let g = GraphBuilder::new("main", tensors).base_prefix("model").gguf(&names);
        let ids = g.tokens();
        match self.purpose {
            Purpose::Generate => walk(&Stack::open(self, g.root(), (ids, g.positions()))),
            Purpose::Embed | Purpose::Classify { .. } => {
                walk(&Stack::of_texts(self, g.root(), (ids, g.attention_mask())))
            }
        }
        Ok(Model {
            architecture: architecture.to_owned(),
            task: self.purpose.task(),
            positions: Some(PositionLimit { trained: self.rope.positions, hard: false }),
            // Old files carry the inverse frequencies that every reader computes anew.
            stale_tensors: vec![".rotary_emb.inv_freq".into()],
            programs: vec![g.finish()?],
            links: vec![],
        })
    }
}

/// A decoder under description: what its layers share, and the ways in and out.
pub struct Stack<'c, 'g> {
    decoder: &'c Decoder,
    /// Where `model` and the head are.
    root: Scope<'g>,
    /// Token ids, `i64[B, S]`.
    pub ids: Value<'g>,
    /// Their positions, `i64[B, S]`.
    pub positions: Value<'g>,
    rope: Rope<'g>,
    /// Where the keys of each layer are: in a slot, its own or a borrowed one, or in the call.
    keys: Vec<Keys<'g>>,
    /// Of whole texts, 1 for a token and 0 for padding, `i64[B, S]`.
    mask: Option<Value<'g>>,
}

impl<'c, 'g> Stack<'c, 'g> {
    /// A decoder whose `model` and head are below `root`; declares its slots.
    pub fn open(decoder: &'c Decoder, root: Scope<'g>, (ids, positions): (Value<'g>, Value<'g>)) -> Self {
        let g = root.builder();
        let mut slots: Vec<Slot<'g>> = vec![];
        for (layer, cache) in (0..).zip(&decoder.caches) {
            let own = |kv| g.kv(layer, kv);
            slots.push(match (cache, slots.last()) {
                (Cache::Borrowed, Some(&before)) => before,
                (Cache::Borrowed, None) => own(Kv::full(decoder.kv_heads, decoder.head_dim)),
                (Cache::Own(kv), _) => own(*kv),
            });
        }
        let keys = slots.into_iter().map(Keys::Kept).collect();
        let rope = Rope::table(root.at("model"), &decoder.rope);
        Stack { decoder, root, ids, positions, rope, keys, mask: None }
    }

    /// The same over whole texts: nothing is kept, and `mask[B, S]` tells tokens from padding.
    fn of_texts(decoder: &'c Decoder, root: Scope<'g>, (ids, mask): (Value<'g>, Value<'g>)) -> Self {
        let rope = Rope::table(root.at("model"), &decoder.rope);
        let keys = vec![Keys::OfCall(mask); decoder.caches.len()];
        let positions = purpose::positions(root.at("model.positions"), mask);
        Stack { decoder, root, ids, positions, rope, keys, mask: Some(mask) }
    }

    /// What the first layer takes.
    pub fn embed(&self) -> Value<'g> {
        let Decoder { head, hidden, embedding, .. } = self.decoder;
        embed(self.root.at(EMBEDDING), self.ids, [head.vocab, *hidden], embedding.clone())
    }

    /// The layers in order.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = Layer<'c, 'g>> {
        self.keys.iter().enumerate().map(|(index, &keys)| Layer {
            index,
            decoder: self.decoder,
            scope: self.root.at("model").at(("layers", index as u64)),
            positions: self.positions,
            rope: self.rope,
            keys,
        })
    }

    /// The decoder's norm, with the weight that `model` calls `name`.
    pub fn norm(&self, name: &str, x: Value<'g>) -> Value<'g> {
        self.decoder.norm.apply(self.root.at("model").at(name), x)
    }

    /// The rows of the largest position of each sequence, `[B, 1, N]`, and these positions, `[B, 1]`.
    pub fn last(&self, h: Value<'g>) -> (Value<'g>, Value<'g>) {
        lm::last(self.root.at("select"), h, self.positions)
    }

    /// The way out: last norm, last position, head; of whole texts, what the decoder's purpose asks for.
    pub fn tail(&self, h: Value<'g>) {
        let norm = ("model.norm", self.decoder.norm);
        match self.mask {
            None => lm::tail(self.root, h, self.positions, norm, &self.decoder.head),
            Some(mask) => self.decoder.purpose.finish(self.root, self.norm("norm", h), (self.ids, mask)),
        }
    }

    /// The head alone, over the rows that are to be scored.
    pub fn head(&self, rows: Value<'g>) {
        lm::head(self.root, rows, &self.decoder.head);
    }
}

/// One layer: its place, and all it reads beside the hidden states. Its methods are the parts a layer is made of.
#[derive(Clone, Copy)]
pub struct Layer<'c, 'g> {
    /// Number of the layer, from 0.
    pub index: usize,
    decoder: &'c Decoder,
    scope: Scope<'g>,
    positions: Value<'g>,
    rope: Rope<'g>,
    keys: Keys<'g>,
}

/// What attention works on: queries, keys and values, `[B, S, heads, width]` each.
#[derive(Clone, Copy)]
#[allow(missing_docs)] // the names say it
pub struct Heads<'g> {
    pub q: Value<'g>,
    pub k: Value<'g>,
    pub v: Value<'g>,
}

impl<'g> Layer<'_, 'g> {
    /// A place within the layer.
    pub fn at(self, path: &str) -> Scope<'g> {
        self.scope.at(path)
    }

    /// The decoder's norm, with the weight that this layer calls `name`.
    pub fn norm(self, name: &str, x: Value<'g>) -> Value<'g> {
        self.decoder.norm.apply(self.scope.at(name), x)
    }

    /// The projections `q_proj`, `k_proj`, `v_proj` of `self_attn`.
    pub fn heads(self, x: Value<'g>, bias: Bias) -> Heads<'g> {
        let Decoder { heads, kv_heads, head_dim, .. } = *self.decoder;
        let a = self.scope.at("self_attn");
        let project = |name, heads| linear(a.at(name), x, &Linear::heads(heads, head_dim).bias(bias));
        Heads { q: project("q_proj", heads), k: project("k_proj", kv_heads), v: project("v_proj", kv_heads) }
    }

    /// Turns queries and keys by their positions, keeps keys and values, attends to all that is there, and brings the
    /// answer back to the hidden width by `self_attn.o_proj`.
    pub fn attend(self, Heads { q, k, v }: Heads<'g>, how: Attn, bias: Bias) -> Value<'g> {
        let (a, positions) = (self.scope.at("self_attn"), self.positions);
        let (q, k) = (rotary(a, q, self.rope, positions), rotary(a, k, self.rope, positions));
        let o = self.keys.attend(a, Heads { q, k, v }, positions, how);
        self.out(o, bias)
    }

    /// Keeps keys and values of tokens at `positions`, the keys turned by them.
    pub fn keep(self, k: Value<'g>, v: Value<'g>, positions: Value<'g>) {
        let a = self.scope.at("self_attn");
        self.keys.keep(a, [rotary(a, k, self.rope, positions), v], positions);
    }

    /// The same layer over hidden states at other positions.
    pub fn at_positions(self, positions: Value<'g>) -> Self {
        Layer { positions, ..self }
    }

    /// [`Self::attend`] for queries alone, over what is kept.
    pub fn look(self, q: Value<'g>, how: Attn, bias: Bias) -> Value<'g> {
        let a = self.scope.at("self_attn");
        let o = self.keys.look(a, rotary(a, q, self.rope, self.positions), self.positions, how);
        self.out(o, bias)
    }

    /// What queries found, back at the hidden width.
    fn out(self, o: Value<'g>, bias: Bias) -> Value<'g> {
        linear(self.scope.at("self_attn.o_proj"), o, &Linear::to(self.decoder.hidden).bias(bias))
    }

    /// The gated feed-forward part `mlp`.
    pub fn mlp(self, x: Value<'g>, bias: Bias) -> Value<'g> {
        let Decoder { hidden, inner, act, .. } = *self.decoder;
        mlp::gated(self.scope.at("mlp"), x, inner, act, &Linear::to(hidden).bias(bias))
    }

    /// `a + b`.
    pub fn add(self, a: Value<'g>, b: Value<'g>) -> Value<'g> {
        self.scope.add(a, b)
    }

    /// `x · factor`.
    pub fn scale(self, x: Value<'g>, factor: f32) -> Value<'g> {
        self.scope.scale(x, factor)
    }
}
