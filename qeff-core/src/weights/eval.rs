//! Evaluation: a weight expression as a stream of tiles.
//!
//! The largest weights are gigabytes and a laptop exports them too, so nothing here is as large as a tensor: a tile of the
//! result is computed straight from the stored bytes (there are no intermediate tensors) and handed to a [`TileSink`] as
//! runs with their positions. Stored bytes are read in pieces that stay in a core's cache until they are used.
//!
//! This module does not know where tensors come from ([`TensorSource`]) or go to ([`TileSink`]), nor who runs tiles in
//! parallel ([`super::writer`]).

use std::ops::Range;
use std::sync::Mutex;

use qeff_plugin_api::{DType, WeightExpr};

use super::convert::{Affine, Clipped, Converter};
use super::error::EvalError;
use super::kernel::{Move, Nest, fill};
use super::plan::{Leaf, Node, Step, fill_bytes, strides};
use super::region::{Form, Region};
use super::source::TensorSource;
use super::tile::{Tiling, pace};

/// Stored bytes that are read at a time where a tile is made of crumbs.
const SHORTEST_READ: u64 = 64 << 10;

/// Nests looked at when tiles are chosen: enough to see how a result reads its sources.
const PROBE: usize = 64;

/// Stored bytes that a read without a tiling is lent at once.
const READ_AT_ONCE: u64 = 4 << 20;

/// Where tiles go.
pub trait TileSink: Sync {
    /// Takes `bytes`, which belong `offset` bytes behind the beginning of the tensor.
    ///
    /// Every byte of a tensor is given exactly once, in no promised order, by several threads if tiles are evaluated in
    /// parallel.
    ///
    /// # Errors
    /// Whatever the storage says; evaluation stops with it.
    fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()>;
}

/// Bytes moved by an evaluation.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Traffic {
    /// Stored bytes that went into the result.
    pub read: u64,
    /// Bytes given to the sink.
    pub written: u64,
    /// Numbers that the result's type has no room for.
    pub clipped: Clipped,
}

/// An expression ready to be evaluated to one type from one source.
pub struct Evaluation<'s> {
    root: Node,
    target: DType,
    source: &'s dyn TensorSource,
    elements: u64,
}

impl<'s> Evaluation<'s> {
    /// Checks the expression; after this only reading and writing can fail.
    ///
    /// # Errors
    /// Any [`EvalError`] but [`EvalError::Sink`].
    pub fn new(expr: &WeightExpr, target: DType, source: &'s dyn TensorSource) -> Result<Self, EvalError> {
        let root = Node::compile(expr, target, source)?;
        let elements = root.shape.iter().product();
        Ok(Self { root, target, source, elements })
    }

    /// Shape of the result.
    pub fn shape(&self) -> &[u64] {
        &self.root.shape
    }

    /// Bytes of the result.
    pub fn byte_len(&self) -> u64 {
        self.elements * self.target.size() as u64
    }

    /// How to cut the result so that one tile, with the stored bytes it holds on to, stays within `budget` bytes.
    ///
    /// A few kilobytes of stack and stages are not counted; a budget below them gives tiles of single elements.
    pub fn tiles(&self, budget: usize) -> Tiling {
        let strides = strides(self.shape());
        let mut nests = Vec::new();
        let mut direct = true;
        if self.elements > 0 {
            let whole: Vec<Range<u64>> = self.shape().iter().map(|&dim| 0..dim).collect();
            let probed = self.root.descend(Region::of_box(&whole), &[], &mut |leaf| {
                let copied = leaf.affine.is_empty();
                match leaf.node.step {
                    Step::Tensor { dtype, .. } => {
                        let flat = leaf.flat();
                        let nest = Nest::new(&flat);
                        direct &= copied && dtype == self.target && nest.is_run();
                        let steps = &flat.axes[0].steps;
                        let moves = flat.loops.iter().zip(steps);
                        let moves = moves.map(|(l, &src)| Move { extent: l.extent, out: l.out, src }).collect();
                        nests.push((nest, moves));
                    }
                    _ => direct = false,
                }
                if nests.len() < PROBE { Ok(()) } else { Err(()) }
            });
            // Runs beyond the probe may be crumbs, and crumbs are written better from a buffer.
            direct &= probed.is_ok();
        }
        let size = self.target.size() as u64;
        if direct && self.elements > 0 {
            return Tiling::flat(self.elements, size, budget as u64);
        }
        Tiling::new(self.shape(), size, &pace(&nests, &strides), budget as u64)
    }

