//! Image files as pixels.
//!
//! PNG and JPEG, told apart by their first bytes whatever the file is called. Pixels come out as Pillow's
//! `convert("RGB")` gives them after `exif_transpose`: 16 bits lose their lower half, transparency is dropped without
//! blending, grey is repeated three times. Sizes are looked at before memory is asked for.

use std::io::Cursor;
use std::path::Path;

use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::jpeg::{self, Fault};
use super::{Size, VisionError};

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// Most pixels of an image, and of anything that is made of one; where Pillow begins to warn of decompression bombs.
pub const MAX_PIXELS: u64 = 89_478_485;

/// An image, three bytes a pixel, row by row.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb {
    size: Size,
    data: Vec<u8>,
}

impl std::fmt::Debug for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb({})", self.size)
    }
}

impl Rgb {
    /// An image of `data`, red, green and blue of each pixel; `None` if there are more or fewer bytes than `size` says.
    pub fn new(size: Size, data: Vec<u8>) -> Option<Self> {
        (size.area().checked_mul(3) == Some(data.len() as u64)).then_some(Rgb { size, data })
    }

    /// One colour everywhere.
    pub(super) fn filled(size: Size, colour: [u8; 3]) -> Self {
        let pixels = size.height as usize * size.width as usize;
        Rgb { size, data: colour.iter().copied().cycle().take(3 * pixels).collect() }
    }

    /// Its size.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Three bytes a pixel, row by row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes of a row.
    pub(super) fn row(&self, y: u32) -> &[u8] {
        let stride = 3 * self.size.width as usize;
        &self.data[y as usize * stride..][..stride]
    }

    /// The bytes of each row, to be written.
    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.data.chunks_exact_mut(3 * self.size.width.max(1) as usize)
    }

    /// What lies within `size` from row `top` and column `left` on; both may lie outside, where pixels are black.
    pub(super) fn window(&self, top: i64, left: i64, size: Size) -> Rgb {
        let mut cut = Rgb::filled(size, [0; 3]);
        cut.put(self, -top, -left);
        cut
    }

    /// Puts an image over this one, its corner at row `top` and column `left`; what falls outside is lost.
    pub(super) fn put(&mut self, other: &Rgb, top: i64, left: i64) {
        let (mine, its) = (self.size, other.size);
        let columns = left.max(0)..(left + i64::from(its.width)).min(i64::from(mine.width));
        if columns.is_empty() {
            return;
        }
        let count = 3 * (columns.end - columns.start) as usize;
        for y in top.max(0)..(top + i64::from(its.height)).min(i64::from(mine.height)) {
            let from = &other.row((y - top) as u32)[3 * (columns.start - left) as usize..][..count];
            let at = 3 * (y as usize * mine.width as usize + columns.start as usize);
            self.data[at..at + count].copy_from_slice(from);
        }
    }

    /// Reads the image file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, is no PNG or JPEG, is damaged, or too large.
    pub fn open(path: &Path) -> Result<Self, VisionError> {
        Self::decode(&read(path)?, path)
    }

    /// Decodes the bytes of an image file; `path` is its name in messages.
    ///
    /// # Errors
    /// As [`Rgb::open`].
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Self, VisionError> {
        if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            return png(bytes, path);
        }
        if bytes.starts_with(b"\xff\xd8\xff") {
            return jpeg(bytes, path);
        }
        Err(VisionError::Kind { path: path.to_owned(), found: looks_like(bytes).into() })
    }
}

/// The bytes of an image file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, VisionError> {
    let failed = |source| VisionError::Read { path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(VisionError::Kind { path: path.to_owned(), found: "a folder or a device".into() });
    }
    if meta.len() > MAX_FILE {
        return Err(too_large(path, "the file", format!("{} bytes", meta.len()), format!("{MAX_FILE} bytes")));
    }
    std::fs::read(path).map_err(failed)
}

/// What a file that is no image of ours is, by its first bytes.
fn looks_like(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "an empty file",
        [b'G', b'I', b'F', b'8', ..] => "a GIF: convert it",
        [b'B', b'M', ..] => "a BMP: convert it",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "a WebP: convert it",
        [b'R', b'I', b'F', b'F', ..] => "a RIFF file (sound?)",
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "a TIFF: convert it",
        [b'%', b'P', b'D', b'F', ..] => "a PDF: render its pages first",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "a HEIF, AVIF or video file: convert it",
        [b'<', ..] => "text that begins with `<` (SVG, or an error page instead of a download?)",
        _ => "something else",
    }
}

fn too_large(path: &Path, what: &'static str, found: String, most: String) -> VisionError {
    VisionError::TooLarge { path: path.to_owned(), what, found, most }
}

fn damaged(path: &Path, format: &'static str, why: String) -> VisionError {
    VisionError::Damaged { path: path.to_owned(), format, why }
}

fn too_many_pixels(path: &Path, size: Size) -> VisionError {
    too_large(path, "the image", format!("{size} pixels"), format!("{MAX_PIXELS} pixels"))
}

