//! From one rate to another.
//!
//! rubato's synchronous resampler: blocks are transformed, multiplied with the spectrum of a windowed sinc (Blackman-Harris,
//! squared) and transformed back at the other length. It is steeper than torchaudio's default (a sinc of six zero crossings
//! under a Hann window) and about as steep as librosa's (soxr, high quality); passbands agree, and what lies within a few
//! percent of the lower of both Nyquist frequencies does not.

use rubato::audioadapter::Adapter as _;
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::audioadapter_buffers::owned::InterleavedOwned;
use rubato::{Fft, FixedSync, Indexing, Resampler as _, WindowFunction};

use super::AudioError;

/// Input samples of a block, about: longer ones filter more steeply.
const BLOCK: usize = 4096;

/// A stream of samples on its way to another rate.
pub(super) struct Resampler {
    from: u32,
    to: u32,
    /// `None` if the rates are the same.
    work: Option<Work>,
}

struct Work {
    fft: Fft<f32>,
    pending: Vec<f32>,
    block: InterleavedOwned<f32>,
    /// Samples that the filter puts in front, still to be dropped.
    delay: usize,
    /// Samples taken.
    taken: u64,
    /// Samples given.
    given: u64,
}

impl Resampler {
    pub(super) fn new(from: u32, to: u32) -> Result<Self, AudioError> {
        if from == to {
            return Ok(Resampler { from, to, work: None });
        }
        let window = WindowFunction::BlackmanHarris2;
        let fft = Fft::new_custom(from as usize, to as usize, BLOCK, 1, 1, window, FixedSync::Input);
        let fft = fft.map_err(|error| AudioError::Resample { from, to, why: error.to_string() })?;
        let (delay, most) = (fft.output_delay(), fft.output_frames_max());
        let block = InterleavedOwned::new(0.0, 1, most);
        Ok(Resampler { from, to, work: Some(Work { fft, pending: vec![], block, delay, taken: 0, given: 0 }) })
    }

    /// Takes samples, and appends to `out` what they decide.
    pub(super) fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) -> Result<(), AudioError> {
        let (from, to) = (self.from, self.to);
        let Some(work) = &mut self.work else {
            out.extend_from_slice(samples);
            return Ok(());
        };
        work.taken += samples.len() as u64;
        work.pending.extend_from_slice(samples);
        let mut used = 0;
        loop {
            let needed = work.fft.input_frames_next();
            if work.pending.len() - used < needed {
                break;
            }
            work.step(used..used + needed, None, out).map_err(|why| AudioError::Resample { from, to, why })?;
            used += needed;
        }
        work.pending.drain(..used);
        Ok(())
    }

    /// Appends the rest: in all, as many samples as the time that was taken holds, rounded up.
    pub(super) fn finish(mut self, out: &mut Vec<f32>) -> Result<(), AudioError> {
        let (from, to) = (self.from, self.to);
        let Some(work) = &mut self.work else { return Ok(()) };
        let expected = (work.taken * u64::from(to)).div_ceil(u64::from(from));
        let mut rest = work.pending.len();
        while work.given < expected {
            work.step(0..rest, Some(rest), out).map_err(|why| AudioError::Resample { from, to, why })?;
            rest = 0;
        }
        out.truncate(out.len() - (work.given - expected) as usize);
        Ok(())
    }
}

impl Work {
    /// Resamples a stretch of what is pending; `partial` of its samples if the block is to be filled up with silence.
    fn step(
        &mut self,
        range: std::ops::Range<usize>,
        partial: Option<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), String> {
        let input = &self.pending[range];
        let frames = input.len();
        let input = InterleavedSlice::new(input, 1, frames).map_err(|error| error.to_string())?;
        let indexing = partial.map(|frames| Indexing::new().partial_len(frames));
        let (_, made) = self
            .fft
            .process_into_buffer(&input, &mut self.block, indexing.as_ref())
            .map_err(|error| error.to_string())?;
        let dropped = self.delay.min(made);
        self.delay -= dropped;
        out.extend((dropped..made).filter_map(|frame| self.block.read_sample(0, frame)));
        self.given += (made - dropped) as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tone of `hertz` over `seconds`, `rate` samples a second.
    fn tone(hertz: f64, rate: u32, seconds: f64) -> Vec<f32> {
        let samples = (seconds * f64::from(rate)).round() as usize;
        (0..samples).map(|i| (std::f64::consts::TAU * hertz * i as f64 / f64::from(rate)).sin() as f32).collect()
    }

    fn resampled(samples: &[f32], from: u32, to: u32, piece: usize) -> Vec<f32> {
        let mut resampler = Resampler::new(from, to).unwrap();
        let mut out = vec![];
        samples.chunks(piece).for_each(|piece| resampler.push(piece, &mut out).unwrap());
        resampler.finish(&mut out).unwrap();
        out
    }

    #[test]
    fn a_tone_stays_what_and_when_it_is() {
        for (from, to) in [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000), (22_050, 16_000), (11_025, 8_000)] {
            let found = resampled(&tone(440.0, from, 1.0), from, to, 999);
            let expected = tone(440.0, to, 1.0);
            assert_eq!(found.len(), expected.len(), "{from} -> {to}");
            // The tone begins and ends at once, which rings at both ends.
            let middle = to as usize / 10..to as usize * 9 / 10;
            let worst = middle.map(|i| (found[i] - expected[i]).abs()).fold(0f32, f32::max);
            assert!(worst < 1e-4, "{from} -> {to}: {worst}");
        }
    }

    #[test]
    fn what_the_new_rate_cannot_hold_is_gone() {
        let found = resampled(&tone(9_000.0, 44_100, 1.0), 44_100, 16_000, 4_410);
        let loudest = found[1_600..14_400].iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!(loudest < 1e-4, "{loudest}");
    }

    #[test]
    fn the_cut_into_pieces_makes_no_difference() {
        let samples = tone(300.0, 22_050, 0.7);
        let whole = resampled(&samples, 22_050, 16_000, usize::MAX);
        assert_eq!(whole, resampled(&samples, 22_050, 16_000, 1));
        assert_eq!(whole.len(), (samples.len() * 16_000).div_ceil(22_050));
    }

    #[test]
    fn a_few_samples_and_none() {
        assert_eq!(resampled(&[], 44_100, 16_000, 1), [0f32; 0]);
        assert_eq!(resampled(&[0.5], 44_100, 16_000, 1).len(), 1);
        assert_eq!(resampled(&[0.5, -0.5], 16_000, 16_000, 1), [0.5, -0.5]);
    }

    #[test]
    fn rates_without_a_common_divisor() {
        let found = resampled(&tone(100.0, 15_999, 0.5), 15_999, 16_000, 500);
        assert_eq!(found.len(), 8_001); // 8000 samples of 1/15999 s are a little more than 8000 of 1/16000 s
    }
}
