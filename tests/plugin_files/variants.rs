//! Plugins that others built: against other releases of the interface, with other profiles.
//!
//! Each variant is a workspace of its own below the target folder: the sources of qeff-plugin-api, changed in one place, and
//! of the test plugin. They share a target folder, so third-party crates are built once, and once only on a machine that
//! keeps its target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qeff::root;
use qeff_host::plugins::worker::WorkerOptions;
use qeff_host::plugins::{Loading, Place, Registry};
use qeff_plugin_api::config::Config;
use qeff_plugin_api::plugin::Request;
use qeff_plugin_api::{DType, TensorInfo, wire};
use serde_json::json;

use super::{check, plugin_in, qeff, table};

/// A change of a source below qeff-plugin-api/src/abi: file, what stood there, what stands there now.
type Change = (&'static str, &'static str, &'static str);

/// What another release of the interface would be.
const APPENDED: &[Change] = &[
    ("mod.rs", "pub const ABI_VERSION: &str = \"1.0.0\";", "pub const ABI_VERSION: &str = \"1.1.0\";"),
    (
        "mod.rs",
        "RSliceMut<'_, u8>) -> RResult<(), RawError>,\n}",
        "RSliceMut<'_, u8>) -> RResult<(), RawError>,\n    pub(crate) appended: extern \"C\" fn(u32) -> RResult<u32, RawError>,\n}",
    ),
    ("shim.rs", "probe, index, decode };", "probe, index, decode, appended };"),
    (
        "shim.rs",
        "extern \"C\" fn probe(",
        "extern \"C\" fn appended(number: u32) -> RResult<u32, RawError> {\n    guard(|| Ok(number))\n}\n\nextern \"C\" fn probe(",
    ),
];
const ARGUMENT: &[Change] = &[
    ("mod.rs", "fn(u32, RSlice<'_, u8>, u64) -> RResult", "fn(u32, RSlice<'_, u8>, u32) -> RResult"),
    ("shim.rs", "head: RSlice<'_, u8>, length: u64)", "head: RSlice<'_, u8>, length: u32)"),
    ("shim.rs", ".index(head.as_slice(), length)", ".index(head.as_slice(), length.into())"),
    (
        "load.rs",
        "functions.index()(number, RSlice::from_slice(head), length)",
        "functions.index()(number, RSlice::from_slice(head), length as u32)",
    ),
];
const FIELD: &[Change] = &[
    ("mod.rs", "pub(crate) location: RString,\n}", "pub(crate) location: RString,\n    pub(crate) hint: u32,\n}"),
    ("shim.rs", "location: location.into(),", "location: location.into(), hint: 0,"),
    ("shim.rs", "location: RString::new() }", "location: RString::new(), hint: 0 }"),
];
const MAJOR: &[Change] =
    &[("mod.rs", "pub const ABI_VERSION: &str = \"1.0.0\";", "pub const ABI_VERSION: &str = \"2.0.0\";")];

/// Builds the test plugin against a changed interface, with a profile, and returns the shared object.
fn variant(name: &str, changes: &[Change], profile: &str) -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-variants");
    let place = all.join(name);
    let _ = fs::remove_dir_all(&place);
    let manifest = read(&root().join("Cargo.toml"));
    let shared = manifest.find("[workspace.package]").zip(manifest.find("\n[package]\n"));
    let (from, to) = shared.expect("the parts of the workspace's manifest");
    let profile_of = if profile.is_empty() { String::new() } else { format!("\n[profile.variant]\n{profile}\n") };
    let head = "[workspace]\nresolver = \"3\"\nmembers = [\"qeff-plugin-api\", \"tests/plugins/everything\"]\n\n";
    write(&place.join("Cargo.toml"), &format!("{head}{}{profile_of}", &manifest[from..to]));
    fs::copy(root().join("Cargo.lock"), place.join("Cargo.lock")).expect("a copy");
    for part in ["qeff-plugin-api", "tests/plugins/everything"] {
        copy(&root().join(part), &place.join(part));
    }
    for (file, before, after) in changes {
        let path = place.join("qeff-plugin-api/src/abi").join(file);
        let text = read(&path);
        assert_eq!(text.matches(before).count(), 1, "{name}: {file} has no such place any more: {before}");
        write(&path, &text.replace(before, after));
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--offline", "--package", "qeff-plugin-everything", "--target-dir"]).arg(all.join("target"));
    if !profile.is_empty() {
        cargo.args(["--profile", "variant"]);
    }
    // The coverage or lints of whoever runs this test are not the plugin's.
    let output = cargo.current_dir(&place).env_remove("RUSTFLAGS").output().expect("cargo");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let built = all.join("target").join(if profile.is_empty() { "debug" } else { "variant" });
    let kept = place.join(format!("{name}.so"));
    fs::copy(built.join("libqeff_plugin_everything.so"), &kept).expect("a shared object");
    kept
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).expect("a copy");
        }
    }
}

