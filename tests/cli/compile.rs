//! `compile`, `cache` and `doctor`: whole runs with the stand-in SDK.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use qeff::cards::{Cards, qpcs};
use qeff::command::Command;
use qeff::scratch::Scratch;
use qeff_standin::SimConfig;
use qeff_standin::config::{Card, Compiler};
use qeff_standin::qpc::image::Image;
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::{demo, llama, qeff, snapshot};

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A stand-in SDK as the config says.
fn laid_out(config: &SimConfig) -> Cards {
    Cards::new(env!("CARGO_BIN_EXE_qeff-standin-under-test"), config)
}

/// The newest form of an SDK, with a compiler that says something. Weights go into QPCs, so that those do not depend on where
/// an export is.
fn newest() -> SimConfig {
    SimConfig { compiler: says(), cards: vec![], embed_weights: true, ..SimConfig::default() }
}

fn says() -> Compiler {
    Compiler { say: "compiling\n".into(), ..Compiler::default() }
}

/// One whose compiler takes so many milliseconds.
fn slow(delay_ms: u64) -> SimConfig {
    SimConfig { compiler: Compiler { delay_ms, ..says() }, ..newest() }
}

/// An older or newer one.
fn of_version(compiler: &str, version: &str) -> SimConfig {
    SimConfig { compilers: vec![compiler.into()], version: Some(version.into()), ..newest() }
}

/// Cards of 14 cores and one megabyte.
fn small_cards(count: u16) -> SimConfig {
    let small = |card| Card { cores: 14, dram_mb: 1, board: "A".into(), ..card };
    SimConfig { cards: Card::several(count).into_iter().map(small).collect(), ..newest() }
}

/// `compile` of the small fixture.
fn compile(sdk: &Cards, home: &Path) -> Command {
    qeff("compile").model(&llama()).path("--sdk", sdk.root(), "SDK").home(home)
}

/// What stands in the only QPC below a folder.
fn qpc(home: &Path) -> Vec<u8> {
    let found = qpcs(home);
    assert_eq!(found.len(), 1, "{found:?}");
    std::fs::read(&found[0]).expect("a QPC")
}

/// Text without what differs from run to run: hashes of folders, seconds, dates, sizes.
fn stable(text: &str) -> String {
    let mut stable = String::new();
    for line in text.lines() {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        for word in &mut words {
            // Every run of sixteen hexadecimal digits after a dash.
            while let Some(at) = word.match_indices('-').map(|(at, _)| at + 1).find(|&at| {
                word.get(at..at + 16).is_some_and(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
                    && !word[at..].starts_with("HASH")
            }) {
                word.replace_range(at..at + 16, "HASH");
            }
        }
        stable += &words.join(" ");
        stable.push('\n');
    }
    stable
}

#[test]
fn once_and_never_again() {
    let (sdk, home) = (laid_out(&newest()), folder());
    let outcome = compile(&sdk, home.path()).succeeds();
    let path = PathBuf::from(outcome.stdout.trim_end());
    assert!(path.ends_with("qpc") && path.join("programqpc.bin").is_file(), "{}", outcome.stdout);
    assert!(
        outcome.stderr.contains("  | compiling\n") && outcome.stderr.contains("compiled in "),
        "{}",
        outcome.stderr
    );
    let calls = sdk.tool_calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("qaic-compile ")).count(), 1, "{calls:?}");
    let folder = path.parent().expect("the artifact");
    for name in ["specializations.json", "custom_io.yaml", "qaic-compile.log", "manifest.json"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    let log = std::fs::read_to_string(folder.join("qaic-compile.log")).expect("a log");
    assert_eq!(log.trim(), "compiling");

    let again = compile(&sdk, home.path()).succeeds();
    assert_eq!(again.stdout, outcome.stdout);
    assert!(again.stderr.contains("nothing to do (--force compiles again)"), "{}", again.stderr);
    assert_eq!(sdk.tool_calls(), Vec::<String>::new(), "no process was started");

    // Another spelling of the same wish, another place of the same checkpoint.
    let copy = Scratch::new("llama/base");
    let command = qeff("compile").model(copy.dir()).path("--sdk", sdk.root(), "SDK").home(home.path());
    let command = command.words("--ctx_len 128 --num-cores 16 --prompt_len 32 --batch-size 1");
    assert_eq!(command.succeeds().stdout, outcome.stdout);
    assert_eq!(sdk.tool_calls(), Vec::<String>::new());

    compile(&sdk, home.path()).arg("--force").succeeds();
    assert_eq!(sdk.tool_calls().len(), 1);
}