fn jpeg(bytes: &[u8], path: &Path) -> Result<Rgb, VisionError> {
    let decoded = jpeg::decode(bytes, MAX_PIXELS).map_err(|fault| match fault {
        Fault::Damaged(why) => damaged(path, "JPEG", why),
        Fault::Form(found) => VisionError::Kind { path: path.to_owned(), found },
        Fault::TooLarge(size) => too_many_pixels(path, size),
    })?;
    let orientation = decoded.exif.as_deref().and_then(Orientation::from_exif_chunk);
    Ok(upright(Rgb { size: decoded.size, data: decoded.rgb }, orientation.unwrap_or(Orientation::NoTransforms)))
}

fn png(bytes: &[u8], path: &Path) -> Result<Rgb, VisionError> {
    let failed = |error: ImageError| damaged(path, "PNG", error.to_string());
    // The decoder panics on such a palette (image-rs/image-png issue 694; png 0.18.1 is the last release).
    if let Some(odd) = palette(bytes).filter(|length| length % 3 != 0) {
        return Err(damaged(path, "PNG", format!("its palette has {odd} bytes, which are no colours of three")));
    }
    let mut decoder = PngDecoder::with_limits(Cursor::new(bytes), Limits::default()).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let size = Size { height, width };
    if size.area() > MAX_PIXELS {
        return Err(too_many_pixels(path, size));
    }
    if size.area() == 0 {
        return Err(damaged(path, "PNG", format!("it is {size} pixels")));
    }
    // A pixel takes a bit at least, and deflate makes 1032 bytes of one at most: a small file has no need of much memory,
    // whatever it says.
    if size.area() / 8 / 1032 > bytes.len() as u64 {
        return Err(damaged(path, "PNG", format!("{} bytes cannot hold {size} pixels", bytes.len())));
    }
    // Whatever cannot be read in there says nothing about the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let colour = decoder.color_type();
    let mut raw = vec![0; size.area() as usize * usize::from(colour.bytes_per_pixel())];
    decoder.read_image(&mut raw).map_err(failed)?;
    let data = match colour {
        ColorType::Rgb8 => raw,
        ColorType::L8 => spread(&raw, 1, |p| [p[0]; 3]),
        ColorType::La8 => spread(&raw, 2, |p| [p[0]; 3]),
        ColorType::Rgba8 => spread(&raw, 4, |p| [p[0], p[1], p[2]]),
        ColorType::L16 => spread(&raw, 2, |p| [upper(p, 0); 3]),
        ColorType::La16 => spread(&raw, 4, |p| [upper(p, 0); 3]),
        ColorType::Rgb16 => spread(&raw, 6, |p| [upper(p, 0), upper(p, 2), upper(p, 4)]),
        ColorType::Rgba16 => spread(&raw, 8, |p| [upper(p, 0), upper(p, 2), upper(p, 4)]),
        other => {
            let found = format!("one whose pixels are {other:?}: convert it to 8 bits");
            return Err(VisionError::Kind { path: path.to_owned(), found });
        }
    };
    Ok(upright(Rgb { size, data }, orientation))
}

/// Bytes of a PNG's palette, if it has one.
fn palette(png: &[u8]) -> Option<usize> {
    let mut rest = png.get(8..)?;
    loop {
        let (&length, body) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        match body.first_chunk::<4>()? {
            b"PLTE" => return Some(length),
            // Palettes come before pixels.
            b"IDAT" => return None,
            // The kind, and a checksum behind the data.
            _ => rest = body.get(length.checked_add(8)?..)?,
        }
    }
}

fn spread(raw: &[u8], width: usize, colour: impl Fn(&[u8]) -> [u8; 3]) -> Vec<u8> {
    raw.chunks_exact(width).flat_map(colour).collect()
}

/// The upper half of the 16 bits at `at`; decoders give them in the machine's order.
fn upper(pixel: &[u8], at: usize) -> u8 {
    (u16::from_ne_bytes([pixel[at], pixel[at + 1]]) >> 8) as u8
}

/// The image as it is meant to be looked at.
fn upright(image: Rgb, orientation: Orientation) -> Rgb {
    let Size { height, width } = image.size;
    let (h, w) = (height as usize, width as usize);
    // Where the pixel at row y and column x of the result is found, and whether rows and columns change places.
    type Place = fn(usize, usize, usize, usize) -> (usize, usize);
    let (turned, place): (bool, Place) = match orientation {
        Orientation::NoTransforms => return image,
        Orientation::Rotate90 => (true, |y, x, h, _| (h - 1 - x, y)),
        Orientation::Rotate180 => (false, |y, x, h, w| (h - 1 - y, w - 1 - x)),
        Orientation::Rotate270 => (true, |y, x, _, w| (x, w - 1 - y)),
        Orientation::FlipHorizontal => (false, |y, x, _, w| (y, w - 1 - x)),
        Orientation::FlipVertical => (false, |y, x, h, _| (h - 1 - y, x)),
        Orientation::Rotate90FlipH => (true, |y, x, _, _| (x, y)),
        Orientation::Rotate270FlipH => (true, |y, x, h, w| (h - 1 - x, w - 1 - y)),
    };
    let size = if turned { Size::new(width, height) } else { image.size };
    let mut data = Vec::with_capacity(image.data.len());
    for y in 0..size.height as usize {
        for x in 0..size.width as usize {
            let (row, column) = place(y, x, h, w);
            data.extend_from_slice(&image.data[3 * (row * w + column)..][..3]);
        }
    }
    Rgb { size, data }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