/// A registry with these files, in this order.
fn loaded(files: &[&Path], place: Place) -> Result<Registry, String> {
    let program = env!("CARGO_BIN_EXE_qeff-host-under-test").into();
    let loading = Loading { place, worker: WorkerOptions { program, ..WorkerOptions::default() } };
    let mut registry = Registry::empty().with_loading(loading);
    files.iter().try_for_each(|file| registry.add_file(file).map(drop)).map_err(|error| error.to_string())?;
    Ok(registry)
}

/// What the plugin of a file describes.
fn described(registry: &Registry, file: &Path) -> Vec<u8> {
    let config = Config::parse(&json!({ "architectures": ["BagModel"], "width": 3 }).to_string()).expect("a config");
    let info = TensorInfo { dtype: DType::F32, shape: vec![5, 3] };
    let tensors = [("table.weight".to_owned(), info)].into_iter().collect();
    let entry = registry.architecture_for(&config, file.to_str()).expect("an architecture");
    wire::encode(&entry.describe(&Request { config, tensors }).expect("a model"))
}

#[test]
fn releases_and_profiles() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = plugin_in(folder.path(), "everything");
    let twin = folder.path().join("twin.so");
    fs::copy(&here, &twin).expect("a copy");
    let newer = variant("newer", APPENDED, "");
    let expected = described(&loaded(&[&here], Place::InProcess).expect("a plugin"), &here);

    // A function more than this host knows, among others, in every order; what was loaded before must not matter.
    let files = [here.as_path(), &twin, &newer];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let registry = loaded(&order.map(|at| files[at]), Place::InProcess).expect("three plugins");
        for file in files {
            assert!(described(&registry, file) == expected, "{} in {order:?}", file.display());
        }
    }
    assert!(described(&loaded(&[&newer], Place::Worker).expect("a plugin"), &newer) == expected);

    // What breaks the promise of an epoch is refused, and it is said what differs.
    for (name, changes, what) in [
        (
            "argument",
            ARGUMENT,
            "its types differ from this host's; rebuild it against the same qeff-plugin-api: index > param_2: one side has u64, the other u32",
        ),
        (
            "field",
            FIELD,
            "its types differ from this host's; rebuild it against the same qeff-plugin-api: manifest > __returns: Size(",
        ),
        ("major", MAJOR, "it was built for plugin ABI 2.0.0, this host speaks 1.0.0; rebuild it"),
    ] {
        let file = variant(name, changes, "");
        for place in [Place::InProcess, Place::Worker] {
            let Err(said) = loaded(&[&file], place) else { panic!("{name} was loaded") };
            check(&said, what);
            assert!(said.len() < 1000, "{said}");
        }
    }

    // Stripped and without unwinding: in a worker, it lives and dies like any other.
    let lean = variant("lean", &[], "inherits = \"dev\"\nstrip = true\npanic = \"abort\"");
    assert!(described(&loaded(&[&lean], Place::Worker).expect("a plugin"), &lean) == expected);
    let Err(said) = loaded(&[&lean], Place::InProcess) else { panic!("an aborting plugin was loaded") };
    check(&said, "it was built with `panic = \"abort\"`, so an error in it would end this process");
    let unlucky = table(&json!({ "architectures": ["BagModel"], "width": 13 }));
    let said = qeff("inspect").model(unlucky.path()).path("--plugin", &lean, "PLUGIN").run();
    assert_eq!(said.code, Some(2), "{said:?}");
    check(&said.stderr, "plugin everything 0.1.0 (PLUGIN): it died of SIGABRT");
    check(&said.stderr, "a width of 13 is bad luck");
}
