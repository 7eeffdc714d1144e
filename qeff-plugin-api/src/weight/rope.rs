//! Rotary tables as weights: what they are, computed where they are written.
//!
//! The arithmetic follows transformers' `modeling_rope_utils` step by step *in f32*: at position 4000 the rounding of an
//! inverse frequency is worth 2e-4 of a radian, so a more exact table would be further from the reference.

/// Which half of a rotary table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopePart {
    /// Cosines.
    Cos,
    /// Sines.
    Sin,
}

/// How inverse frequencies follow from the base; the names are those of `rope_type` in config.json.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeKind {
    /// `base^(-2j/width)`.
    Default,
    /// Frequencies divided by `factor`.
    Linear {
        /// Position interpolation factor.
        factor: f32,
    },
    /// NTK-aware: the base grows once positions pass the original window.
    Dynamic {
        /// Extension factor.
        factor: f32,
        /// Positions of the original window.
        original: u64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a smooth band between.
    Llama3 {
        /// Division of low frequencies.
        factor: f32,
        /// Below `original / low_freq_factor` of a wavelength nothing is smoothed.
        low_freq_factor: f32,
        /// Above `original / high_freq_factor` of a wavelength frequencies are kept.
        high_freq_factor: f32,
        /// Positions of the original window.
        original: u64,
    },
    /// YaRN: interpolation and extrapolation mixed by wavelength.
    Yarn {
        /// Extension factor.
        factor: f32,
        /// Rotations above which frequencies are kept.
        beta_fast: f32,
        /// Rotations below which frequencies are interpolated.
        beta_slow: f32,
        /// Positions of the original window.
        original: u64,
        /// Whether the borders of the mixed band are rounded outward to whole dimensions.
        truncate: bool,
        /// Factor on cosines and sines.
        attention_factor: f32,
    },
    /// LongRoPE: one divisor per frequency, another set beyond the original window.
    LongRope {
        /// Divisors inside the original window, `width / 2` of them.
        short: Vec<f32>,
        /// Divisors beyond it.
        long: Vec<f32>,
        /// Positions of the original window.
        original: u64,
        /// Factor on cosines and sines.
        attention_factor: f32,
    },
}

/// One half of a rotary table, `[positions, width / 2]` in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Cosines or sines.
    pub part: RopePart,
    /// The scaling rule.
    pub kind: RopeKind,
    /// `rope_theta`.
    pub base: f32,
    /// Rotated width: an even number, the head width or less.
    pub width: u64,
    /// Rows: how many positions the table serves.
    pub positions: u64,
    /// Number of positions a request can reach. Rules that change with the current length (dynamic, longrope) are
    /// decided by it; 0 stands for "inside the original window".
    pub reach: u64,
}

impl RopeTable {
    /// Positions after which the rule changes, for the rules that depend on the current length.
    pub fn length_dependent(&self) -> Option<u64> {
        match self.kind {
            RopeKind::Dynamic { original, .. } | RopeKind::LongRope { original, .. } => Some(original),
            _ => None,
        }
    }

    /// Inverse frequencies, `width / 2` of them, fastest first.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let width = self.width as f32;
        let plain =
            |base: f32| -> Vec<f32> { (0..self.width / 2).map(|j| 1.0 / base.powf((2 * j) as f32 / width)).collect() };
        match &self.kind {
            RopeKind::Default => plain(self.base),
            RopeKind::Linear { factor } => plain(self.base).into_iter().map(|f| f / factor).collect(),
            RopeKind::Dynamic { factor, original } => {
                let length = self.reach.max(*original) as f64;
                let growth = f64::from(*factor) * length / *original as f64 - (f64::from(*factor) - 1.0);
                let exponent = f64::from(width) / (f64::from(width) - 2.0);
                plain((f64::from(self.base) * growth.powf(exponent)) as f32)
            }
            RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                let original = *original as f32;
                let (low, high) = (original / low_freq_factor, original / high_freq_factor);
                let smooth = |f: f32| {
                    let wavelength = 2.0 * std::f32::consts::PI / f;
                    if wavelength > low {
                        f / factor
                    } else if wavelength < high {
                        f
                    } else {
                        let s = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - s) * f / factor + s * f
                    }
                };
                plain(self.base).into_iter().map(smooth).collect()
            }
            RopeKind::Yarn { factor, beta_fast, beta_slow, original, truncate, .. } => {
                // Dimension at which `rotations` full turns fit the original window.
                let dimension = |rotations: f32| {
                    let turns = *original as f64 / (f64::from(rotations) * 2.0 * std::f64::consts::PI);
                    f64::from(width) * turns.ln() / (2.0 * f64::from(self.base).ln())
                };
                let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0) as f32, high.min(f64::from(width) - 1.0) as f32);
                if low == high {
                    high += 0.001;
                }
                plain(self.base)
                    .into_iter()
                    .enumerate()
                    .map(|(j, f)| {
                        let interpolated = ((j as f32 - low) / (high - low)).clamp(0.0, 1.0);
                        f / factor * interpolated + f * (1.0 - interpolated)
                    })
                    .collect()
            }
            RopeKind::LongRope { short, long, original, .. } => {
                let divisors = if self.reach > *original { long } else { short };
                (0..self.width / 2)
                    .zip(divisors)
                    .map(|(j, divisor)| 1.0 / (divisor * self.base.powf((2 * j) as f32 / width)))
                    .collect()
            }
        }
    }

    /// The factor on cosines and sines.
    pub fn attention_factor(&self) -> f32 {
        match self.kind {
            RopeKind::Yarn { attention_factor, .. } | RopeKind::LongRope { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// Writes row `position` of the table into `row` (`width / 2` numbers) from [`Self::inverse_frequencies`].
    pub fn write_row(&self, inverse: &[f32], position: u64, row: &mut [f32]) {
        let scale = self.attention_factor();
        for (out, f) in row.iter_mut().zip(inverse) {
            // The product is rounded to f32 as the reference does; only then is more precision harmless.
            let angle = f64::from(position as f32 * f);
            let value = match self.part {
                RopePart::Cos => angle.cos(),
                RopePart::Sin => angle.sin(),
            };
            *out = value as f32 * scale;
        }
    }
}