    /// Evaluates the elements `elements` of the result, counted in row-major order, into `out`, which is as long as they
    /// are.
    ///
    /// # Errors
    /// [`EvalError::Source`].
    pub(super) fn read(&self, elements: Range<u64>, out: &mut [u8]) -> Result<(), EvalError> {
        debug_assert!(elements.start < elements.end && elements.end <= self.elements);
        let mut window = Window::default();
        let mut reader = Reader {
            source: self.source,
            window: &mut window,
            limit: READ_AT_ONCE,
            read: 0,
            clipped: Clipped::default(),
        };
        let region = Region::of_box(&[elements]);
        self.root.descend_flat(region, &mut |leaf| reader.compute(leaf, self.target, out))
    }

    /// Evaluates tile `number` of `tiling` into `sink`. `scratch` is memory to be kept from tile to tile.
    ///
    /// # Errors
    /// [`EvalError::Source`] and [`EvalError::Sink`].
    ///
    /// # Panics
    /// If `number` is not below [`Tiling::len`], or `tiling` is another evaluation's.
    pub fn write_tile(
        &self,
        tiling: &Tiling,
        number: u64,
        scratch: &mut Scratch,
        sink: &dyn TileSink,
    ) -> Result<Traffic, EvalError> {
        assert!(number < tiling.len(), "tile {number} of {}", tiling.len());
        let size = self.target.size() as u64;
        let ranges = tiling.ranges(number);
        let elements: u64 = ranges.iter().map(|range| range.end - range.start).product();
        let Scratch { tile: buffer, window } = scratch;
        window.elements = 0..0;
        let mut reader =
            Reader { source: self.source, window, limit: tiling.piece, read: 0, clipped: Clipped::default() };
        let region = Region::of_box(&ranges);
        if tiling.direct {
            let first = ranges[0].start;
            self.root.descend_flat(region, &mut |leaf| reader.pass(leaf, first, sink))?;
        } else {
            let bytes = (elements * size) as usize;
            if buffer.len() < bytes {
                buffer.resize(bytes, 0);
            }
            let out = &mut buffer[..bytes];
            self.root.descend(region, &[], &mut |leaf| reader.compute(leaf, self.target, out))?;
            tiling.runs(&ranges, &mut |at, within, length| {
                let run = &out[(within * size) as usize..((within + length) * size) as usize];
                sink.write(at * size, run).map_err(EvalError::Sink)
            })?;
        }
        Ok(Traffic { read: reader.read, written: elements * size, clipped: reader.clipped })
    }
}

/// Memory of one worker: the tile that it computes, and the stored bytes it is made of.
#[derive(Debug, Default)]
pub struct Scratch {
    tile: Vec<u8>,
    window: Window,
}

/// Evaluates `expr` into `sink`, tile after tile in this thread, within `budget` bytes of memory; see
/// [`Evaluation::tiles`].
///
/// # Errors
/// See [`EvalError`].
pub fn write(
    expr: &WeightExpr,
    target: DType,
    source: &dyn TensorSource,
    sink: &dyn TileSink,
    budget: usize,
) -> Result<Traffic, EvalError> {
    let evaluation = Evaluation::new(expr, target, source)?;
    let tiling = evaluation.tiles(budget);
    let mut scratch = Scratch::default();
    let mut traffic = Traffic::default();
    for number in 0..tiling.len() {
        let tile = evaluation.write_tile(&tiling, number, &mut scratch, sink)?;
        traffic.read += tile.read;
        traffic.written += tile.written;
        traffic.clipped.add(tile.clipped);
    }
    Ok(traffic)
}

