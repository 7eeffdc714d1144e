//! JPEG files as Pillow decodes them, that is libjpeg-turbo, to the bit.
//!
//! The standard leaves open how an inverse transform rounds, and says nothing of how colours of half the resolution are
//! spread over the pixels. Models were trained on one answer. The crates that decode JPEG give others: measured, they
//! differ from it by up to 49 levels of 255 where edges are sharp.
//!
//! Read is what is met: eight bits, Huffman codes, sequential or progressive, one, three or four components, any whole
//! sampling. What is damaged is an error. libjpeg would warn, fill in grey and go on, and nobody would see the warning.
//!
//! | module | what it does |
//! |---|---|
//! | [`segments`] | finds the segments of a file |
//! | [`frame`] | reads what the segments say: sizes, tables, colours |
//! | [`bits`] | reads bits and Huffman codes |
//! | [`scan`] | reads the blocks of a scan |
//! | [`idct`] | turns the coefficients of a block into samples |
//! | [`planes`] | spreads the samples of a component over the pixels |
//! | [`colour`] | turns components into red, green and blue |

mod bits;
mod colour;
mod frame;
mod idct;
mod planes;
mod scan;
mod segments;

use self::frame::{Component, Frame, Tables};
use self::planes::Plane;
use self::scan::Scan;
use self::segments::{Segment, Segments};
use super::Size;

/// Most scans of a file: a progressive file has some ten, and one that is made for it could have millions.
const MAX_SCANS: usize = 100;

/// Why a file cannot be decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It contradicts itself, or ends too early.
    Damaged(String),
    /// It is of a form that is not read.
    Form(String),
    /// It has more pixels than are read.
    TooLarge(Size),
}

fn damaged(why: impl Into<String>) -> Fault {
    Fault::Damaged(why.into())
}

/// A decoded file.
pub(super) struct Decoded {
    /// Its size, as it is stored.
    pub size: Size,
    /// Red, green and blue of each pixel, row by row.
    pub rgb: Vec<u8>,
    /// What stands in its Exif segment, from the byte order on, if there is one.
    pub exif: Option<Vec<u8>>,
}

/// Coefficients of a block, in the order of rows.
type Block = [i16; 64];

/// What is known of a component's samples before all scans are read.
enum Store {
    /// Samples: a sequential scan brings whole blocks.
    Samples(Plane),
    /// Coefficients of each block: each progressive scan adds to them.
    Coefficients(Vec<Block>),
}

/// Decodes the bytes of a file of at most `most` pixels.
pub(super) fn decode(bytes: &[u8], most: u64) -> Result<Decoded, Fault> {
    let mut segments = Segments::new(bytes);
    let mut tables = Tables::default();
    let mut frame: Option<Frame> = None;
    let mut stores: Vec<Store> = vec![];
    let mut scans = 0;
    loop {
        match segments.advance()? {
            Segment::End => break,
            Segment::Frame { kind, body } if frame.is_none() => {
                let read = Frame::read(kind, body)?;
                if read.size.area() > most {
                    return Err(Fault::TooLarge(read.size));
                }
                // Each block takes two bits at least, and one in the first progressive scan: a small file has no need
                // of much memory, whatever it says.
                if read.blocks() / 8 > bytes.len() {
                    return Err(damaged(format!("{} bytes cannot hold {} pixels", bytes.len(), read.size)));
                }
                stores = read.components.iter().map(|part| Store::new(&read, part)).collect();
                frame = Some(read);
            }
            Segment::Frame { .. } => return Err(damaged("it has two frames")),
            Segment::Scan { body } => {
                let Some(frame) = &mut frame else { return Err(damaged("a scan comes before the frame")) };
                scans += 1;
                if scans > MAX_SCANS {
                    return Err(damaged(format!("it has more than {MAX_SCANS} scans")));
                }
                let scan = Scan::read(body, frame)?;
                for &(component, ..) in &scan.parts {
                    // The table that counts is the one at a component's first scan.
                    let part = &mut frame.components[component];
                    if part.quantiser.is_none() {
                        part.quantiser = Some(tables.quantiser(part.table)?);
                    }
                }
                let used = scan.decode(frame, &tables, &mut stores, segments.rest())?;
                segments.skip(used);
            }
            Segment::Other { kind, body } => tables.read(kind, body)?,
        }
    }
    let Some(frame) = frame else { return Err(damaged("it has no frame")) };
    frame.complete()?;
    let colour = tables.colour(&frame)?;
    let planes =
        frame.components.iter().zip(stores).map(|(part, store)| store.samples(&frame, part)).collect::<Vec<_>>();
    Ok(Decoded { size: frame.size, rgb: planes::merge(&frame, &planes, colour), exif: tables.exif })
}

impl Store {
    fn new(frame: &Frame, part: &Component) -> Self {
        if frame.progressive {
            Store::Coefficients(vec![[0; 64]; part.stride * part.rows])
        } else {
            Store::Samples(Plane::new(part.stride, part.rows))
        }
    }

    fn samples(self, frame: &Frame, part: &Component) -> Plane {
        match self {
            Store::Samples(plane) => plane,
            Store::Coefficients(blocks) => {
                debug_assert!(frame.progressive);
                let quantiser = part.quantiser.unwrap_or([1; 64]);
                let mut plane = Plane::new(part.stride, part.rows);
                for (index, block) in blocks.iter().enumerate() {
                    plane.put(index, &idct::samples(block, &quantiser));
                }
                plane
            }
        }
    }
}

#[cfg(test)]
mod tests;
