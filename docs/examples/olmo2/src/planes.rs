//! Weight format `planes`: bf16 matrices with their high and low bytes apart, which compresses better on a disk.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `PLN1` |
//! | 4 | length of the header, little-endian |
//! | so many | the header, a JSON list of `{"name", "shape", "offset", "planes"}` |
//! | the rest | tensors; `offset` counts from the beginning of the file |
//!
//! A matrix with `"planes": true` is stored row by row, of each row first the high bytes, then the low ones. Anything else
//! is bf16 as usual.

use qeff_plugin_api::plugin::{HeaderNeed, PluginError, StoredBlock, StoredTensor, WeightFormat};
use qeff_plugin_api::{DType, TensorInfo};
use serde_json::Value as Json;

const MARK: &[u8] = b"PLN1";
/// Bytes before the header.
const PREFIX: u64 = 8;
/// Bytes of a bf16 number.
const SIZE: u64 = 2;

struct Planes;

qeff_plugin_api::register!(format: Planes);

impl WeightFormat for Planes {
    fn name(&self) -> &str {
        "planes"
    }

    fn probe(&self, head: &[u8], _: &str) -> bool {
        head.starts_with(MARK)
    }

    fn index(&self, head: &[u8], length: u64) -> Result<HeaderNeed, PluginError> {
        let Some((prefix, rest)) = head.split_first_chunk::<{ PREFIX as usize }>() else {
            return if length < PREFIX {
                Err(wrong("a file of 8 bytes or more", length))
            } else {
                Ok(HeaderNeed::More(PREFIX))
            };
        };
        let (mark, size) = prefix.split_at(4);
        if mark != MARK {
            return Err(wrong("a file that begins with `PLN1`", String::from_utf8_lossy(mark)));
        }
        let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]);
        if PREFIX + u64::from(size) > length {
            return Err(wrong(format!("a header within the file's {length} bytes"), format!("one of {size}")));
        }
        let Some(header) = rest.get(..size as usize) else { return Ok(HeaderNeed::More(PREFIX + u64::from(size))) };
        let header: Json = serde_json::from_slice(header).map_err(|error| wrong("a header of JSON", error))?;
        let entries = header.as_array().ok_or_else(|| wrong("a list of tensors", &header))?;
        Ok(HeaderNeed::Tensors(entries.iter().map(entry).collect::<Result<_, _>>()?))
    }

    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError> {
        // The length of a row is part of the encoding: without it, several rows could not be told apart.
        let width = encoding.strip_prefix("planes:").and_then(|width| width.parse::<usize>().ok()).filter(|&w| w > 0);
        let width = width.ok_or_else(|| wrong("encoding `planes:WIDTH`", encoding))?;
        let row = width.saturating_mul(SIZE as usize);
        if bytes.len() != out.len() || !bytes.len().is_multiple_of(row) {
            return Err(wrong(format!("whole rows of {row} bytes"), format!("{} for {}", bytes.len(), out.len())));
        }
        for (row, out) in bytes.chunks_exact(row).zip(out.chunks_exact_mut(row)) {
            let (high, low) = row.split_at(width);
            for ((number, high), low) in out.chunks_exact_mut(2).zip(high).zip(low) {
                number.copy_from_slice(&[*low, *high]);
            }
        }
        Ok(())
    }
}

/// What the header says of one tensor. Whether it lies in the file is checked by the host.
fn entry(entry: &Json) -> Result<StoredTensor, PluginError> {
    let field = |key: &str| entry.get(key).ok_or_else(|| wrong(format!("a tensor with `{key}`"), entry));
    let name = field("name")?.as_str().ok_or_else(|| wrong("a name", entry))?;
    let shape = field("shape")?.as_array().and_then(|dims| dims.iter().map(Json::as_u64).collect::<Option<Vec<_>>>());
    let shape = shape.ok_or_else(|| wrong(format!("a shape of `{name}`"), entry))?;
    let offset = field("offset")?.as_u64().ok_or_else(|| wrong(format!("an offset of `{name}`"), entry))?;
    let bytes = shape.iter().try_fold(SIZE, |bytes, &dim| bytes.checked_mul(dim));
    let length = bytes.ok_or_else(|| wrong(format!("a possible shape of `{name}`"), entry))?;
    let (encoding, block) = match (entry.get("planes").and_then(Json::as_bool), shape.as_slice()) {
        (Some(true), &[_, width]) if width > 0 => {
            (format!("planes:{width}"), StoredBlock { elements: width, bytes: width.saturating_mul(SIZE) })
        }
        (Some(true), _) => return Err(wrong(format!("`{name}` to be a matrix, since it has planes"), entry)),
        _ => (String::new(), StoredBlock::default()),
    };
    Ok(StoredTensor {
        name: name.to_owned(),
        info: TensorInfo { dtype: DType::BF16, shape },
        offset,
        length,
        encoding,
        block,
    })
}

