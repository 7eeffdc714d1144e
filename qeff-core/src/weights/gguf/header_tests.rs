use proptest::prelude::*;

use super::*;
use qeff_plugin_api::DType;

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A key with a value of type `kind`.
fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key), &kind.to_le_bytes()[..], value].concat()
}

fn tensor(name: &str, dims: &[u64], ty: u32, at: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    bytes.extend(ty.to_le_bytes());
    bytes.extend(at.to_le_bytes());
    bytes
}

/// A file of these parts with `data` zeros behind them.
fn file(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut bytes = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    bytes.extend(pairs.iter().chain(tensors).flatten());
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

fn strings(of: &[&str]) -> Vec<u8> {
    let mut bytes = [8u32.to_le_bytes().as_slice(), &(of.len() as u64).to_le_bytes()].concat();
    bytes.extend(of.iter().flat_map(|of| text(of)));
    bytes
}

fn sound() -> Vec<u8> {
    let floats =
        [6u32.to_le_bytes().as_slice(), &2u64.to_le_bytes(), &1f32.to_le_bytes(), &2f32.to_le_bytes()].concat();
    let pairs = [
        pair("general.architecture", 8, &text("llama")),
        pair("llama.block_count", 4, &2u32.to_le_bytes()),
        pair("tokens", 9, &strings(&["a", "bc", ""])),
        pair("scores", 9, &floats),
        pair("flag", 7, &[1]),
    ];
    file(&pairs, &[tensor("a", &[3, 2], 0, 0), tensor("q", &[64], 8, 32)], 32 + 68)
}

#[test]
fn a_sound_file_is_read_where_it_lies() {
    let bytes = sound();
    let header = Header::read(&bytes).unwrap();
    let get = |key: &str| header.metadata[key];
    assert_eq!(get("general.architecture").as_text(), Some("llama"));
    assert_eq!(get("llama.block_count").as_u64(), Some(2));
    assert_eq!(get("flag").as_bool(), Some(true));
    let tokens: Vec<_> = get("tokens").as_array().unwrap().texts().unwrap().collect();
    assert_eq!(tokens, ["a", "bc", ""]);
    let scores: Vec<_> = get("scores").as_array().unwrap().iter().filter_map(|score| score.as_f64()).collect();
    assert_eq!(scores, [1.0, 2.0]);
    let [a, q] = &header.tensors[..] else { panic!("{:?}", header.tensors) };
    assert_eq!((a.shape.as_slice(), a.storage), (&[2, 3][..], Storage::Plain(DType::F32)));
    assert_eq!(a.range.end - a.range.start, 24);
    assert_eq!(
        (q.storage.name().as_str(), q.range.start - a.range.start, q.range.end),
        ("Q8_0", 32, bytes.len() as u64)
    );
}

#[test]
fn types_that_are_not_decoded_are_kept_by_name() {
    let bytes = file(&[], &[tensor("i", &[256], 16, 0), tensor("x", &[1], 99, 0)], 66);
    let header = Header::read(&bytes).unwrap();
    let names: Vec<_> = header.tensors.iter().map(|tensor| tensor.storage.name()).collect();
    assert_eq!(names, ["IQ2_XXS", "type 99"]);
}

#[test]
fn malformed_files_are_refused_where_they_are_wrong() {
    let max = u64::MAX;
    let counts = |tensors: u64, pairs: u64| {
        [b"GGUF".as_slice(), &3u32.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat()
    };
    let list = |kind: u32, len: u64, rest: &[u8]| {
        let value = [kind.to_le_bytes().as_slice(), &len.to_le_bytes(), rest].concat();
        file(&[pair("k", 9, &value)], &[], 0)
    };
    let nested = |depth: usize| {
        let level = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat();
        let inner = [0u32.to_le_bytes().as_slice(), &0u64.to_le_bytes()].concat();
        file(&[pair("k", 9, &[level.repeat(depth), inner].concat())], &[], 0)
    };
    let one = |dims: &[u64], ty, at, data| file(&[], &[tensor("t", dims, ty, at)], data);
    let alignment = |kind, value: &[u8]| file(&[pair("general.alignment", kind, value)], &[], 0);
    let version = |version: u32| [b"GGUF".as_slice(), &version.to_le_bytes(), &[0; 16]].concat();
    let cases: Vec<(&str, Vec<u8>, u64, &str)> = vec![
        ("empty", vec![], 0, "takes 4 bytes and 0 remain"),
        ("another format", b"PK\x03\x04 and so on".to_vec(), 0, "begins with"),
        ("reversed mark", b"FUGG\0\0\0\x03".to_vec(), 0, "big-endian"),
        ("big-endian", version(3u32.swap_bytes()), 4, "big-endian"),
        ("version 1", version(1), 4, "version 1; versions 2 and 3"),
        ("version 4", version(4), 4, "version 4; versions 2 and 3"),
        ("cut in the version", b"GGUF\x03".to_vec(), 4, "takes 4 bytes and 1 remain"),
        ("cut in the counts", counts(0, 0)[..20].to_vec(), 16, "takes 8 bytes and 4 remain"),
        ("tensors without end", counts(max, 0), 8, "18446744073709551615 tensors are claimed; the 8 bytes"),
        ("keys without end", counts(0, 1 << 60), 16, "keys are claimed; the 0 bytes"),
        ("a key without end", [counts(0, 1), max.to_le_bytes().to_vec(), vec![0; 9]].concat(), 32, "a key takes"),
        ("a key that is no text", file(&[[&1u64.to_le_bytes()[..], &[0xff; 8]].concat()], &[], 0), 24, "not UTF-8"),
        ("a type of value", file(&[pair("k", 13, &[0; 8])], &[], 0), 33, "the type 13"),
        ("a flag of 2", file(&[pair("k", 7, &[2])], &[], 0), 37, "the value 2"),
        ("a text without end", file(&[pair("k", 8, &max.to_le_bytes())], &[], 0), 45, "a text takes"),
        ("a list of no type", list(77, 1, &[0; 8]), 37, "the type 77"),
        ("numbers without end", list(10, max / 8 + 1, &[]), 41, "values of a list are claimed"),
        ("texts without end", list(8, 1 << 40, &[]), 41, "values of a list are claimed"),
        ("a list in a list in a list", nested(4), 85, "more than 4 deep"),
        ("key twice", file(&[pair("k", 7, &[1]), pair("k", 7, &[1])], &[], 0), 38, "`k` stands twice"),
        ("alignment 0", alignment(4, &[0; 4]), 24, "is 0; a power of two"),
        ("alignment 24", alignment(4, &24u32.to_le_bytes()), 24, "is 24; a power of two"),
        ("alignment in words", alignment(8, &text("32")), 24, "is a text; a power of two"),
        ("alignment without end", [alignment(10, &(1u64 << 63).to_le_bytes()), vec![]].concat(), 0, ""),
        ("tensor twice", file(&[], &[tensor("t", &[1], 0, 0), tensor("t", &[1], 0, 32)], 64), 57, "listed twice"),
        ("five dimensions", one(&[1; 5], 0, 0, 4), 24, "5 dimensions; at most 4"),
        ("no elements", one(&[4, 0], 0, 0, 4), 24, "[4, 0], of no elements"),
        ("too many elements", one(&[1 << 32, 1 << 32], 0, 0, 4), 24, "more than can be counted"),
        ("too many bytes", one(&[1 << 61], 28, 0, 4), 24, "more than can be counted"),
        ("part of a block", one(&[48], 2, 0, 64), 24, "blocks of 32; its rows of 48"),
        ("between alignments", one(&[1], 0, 4, 64), 24, "4 bytes into the data; a multiple of 32"),
        ("past the end", one(&[16], 0, 0, 60), 24, "ends at byte 128 and the file at 124"),
        ("far past the end", one(&[1], 0, max - 31, 60), 24, "ends at byte 18446744073709551615"),
        (
            "shared bytes",
            file(&[], &[tensor("t", &[16], 0, 0), tensor("u", &[1], 0, 32)], 64),
            128,
            "`t` and `u` share",
        ),
    ];
    let mut wrong = vec![];
    for (case, bytes, offset, message) in cases {
        match Header::read(&bytes) {
            // A file without tensors has no data to be aligned.
            Ok(_) if message.is_empty() => {}
            Ok(_) => wrong.push(format!("{case}: read")),
            Err(error) if error.offset == offset && error.to_string().contains(message) => {}
            Err(error) => wrong.push(format!("{case}: {error}; expected byte {offset}: {message}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_that_ends_early_is_refused_at_every_length() {
    let bytes = sound();
    for length in 0..bytes.len() {
        assert!(Header::read(&bytes[..length]).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn mutated_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = sound();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(header) = Header::read(&bytes) {
            for tensor in header.tensors {
                prop_assert!(tensor.range.start <= tensor.range.end && tensor.range.end <= bytes.len() as u64);
            }
            for value in header.metadata.values() {
                if let Some(array) = value.as_array() {
                    prop_assert_eq!(array.iter().count() as u64, array.len());
                }
            }
        }
    }

    #[test]
    fn mutated_numbers_never_panic(
        dims in prop::collection::vec(prop_oneof![0..40u64, any::<u64>()], 0..5),
        ty in 0..45u32,
        at in prop_oneof![Just(0u64), any::<u64>().prop_map(|at| at & !31)],
        alignment in any::<u64>(),
    ) {
        let bytes = file(&[pair("general.alignment", 10, &alignment.to_le_bytes())], &[tensor("t", &dims, ty, at)], 100);
        let _ = Header::read(&bytes);
    }
}
