//! Bits of a scan, and the Huffman codes they spell.

use super::{Fault, damaged};

/// Bits that are looked up at once.
const QUICK: u32 = 9;

/// A table of Huffman codes.
pub(super) struct Code {
    /// By the next [`QUICK`] bits: bits of the code, and its value; no bits if the code is longer.
    quick: Vec<(u8, u8)>,
    /// By length: one more than the largest code of it, with 16 bits; what `values` begin with less the first code.
    lengths: [(u32, i32); 17],
    values: Vec<u8>,
}

impl Code {
    /// The table of so many codes of each length, for these values; `None` if there are no such codes.
    pub(super) fn new(counts: &[u8; 16], values: &[u8]) -> Option<Self> {
        let mut quick = vec![(0, 0); 1 << QUICK];
        let mut lengths = [(0, 0); 17];
        let (mut code, mut at) = (0_u32, 0_usize);
        for (length, &count) in (1_u32..).zip(counts) {
            let these = values.get(at..at + usize::from(count))?;
            lengths[length as usize].1 = at as i32 - code as i32;
            for &value in these {
                if code >= 1 << length {
                    return None;
                }
                if length <= QUICK {
                    let first = (code << (QUICK - length)) as usize;
                    quick[first..first + (1 << (QUICK - length))].fill((length as u8, value));
                }
                code += 1;
            }
            lengths[length as usize].0 = code << (16 - length);
            at += these.len();
            code <<= 1;
        }
        Some(Code { quick, lengths, values: values.to_vec() })
    }
}

/// The bits of a scan, up to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bits that were read and not used, at the lower end.
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// The bits that `bytes` begin with.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Bits { bytes, at: 0, held: 0, count: 0 }
    }

    /// Bytes up to the marker, once nothing more is read.
    pub(super) fn used(&self) -> usize {
        self.at
    }

    /// The next `wanted` bits, at most 16, without using them; zeros where there are none left.
    fn peek(&mut self, wanted: u32) -> u32 {
        while self.count < wanted {
            let byte = match self.bytes.get(self.at..) {
                // Within a scan, 255 is followed by a zero that means nothing.
                Some([0xff, 0, ..]) => {
                    self.at += 1;
                    0xff
                }
                Some([0xff, ..] | []) | None => break,
                Some([byte, ..]) => *byte,
            };
            self.at += 1;
            self.held = self.held << 8 | u64::from(byte);
            self.count += 8;
        }
        let bits =
            if self.count >= wanted { self.held >> (self.count - wanted) } else { self.held << (wanted - self.count) };
        bits as u32 & ((1 << wanted) - 1)
    }

    fn take(&mut self, count: u32) -> Result<(), Fault> {
        self.count =
            self.count.checked_sub(count).ok_or_else(|| damaged("a scan ends too early: the file is cut off"))?;
        Ok(())
    }

    /// The next `count` bits, at most 16, as a number.
    pub(super) fn number(&mut self, count: u32) -> Result<u32, Fault> {
        let number = self.peek(count);
        self.take(count)?;
        Ok(number)
    }

    /// The next bit.
    pub(super) fn bit(&mut self) -> Result<bool, Fault> {
        Ok(self.number(1)? == 1)
    }

    /// The next `count` bits, at most 16, as a number with a sign: the lower half of what they could be is negative.
    pub(super) fn signed(&mut self, count: u32) -> Result<i32, Fault> {
        let number = self.number(count)? as i32;
        Ok(if count > 0 && number < 1 << (count - 1) { number - (1 << count) + 1 } else { number })
    }

    /// The value of the next code.
    pub(super) fn value(&mut self, code: &Code) -> Result<u8, Fault> {
        let bits = self.peek(16);
        let (length, value) = code.quick[(bits >> (16 - QUICK)) as usize];
        if length > 0 {
            self.take(length.into())?;
            return Ok(value);
        }
        for length in QUICK + 1..=16 {
            let (end, offset) = code.lengths[length as usize];
            if bits < end {
                self.take(length)?;
                let at = (bits >> (16 - length)) as i32 + offset;
                return code.values.get(at as usize).copied().ok_or_else(no_code);
            }
        }
        Err(if self.count < 16 { damaged("a scan ends too early: the file is cut off") } else { no_code() })
    }

    /// Goes on behind the next marker, which has to be the restart of this number.
    pub(super) fn restart(&mut self, number: u8) -> Result<(), Fault> {
        (self.held, self.count) = (0, 0);
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let fill = rest.iter().take_while(|&&byte| byte == 0xff).count();
        if fill == 0 || rest.get(fill) != Some(&(0xd0 + number)) {
            return Err(damaged("a restart is missing"));
        }
        self.at += fill + 1;
        Ok(())
    }
}

fn no_code() -> Fault {
    damaged("a scan has bits that are no Huffman code")
}
