//! A format that does what it is told: what is true is read in any pieces, what is not is refused.

use qeff_plugin_api::DType;
use qeff_plugin_api::plugin::StoredBlock;

use super::*;
use crate::weights::{Checkpoint, CheckpointError, TensorSource as _};

/// Says what it was made with; encoding `rows` is rows of bytes, each one less than its number, after a byte that counts
/// as a checksum.
struct Told {
    need: Option<u64>,
    tensors: Vec<StoredTensor>,
}

const COLUMNS: usize = 3;

impl WeightFormat for Told {
    fn name(&self) -> &str {
        "told"
    }

    fn probe(&self, _: &[u8], _: &str) -> bool {
        true
    }

    fn index(&self, head: &[u8], _: u64) -> Result<HeaderNeed, PluginError> {
        match self.need {
            Some(need) if (head.len() as u64) < need => Ok(HeaderNeed::More(need)),
            _ => Ok(HeaderNeed::Tensors(self.tensors.clone())),
        }
    }

    fn decode(&self, encoding: &str, bytes: &[u8], out: &mut [u8]) -> Result<(), PluginError> {
        assert_eq!(encoding, "rows");
        assert_eq!((bytes.len() % (COLUMNS + 1), out.len()), (0, bytes.len() / (COLUMNS + 1) * COLUMNS));
        for (row, out) in bytes.chunks(COLUMNS + 1).zip(out.chunks_mut(COLUMNS)) {
            let (sum, numbers) = (row[0], &row[1..]);
            if numbers.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) != sum {
                return Err(PluginError::Other("a row does not sum up".into()));
            }
            out.iter_mut().zip(numbers).for_each(|(out, byte)| *out = byte + 1);
        }
        Ok(())
    }
}

/// Four rows of three numbers from byte 2 on: 10, 11, 12, 20, …
fn content() -> Vec<u8> {
    let mut bytes = vec![0xee; 2];
    for row in 1..5u8 {
        let numbers = [0, 1, 2].map(|column| 10 * row + column - 1);
        bytes.push(numbers.iter().sum());
        bytes.extend(numbers);
    }
    bytes
}

fn tensor() -> StoredTensor {
    StoredTensor {
        name: "w".into(),
        info: TensorInfo { dtype: DType::U8, shape: vec![4, 3] },
        offset: 2,
        length: 16,
        encoding: "rows".into(),
        block: StoredBlock { elements: 3, bytes: 4 },
    }
}

fn open(content: &[u8], told: Told) -> Result<(tempfile::TempDir, Checkpoint), CheckpointError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.told");
    std::fs::write(&path, content).unwrap();
    let format: Arc<dyn WeightFormat> = Arc::new(told);
    Checkpoint::open_foreign(&[path], &format).map(|checkpoint| (dir, checkpoint))
}

fn told(tensors: Vec<StoredTensor>) -> Told {
    Told { need: None, tensors }
}

#[test]
fn any_range_is_lent_in_whole_blocks() {
    let (_dir, checkpoint) = open(&content(), told(vec![tensor()])).unwrap();
    let all: Vec<u8> = (1..5u8).flat_map(|row| [0, 1, 2].map(|column| 10 * row + column)).collect();
    for start in 0..=12u64 {
        for end in start..=12 {
            assert_eq!(&*checkpoint.lend("w", start..end).unwrap(), &all[start as usize..end as usize]);
            checkpoint.release("w", start..end);
        }
    }
    assert!(matches!(checkpoint.lend("w", 0..13), Err(SourceError::OutOfRange { count: 12, .. })));
    assert!(matches!(checkpoint.lend("w", 0..u64::MAX), Err(SourceError::OutOfRange { .. })));
    assert!(checkpoint.encoding("w").is_none() && checkpoint.stored("w").is_none());
    assert_eq!(checkpoint.foreign_format(), Some("told"));
    let mut out = [0; 4];
    checkpoint.read("w", 2..6, &mut out).unwrap();
    assert_eq!(out, [12, 20, 21, 22]);
}

