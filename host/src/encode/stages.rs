//! What becomes of a pooled vector before it is handed over.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use qeff_core::weights::{Checkpoint as Weights, evaluate_to_vec};
use qeff_plugin_api::{DType, WeightExpr};

use super::fields::{count, fields, flag};

/// A step after pooling.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// To length 1.
    Normalise,
    /// A projection.
    Dense(Dense),
}

impl Stage {
    /// The step applied to one vector.
    ///
    /// # Errors
    /// If the vector has another width than a projection takes.
    pub fn apply(&self, vector: &mut Vec<f32>) -> Result<()> {
        match self {
            Stage::Normalise => normalise(vector),
            Stage::Dense(dense) => *vector = dense.apply(vector)?,
        }
        Ok(())
    }
}

/// Scales a vector to length 1. One without a direction stays as it is, as `torch.nn.functional.normalize` leaves it.
pub fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x /= length);
}

/// The cosine of the angle between two vectors of one width.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()).max(1e-12)
}

/// A layer of a sentence-transformers folder: `activation(W·x + b)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    input: usize,
    /// Row by row, one for each number that comes out.
    weight: Vec<f32>,
    /// Zeros if the layer has none.
    bias: Vec<f32>,
    tanh: bool,
}

impl Dense {
    /// Reads the layer of a folder: config.json, and model.safetensors with `linear.weight` and `linear.bias`.
    ///
    /// # Errors
    /// If a file is missing or malformed, or asks for an activation that there is not.
    pub fn open(folder: &Path) -> Result<Self> {
        let file = folder.join("config.json");
        let Some(fields) = fields(&file)? else { bail!("{} is missing; modules.json names it", file.display()) };
        let size =
            |field| count(&file, &fields, field)?.with_context(|| format!("{}: `{field}` is missing", file.display()));
        let (input, output) = (size("in_features")?, size("out_features")?);
        let name = fields.get("activation_function").and_then(|name| name.as_str()).unwrap_or("Tanh");
        let tanh = match name.rsplit('.').next() {
            Some("Tanh") => true,
            Some("Identity") => false,
            _ => bail!("{}: `activation_function`: expected Tanh or Identity, found {name}", file.display()),
        };
        let weights = Weights::open(folder)
            .with_context(|| format!("cannot read the layer of {} (only safetensors are read)", folder.display()))?;
        let tensor = |name: &str, shape: &[u64]| -> Result<Vec<f32>> {
            let expr = WeightExpr::tensor(name);
            let found = expr.shape(weights.index()).with_context(|| folder.display().to_string())?;
            if found != shape {
                bail!("{}: `{name}` has shape {found:?}; by config.json it should be {shape:?}", folder.display());
            }
            let bytes = evaluate_to_vec(&expr, DType::F32, &weights)?;
            Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        let weight = tensor("linear.weight", &[output, input])?;
        let bias = match flag(&file, &fields, "bias", true)? {
            true => tensor("linear.bias", &[output])?,
            false => vec![0.0; output as usize],
        };
        Ok(Dense { input: input as usize, weight, bias, tanh })
    }

    fn apply(&self, x: &[f32]) -> Result<Vec<f32>> {
        if x.len() != self.input {
            bail!("a dense layer takes {} numbers, and there are {}: is it of this checkpoint?", self.input, x.len());
        }
        let rows = self.weight.chunks_exact(self.input).zip(&self.bias);
        let y = rows.map(|(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>() + bias);
        Ok(if self.tanh { y.map(f32::tanh).collect() } else { y.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(config: &str, tensors: &[(&str, Vec<usize>, Vec<f32>)]) -> Result<Dense> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("config.json"), config)?;
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(.., data)| data.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            Ok((*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes)?))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors"))?;
        Dense::open(dir.path())
    }

    #[test]
    fn a_dense_layer_is_a_product_a_bias_and_an_activation() {
        let weight = ("linear.weight", vec![2, 3], vec![1., 2., 3., 0., -1., 1.]);
        let bias = ("linear.bias", vec![2], vec![0.5, -0.25]);
        let config = r#"{"in_features": 3, "out_features": 2, "bias": true, "activation_function": "torch.nn.modules.linear.Identity"}"#;
        let layer = dense(config, &[weight.clone(), bias.clone()]).unwrap();
        let mut x = vec![1.0, 0.5, 0.25];
        Stage::Dense(layer).apply(&mut x).unwrap();
        assert_eq!(x, [3.25, -0.5]);
        let config = r#"{"in_features": 3, "out_features": 2, "bias": false}"#;
        let mut x = vec![0.0, 0.5, 0.0];
        Stage::Dense(dense(config, std::slice::from_ref(&weight)).unwrap()).apply(&mut x).unwrap();
        assert_eq!(x, [1f32.tanh(), (-0.5f32).tanh()]);
        for (config, expected) in [
            (
                r#"{"in_features": 4, "out_features": 2}"#,
                "`linear.weight` has shape [2, 3]; by config.json it should be [2, 4]",
            ),
            (r#"{"out_features": 2}"#, "`in_features` is missing"),
            (
                r#"{"in_features": 3, "out_features": 2, "activation_function": "torch.nn.ReLU"}"#,
                "expected Tanh or Identity, found torch.nn.ReLU",
            ),
        ] {
            let error = format!("{:#}", dense(config, &[weight.clone(), bias.clone()]).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn normalised_vectors_have_length_one_unless_they_are_nothing() {
        let mut vector = vec![3.0, -4.0];
        normalise(&mut vector);
        assert_eq!(vector, [0.6, -0.8]);
        let mut nothing = vec![0.0, 0.0];
        normalise(&mut nothing);
        assert_eq!(nothing, [0.0, 0.0]);
        assert!((cosine(&[1.0, 0.0], &[2.0, 2.0]) - 0.5f32.sqrt()).abs() < 1e-6);
    }
}
