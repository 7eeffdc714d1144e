//! Plugins from files: the same answers as linked ones, and clear refusals.
//!
//! What is loaded are the shared objects that cargo made of this test's own dependencies.
#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use qeff_host::plugins::file::examine;
use qeff_host::plugins::worker::WorkerOptions;
use qeff_host::plugins::{Loading, Place, PluginsError, Registry};
use qeff_plugin_api::config::Config;
use qeff_plugin_api::graph::Role;
use qeff_plugin_api::plugin::{HeaderNeed, Request};
use qeff_plugin_api::{DType, TensorIndex, TensorInfo, wire};
use qeff_plugin_everything as _;
use tempfile::TempDir;

/// Where plugins run, whom nobody must be able to tell apart.
const PLACES: [Place; 2] = [Place::InProcess, Place::Worker];

/// The shared object of a plugin package of this workspace. Cargo has built it beside this test, because the test depends
/// on the package; a build of our own here would change files under the feet of whoever runs this test.
fn shared_object(package: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let file = exe.with_file_name(format!("lib{}.so", package.replace('-', "_")));
    assert!(file.is_file(), "{} is not built", file.display());
    file
}

/// A shared object in a folder that is ours alone, whoever may write where cargo builds.
fn copied(package: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(format!("{package}.so"));
    std::fs::copy(shared_object(package), &file).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    (folder, file)
}

fn loading(place: Place) -> Loading {
    let program = env!("CARGO_BIN_EXE_qeff-host").into();
    Loading { place, worker: WorkerOptions { program, ..WorkerOptions::default() } }
}

/// A registry that holds one file's plugin and nothing else.
fn loaded(package: &str, place: Place) -> Registry {
    let mut registry = Registry::empty().with_loading(loading(place));
    registry.add_file(&copied(package).1).unwrap_or_else(|error| panic!("{error}"));
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
        assert!(!linked.0.is_empty());
        for place in PLACES {
            let loaded = described(&loaded(package, place), request.clone());
            assert!(linked.0 == loaded.0, "{package}, {place:?}: the bytes differ");
            assert_eq!(linked.1, loaded.1, "{package}, {place:?}: unread config fields");
        }
    }
}

