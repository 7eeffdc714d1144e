//! One row of logits becomes one id.
//!
//! Checkpoints ship sampling settings tuned for Hugging Face `generate`, so the order and the arithmetic here are its own:
//! the repetition penalty on raw logits first, then temperature, top-k, top-p and min-p, each on what the step before
//! left. The random numbers are ours (PyTorch's cannot be reproduced outside it), so a draw agrees with the reference in
//! distribution, and greedy choice agrees exactly.
//!
//! This module knows a row, a history and settings. It does not know the tokenizer, EOS, or the other rows of a batch: each
//! request draws from a stream derived from the seed and its own index, so that batching cannot change a result.

use std::cmp::Ordering;

/// How to choose the next id. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 chooses the largest logit and ignores the three filters below.
    pub temperature: f32,
    /// Keeps the `k` largest logits, and all that equal the smallest of them. `None` keeps all.
    pub top_k: Option<usize>,
    /// Keeps the smallest set of most likely ids whose probabilities reach this sum, in (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Keeps ids at least this likely relative to the most likely one, in [0, 1]; 0 keeps all.
    pub min_p: f32,
    /// Above 1, makes ids of the prompt and the answer so far less likely; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Same seed, same request, same ids.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_k: None, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

/// Settings that make no distribution, or a row that has no largest value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A setting outside its range.
    #[error("{name} is {found}; expected {expected}")]
    Setting {
        /// The field of [`Sampling`].
        name: &'static str,
        /// Its value.
        found: String,
        /// The range.
        expected: &'static str,
    },
    /// No logit is a number above -inf, so no id is better than another.
    #[error(
        "none of the {len} logits is a number above -inf ({nan} are NaN)\nhint: the model's numbers overflowed; try a wider data type"
    )]
    NoLogits {
        /// Length of the row.
        len: usize,
        /// How many of them are NaN.
        nan: usize,
    },
}

impl Sampling {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`SamplingError::Setting`] names the first one outside its range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let rows = [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 (greedy) or a positive number"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "a number above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "a number from 0 to 1"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0.0, "a positive number"),
        ];
        for (name, found, in_range, expected) in rows {
            if !(in_range && found.is_finite()) {
                return Err(SamplingError::Setting { name, found: found.to_string(), expected });
            }
        }
        if self.top_k == Some(0) {
            let expected = "1 or more; leave it out to keep all";
            return Err(SamplingError::Setting { name: "top_k", found: "0".into(), expected });
        }
        Ok(())
    }
}

/// Chooses ids for one request.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: Sampling,
    random: Random,
    /// Scratch for a penalised row, kept to spare an allocation of the vocabulary's size per id.
    scores: Vec<f32>,
}

impl Sampler {
    /// A sampler for a request on its own, the same as request 0 of a batch.
    ///
    /// # Errors
    ///
    /// A setting outside its range.
    pub fn new(settings: &Sampling) -> Result<Sampler, SamplingError> {
        Sampler::for_request(settings, 0)
    }

    /// A sampler for request `index` of a batch, whatever its place in the batch is while it runs.
    ///
    /// # Errors
    ///
    /// A setting outside its range.
    pub fn for_request(settings: &Sampling, index: u64) -> Result<Sampler, SamplingError> {
        settings.validate()?;
        Ok(Sampler { settings: settings.clone(), random: Random::new(settings.seed, index), scores: Vec::new() })
    }

    /// Chooses the next id from a row of logits (one per id, unnormalised) and the ids so far, prompt included.
    ///
    /// NaN counts as -inf. Where logits are +inf, the first of them is chosen. Ids in `history` beyond the row, such as
    /// placeholders of an image, are not penalised.
    ///
    /// # Errors
    ///
    /// [`SamplingError::NoLogits`] for a row without any number above -inf.
    pub fn pick(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, SamplingError> {
        let mut scores = std::mem::take(&mut self.scores);
        let row = self.penalise(logits, history, &mut scores);
        let picked = match first_maximum(row) {
            None => Err(no_logits(logits)),
            Some((best, top)) if self.settings.temperature == 0.0 || top == f32::INFINITY => Ok(best),
            Some((best, top)) => Ok(self.draw(row, best, top)),
        };
        self.scores = scores;
        picked
    }

    fn penalise<'a>(&self, logits: &'a [f32], history: &[u32], scores: &'a mut Vec<f32>) -> &'a [f32] {
        let penalty = self.settings.repetition_penalty;
        if penalty == 1.0 {
            return logits;
        }
        scores.clear();
        scores.extend_from_slice(logits);
        for id in history {
            // Always from the raw logit, so an id that occurs twice is penalised once.
            if let (Some(score), Some(logit)) = (scores.get_mut(*id as usize), logits.get(*id as usize)) {
                *score = if *logit < 0.0 { logit * penalty } else { logit / penalty };
            }
        }
        scores
    }

    /// Draws from the filtered distribution; `best` is the first maximum of `row` and `top` its finite value.
    fn draw(&mut self, row: &[f32], best: u32, top: f32) -> u32 {
        let kept = self.distribution(row, top);
        let total: f64 = kept.iter().map(|candidate| candidate.weight).sum();
        let mut left = self.random.unit() * total;
        for candidate in &kept {
            left -= candidate.weight;
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding ate the last step; the most likely id is never filtered.
        best
    }

    /// The ids that temperature and filters leave.
    fn distribution(&self, row: &[f32], top: f32) -> Vec<Candidate> {
        // Temperature scales in f32 like the reference; subtracting the maximum first keeps a tiny one from overflowing
        // and changes no probability.
        let temperature = self.settings.temperature;
        let scaled = |logit: f32| (logit - top) / temperature;
        let ids = row.iter().zip(0u32..).filter(|(logit, _)| **logit > f32::NEG_INFINITY);
        let mut kept: Vec<Candidate> = ids.map(|(logit, id)| Candidate::new(id, scaled(*logit))).collect();
        if let Some(k) = self.settings.top_k {
            keep_top_k(&mut kept, k);
        }
        if self.settings.top_p < 1.0 {
            keep_top_p(&mut kept, self.settings.top_p.into());
        }
        if self.settings.min_p > 0.0 {
            // The most likely id has weight 1, so the ratio of probabilities is the weight itself.
            let least = f64::from(self.settings.min_p);
            kept.retain(|candidate| candidate.weight >= least);
        }
        kept
    }
}

/// An id that may be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    /// Scaled logit, at most 0.
    score: f32,
    /// `exp(score)`: the probability up to a common factor.
    weight: f64,
}

impl Candidate {
    fn new(id: u32, score: f32) -> Candidate {
        Candidate { id, score, weight: f64::from(score).exp() }
    }

