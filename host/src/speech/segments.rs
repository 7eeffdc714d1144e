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

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments as (start, end, tokens), for timestamps from 100 on; and how far on the next window is.
    #[track_caller]
    fn check(tokens: &[u32], expected: &[(f64, f64, &[u32])], on: usize) {
        let (found, frames) = split(tokens, 100, 50, 200);
        let expected: Vec<_> = expected.iter().map(|&(start, end, tokens)| (start, end, tokens.to_vec())).collect();
        let round = |seconds: f64| (seconds * 1e6).round() / 1e6;
        let found: Vec<_> = found.into_iter().map(|s| (round(s.start), round(s.end), s.tokens)).collect();
        assert_eq!((found, frames), (expected, on), "{tokens:?}");
    }

    #[test]
    fn pairs_of_timestamps_part_segments_and_what_breaks_off_is_heard_again() {
        check(&[100, 1, 110, 110, 2, 120, 120, 3], &[(0.5, 0.7, &[100, 1, 110]), (0.7, 0.9, &[110, 2, 120, 120])], 40);
    }

    #[test]
    fn a_lone_timestamp_at_the_end_ends_the_window() {
        check(&[100, 1, 110, 112, 2, 130], &[(0.5, 0.7, &[100, 1, 110]), (0.74, 1.1, &[112, 2, 130])], 200);
    }

    #[test]
    fn without_a_pair_all_is_one_segment() {
        check(&[100, 1, 2, 115], &[(0.5, 0.8, &[100, 1, 2, 115])], 200);
        check(&[100, 1, 2], &[(0.5, 2.5, &[100, 1, 2])], 200);
        check(&[], &[(0.5, 2.5, &[])], 200);
    }

    #[test]
    fn tokens_that_stand_still_do_not_stop_the_clock() {
        check(&[100, 100], &[(0.5, 0.5, &[100, 100])], 200);
    }
}
