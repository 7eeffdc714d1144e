//! Plugins from files: the same answers as linked ones, and clear refusals.
//!
//! What is loaded are the shared objects that cargo made of this test's own dependencies.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

use qeff_host::plugins::{PluginsError, Registry};
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::Role;
use qeff_plugin_api::plugin::{HeaderNeed, Request};
use qeff_plugin_api::{DType, TensorIndex, TensorInfo, abi, wire};
use qeff_plugin_everything as _;

/// The shared object of a plugin package of this workspace. Cargo has built it beside this test, because the test depends
/// on the package; a build of our own here would change files under the feet of whoever runs this test.
fn shared_object(package: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let file = exe.with_file_name(format!("lib{}.so", package.replace('-', "_")));
    assert!(file.is_file(), "{} is not built", file.display());
    file
}

/// A registry that holds one file's plugin and nothing else.
fn loaded(package: &str) -> Registry {
    let mut registry = Registry::empty();
    registry.add_file(&shared_object(package)).unwrap_or_else(|error| panic!("{error}"));
    registry
}

/// Config and tensors of a checkpoint of the repository.
fn checkpoint(family: &str) -> Request {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(family).join("base");
    let config = Config::parse(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors = header.iter().filter(|(name, _)| *name != "__metadata__").map(|(name, info)| {
        let dtype: DType = info["dtype"].as_str().unwrap().to_lowercase().parse().unwrap();
        let shape = info["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        (name.clone(), TensorInfo { dtype, shape })
    });
    Request { config, tensors: tensors.collect() }
}

fn bag(width: u64) -> Request {
    let text = format!(r#"{{"architectures": ["BagModel"], "width": {width}, "unknown": 1.1e-3}}"#);
    let info = TensorInfo { dtype: DType::F32, shape: vec![5, width] };
    Request {
        config: Config::parse(&text).unwrap(),
        tensors: [("table.weight".to_owned(), info)].into_iter().collect(),
    }
}

/// The wire bytes of a description, and the config fields that it did not read.
fn described(registry: &Registry, request: Request) -> (Vec<u8>, Vec<String>) {
    // Its own memory of what was read.
    let config = Config::parse(&request.config.to_text()).unwrap();
    let request = Request { config, ..request };
    let model = registry.architecture_for(&request.config, None).and_then(|entry| entry.describe(&request));
    (wire::encode(&model.unwrap_or_else(|error| panic!("{error}"))), request.config.unread())
}

#[test]
fn linked_and_loaded_plugins_answer_the_same_bytes() {
    for (package, request) in [
        ("qeff-plugin-llama", checkpoint("llama")),
        ("qeff-plugin-gpt2", checkpoint("gpt2")),
        ("qeff-plugin-everything", bag(3)),
    ] {
        let linked = described(&Registry::builtin(), request.clone());
        let loaded = described(&loaded(package), request);
        assert!(linked.0 == loaded.0, "{package}: the bytes differ");
        assert!(!linked.0.is_empty());
        assert_eq!(linked.1, loaded.1, "{package}: unread config fields");
    }
}

#[test]
fn heads_rewrites_and_formats_cross_too() {
    let linked = Registry::builtin();
    let loaded = loaded("qeff-plugin-everything");
    let request = bag(3);
    let answers = [&linked, &loaded].map(|registry| {
        let model = registry.architecture_for(&request.config, None).unwrap().describe(&request).unwrap();
        let model = registry.rewrite("double").unwrap().rewrite(model, &request.tensors).unwrap();
        let model = registry.pooling("masked-mean").unwrap().append(model, &request.tensors).unwrap();
        let pooled = model.programs[0].output(Role::Pooled).unwrap().value;
        assert_eq!(model.programs[0].ty(pooled).to_string(), "act[batch_size, 3]");
        wire::encode(&model)
    });
    assert!(answers[0] == answers[1], "the bytes differ");

    let file = [b"TOY1".as_slice(), &2u32.to_le_bytes(), &3u32.to_le_bytes(), &[1, 2, 3, 4, 5, 6]].concat();
    let indices = [&linked, &loaded].map(|registry| {
        let format = &registry.formats()[0].item;
        assert_eq!(format.name(), "toy");
        assert!(format.probe(&file, "x") && format.probe(b"", "x.toy") && !format.probe(b"GGUF", "x.gguf"));
        assert_eq!(format.index(&file[..4], 18), Ok(HeaderNeed::More(12)));
        assert!(format.index(&file[..12], 19).unwrap_err().to_string().contains("2 rows of 3 do not fit"));
        let HeaderNeed::Tensors(tensors) = format.index(&file[..12], 18).unwrap() else { panic!("no tensors") };
        let mut out = [0; 6];
        format.decode(&tensors[0].encoding, &file[12..], &mut out).unwrap();
        assert_eq!(out, [0, 1, 2, 3, 4, 5]);
        assert!(format.decode("other", &file[12..], &mut out).is_err());
        tensors
    });
    assert_eq!(indices[0], indices[1]);
    let error = loaded.pooling("median").unwrap_err();
    assert_eq!(error.to_string(), "there is no pooling head called `median`; known: masked-mean");
}

#[test]
fn errors_are_those_of_a_linked_plugin() {
    let text = r#"{"architectures": ["BagModel"], "width": "wide"}"#;
    let errors = [Registry::builtin(), loaded("qeff-plugin-everything")].map(|registry| {
        let request = Request { config: Config::parse(text).unwrap(), tensors: TensorIndex::new() };
        let entry = registry.architecture_for(&request.config, None).unwrap();
        let misfit = entry.describe(&Request { tensors: TensorIndex::new(), ..bag(3) }).unwrap_err();
        let PluginsError::Refused { source, .. } = misfit else { panic!("{misfit}") };
        (entry.item.describe(&request).unwrap_err(), source.to_string())
    });
    assert_eq!(errors[0], errors[1]);
    assert!(errors[0].0.to_string().starts_with("config.json: `width`: expected a whole number"), "{}", errors[0].0);
    assert_eq!(errors[0].1, "in table: the checkpoint has no tensor `table.weight`");
}

#[test]
fn a_panic_is_an_error_with_message_and_place() {
    let registry = loaded("qeff-plugin-everything");
    let entry = registry.architecture_for(&bag(3).config, None).unwrap();
    let error = entry.describe(&bag(13)).unwrap_err();
    assert!(!error.is_user_input());
    let text = error.to_string();
    assert!(text.contains("a width of 13 is bad luck"), "{text}");
    assert!(text.contains("tests/plugins/everything/src/lib.rs:"), "{text}");
    // What it left half done is unknown.
    let again = entry.describe(&bag(3)).unwrap_err().to_string();
    assert!(again.contains("it is not asked again, because it panicked at"), "{again}");
}

#[test]
fn files_that_are_no_plugins_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = Registry::empty().add_file(&path).unwrap_err();
        assert!(error.is_user_input());
        let text = error.to_string();
        assert!(text.contains(name) && text.len() < 1000, "{text}");
        text
    };
    let good = std::fs::read(shared_object("qeff-plugin-llama")).unwrap();
    let check = |text: String, expected: &str| assert!(text.contains(expected), "expected `{expected}` in `{text}`");
    check(refused("text.so", b"I am a library, honestly"), "it is not a shared library");
    check(refused("empty.so", b""), "it is not a shared library");
    for part in [64, 4096, good.len() / 2, good.len() - 1] {
        check(refused("cut.so", &good[..part]), "it is not a shared library");
    }
    let mut other = good.clone();
    // e_machine: the other common one.
    let machine: u16 = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
    other[18..20].copy_from_slice(&machine.to_le_bytes());
    check(refused("other.so", &other), "this machine is");
    // A library that is certainly there: the C library of this process.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().filter_map(|line| line.split_whitespace().last()).find(|path| path.contains("/libc.so"));
    check(refused("libc.so", &std::fs::read(libc.unwrap()).unwrap()), "not a qeff plugin: no symbol `qeff_plugin_v1__");
    // The same name in the string table, another epoch.
    let mut epoch = good.clone();
    let name = b"qeff_plugin_v1__qeff_plugin_llama";
    for at in 0..epoch.len() - name.len() {
        if epoch[at..].starts_with(name) {
            epoch[at + 13] = b'2';
        }
    }
    check(refused("epoch.so", &epoch), "built for plugin ABI 2");
    let error = Registry::empty().add_file(folder.path()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
    let error = Registry::empty().add_file(&folder.path().join("none.so")).unwrap_err().to_string();
    assert!(error.contains("none.so") && error.contains("No such file"), "{error}");
}

/// Symbols of the right name that nobody of ours made; the C compiler is the one that links Rust.
#[test]
fn foreign_symbols_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, source: &str| {
        let (c, so) = (folder.path().join(format!("{name}.c")), folder.path().join(format!("{name}.so")));
        std::fs::write(&c, source).unwrap();
        let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&so, &c]).status().unwrap();
        assert!(status.success());
        Registry::empty().add_file(&so).unwrap_err().to_string()
    };
    let check = |text: String, expected: &str| assert!(text.contains(expected), "expected `{expected}` in `{text}`");
    let two = "char qeff_plugin_v1__a[64] = {1}; char qeff_plugin_v1__b[64] = {1};";
    check(refused("two", two), "several plugins: qeff_plugin_v1__a, qeff_plugin_v1__b");
    check(refused("wrong", "char qeff_plugin_v1__a[512] = {1};"), "header is malformed: it is not abi_stable 0.11's");
    check(refused("short", "char qeff_plugin_v1__a[4] = {1};"), "`qeff_plugin_v1__a` is no plugin header");
    check(refused("code", "int qeff_plugin_v1__a(void) { return 1; }"), "no plugin header");
    let missing = "extern int nowhere; char qeff_plugin_v1__a[512] = {1}; int *use(void) { return &nowhere; }";
    check(refused("missing", missing), "undefined symbol: nowhere");
}

