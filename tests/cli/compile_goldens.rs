//! `compile --dry-run --json` against what the reference handed to its compilers (`tests/goldens/compile`).
//!
//! Models that a plugin describes go through the plugin, the others through an ONNX file that has only the recorded
//! interface. Arguments, their order and the content of every file have to be equal; the differences that we want are the
//! steps of [`expected`] and the cases that have a test of their own, each with its reason.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prost::Message as _;
use qeff::command::Command;
use qeff::golden::goldens;
use qeff::root;
use qeff_plugin_api::DType;
use qeff_plugin_api::onnx::{
    GraphProto, ModelProto, TensorShapeProto, TypeProto, ValueInfoProto, data_type, tensor_shape_proto, type_proto,
};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::{qeff, snapshot};

/// Programs that a plugin describes, as they are and with these features.
const PLUGINS: [&str; 4] = ["llama-gqa", "gpt2", "mistral-sw", "gpt_oss"];
const FEATURES: [&str; 3] = ["cb", "tlm", "ccl"];
/// Symbols that we give numbers to; any other comes from a flag, since the reference takes it from code for one family.
const OURS: [&str; 12] = [
    "batch_size",
    "seq_len",
    "ctx_len",
    "full_batch_size",
    "full_batch_exec_size",
    "comp_ctx_lengths",
    "num_logits_to_keep",
    "encoder_ctx_len",
    "decoder_ctx_len",
    "feature_len",
    "vision_batch_size",
    "",
];

fn read(name: &str) -> Json {
    let path = root().join("tests/goldens/compile").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).expect("a golden")).expect("JSON")
}

fn cases(group: &str) -> Vec<Json> {
    read(group).as_array().expect("a list").clone()
}

fn text(json: &Json) -> &str {
    json.as_str().expect("a text")
}

/// Checkpoints and files to compile.
struct Models {
    checkpoints: Vec<(String, TempDir)>,
    interfaces: Json,
    files: TempDir,
}

impl Models {
    fn new() -> Self {
        let goldens = goldens().expect("goldens");
        let checkpoints = PLUGINS.map(|name| {
            let golden = goldens.iter().find(|golden| golden.name == name).expect("a golden of this name");
            (name.to_owned(), golden.checkpoint().expect("a checkpoint"))
        });
        let files = tempfile::tempdir().expect("a folder");
        std::fs::write(files.path().join("npi.yaml"), "FP32NodeInstanceNames: [x]\n").expect("a file");
        std::fs::write(files.path().join("user_mdp.json"), USER_MDP).expect("a file");
        std::fs::write(files.path().join("qnn_config.json"), QNN_CONFIG).expect("a file");
        std::fs::write(files.path().join("qnn_bad.json"), r#"{"converter_args_extension":"--input_network x"}"#)
            .expect("a file");
        Models { checkpoints: checkpoints.into(), interfaces: read("interfaces.json"), files }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A command for the `part`-th program of a case.
    fn command(&self, program: &str, part: usize) -> Command {
        let mut words = program.split('+');
        let base = words.next().expect("a name");
        if words.all(|feature| FEATURES.contains(&feature))
            && let Some((_, checkpoint)) = self.checkpoints.iter().find(|(name, _)| name == base)
        {
            return qeff("compile").model(checkpoint.path());
        }
        qeff("compile").path("--onnx-path", &self.interface(program, part), "MODEL.onnx")
    }

    /// A file with the recorded interface and no node.
    fn interface(&self, program: &str, part: usize) -> PathBuf {
        let interface = &self.interfaces[program][part];
        let ports = |side: &str| -> Vec<ValueInfoProto> {
            interface[side].as_array().expect("ports").iter().map(|line| port(text(line))).collect()
        };
        let graph = GraphProto { input: ports("inputs"), output: ports("outputs"), ..GraphProto::default() };
        let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        let path = self.file(&format!("{}-{part}.onnx", program.replace('+', "-")));
        std::fs::write(&path, model.encode_to_vec()).expect("a file");
        path
    }
}

const USER_MDP: &str = r#"{"connections": [{"devices": [0, 1], "type": "p2p"}], "partitions": [{"name": "P", "devices": [{"deviceId": 0, "numCores": 16}, {"deviceId": 1, "numCores": 16}]}]}"#;
const QNN_CONFIG: &str = r#"{"converter_args_extension": "--onnx_defer_loading", "context_binary_generator_args_extension": "--log_level debug", "qnn_compilation_backend": {"compiler_enable_depth_first": true, "compiler_printDDRStats": false, "compiler_printPerfMetrics": false, "compiler_stat_level": 10}, "SKIP_QNN_CONVERTER_STEP": false}"#;

/// `name TYPE dim dim …`.
fn port(line: &str) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let mut words = line.split(' ');
    let name = words.next().expect("a name").to_owned();
    let elem = match words.next().expect("a type") {
        "FLOAT" => DType::F32,
        "INT64" => DType::I64,
        "INT32" => DType::I32,
        "BOOL" => DType::Bool,
        other => panic!("type {other}"),
    };
    let dim = words.map(|dim| Dimension {
        value: Some(dim.parse().map_or_else(|_| Value::DimParam(dim.to_owned()), Value::DimValue)),
    });
    let shape = TensorShapeProto { dim: dim.collect() };
    let tensor = type_proto::Tensor { elem_type: data_type(elem), shape: Some(shape) };
    ValueInfoProto { name, r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)) }) }
}

