//! What the segments of a file say about its blocks.

use super::bits::Code;
use super::colour::Colour;
use super::{Fault, Size, damaged};

/// Where the coefficients of a block, as a file lists them, stand in its rows.
pub(super) const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// How many coefficients, as a file lists them, libjpeg guesses while they are not known to the last bit.
const GUESSED: usize = 10;

/// A component: a colour, mostly.
pub(super) struct Component {
    /// What scans call it.
    pub id: u8,
    /// Blocks of a unit, in a row and in a column.
    pub sampling: (usize, usize),
    /// Number of its table of quantisers.
    pub table: u8,
    /// Its quantisers in the order of rows, from its first scan on.
    pub quantiser: Option<[u16; 64]>,
    /// Samples of a row and of a column that mean something.
    pub samples: (usize, usize),
    /// Blocks that hold those, in a row and in a column.
    pub blocks: (usize, usize),
    /// Blocks of a row, with those that only fill the last unit up.
    pub stride: usize,
    /// Rows of blocks, likewise.
    pub rows: usize,
    /// Lowest bit that is known of each coefficient, as the file lists them.
    pub known: [Option<u8>; 64],
}

/// The image and its components.
pub(super) struct Frame {
    /// Its size in pixels.
    pub size: Size,
    /// Whether scans bring blocks bit by bit.
    pub progressive: bool,
    /// One, three or four.
    pub components: Vec<Component>,
    /// The largest sampling in a row and in a column.
    pub sampling: (usize, usize),
    /// Units of a row and of a column.
    pub units: (usize, usize),
}

impl Frame {
    /// Reads the body of a frame that `kind` marks.
    pub(super) fn read(kind: u8, body: &[u8]) -> Result<Self, Fault> {
        let form = |what: &str| Err(Fault::Form(format!("a JPEG of a rare form, {what}: convert it")));
        match kind {
            0xc0..=0xc2 => {}
            0xc3 | 0xc7 | 0xcb | 0xcf => return form("lossless"),
            0xc5 | 0xc6 | 0xcd | 0xce => return form("hierarchical"),
            _ => return form("arithmetic coding"),
        }
        let &[bits, h0, h1, w0, w1, count, ref rest @ ..] = body else { return Err(damaged("its frame is too short")) };
        if bits != 8 {
            return form(&format!("{bits} bits a sample"));
        }
        let size = Size::new(u16::from_be_bytes([h0, h1]).into(), u16::from_be_bytes([w0, w1]).into());
        if size.area() == 0 {
            return Err(damaged(format!("it is {size} pixels")));
        }
        if !matches!(count, 1 | 3 | 4) {
            return form(&format!("{count} components"));
        }
        if rest.len() != 3 * usize::from(count) {
            return Err(damaged("its frame is too short"));
        }
        let samplings = || rest.chunks_exact(3).map(|part| (usize::from(part[1] >> 4), usize::from(part[1] & 15)));
        if let Some(odd) = samplings().find(|(across, down)| !(1..=4).contains(across) || !(1..=4).contains(down)) {
            return Err(damaged(format!("a component has a sampling of {odd:?}")));
        }
        let across = samplings().map(|(across, _)| across).max().unwrap_or(1);
        let down = samplings().map(|(_, down)| down).max().unwrap_or(1);
        if samplings().any(|(a, d)| across % a != 0 || down % d != 0) {
            return form("a component whose sampling is a fraction of another's");
        }
        let (width, height) = (size.width as usize, size.height as usize);
        let units = (width.div_ceil(8 * across), height.div_ceil(8 * down));
        let component = |(part, sampling): (&[u8], (usize, usize))| {
            let samples = ((width * sampling.0).div_ceil(across), (height * sampling.1).div_ceil(down));
            Component {
                id: part[0],
                sampling,
                table: part[2],
                quantiser: None,
                samples,
                blocks: (samples.0.div_ceil(8), samples.1.div_ceil(8)),
                stride: units.0 * sampling.0,
                rows: units.1 * sampling.1,
                known: [None; 64],
            }
        };
        let components: Vec<_> = rest.chunks_exact(3).zip(samplings()).map(component).collect();
        if components.iter().enumerate().any(|(n, part)| components[..n].iter().any(|other| other.id == part.id)) {
            return Err(damaged("two of its components have the same name"));
        }
        Ok(Frame { size, progressive: kind == 0xc2, components, sampling: (across, down), units })
    }

    /// Blocks of all components that a file has to bring.
    pub(super) fn blocks(&self) -> usize {
        self.components.iter().map(|part| part.blocks.0 * part.blocks.1).sum()
    }

    /// Refuses a file that has not brought everything: libjpeg guesses the rest from neighbouring blocks.
    pub(super) fn complete(&self) -> Result<(), Fault> {
        let seen = if self.progressive { GUESSED } else { 1 };
        if self.components.iter().any(|part| part.known[..seen].iter().any(|&bit| bit != Some(0))) {
            return Err(damaged("some of its scans are missing"));
        }
        Ok(())
    }
}

