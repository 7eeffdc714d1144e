//! Directories as they come: whole, sharded, linked, damaged.

use super::*;
use crate::weights::safetensors::tests::file;

fn dir(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// One u8 tensor of two elements.
fn shard(tensor: &str, data: [u8; 2]) -> Vec<u8> {
    file(&format!(r#"{{"{tensor}":{{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}}}"#), &data)
}

fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let map: serde_json::Map<_, _> = entries.iter().map(|(t, f)| ((*t).to_owned(), (*f).into())).collect();
    serde_json::json!({ "metadata": {}, "weight_map": map }).to_string().into_bytes()
}

#[track_caller]
fn refuse(files: &[(&str, &[u8])], parts: &[&str]) {
    let message = Checkpoint::open(dir(files)).map(|_| ()).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn a_single_file_is_read() {
    let dir = dir(&[("model.safetensors", &shard("a", [7, 8])), ("other.safetensors", b"not looked at")]);
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let view = checkpoint.tensor("a").unwrap();
    assert_eq!((view.dtype, view.shape, view.length), (DType::U8, &[2][..], 2));
    assert_eq!(checkpoint.files()[view.file].mapping().bytes(view.range()).unwrap(), [7, 8]);
    assert_eq!(&*checkpoint.lend("a", 1..2).unwrap(), [8]);
    assert!(matches!(checkpoint.lend("a", 1..3), Err(SourceError::OutOfRange { count: 2, .. })));
    assert!(matches!(checkpoint.lend("a", 0..u64::MAX), Err(SourceError::OutOfRange { .. })));
    assert!(matches!(checkpoint.lend("b", 0..1), Err(SourceError::Missing(_))));
    checkpoint.release("a", 0..2);
    assert_eq!(&*checkpoint.lend("a", 0..2).unwrap(), [7, 8]);
}

#[test]
fn the_only_other_file_is_read_and_one_of_several_is_not_guessed() {
    assert!(Checkpoint::open(dir(&[("weights.safetensors", &shard("a", [0; 2]))])).unwrap().tensor("a").is_some());
    let one = shard("a", [0; 2]);
    refuse(&[("x.safetensors", &one), ("y.safetensors", &one)], &["x.safetensors, y.safetensors"]);
}

#[test]
fn shards_are_joined() {
    let dir = dir(&[
        ("m-1.safetensors", &shard("a", [1, 2])),
        ("m-2.safetensors", &shard("b", [3, 4])),
        (INDEX, &index(&[("a", "m-1.safetensors"), ("b", "m-2.safetensors")])),
    ]);
    let checkpoint = Checkpoint::open(&dir).unwrap();
    assert_eq!(&*checkpoint.lend("b", 0..2).unwrap(), [3, 4]);
    assert_eq!((checkpoint.files().len(), checkpoint.index().len()), (2, 2));
    assert_eq!(checkpoint.total_bytes(), 2 * shard("a", [0; 2]).len() as u64);
}

#[cfg(unix)]
#[test]
fn shards_may_be_links_out_of_the_directory() {
    let blobs = dir(&[("blob", &shard("a", [1, 2]))]);
    let dir = dir(&[(INDEX, &index(&[("a", "m.safetensors")]))]);
    std::os::unix::fs::symlink(blobs.path().join("blob"), dir.path().join("m.safetensors")).unwrap();
    assert!(Checkpoint::open(&dir).is_ok());
    drop(blobs);
    let message = Checkpoint::open(&dir).unwrap_err().to_string();
    assert!(message.contains("`m.safetensors`, which is missing"), "{message}");
}

#[test]
fn indices_that_lie_are_refused() {
    let (a, b) = (shard("a", [0; 2]), shard("b", [0; 2]));
    for outside in ["../m.safetensors", "/etc/passwd", "x/../../m", ".", ""] {
        refuse(&[(INDEX, &index(&[("a", outside)]))], &["`a`", &format!("`{outside}`"), "inside the checkpoint"]);
    }
    refuse(&[(INDEX, &index(&[("a", "m.safetensors")]))], &["`a`", "`m.safetensors`", "missing"]);
    let entries = index(&[("a", "1.safetensors"), ("c", "1.safetensors")]);
    refuse(&[("1.safetensors", &a), (INDEX, &entries)], &["`c`", "does not hold it"]);
    let entries = index(&[("a", "1.safetensors"), ("b", "1.safetensors"), ("a2", "2.safetensors")]);
    refuse(&[("1.safetensors", &a), ("2.safetensors", &b), (INDEX, &entries)], &["does not hold it"]);
    let entries = index(&[("a", "1.safetensors"), ("b", "2.safetensors")]);
    refuse(
        &[("1.safetensors", &a), ("2.safetensors", &a), (INDEX, &entries)],
        &["`a`", "1.safetensors", "2.safetensors", "left over"],
    );
    refuse(&[(INDEX, b"{")], &[INDEX, "not JSON"]);
    refuse(&[(INDEX, b"{}")], &["weight_map"]);
    refuse(&[(INDEX, br#"{"weight_map":{}}"#)], &["empty"]);
    refuse(&[(INDEX, br#"{"weight_map":{"a":3}}"#)], &["`a`", "file name"]);
}

#[test]
fn directories_without_safetensors_say_what_to_do() {
    refuse(&[("config.json", b"{}")], &["no weights", "model.safetensors"]);
    refuse(&[("pytorch_model.bin", b"")], &["pytorch_model.bin", "safe_serialization=True"]);
    let message = Checkpoint::open("/nowhere").unwrap_err().to_string();
    assert!(message.contains("/nowhere"), "{message}");
}

#[test]
fn a_truncated_file_is_named_with_sizes() {
    let whole = shard("a", [0; 2]);
    let expected = format!("{} bytes where {} are expected", whole.len() - 1, whole.len());
    refuse(&[("model.safetensors", &whole[..whole.len() - 1])], &["model.safetensors", &expected]);
}

#[test]
fn an_unsupported_type_hurts_only_who_uses_it() {
    let header = r#"{"q":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},
                     "a":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#;
    let checkpoint = Checkpoint::open(dir(&[("model.safetensors", &file(header, &[0; 3]))])).unwrap();
    assert!(checkpoint.info("a").is_ok() && checkpoint.tensor("q").is_none());
    assert_eq!(checkpoint.unsupported().collect::<Vec<_>>(), [("q", "F4")]);
    let message = checkpoint.lend("q", 0..4).unwrap_err().to_string();
    assert!(message.contains("`q`") && message.contains("F4") && message.contains("model.safetensors"), "{message}");
}

#[test]
fn floats_of_one_byte_are_numbers() {
    let header = r#"{"a":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[0,4]},
                     "b":{"dtype":"F8_E5M2","shape":[],"data_offsets":[4,5]},
                     "c":{"dtype":"F8_E8M0","shape":[0,3],"data_offsets":[5,5]}}"#;
    let checkpoint =
        Checkpoint::open(dir(&[("model.safetensors", &file(header, &[0x38, 0xb8, 0x40, 0, 0x3d]))])).unwrap();
    let numbers = |name, range| -> Vec<f32> {
        let bytes = checkpoint.lend(name, range).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
    };
    assert_eq!(checkpoint.info("a").unwrap().dtype, DType::F32);
    assert_eq!(numbers("a", 0..4), [1.0, -1.0, 2.0, 0.0]);
    assert_eq!(numbers("a", 1..3), [-1.0, 2.0]);
    assert_eq!(numbers("b", 0..1), [1.25]);
    assert!(numbers("c", 0..0).is_empty() && checkpoint.lend("c", 0..1).is_err());
    assert!(checkpoint.tensor("a").is_none(), "it does not lie as f32 anywhere");
}