#[test]
fn heads_rewrites_and_formats_cross_too() {
    let registries = [
        Registry::builtin(),
        loaded("qeff-plugin-everything", Place::InProcess),
        loaded("qeff-plugin-everything", Place::Worker),
    ];
    let request = bag(3);
    let answers = registries.each_ref().map(|registry| {
        let model = registry.architecture_for(&request.config, None).unwrap().describe(&request).unwrap();
        let model = registry.rewrite("double").unwrap().rewrite(model, &request.tensors).unwrap();
        let model = registry.pooling("masked-mean").unwrap().append(model, &request.tensors).unwrap();
        let pooled = model.programs[0].output(Role::Pooled).unwrap().value;
        assert_eq!(model.programs[0].ty(pooled).to_string(), "act[batch_size, 3]");
        wire::encode(&model)
    });
    assert!(answers[0] == answers[1] && answers[0] == answers[2], "the bytes differ");

    let file = [b"TOY1".as_slice(), &2u32.to_le_bytes(), &3u32.to_le_bytes(), &[1, 2, 3, 4, 5, 6]].concat();
    let indices = registries.each_ref().map(|registry| {
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
    assert!(indices[0] == indices[1] && indices[0] == indices[2]);
    let error = registries[2].pooling("median").unwrap_err();
    assert_eq!(error.to_string(), "there is no pooling head called `median`; known: masked-mean");
}

#[test]
fn errors_are_those_of_a_linked_plugin() {
    let text = r#"{"architectures": ["BagModel"], "width": "wide"}"#;
    let [here, there] = PLACES.map(|place| loaded("qeff-plugin-everything", place));
    let errors = [Registry::builtin(), here, there].map(|registry| {
        let request = Request { config: Config::parse(text).unwrap(), tensors: TensorIndex::new() };
        let entry = registry.architecture_for(&request.config, None).unwrap();
        let misfit = entry.describe(&Request { tensors: TensorIndex::new(), ..bag(3) }).unwrap_err();
        let PluginsError::Refused { source, .. } = misfit else { panic!("{misfit}") };
        (entry.item.describe(&request).unwrap_err(), source.to_string())
    });
    assert_eq!(errors[0], errors[1]);
    assert_eq!(errors[0], errors[2]);
    assert!(errors[0].0.to_string().starts_with("config.json: `width`: expected a whole number"), "{}", errors[0].0);
    assert_eq!(errors[0].1, "in table: the checkpoint has no tensor `table.weight`");
}

#[test]
fn a_panic_is_an_error_with_message_and_place() {
    for registry in PLACES.map(|place| loaded("qeff-plugin-everything", place)) {
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
}

/// One plugin in this process is asked for one thing after another; valgrind watches (`.ci/valgrind`).
#[test]
fn in_process_one_plugin_serves_every_kind() {
    let registry = loaded("qeff-plugin-everything", Place::InProcess);
    let request = bag(3);
    let entry = registry.architecture_for(&request.config, None).unwrap();
    for _ in 0..3 {
        let model = entry.describe(&request).unwrap();
        let model = registry.rewrite("double").unwrap().rewrite(model, &request.tensors).unwrap();
        registry.pooling("masked-mean").unwrap().append(model, &request.tensors).unwrap();
        let format = &registry.formats()[0].item;
        assert!(format.probe(b"TOY1", "x") && format.index(b"TOY1", 18).is_ok());
        let mut out = [0; 5];
        format.decode("plus-one", &[1, 2, 3, 4, 5], &mut out).unwrap();
        assert_eq!(out, [0, 1, 2, 3, 4]);
        let config = Config::parse(r#"{"width": "wide"}"#).unwrap();
        entry.describe(&Request { config, ..bag(3) }).unwrap_err();
    }
    let panic = entry.describe(&bag(13)).unwrap_err().to_string();
    check(panic, "a width of 13 is bad luck");
}

/// What is said of a file before anything of it is executed.
fn refused(folder: &TempDir, name: &str, bytes: &[u8]) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let text = examine(&path).unwrap_err().to_string();
    assert!(text.contains(name) && text.len() < 1000, "{text}");
    text.replace(&folder.path().display().to_string(), "DIR")
}

#[track_caller]
fn check(text: String, expected: &str) {
    assert!(text.contains(expected), "expected `{expected}` in `{text}`");
}

#[test]
fn files_that_are_no_plugins_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| refused(&folder, name, bytes);
    let good = std::fs::read(shared_object("qeff-plugin-llama")).unwrap();
    check(refused("text.so", b"I am a library, honestly"), "it is not a shared library");
    check(refused("empty.so", b""), "it is not a shared library");
    // In the headers, in what is loaded, in what only debuggers read, and the last byte.
    for part in [64, 100, 4096, good.len() / 20, good.len() / 2, good.len() - 1] {
        check(refused("cut.so", &good[..part]), "it is truncated or damaged");
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
    check(examine(folder.path()).unwrap_err().to_string(), "not a regular file");
    check(examine(&folder.path().join("none.so")).unwrap_err().to_string(), "No such file");
    let program = std::fs::read("/proc/self/exe").unwrap();
    check(refused("program.so", &program), "not a qeff plugin");
}

/// The C compiler is the one that links Rust.
fn compile(folder: &TempDir, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let (c, so) = (folder.path().join(format!("{name}.c")), folder.path().join(format!("{name}.so")));
    std::fs::write(&c, source).unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&so, &c]).args(flags).status().unwrap();
    assert!(status.success());
    so
}

/// A note as a plugin has it, with this text.
fn note(text: &str) -> String {
    let text = format!("{text:width$}", width = text.len().next_multiple_of(4));
    let quoted = text.replace('\\', r"\\").replace('"', r#"\""#);
    format!(
        "__attribute__((section(\".note.qeff\"), used, aligned(4))) const struct {{ unsigned a, b, c; char d[8]; char e[{0}]; }} \
         note = {{5, {0}, 1, \"QEFF\", \"{quoted}\"}};",
        text.len()
    )
}

fn manifest(name: &str) -> String {
    format!(
        r#"{{"name":"{name}","version":"1.0.0","api":"0","rustc":"x","target":"x","panic":"unwind","architectures":[],"pooling":[],"rewrites":[],"formats":[]}}"#
    )
}

/// What a plugin's file must not be, although it looks like one.
#[test]
fn foreign_libraries_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, source: &str, flags: &[&str]| {
        examine(&compile(&folder, name, source, flags)).unwrap_err().to_string()
    };
    let plugin = format!("char qeff_plugin_v1__a[512] = {{1}};{}", note(&manifest("a")));
    examine(&compile(&folder, "good", &plugin, &[])).unwrap();
    let two = "char qeff_plugin_v1__a[64] = {1}; char qeff_plugin_v1__b[64] = {1};";
    check(refused("two", two, &[]), "several plugins: qeff_plugin_v1__a, qeff_plugin_v1__b");
    check(refused("short", "char qeff_plugin_v1__a[4] = {1};", &[]), "`qeff_plugin_v1__a` is no plugin header");
    check(refused("code", "int qeff_plugin_v1__a(void) { return 1; }", &[]), "no plugin header");
    check(refused("silent", "char qeff_plugin_v1__a[512] = {1};", &[]), "it has no manifest");
    check(refused("rpath", &plugin, &["-Wl,--disable-new-dtags,-rpath,/tmp/x"]), "(RPATH `/tmp/x`)");
    check(refused("runpath", &plugin, &["-Wl,--enable-new-dtags,-rpath,/tmp/x"]), "(RUNPATH `/tmp/x`)");
    compile(&folder, "libother", "int other(void) { return 1; }", &[]);
    let needs = format!("{plugin} int other(void); int use(void) {{ return other(); }}");
    let path = format!("-L{}", folder.path().display());
    check(refused("needs", &needs, &[&path, "-lother"]), "it needs the library `libother.so`");
    check(refused("stack", &plugin, &["-Wl,-z,execstack"]), "it asks for an executable stack");
    let filter = ["-Wl,--filter=libc.so.6"];
    check(refused("filter", &plugin, &filter), "it asks for other libraries in its place");
    for (name, text, expected) in [
        ("words", "hello".to_owned(), "its manifest is malformed: expected value"),
        ("path", manifest("../../a"), "its name: expected letters, digits, `-`, `_` and `.`, found `../../a`"),
        ("escape", manifest("a").replace("1.0.0", r"\u001b[31m"), "control characters"),
    ] {
        let source = format!("char qeff_plugin_v1__a[512] = {{1}};{}", note(&text));
        check(refused(name, &source, &[]), expected);
    }
}

/// What only the loader can find out, wherever it loads.
#[test]
fn foreign_symbols_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for place in PLACES {
        let refused = |name: &str, source: &str| {
            let so = compile(&folder, name, &format!("{source}{}", note(&manifest("a"))), &[]);
            let error = Registry::empty().with_loading(loading(place)).add_file(&so).unwrap_err();
            assert!(error.is_user_input());
            error.to_string()
        };
        check(
            refused("wrong", "char qeff_plugin_v1__a[512] = {1};"),
            "header is malformed: it is not abi_stable 0.11's",
        );
        let missing = "extern int nowhere; char qeff_plugin_v1__a[512] = {1}; int *use(void) { return &nowhere; }";
        check(refused("missing", missing), "undefined symbol: nowhere");
    }
}

