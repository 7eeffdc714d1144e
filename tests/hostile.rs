//! Files from strangers: refused with the file, the place and a reason, and never with a panic.

use std::path::Path;

use anyhow::Result;
use proptest::prelude::*;
use qeff::scratch::Scratch;
use qeff::{fixture, fixtures_of, root};
use qeff_host::checkpoint::Checkpoint;
use qeff_host::describe::{DescribeOptions, describe};
use qeff_host::plugins::Registry;

#[path = "../fuzz/harness.rs"]
mod harness;

/// The seeds of a fuzz target.
fn seeds(target: &str) -> Result<Vec<Vec<u8>>> {
    let mut paths: Vec<_> = std::fs::read_dir(root().join("fuzz/seeds").join(target))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    assert!(paths.len() > 5, "{target}: {paths:?}");
    paths.iter().map(|path| Ok(std::fs::read(path)?)).collect()
}

#[test]
fn seeds_of_the_fuzz_targets_are_replayed() -> Result<()> {
    let folder = harness::Folder::new()?;
    seeds("safetensors")?.iter().for_each(|seed| folder.safetensors(seed));
    seeds("gguf")?.iter().for_each(|seed| folder.gguf(seed));
    seeds("quantised")?.iter().for_each(|seed| folder.quantised(seed));
    seeds("image")?.iter().for_each(|seed| harness::image(seed));
    seeds("qpc")?.iter().for_each(|seed| harness::qpc(seed));
    seeds("plugin_answer")?.iter().for_each(|seed| harness::plugin_answer(seed));
    seeds("plugin_file")?.iter().for_each(|seed| harness::plugin_file(seed));
    Ok(())
}

/// The seeds of the plugin targets are what they are called, so that mutations of them go deep.
#[test]
#[cfg(target_arch = "x86_64")]
fn seeds_of_plugin_files_are_what_they_are_called() -> Result<()> {
    let said = |name: &str| -> Result<String> {
        let bytes = std::fs::read(root().join("fuzz/seeds/plugin_file").join(name))?;
        Ok(qeff_host::plugins::file::inspect(&bytes).map_or_else(|fault| fault.to_string(), |found| found.1.name))
    };
    for (name, expected) in [
        ("sound", "acme"),
        ("cut", "it is truncated or damaged"),
        ("two-symbols", "it holds several plugins: qeff_plugin_v1__a, qeff_plugin_v1__b"),
        ("no-symbol", "not a qeff plugin"),
        ("other-epoch", "built for plugin ABI 2"),
        ("needs", "it needs the library `libevil.so`"),
        ("runpath", "(RUNPATH `/tmp`)"),
        ("audit", "it asks for other libraries in its place"),
        ("other-machine", "it was built for aarch64"),
        ("name-of-a-path", "found `../acme`"),
        ("no-json", "its manifest is malformed"),
    ] {
        let said = said(name)?;
        assert!(said.contains(expected), "{name}: {said}");
    }
    Ok(())
}

/// A safetensors file of this header and so many bytes of data.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

/// One tensor of a safetensors header.
fn tensor(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{from},{to}]}}"#)
}

/// A GGUF file: its beginning with these counts, and what follows.
fn gguf(version: u32, tensors: u64, pairs: u64, rest: &[&[u8]]) -> Vec<u8> {
    let head = [&b"GGUF"[..], &version.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat();
    [head, rest.concat()].concat()
}

/// A text of a GGUF file.
fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A pair of a GGUF file's metadata.
fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
}

/// What GGUF says of a tensor.
fn entry(name: &str, dims: &[u64], kind: u32, at: u64) -> Vec<u8> {
    let dims: Vec<u8> =
        (dims.len() as u32).to_le_bytes().into_iter().chain(dims.iter().flat_map(|dim| dim.to_le_bytes())).collect();
    [text(name), dims, kind.to_le_bytes().to_vec(), at.to_le_bytes().to_vec()].concat()
}

/// What opening `path` says under its title, with the folder's name taken out. Causes that repeat what led to them are
/// left out, as the command does.
fn said(title: &str, path: &Path, dir: &Path) -> String {
    let mut said = "(opened)".to_owned();
    if let Err(error) = Checkpoint::open(path) {
        said.clear();
        for cause in error.chain().map(ToString::to_string) {
            if !said.contains(&cause) {
                said = format!("{said}{}{cause}", if said.is_empty() { "" } else { "\n" });
            }
        }
    }
    format!("## {title}\n{}\n", said.replace(&dir.display().to_string(), "CHECKPOINT"))
}

