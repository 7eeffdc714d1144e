//! The samples of components, and how they are spread over the pixels.

use super::colour::Colour;
use super::frame::{Component, Frame};

/// The samples of a component, in whole blocks.
pub(super) struct Plane {
    /// Samples of a row.
    stride: usize,
    data: Vec<u8>,
}

impl Plane {
    /// A plane of `rows` rows of `across` blocks.
    pub(super) fn new(across: usize, rows: usize) -> Self {
        Plane { stride: 8 * across, data: vec![0; 64 * across * rows] }
    }

    /// Puts a block in its place, counted row by row.
    pub(super) fn put(&mut self, block: usize, samples: &[u8; 64]) {
        let across = self.stride / 8;
        let corner = 8 * (block / across * self.stride + block % across);
        for (row, samples) in samples.chunks_exact(8).enumerate() {
            self.data[corner + row * self.stride..][..8].copy_from_slice(samples);
        }
    }

    fn row(&self, y: usize, width: usize) -> &[u8] {
        &self.data[y * self.stride..][..width]
    }
}

/// Red, green and blue of all pixels, row by row.
pub(super) fn merge(frame: &Frame, planes: &[Plane], colour: Colour) -> Vec<u8> {
    let (width, height) = (frame.size.width as usize, frame.size.height as usize);
    let mut rgb = vec![0; 3 * width * height];
    let mut rows = vec![vec![]; planes.len()];
    for (y, pixels) in rgb.chunks_exact_mut(3 * width).enumerate() {
        for ((part, plane), row) in frame.components.iter().zip(planes).zip(&mut rows) {
            spread(frame, part, plane, y, row);
        }
        colour.row(&rows, pixels);
    }
    rgb
}

/// Makes `row` the samples of a component for each pixel of row `y`, and some more.
///
/// Twice as many samples, in either direction, weigh the nearer sample threefold, and ties are rounded up and down in turns;
/// anything else repeats samples. That is what libjpeg calls fancy, and does by itself.
fn spread(frame: &Frame, part: &Component, plane: &Plane, y: usize, row: &mut Vec<u8>) {
    let (width, height) = part.samples;
    let (across, down) = (frame.sampling.0 / part.sampling.0, frame.sampling.1 / part.sampling.1);
    let near = plane.row(y / down, width);
    row.clear();
    match (across, down) {
        (2, 1) if width > 2 => double(row, width, |x| near[x].into(), 1, [1, 2]),
        (2, 2) if width > 2 => {
            let far = plane.row(neighbour(y, height), width);
            double(row, width, |x| 3 * u32::from(near[x]) + u32::from(far[x]), 4, [8, 7]);
        }
        (1, 2) => {
            let far = plane.row(neighbour(y, height), width);
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            row.extend(
                near.iter().zip(far).map(|(&near, &far)| ((3 * u32::from(near) + u32::from(far) + bias) >> 2) as u8),
            );
        }
        _ => row.extend(near.iter().flat_map(|&sample| std::iter::repeat_n(sample, across))),
    }
}

/// The row of samples that is next nearest to row `y` of pixels, where there are half as many.
fn neighbour(y: usize, height: usize) -> usize {
    if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { (y / 2 + 1).min(height - 1) }
}

/// Twice as many samples as `width`, of which `sample` gives `scale` times each; `bias` is added in turns before rounding
/// down.
fn double(row: &mut Vec<u8>, width: usize, sample: impl Fn(usize) -> u32, scale: u32, bias: [u32; 2]) {
    let round = |sum: u32, turn: usize| ((sum + bias[turn]) / (4 * scale)) as u8;
    for x in 0..width {
        let this = sample(x);
        let before = if x > 0 { sample(x - 1) } else { this };
        let after = if x + 1 < width { sample(x + 1) } else { this };
        row.extend([round(3 * this + before, 0), round(3 * this + after, 1)]);
    }
}
