//! The steps that every tile goes through.

use std::path::Path;

use super::super::resize::resize;
use super::super::{Rgb, Size, VisionError};
use super::{Resize, Steps, check};

impl Steps {
    /// The tile resized and cropped.
    pub(super) fn apply(&self, tile: &Rgb, path: &Path) -> Result<Rgb, VisionError> {
        let tile = match self.resize {
            None => tile.clone(),
            Some((to, filter)) => {
                let size = to.of(tile.size());
                check(size, path, "the resized image")?;
                if size.area() == 0 {
                    return Err(VisionError::Shape {
                        path: path.to_owned(),
                        size: tile.size(),
                        why: format!("resized, it would be {size}"),
                    });
                }
                resize(tile, size, filter)
            }
        };
        Ok(match self.crop {
            None => tile,
            Some(size) => {
                tile.window(middle(tile.size().height, size.height), middle(tile.size().width, size.width), size)
            }
        })
    }

    /// Appends the numbers of a tile, colour after colour.
    pub(super) fn numbers(&self, tile: &Rgb, out: &mut Vec<f32>) {
        for colour in 0..3 {
            // There are 256 of them: doubles and divisions cost nothing.
            let table: Vec<f32> = (0..=u8::MAX).map(|byte| self.number(byte, colour)).collect();
            out.extend(tile.data().iter().skip(colour).step_by(3).map(|&byte| table[usize::from(byte)]));
        }
    }

    fn number(&self, byte: u8, colour: usize) -> f32 {
        let number = self.rescale.map_or(f32::from(byte), |factor| (f64::from(byte) * factor) as f32);
        self.normalise.map_or(number, |[mean, deviation]| (number - mean[colour]) / deviation[colour])
    }
}

impl Resize {
    fn of(self, from: Size) -> Size {
        match self {
            Resize::To(size) => size,
            Resize::ShortestEdge(edge) => {
                let (short, long) = (from.height.min(from.width), from.height.max(from.width));
                let long = (u64::from(edge) * u64::from(long)) as f64 / f64::from(short);
                // No image of so many pixels is made: saturating is enough.
                let long = long as u32;
                if from.width <= from.height { Size::new(long, edge) } else { Size::new(edge, long) }
            }
        }
    }
}

/// Where a cut of `to` pixels out of the middle of `from` begins. A cut that is larger has its odd pixel at the beginning.
fn middle(from: u32, to: u32) -> i64 {
    (i64::from(from) - i64::from(to)).div_euclid(2)
}
