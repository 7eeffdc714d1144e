//! Which tokens may follow: suppressed ones never, timestamps in pairs and in order.

use super::settings::Settings;

/// The rules of one transcript.
pub(super) struct Rules<'a> {
    pub(super) settings: &'a Settings,
    /// Whether there are timestamps.
    pub(super) timestamps: bool,
}

impl Rules<'_> {
    /// Makes the scores of what must not follow `generated` those of the impossible.
    pub(super) fn apply(&self, scores: &mut [f32], generated: &[u32]) {
        let begin = if generated.is_empty() { self.settings.begin_suppress.as_slice() } else { &[] };
        for &id in self.settings.suppress.iter().chain(begin) {
            forbid(scores, id as usize..id as usize + 1);
        }
        if let Some(off) = self.settings.no_timestamps.filter(|_| self.timestamps) {
            self.apply_timestamps(scores, generated, off);
        }
    }

    fn apply_timestamps(&self, scores: &mut [f32], generated: &[u32], off: u32) {
        let all = scores.len();
        let first = self.settings.first_timestamp() as usize;
        forbid(scores, off as usize..first);
        let is_stamp = |id: &u32| *id as usize >= first;
        let last = generated.last().is_some_and(is_stamp);
        let before = generated.len() < 2 || is_stamp(&generated[generated.len() - 2]);
        match (last, before) {
            // A pair is complete, or the first one stands: text follows.
            (true, true) => forbid(scores, first..all),
            // Text has ended: the next stretch begins, or the transcript ends.
            (true, false) => forbid(scores, 0..self.settings.eos.first().map_or(0, |&id| id as usize)),
            _ => {}
        }
        if let Some(&latest) = generated.iter().rev().find(|id| is_stamp(id)) {
            // The second of a pair may repeat the first; otherwise time goes on.
            let from = if last && !before { latest } else { latest.saturating_add(1) };
            forbid(scores, first..from as usize);
        }
        if generated.is_empty() {
            forbid(scores, 0..first);
            if let Some(steps) = self.settings.latest_start {
                forbid(scores, first.saturating_add(steps as usize).saturating_add(1)..all);
            }
        }
        // If some timestamp is likelier than each text, it is one.
        let first = first.min(all);
        let text = scores[..first].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if log_sum_exp(&scores[first..]) > f64::from(text) {
            forbid(scores, 0..first);
        }
    }
}

fn forbid(scores: &mut [f32], ids: std::ops::Range<usize>) {
    let end = ids.end.min(scores.len());
    if let Some(scores) = scores.get_mut(ids.start..end) {
        scores.fill(f32::NEG_INFINITY);
    }
}

/// `ln Σ eˣ`; minus infinity for nothing.
pub(super) fn log_sum_exp(scores: &[f32]) -> f64 {
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if top == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let top = f64::from(top);
    top + scores.iter().map(|&x| (f64::from(x) - top).exp()).sum::<f64>().ln()
}
