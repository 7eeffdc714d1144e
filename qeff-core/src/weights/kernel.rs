//! Moving the elements of one stored tensor into an output buffer: strided on both sides, converted in between.
//!
//! Everything the layout steps can do to one tensor arrives here as a [`Nest`]. Two shapes of it matter for speed and have
//! a loop of their own: the innermost loop is the same on both sides (rows), or it is not (a transposition), which goes in
//! blocks through a small stage so that both sides are touched in runs.

use super::convert::Converter;
use super::region::Region;

/// Elements on a side of a transposed block; a block of f32 is 16 KiB and stays in the first-level cache.
const BLOCK: usize = 64;

/// Elements of a strided run that are gathered at a time.
const RUN: usize = 512;

/// Widest element.
const WIDEST: usize = 8;

/// One loop over elements of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) extent: u64,
    pub(super) out: u64,
    pub(super) src: u64,
}

/// Which element of a source goes to which of the output buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nest {
    /// Slowest in the output first, none of them of one turn.
    pub(super) moves: Vec<Move>,
    pub(super) out: u64,
    pub(super) src: u64,
}

impl Nest {
    /// From a region with one axis, which counts source elements. Loops that continue each other on both sides are one.
    pub(super) fn new(flat: &Region) -> Self {
        let form = &flat.axes[0];
        let mut moves: Vec<Move> =
            flat.loops.iter().zip(&form.steps).map(|(l, &src)| Move { extent: l.extent, out: l.out, src }).collect();
        moves.sort_by_key(|m| std::cmp::Reverse(m.out));
        let mut joined: Vec<Move> = Vec::with_capacity(moves.len());
        for inner in moves {
            match joined.last_mut() {
                Some(outer) if outer.out == inner.out * inner.extent && outer.src == inner.src * inner.extent => {
                    *outer = Move { extent: outer.extent * inner.extent, ..inner };
                }
                _ => joined.push(inner),
            }
        }
        Self { moves: joined, out: flat.out, src: form.start }
    }

    /// How many elements are written.
    pub(super) fn elements(&self) -> u64 {
        self.moves.iter().map(|m| m.extent).product()
    }

    /// How many source elements are read.
    pub(super) fn reads(&self) -> u64 {
        self.moves.iter().filter(|m| m.src > 0).map(|m| m.extent).product()
    }

    /// Source elements from the first to the last that is read.
    pub(super) fn span(&self) -> u64 {
        1 + self.moves.iter().map(|m| m.src * (m.extent - 1)).sum::<u64>()
    }

    /// Whether the elements are one run on both sides.
    pub(super) fn is_run(&self) -> bool {
        matches!(self.moves.as_slice(), [] | [Move { out: 1, src: 1, .. }])
    }

    /// Cuts along the slowest source loop until no piece spans more than `limit` source elements; `then` gets the pieces
    /// in source order.
    pub(super) fn cut<E>(&self, limit: u64, then: &mut dyn FnMut(&Nest) -> Result<(), E>) -> Result<(), E> {
        let span = self.span();
        let slowest = (0..self.moves.len()).max_by_key(|&at| self.moves[at].src);
        let (Some(at), true) = (slowest, span > limit) else { return then(self) };
        let Move { extent, out, src } = self.moves[at];
        let others = span - src * (extent - 1);
        let turns = if others < limit { (limit - others) / src + 1 } else { 1 };
        let mut turn = 0;
        while turn < extent {
            let mut piece = self.clone();
            piece.out += turn * out;
            piece.src += turn * src;
            let take = turns.min(extent - turn);
            if take > 1 {
                piece.moves[at].extent = take;
            } else {
                piece.moves.remove(at);
            }
            piece.cut(limit, then)?;
            turn += take;
        }
        Ok(())
    }

    /// Moves the elements. `src` holds the source elements `self.src..self.src + self.span()`, `out` the whole output.
    pub(super) fn run(&self, src: &[u8], out: &mut [u8], converter: &Converter<'_>) {
        let mut moves = self.moves.clone();
        let inner = moves.pop().unwrap_or(Move { extent: 1, out: 1, src: 1 });
        let fastest = (0..moves.len()).filter(|&at| moves[at].src > 0).min_by_key(|&at| moves[at].src);
        let transposed = fastest.filter(|&at| moves[at].src < inner.src || inner.src == 0 && moves[at].src == 1);
        match transposed {
            None => each(&moves, self.out, 0, &mut |to, from| {
                rows(inner, &src[from * converter.source_size()..], to, out, converter)
            }),
            Some(at) => {
                let across = moves.remove(at);
                let mut stage = vec![0; BLOCK * BLOCK * converter.target_size()];
                each(&moves, self.out, 0, &mut |to, from| {
                    blocks(inner, across, &src[from * converter.source_size()..], to, out, converter, &mut stage);
                });
            }
        }
    }
}

/// Calls `f` with the output and source element of every turn of the loops.
fn each(moves: &[Move], out: u64, src: u64, f: &mut impl FnMut(usize, usize)) {
    match moves {
        [] => f(out as usize, src as usize),
        [first, rest @ ..] => {
            for turn in 0..first.extent {
                each(rest, out + turn * first.out, src + turn * first.src, f);
            }
        }
    }
}