#[test]
fn equal_claims_are_an_error_until_one_is_chosen() {
    let mut registry = Registry::builtin();
    let path = shared_object("qeff-plugin-llama");
    let path = path.to_str().unwrap();
    registry.choose(path).unwrap();
    // A second time is no second plugin.
    registry.choose(path).unwrap();
    let request = checkpoint("llama");
    let error = registry.architecture_for(&request.config, None).unwrap_err();
    assert!(error.is_user_input());
    let text = error.to_string();
    assert!(text.contains("(built-in)") && text.contains(path) && text.contains("--plugin"), "{text}");
    let chosen = registry.architecture_for(&request.config, Some(path)).unwrap();
    assert_eq!(chosen.origin.source.to_string(), path);
    let listed: Vec<_> = registry.list().into_iter().map(|plugin| (plugin.name, plugin.source)).collect();
    let llamas: Vec<_> = listed.into_iter().filter(|(name, _)| name == "llama").collect();
    assert_eq!(llamas, [("llama".to_owned(), "built-in".to_owned()), ("llama".into(), path.to_owned())]);
}

#[test]
fn plugins_loaded_together_stay_apart() {
    let mut registry = Registry::empty();
    for package in ["qeff-plugin-everything", "qeff-plugin-gpt2", "qeff-plugin-llama"] {
        registry.add_file(&shared_object(package)).unwrap();
    }
    let listed: Vec<_> = registry.list().into_iter().map(|plugin| (plugin.name, plugin.architectures.len())).collect();
    assert_eq!(listed, [("everything".into(), 1), ("gpt2".into(), 1), ("llama".to_owned(), 2)]);
    let manifest = abi::load(&shared_object("qeff-plugin-gpt2")).unwrap().manifest().clone();
    assert_eq!((manifest.panic.as_str(), manifest.version.as_str()), ("unwind", env!("CARGO_PKG_VERSION")));
    assert!(manifest.rustc.starts_with("rustc "), "{}", manifest.rustc);
}
