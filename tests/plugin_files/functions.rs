//! Misbehaviour in every function that a plugin has: whichever it is, the host lives, and says which plugin did what.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use qeff_core::weights::TensorSource as _;
use qeff_host::checkpoint::Checkpoint;
use qeff_host::plugins::worker::{Limits, WorkerOptions};
use qeff_host::plugins::{Loading, Place, Registry};
use qeff_plugin_api::plugin::Request;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use tempfile::TempDir;

use super::{check, plugin_in, qeff};

/// Numbers of the one tensor that there is.
const TABLE: [u8; 5 * 3 * 4] = [0; 60];

/// A checkpoint over which one function of the plugin `misbehaving` does something; see there.
fn checkpoint(function: &str, behaviour: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = json!({ "architectures": ["MisbehavingModel"] });
    let wish = format!("{function}: {behaviour}");
    match function {
        "recognise" => config["recognise"] = behaviour.into(),
        "describe" => config["behaviour"] = behaviour.into(),
        _ => {}
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("a config");
    if ["probe", "index", "decode"].contains(&function) {
        let file = [format!("misbehaving\n{wish}\n").as_bytes(), &TABLE].concat();
        std::fs::write(dir.path().join("model.weights"), file).expect("weights");
    } else {
        let table = TensorView::new(Dtype::F32, vec![5, 3], &TABLE).expect("a tensor");
        let sign = TensorView::new(Dtype::F32, vec![1], &TABLE[..4]).expect("a tensor");
        let tensors = BTreeMap::from([("table.weight", table), (wish.as_str(), sign)]);
        let file = safetensors::serialize(tensors, None).expect("a file");
        std::fs::write(dir.path().join("model.safetensors"), file).expect("weights");
    }
    dir
}

/// What this process gets to hear when it asks every function for its part, one of which does something: all of it, and
/// nothing if nobody minded. An answer may take so many seconds.
fn heard(plugin: &Path, function: &str, behaviour: &str, place: Place, seconds: u64) -> String {
    let model = checkpoint(function, behaviour);
    let program = env!("CARGO_BIN_EXE_qeff-host-under-test").into();
    let limits = Limits { wall: Duration::from_secs(seconds), memory: 1 << 30, ..Limits::default() };
    let worker = WorkerOptions { program, limits, ..WorkerOptions::default() };
    let mut registry = Registry::empty().with_loading(Loading { place, worker });
    registry.add_file(plugin).unwrap_or_else(|error| panic!("{error}"));
    let ask = || -> anyhow::Result<()> {
        let checkpoint = Checkpoint::open_with(model.path(), registry.formats())?;
        let (config, tensors) = (checkpoint.config.clone(), checkpoint.weights.index());
        let described =
            registry.architecture_for(&config, None)?.describe(&Request { config, tensors: tensors.clone() })?;
        let rewritten = registry.rewrite("misbehaving")?.rewrite(described, tensors)?;
        registry.pooling("misbehaving")?.append(rewritten, tensors)?;
        checkpoint.weights.lend("table.weight", 0..15)?;
        Ok(())
    };
    let error = ask().map_or_else(|error| format!("{error:#}\n"), |()| String::new());
    error + &registry.take_remarks().join("\n")
}

/// In a worker, whatever `function` does.
fn anything_goes_in(function: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let plugin = plugin_in(folder.path(), "misbehaving");
    let name = format!("plugin misbehaving 0.1.0 ({}): ", plugin.display());
    assert_eq!(heard(&plugin, function, "well", Place::Worker, 20), "");
    for (behaviour, expected) in [
        ("segfault", "it died of SIGSEGV"),
        ("overflow", "has overflowed its stack"),
        ("abort", "it died of SIGABRT"),
        ("exit", "it ended its own process with code 0"),
        ("panic", "it panicked at tests/plugins/misbehaving/src/behaviour.rs:"),
        ("allocate", "memory allocation of 67108864 bytes failed"),
        ("loop", "it did not answer within 1 s and was ended"),
        ("sleep", "it did not answer within 1 s and was ended"),
        ("announce and stop", "it did not answer within 1 s and was ended"),
        ("read a file", "it made the system call `openat`, which a plugin must not"),
        ("connect", "it made the system call `socket`, which a plugin must not"),
        ("kill the host", "it made the system call `getppid`, which a plugin must not"),
        ("say garbage", "it answered with what is no answer and was ended: "),
        ("announce an exabyte", "it answered with 1152921504606846976 bytes and was ended"),
        ("hang up", "it closed its connection and was ended"),
    ] {
        let (started, wait) = (Instant::now(), if expected.starts_with("it did not answer") { 1 } else { 20 });
        let said = heard(&plugin, function, behaviour, Place::Worker, wait);
        assert!(said.contains(&name) && said.contains(expected), "{function}, {behaviour}: {said}");
        assert!(started.elapsed() < Duration::from_secs(15), "{function}, {behaviour}: {:?}", started.elapsed());
    }
    // In this process, a panic is all that can be caught.
    let said = heard(&plugin, function, "panic", Place::InProcess, 20);
    let panicked = "it panicked at tests/plugins/misbehaving/src/behaviour.rs:";
    assert!(said.contains(&name) && said.contains(panicked), "{function}: {said}");
}

#[test]
fn anything_goes_in_recognise() {
    anything_goes_in("recognise");
}

#[test]
fn anything_goes_in_describe() {
    anything_goes_in("describe");
}

#[test]
fn anything_goes_in_pool() {
    anything_goes_in("pool");
}

#[test]
fn anything_goes_in_rewrite() {
    anything_goes_in("rewrite");
}

#[test]
fn anything_goes_in_probe() {
    anything_goes_in("probe");
}

#[test]
fn anything_goes_in_index() {
    anything_goes_in("index");
}

#[test]
fn anything_goes_in_decode() {
    anything_goes_in("decode");
}

/// Answers that are whole and say what cannot be.
#[test]
fn answers_that_cannot_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let plugin = plugin_in(folder.path(), "misbehaving");
    for (function, behaviour, expected) in [
        ("pool", "answer without a model", "its answer cannot be read: "),
        ("rewrite", "answer without a model", "its answer cannot be read: "),
        ("index", "answer without a model", "cannot be read: "),
        ("index", "ask for all there is", "the format asks for a header of 18446744073709551615 bytes"),
        ("index", "ask for nothing more", "the format asks for a header of 0 bytes"),
        ("index", "a place without end", "expected bytes within the file's"),
        ("index", "a shape without end", "expected a shape whose bytes can be counted"),
        ("index", "a large block", "expected a block of at most 4194304 f32 numbers"),
        ("index", "an empty block", "expected a block of at least one element and one byte"),
    ] {
        for place in [Place::Worker, Place::InProcess] {
            // What it says past its own answer goes to a socket, which only a worker has.
            if place == Place::InProcess && behaviour == "answer without a model" {
                continue;
            }
            let said = heard(&plugin, function, behaviour, place, 20);
            assert!(said.contains("misbehaving") && said.contains(expected), "{function}, {behaviour}: {said}");
        }
    }
}

/// The same through whole commands: an error, and the command's own end.
#[test]
fn commands_name_the_plugin() {
    let folder = tempfile::tempdir().expect("a folder");
    let plugin = plugin_in(folder.path(), "misbehaving");
    let output = folder.path().join("output");
    for (function, verb, flags, code) in [
        ("recognise", "inspect", "", 2),
        ("describe", "inspect", "", 2),
        ("rewrite", "inspect", "--rewrite misbehaving", 2),
        ("pool", "export", "--pooling misbehaving", 2),
        ("probe", "inspect", "", 1),
        ("index", "inspect", "", 1),
        ("decode", "export", "--target cpu", 1),
    ] {
        let model = checkpoint(function, "segfault");
        let mut command = qeff(verb).model(model.path()).path("--plugin", &plugin, "PLUGIN").words(flags);
        if verb == "export" {
            command = command.path("--output", &output, "OUTPUT");
        }
        let said = command.fails(code);
        check(&said, "plugin misbehaving 0.1.0 (PLUGIN): it ");
        check(&said, "it died of SIGSEGV");
        assert!(!output.exists(), "{function}: something was left");
    }
}