#[test]
fn what_matters_makes_another() {
    let (sdk, home) = (laid_out(&newest()), folder());
    let first = compile(&sdk, home.path()).succeeds().stdout;
    let precision = folder();
    let npi = precision.path().join("npi.yaml");
    std::fs::write(&npi, "FP32NodeInstanceNames: [logits]\n").expect("a file");
    let with_npi = || compile(&sdk, home.path()).path("--node-precision-info", &npi, "NPI");
    let mut seen = vec![first];
    let mut other = |command: Command| {
        let path = command.succeeds().stdout;
        assert!(!seen.contains(&path), "{path}");
        seen.push(path);
    };
    for words in ["--ctx-len 64", "--num-cores 14", "--mxfp6-matmul", "--mxint8-kv-cache", "--num-devices 2", "--mos 1"]
    {
        other(compile(&sdk, home.path()).words(words));
    }
    other(compile(&sdk, home.path()).words("-- -stats-level=70"));
    other(with_npi());
    // The same name, another content.
    std::fs::write(&npi, "FP32NodeInstanceNames: [past_value.0_RetainedState]\n").expect("a file");
    other(with_npi());
    // Another weight, and another SDK.
    let scratch = Scratch::new("llama/base");
    scratch.edit_tensors(|tensors| tensors[0].data[0] ^= 1);
    other(qeff("compile").model(scratch.dir()).path("--sdk", sdk.root(), "SDK").home(home.path()));
    let newer = laid_out(&of_version("qaic-compile", "1.23.0"));
    other(compile(&newer, home.path()));
}

#[test]
fn a_failure_says_all_there_is_to_know() {
    let (sdk, home) = (laid_out(&newest()), folder());
    let said = "[json.exception.type_error.302] type must be string, but is object";
    // It fails in the middle, so that what it says before has arrived.
    let compiler = Compiler { say: "loading\n".into(), fail: Some(said.into()), code: 255, partial: true, ..says() };
    let compiler = Compiler { delay_ms: 200, ..compiler };
    sdk.configure(&SimConfig { compiler, ..newest() });
    let outcome = compile(&sdk, home.path()).run();
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(3), ""));
    snapshot("compile-failure", &stable(&outcome.stderr));
    // Nothing half is left, and the next run is right.
    assert!(qpcs(home.path()).is_empty());
    sdk.configure(&newest());
    compile(&sdk, home.path()).succeeds();
    assert!(Image::read(&qpc(home.path())).is_ok());
}

#[test]
fn a_deadline() {
    let (sdk, home) = (laid_out(&newest()), folder());
    sdk.configure(&slow(60_000));
    let outcome = compile(&sdk, home.path()).words("--compile-timeout 1").run();
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("was ended after 1 s"), "{}", outcome.stderr);
    assert!(qpcs(home.path()).is_empty());
}

#[test]
fn no_sdk() {
    let home = folder();
    let outcome = qeff("compile").model(&llama()).home(home.path()).run();
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(3), ""), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("error: cannot compile: there is no AI 100 SDK at /opt/qti-aic"),
        "{}",
        outcome.stderr
    );
    let said = qeff("compile").model(&llama()).path("--sdk", home.path(), "SDK").words("--dry-run").refuses();
    assert!(said.contains("expected the root of an AI 100 SDK"), "{said}");
    let outcome = qeff("compile").model(&llama()).words("--enable-qnn").home(home.path()).run();
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("there is no QNN SDK"), "{}", outcome.stderr);
}

/// A process that is not waited for, with the fake SDK.
fn start(sdk: &Cards, home: &Path, words: &str) -> Child {
    std::process::Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"))
        .args(["compile", "--model"])
        .arg(llama())
        .arg("--sdk")
        .arg(sdk.root())
        .args(words.split_whitespace())
        .env("QEFF_HOME", home)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process")
}

