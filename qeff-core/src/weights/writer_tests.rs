//! What is in the file, where, and what is left when it went wrong.

use std::borrow::Cow;
use std::ops::Range;

use qeff_plugin_api::{TensorIndex, TensorInfo};

use super::*;
use crate::weights::SourceError;
use crate::weights::eval::evaluate_to_vec;
use crate::weights::eval::tests::Memory;

fn source() -> Memory {
    let mut source = Memory::default();
    let bytes = |count: usize| (0..count).map(|i| (i * 7 % 251) as u8).collect::<Vec<u8>>();
    source.add("small", DType::F32, &[5], bytes(20));
    source.add("wide", DType::U8, &[3, 7], bytes(21));
    source.add("large", DType::F16, &[1024, 600], bytes(1024 * 600 * 2));
    source
}

fn request(text: &str, dtype: DType) -> PackRequest {
    PackRequest { name: format!("weight {text}"), expr: WeightExpr::parse(text).unwrap(), dtype }
}

fn left(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_weight_is_where_it_is_said_to_be() {
    let (dir, source) = (tempfile::tempdir().unwrap(), source());
    let requests = [
        request(r#"w"small""#, DType::F32),
        request(r#"w"wide".transpose(1, 0)"#, DType::U8),
        request(r#"w"large".transpose(1, 0)"#, DType::F16),
        request(r#"w"small""#, DType::F16),
        request(r#"w"large".transpose(1, 0).transpose(1, 0)"#, DType::F16),
        request(r#"w"large""#, DType::F16),
        request("fill(2, [0, 3])", DType::F32),
    ];
    for (budget, threads) in [(1 << 12, 1), (1 << 16, 3), (256 << 20, 2)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let last = AtomicU64::new(0);
        let progress = |p: Progress| {
            assert!(p.done_bytes <= p.total_bytes);
            last.fetch_max(p.done_bytes, Ordering::Relaxed);
        };
        let options = PackOptions { budget, pool: Some(&pool), progress: Some(&progress), ..PackOptions::default() };
        let packed = pack(dir.path(), "m", &requests, &source, options).unwrap();
        assert_eq!(packed.files, ["m_0.onnx.data"]);
        assert_eq!(left(dir.path()), ["m_0.onnx.data"]);
        let file = std::fs::read(dir.path().join("m_0.onnx.data")).unwrap();
        for (request, place) in requests.iter().zip(&packed.placements) {
            let expected = evaluate_to_vec(&request.expr, request.dtype, &source).unwrap();
            let range = place.offset as usize..(place.offset + place.length) as usize;
            assert!(file[range] == expected, "{}", request.name);
            assert_eq!(place.offset % if place.length >= LARGE { PAGE } else { ALIGNMENT }, 0, "{}", request.name);
        }
        // Transposed back is the stored tensor, so it is there once.
        assert_eq!(packed.placements[4], packed.placements[5]);
        assert_ne!(packed.placements[0].offset, packed.placements[3].offset);
        assert_eq!(packed.bytes_written, last.into_inner());
        assert_eq!(packed.bytes_written, 20 + 21 + 10 + 2 * 1024 * 600 * 2);
    }
}

#[cfg(unix)]
#[test]
fn the_file_is_as_readable_as_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, source) = (tempfile::tempdir().unwrap(), source());
    pack(dir.path(), "m", &[request(r#"w"small""#, DType::F32)], &source, PackOptions::default()).unwrap();
    std::fs::write(dir.path().join("other"), b"").unwrap();
    let mode = |name| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("m_0.onnx.data"), mode("other"));
}

#[test]
fn long_files_are_split_between_tensors() {
    let (dir, source) = (tempfile::tempdir().unwrap(), source());
    let requests =
        [request(r#"w"small""#, DType::F32), request(r#"w"large""#, DType::F16), request(r#"w"wide""#, DType::U8)];
    let options = PackOptions { file_limit: 100, ..PackOptions::default() };
    let packed = pack(dir.path(), "m", &requests, &source, options).unwrap();
    let places: Vec<(&str, u64)> = packed.placements.iter().map(|p| (p.file.as_str(), p.offset)).collect();
    assert_eq!(places, [("m_0.onnx.data", 0), ("m_1.onnx.data", 0), ("m_2.onnx.data", 0)]);
    assert_eq!(left(dir.path()), packed.files);
}

#[test]
fn no_weights_make_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let packed = pack(dir.path(), "m", &[], &source(), PackOptions::default()).unwrap();
    assert!(packed.files.is_empty() && left(dir.path()).is_empty());
}

#[test]
fn a_weight_that_cannot_be_evaluated_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = |text: &str, parts: &[&str]| {
        let requests = [request(r#"w"small""#, DType::F32), request(text, DType::F32)];
        let message = pack(dir.path(), "m", &requests, &source(), PackOptions::default()).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
        assert!(left(dir.path()).is_empty());
    };
    refuse(r#"w"nowhere""#, &["weight `weight w\"nowhere\"`", "no tensor `nowhere`"]);
    refuse(r#"w"wide""#, &["`wide`", "u8", "f32"]);
    // Simplifying would drop the step that does not fit.
    refuse(r#"w"small".repeat(0, 3, 1)"#, &["repeat(0, 3, 1)"]);
}

/// A source whose tensor breaks when it is read.
struct Broken {
    index: TensorIndex,
    panics: bool,
}

impl Broken {
    fn new(panics: bool) -> Self {
        let info = TensorInfo { dtype: DType::F32, shape: vec![1000, 1000] };
        Self { index: [("a".to_owned(), info)].into_iter().collect(), panics }
    }
}

impl TensorSource for Broken {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn lend(&self, name: &str, elements: Range<u64>) -> Result<Cow<'_, [u8]>, SourceError> {
        match elements.start {
            0..500_000 => Ok(Cow::Owned(vec![0; (elements.end - elements.start) as usize * 4])),
            _ if self.panics => panic!("broken"),
            _ => Err(SourceError::Read { tensor: name.to_owned(), error: "broken".into() }),
        }
    }
}

#[test]
fn an_error_leaves_nothing_and_an_older_file_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("m_0.onnx.data"), b"older").unwrap();
    let options = PackOptions { budget: 1 << 18, ..PackOptions::default() };
    let requests = [request(r#"w"a".transpose(1, 0)"#, DType::F32)];
    let message = pack(dir.path(), "m", &requests, &Broken::new(false), options).unwrap_err().to_string();
    assert!(message.contains("`a`") && message.contains("broken"), "{message}");
    let panicking = || pack(dir.path(), "m", &requests, &Broken::new(true), options).is_ok();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking));
    assert!(panicked.is_err());
    assert_eq!(left(dir.path()), ["m_0.onnx.data"]);
    assert_eq!(std::fs::read(dir.path().join("m_0.onnx.data")).unwrap(), b"older");
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let requests = [request(r#"w"small""#, DType::F32)];
    let error = pack(Path::new("/nowhere/at/all"), "m", &requests, &source(), PackOptions::default()).unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all/m_0.onnx.data"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_says_so() {
    // `/dev/full` refuses every byte as a full disk does.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let error = Positioned { file: &full, offset: 0 }.write(0, &[0; 10]).unwrap_err();
    let message = io_error(Path::new("/disk/m_0.onnx.data"), error, 5_000_001).to_string();
    assert!(message.contains("no space left for /disk/m_0.onnx.data") && message.contains("6 MB"), "{message}");
}

#[test]
fn a_checkpoint_is_packed_whatever_its_alignment() {
    let dir = tempfile::tempdir().unwrap();
    let count = 70 * 300;
    let numbers: Vec<u8> = (0..count).flat_map(|i| ((i % 1999) as f32).to_le_bytes()).collect();
    // A flag in front puts the floats at an odd address.
    let header = format!(
        r#"{{"flag":{{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}},
            "a":{{"dtype":"F32","shape":[70,300],"data_offsets":[1,{}]}}}}"#,
        1 + numbers.len()
    );
    let file = crate::weights::safetensors::tests::file(&header, &[&[1], numbers.as_slice()].concat());
    std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let checkpoint = crate::weights::Checkpoint::open(&dir).unwrap();
    let requests = [
        request(r#"w"a""#, DType::F32),
        request(r#"w"a".transpose(1, 0)"#, DType::F32),
        request(r#"w"a".take(1, 150, 2, 1..2).affine(1, 1)"#, DType::F16),
    ];
    let options = PackOptions { budget: 1 << 14, ..PackOptions::default() };
    let packed = pack(dir.path(), "m", &requests, &checkpoint, options).unwrap();
    let file = std::fs::read(dir.path().join("m_0.onnx.data")).unwrap();
    let bytes = |at: usize| {
        let Placement { offset, length, .. } = packed.placements[at];
        &file[offset as usize..(offset + length) as usize]
    };
    assert!(bytes(0) == numbers);
    for row in 0..70 {
        for column in 0..300 {
            let stored = &numbers[(row * 300 + column) * 4..][..4];
            assert_eq!(&bytes(1)[(column * 70 + row) * 4..][..4], stored);
            if column % 2 == 1 {
                let expected = half::f16::from_f32((((row * 300 + column) % 1999) as f32) + 1.0);
                assert_eq!(bytes(2)[(row * 150 + column / 2) * 2..][..2], expected.to_le_bytes());
            }
        }
    }
}
