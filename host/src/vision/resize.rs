//! Resizing as Pillow does it, bit for bit.
//!
//! Two passes, first along rows and then along columns, each rounded to bytes. A filter is stretched by the factor of a
//! reduction, so that every pixel counts; its weights are doubles that sum to one, and are then rounded to 22 bits behind
//! the point. Models were trained on exactly these numbers, and faster resizers differ from them in every fifth one.

use super::{Rgb, Size};

/// Bits behind the point of a weight: 8 are the pixel's, and two are left for sums beyond 255.
const PRECISION: u32 = 32 - 8 - 2;

/// How neighbouring pixels count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are Pillow's
pub enum Filter {
    Lanczos,
    Bilinear,
    Bicubic,
    Box,
    Hamming,
}

impl Filter {
    /// The filter of a number of Pillow's `Resampling`; `nearest`, which is 0, is none.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Filter::Lanczos),
            2 => Some(Filter::Bilinear),
            3 => Some(Filter::Bicubic),
            4 => Some(Filter::Box),
            5 => Some(Filter::Hamming),
            _ => None,
        }
    }

    /// How far it reaches, in pixels of the smaller image.
    fn support(self) -> f64 {
        match self {
            Filter::Box => 0.5,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    /// Its weight at a distance of `x`.
    fn at(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
        match self {
            Filter::Box => f64::from(x > -0.5 && x <= 0.5),
            Filter::Bilinear => (1.0 - x.abs()).max(0.0),
            Filter::Hamming => match x.abs() {
                0.0 => 1.0,
                x if x >= 1.0 => 0.0,
                x => {
                    let x = x * std::f64::consts::PI;
                    x.sin() / x * (0.54 + 0.46 * x.cos())
                }
            },
            Filter::Bicubic => {
                const A: f64 = -0.5;
                match x.abs() {
                    x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                    x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                    _ => 0.0,
                }
            }
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Filter::Lanczos => 0.0,
        }
    }
}

/// The pixels that make one pixel: those from `first` on, one for each weight.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of every pixel of a row of `to` pixels that is made of one of `from`.
fn taps(filter: Filter, from: u32, to: u32) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    // Pillow multiplies by the reciprocal; dividing would round otherwise.
    let shrink = 1.0 / stretch;
    let of_pixel = |i: u32| {
        let centre = (f64::from(i) + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from as usize);
        let weights: Vec<f64> =
            (first..end.max(first)).map(|x| filter.at((x as f64 - centre + 0.5) * shrink)).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: f64| {
            let weight = if sum == 0.0 { weight } else { weight / sum };
            let scaled = weight * f64::from(1 << PRECISION);
            (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
        };
        Taps { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(of_pixel).collect()
}

/// A sum of weighted bytes as a byte.
fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The image in another size.
pub fn resize(image: &Rgb, size: Size, filter: Filter) -> Rgb {
    let wide = if size.width == image.size().width { image.clone() } else { along_rows(image, size.width, filter) };
    if size.height == image.size().height { wide } else { along_columns(&wide, size.height, filter) }
}

fn along_rows(image: &Rgb, width: u32, filter: Filter) -> Rgb {
    let taps = taps(filter, image.size().width, width);
    let size = Size { width, ..image.size() };
    let mut out = Rgb::filled(size, [0; 3]);
    out.rows_mut().enumerate().for_each(|(y, to)| {
        let from = image.row(y as u32);
        for (pixel, taps) in to.chunks_exact_mut(3).zip(&taps) {
            let mut sums = [1 << (PRECISION - 1); 3];
            for (from, &weight) in from[3 * taps.first..].chunks_exact(3).zip(&taps.weights) {
                for (sum, &byte) in sums.iter_mut().zip(from) {
                    *sum += i32::from(byte) * weight;
                }
            }
            pixel.iter_mut().zip(sums).for_each(|(pixel, sum)| *pixel = byte(sum));
        }
    });
    out
}

fn along_columns(image: &Rgb, height: u32, filter: Filter) -> Rgb {
    let taps = taps(filter, image.size().height, height);
    let size = Size { height, ..image.size() };
    let mut out = Rgb::filled(size, [0; 3]);
    out.rows_mut().enumerate().for_each(|(y, to)| {
        let mut sums = vec![1 << (PRECISION - 1); to.len()];
        for (from, &weight) in (taps[y].first..).zip(&taps[y].weights) {
            for (sum, &byte) in sums.iter_mut().zip(image.row(from as u32)) {
                *sum += i32::from(byte) * weight;
            }
        }
        to.iter_mut().zip(sums).for_each(|(pixel, sum)| *pixel = byte(sum));
    });
    out
}
