//! What somebody outside this repository does: writes a crate, builds it, and hands the shared object to a user.
//!
//! The crates are no members of the workspace. Cargo builds them as it would for their author, into a folder of their own, and
//! the whole command uses what comes out.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command as Process;

use anyhow::{Context as _, Result, ensure};
use qeff::command::{Command, Outcome};
use qeff::scratch::Scratch;
use qeff::{Case, cases, compare, fixture, fixtures_of, root};
use qeff_host::generate::{Completion, Finish};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value as Json, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_qeff-host-under-test");

/// Where crates outside the workspace are built. Cargo lets one process at a time in, so tests may ask for the same crate.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside")
}

/// Cargo as the author of the crate in `dir` would call it; without a network, all it needs is here for the workspace.
fn cargo(dir: &Path, args: &[&str]) -> Process {
    let mut cargo = Process::new(env!("CARGO"));
    cargo.args(args).arg("--offline").current_dir(dir).env("CARGO_TARGET_DIR", target());
    cargo.env("QEFF_HOST", PROGRAM).env("INSTA_UPDATE", "no").env("CARGO_PROFILE_DEV_DEBUG", "0");
    // What cargo told this test of itself is not meant for the other crate.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_")) {
        cargo.env_remove(name);
    }
    cargo
}

fn succeeds(mut process: Process) -> Result<()> {
    let output = process.output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{process:?}:\n{err}\n{out}");
    Ok(())
}

/// The shared object of docs/examples/olmo2.
fn olmo2() -> Result<PathBuf> {
    succeeds(cargo(&root().join("docs/examples/olmo2"), &["build"]))?;
    Ok(target().join("debug/libqeff_plugin_olmo2.so"))
}

fn qeff(verb: &str, plugin: &Path) -> Command {
    Command::new(PROGRAM, verb).path("--plugin", plugin, "PLUGIN")
}

/// Greedy continuations of all cases in one call.
fn run(checkpoint: &Path, plugin: &Path, cases: &[Case], more: &str) -> Result<Vec<Completion>> {
    let mut command = qeff("run", plugin).model(checkpoint).words("--json --logits --ignore-eos").words(more);
    for case in cases {
        let ids: Vec<_> = case.prompt.iter().map(u32::to_string).collect();
        command = command.arg("--prompt-ids").arg(ids.join(","));
    }
    let new = cases.iter().map(|case| case.greedy.len()).max().unwrap_or(1);
    let outcome = command.arg("--max-new-tokens").arg(new.to_string()).succeeds();
    let said = outcome.json();
    let answers = said["outputs"].as_array().context("outputs")?;
    answers.iter().map(completion).collect()
}

fn completion(answer: &Json) -> Result<Completion> {
    let rows = answer["step_logits"].as_array().context("logits")?.iter();
    let row = |row: &Json| row.as_array().into_iter().flatten().filter_map(Json::as_f64).map(|x| x as f32).collect();
    let ids = answer["generated_ids"].as_array().context("ids")?.iter();
    let ids = ids.filter_map(Json::as_u64).map(|id| id as u32).collect();
    Ok(Completion { ids, logits: rows.map(row).collect(), finish: Finish::Length })
}

