//! How a text comes into an encoder, and what goes out.

use super::{Encoder, Layer};
use crate::DType;
use crate::Elem;
use crate::blocks::{Activation, Linear, embed, linear, pool};
use crate::build::{GraphBuilder, Scope, Value};
use crate::graph::{Dim, Embedding, Role};

/// The texts of a call, `[B, S]` tokens of which some are padding, and the place of the encoder in the checkpoint.
#[derive(Clone, Copy)]
pub struct Text<'c, 'g> {
    encoder: &'c Encoder,
    builder: &'g GraphBuilder<'g>,
    base: Scope<'g>,
    /// Token ids, `i64[B, S]`.
    pub ids: Value<'g>,
    /// 1 for a token, 0 for padding, `i64[B, S]`.
    pub mask: Value<'g>,
}

/// When the segments of tokens are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segments {
    /// If the model tells classes apart, as such models are given pairs of texts; a vector is of one text.
    OfClasses,
    /// Never: all tokens are of the first.
    Never,
}

impl<'c, 'g> Text<'c, 'g> {
    pub(super) fn new(builder: &'g GraphBuilder<'g>, encoder: &'c Encoder, base: &str) -> Self {
        let (ids, mask) = (builder.tokens(), builder.attention_mask());
        Text { encoder, builder, base: builder.at(base), ids, mask }
    }

    /// A place within the base model.
    pub fn at(self, path: &str) -> Scope<'g> {
        self.base.at(path)
    }

    /// A place beside the base model.
    pub fn top(self, path: &str) -> Scope<'g> {
        self.builder.at(path)
    }

    /// Number of heads.
    pub fn heads(self) -> u64 {
        self.encoder.heads
    }

    /// Width between the layers.
    pub fn hidden(self) -> u64 {
        self.encoder.hidden
    }

    /// Most tokens of a text, or of those in training if texts are not bounded.
    pub fn longest(self) -> u64 {
        self.encoder.positions
    }

    /// Whether no text can be longer than [`Text::longest`].
    pub fn is_bounded(self) -> bool {
        self.encoder.hard
    }

    /// `a + b`.
    pub fn add(self, a: Value<'g>, b: Value<'g>) -> Value<'g> {
        self.at("embeddings").add(a, b)
    }

    /// The encoder's norm with the tensors at `path`.
    pub fn norm(self, path: &str, x: Value<'g>) -> Value<'g> {
        self.encoder.norm.apply(self.at(path), x)
    }

    // --- what a token is made of

    /// The embedding of each token, `[B, S, N]`, by the table at `path`.
    pub fn words(self, path: &str) -> Value<'g> {
        self.words_of_width(path, self.encoder.hidden)
    }

    /// As [`Text::words`], of a table of another width.
    pub fn words_of_width(self, path: &str, width: u64) -> Value<'g> {
        embed(self.at(path), self.ids, [self.encoder.vocab, width], Embedding::default())
    }

    /// The embedding of each position of `places`, by the table at `path`.
    pub fn learned(self, path: &str, places: Value<'g>) -> Value<'g> {
        self.learned_of_width(path, places, self.encoder.hidden)
    }

    /// As [`Text::learned`], of a table of another width.
    pub fn learned_of_width(self, path: &str, places: Value<'g>, width: u64) -> Value<'g> {
        embed(self.at(path), places, [self.encoder.table, width], Embedding::default())
    }

    /// The embedding of the segment of each token, by the table of `kinds` rows at `path`.
    pub fn segments(self, path: &str, kinds: u64, when: Segments) -> Value<'g> {
        self.segments_of_width(path, kinds, self.encoder.hidden, when)
    }

    /// As [`Text::segments`], of a table of another width.
    pub fn segments_of_width(self, path: &str, kinds: u64, width: u64, when: Segments) -> Value<'g> {
        let at = self.at(path);
        if when == Segments::OfClasses && self.encoder.classes.is_some() && kinds > 1 {
            let dims: [Dim; 2] = ["batch_size".into(), "seq_len".into()];
            let segments = self.builder.input("token_type_ids", Role::Segments, Elem::I64, dims);
            return embed(at, segments, [kinds, width], Embedding::default());
        }
        let table = at.tensor("weight").take(0, 1, kinds, 0..1);
        at.weight_of_shape(table, &[1, width])
    }

    // --- where a token stands

    /// 0, 1, 2 … along the text, whatever is padding: `i64[S]`.
    pub fn places(self) -> Value<'g> {
        self.at("positions").indices(self.ids, 1)
    }

    /// 0, 1, 2 … for each token of each text: `i64[B, S]`; padding before a text is −1.
    pub fn positions(self) -> Value<'g> {
        let at = self.at("positions");
        at.sub(at.cumulative_sum(self.mask, 1), at.integer(1))
    }

    /// `padding + 1`, `padding + 2` … for tokens that are not `padding`, and `padding` for those that are: `i64[B, S]`.
    pub fn numbered(self, padding: u64) -> Value<'g> {
        let at = self.at("positions");
        // A position is below 2³¹, and so is an id.
        let padding = at.integer(padding.min(u64::from(u32::MAX)) as u32);
        let is_padding = at.onnx("Equal", &[self.ids, padding], &[]);
        let kept = at.choose(is_padding, at.integer(0), self.mask);
        at.add(at.mul(at.cumulative_sum(kept, 1), kept), padding)
    }

    // --- what is computed

    /// `layer` of what the layer before put out, for each layer of the list at `path`.
    pub fn layers(self, path: &str, x: Value<'g>, layer: impl Fn(Layer<'c, 'g>, Value<'g>) -> Value<'g>) -> Value<'g> {
        let Text { encoder, mask, .. } = self;
        (0..encoder.layers).fold(x, |h, index| {
            let scope = self.base.at(format!("{path}.{index}"));
            layer(Layer { index: index as usize, encoder, scope, mask }, h)
        })
    }

    /// `x[B, S, N]` with zeros for padding.
    pub fn without_padding(self, path: &str, x: Value<'g>) -> Value<'g> {
        let at = self.at(path);
        let kept = at.unsqueeze(at.cast(self.mask, DType::Bool), &[2]);
        at.choose(kept, x, at.scalar(0.0))
    }

    /// The first token of each text: `[B, N]` of `[B, S, N]`.
    pub fn first(self, h: Value<'g>) -> Value<'g> {
        pool::first(self.top("pool"), h)
    }

    /// The mean of the tokens of each text: `[B, N]` of `[B, S, N]`.
    pub fn mean(self, h: Value<'g>) -> Value<'g> {
        pool::mean(self.top("pool"), h, self.mask)
    }

    // --- what goes out

    /// Declares the output: hidden states, or the classes that `classify` makes of them.
    pub fn finish(self, h: Value<'g>, classify: impl FnOnce(Value<'g>) -> Value<'g>) {
        match self.encoder.classes {
            Some(_) => self.builder.output("logits", Role::Classes, classify(h)),
            None => self.builder.output("output", Role::Hidden, h),
        }
    }

    /// A dense layer of the hidden width before a head, at `path` beside the base model.
    pub fn pooler(self, path: &str, act: Activation, x: Value<'g>) -> Value<'g> {
        let at = self.top(path);
        act.apply(at.at("act"), linear(at, x, &Linear::to(self.encoder.hidden).bias(true)))
    }

    /// The scores of the classes, by the projection at `path` beside the base model.
    pub fn classes(self, path: &str, x: Value<'g>) -> Value<'g> {
        linear(self.top(path), x, &Linear::to(self.encoder.classes.unwrap_or(0)).bias(true))
    }
}