/// Our flags for the reference's keywords.
fn flags(models: &Models, case: &Json) -> (Vec<String>, Vec<String>) {
    let (mut ours, mut passed) = (vec![], vec![]);
    let list = |value: &Json| match value {
        Json::Array(items) => items.iter().map(Json::to_string).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    for (key, value) in case["compile"].as_object().expect("keywords") {
        let flag = |name: &str| format!("--{}", name.replace('_', "-"));
        let file = || models.file(text(value)).display().to_string();
        match (key.as_str(), value) {
            ("prefill_seq_len", _) => ours.extend(["--prompt-len".to_owned(), value.to_string()]),
            ("prefill_only", _) => ours.push(format!("--prefill-only={}", list(value).trim_matches('"'))),
            ("mos", _) => ours.push(format!("--mos={value}")),
            // Decides which weights are loaded into memory, or what a graph computes; not what is compiled.
            ("enable_chunking" | "kv_cache_prefix" | "skip_lang" | "skip_vision" | "img_size", _) => {}
            ("node_precision_info" | "mdp_load_partition_config", _) => ours.extend([flag(key), file()]),
            ("compile_dir", _) => ours.extend([flag(key), file()]),
            ("qnn_config", _) => ours.push(file()),
            ("mdp_dump_partition_config" | "stats_level", _) => {
                passed.push(format!("-{}={}", key.replace('_', "-"), list(value).trim_matches('"')));
            }
            ("ddr_stats", Json::Bool(true)) => passed.push("-ddr-stats".to_owned()),
            (_, Json::Bool(true)) => ours.push(flag(key)),
            (_, Json::Bool(false)) => {}
            _ => ours.extend([flag(key), list(value).trim_matches('"').to_owned()]),
        }
    }
    if case["from_pretrained"]["qaic_config"]["ccl_enabled"] == true {
        ours.push("--ccl-enabled".to_owned());
    }
    (ours, passed)
}

/// A command and the files it reads, in the words of the goldens.
#[derive(Debug, PartialEq)]
struct Call {
    argv: Vec<String>,
    files: Vec<(String, String)>,
}

/// What a golden says, with the differences that we want.
fn expected(command: &Json) -> Call {
    let mut argv: Vec<String> = text(&command["argv"])
        .split(' ')
        .map(|arg| {
            // Every file stands beside the artifact: a partition of stages, files of QNN, files of the user's. So an
            // artifact can be looked into, and two compilations of one export do not write over each other's files.
            let arg = arg.replace("EXPORT/", "ARTIFACT/");
            let beside = |arg: &str, name: &str| arg.replace(&format!("={name}"), &format!("=ARTIFACT/{name}"));
            beside(&beside(&arg, "npi.yaml"), "user_mdp.json")
        })
        .collect();
    // A QPC is in the artifact's folder `qpc`, whichever tool made it.
    if let Some(i) = argv.iter().position(|arg| arg == "--output_dir") {
        argv[i + 1] = "ARTIFACT/qpc".to_owned();
    }
    let files = command["files"].as_object().expect("files").iter();
    let files = files.map(|(key, content)| (key.clone(), as_text(key, content).replace("EXPORT/", "ARTIFACT/")));
    let mut files: Vec<_> = files.collect();
    files.sort();
    Call { argv, files }
}

/// The content of a golden file as one text.
fn as_text(key: &str, content: &Json) -> String {
    match content {
        Json::String(rows) if key == "-custom-IO-list-file" => rows
            .split(' ')
            .map(|row| {
                let (name, precision) = row.rsplit_once(':').expect("name:precision");
                format!(" - IOName: {name}\n   Precision: {precision}\n\n")
            })
            .collect(),
        Json::Array(lines) if key == "-network-specialization-config" => {
            lines.iter().map(text).collect::<Vec<_>>().join("\n")
        }
        Json::Array(lines) => lines.iter().map(text).collect::<Vec<_>>().join("\n").trim_end().to_owned(),
        other => sorted(other),
    }
}

/// JSON whose order of keys does not matter.
fn sorted(json: &Json) -> String {
    match json {
        Json::Object(map) => {
            let rows: BTreeSet<String> = map.iter().map(|(key, value)| format!("{key}:{}", sorted(value))).collect();
            format!("{{{}}}", rows.into_iter().collect::<Vec<_>>().join(","))
        }
        Json::Array(items) => format!("[{}]", items.iter().map(sorted).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// What our dry run prints, in the words of the goldens. `stages` tells layers instead of nodes.
fn found(document: &Json) -> Vec<Call> {
    let files = document["files"].as_object().expect("files");
    let mut left: BTreeSet<&String> = files.keys().collect();
    let commands: Vec<Vec<&str>> = document["commands"]
        .as_array()
        .expect("commands")
        .iter()
        .map(|argv| argv.as_array().expect("arguments").iter().map(text).collect())
        .collect();
    let value = |argv: &[&str], flag: &str| {
        let at = argv.iter().position(|arg| *arg == flag);
        let next = at.map(|i| argv[i + 1].to_owned());
        next.or_else(|| argv.iter().find_map(|arg| Some(arg.strip_prefix(&format!("{flag}="))?.to_owned())))
    };
    let last = commands.last().expect("a command");
    let qpc = value(last, "-aic-binary-dir").or_else(|| value(last, "--output_dir")).expect("a place for the QPC");
    let artifact = qpc.strip_suffix("/qpc").expect("…/qpc").to_owned();
    let model = value(&commands[0], "-m").or_else(|| value(&commands[0], "--input_network")).expect("a model");
    let place = |text: &str| {
        text.replace(&artifact, "ARTIFACT").replace(&model, "MODEL.onnx").replace("$QNN_SDK_ROOT", "qnn-sdk")
    };
    let mut calls: Vec<Call> = commands
        .iter()
        .map(|argv| {
            let mut read = vec![];
            let mut add = |key: &str, path: &str| {
                let Some(name) = path.strip_prefix(&format!("{artifact}/")) else { return };
                if let Some((name, content)) = files.get_key_value(name) {
                    left.remove(name);
                    read.push((key.to_owned(), comparable(key, &place(text(content)))));
                }
            };
            for (i, arg) in argv.iter().enumerate().skip(1) {
                match arg.split_once('=') {
                    Some((flag, path)) => add(flag, path),
                    None if arg.starts_with("--") && i + 1 < argv.len() => add(arg, argv[i + 1]),
                    None => {}
                }
            }
            // Files that are named by files.
            for (key, name) in [
                ("--config_file -> config_file_path", "qnn_compile_backend.json"),
                ("compiler_mdp_load_partition_config", "tensor_slicing.json"),
            ] {
                if value(argv, "--config_file").is_some() {
                    add(key, &format!("{artifact}/{name}"));
                }
            }
            read.sort();
            Call { argv: argv.iter().map(|arg| place(arg)).collect(), files: read }
        })
        .collect();
    // The QNN tools do not read it; a runtime does.
    if value(last, "--output_dir").is_some() {
        left.remove(&"specializations.json".to_owned());
    }
    assert!(left.is_empty(), "files that no command reads: {left:?}");
    calls.iter_mut().for_each(|call| call.files.dedup());
    calls
}

/// A file's text in the form of [`as_text`].
fn comparable(key: &str, content: &str) -> String {
    let Ok(json) = serde_json::from_str::<Json>(content) else {
        return if key == "-custom-IO-list-file" { content.to_owned() } else { content.trim_end().to_owned() };
    };
    if key == "--data_format_config" {
        return content.to_owned();
    }
    if let Some(all) = json["specializations"].as_array() {
        let line = |one: &Json| {
            let symbols = one["symbols"].as_object().expect("symbols").iter();
            let symbols: BTreeSet<String> = symbols.map(|(k, v)| format!("{k}={}", text(v))).collect();
            format!("{} {}", text(&one["name"]), symbols.into_iter().collect::<Vec<_>>().join(" "))
        };
        return all.iter().map(line).collect::<Vec<_>>().join("\n");
    }
    let mut json = json;
    for partition in json.get_mut("partitions").and_then(Json::as_array_mut).into_iter().flatten() {
        let Some(nodes) = partition.as_object_mut().and_then(|partition| partition.remove("nodeList")) else {
            continue;
        };
        let layers: BTreeSet<u64> = nodes
            .as_array()
            .expect("nodes")
            .iter()
            .filter_map(|node| text(node).split('/').find_map(|part| part.strip_prefix("layers.")?.parse().ok()))
            .collect();
        partition["layers"] = serde_json::json!(layers);
    }
    sorted(&json)
}

/// Symbols of a golden's command that only a flag of ours can know, and for a family's own sizes those too.
fn symbols(command: &Json, all: bool) -> Vec<String> {
    let lines = command["files"]["-network-specialization-config"].as_array();
    let words = lines.into_iter().flatten().flat_map(|line| text(line).split(' ').skip(1));
    let unknown: BTreeSet<&str> = words
        .filter(|word| {
            let name = word.split('=').next().expect("a name");
            if all { name != "batch_size" } else { !OURS.contains(&name) }
        })
        .collect();
    unknown.into_iter().flat_map(|word| ["--symbol".to_owned(), word.to_owned()]).collect()
}

fn symbol(command: &Json, name: &str) -> String {
    let line = text(&command["files"]["-network-specialization-config"][0]);
    let found = line.split(' ').find_map(|word| word.strip_prefix(&format!("{name}=")));
    found.expect("a symbol").to_owned()
}

/// Where two lists of commands differ.
fn difference(expected: &[Call], found: &[Call]) -> String {
    let mut lines = vec![];
    if expected.len() != found.len() {
        lines.push(format!("expected {} commands, found {}", expected.len(), found.len()));
    }
    for (expected, found) in expected.iter().zip(found) {
        let (want, got) = (expected.argv.join(" "), found.argv.join(" "));
        if want != got {
            lines.push(format!("expected {want}\n   found {got}"));
        }
        let files: BTreeSet<_> = expected.files.iter().chain(&found.files).map(|file| &file.0).collect();
        for key in files {
            let of = |call: &Call| call.files.iter().find(|file| &file.0 == key).map(|file| file.1.clone());
            if of(expected) != of(found) {
                lines.push(format!("{key}\nexpected {:?}\n   found {:?}", of(expected), of(found)));
            }
        }
    }
    lines.join("\n")
}

/// Runs a case and returns what is wrong with it.
fn check(models: &Models, case: &Json) -> Result<(), String> {
    let name = text(&case["case"]);
    let program = text(&case["program"]);
    let commands = case["commands"].as_array().expect("commands");
    let (ours, passed) = flags(models, case);
    let qnn = case["compile"]["enable_qnn"] == true;
    let pair = program.ends_with("+dual");
    // One run for a program; with QNN, two commands belong to it.
    let runs: Vec<&[Json]> = if qnn { vec![commands] } else { commands.chunks(1).collect() };
    for golden in runs {
        // Of a pair, only the language program keeps states.
        let vision = pair && !text(&golden[0]["argv"]).contains("-retained-state");
        let mut command = models.command(program, usize::from(pair && !vision));
        let mut ours = ours.clone();
        if vision {
            // The sizes that a vision encoder is given are its family's.
            ours.extend(symbols(&golden[0], true));
            for flag in ["--prompt-len", "--ctx-len", "--node-precision-info"] {
                if let Some(at) = ours.iter().position(|other| other == flag) {
                    ours.drain(at..=at + 1);
                }
            }
        } else {
            ours.extend(symbols(&golden[0], false));
            // Defaults that the reference derives from a family's code.
            if name == "llava-dual-default" {
                ours.extend(["--prompt-len".into(), symbol(&golden[0], "seq_len")]);
                ours.extend(["--ctx-len".into(), symbol(&golden[0], "ctx_len")]);
            }
            if name == "gpt_oss-prefill-only" {
                let at = ours.iter().position(|flag| flag == "--ctx-len").expect("a context");
                ours[at + 1] = symbol(&golden[0], "ctx_len");
            }
        }
        command = command.words("--dry-run --json").args(&ours);
        if !passed.is_empty() {
            command = command.arg("--").args(&passed);
        }
        let outcome = command.run();
        if outcome.code != Some(0) {
            return Err(outcome.stderr);
        }
        let found = found(&outcome.json());
        let expected: Vec<Call> = golden.iter().map(expected).collect();
        if name.starts_with("lora") && !name.contains("finite") {
            // The list has no order; theirs has all inputs before all outputs, ours a state's two names together.
            let unordered = |call: &Call| {
                let rows =
                    call.files.iter().map(|(key, text)| (key.clone(), text.split("\n\n").collect::<BTreeSet<_>>()));
                (call.argv.clone(), format!("{:?}", rows.collect::<Vec<_>>()))
            };
            if found.iter().map(unordered).ne(expected.iter().map(unordered)) {
                return Err(difference(&expected, &found));
            }
        } else if found != expected {
            return Err(difference(&expected, &found));
        }
    }
    Ok(())
}

fn check_all(group: &str, leave_out: &[&str], count: usize) {
    let models = Models::new();
    let cases: Vec<Json> = cases(group).into_iter().filter(|case| !leave_out.contains(&text(&case["case"]))).collect();
    assert_eq!(cases.len(), count, "goldens in {group}");
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|case| Some(format!("## {}\n{}", text(&case["case"]), check(&models, case).err()?)))
        .collect();
    assert!(failures.is_empty(), "{} of {count} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn decoders() {
    // With continuous batching a prefill takes one sequence: another batch size is refused, not ignored.
    check_all("decoders.json", &["llama-cb4-bs2"], 63);
}

#[test]
fn encoders_and_speech() {
    check_all("encoders.json", &[], 8);
}

#[test]
fn vision_and_language() {
    check_all("vision.json", &[], 9);
}

#[test]
fn qnn() {
    check_all("qnn.json", &[], 7);
}

/// The reference's older command line: the same flags in another order and files by other names. Its custom I/O is a file
/// of the user's, which ours makes itself; its prefill does not say how many sequences it takes.
#[test]
fn the_older_command_line() {
    let models = Models::new();
    for case in cases("legacy.json") {
        let golden = &case["commands"][0];
        let mut want: Vec<String> = text(&golden["argv"])
            .replace("custom_io_fp16.yaml", "custom_io.yaml")
            .replace("custom_io_int8.yaml", "custom_io.yaml")
            .replace("mdp_ts_config.json", "mdp_ts_2.json")
            .replace("/qpcs", "/qpc")
            .split(' ')
            .map(str::to_owned)
            .collect();
        want.sort();
        let (mut ours, _) = flags(&models, &case);
        // It is on by default there.
        if case["compile"]["mxfp6"].is_null() {
            ours.push("--mxfp6".to_owned());
        }
        let outcome = models.command(text(&case["program"]), 0).words("--dry-run --json").args(&ours).succeeds();
        let mut calls = found(&outcome.json());
        let call = calls.pop().expect("a call");
        let mut argv = call.argv;
        argv.sort();
        assert_eq!(argv, want, "{}", case["case"]);
        let content = |key: &str| call.files.iter().find(|file| file.0 == key).map(|file| file.1.clone());
        let sizes = content("-network-specialization-config").map(|text| text.replace(" full_batch_exec_size=1", ""));
        let key = "-network-specialization-config";
        assert_eq!(sizes, Some(as_text(key, &golden["files"][key])), "{}", case["case"]);
        let key = "-mdp-load-partition-config";
        assert_eq!(content(key), golden["files"].get(key).map(|json| as_text(key, json)), "{}", case["case"]);
    }
}

/// What the reference refuses, and what it takes although it cannot mean it.
#[test]
fn errors() {
    let models = Models::new();
    let mut all = String::new();
    let bs2 = cases("decoders.json").into_iter().find(|case| case["case"] == "llama-cb4-bs2").expect("a case");
    for case in cases("errors.json").into_iter().chain([bs2]) {
        let name = text(&case["case"]);
        let (ours, _) = flags(&models, &case);
        let ours: Vec<String> = ours.into_iter().map(|flag| flag.replace("nowhere.onnx", "/nowhere.onnx")).collect();
        let program = text(&case["program"]);
        let file = |models: &Models| {
            qeff("compile").path("--onnx-path", &models.interface(program, 0), "MODEL.onnx").path(
                "--compile-dir",
                models.files.path(),
                "FILES",
            )
        };
        let command = match name {
            // It fails in the compiler: see `compile.rs`.
            "err-compiler-fails" => continue,
            // Theirs looks a list of nodes up by the name of the checkpoint; ours only takes a list that it is given.
            "err-gemma3_mm-no-npi" => continue,
            "err-onnx-missing" => qeff("compile"),
            _ => file(&models),
        };
        let said = command.words("--dry-run").args(&ours).refuses();
        let theirs = case["raised"].as_str().unwrap_or("(compiled)");
        all.push_str(&format!("## {name}\nreference: {theirs}\n{said}\n"));
    }
    snapshot("compile-errors", &all.replace(&models.files.path().display().to_string(), "FILES"));
}

/// A folder of the user's in place of the cache.
#[test]
fn a_folder_of_the_users() {
    let models = Models::new();
    let dir = models.file("mine");
    let command = models.command("llama-gqa", 0).words("--dry-run --json").path("--compile-dir", &dir, "DIR");
    let document = command.succeeds().json();
    let last = document["commands"][0].as_array().and_then(|argv| argv.last()).map(text).expect("an argument");
    let below = last.strip_prefix("-aic-binary-dir=").map(Path::new).expect("the binary folder");
    assert!(below.starts_with(&dir) && !dir.exists(), "{last}");
}