#[test]
fn two_at_once_compile_once() {
    let (sdk, home) = (laid_out(&newest()), folder());
    sdk.configure(&slow(500));
    let both = [start(&sdk, home.path(), ""), start(&sdk, home.path(), "")];
    let outputs = both.map(|child| child.wait_with_output().expect("an end"));
    assert!(outputs.iter().all(|output| output.status.success()), "{outputs:?}");
    assert_eq!(outputs[0].stdout, outputs[1].stdout);
    let calls = sdk.tool_calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("qaic-compile ")).count(), 1, "{calls:?}");
}

#[test]
fn a_kill_at_any_moment_leaves_no_trap() {
    let (sdk, sample) = (laid_out(&newest()), folder());
    sdk.configure(&slow(300));
    let started = Instant::now();
    assert!(start(&sdk, sample.path(), "").wait().expect("an end").success());
    let whole = started.elapsed();
    let expected = qpc(sample.path());
    for i in 0..10u32 {
        let home = folder();
        let mut child = start(&sdk, home.path(), "");
        // Spread over the whole run, but not in even steps.
        std::thread::sleep(whole * (2 * i + 1 + i % 3) / 22);
        child.kill().expect("a signal");
        child.wait().expect("an end");
        let next = Instant::now();
        let outcome = compile(&sdk, home.path()).succeeds();
        assert!(qpc(home.path()) == expected, "moment {i}: {}", outcome.stderr);
        // An orphaned compiler is ended, not waited for; in any case nobody waits long.
        assert!(next.elapsed() < whole + Duration::from_secs(10), "moment {i}: {:?}", next.elapsed());
        let found = compile(&sdk, home.path()).succeeds();
        assert!(found.stderr.contains("nothing to do"), "moment {i}: {}", found.stderr);
        // What the kill left is not listed as something else than it is.
        let list = qeff("cache").words("list --json").home(home.path()).succeeds().json();
        let kinds: Vec<&str> = list.as_array().expect("a list").iter().filter_map(|one| one["kind"].as_str()).collect();
        assert_eq!(kinds, ["export", "qpc"], "moment {i}");
    }
}