fn wrong(expected: impl std::fmt::Display, found: impl std::fmt::Display) -> PluginError {
    PluginError::Other(format!("expected {expected}, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a matrix of two rows in planes and a plain vector.
    fn file() -> Vec<u8> {
        let header = r#"[{"name": "m", "shape": [2, 3], "offset": 200, "planes": true}, {"name": "v", "shape": [2], "offset": 212}]"#;
        let mut file = [MARK, &(header.len() as u32).to_le_bytes(), header.as_bytes()].concat();
        file.resize(200, 0);
        file.extend([1, 2, 3, 11, 12, 13, 4, 5, 6, 14, 15, 16, 7, 8, 9, 10]);
        file
    }

    fn tensors(file: &[u8]) -> Result<HeaderNeed, PluginError> {
        Planes.index(file, file.len() as u64)
    }

    #[test]
    fn rows_are_put_together_again() {
        let file = file();
        assert!(Planes.probe(&file, "x") && !Planes.probe(b"GGUF", "x.planes"));
        assert_eq!(Planes.index(&file[..7], 216), Ok(HeaderNeed::More(8)));
        assert_eq!(Planes.index(&file[..20], 216), Ok(HeaderNeed::More(8 + u64::from(file[4]))));
        let Ok(HeaderNeed::Tensors(tensors)) = tensors(&file) else { panic!("no tensors") };
        let (matrix, vector) = (&tensors[0], &tensors[1]);
        assert_eq!((matrix.encoding.as_str(), matrix.length, matrix.block.elements), ("planes:3", 12, 3));
        assert_eq!((vector.encoding.as_str(), vector.length), ("", 4));
        let mut out = [0; 12];
        Planes.decode(&matrix.encoding, &file[200..212], &mut out).unwrap();
        assert_eq!(out, [11, 1, 12, 2, 13, 3, 14, 4, 15, 5, 16, 6]);
    }

    #[test]
    fn broken_files_are_refused() {
        let with = |header: &str| [MARK, &(header.len() as u32).to_le_bytes(), header.as_bytes()].concat();
        for (file, expected) in [
            (b"PL".to_vec(), "a file of 8 bytes or more"),
            (b"PLN2\0\0\0\0".to_vec(), "begins with `PLN1`"),
            (b"PLN1\xff\xff\xff\xff".to_vec(), "a header within the file's 8 bytes, found one of 4294967295"),
            (with("[{"), "a header of JSON"),
            (with("{}"), "a list of tensors"),
            (with("[{}]"), "a tensor with `name`"),
            (with(r#"[{"name": 1}]"#), "a name"),
            (with(r#"[{"name": "m", "shape": [-1]}]"#), "a shape of `m`"),
            (with(r#"[{"name": "m", "shape": [4294967296, 4294967296], "offset": 0}]"#), "a possible shape of `m`"),
            (with(r#"[{"name": "m", "shape": [4], "offset": 0, "planes": true}]"#), "`m` to be a matrix"),
            (with(r#"[{"name": "m", "shape": [4, 0], "offset": 0, "planes": true}]"#), "`m` to be a matrix"),
        ] {
            let error = tensors(&file).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let mut out = [0; 4];
        for (encoding, bytes) in [("planes:0", 4), ("planes:x", 4), ("other", 4), ("planes:2", 3), ("planes:3", 4)] {
            assert!(Planes.decode(encoding, &[0; 4][..bytes], &mut out).is_err(), "{encoding}");
        }
    }
}
