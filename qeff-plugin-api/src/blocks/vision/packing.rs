//! Tiles of an image in one order of rows, which depends on the size of the image.
//!
//! The order comes in as an index that the host computes, so that one program serves every size. For a target that wants
//! it fixed, a pass puts the numbers into the program.

use super::EMBEDS;
use crate::Elem;
use crate::build::{GraphBuilder, Scope, Value};
use crate::graph::{Dim, Role};

/// Declares `packing: i64[vision_size]`: for each row of the packed image, its place among the rows of all tiles, tile after
/// tile; a line break is the row after the last.
pub fn packing_input<'g>(g: &'g GraphBuilder<'g>) -> Value<'g> {
    g.input("packing", Role::Packing, Elem::I64, ["vision_size".into()])
}

/// Puts out rows of `tiles[T, rows, width]`, and `line_break[width]` between them, in the order of `packing`, as
/// `[1, vision_size, width]`.
pub fn packed<'g>(at: Scope<'g>, tiles: Value<'g>, line_break: Value<'g>, packing: Value<'g>) {
    let Some(width) = tiles.ty().and_then(|ty| ty.last().and_then(Dim::fixed)) else { return };
    let rows = at.reshape(tiles, &[-1, width as i64], ["tile_rows".into(), Dim::Fixed(width)]);
    let line_break = at.reshape(line_break, &[1, width as i64], [Dim::Fixed(1), Dim::Fixed(width)]);
    let all = at.concat(0, &[rows, line_break], "tile_rows_and_break");
    // A node of its own, which the pass that fixes the order can replace.
    let order = at.onnx("Identity", &[packing], &[]);
    at.builder().output(EMBEDS, Role::Embeds, at.unsqueeze(at.gather(all, order, 0), &[0]));
}
