//! The header of one safetensors file, checked before anything believes it.
//!
//! The `safetensors` crate owns the format: offsets without gaps or overlaps, sizes that multiply without overflow. What
//! it cannot do is say *which file* is short and by how much, so the outer frame (length prefix, header, data) is measured
//! here. Nothing is allocated by a length that the file states and does not have.

use std::ops::Range;

use safetensors::tensor::{Dtype, Metadata, SafeTensorError};

use qeff_plugin_api::DType;

use super::quantised::{Float8, Stored};

/// Longest header that is read. The format's own reader has this limit; the largest real ones are a few megabytes.
const MAX_HEADER: u64 = 100_000_000;

/// Bytes of the header's length in front of it.
const PREFIX: u64 = 8;

/// What is wrong with a safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Not even a length.
    #[error("it has {found} bytes, fewer than the 8 of a header length; it is empty or no safetensors file")]
    NoHeader {
        /// Bytes in the file.
        found: u64,
    },
    /// A length no header has.
    #[error("it claims a header of {claimed} bytes, more than {MAX_HEADER}; it is damaged or no safetensors file")]
    HeaderTooLong {
        /// The claim.
        claimed: u64,
    },
    /// The file ends early.
    #[error("it has {found} bytes where {expected} are expected; the download or copy stopped early, fetch it again")]
    Truncated {
        /// Bytes in the file.
        found: u64,
        /// Bytes that the header accounts for.
        expected: u64,
    },
    /// The file goes on after its last tensor.
    #[error("it has {found} bytes where {expected} are expected; what follows the last tensor belongs to none")]
    Trailing {
        /// Bytes in the file.
        found: u64,
        /// Bytes that the header accounts for.
        expected: u64,
    },
    /// Not JSON, or types, shapes and offsets that contradict each other.
    #[error("its header is not valid: {0}")]
    Invalid(String),
}

/// One tensor as the header describes it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: String,
    /// The type, or its name in the file if this crate has none for it.
    pub(super) dtype: Result<Stored, String>,
    pub(super) shape: Vec<u64>,
    /// Bytes of the tensor, counted from the beginning of the file.
    pub(super) range: Range<u64>,
}

/// Reads and checks the header of the file that consists of `bytes`; entries come in file order.
pub(super) fn read_header(bytes: &[u8]) -> Result<Vec<Entry>, HeaderError> {
    let found = bytes.len() as u64;
    let Some((prefix, rest)) = bytes.split_first_chunk::<{ PREFIX as usize }>() else {
        return Err(HeaderError::NoHeader { found });
    };
    let claimed = u64::from_le_bytes(*prefix);
    if claimed > MAX_HEADER {
        return Err(HeaderError::HeaderTooLong { claimed });
    }
    let Some(header) = rest.get(..claimed as usize) else {
        return Err(HeaderError::Truncated { found, expected: PREFIX + claimed });
    };
    // Not `SafeTensors::read_metadata`: it adds offsets that the header states without a check for overflow.
    let header: Metadata = serde_json::from_slice(header).map_err(|e| HeaderError::Invalid(e.to_string()))?;
    let begin = PREFIX + claimed;
    let invalid = |e: SafeTensorError| HeaderError::Invalid(e.to_string());
    let expected =
        begin.checked_add(header.data_len() as u64).ok_or_else(|| invalid(SafeTensorError::ValidationOverflow))?;
    match found.cmp(&expected) {
        std::cmp::Ordering::Less => return Err(HeaderError::Truncated { found, expected }),
        std::cmp::Ordering::Greater => return Err(HeaderError::Trailing { found, expected }),
        std::cmp::Ordering::Equal => {}
    }
    let entry = |name: String| {
        let info = header.info(&name)?;
        let (start, end) = info.data_offsets;
        Some(Entry {
            dtype: known(info.dtype).ok_or_else(|| info.dtype.to_string()),
            shape: info.shape.iter().map(|&dim| dim as u64).collect(),
            range: begin + start as u64..begin + end as u64,
            name,
        })
    };
    Ok(header.offset_keys().into_iter().filter_map(entry).collect())
}