fn snapshot(name: &str, lines: &[String]) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join("snapshots/hostile"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, lines.join("\n")));
}

#[test]
fn safetensors_files() {
    let max = u64::MAX;
    let whole = |parts: &[String], data| safetensors(&format!("{{{}}}", parts.join(",")), data);
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("seven bytes", vec![0; 7]),
        ("a header of 2^63 bytes", (1u64 << 63).to_le_bytes().to_vec()),
        ("a header longer than the file", [&9999u64.to_le_bytes()[..], b"{}"].concat()),
        ("no JSON", safetensors("{\"a\":", 0)),
        ("a list", safetensors("[]", 0)),
        ("text that is no UTF-8", [&3u64.to_le_bytes()[..], &[b'{', 0xff, b'}']].concat()),
        ("nested without end", safetensors(&format!(r#"{{"a":{deep}}}"#), 0)),
        ("a tensor without a type", safetensors(r#"{"a":{"shape":[1],"data_offsets":[0,4]}}"#, 4)),
        ("an unknown type", whole(&[tensor("a", "F5", "1", 0, 4)], 4)),
        ("a negative dimension", whole(&[tensor("a", "F32", "-1", 0, 4)], 4)),
        ("dimensions whose product overflows", whole(&[tensor("a", "U8", &format!("{max},{max}"), 0, 1)], 1)),
        ("bytes whose number overflows", whole(&[tensor("a", "F64", &max.to_string(), 0, 8)], 8)),
        ("offsets at the end of all numbers", whole(&[tensor("a", "U8", &(max - 7).to_string(), 0, max - 7)], 8)),
        ("offsets in the wrong order", whole(&[tensor("a", "F32", "1", 4, 0)], 4)),
        ("a gap", whole(&[tensor("a", "U8", "1", 0, 1), tensor("b", "U8", "1", 2, 3)], 3)),
        ("an overlap", whole(&[tensor("a", "U8", "2", 0, 2), tensor("b", "U8", "2", 1, 3)], 3)),
        ("fewer bytes than the shape says", whole(&[tensor("a", "F32", "3", 0, 8)], 8)),
        ("data cut short", whole(&[tensor("a", "F32", "2", 0, 8)], 5)),
        ("data too long", whole(&[tensor("a", "F32", "2", 0, 8)], 9)),
    ];
    let lines: Vec<String> = cases
        .into_iter()
        .map(|(title, bytes)| {
            let scratch = Scratch::new("llama/base");
            scratch.write("model.safetensors", bytes);
            said(title, scratch.dir(), scratch.dir())
        })
        .collect();
    snapshot("safetensors", &lines);
}

#[test]
fn indices() {
    let one = safetensors(&format!("{{{}}}", tensor("a", "U8", "1", 0, 1)), 1);
    let cases: Vec<(&str, &str)> = vec![
        ("no JSON", "{"),
        ("a list", "[]"),
        ("no map", r#"{"metadata":{}}"#),
        ("a map that is a list", r#"{"weight_map":["a"]}"#),
        ("an empty map", r#"{"weight_map":{}}"#),
        ("a number for a file", r#"{"weight_map":{"a":1}}"#),
        ("no name for a file", r#"{"weight_map":{"a":""}}"#),
        ("a file outside", r#"{"weight_map":{"a":"../x.safetensors"}}"#),
        ("a file at the root", r#"{"weight_map":{"a":"/etc/passwd"}}"#),
        ("a missing file", r#"{"weight_map":{"a":"gone.safetensors"}}"#),
        ("a folder", r#"{"weight_map":{"a":"folder"}}"#),
        ("a tensor that the file lacks", r#"{"weight_map":{"b":"one.safetensors"}}"#),
        ("a tensor in two files", r#"{"weight_map":{"a":"one.safetensors","c":"two.safetensors"}}"#),
        ("a file that is no safetensors file", r#"{"weight_map":{"a":"config.json"}}"#),
    ];
    let lines: Vec<String> = cases
        .into_iter()
        .map(|(title, index)| {
            let scratch = Scratch::new("llama/base");
            scratch.remove("model.safetensors");
            scratch.write("model.safetensors.index.json", index);
            scratch.write("one.safetensors", &one);
            scratch.write("two.safetensors", &one);
            std::fs::create_dir(scratch.file("folder")).expect("a folder");
            said(title, scratch.dir(), scratch.dir())
        })
        .collect();
    snapshot("indices", &lines);
}

#[test]
fn gguf_files() {
    let max = u64::MAX.to_le_bytes();
    let alignment = |n: u32| pair("general.alignment", 4, &n.to_le_bytes());
    let list = |kind: u32, count: u64, rest: &[u8]| [&kind.to_le_bytes()[..], &count.to_le_bytes(), rest].concat();
    let nested = (0..8).fold(list(0, 0, &[]), |inner, _| list(9, 1, &inner));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("another file", b"GGML and more than that".to_vec()),
        ("only the mark", b"GGUF".to_vec()),
        ("version 1", gguf(1, 0, 0, &[])),
        ("big-endian", [&b"GGUF"[..], &3u32.to_be_bytes(), &[0; 16]].concat()),
        ("2^64 - 1 tensors", gguf(3, u64::MAX, 0, &[])),
        ("2^60 pairs", gguf(3, 0, 1 << 60, &[])),
        ("a key of 2^64 - 1 bytes", gguf(3, 0, 1, &[&max, &[0; 16]])),
        ("a key that is no text", gguf(3, 0, 1, &[&pair("\u{0}", 0, &[1])[..8], &[0xff; 8]])),
        ("a key twice", gguf(3, 0, 2, &[&pair("a", 0, &[1]), &pair("a", 0, &[2])])),
        ("a value of no type", gguf(3, 0, 1, &[&pair("a", 99, &[0; 8])])),
        ("a flag of 2", gguf(3, 0, 1, &[&pair("a", 7, &[2])])),
        ("a list of 2^62 numbers", gguf(3, 0, 1, &[&pair("a", 9, &list(10, 1 << 62, &[0; 8]))])),
        ("lists within lists", gguf(3, 0, 1, &[&pair("a", 9, &nested)])),
        ("an alignment of 0", gguf(3, 0, 1, &[&alignment(0)])),
        ("an alignment of 24", gguf(3, 0, 1, &[&alignment(24)])),
        ("a tensor of nine axes", gguf(3, 1, 0, &[&entry("t", &[1; 9], 0, 0), &[0; 64]])),
        ("a tensor of 2^66 elements", gguf(3, 1, 0, &[&entry("t", &[1 << 33, 1 << 33], 0, 0), &[0; 64]])),
        ("half a block", gguf(3, 1, 0, &[&entry("t", &[16], 2, 0), &[0; 64]])),
        ("a tensor past the end", gguf(3, 1, 0, &[&entry("t", &[32], 8, 1 << 40), &[0; 64]])),
        ("a tensor out of step", gguf(3, 1, 0, &[&entry("t", &[1], 0, 4), &[0; 64]])),
        ("a tensor twice", gguf(3, 2, 0, &[&entry("t", &[1], 0, 0), &entry("t", &[1], 0, 32), &[0; 96]])),
        ("two tensors in one place", gguf(3, 2, 0, &[&entry("t", &[1], 0, 0), &entry("u", &[1], 0, 0), &[0; 96]])),
        ("no architecture", gguf(3, 1, 0, &[&entry("t", &[1], 0, 0), &[0; 64]])),
    ];
    let dir = tempfile::tempdir().expect("a folder");
    let lines: Vec<String> = cases
        .into_iter()
        .map(|(title, bytes)| {
            let path = dir.path().join("model.gguf");
            std::fs::write(&path, bytes).expect("a file");
            said(title, &path, dir.path())
        })
        .collect();
    snapshot("gguf", &lines);
}

/// Opens and describes whatever is in a folder.
fn look(dir: &Path) {
    if let Ok(checkpoint) = Checkpoint::open(dir) {
        let _ = describe(&checkpoint, &Registry::builtin(), DescribeOptions::default());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Every quantised fixture with some bytes of its config or of its headers changed.
    #[test]
    fn changed_quantised_checkpoints_never_panic(
        which in any::<prop::sample::Index>(),
        file in prop::sample::select(vec!["config.json", "model.safetensors"]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"0123456789[]{},:\"-truefalsenull".to_vec())), 1..4),
    ) {
        let names: Vec<_> =
            fixtures_of("quantised").into_iter().filter(|name| fixture(name).join("model.safetensors").exists()).collect();
        let scratch = Scratch::new(&names[which.index(names.len())]);
        let mut bytes = std::fs::read(scratch.file(file)).expect("a file");
        let within = match file {
            "config.json" => 0..bytes.len(),
            _ => 8..8 + u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize,
        };
        for (at, byte) in edits {
            bytes[within.start + at.index(within.len())] = byte;
        }
        scratch.write(file, bytes);
        look(scratch.dir());
    }
}
