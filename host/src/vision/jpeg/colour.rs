//! From components to red, green and blue.

/// What components stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    /// Brightness.
    Grey,
    /// Red, green, blue.
    Rgb,
    /// Brightness and two differences of colour.
    Ycc,
    /// Cyan, magenta, yellow and black: how much ink is not there, as Adobe began it and Pillow assumes of everybody.
    Cmyk,
    /// Black as in [`Colour::Cmyk`]; the inks themselves as brightness and two differences.
    Ycck,
}

impl Colour {
    /// Writes the pixels of a row whose components are given; these may be longer than the row.
    pub(super) fn row(self, parts: &[Vec<u8>], pixels: &mut [u8]) {
        let pixels = pixels.chunks_exact_mut(3);
        match (self, parts) {
            (Colour::Grey, [grey, ..]) => {
                for (pixel, &grey) in pixels.zip(grey) {
                    pixel.fill(grey);
                }
            }
            (_, [a, b, c, black, ..]) => {
                for ((((pixel, &a), &b), &c), &black) in pixels.zip(a).zip(b).zip(c).zip(black) {
                    // In YCCK the three make red, green and blue, and these are inks.
                    let light = if self == Colour::Ycck { rgb(a, b, c).map(|part| 255 - part) } else { [a, b, c] };
                    pixel.copy_from_slice(&light.map(|light| black - product(255 - light, black)));
                }
            }
            (_, [a, b, c, ..]) => {
                for (((pixel, &a), &b), &c) in pixels.zip(a).zip(b).zip(c) {
                    pixel.copy_from_slice(&if self == Colour::Ycc { rgb(a, b, c) } else { [a, b, c] });
                }
            }
            _ => {}
        }
    }
}

/// Red, green and blue of a brightness and two differences, in 16 bits behind the point.
fn rgb(y: u8, blue: u8, red: u8) -> [u8; 3] {
    let (y, blue, red) = (i32::from(y), i32::from(blue) - 128, i32::from(red) - 128);
    const HALF: i32 = 1 << 15;
    let parts = [(91881 * red + HALF) >> 16, (-22554 * blue - 46802 * red + HALF) >> 16, (116130 * blue + HALF) >> 16];
    parts.map(|part| (y + part).clamp(0, 255) as u8)
}

/// The product of two parts of 255, rounded.
fn product(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    ((product + (product >> 8)) >> 8) as u8
}
