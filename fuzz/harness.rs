//! What the fuzz targets do with their bytes: open them as a checkpoint, and read whatever can be read; look at them as a
//! plugin's file; take them for what a plugin answers; decode them as an image.
//!
//! An ordinary test replays the seeds through the same functions, so a seed that once broke something stays one.
#![allow(dead_code)] // Each target calls its own part.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qeff_core::qpc::{Direction, Interface, Qpc};
use qeff_core::validate::validate;
use qeff_core::weights::blocks::{BlockPart, ZeroPoint};
use qeff_core::weights::gguf::Header;
use qeff_core::weights::quantised::Quantization;
use qeff_core::weights::{Checkpoint, TensorSource};
use qeff_host::plugins::{file, worker};
use qeff_host::vision::Rgb;
use qeff_plugin_api::abi::{Call, Calls, Manifest, Plugin};
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::Model;
use qeff_plugin_api::plugin::{PluginError, Request};
use qeff_plugin_api::{DType, TensorIndex, TensorInfo, wire};
use tempfile::TempDir;

/// Between the files of an input that stands for several.
const CUT: &[u8] = b"\n---\n";

/// Most elements that are read at a time.
const RUN: u64 = 5000;

/// Most bytes of data that are made up for a header.
const MOST_DATA: u64 = 1 << 16;

/// A folder that inputs are written to, one after the other.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// In memory, where there is such a file system.
    pub(crate) fn new() -> std::io::Result<Self> {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.map(Folder)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        path
    }

    /// A file of safetensors, as it stands; or, with cuts, an index and its shards `a`, `b`, ….
    pub(crate) fn safetensors(&self, input: &[u8]) {
        let mut files = split(input);
        let first = files.next().unwrap_or_default();
        let rest: Vec<_> = files.collect();
        let name = self.0.path().join("model.safetensors");
        if rest.is_empty() {
            self.write("model.safetensors", first);
        } else {
            let _ = std::fs::remove_file(name);
            self.write("model.safetensors.index.json", first);
            for (letter, bytes) in ('a'..='d').zip(rest) {
                self.write(&format!("{letter}.safetensors"), bytes);
            }
        }
        if let Ok(checkpoint) = Checkpoint::open(self.0.path()) {
            read_all(&checkpoint);
            if let Ok(checkpoint) = checkpoint.dequantised(None) {
                read_all(&checkpoint);
            }
        }
    }

    /// A GGUF file.
    pub(crate) fn gguf(&self, input: &[u8]) {
        if let Ok(header) = Header::read(input) {
            for value in header.metadata.values() {
                if let Some(array) = value.as_array() {
                    assert_eq!(array.iter().count() as u64, array.len());
                }
            }
        }
        if let Ok(checkpoint) = Checkpoint::open_gguf(self.write("model.gguf", input)) {
            read_all(&checkpoint);
        }
    }

    /// A config, the header of a safetensors file, and bytes of which its data is made by repetition.
    pub(crate) fn quantised(&self, input: &[u8]) {
        let mut files = split(input);
        let (config, header, data) =
            (files.next().unwrap_or_default(), files.next().unwrap_or_default(), files.next().unwrap_or_default());
        let Ok(config) = Config::parse(&String::from_utf8_lossy(config)) else { return };
        let Ok(Some(quantization)) = Quantization::read(&config) else { return };
        let length = data_length(header).min(MOST_DATA) as usize;
        let data = data.iter().chain(std::iter::repeat_n(&0, usize::from(data.is_empty()))).cycle().take(length);
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend(data);
        self.write("model.safetensors", &file);
        let Ok(checkpoint) = Checkpoint::open(self.0.path()) else { return };
        if let Ok(checkpoint) = checkpoint.dequantised(Some(&quantization)) {
            read_all(&checkpoint);
        }
    }
}

/// A compiled program, and a descriptor of one.
pub(crate) fn qpc(input: &[u8]) {
    if let Ok(qpc) = Qpc::parse(input) {
        assert!(qpc.devices() > 0 && qpc.bytes == input.len() as u64);
        qpc.slices.iter().for_each(|slice| check(&slice.interface));
    }
    if let Ok(interface) = qeff_core::qpc::io_descriptor(input) {
        check(&interface);
    }
}

/// What everybody who calls a program relies on.
fn check(interface: &Interface) {
    let bindings = &interface.bindings;
    assert!(!interface.rows.is_empty() && interface.rows.iter().all(|row| row.len() == bindings.len()));
    for state in interface.states() {
        assert_eq!(bindings[state.input].direction, Direction::Input);
        assert_eq!(bindings[state.output].direction, Direction::Output);
    }
    for binding in bindings {
        let found = interface.find(&binding.name).expect("a binding by its own name");
        assert_eq!(bindings[found].name, binding.name);
        let elements: u64 = binding.dims.iter().map(|&dim| u64::from(dim)).product();
        assert!(elements.checked_mul(binding.elem.bytes().unwrap_or(1) as u64).is_some());
    }
}

/// Files between cuts.
fn split(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        match input.windows(CUT.len()).position(|window| window == CUT) {
            Some(at) => {
                let file = &input[..at];
                input = &input[at + CUT.len()..];
                Some(file)
            }
            None => {
                done = true;
                Some(input)
            }
        }
    })
}