#[test]
fn a_spoiled_block_is_an_error_that_names_the_tensor() {
    let mut content = content();
    content[7] ^= 1;
    let (_dir, checkpoint) = open(&content, told(vec![tensor()])).unwrap();
    assert!(checkpoint.lend("w", 0..3).is_ok());
    let error = checkpoint.lend("w", 3..4).unwrap_err().to_string();
    assert_eq!(error, "cannot read tensor `w`: a row does not sum up");
}

#[test]
fn what_is_not_encoded_is_used_where_it_lies() {
    let plain = StoredTensor { encoding: String::new(), block: StoredBlock::default(), length: 12, ..tensor() };
    let (_dir, checkpoint) = open(&content(), told(vec![plain.clone()])).unwrap();
    assert_eq!(checkpoint.stored("w").unwrap().range(), 2..14);
    assert_eq!(&*checkpoint.lend("w", 1..2).unwrap(), &content()[3..4]);
    let short = StoredTensor { length: 11, ..plain };
    let error = open(&content(), told(vec![short])).unwrap_err().to_string();
    assert!(error.contains("expected 12 bytes, as u8[4, 3] has without an encoding, found 11"), "{error}");
}

#[test]
fn what_cannot_be_is_refused() {
    let shape = |shape: &[u64]| TensorInfo { dtype: DType::F32, shape: shape.to_vec() };
    let block = |elements, bytes| StoredBlock { elements, bytes };
    for (tensor, expected) in [
        (StoredTensor { offset: 3, ..tensor() }, "expected bytes within the file's 18, found 16 bytes from byte 3 on"),
        (StoredTensor { offset: u64::MAX, ..tensor() }, "within the file's 18"),
        (StoredTensor { length: u64::MAX, ..tensor() }, "within the file's 18"),
        (StoredTensor { info: shape(&[1 << 40, 1 << 40]), ..tensor() }, "a shape whose bytes can be counted"),
        (StoredTensor { info: shape(&[1 << 62]), ..tensor() }, "a shape whose bytes can be counted"),
        (
            StoredTensor { info: shape(&[5, 3]), ..tensor() },
            "whole blocks of 3 elements and 4 bytes, found 15 elements",
        ),
        (StoredTensor { info: shape(&[13]), ..tensor() }, "whole blocks of 3 elements"),
        (StoredTensor { block: block(0, 4), ..tensor() }, "at least one element and one byte"),
        (StoredTensor { block: block(3, 0), ..tensor() }, "at least one element and one byte"),
        (StoredTensor { block: block(3, u64::MAX), ..tensor() }, "whole blocks of 3 elements"),
        (StoredTensor { block: block(1 << 25, 4), ..tensor() }, "a block of at most 16777216 u8 numbers"),
        (StoredTensor { block: block(u64::MAX, 4), info: shape(&[12]), ..tensor() }, "at most 4194304 f32 numbers"),
    ] {
        let error = open(&content(), told(vec![tensor])).unwrap_err().to_string();
        assert!(error.contains("w.told: weight format told: tensor `w`: ") && error.contains(expected), "{error}");
    }
    let error = open(&content(), told(vec![tensor(), tensor()])).unwrap_err().to_string();
    assert!(error.contains("tensor `w` is listed twice"), "{error}");
    // No elements are no blocks.
    let none = StoredTensor { info: shape(&[0, 3]), length: 0, ..tensor() };
    assert!(open(&content(), told(vec![none])).unwrap().1.lend("w", 0..0).unwrap().is_empty());
}

#[test]
fn a_header_is_shown_as_far_as_it_is_asked_for() {
    let long = [content(), vec![0; 100_000]].concat();
    open(&long, Told { need: Some(99_000), tensors: vec![tensor()] }).unwrap();
    let error = open(&content(), Told { need: Some(19), tensors: vec![] }).unwrap_err().to_string();
    assert!(
        error.contains("asks for a header of 19 bytes; expected more than the 18 it was shown, and at most 18"),
        "{error}"
    );
}

#[test]
fn files_are_parts_of_one_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    paths.iter().for_each(|path| std::fs::write(path, content()).unwrap());
    let format: Arc<dyn WeightFormat> = Arc::new(told(vec![tensor()]));
    let error = Checkpoint::open_foreign(&paths, &format).unwrap_err().to_string();
    assert!(error.contains("tensor `w` is in ") && error.contains("left over"), "{error}");
}
