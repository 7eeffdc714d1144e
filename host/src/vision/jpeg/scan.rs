//! The blocks of a scan.

use super::bits::{Bits, Code};
use super::frame::{Frame, Tables, ZIGZAG};
use super::{Block, Fault, Store, damaged, idct};

/// What a scan brings.
pub(super) struct Scan {
    /// Components it brings, and their codes: of the first coefficients, and of the others.
    pub parts: Vec<(usize, u8, u8)>,
    /// First and last coefficient, as a file lists them.
    first: usize,
    last: usize,
    /// Whether an earlier scan has brought higher bits of them.
    refines: bool,
    /// The lowest bit that it brings.
    low: u8,
}

/// What one block passes on to the next.
#[derive(Default)]
struct Past {
    /// The last first coefficient of each component.
    firsts: [i32; 4],
    /// How many more blocks have ended already.
    ended: u32,
}

/// The codes of a component.
struct Codes<'a> {
    first: Option<&'a Code>,
    other: Option<&'a Code>,
}

impl Scan {
    /// Reads the head of a scan, and notes in the frame what will be known by it.
    pub(super) fn read(body: &[u8], frame: &mut Frame) -> Result<Self, Fault> {
        let wrong = || damaged("the head of a scan makes no sense");
        let (&count, rest) = body.split_first().ok_or_else(wrong)?;
        let count = usize::from(count);
        let (names, band) = rest.split_at_checked(2 * count).ok_or_else(wrong)?;
        let &[first, last, bits] = band else { return Err(wrong()) };
        let mut parts: Vec<(usize, u8, u8)> = vec![];
        for name in names.chunks_exact(2) {
            let component = frame.components.iter().position(|part| part.id == name[0]).ok_or_else(wrong)?;
            if parts.last().is_some_and(|&(before, ..)| before >= component) {
                return Err(wrong());
            }
            parts.push((component, name[1] >> 4, name[1] & 15));
        }
        let scan = if frame.progressive {
            let (high, low) = (bits >> 4, bits & 15);
            let scan = Scan { parts, first: first.into(), last: last.into(), refines: high > 0, low };
            let band = if scan.first == 0 { scan.last == 0 } else { scan.parts.len() == 1 && scan.first <= scan.last };
            if !band || scan.last > 63 || low > 13 || (scan.refines && high != low + 1) {
                return Err(wrong());
            }
            scan
        } else {
            Scan { parts, first: 0, last: 63, refines: false, low: 0 }
        };
        if scan.parts.is_empty() {
            return Err(wrong());
        }
        for &(component, ..) in &scan.parts {
            for known in &mut frame.components[component].known[scan.first..=scan.last] {
                *known = Some(scan.low);
            }
        }
        Ok(scan)
    }

    /// Reads its blocks from what `bytes` begin with; how many bytes they took.
    pub(super) fn decode(
        &self,
        frame: &Frame,
        tables: &Tables,
        stores: &mut [Store],
        bytes: &[u8],
    ) -> Result<usize, Fault> {
        let mut codes = vec![];
        for &(_, first, other) in &self.parts {
            codes.push(Codes {
                first: (self.first == 0 && !self.refines).then(|| tables.first_code(first)).transpose()?,
                other: (self.last > 0).then(|| tables.other_code(other)).transpose()?,
            });
        }
        let mut bits = Bits::new(bytes);
        let mut past = Past::default();
        // A component by itself comes block by block, and those that only fill up are left out.
        let alone = match *self.parts.as_slice() {
            [(component, ..)] => Some(&frame.components[component]),
            _ => None,
        };
        let (across, down) = alone.map_or(frame.units, |part| part.blocks);
        for unit in 0..across * down {
            if tables.interval > 0 && unit > 0 && unit % tables.interval == 0 {
                bits.restart((unit / tables.interval - 1) as u8 & 7)?;
                past = Past::default();
            }
            let (row, column) = (unit / across, unit % across);
            for (&(component, ..), codes) in self.parts.iter().zip(&codes) {
                let part = &frame.components[component];
                let (wide, tall) = if alone.is_some() { (1, 1) } else { part.sampling };
                for index in 0..wide * tall {
                    let place = (row * tall + index / wide) * part.stride + column * wide + index % wide;
                    match &mut stores[component] {
                        Store::Samples(plane) => {
                            let mut block = [0; 64];
                            whole(&mut block, &mut bits, codes, &mut past.firsts[component])?;
                            let quantiser = part.quantiser.as_ref().unwrap_or(&[1; 64]);
                            plane.put(place, &idct::samples(&block, quantiser));
                        }
                        Store::Coefficients(blocks) => {
                            let block = &mut blocks[place];
                            match (self.first, self.refines) {
                                (0, false) => self.first(block, &mut bits, codes, &mut past.firsts[component])?,
                                (0, true) => block[0] |= i16::from(bits.bit()?) << self.low,
                                (_, false) => self.others(block, &mut bits, codes, &mut past.ended)?,
                                (_, true) => self.refine(block, &mut bits, codes, &mut past.ended)?,
                            }
                        }
                    }
                }
            }
        }
        Ok(bits.used())
    }

