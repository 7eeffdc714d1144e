//! Where a weight lies before anything is written: in the checkpoint's own files, or nowhere yet.
//!
//! `run` hands an engine pieces of the mapped checkpoint, and a linked export refers to the same pieces by name. Both ask
//! [`locate`], so they cannot disagree about which weights need to be made.

use std::fmt;
use std::path::Path;

use qeff_plugin_api::{DType, WeightExpr};

use super::source::{TensorSource, TensorView};

/// Why a weight cannot be used where it lies. The order is that in which reasons are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotStored {
    /// It is generated, like rotary tables; there is nothing to refer to.
    Generated,
    /// It is made of stored tensors by steps.
    Computed,
    /// It is stored as something that has to be decoded, such as quantised blocks.
    Encoded,
    /// It is stored in another element type.
    OtherType {
        /// As stored.
        stored: DType,
        /// As wanted.
        wanted: DType,
    },
    /// It begins at a byte that is no multiple of its element's size.
    Misaligned {
        /// The element type.
        dtype: DType,
    },
    /// It is in a file of a format that cannot be referred to.
    Foreign,
}

impl fmt::Display for NotStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotStored::Generated => f.write_str("generated, not stored"),
            NotStored::Computed => f.write_str("stored in another layout"),
            NotStored::Encoded => f.write_str("stored as quantised blocks"),
            NotStored::OtherType { stored, wanted } => write!(f, "stored as {stored}, wanted as {wanted}"),
            NotStored::Misaligned { dtype } => write!(f, "not aligned for {dtype} in the checkpoint"),
            NotStored::Foreign => f.write_str("in a file that is no safetensors file of the folder"),
        }
    }
}

/// The stored tensor that `expr` is, if it holds elements of `dtype`. `expr` has to be canonical.
///
/// # Errors
/// [`NotStored`] says why there is none; never [`NotStored::Misaligned`].
pub fn find<'s>(expr: &WeightExpr, dtype: DType, source: &'s dyn TensorSource) -> Result<TensorView<'s>, NotStored> {
    let WeightExpr::Tensor(name) = expr else {
        return Err(if expr.is_generated() { NotStored::Generated } else { NotStored::Computed });
    };
    let view = source.stored(name).ok_or(NotStored::Encoded)?;
    match view.dtype == dtype {
        true => Ok(view),
        false => Err(NotStored::OtherType { stored: view.dtype, wanted: dtype }),
    }
}

/// A run of stored elements that can be used where they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRun<'s> {
    /// Position in [`Checkpoint::files`](super::Checkpoint::files).
    pub file: usize,
    /// That file.
    pub path: &'s Path,
    /// First byte, counted from the beginning of the file.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Where the elements of `expr` lie as they are wanted, aligned for their type, so that an engine can read them in place: a
/// stored tensor, or a run of its elements such as one expert of a stack. `expr` has to be canonical.
///
/// # Errors
/// [`NotStored`] says why they lie nowhere so.
pub fn locate<'s>(expr: &WeightExpr, dtype: DType, source: &'s dyn TensorSource) -> Result<StoredRun<'s>, NotStored> {
    let Some((name, elements)) = expr.stored_run(source.index()) else {
        return Err(match expr {
            WeightExpr::Tensor(_) => NotStored::Encoded,
            made if made.is_generated() => NotStored::Generated,
            _ => NotStored::Computed,
        });
    };
    let view = source.stored(name).ok_or(NotStored::Encoded)?;
    if view.dtype != dtype {
        return Err(NotStored::OtherType { stored: view.dtype, wanted: dtype });
    }
    if !view.is_aligned() {
        return Err(NotStored::Misaligned { dtype });
    }
    let size = dtype.size() as u64;
    Ok(StoredRun {
        file: view.file,
        path: view.path,
        offset: view.offset + elements.start * size,
        length: (elements.end - elements.start) * size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Checkpoint;
    use crate::weights::safetensors::tests::file;

    #[test]
    fn every_reason_has_its_case() {
        // The header's length decides where data begins: 8-aligned, then one byte off for what follows `odd`.
        let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
            "h":{"dtype":"F16","shape":[2],"data_offsets":[16,20]},
            "odd":{"dtype":"U8","shape":[1],"data_offsets":[20,21]},
            "late":{"dtype":"F32","shape":[1],"data_offsets":[21,25]}}"#;
        let header = format!("{header:<width$}", width = header.len().next_multiple_of(8));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.safetensors"), file(&header, &[0; 25])).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let check = |text: &str| locate(&WeightExpr::parse(text).unwrap(), DType::F32, &checkpoint).map(|v| v.offset);
        let data = 8 + header.len() as u64;
        assert_eq!(check(r#"w"a""#), Ok(data));
        assert_eq!(check(r#"w"a".take(0, 1, 2, 1..2)"#), Ok(data + 8));
        assert_eq!(check("fill(1, [3])"), Err(NotStored::Generated));
        assert_eq!(check(r#"w"a".transpose(1, 0)"#), Err(NotStored::Computed));
        assert_eq!(check(r#"w"h""#), Err(NotStored::OtherType { stored: DType::F16, wanted: DType::F32 }));
        assert_eq!(check(r#"w"late""#), Err(NotStored::Misaligned { dtype: DType::F32 }));
        assert_eq!(check(r#"w"nowhere""#), Err(NotStored::Encoded));
        assert!(find(&WeightExpr::tensor("late"), DType::F32, &checkpoint).is_ok());
    }
}
