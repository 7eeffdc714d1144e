//! Regions: sets of elements as loops, pushed from a result down to the tensors it is made of.
//!
//! A region is a nest of loops; for every iteration it knows one element of the output buffer and one coordinate per
//! axis, each a sum `start + Σ step · counter`. Layout steps only rewrite the coordinates, so a chain of them costs
//! nothing and needs no intermediate tensor. Where a step needs a quotient and a remainder (reshape, take, repeat) and the
//! loops do not line up with the divisor, the region is cut into regions that do. In the worst case that is element by
//! element, never more memory.
//!
//! This module knows arithmetic. It does not know what a step is ([`super::plan`]) or what an element is.

use std::ops::Range;

/// One loop: how often it turns and how far it moves in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loop {
    /// At least 2: a loop of one turn is dropped.
    pub(super) extent: u64,
    /// Elements of the output buffer per turn.
    pub(super) out: u64,
}

/// A coordinate: `start + Σ steps[l] · counter of loop l`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) start: u64,
    pub(super) steps: Vec<u64>,
}

/// See the module documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) loops: Vec<Loop>,
    /// First element in the output buffer.
    pub(super) out: u64,
    /// One form per axis of the expression the region is in.
    pub(super) axes: Vec<Form>,
}

impl Region {
    /// The box `ranges` of a tensor, written densely in row-major order. No range may be empty.
    pub(super) fn of_box(ranges: &[Range<u64>]) -> Self {
        let turning: Vec<usize> = (0..ranges.len()).filter(|&axis| ranges[axis].end - ranges[axis].start > 1).collect();
        let mut loops = vec![Loop { extent: 0, out: 1 }; turning.len()];
        let mut out = 1;
        for (at, &axis) in turning.iter().enumerate().rev() {
            let extent = ranges[axis].end - ranges[axis].start;
            loops[at] = Loop { extent, out };
            out *= extent;
        }
        let form = |(axis, range): (usize, &Range<u64>)| Form {
            start: range.start,
            steps: turning.iter().map(|&turning| u64::from(turning == axis)).collect(),
        };
        Self { loops, out: 0, axes: ranges.iter().enumerate().map(form).collect() }
    }

    /// Last value of a coordinate.
    fn last(&self, axis: usize) -> u64 {
        let form = &self.axes[axis];
        form.start + self.loops.iter().zip(&form.steps).map(|(l, step)| step * (l.extent - 1)).sum::<u64>()
    }

    /// The turns before `turns` of loop `at`, and those from there on.
    fn cut(mut self, at: usize, turns: u64) -> (Self, Self) {
        let Loop { extent, out } = self.loops[at];
        debug_assert!(0 < turns && turns < extent);
        let mut tail = self.clone();
        tail.out += turns * out;
        tail.axes.iter_mut().for_each(|form| form.start += turns * form.steps[at]);
        self.set_extent(at, turns);
        tail.set_extent(at, extent - turns);
        (self, tail)
    }

    fn set_extent(&mut self, at: usize, extent: u64) {
        if extent > 1 {
            self.loops[at].extent = extent;
        } else {
            self.loops.remove(at);
            for form in &mut self.axes {
                form.steps.remove(at);
            }
        }
    }

    /// Loop `at` becomes two, the inner one of `turns` turns, which has to divide its extent.
    fn nest(&mut self, at: usize, turns: u64) {
        let Loop { extent, out } = self.loops[at];
        debug_assert!(extent.is_multiple_of(turns) && 1 < turns && turns < extent);
        self.loops[at].extent = turns;
        self.loops.insert(at, Loop { extent: extent / turns, out: out * turns });
        self.axes.iter_mut().for_each(|form| form.steps.insert(at, form.steps[at] * turns));
    }

    /// All axes become one: `Σ weights[a] · axis a`.
    pub(super) fn flatten(mut self, weights: &[u64]) -> Self {
        let mut flat = Form { start: 0, steps: vec![0; self.loops.len()] };
        for (form, weight) in self.axes.iter().zip(weights) {
            flat.start += form.start * weight;
            flat.steps.iter_mut().zip(&form.steps).for_each(|(to, step)| *to += step * weight);
        }
        self.axes = vec![flat];
        self
    }

