//! Log-mel features, as Hugging Face's WhisperFeatureExtractor computes them.
//!
//! Frames of `fft` samples under a Hann window, a hop apart, the first centred on the first sample (what lies before the
//! beginning and after the end is mirrored); the power of each frequency, summed under triangles that are evenly spaced on
//! Slaney's mel scale and of equal area; the logarithm, cut off eight decades below the largest of all; scaled to about −1 … 1.

use std::sync::Arc;

use realfft::{RealFftPlanner, RealToComplex};

/// Highest frequency that a triangle ends at, in hertz, whatever the rate.
const HIGHEST: f64 = 8_000.0;

/// Log-mel features of some sound, a row of frames for each mel band.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Number of bands.
    pub mels: usize,
    /// Number of frames.
    pub frames: usize,
    /// `[mels, frames]`.
    pub data: Vec<f32>,
}

impl Features {
    /// The `frames` frames from `from` on; those past the end are zeros.
    pub fn window(&self, from: usize, frames: usize) -> Features {
        let mut data = vec![0.0; self.mels * frames];
        let (start, end) = (from.min(self.frames), from.saturating_add(frames).min(self.frames));
        for (row, target) in self.data.chunks_exact(self.frames.max(1)).zip(data.chunks_exact_mut(frames.max(1))) {
            target[..end - start].copy_from_slice(&row[start..end]);
        }
        Features { mels: self.mels, frames, data }
    }
}

/// How log-mel features are made.
#[derive(Clone)]
pub struct LogMel {
    /// Samples a second.
    pub rate: u32,
    /// Samples from frame to frame.
    pub hop: usize,
    /// Samples of what the model takes at once.
    pub samples: usize,
    /// Value of samples past the end.
    pub padding: f32,
    fft: Arc<dyn RealToComplex<f64>>,
    hann: Vec<f64>,
    bands: Vec<Band>,
}

/// The frequencies that one band sums.
#[derive(Debug, Clone, PartialEq)]
struct Band {
    /// The first frequency with a weight.
    first: usize,
    /// Weights from there on.
    weights: Vec<f64>,
}

/// Sizes of a [`LogMel`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// Samples a second.
    pub rate: u32,
    /// Number of mel bands.
    pub mels: usize,
    /// Samples of a frame.
    pub fft: usize,
    /// Samples from frame to frame.
    pub hop: usize,
    /// Samples of what the model takes at once; more than half a frame.
    pub samples: usize,
    /// Value of samples past the end.
    pub padding: f32,
}

impl LogMel {
    /// The tables for some sizes, all of which are 1 or more.
    pub fn new(sizes: Sizes) -> Self {
        let Sizes { rate, mels, fft, hop, samples, padding } = sizes;
        let hann = (0..fft).map(|i| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / fft as f64).cos()).collect();
        let fft = RealFftPlanner::new().plan_fft_forward(fft);
        let bands = bands(mels, fft.len() / 2 + 1, f64::from(rate));
        LogMel { rate, hop, samples, padding, fft, hann, bands }
    }

    /// Number of mel bands.
    pub fn mels(&self) -> usize {
        self.bands.len()
    }

    /// Frames of what the model takes at once.
    pub fn window_frames(&self) -> usize {
        self.samples / self.hop
    }

    /// Features of exactly as much as the model takes at once: the beginning of `samples`, filled up if there are fewer.
    pub fn first_window(&self, samples: &[f32]) -> Features {
        let mut window = samples[..samples.len().min(self.samples)].to_vec();
        window.resize(self.samples, self.padding);
        self.features(&window)
    }

    /// Features of all of `samples`, a frame for each whole hop. The largest of them bounds all others from below, so a part
    /// of these is not what the same part of the samples would give.
    pub fn features(&self, samples: &[f32]) -> Features {
        let (mels, frames) = (self.mels(), samples.len() / self.hop);
        let mut data = vec![0f32; mels * frames];
        let mut frame = self.fft.make_input_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = vec![0.0; spectrum.len()];
        let mut largest = f32::MIN;
        let half = (self.fft.len() / 2) as i64;
        for t in 0..frames {
            let start = (t * self.hop) as i64 - half;
            for (i, (x, window)) in (start..).zip(frame.iter_mut().zip(&self.hann)) {
                *x = f64::from(mirrored(samples, i)) * window;
            }
            // It fails only on buffers of another length than its own.
            let _ = self.fft.process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
            power.iter_mut().zip(&spectrum).for_each(|(power, x)| *power = x.norm_sqr());
            for (mel, band) in self.bands.iter().enumerate() {
                let sum: f64 = band.weights.iter().zip(&power[band.first..]).map(|(weight, x)| weight * x).sum();
                let log = sum.max(1e-10).log10() as f32;
                largest = largest.max(log);
                data[mel * frames + t] = log;
            }
        }
        data.iter_mut().for_each(|x| *x = (x.max(largest - 8.0) + 4.0) / 4.0);
        Features { mels, frames, data }
    }
}

/// Sample `i`, where the sound before the first and after the last sample is its mirror image.
fn mirrored(samples: &[f32], i: i64) -> f32 {
    let last = samples.len() as i64 - 1;
    let inside = if i < 0 { -i } else { i };
    let inside = if inside > last { 2 * last - inside } else { inside };
    // Less sound than half a frame has no mirror image that long.
    usize::try_from(inside).ok().and_then(|i| samples.get(i)).copied().unwrap_or(0.0)
}

/// The triangles over `bins` frequencies from 0 to half of `rate`.
fn bands(mels: usize, bins: usize, rate: f64) -> Vec<Band> {
    let top = to_mel(HIGHEST);
    let corner = |i: usize| from_mel(top * i as f64 / (mels + 1) as f64);
    // transformers rounds half the rate down to whole hertz.
    let hertz = |bin: usize| (rate / 2.0).floor() * bin as f64 / (bins - 1).max(1) as f64;
    (0..mels)
        .map(|mel| {
            let (low, mid, high) = (corner(mel), corner(mel + 1), corner(mel + 2));
            let weight = |bin: usize| {
                let (up, down) = ((hertz(bin) - low) / (mid - low), (high - hertz(bin)) / (high - mid));
                up.min(down).max(0.0) * 2.0 / (high - low)
            };
            let first = (0..bins).find(|&bin| weight(bin) > 0.0).unwrap_or(0);
            let weights = (first..bins).map(weight).take_while(|&weight| weight > 0.0).collect();
            Band { first, weights }
        })
        .collect()
}

/// Slaney's scale: even up to 1 kHz, logarithmic above.
fn to_mel(hertz: f64) -> f64 {
    if hertz < 1_000.0 { 3.0 * hertz / 200.0 } else { 15.0 + (hertz / 1_000.0).ln() * 27.0 / 6.4f64.ln() }
}

fn from_mel(mel: f64) -> f64 {
    if mel < 15.0 { 200.0 * mel / 3.0 } else { 1_000.0 * (6.4f64.ln() / 27.0 * (mel - 15.0)).exp() }
}