/// Loading alone runs code of the file. In a worker, it can do no harm.
#[test]
fn constructors_are_confined_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut loading = loading(Place::Worker);
    loading.worker.limits.wall = Duration::from_secs(2);
    for (name, body, expected) in [
        ("crash", "*(volatile int *)8 = 1;", "it died of SIGSEGV"),
        ("leave", "_exit(0);", "it ended its own process with code 0"),
        ("loop", "for (volatile int i = 0;; i++) { }", "it did not answer within 2 s and was ended"),
        ("connect", "socket(AF_INET, SOCK_STREAM, 0);", "it made the system call `socket`, which a plugin must not"),
        // While it is loaded, it may open the system's libraries and nothing else.
        ("look", "if (open(\"/etc/passwd\", O_RDONLY) < 0) abort();", "it died of SIGABRT"),
    ] {
        let includes = "#include <fcntl.h>\n#include <stdlib.h>\n#include <sys/socket.h>\n#include <unistd.h>\n";
        let start = format!("__attribute__((constructor)) static void start(void) {{ {body} }}");
        let source = format!("{includes}{start}\nchar qeff_plugin_v1__a[512] = {{1}};{}", note(&manifest("a")));
        let so = compile(&folder, name, &source, &[]);
        let error = Registry::empty().with_loading(loading.clone()).add_file(&so).unwrap_err().to_string();
        check(error.clone(), expected);
        check(error, &format!("{name}.so"));
    }
}

/// What runs is what was looked at.
#[test]
fn a_file_that_is_swapped_after_the_look_is_not_what_runs() {
    for place in PLACES {
        let (_folder, path) = copied("qeff-plugin-everything");
        let file = examine(&path).unwrap();
        std::fs::write(&path, "something else").unwrap();
        let mut registry = Registry::empty().with_loading(loading(place));
        registry.add(&file).unwrap_or_else(|error| panic!("{error}"));
        assert!(!described(&registry, bag(3)).0.is_empty());
    }
}

#[test]
fn equal_claims_are_an_error_until_one_is_chosen() {
    let mut registry = Registry::builtin().with_loading(loading(Place::Worker));
    let (_folder, path) = copied("qeff-plugin-llama");
    let path = path.to_str().unwrap();
    registry.choose(path).unwrap();
    // A second time is no second plugin.
    registry.choose(path).unwrap();
    assert_eq!(registry.take_remarks().len(), 1);
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

/// Three plugins in one process, in every order.
#[test]
fn plugins_loaded_together_stay_apart() {
    let packages = ["qeff-plugin-everything", "qeff-plugin-gpt2", "qeff-plugin-llama"];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut registry = Registry::empty().with_loading(loading(Place::InProcess));
        for at in order {
            registry.add_file(&copied(packages[at]).1).unwrap();
        }
        let listed: Vec<_> =
            registry.list().into_iter().map(|plugin| (plugin.name, plugin.architectures.len())).collect();
        assert_eq!(listed, [("everything".into(), 1), ("gpt2".into(), 1), ("llama".to_owned(), 6)], "{order:?}");
        assert!(!described(&registry, checkpoint("gpt2")).0.is_empty());
    }
    let manifest = examine(&shared_object("qeff-plugin-gpt2")).unwrap().manifest;
    assert_eq!((manifest.panic.as_str(), manifest.version.as_str()), ("unwind", env!("CARGO_PKG_VERSION")));
    assert!(manifest.rustc.starts_with("rustc "), "{}", manifest.rustc);
    assert_eq!(manifest.architectures, [["GPT2LMHeadModel"]]);
}
