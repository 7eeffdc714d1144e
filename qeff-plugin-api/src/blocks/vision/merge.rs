//! Rows of images in the places of their tokens.

use super::EMBEDS;
use crate::Elem;
use crate::build::{GraphBuilder, Scope, Slot, Value};
use crate::graph::{Dim, Role, StateKind, Type};

/// What a language program takes of images.
#[derive(Clone, Copy)]
pub struct ImageInputs<'g> {
    embeds: Slot<'g>,
}

impl<'g> ImageInputs<'g> {
    /// Declares the state `vision_embeds: [vision_batch_size, vision_size, hidden]`, which no call changes: rows of all
    /// images of a text, one image after the other.
    pub fn declare(g: &'g GraphBuilder<'g>, hidden: u64) -> Self {
        let ty = Type::new(Elem::Act, ["vision_batch_size".into(), "vision_size".into(), Dim::Fixed(hidden)]);
        ImageInputs { embeds: g.state(EMBEDS, StateKind::Row, [(EMBEDS.to_owned(), ty)]) }
    }
}

/// Declares `image_idx: i64[1, 1]`, how many image tokens earlier calls have had.
pub fn image_index<'g>(g: &'g GraphBuilder<'g>) -> Value<'g> {
    g.input("image_idx", Role::Carry, Elem::I64, [Dim::Fixed(1), Dim::Fixed(1)])
}

/// The embeddings `x[B, S, hidden]` of `ids`, with the next rows of images in the place of each `token`; puts out
/// `image_idx_output`, what the next call gets as `index`. A token for which there is no row keeps its own embedding, as in an
/// answer that names it.
pub fn merge<'g>(
    at: Scope<'g>,
    x: Value<'g>,
    ids: Value<'g>,
    index: Value<'g>,
    images: ImageInputs<'g>,
    token: u64,
) -> Value<'g> {
    let embeds = images.embeds.read(at, 0);
    let Some(hidden) = embeds.ty().and_then(|ty| ty.last().and_then(Dim::fixed)) else { return x };
    let is_image = at.onnx("Equal", &[ids, at.integers(&[token as i64])], &[]);
    let count = at.cumulative_sum(at.cast(is_image, crate::DType::I64), 1);
    let row = at.sub(at.add(count, index), at.integers(&[1]));
    let rows = at.length(embeds, 1);
    let shown = at.onnx("And", &[is_image, at.onnx("Less", &[row, rows], &[])], &[]);
    // Rows of all texts one after the other, so that one number says which.
    let first = at.mul(at.unsqueeze(at.indices(ids, 0), &[1]), rows);
    let place = at.choose(shown, at.add(row, first), at.integers(&[0]));
    let all = at.reshape(embeds, &[-1, hidden as i64], ["vision_rows".into(), Dim::Fixed(hidden)]);
    let found = at.gather(all, place, 0);
    let most = at.reduce("ReduceMax", count, &[0, 1]);
    at.builder().output("image_idx_output", Role::Carry, at.add(index, most));
    at.choose(at.unsqueeze(shown, &[2]), found, x)
}
