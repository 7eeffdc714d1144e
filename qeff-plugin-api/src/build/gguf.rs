//! GGUF files: the same tensors under other names, some of them with rows in another order.
//!
//! A description is written against the names of the family's own checkpoints. A family that is also published as GGUF adds
//! one table, and the builder looks names up through it when the index is that of a GGUF file. What a layout changes
//! becomes steps of the weight expression, so nothing after the description knows where a weight came from.

use crate::{TensorIndex, WeightExpr};

/// A tensor that every GGUF file of a language model has, and no other checkpoint.
const MARK: &str = "token_embd.weight";

/// How the GGUF files of a family call and lay out its tensors.
///
/// `weight` and `bias` are called the same on both sides; a table names what stands in front of them.
#[derive(Debug, Clone, Copy)]
pub struct GgufNames<'a> {
    /// Modules outside of layers: path in the module tree, name in the file.
    pub modules: &'a [(&'a str, &'a str)],
    /// Path of the list of layers, e.g. `model.layers`; files call it `blk`.
    pub layers: &'a str,
    /// Modules of a layer: path within the layer, name in the file, layout.
    pub of_layer: &'a [(&'a str, &'a str, GgufLayout)],
}

/// What a file does to a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufLayout {
    /// Nothing.
    Same,
    /// Matrices are `[out, in]` where the family's own checkpoints have `[in, out]`.
    Transposed,
    /// Rows of each head stand in the order of interleaved rotary pairs: row `2i` and `2i + 1` of a head of `d` are its
    /// rows `i` and `i + d/2`.
    RotaryPairs {
        /// Number of heads.
        heads: u64,
    },
}

impl GgufNames<'_> {
    /// Whether an index is that of a GGUF file.
    pub(super) fn fit(index: &TensorIndex) -> bool {
        index.contains(MARK)
    }

    /// The tensor that this file has for `name`, as the description expects it.
    pub(super) fn expr(&self, name: &str, index: &TensorIndex) -> Option<WeightExpr> {
        let (stored, layout) = self.stored(name)?;
        let shape = index.get(&stored).map(|info| info.shape.clone()).unwrap_or_default();
        let tensor = WeightExpr::tensor(stored);
        Some(match (layout, shape.as_slice()) {
            (GgufLayout::Transposed, [_, _]) => tensor.transposed(),
            // Rows that do not divide are left alone: they do not have the shape that the description asks for either.
            (GgufLayout::RotaryPairs { heads }, [rows, columns @ ..])
                if heads.checked_mul(2).is_some_and(|n| n > 0 && rows % n == 0) =>
            {
                let pairs = [&[heads, rows / heads / 2, 2], columns].concat();
                let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..pairs.len()).collect();
                let halves = WeightExpr::Transpose { of: Box::new(tensor.reshape(pairs)), perm };
                halves.reshape(shape)
            }
            _ => tensor,
        })
    }

    /// The name in the file, if the table has one.
    fn stored(&self, name: &str) -> Option<(String, GgufLayout)> {
        let (module, leaf) = name.rsplit_once('.')?;
        let within = module.strip_prefix(self.layers).and_then(|rest| rest.strip_prefix('.'));
        if let Some((number, path)) = within.and_then(|rest| rest.split_once('.')) {
            let (_, stored, layout) = self.of_layer.iter().find(|(here, ..)| *here == path)?;
            return Some((format!("blk.{number}.{stored}.{leaf}"), *layout));
        }
        let (_, stored) = self.modules.iter().find(|(here, _)| *here == module)?;
        Some((format!("{stored}.{leaf}"), GgufLayout::Same))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, TensorInfo};

    #[test]
    fn names_and_layouts_become_expressions() {
        let names = GgufNames {
            modules: &[("model.norm", "output_norm")],
            layers: "model.layers",
            of_layer: &[
                ("attn.q", "attn_q", GgufLayout::RotaryPairs { heads: 2 }),
                ("mlp", "ffn", GgufLayout::Transposed),
                ("ln", "attn_norm", GgufLayout::Same),
            ],
        };
        let shapes: [(&str, &[u64]); 4] =
            [("blk.3.attn_q.weight", &[8, 6]), ("blk.3.attn_q.bias", &[8]), ("blk.0.ffn.weight", &[4, 6]), ("x", &[1])];
        let index: TensorIndex = shapes
            .map(|(name, shape)| (name.to_owned(), TensorInfo { dtype: DType::F32, shape: shape.to_vec() }))
            .into_iter()
            .collect();
        let cases = [
            (
                "model.layers.3.attn.q.weight",
                Some(r#"w"blk.3.attn_q.weight".reshape(2, 2, 2, 6).transpose(0, 2, 1, 3).reshape(8, 6)"#),
            ),
            (
                "model.layers.3.attn.q.bias",
                Some(r#"w"blk.3.attn_q.bias".reshape(2, 2, 2).transpose(0, 2, 1).reshape(8)"#),
            ),
            ("model.layers.0.mlp.weight", Some(r#"w"blk.0.ffn.weight".transpose(1, 0)"#)),
            ("model.layers.0.mlp.bias", Some(r#"w"blk.0.ffn.bias""#)),
            ("model.layers.11.ln.weight", Some(r#"w"blk.11.attn_norm.weight""#)),
            ("model.norm.weight", Some(r#"w"output_norm.weight""#)),
            ("model.layers.0.other.weight", None),
            ("other.weight", None),
        ];
        for (name, expected) in cases {
            let expr = names.expr(name, &index).map(|expr| expr.to_string());
            assert_eq!(expr.as_deref(), expected, "{name}");
        }
    }
}