fn known(dtype: Dtype) -> Option<Stored> {
    let plain = match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        Dtype::F8_E4M3 => return Some(Stored::Float8(Float8::E4M3)),
        Dtype::F8_E5M2 => return Some(Stored::Float8(Float8::E5M2)),
        Dtype::F8_E8M0 => return Some(Stored::Float8(Float8::E8M0)),
        _ => return None,
    };
    Some(Stored::Plain(plain))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file of the given header text and data.
    pub(crate) fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    const TWO: &str = r#"{"__metadata__":{"format":"pt"},
        "a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#;

    #[test]
    fn a_sound_header_gives_ranges_in_the_file() {
        let entries = read_header(&file(TWO, &[0; 22])).unwrap();
        let begin = 8 + TWO.len() as u64;
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].name.as_str(), &entries[0].dtype), ("a", &Ok(Stored::Plain(DType::F32))));
        assert_eq!(entries[0].range, begin..begin + 16);
        assert_eq!((entries[1].shape.as_slice(), entries[1].range.clone()), (&[3][..], begin + 16..begin + 22));
    }

    #[test]
    fn an_unknown_type_is_kept_by_name() {
        let bytes = file(r#"{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}"#, &[0; 2]);
        assert_eq!(read_header(&bytes).unwrap()[0].dtype, Err("F4".to_owned()));
    }

    #[test]
    fn attacks_are_refused_by_kind() {
        let tensor = |shape: &str, from: u64, to: u64| {
            format!(r#"{{"dtype":"F32","shape":[{shape}],"data_offsets":[{from},{to}]}}"#)
        };
        let header = |parts: &[(&str, String)]| {
            let parts: Vec<String> = parts.iter().map(|(name, t)| format!("\"{name}\":{t}")).collect();
            format!("{{{}}}", parts.join(","))
        };
        let max = u64::MAX;
        let cases: Vec<(&str, Vec<u8>, &str)> = vec![
            ("empty", vec![], "fewer than the 8"),
            ("short prefix", vec![1, 2, 3], "fewer than the 8"),
            ("huge header", file("{}", &[]).into_iter().skip(8).chain([0xff; 8]).rev().collect(), "claims a header"),
            ("header past the end", [1000u64.to_le_bytes().as_slice(), b"{}"].concat(), "10 bytes where 1008"),
            ("not JSON", file("hello", &[]), "not valid"),
            ("not UTF-8", [2u64.to_le_bytes().as_slice(), &[0xff, 0xfe]].concat(), "not valid"),
            ("truncated data", file(TWO, &[0; 20]), "stopped early"),
            ("trailing data", file(TWO, &[0; 23]), "belongs to none"),
            ("overlap", file(&header(&[("a", tensor("2", 0, 8)), ("b", tensor("2", 4, 12))]), &[0; 12]), "not valid"),
            ("gap", file(&header(&[("a", tensor("2", 0, 8)), ("b", tensor("2", 12, 20))]), &[0; 20]), "not valid"),
            ("wrong size", file(&header(&[("a", tensor("3", 0, 8))]), &[0; 8]), "not valid"),
            ("reversed", file(&header(&[("a", tensor("2", 8, 0))]), &[0; 8]), "not valid"),
            ("shape overflow", file(&header(&[("a", tensor(&format!("{max},{max}"), 0, 8))]), &[0; 8]), "not valid"),
            ("size overflow", file(&header(&[("a", tensor(&format!("{max}"), 0, max))]), &[0; 8]), "not valid"),
            (
                "end of file overflow",
                file(&format!(r#"{{"a":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}}"#, max - 2), &[0; 8]),
                "not valid",
            ),
        ];
        for (case, bytes, message) in cases {
            let error = read_header(&bytes).map(|_| ()).expect_err(case).to_string();
            assert!(error.contains(message), "{case}: {error}");
        }
    }

    proptest! {
        #[test]
        fn mutated_headers_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
            cuts in any::<bool>(),
        ) {
            let mut bytes = file(TWO, &[0; 22]);
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if cuts {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(entries) = read_header(&bytes) {
                for entry in entries {
                    prop_assert!(entry.range.start <= entry.range.end && entry.range.end <= bytes.len() as u64);
                }
            }
        }

        #[test]
        fn mutated_numbers_never_panic(numbers in prop::collection::vec(prop_oneof![0..40u64, any::<u64>()], 6)) {
            let n = numbers;
            let header = format!(
                r#"{{"a":{{"dtype":"F32","shape":[{},{}],"data_offsets":[{},{}]}},"b":{{"dtype":"U8","shape":[],"data_offsets":[{},{}]}}}}"#,
                n[0], n[1], n[2], n[3], n[4], n[5],
            );
            let _ = read_header(&file(&header, &[0; 22]));
        }
    }
}