/// Tables and remarks, as far as they were read.
#[derive(Default)]
pub(super) struct Tables {
    quantisers: [Option<[u16; 64]>; 4],
    /// Codes of the first coefficients of blocks, and of the others.
    codes: [[Option<Code>; 4]; 2],
    /// Units between two restarts; none if 0.
    pub interval: usize,
    jfif: bool,
    /// What Adobe's segment says about colours.
    adobe: Option<u8>,
    /// What stands in the Exif segment, from the byte order on.
    pub exif: Option<Vec<u8>>,
}

impl Tables {
    /// Reads the body of a segment that `kind` marks.
    pub(super) fn read(&mut self, kind: u8, body: &[u8]) -> Result<(), Fault> {
        match kind {
            0xc4 => self.read_codes(body)?,
            0xdb => self.read_quantisers(body)?,
            0xdd => {
                let &[high, low] = body else { return Err(damaged("its restart interval is no number")) };
                self.interval = u16::from_be_bytes([high, low]).into();
            }
            0xe0 if body.len() >= 14 && body.starts_with(b"JFIF\0") => self.jfif = true,
            0xe1 if body.starts_with(b"Exif\0\0") && self.exif.is_none() => self.exif = Some(body[6..].to_vec()),
            0xee if body.len() >= 12 && body.starts_with(b"Adobe") => self.adobe = Some(body[11]),
            _ => {}
        }
        Ok(())
    }

    fn read_quantisers(&mut self, mut body: &[u8]) -> Result<(), Fault> {
        while let [head, rest @ ..] = body {
            let bytes = if head >> 4 == 0 { 1 } else { 2 };
            let table = self.quantisers.get_mut(usize::from(head & 15));
            let (Some(table), Some(numbers)) = (table, rest.get(..64 * bytes)) else {
                return Err(damaged("a table of quantisers makes no sense"));
            };
            let mut read = [0; 64];
            for (number, place) in numbers.chunks_exact(bytes).zip(ZIGZAG) {
                read[place] = number.iter().fold(0, |sum, &byte| sum << 8 | u16::from(byte));
            }
            *table = Some(read);
            body = &rest[64 * bytes..];
        }
        Ok(())
    }

    fn read_codes(&mut self, mut body: &[u8]) -> Result<(), Fault> {
        let wrong = || damaged("a table of Huffman codes makes no sense");
        while let [head, rest @ ..] = body {
            let counts: &[u8; 16] = rest.first_chunk().ok_or_else(wrong)?;
            let count = counts.iter().map(|&n| usize::from(n)).sum::<usize>();
            let values = rest.get(16..16 + count).ok_or_else(wrong)?;
            let table =
                self.codes.get_mut(usize::from(head >> 4)).and_then(|kind| kind.get_mut(usize::from(head & 15)));
            *table.ok_or_else(wrong)? = Some(Code::new(counts, values).ok_or_else(wrong)?);
            body = &rest[16 + count..];
        }
        Ok(())
    }

    /// The table of quantisers of a number.
    pub(super) fn quantiser(&self, number: u8) -> Result<[u16; 64], Fault> {
        let table = self.quantisers.get(usize::from(number)).copied().flatten();
        table.ok_or_else(|| damaged(format!("it has no table {number} of quantisers")))
    }

    /// The codes of blocks' first coefficients, of a number.
    pub(super) fn first_code(&self, number: u8) -> Result<&Code, Fault> {
        self.code(0, number)
    }

    /// The codes of blocks' other coefficients, of a number.
    pub(super) fn other_code(&self, number: u8) -> Result<&Code, Fault> {
        self.code(1, number)
    }

    fn code(&self, kind: usize, number: u8) -> Result<&Code, Fault> {
        let table = self.codes[kind].get(usize::from(number)).and_then(Option::as_ref);
        table.ok_or_else(|| damaged(format!("it has no table {number} of Huffman codes")))
    }

    /// What the components stand for: what JFIF and Adobe's segment say and, failing these, their names.
    pub(super) fn colour(&self, frame: &Frame) -> Result<Colour, Fault> {
        let ids: Vec<u8> = frame.components.iter().map(|part| part.id).collect();
        Ok(match (ids.as_slice(), self.adobe) {
            ([_], _) => Colour::Grey,
            ([_, _, _], _) if self.jfif => Colour::Ycc,
            ([_, _, _], Some(0)) => Colour::Rgb,
            ([_, _, _], Some(_)) => Colour::Ycc,
            (b"RGB", None) => Colour::Rgb,
            ([_, _, _], None) => Colour::Ycc,
            (_, None | Some(0)) => Colour::Cmyk,
            (_, Some(_)) => Colour::Ycck,
        })
    }
}