    /// `axis` becomes two axes, its quotient by `modulus` and its remainder, in as many regions as that takes.
    pub(super) fn divide<E>(
        mut self,
        axis: usize,
        modulus: u64,
        then: &mut dyn FnMut(Region) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            // A step that is a multiple of the modulus moves the quotient alone; together the others have to stay below it.
            let form = &self.axes[axis];
            let base = form.start % modulus;
            let mut span = 0;
            let mut widest: Option<(usize, u64)> = None;
            for (at, (l, &step)) in self.loops.iter().zip(&form.steps).enumerate() {
                if !step.is_multiple_of(modulus) {
                    span += step * (l.extent - 1);
                    widest = widest.filter(|&(_, s)| s >= step).or(Some((at, step)));
                }
            }
            let (at, step) = match widest {
                Some(widest) if base + span >= modulus => widest,
                _ => {
                    let part = |f: &dyn Fn(u64) -> u64, start| Form {
                        start,
                        steps: form.steps.iter().map(|&s| f(s)).collect(),
                    };
                    let quotient =
                        part(&|s| if s.is_multiple_of(modulus) { s / modulus } else { 0 }, form.start / modulus);
                    let remainder = part(&|s| if s.is_multiple_of(modulus) { 0 } else { s }, base);
                    self.axes.splice(axis..=axis, [quotient, remainder]);
                    return then(self);
                }
            };
            let extent = self.loops[at].extent;
            let others = base + span - step * (extent - 1);
            let period = modulus / step;
            if modulus.is_multiple_of(step) && period > 1 && others < step && extent > period {
                // In step with the modulus: whole periods become a loop of their own.
                let whole = extent / period * period;
                let (mut body, tail) = match whole < extent {
                    true => {
                        let (body, tail) = self.cut(at, whole);
                        (body, Some(tail))
                    }
                    false => (self, None),
                };
                if whole > period {
                    body.nest(at, period);
                }
                body.divide(axis, modulus, then)?;
                match tail {
                    Some(tail) => self = tail,
                    None => return Ok(()),
                }
                continue;
            }
            // Out of step: as many turns as fit before the remainder wraps; if not even the first fits, that one alone.
            let turns = if others < modulus { (modulus - 1 - others) / step + 1 } else { 1 };
            let (head, tail) = self.cut(at, turns);
            head.divide(axis, modulus, then)?;
            self = tail;
        }
    }

    /// Cuts the region so that `axis` stays within one segment; `segment` gives a value's segment, which need not start
    /// at it. `then` gets each region with its segment; the coordinate is left as it is.
    pub(super) fn segments<E>(
        mut self,
        axis: usize,
        segment: &dyn Fn(u64) -> (usize, Range<u64>),
        then: &mut dyn FnMut(Region, usize, Range<u64>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let start = self.axes[axis].start;
            let last = self.last(axis);
            let (number, range) = segment(start);
            if last < range.end {
                return then(self, number, range);
            }
            let steps = self.axes[axis].steps.iter().copied().enumerate();
            let Some((at, step)) = steps.max_by_key(|&(_, step)| step).filter(|&(_, step)| step > 0) else {
                unreachable!("a coordinate that does not move ends where it starts");
            };
            let others = last - step * (self.loops[at].extent - 1);
            let turns = if others < range.end { (range.end - 1 - others) / step + 1 } else { 1 };
            let (head, tail) = self.cut(at, turns);
            head.segments(axis, segment, then)?;
            self = tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All (output element, coordinates) of a region, in order of the output.
    fn elements(region: &Region) -> Vec<(u64, Vec<u64>)> {
        let mut all = vec![(region.out, region.axes.iter().map(|form| form.start).collect::<Vec<_>>())];
        for (at, l) in region.loops.iter().enumerate() {
            let step = |(out, coordinates): (u64, Vec<u64>)| {
                (0..l.extent).map(move |turn| {
                    let moved = region.axes.iter().zip(&coordinates).map(|(form, c)| c + turn * form.steps[at]);
                    (out + turn * l.out, moved.collect())
                })
            };
            all = all.into_iter().flat_map(step).collect();
        }
        all.sort();
        all
    }

    fn regions() -> impl Strategy<Value = Region> {
        let loops = prop::collection::vec((2..7u64, 0..9u64), 0..4);
        (loops, 0..20u64).prop_map(|(loops, start)| {
            let mut out = 1;
            let (mut nest, mut steps) = (Vec::new(), Vec::new());
            for (extent, step) in loops {
                nest.push(Loop { extent, out });
                steps.push(step);
                out *= extent;
            }
            Region { loops: nest, out: 0, axes: vec![Form { start, steps }] }
        })
    }

    proptest! {
        #[test]
        fn division_is_exact(region in regions(), modulus in 1..12u64) {
            let expected: Vec<_> =
                elements(&region).into_iter().map(|(out, c)| (out, vec![c[0] / modulus, c[0] % modulus])).collect();
            let mut found = Vec::new();
            region.divide::<()>(0, modulus, &mut |region| { found.extend(elements(&region)); Ok(()) }).unwrap();
            found.sort();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn segments_cover_everything_once(region in regions(), width in 1..12u64) {
            let expected = elements(&region);
            let mut found = Vec::new();
            let segment = |value: u64| ((value / width) as usize, value / width * width..(value / width + 1) * width);
            region.segments::<()>(0, &segment, &mut |region, number, range| {
                for (out, c) in elements(&region) {
                    assert!(range.contains(&c[0]) && c[0] / width == number as u64);
                    found.push((out, c));
                }
                Ok(())
            }).unwrap();
            found.sort();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn aligned_division_makes_one_region() {
        let mut count = 0;
        let whole = 0..4096;
        Region::of_box(std::slice::from_ref(&whole))
            .divide::<()>(0, 128, &mut |region| {
                count += 1;
                assert_eq!(region.loops, [Loop { extent: 32, out: 128 }, Loop { extent: 128, out: 1 }]);
                Ok(())
            })
            .unwrap();
        assert_eq!(count, 1);
    }
}
