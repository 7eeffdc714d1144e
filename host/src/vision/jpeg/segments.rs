//! The segments of a file, one after the other.

use super::{Fault, damaged};

/// A segment: a marker and, mostly, a body.
pub(super) enum Segment<'a> {
    /// The size of the image and its components; `kind` is the marker.
    Frame { kind: u8, body: &'a [u8] },
    /// What comes next are blocks.
    Scan { body: &'a [u8] },
    /// Tables and remarks; `kind` is the marker.
    Other { kind: u8, body: &'a [u8] },
    /// The end of the image.
    End,
}

/// Where in a file the next segment is looked for.
pub(super) struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    /// The segments behind the first marker, which the caller has seen.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Segments { rest: bytes.get(2..).unwrap_or_default() }
    }

    /// What was not looked at yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Goes on behind that many bytes.
    pub(super) fn skip(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    /// The next segment; whatever stands before its marker is left out, as libjpeg does.
    pub(super) fn advance(&mut self) -> Result<Segment<'a>, Fault> {
        loop {
            let Some(at) = self.rest.iter().position(|&byte| byte == 0xff) else { return Err(cut_off()) };
            self.skip(at);
            let Some(fill) = self.rest.iter().position(|&byte| byte != 0xff) else { return Err(cut_off()) };
            let kind = self.rest[fill];
            self.skip(fill + 1);
            return Ok(match kind {
                // A byte of data, a restart that belongs to nothing, and marks without a body.
                0x00 | 0x01 | 0xd0..=0xd8 => continue,
                0xd9 => Segment::End,
                0xda => Segment::Scan { body: self.body()? },
                // Of this range, three are tables.
                0xc0..=0xcf if !matches!(kind, 0xc4 | 0xc8 | 0xcc) => Segment::Frame { kind, body: self.body()? },
                _ => Segment::Other { kind, body: self.body()? },
            });
        }
    }

    fn body(&mut self) -> Result<&'a [u8], Fault> {
        let &[high, low, ..] = self.rest else { return Err(cut_off()) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let body = self.rest.get(2..length).ok_or_else(cut_off)?;
        self.skip(length);
        Ok(body)
    }
}

fn cut_off() -> Fault {
    damaged("it has no end: the file is cut off")
}