/// One loop, gathered, converted and scattered as its strides need.
fn rows(inner: Move, src: &[u8], to: usize, out: &mut [u8], converter: &Converter<'_>) {
    let (from_size, to_size) = (converter.source_size(), converter.target_size());
    let (extent, out_step, src_step) = (inner.extent as usize, inner.out as usize, inner.src as usize);
    if out_step == 1 && src_step == 1 {
        converter.run(&src[..extent * from_size], &mut out[to * to_size..(to + extent) * to_size]);
        return;
    }
    let (mut gathered, mut converted) = ([0; RUN * WIDEST], [0; RUN * WIDEST]);
    for first in (0..extent).step_by(RUN) {
        let count = RUN.min(extent - first);
        let from = match src_step {
            1 => &src[first * from_size..(first + count) * from_size],
            _ => {
                let gathered = &mut gathered[..count * from_size];
                gather(&src[first * src_step * from_size..], src_step, gathered, from_size);
                gathered
            }
        };
        let to = to + first * out_step;
        if out_step == 1 {
            converter.run(from, &mut out[to * to_size..(to + count) * to_size]);
        } else {
            let converted = &mut converted[..count * to_size];
            converter.run(from, converted);
            scatter(converted, &mut out[to * to_size..], out_step, to_size);
        }
    }
}

/// Two loops, `inner` fast in the output and `across` fast in the source, in blocks.
fn blocks(
    inner: Move,
    across: Move,
    src: &[u8],
    to: usize,
    out: &mut [u8],
    converter: &Converter<'_>,
    stage: &mut [u8],
) {
    let (from_size, to_size) = (converter.source_size(), converter.target_size());
    for a in (0..across.extent).step_by(BLOCK) {
        let width = (across.extent - a).min(BLOCK as u64);
        for i in (0..inner.extent).step_by(BLOCK) {
            let height = (inner.extent - i).min(BLOCK as u64);
            let line = width as usize;
            for row in 0..height {
                let from = ((i + row) * inner.src + a * across.src) as usize;
                let part = Move { extent: width, out: 1, src: across.src };
                rows(part, &src[from * from_size..], row as usize * line, stage, converter);
            }
            let to = to + (a * across.out + i * inner.out) as usize;
            let out = &mut out[to * to_size..];
            let block = Block {
                width: width as usize,
                height: height as usize,
                along: inner.out as usize,
                across: across.out as usize,
            };
            match to_size {
                1 => block.transpose::<1>(stage, out),
                2 => block.transpose::<2>(stage, out),
                4 => block.transpose::<4>(stage, out),
                _ => block.transpose::<8>(stage, out),
            }
        }
    }
}

/// A staged block of `height` rows of `width` elements and where it goes.
struct Block {
    width: usize,
    height: usize,
    /// Output step from one row to the next.
    along: usize,
    /// Output step from one column to the next.
    across: usize,
}

impl Block {
    fn transpose<const N: usize>(&self, stage: &[u8], out: &mut [u8]) {
        let (stage, out) = (elements::<N>(stage), elements_mut::<N>(out));
        for column in 0..self.width {
            // A column of the stage is a run of the output, so each of its cache lines is written at once.
            let from = stage[column..].iter().step_by(self.width).take(self.height);
            let out = &mut out[column * self.across..];
            match self.along {
                1 => out[..self.height].iter_mut().zip(from).for_each(|(to, from)| *to = *from),
                along => out.iter_mut().step_by(along).zip(from).for_each(|(to, from)| *to = *from),
            }
        }
    }
}

fn elements<const N: usize>(bytes: &[u8]) -> &[[u8; N]] {
    bytes.as_chunks().0
}

fn elements_mut<const N: usize>(bytes: &mut [u8]) -> &mut [[u8; N]] {
    bytes.as_chunks_mut().0
}

/// Fills `to` with every `step`-th element of `from`.
fn gather(from: &[u8], step: usize, to: &mut [u8], size: usize) {
    fn sized<const N: usize>(from: &[u8], step: usize, to: &mut [u8]) {
        let from = elements::<N>(from);
        match step {
            0 => elements_mut::<N>(to).fill(from[0]),
            _ => elements_mut::<N>(to).iter_mut().zip(from.iter().step_by(step)).for_each(|(to, from)| *to = *from),
        }
    }
    match size {
        1 => sized::<1>(from, step, to),
        2 => sized::<2>(from, step, to),
        4 => sized::<4>(from, step, to),
        _ => sized::<8>(from, step, to),
    }
}

/// Writes the elements of `from` to every `step`-th place of `to`.
pub(super) fn scatter(from: &[u8], to: &mut [u8], step: usize, size: usize) {
    fn sized<const N: usize>(from: &[u8], to: &mut [u8], step: usize) {
        let places = elements_mut::<N>(to).iter_mut().step_by(step.max(1));
        places.zip(elements::<N>(from)).for_each(|(to, from)| *to = *from);
    }
    match size {
        1 => sized::<1>(from, to, step),
        2 => sized::<2>(from, to, step),
        4 => sized::<4>(from, to, step),
        _ => sized::<8>(from, to, step),
    }
}

/// Writes `element` wherever the loops go from `first`.
pub(super) fn fill(moves: &[Move], first: u64, element: &[u8], out: &mut [u8]) {
    let size = element.len();
    let (outer, inner) = match moves {
        [outer @ .., inner] => (outer, *inner),
        [] => (moves, Move { extent: 1, out: 1, src: 0 }),
    };
    let converted: Vec<u8> = element.iter().copied().cycle().take(size * RUN.min(inner.extent as usize)).collect();
    each(outer, first, 0, &mut |to, _| {
        for turn in (0..inner.extent as usize).step_by(RUN) {
            let count = RUN.min(inner.extent as usize - turn);
            let to = to + turn * inner.out as usize;
            scatter(&converted[..count * size], &mut out[to * size..], inner.out as usize, size);
        }
    });
}