#[test]
fn ctrl_c_ends_the_compiler() {
    let (sdk, home) = (laid_out(&newest()), folder());
    sdk.configure(&slow(60_000));
    let child = start(&sdk, home.path(), "");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !sdk.root().join("calls.jsonl").exists() || qpcs(home.path()).is_empty() {
        assert!(Instant::now() < deadline, "the compiler does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupted = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.expect("kill").success());
    let started = Instant::now();
    let output = child.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(qpcs(home.path()).is_empty());
    sdk.configure(&newest());
    compile(&sdk, home.path()).succeeds();
}

#[test]
fn an_older_sdk_is_spoken_to_in_its_words() {
    let (sdk, home) = (laid_out(&of_version("qaic-exec", "1.20.2.0")), folder());
    let outcome = compile(&sdk, home.path()).words("--full-batch-size 2").succeeds();
    let call = sdk.tool_calls().into_iter().find(|call| call.starts_with("qaic-exec ")).expect("a call");
    assert!(call.contains(" -compile-only ") && call.contains(" -aic-hw-version=2.0 "), "{call}");
    let artifact = PathBuf::from(outcome.stdout.trim_end());
    let sizes = std::fs::read_to_string(artifact.with_file_name("specializations.json")).expect("a file");
    let json: Json = serde_json::from_str(&sizes).expect("JSON");
    assert_eq!(json["specializations"][0]["full_batch_size"], "2", "{sizes}");
    // What the user says wins.
    let dry = compile(&sdk, home.path()).words("--dry-run --json --specializations named --aic-hw-version ai100");
    let document = dry.succeeds().json();
    assert!(document["files"]["specializations.json"].as_str().expect("a text").contains("\"name\":\"Prefill\""));
}

#[test]
fn over_qnn() {
    let (sdk, home) = (laid_out(&newest()), folder());
    let compile = || {
        qeff("compile").model(&llama()).home(home.path()).env("QNN_SDK_ROOT", sdk.root()).words("--mxint8 --enable-qnn")
    };
    let first = compile().succeeds();
    let calls = sdk.tool_calls();
    let tools: Vec<&str> = calls.iter().filter_map(|call| call.split(' ').next()).collect();
    assert_eq!(tools, ["qairt-converter", "qnn-context-binary-generator"]);
    assert!(Path::new(first.stdout.trim_end()).join("programqpc.bin").is_file());
    assert_eq!(compile().succeeds().stdout, first.stdout);
    assert_eq!(sdk.tool_calls(), Vec::<String>::new());
    for (words, part) in [
        ("--num-speculative-tokens 0,3", "QNN compiles at most two specializations, and these are 3"),
        ("--mdp-num-partitions 2 --num-devices 2", "QNN has no such thing"),
        ("--precision f32", "--precision f32: QNN has no such thing"),
    ] {
        let said = compile().words("--dry-run").words(words).refuses();
        assert!(said.contains(part), "{said}");
    }
    let said = compile().words("--dry-run -- -x").refuses();
    assert!(said.contains("compiler flags after --: QNN has no such thing"), "{said}");
}

#[test]
fn what_cannot_fit_is_refused_before() {
    let (sdk, home) = (laid_out(&small_cards(1)), folder());
    // The demo has some two million parameters, and the card one megabyte.
    let compile = || qeff("compile").model(&demo()).path("--sdk", sdk.root(), "SDK").home(home.path());
    let said = compile().refuses();
    assert!(said.contains("the program cannot fit") && said.contains("--mxfp6-matmul"), "{said}");
    let said = compile().words("--num-cores 16").refuses();
    assert!(said.contains("--num-cores 16: the cards here have 14 cores"), "{said}");
    assert!(sdk.tool_calls().iter().all(|call| call.starts_with("qaic-util")), "nothing was compiled");
    compile().words("--num-devices 16").succeeds();
    // Cores follow the cards, which are asked once.
    let calls = sdk.tool_calls();
    assert!(calls.len() == 1 && calls[0].contains("-aic-num-cores=14"), "{calls:?}");
}

#[test]
fn the_compile_step_of_run() {
    let (sdk, home) = (laid_out(&SimConfig { cards: Card::several(2), ..newest() }), folder());
    let run = || qeff("run").model(&llama()).path("--sdk", sdk.root(), "SDK").home(home.path());
    let outcome = run().words("--prompt-ids 1,2,3 --device-group [0,1] --mxfp6 --ctx-len 64 --json");
    assert!(outcome.succeeds().json()["outputs"][0]["generated_ids"].is_array());
    let call = sdk.tool_calls().into_iter().find(|call| call.starts_with("qaic-compile ")).expect("a call");
    assert!(call.contains("mdp_ts_2.json") && call.contains("-mxfp6-matmul"), "{call}");
    let said = run().words("--prompt-ids 1,2,3 --ctx-len 2").refuses();
    assert!(said.contains("prompt 0 has 3 tokens, more than the 2 positions"), "{said}");
    let said = qeff("run").model(&llama()).words("--prompt-ids 1,2,3 --mxfp6-matmul").refuses();
    assert!(said.contains("--mxfp6-matmul is about AI 100"), "{said}");
}

#[test]
fn cache_list_prune_path() {
    let (sdk, home) = (laid_out(&newest()), folder());
    let cache = |words: &str| qeff("cache").words(words).home(home.path()).succeeds();
    assert_eq!(cache("path").stdout, format!("{}\n", home.path().display()));
    assert_eq!(cache("list").stdout, "");
    compile(&sdk, home.path()).words("--full-batch-size 2").succeeds();
    let list = cache("list --json").json();
    let qpc = &list[1];
    assert_eq!((&list[0]["kind"], &qpc["kind"]), (&"export".into(), &"qpc".into()));
    let details = &qpc["details"];
    for (size, n) in
        [("full_batch_size", 2), ("ctx_len", 128), ("prompt_len", 32), ("num_cores", 16), ("num_devices", 1)]
    {
        assert_eq!(details[size], n, "{size}");
    }
    assert!(cache("list").stdout.contains("full_batch_size 2"));
    assert_eq!(cache("prune --older-than 1 --json").json(), serde_json::json!([]));
    assert_eq!(cache("prune --kind export --json").json().as_array().map(Vec::len), Some(1));
    // A QPC needs no export any more.
    sdk.tool_calls();
    compile(&sdk, home.path()).words("--full-batch-size 2").succeeds();
    assert_eq!(sdk.tool_calls(), Vec::<String>::new());
    assert_eq!(cache("prune --dry-run --json").json().as_array().map(Vec::len), Some(1));
    cache("prune");
    assert_eq!(cache("list --json").json(), serde_json::json!([]));
}

#[test]
fn a_dry_run_leaves_nothing() {
    let home = folder();
    let place = home.path().join("new");
    qeff("compile").model(&llama()).words("--dry-run").home(&place).succeeds();
    qeff("compile").model(&llama()).words("--explain --json").home(&place).succeeds();
    assert!(!place.exists());
}

#[test]
fn explanation() {
    let home = folder();
    let words = "--explain --num-devices 2 --mxfp6 --mos 1 --aic-enable-depth-first -- -stats-level=70";
    let outcome = qeff("compile").model(&llama()).home(home.path()).words(words).succeeds();
    snapshot("compile-explain", &stable(&outcome.stdout.replace(&home.path().display().to_string(), "HOME")));
}

#[test]
fn doctor() {
    let sdk = laid_out(&SimConfig { library: false, ..small_cards(1) });
    let home = folder();
    let said = qeff("doctor").home(home.path()).path("--sdk", sdk.root(), "SDK").succeeds().stdout;
    let said = said.replace(&home.path().display().to_string(), "HOME");
    snapshot("doctor", &said.replace(&sdk.root().display().to_string(), "SDK"));
    let json = qeff("doctor").words("--json").home(home.path()).succeeds().json();
    assert_eq!((&json["sdk"], &json["qnn_sdk"]), (&Json::Null, &Json::Null));
}

/// Command lines and files of each family and of the options that change them, small enough to read.
#[test]
fn plans() {
    let home = folder();
    let families = ["llama/base", "mistral/base", "qwen2/base", "qwen3/base", "granite/base", "gpt2/base"];
    let ways = [
        ("llama/base", "--full-batch-size 4 --kv-cache-batch-size 8 --num-speculative-tokens 0,3"),
        ("llama/base", "--num-devices 4 --mdp-num-partitions 2 --prefill-only"),
        ("gpt2/base", "--mxint8-kv-cache --batch-size 3 --prefill-only=false --ctx-len 40"),
        ("gpt2/base", "--ctx-len 40 --num-devices 2 --mxfp6-matmul --enable-qnn"),
    ];
    let mut all = String::new();
    for (family, words) in families.map(|family| (family, "--ctx-len 40")).into_iter().chain(ways) {
        let command =
            qeff("compile").model(&qeff::fixture(family)).words("--dry-run --json").words(words).home(home.path());
        let document = command.succeeds().json();
        all += &format!("## {family} {words}\n");
        for command in document["commands"].as_array().expect("commands") {
            let argv: Vec<&str> = command.as_array().expect("arguments").iter().filter_map(Json::as_str).collect();
            all += &format!("{}\n", argv.join("\n  "));
        }
        for (name, content) in document["files"].as_object().expect("files") {
            all += &format!("{name}: {}\n", on_few_lines(content.as_str().expect("a text")));
        }
        all.push('\n');
    }
    snapshot("compile-plans", &stable(&all.replace(&home.path().display().to_string(), "HOME")));
}

/// A file's text without the layout, which other tests hold; lists of nodes by their number.
fn on_few_lines(text: &str) -> String {
    let Ok(mut json) = serde_json::from_str::<Json>(text) else {
        return text.split_whitespace().collect::<Vec<_>>().join(" ").replace(" - ", "\n  - ");
    };
    for partition in json.get_mut("partitions").and_then(Json::as_array_mut).into_iter().flatten() {
        if let Some(nodes) = partition.get_mut("nodeList") {
            *nodes = format!("{} nodes", nodes.as_array().map_or(0, Vec::len)).into();
        }
    }
    json.to_string()
}
