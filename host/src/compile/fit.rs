//! Whether a program fits the cards: weights and states, as they will be stored there.
//!
//! A lower bound: what a call needs besides is the compiler's to say. So a program that is refused here cannot fit, and
//! one that is not may still not fit.

use qeff_plugin_api::DType;
use qeff_plugin_api::graph::Dim;

use super::{Interface, Options, Specialization};

/// Sizes of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weights {
    /// Elements of matrices, which matrix products may store smaller.
    pub matrix_elements: u64,
    /// Bytes of matrices in the file.
    pub matrix_bytes: u64,
    /// Bytes of everything else on the card.
    pub other_bytes: u64,
    /// Bytes of everything in the file.
    pub file_bytes: u64,
}

impl Weights {
    /// Adds a weight.
    pub(super) fn add(&mut self, shape: &[u64], dtype: DType) {
        let elements = shape.iter().fold(1u64, |product, &n| product.saturating_mul(n));
        let bytes = elements.saturating_mul(dtype.size() as u64);
        self.file_bytes = self.file_bytes.saturating_add(bytes);
        let float = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
        if float && shape.len() >= 2 {
            self.matrix_elements = self.matrix_elements.saturating_add(elements);
            self.matrix_bytes = self.matrix_bytes.saturating_add(bytes);
        } else {
            let on_card = if float { elements.saturating_mul(2) } else { bytes };
            self.other_bytes = self.other_bytes.saturating_add(on_card);
        }
    }
}

/// What a program needs of the cards together, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Weights.
    pub weights: u64,
    /// States at the largest specialization.
    pub states: u64,
}

impl Fit {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.states)
    }
}

/// What `interface` with `weights` needs when compiled as asked.
pub fn fit(interface: &Interface, weights: &Weights, specializations: &[Specialization], options: &Options) -> Fit {
    // MXFP6: 32 numbers of 6 bits and a scale of 8. Embeddings are not matrix products and stay as they are, but which
    // matrices those are cannot be told from here, so the bound counts them as small.
    let matrices = if options.mxfp6_matmul {
        (weights.matrix_elements / 32).saturating_mul(25)
    } else {
        weights.matrix_elements.saturating_mul(options.precision.size())
    };
    let states = specializations
        .iter()
        .map(|specialization| {
            let bytes = interface.states().map(|state| {
                let number = |dim: &Dim| match dim {
                    Dim::Fixed(n) => *n,
                    Dim::Symbol(symbol) => specialization.symbols.get(symbol.name()).copied().unwrap_or(1),
                };
                let elements = state.input.dims.iter().fold(1u64, |product, dim| product.saturating_mul(number(dim)));
                match state {
                    // MXINT8: 32 numbers of 8 bits and a scale of 8.
                    state if options.mxint8_kv_cache && state.is_kv() => (elements / 32).saturating_mul(33),
                    state if state.input.is_float() => elements.saturating_mul(options.precision.size()),
                    state => elements.saturating_mul(state.input.elem.size() as u64),
                }
            });
            bytes.fold(0u64, u64::saturating_add)
        })
        .max()
        .unwrap_or(0);
    Fit { weights: matrices.saturating_add(weights.other_bytes), states }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compile::Precision;
    use crate::compile::testing::decoder;

    #[test]
    fn weights_and_states_as_they_are_stored() {
        let mut weights = Weights::default();
        weights.add(&[64, 32], DType::F32);
        weights.add(&[10], DType::F32);
        weights.add(&[u64::MAX, u64::MAX], DType::I64);
        assert_eq!((weights.matrix_elements, weights.file_bytes), (2048, u64::MAX));
        let weights = Weights { other_bytes: 20, ..weights };
        let symbols = |ctx| BTreeMap::from([("batch_size".to_owned(), 2), ("ctx_len".to_owned(), ctx)]);
        let calls = [64, 128].map(|ctx| Specialization { name: "Decode".into(), symbols: symbols(ctx) });
        let program = decoder("f32", "");
        let fit = |options: &Options| super::fit(&program.interface, &weights, &calls, options);
        // Two rows of two heads, 128 positions, 16 numbers.
        let cache = 2 * 2 * 128 * 16;
        assert_eq!(fit(&Options::default()), Fit { weights: 2 * 2048 + 20, states: 2 * cache });
        let full = Options { precision: Precision::F32, ..Options::default() };
        assert_eq!(fit(&full), Fit { weights: 4 * 2048 + 20, states: 4 * cache });
        let small = Options { mxfp6_matmul: true, mxint8_kv_cache: true, ..Options::default() };
        assert_eq!(fit(&small), Fit { weights: 2048 / 32 * 25 + 20, states: cache / 32 * 33 });
    }
}