/// Evaluates `expr` into memory: for small tensors, and for engines that want to own their weights.
///
/// # Errors
/// See [`EvalError`].
pub fn evaluate_to_vec(expr: &WeightExpr, target: DType, source: &dyn TensorSource) -> Result<Vec<u8>, EvalError> {
    struct Memory(Mutex<Vec<u8>>);
    impl TileSink for Memory {
        fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
            let mut memory = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            memory[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        }
    }
    let length = Evaluation::new(expr, target, source)?.byte_len();
    let mut memory = Vec::new();
    // A result that does not fit this machine is an error here, not an abort of the process.
    let fits = usize::try_from(length).ok().is_some_and(|length| memory.try_reserve_exact(length).is_ok());
    if !fits {
        return Err(EvalError::TooLarge { shape: expr.shape(source.index())? });
    }
    memory.resize(length as usize, 0);
    let memory = Memory(Mutex::new(memory));
    write(expr, target, source, &memory, 8 << 20)?;
    Ok(memory.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Stored bytes at hand.
#[derive(Debug, Default)]
struct Window {
    tensor: String,
    elements: Range<u64>,
    bytes: Vec<u8>,
}

/// Reads for one tile.
struct Reader<'s> {
    source: &'s dyn TensorSource,
    window: &'s mut Window,
    /// Bytes that a piece may have.
    limit: u64,
    read: u64,
    clipped: Clipped,
}

impl Reader<'_> {
    /// Computes what arrives at a leaf into the tile `out`.
    fn compute(&mut self, leaf: Leaf<'_>, target: DType, out: &mut [u8]) -> Result<(), EvalError> {
        match &leaf.node.step {
            Step::Tensor { name, dtype } => {
                let Some(converter) = Converter::new(*dtype, target, leaf.affine) else {
                    unreachable!("refused by `Node::compile`");
                };
                let nest = Nest::new(&leaf.flat());
                let size = dtype.size() as u64;
                nest.cut(self.limit / size, &mut |piece| -> Result<(), EvalError> {
                    self.read += piece.reads() * size;
                    piece.run(self.stored(name, piece.src..piece.src + piece.span(), size)?, out, &converter);
                    Ok(())
                })?;
                self.clipped.add(converter.clipped());
                Ok(())
            }
            Step::Fill { value } => {
                let Some(element) = fill_bytes(*value, leaf.affine, target) else {
                    unreachable!("refused by `Node::compile`");
                };
                let nest = Nest::new(&leaf.flat());
                fill(&nest.moves, nest.out, &element, out);
                Ok(())
            }
            Step::Held { numbers } => {
                let Some(converter) = Converter::new(DType::F32, target, leaf.affine) else {
                    unreachable!("refused by `Node::compile`");
                };
                let nest = Nest::new(&leaf.flat());
                nest.run(&bytemuck::cast_slice(numbers)[nest.src as usize * size_of::<f32>()..], out, &converter);
                self.clipped.add(converter.clipped());
                Ok(())
            }
            Step::Rope { table, inverse } => {
                rope(table, inverse, &leaf.region, leaf.affine, target, out);
                Ok(())
            }
            _ => unreachable!("`Node::descend` stops at leaves only"),
        }
    }

    /// Hands stored bytes to the sink without a buffer; `first` is the tile's first element in the result.
    fn pass(&mut self, leaf: Leaf<'_>, first: u64, sink: &dyn TileSink) -> Result<(), EvalError> {
        let Step::Tensor { name, dtype } = &leaf.node.step else {
            unreachable!("`Evaluation::tiles` takes stored tensors for direct ones only");
        };
        let size = dtype.size() as u64;
        Nest::new(&leaf.flat()).cut(self.limit / size, &mut |piece| {
            self.read += piece.reads() * size;
            let bytes = self.stored(name, piece.src..piece.src + piece.span(), size)?;
            sink.write((first + piece.out) * size, bytes).map_err(EvalError::Sink)
        })
    }

    /// Stored elements of `name`, which are `size` bytes each.
    fn stored(&mut self, name: &str, elements: Range<u64>, size: u64) -> Result<&[u8], EvalError> {
        let held = &self.window.elements;
        if self.window.tensor != name || elements.start < held.start || held.end < elements.end {
            // Crumbs are mostly neighbours, and each read is a system call.
            let count: u64 = self.source.info(name)?.shape.iter().product();
            let ahead = elements.start.saturating_add(SHORTEST_READ.min(self.limit) / size).min(count);
            let wanted = elements.start..elements.end.max(ahead);
            let length = ((wanted.end - wanted.start) * size) as usize;
            if self.window.bytes.len() < length {
                self.window.bytes.resize(length, 0);
            }
            // What was there is lost even if reading fails.
            self.window.elements = 0..0;
            self.source.read(name, wanted.clone(), &mut self.window.bytes[..length])?;
            name.clone_into(&mut self.window.tensor);
            self.window.elements = wanted;
        }
        let from = ((elements.start - self.window.elements.start) * size) as usize;
        Ok(&self.window.bytes[from..from + ((elements.end - elements.start) * size) as usize])
    }
}

