//! Files of vectors: NumPy's `.npy`, and safetensors.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

/// Name of the tensor in a safetensors file.
pub const TENSOR: &str = "embeddings";

/// What a file's name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One array of f32 `[texts, width]`.
    Npy,
    /// The same as tensor [`TENSOR`].
    Safetensors,
    /// A JSON document a line.
    Jsonl,
}

impl Format {
    /// The format that the ending of a name stands for.
    ///
    /// # Errors
    /// If it stands for none.
    pub fn of(file: &Path) -> Result<Self> {
        match file.extension().and_then(|end| end.to_str()) {
            Some("npy") => Ok(Format::Npy),
            Some("safetensors") => Ok(Format::Safetensors),
            Some("jsonl") => Ok(Format::Jsonl),
            _ => bail!("--output {}: expected a name that ends in .npy, .safetensors or .jsonl", file.display()),
        }
    }
}

/// Writes rows of one width as an array. The file appears whole, or not at all.
///
/// # Errors
/// If rows differ in width, or the file cannot be written.
pub fn write(file: &Path, format: Format, rows: &[&[f32]]) -> Result<()> {
    let width = rows.first().map_or(0, |row| row.len());
    if let Some(odd) = rows.iter().position(|row| row.len() != width) {
        bail!("vector {odd} has {} numbers and vector 0 has {width}: they do not make an array", rows[odd].len());
    }
    let numbers: Vec<u8> = rows.iter().flat_map(|row| row.iter().flat_map(|x| x.to_le_bytes())).collect();
    let shape = vec![rows.len(), width];
    let bytes = match format {
        Format::Npy => npy(&shape, &numbers),
        Format::Safetensors => {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &numbers)?;
            safetensors::serialize([(TENSOR, view)], None)?
        }
        Format::Jsonl => bail!("{} is no array", file.display()),
    };
    whole(file, &bytes)
}

/// Writes a file by way of a temporary one beside it.
///
/// # Errors
/// If it cannot be written.
pub fn whole(file: &Path, bytes: &[u8]) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("cannot write to {}", folder.display()))?;
    fs::write(temporary.path(), bytes)?;
    temporary.persist(file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(())
}

/// NumPy's format, version 1.0: a header of a multiple of 64 bytes, then the numbers.
fn npy(shape: &[usize], numbers: &[u8]) -> Vec<u8> {
    const BEFORE_HEADER: usize = 10;
    let dims: Vec<_> = shape.iter().map(usize::to_string).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", dims.join(", "));
    let unpadded = BEFORE_HEADER + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    // Two dimensions make a header far below what 16 bits count.
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(numbers);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let rows: [&[f32]; 2] = [&[1.0, -2.5, 3.0], &[0.0, 1e-9, 4.0]];
        let file = dir.path().join("v.npy");
        write(&file, Format::of(&file).unwrap(), &rows).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + length) % 64, 0);
        let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
        assert_eq!(header.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
        let numbers: Vec<f32> =
            bytes[10 + length..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(numbers, rows.concat());

        let file = dir.path().join("v.safetensors");
        write(&file, Format::of(&file).unwrap(), &rows).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor(TENSOR).unwrap();
        assert_eq!(tensor.shape(), [2, 3]);
        assert_eq!(tensor.data(), numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>());
    }

    #[test]
    fn rows_of_different_width_are_no_array() {
        let error = write(Path::new("v.npy"), Format::Npy, &[&[1.0], &[1.0, 2.0]]).unwrap_err().to_string();
        assert_eq!(error, "vector 1 has 2 numbers and vector 0 has 1: they do not make an array");
        assert!(Format::of(Path::new("v.csv")).is_err());
    }
}