    /// Likely ids first; of equals, the smaller id.
    fn rank(&self, other: &Candidate) -> Ordering {
        other.score.total_cmp(&self.score).then(self.id.cmp(&other.id))
    }
}

fn keep_top_k(kept: &mut Vec<Candidate>, k: usize) {
    if k >= kept.len() {
        return;
    }
    let (_, smallest, _) = kept.select_nth_unstable_by(k - 1, Candidate::rank);
    let threshold = smallest.score;
    kept.retain(|candidate| candidate.score >= threshold);
    kept.sort_unstable_by(Candidate::rank);
}

/// Keeps an id while those before it have not reached the share `p`. Sorts only as much of the head as it needs: a model
/// that is sure of itself settles within a few ids of a vocabulary of many thousands.
fn keep_top_p(kept: &mut Vec<Candidate>, p: f64) {
    let needed = p * kept.iter().map(|candidate| candidate.weight).sum::<f64>();
    let mut sum = 0.0;
    let mut sorted = 0;
    let mut block = 64;
    while sorted < kept.len() {
        let rest = &mut kept[sorted..];
        let head = block.min(rest.len());
        if head < rest.len() {
            rest.select_nth_unstable_by(head - 1, Candidate::rank);
        }
        rest[..head].sort_unstable_by(Candidate::rank);
        for (place, candidate) in rest[..head].iter().enumerate() {
            sum += candidate.weight;
            if sum >= needed {
                kept.truncate(sorted + place + 1);
                return;
            }
        }
        sorted += head;
        block *= 4;
    }
}

/// The first largest value and its place; NaN and -inf never win.
///
/// A vocabulary has a hundred thousand logits, and every token of every sequence is chosen here. So the row is read once, at
/// the speed of memory: in blocks whose maximum takes vector instructions, and only the block that holds the largest is
/// looked through for its place.
fn first_maximum(row: &[f32]) -> Option<(u32, f32)> {
    /// Logits of a block: few enough to stay in the nearest cache, many enough that blocks cost nothing.
    const BLOCK: usize = 2048;
    let (mut top, mut best) = (f32::NEG_INFINITY, None);
    for (number, block) in row.chunks(BLOCK).enumerate() {
        let largest = maximum(block);
        if largest > top {
            (top, best) = (largest, Some((number, block)));
        }
    }
    let (number, block) = best?;
    let place = number * BLOCK + block.iter().position(|&logit| logit == top)?;
    Some((u32::try_from(place).ok()?, top))
}

/// The largest value; -inf if there is none but NaN.
fn maximum(block: &[f32]) -> f32 {
    /// Maxima that are kept side by side, so that no comparison waits for the one before.
    const LANES: usize = 32;
    let (chunks, rest) = block.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            // Written so, NaN on the right never wins, and the compiler makes one instruction of it.
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let larger = |top: f32, &logit: &f32| if logit > top { logit } else { top };
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, larger)
}

fn no_logits(logits: &[f32]) -> SamplingError {
    SamplingError::NoLogits { len: logits.len(), nan: logits.iter().filter(|logit| logit.is_nan()).count() }
}

/// xoshiro256++ seeded by SplitMix64, both by Blackman and Vigna. Written out here because a seed is a promise: the same
/// ids next year, whatever version of a library is current.
#[derive(Debug, Clone)]
struct Random {
    state: [u64; 4],
}

impl Random {
    fn new(seed: u64, stream: u64) -> Random {
        // The stream's number is mixed before it meets the seed, so that (1, 2) and (2, 1) have nothing in common.
        let mut mixer = stream;
        let mut mixer = seed ^ split_mix(&mut mixer);
        Random { state: std::array::from_fn(|_| split_mix(&mut mixer)) }
    }

    fn next(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// Uniform in [0, 1), with 53 random bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
