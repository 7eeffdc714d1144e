//! From pixels to a row for each patch.

use crate::build::{Scope, Value};
use crate::config::{Config, ConfigError};
use crate::graph::{AttrValue, Dim, Type};

/// How an image is cut into patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patches {
    /// Colours.
    pub channels: u64,
    /// Height and width of an image.
    pub image: [u64; 2],
    /// Height and width of a patch. What is left of an image at its end is not looked at.
    pub patch: [u64; 2],
    /// Numbers of a row.
    pub hidden: u64,
}

impl Patches {
    /// Reads `image_size`, `patch_size` and `num_channels`; sizes are numbers, or pairs of them.
    ///
    /// # Errors
    /// If one is malformed, or a patch is larger than the image.
    pub fn read(config: &Config, hidden: u64, [image, patch]: [u64; 2]) -> Result<Self, ConfigError> {
        let image = config.count_pair_or("image_size", image)?;
        let patch = config.count_pair_or("patch_size", patch)?;
        if patch[0] > image[0] || patch[1] > image[1] {
            return Err(config.unsupported("patch_size", format!("at most image_size = {image:?}")));
        }
        Ok(Patches { channels: config.count_or("num_channels", 3)?, image, patch, hidden })
    }

    /// Rows and columns of patches.
    pub fn grid(&self) -> [u64; 2] {
        [self.image[0] / self.patch[0], self.image[1] / self.patch[1]]
    }

    /// How many patches there are.
    pub fn count(&self) -> u64 {
        self.grid()[0].saturating_mul(self.grid()[1])
    }

    /// `pixels[N, channels, height, width]` as `[N, patches, hidden]`, by the tensor `weight` of this scope, and its `bias`
    /// if there is one.
    pub fn embed<'g>(&self, at: Scope<'g>, pixels: Value<'g>, bias: bool) -> Value<'g> {
        let Some(ty) = pixels.ty() else { return pixels };
        let [rows, columns] = self.grid();
        let kernel = self.patch.map(|n| n as i64).to_vec();
        let weight = [self.hidden, self.channels, self.patch[0], self.patch[1]];
        let mut operands = vec![pixels, at.weight_of_shape(at.tensor("weight"), &weight)];
        if bias {
            operands.push(at.weight_of_shape(at.tensor("bias"), &[self.hidden]));
        }
        let attrs = [("kernel_shape", AttrValue::Ints(kernel.clone())), ("strides", AttrValue::Ints(kernel))];
        let count = ty.dims.first().cloned().unwrap_or(Dim::Fixed(1));
        let dims =
            |dims: &[u64]| [count.clone()].into_iter().chain(dims.iter().map(|&n| Dim::Fixed(n))).collect::<Vec<_>>();
        let x = at.typed("Conv", &operands, &attrs, Type::new(ty.elem, dims(&[self.hidden, rows, columns])));
        let x = at.reshape(x, &[0, self.hidden as i64, -1], dims(&[self.hidden, self.count()]));
        at.transpose(x, &[0, 2, 1])
    }
}

/// `x[N, rows, hidden]` with the row `class[1, 1, hidden]` before them.
pub fn with_class<'g>(at: Scope<'g>, x: Value<'g>, class: Value<'g>) -> Value<'g> {
    let Some(ty) = x.ty() else { return x };
    let [count, rows, hidden] = ty.dims.as_slice() else { return x };
    // Expanding to 1 keeps a length.
    let shape = at.concat(0, &[at.length(x, 0), at.integers(&[1, 1])], 3);
    let one = Type::new(ty.elem, [count.clone(), Dim::Fixed(1), hidden.clone()]);
    let class = at.typed("Expand", &[class, shape], &[], one);
    at.concat(1, &[class, x], rows.fixed().map_or_else(|| rows.clone(), |n| Dim::Fixed(n + 1)))
}