/// The checkpoint with its weights in the format of the example, as that crate describes it.
fn in_planes(name: &str) -> Result<Scratch> {
    let scratch = Scratch::new(name);
    let bytes = std::fs::read(scratch.file("model.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let (mut entries, mut data) = (vec![], Vec::<u8>::new());
    // The header's own length does not matter if tensors begin behind any header that could be.
    let first = 64 << 10;
    let stored: std::collections::BTreeMap<_, _> = tensors.tensors().into_iter().collect();
    for (name, tensor) in stored {
        ensure!(tensor.dtype() == Dtype::BF16, "{name} is no bf16");
        let (shape, bytes) = (tensor.shape(), tensor.data());
        let planes = shape.len() == 2;
        entries.push(json!({ "name": name, "shape": shape, "offset": first + data.len(), "planes": planes }));
        if planes {
            for row in bytes.chunks(2 * shape[1]) {
                data.extend(row.iter().skip(1).step_by(2));
                data.extend(row.iter().step_by(2));
            }
        } else {
            data.extend(bytes);
        }
    }
    let header = Json::from(entries).to_string();
    let mut file = [b"PLN1".as_slice(), &(header.len() as u32).to_le_bytes(), header.as_bytes()].concat();
    file.resize(first, 0);
    file.extend(data);
    scratch.write("weights.pln", file);
    scratch.remove("model.safetensors");
    Ok(scratch)
}

#[test]
fn an_architecture_computes_what_hugging_face_computes() -> Result<()> {
    let plugin = olmo2()?;
    let names = fixtures_of("olmo2");
    ensure!(names.len() == 4, "{names:?}");
    for name in names {
        let all = cases(&fixture(&name))?;
        // Together, of different lengths; and one by one, the prompt in pieces.
        for (case, got) in all.iter().zip(run(&fixture(&name), &plugin, &all, "--strict")?) {
            compare(case, &got).context(name.clone())?;
        }
        for case in &all {
            let got = run(&fixture(&name), &plugin, std::slice::from_ref(case), "--prompt-len 4")?;
            compare(case, &got[0]).with_context(|| format!("{name} in pieces"))?;
        }
    }
    Ok(())
}

#[test]
fn every_target_and_storage_form_is_exported() -> Result<()> {
    let plugin = olmo2()?;
    for flags in [
        "--target aic --full-batch-size 2 --num-logits-to-keep 3 --ccl-enabled",
        "--target aic --storage linked",
        "--target aic --dtype f16",
        "--target cpu --full-batch-size 2",
        "--target cpu --storage linked",
        "--target cpu --weights int4 --weights-block 16",
    ] {
        let dir = tempfile::tempdir()?;
        let output = dir.path().join("export");
        let export = qeff("export", &plugin).model(&fixture("olmo2/base")).path("--output", &output, "OUTPUT");
        let said = export.words(flags).arg("--json").succeeds().json();
        ensure!(said["plugin"] == "olmo2", "{said}");
        ensure!(Path::new(said["onnx"][0].as_str().context("a path")?).is_file(), "{flags}");
    }
    Ok(())
}

#[test]
fn a_rewrite_changes_what_is_computed() -> Result<()> {
    let plugin = olmo2()?;
    let mut all = cases(&fixture("olmo2/base"))?;
    for logit in all.iter_mut().flat_map(|case| &mut case.step_logits).flatten() {
        *logit = 30.0 * (*logit / 30.0).tanh();
    }
    for name in ["softcap-30", "olmo2:softcap-30"] {
        let got = run(&fixture("olmo2/base"), &plugin, &all, &format!("--rewrite {name}"))?;
        all.iter().zip(&got).try_for_each(|(case, got)| compare(case, got))?;
    }
    // Twice is another function, and the order is that of the flags.
    let twice = run(&fixture("olmo2/base"), &plugin, &all, "--rewrite softcap-30 --rewrite softcap-30")?;
    ensure!(compare(&all[0], &twice[0]).is_err(), "the second rewrite did nothing");

    // A model of another plugin is rewritten as well: --plugin names whose rewrite it is.
    let llama = Command::new(PROGRAM, "inspect").model(&fixture("llama/base")).words("--rewrite softcap-30");
    let said = llama.refuses();
    ensure!(said.contains("there is no rewrite called `softcap-30`; known: none"), "{said}");
    Ok(())
}

#[test]
fn a_pooling_head_makes_vectors() -> Result<()> {
    let plugin = olmo2()?;
    let scratch = Scratch::new("olmo2/base");
    scratch.set(&json!({ "architectures": ["Olmo2Model"] }));
    let expected: Json = serde_json::from_slice(&std::fs::read(fixture("olmo2/base").join("hidden.json"))?)?;
    let mut command = qeff("run", &plugin).model(scratch.dir()).words("--task embed --json --pooling rms");
    for case in cases(&fixture("olmo2/base"))? {
        let ids: Vec<_> = case.prompt.iter().map(u32::to_string).collect();
        command = command.arg("--prompt-ids").arg(ids.join(","));
    }
    // Three texts of different lengths in one padded call.
    let said = command.succeeds().json();
    let numbers = |list: &Json| list.as_array().into_iter().flatten().filter_map(Json::as_f64).collect::<Vec<_>>();
    let rows = expected["rms"].as_array().context("rows")?;
    ensure!(rows.len() == 3, "{expected}");
    for (i, row) in rows.iter().enumerate() {
        let (want, got) = (numbers(row), numbers(&said["outputs"][i]["embedding"]));
        ensure!(want.len() == 32 && got.len() == 32, "text {i}: {said}");
        let worst = want.iter().zip(&got).map(|(a, b)| (a - b).abs() / a.abs().max(1e-3)).fold(0.0, f64::max);
        ensure!(worst < 1e-4, "text {i}: a number differs by {worst}");
    }
    Ok(())
}

#[test]
fn weights_are_read_in_a_format_of_the_plugin() -> Result<()> {
    let plugin = olmo2()?;
    let scratch = in_planes("olmo2/base")?;
    let all = cases(&fixture("olmo2/base"))?;
    let got = run(scratch.dir(), &plugin, &all, "--strict")?;
    all.iter().zip(&got).try_for_each(|(case, got)| compare(case, got))?;

    // The same bytes as from safetensors, transposed matrices of AI 100 and all.
    for flags in ["--target aic", "--target cpu", "--target cpu --weights int8 --weights-block 16"] {
        let dir = tempfile::tempdir()?;
        let export = |name: &str, model: &Path| {
            let output = dir.path().join(name);
            qeff("export", &plugin).model(model).path("--output", &output, "OUTPUT").words(flags).succeeds();
            files(&output)
        };
        let (one, other) = (export("one", &fixture("olmo2/base"))?, export("other", scratch.dir())?);
        ensure!(one.len() == 2 && one == other, "{flags}: the files differ");
    }
    // A file that lies beside the model can be used where it lies by an engine that reads what is in it.
    let dir = tempfile::tempdir()?;
    let linked = qeff("export", &plugin).model(scratch.dir()).path("--output", &dir.path().join("cpu"), "OUTPUT");
    linked.words("--target cpu --storage linked").succeeds();
    let linked = qeff("export", &plugin).model(scratch.dir()).path("--output", &dir.path().join("aic"), "OUTPUT");
    let said = linked.words("--target aic --storage linked").refuses();
    ensure!(said.contains("in the format planes of a plugin") && said.contains("--storage packed"), "{said}");

    // Without the plugin nobody can read it.
    let said = Command::new(PROGRAM, "inspect").model(scratch.dir()).refuses();
    ensure!(said.contains("has no weights"), "{said}");
    Ok(())
}

#[test]
fn broken_files_of_that_format_are_refused_by_name() -> Result<()> {
    let plugin = olmo2()?;
    let scratch = in_planes("olmo2/base")?;
    let sound = std::fs::read(scratch.file("weights.pln"))?;
    let refusal = || qeff("run", &plugin).model(scratch.dir()).words("--prompt-ids 1,2 --max-new-tokens 1").refuses();
    let with = |from: &str, to: &str| {
        let mut bytes = sound.clone();
        let place = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect(from);
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let cut = |length: usize| sound[..length].to_vec();
    for (what, bytes, expected) in [
        ("cut in the header", cut(50), "a header within the file's 50 bytes"),
        ("cut in the data", cut(sound.len() - 2), "expected bytes within the file's"),
        ("no JSON", with("[", "?"), "a header of JSON"),
        ("another shape", with("\"shape\":[199", "\"shape\":[999"), "expected"),
        ("no name", with("\"name\"", "\"nome\""), "a tensor with `name`"),
    ] {
        scratch.write("weights.pln", bytes);
        let said = refusal();
        ensure!(said.contains(expected), "{what}: {said}");
    }
    // Two files of the format are shards, and shards hold no tensor twice.
    scratch.write("weights.pln", &sound);
    scratch.write("more.pln", &sound);
    let said = refusal();
    ensure!(said.contains("is in CHECKPOINT/more.pln and in CHECKPOINT/weights.pln"), "{said}");
    Ok(())
}

/// Verdicts without what was found, which is numbers.
fn verdicts(outcome: &Outcome) -> Vec<String> {
    let said = outcome.json();
    let row = |row: &Json| {
        let [verdict, subject, check] =
            ["verdict", "subject", "check"].map(|key| row[key].as_str().unwrap_or_default());
        format!("{verdict} {subject}: {check}")
    };
    let mut rows: Vec<_> = said["checks"].as_array().into_iter().flatten().map(row).collect();
    rows.dedup();
    rows
}

#[test]
fn the_example_conforms() -> Result<()> {
    let plugin = olmo2()?;
    let scratch = in_planes("olmo2/one-kv-head")?;
    let check = Command::new(PROGRAM, "plugins").arg("check").arg(&plugin).arg("--json");
    let outcome = check.path("--checkpoint", scratch.dir(), "CHECKPOINT").succeeds();
    insta::with_settings!({ snapshot_path => root().join("snapshots"), prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("plugins_check", verdicts(&outcome).join("\n"));
    });
    // For people, the same in columns.
    let check = Command::new(PROGRAM, "plugins").arg("check").arg(&plugin);
    let outcome = check.path("--checkpoint", &fixture("olmo2/base"), "CHECKPOINT").succeeds();
    ensure!(outcome.stdout.contains("\npass     Olmo2ForCausalLM  hostile configs  "), "{}", outcome.stdout);
    // Without a checkpoint there is little to look at, and it is said.
    let check = Command::new(PROGRAM, "plugins").arg("check").arg(&plugin).arg("--json");
    let said = verdicts(&check.succeeds());
    ensure!(said[0] == "skipped Olmo2ForCausalLM: description", "{said:?}");
    Ok(())
}

#[test]
fn a_new_crate_builds_outside_and_passes_its_own_tests() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("mine");
    let new = || Command::new(PROGRAM, "plugins").args(["new", "two-words"]).path("--path", &folder, "FOLDER");
    let outcome = new().arg("--api").arg(root()).succeeds();
    ensure!(outcome.stdout.trim() == folder.to_str().context("UTF-8")?, "{}", outcome.stdout);
    let said = new().refuses();
    ensure!(said.contains("FOLDER is not empty: give another folder with --path"), "{said}");

    // The versions that are here without a network.
    std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
    succeeds(cargo(&folder, &["test"]))?;

    // The tests can fail: another number in the description is another result.
    let source = folder.join("src/lib.rs");
    let text = std::fs::read_to_string(&source)?;
    std::fs::write(
        &source,
        text.replace("l.add(h, l.mlp(x, Bias::No))", "l.add(h, l.scale(l.mlp(x, Bias::No), 1.01))"),
    )?;
    let output = cargo(&folder, &["test", "--no-fail-fast"]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    for line in [
        "logits_are_those_of_hugging_face ... FAILED",
        "the_description_is_known ... FAILED",
        "the_plugin_conforms ... ok",
    ] {
        ensure!(said.contains(line), "expected `{line}` in {said}");
    }
    Ok(())
}

/// Every file of a folder, by name.
fn files(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = vec![];
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        files.push((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?));
    }
    files.sort();
    Ok(files)
}
