//! Rolling states: which row a position lives in, and which position a row holds.
//!
//! Both targets compute the same from the positions of a call: no counter is kept on the device, so a slot can be taken
//! over, and rows of a batch may be of different ages. With T the length of a state and m the largest position of a batch
//! row in this call, position p lives in row `p mod T`, and row r holds the largest position up to m that does, which is
//! negative, and so nobody's, where the sequence has not come so far.

use qeff_plugin_api::graph::{Dim, ValueId};

use super::Target;
use super::common::Reach;
use super::writer::Writer;

impl Writer<'_> {
    /// Positions that states along `axis` hold, 0-dimensional.
    fn rolling_length(&mut self, axis: &Dim) -> String {
        let length = self.state_length(axis);
        match self.target {
            Target::Aic => length,
            // One row is the slack row.
            Target::Cpu => self.shared(format!("rolling length {axis}"), |w| {
                let one = w.int(1);
                w.node("Sub", &[&length, &one], &[])
            }),
        }
    }

    /// The largest position of each row of a call, `[B, 1]`.
    pub(super) fn newest(&mut self, positions: ValueId) -> String {
        self.shared(format!("newest {positions:?}"), |w| {
            let positions = w.name(positions);
            w.largest(&positions)
        })
    }

    /// Where new rows go, `[B, S]`: −1 for padding, and for positions whose row a later one of the same call takes, since a
    /// scatter does not say which of two rows it writes.
    pub(super) fn rolling_rows(&mut self, axis: &Dim, positions: ValueId) -> String {
        let (length, newest) = (self.rolling_length(axis), self.newest(positions));
        self.shared(format!("rolling rows {axis} {positions:?}"), |w| {
            let (positions, zero, none) = (w.name(positions), w.int(0), w.int(-1));
            let overwritten = w.node("Sub", &[&newest, &length], &[]);
            let overwritten = w.node("LessOrEqual", &[&positions, &overwritten], &[]);
            let padding = w.node("Less", &[&positions, &zero], &[]);
            let lost = w.node("Or", &[&padding, &overwritten], &[]);
            let row = w.node("Mod", &[&positions, &length], &[]);
            w.node("Where", &[&lost, &none, &row], &[])
        })
    }

    /// The position that each row holds after the writes of a call, `[B, L]`; negative if it holds none.
    pub(super) fn rolling_keys(&mut self, axis: &Dim, positions: ValueId) -> String {
        let (length, newest, rows) =
            (self.rolling_length(axis), self.newest(positions), self.state_rows(&Reach::whole(axis)));
        let slack = self.target == Target::Cpu;
        self.shared(format!("rolling keys {axis} {positions:?}"), |w| {
            let turn = w.node("Mod", &[&newest, &length], &[]);
            let turn = w.node("Sub", &[&newest, &turn], &[]);
            let this = w.node("Add", &[&turn, &rows], &[]);
            let before = w.node("Sub", &[&this, &length], &[]);
            let later = w.node("Greater", &[&this, &newest], &[]);
            let keys = w.node("Where", &[&later, &before, &this], &[]);
            if !slack {
                return keys;
            }
            let none = w.int(-1);
            let slack = w.node("Equal", &[&rows, &length], &[]);
            w.node("Where", &[&slack, &none, &keys], &[])
        })
    }
}