    /// The upper bits of a block's first coefficient.
    fn first(&self, block: &mut Block, bits: &mut Bits<'_>, codes: &Codes<'_>, last: &mut i32) -> Result<(), Fault> {
        block[0] = (next_first(bits, codes, last)? << self.low) as i16;
        Ok(())
    }

    /// The upper bits of a band of a block's other coefficients.
    fn others(&self, block: &mut Block, bits: &mut Bits<'_>, codes: &Codes<'_>, ended: &mut u32) -> Result<(), Fault> {
        if *ended > 0 {
            *ended -= 1;
            return Ok(());
        }
        let mut at = self.first;
        while at <= self.last {
            let (zeros, size) = next_other(bits, codes)?;
            match (zeros, size) {
                (15, 0) => at += 16,
                (_, 0) => {
                    *ended = (1 << zeros) - 1 + bits.number(zeros)?;
                    break;
                }
                _ => {
                    at += zeros as usize;
                    *place(block, at, self.last)? = (bits.signed(size)? << self.low) as i16;
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// One more bit of a band of a block's other coefficients: of those that are not zero, and which of the others are one
    /// now.
    fn refine(&self, block: &mut Block, bits: &mut Bits<'_>, codes: &Codes<'_>, ended: &mut u32) -> Result<(), Fault> {
        let one = 1 << self.low;
        let mut at = self.first;
        while *ended == 0 && at <= self.last {
            let (mut zeros, size) = next_other(bits, codes)?;
            let new = match size {
                0 if zeros < 15 => {
                    *ended = (1 << zeros) + bits.number(zeros)?;
                    break;
                }
                0 => 0,
                _ if bits.bit()? => one,
                _ => -one,
            };
            while at <= self.last {
                let coefficient = &mut block[ZIGZAG[at]];
                if *coefficient != 0 {
                    more(coefficient, one, bits)?;
                } else if zeros == 0 {
                    if new != 0 {
                        *coefficient = new;
                    }
                    break;
                } else {
                    zeros -= 1;
                }
                at += 1;
            }
            at += 1;
        }
        if *ended > 0 {
            for &place in ZIGZAG.get(at..=self.last).unwrap_or_default() {
                if block[place] != 0 {
                    more(&mut block[place], one, bits)?;
                }
            }
            *ended -= 1;
        }
        Ok(())
    }
}

/// One more bit of a coefficient that is not zero.
fn more(coefficient: &mut i16, one: i16, bits: &mut Bits<'_>) -> Result<(), Fault> {
    if bits.bit()? && *coefficient & one == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient > 0 { one } else { -one });
    }
    Ok(())
}

/// A whole block.
fn whole(block: &mut Block, bits: &mut Bits<'_>, codes: &Codes<'_>, last: &mut i32) -> Result<(), Fault> {
    block[0] = next_first(bits, codes, last)? as i16;
    let mut at = 1;
    while at < 64 {
        let (zeros, size) = next_other(bits, codes)?;
        match (zeros, size) {
            (15, 0) => at += 16,
            (_, 0) => break,
            _ => {
                at += zeros as usize;
                *place(block, at, 63)? = bits.signed(size)? as i16;
                at += 1;
            }
        }
    }
    Ok(())
}

/// The next first coefficient, which is told by its difference from the last one.
fn next_first(bits: &mut Bits<'_>, codes: &Codes<'_>, last: &mut i32) -> Result<i32, Fault> {
    let size = match codes.first {
        Some(code) => bits.value(code)?,
        None => 0,
    };
    if size > 15 {
        return Err(damaged("a coefficient is too large"));
    }
    *last = last.wrapping_add(bits.signed(size.into())?);
    Ok(*last)
}

/// How many zeros come before the next coefficient that is none, and its bits.
fn next_other(bits: &mut Bits<'_>, codes: &Codes<'_>) -> Result<(u32, u32), Fault> {
    let value = match codes.other {
        Some(code) => bits.value(code)?,
        None => 0,
    };
    Ok((u32::from(value >> 4), u32::from(value & 15)))
}

/// The coefficient that a file lists at `at`.
fn place(block: &mut Block, at: usize, last: usize) -> Result<&mut i16, Fault> {
    if at > last {
        return Err(damaged("a block has too many coefficients"));
    }
    Ok(&mut block[ZIGZAG[at]])
}
