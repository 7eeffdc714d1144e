//! The stretches of a window's tokens between timestamps, and where the next window begins.

use super::settings::STRIDE;

/// Seconds from one timestamp token to the next.
const STEP: f64 = 0.02;

/// Seconds from one frame of features to the next, as timestamps count them.
const FRAME: f64 = STEP / STRIDE as f64;

/// Some words and when they are said.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Beginning, in seconds.
    pub start: f64,
    /// End, in seconds.
    pub end: f64,
    /// The tokens, timestamps included.
    pub tokens: Vec<u32>,
}

/// The segments of a window's `tokens`, and how many frames on the next window begins.
///
/// The window has `frames` frames of sound from frame `seek` on; timestamps are the tokens from `first` on. If the tokens break
/// off after a pair of timestamps, the next window begins there; otherwise after this one.
pub(super) fn split(tokens: &[u32], first: u32, seek: usize, frames: usize) -> (Vec<Segment>, usize) {
    let offset = seek as f64 * FRAME;
    let is_stamp = |id: &u32| *id >= first;
    let time = |id: u32| offset + f64::from(id.saturating_sub(first)) * STEP;
    // A lone timestamp at the end: nothing is said after it.
    let ends_alone = tokens.len() >= 2 && !is_stamp(&tokens[tokens.len() - 2]) && is_stamp(&tokens[tokens.len() - 1]);
    let mut cuts: Vec<usize> =
        (1..tokens.len()).filter(|&i| is_stamp(&tokens[i - 1]) && is_stamp(&tokens[i])).collect();
    let Some(&pair) = cuts.last() else {
        let steps = match tokens.iter().rfind(|id| is_stamp(id)) {
            Some(&last) if last != first => f64::from(last - first),
            _ => (frames as f64 * FRAME / STEP).trunc(),
        };
        let whole = Segment { start: offset, end: offset + steps * STEP, tokens: tokens.to_vec() };
        return (vec![whole], frames);
    };
    if ends_alone {
        cuts.push(tokens.len());
    } else if let Some(last) = cuts.last_mut() {
        // The last segment keeps both timestamps of the pair, by which it is known to be whole.
        *last += 1;
    }
    let mut segments = vec![];
    let mut begin = 0;
    for (i, &cut) in cuts.iter().enumerate() {
        let stretch = &tokens[begin..cut];
        let back = if i + 1 == cuts.len() && !ends_alone { 2 } else { 1 };
        let end = stretch.len().checked_sub(back).map_or(first, |i| stretch[i]);
        let start = stretch.first().copied().unwrap_or(first);
        segments.push(Segment { start: time(start), end: time(end), tokens: stretch.to_vec() });
        begin = cut;
    }
    let on = if ends_alone { frames } else { (tokens[pair - 1] - first) as usize * STRIDE };
    // Timestamps never stand still; tokens of a stranger's making might.
    (segments, if on == 0 { frames } else { on })
}