/// Bytes of data that a header speaks of.
fn data_length(header: &[u8]) -> u64 {
    let Ok(serde_json::Value::Object(header)) = serde_json::from_slice(header) else { return 0 };
    let ends = header.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    ends.max().unwrap_or(0)
}

/// Reads the beginning, the middle and the end of every tensor, dense and in blocks, and what is just behind.
fn read_all(checkpoint: &Checkpoint) {
    for (name, info) in checkpoint.index().iter() {
        let count = info.shape.iter().product::<u64>();
        let width = info.shape.last().copied().unwrap_or(1).max(1);
        for start in [0, count / 2, count.saturating_sub(RUN), width - 1] {
            let range = start..start.saturating_add(RUN).min(count);
            if range.start <= range.end {
                let lent = checkpoint.lend(name, range.clone()).expect("elements within the tensor");
                assert_eq!(lent.len() as u64, (range.end - range.start) * info.dtype.size() as u64);
                checkpoint.release(name, range);
            }
        }
        assert!(checkpoint.lend(name, 0..count + 1).is_err());
        assert!(checkpoint.lend(name, u64::MAX - 1..u64::MAX).is_err());
        let Some(layout) = checkpoint.encoding(name).and_then(|encoding| encoding.blocks) else { continue };
        let Some(per_row) = layout.blocks_per_row(width) else { continue };
        let blocks = count / layout.length;
        for start in [0, blocks / 2, per_row - 1] {
            let range = start..(start + RUN / layout.length.min(RUN)).min(blocks);
            if range.start > range.end {
                continue;
            }
            let (elements, count) =
                (((range.end - range.start) * layout.length) as usize, (range.end - range.start) as usize);
            let read = |part: BlockPart<'_>| {
                checkpoint.read_blocks(name, range.clone(), part).expect("blocks within the tensor")
            };
            read(BlockPart::Codes(&mut vec![0; elements]));
            read(BlockPart::Scales(&mut vec![0.0; count]));
            if layout.zero == ZeroPoint::PerBlock {
                read(BlockPart::Zeros(&mut vec![0; count]));
            }
            if layout.ordered && range.end <= per_row {
                read(BlockPart::Order(&mut vec![0; elements]));
            }
        }
    }
}

/// An image file.
pub(crate) fn image(input: &[u8]) {
    // What a PNG says of its size may take memory, up to a limit, that a fuzzer has not.
    if input.starts_with(b"\x89PNG")
        && input.get(16..24).is_some_and(|size| size[0..2] != [0, 0] || size[4..6] != [0, 0])
    {
        return;
    }
    if let Ok(image) = Rgb::decode(input, Path::new("image")) {
        assert_eq!(image.data().len() as u64, 3 * image.size().area());
    }
}

/// A plugin's file, before anything of it is executed.
pub(crate) fn plugin_file(input: &[u8]) {
    if let Ok((symbol, manifest)) = file::inspect(input) {
        assert!(symbol.starts_with(qeff_plugin_api::abi::SYMBOL_PREFIX));
        let text = manifest.to_json().to_string();
        assert_eq!(Manifest::parse(&text).as_ref(), Ok(&manifest));
        assert!(!manifest.name.contains(['/', '\0', '\u{1b}']));
    }
}

/// A plugin that has one answer to everything.
struct Parrot(Vec<u8>);

impl Calls for Parrot {
    fn call(&self, _: u32, _: Call<'_>) -> Result<Vec<u8>, PluginError> {
        Ok(self.0.clone())
    }
}

/// What a plugin answers: a worker's reply, or what is in one.
pub(crate) fn plugin_answer(input: &[u8]) {
    let answer = worker::read_reply(input).unwrap_or_else(|_| input.to_vec());
    let one = || vec!["one".to_owned()];
    let manifest = Manifest {
        name: "fuzz".into(),
        version: "0.0.0".into(),
        api: "0.0.0".into(),
        architectures: vec![one()],
        pooling: one(),
        rewrites: one(),
        formats: one(),
        rustc: "none".into(),
        target: "none".into(),
        panic: "unwind".into(),
    };
    let plugin = Plugin::new(manifest, Arc::new(Parrot(answer)));
    let info = TensorInfo { dtype: DType::F32, shape: vec![5, 3] };
    let tensors: TensorIndex = [("table.weight".to_owned(), info)].into_iter().collect();
    let Ok(config) = Config::parse(r#"{"width": 3}"#) else { return };
    let request = Request { config, tensors };
    for architecture in plugin.architectures() {
        architecture.recognise(&request.config);
        if let Ok(model) = architecture.describe(&request) {
            look_at(&model, &request.tensors);
        }
    }
    for format in plugin.formats() {
        format.probe(b"", "file");
        let _ = format.index(b"", 100);
    }
}

/// What the host does with every description: it goes over the wire once more, and is validated.
fn look_at(model: &Model, tensors: &TensorIndex) {
    let bytes = wire::encode(model);
    let again = wire::decode(&bytes, tensors).expect("what was read can be written and read");
    assert!(wire::encode(&again) == bytes);
    let _ = validate(model, tensors);
}