/// Computes the rows of a rotary table that `region` asks for; its axes are position and frequency.
fn rope(
    table: &qeff_plugin_api::weight::RopeTable,
    inverse: &[f32],
    region: &Region,
    affine: &[Affine],
    target: DType,
    out: &mut [u8],
) {
    let Some(converter) = Converter::new(DType::F32, target, affine) else {
        unreachable!("refused by `Node::compile`");
    };
    let [position, column] = &region.axes[..] else { unreachable!("a table has two axes") };
    // Loops over positions outside, so that each row is computed once; of a row, only the columns in between are.
    let by_position = |at: &usize| position.steps[*at] > 0;
    let (outer, inner): (Vec<usize>, Vec<usize>) = (0..region.loops.len()).partition(by_position);
    let span = 1 + inner.iter().map(|&at| column.steps[at] * (region.loops[at].extent - 1)).sum::<u64>();
    let mut numbers = vec![0f32; span as usize];
    let mut row = vec![0; numbers.len() * target.size()];
    let columns = Region {
        loops: inner.iter().map(|&at| region.loops[at]).collect(),
        out: 0,
        axes: vec![Form { start: 0, steps: inner.iter().map(|&at| column.steps[at]).collect() }],
    };
    let nest = Nest::new(&columns);
    let Some(copy) = Converter::new(target, target, &[]) else { unreachable!("every type copies") };
    let mut counters = vec![0u64; outer.len()];
    loop {
        let turned = |step: &dyn Fn(usize) -> u64| -> u64 {
            counters.iter().zip(&outer).map(|(turn, &at)| turn * step(at)).sum()
        };
        let at = position.start + turned(&|at| position.steps[at]);
        let first = (column.start + turned(&|at| column.steps[at])) as usize;
        table.write_row(&inverse[first..first + numbers.len()], at, &mut numbers);
        converter.run(bytemuck::cast_slice(&numbers), &mut row);
        let to = (region.out + turned(&|at| region.loops[at].out)) as usize * target.size();
        nest.run(&row, &mut out[to..], &copy);
        let mut next = outer.len();
        loop {
            if next == 0 {
                return;
            }
            next -= 1;
            counters[next] += 1;
            if counters[next] < region.loops[outer[next]].extent {
                break;
            }
            counters[next] = 0;
        }
    }
}

#[cfg(test)]
#[path = "eval_tests.rs"]
pub(super) mod tests;
