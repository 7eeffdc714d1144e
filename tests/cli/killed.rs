//! Exports that end in the middle, and exports that run at the same time: what is in the folder is whole or not there.

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use qeff::command::entries;

use crate::demo;

fn start(output: &Path, words: &str) -> Child {
    Process::new(env!("CARGO_BIN_EXE_qeff-host-under-test"))
        .args(["export", "--model"])
        .arg(demo())
        .arg("--output")
        .arg(output)
        .args(words.split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

fn finish(mut child: Child) {
    assert!(child.wait().expect("it ends").success());
}

/// Files of an export with their bytes.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = entries(dir).into_iter().filter(|name| dir.join(name).is_file());
    files.map(|name| (name.clone(), std::fs::read(dir.join(name)).expect("a file"))).collect()
}

/// Every file of the folder is whole, and a model file is there only with the files of its own export.
fn assert_whole(dir: &Path, possible: &[&[(PathBuf, Vec<u8>)]], when: &str) {
    let found = contents(dir);
    let of_one = |file| possible.iter().any(|export| export.contains(file));
    assert!(found.iter().all(of_one), "{when}: {:?}", entries(dir));
    if found.iter().any(|(name, _)| name.extension().is_some_and(|end| end == "onnx")) {
        assert!(possible.contains(&found.as_slice()), "{when}: {:?}", entries(dir));
    }
}

/// The time of a whole export, and what it writes.
fn whole(dir: &Path, words: &str) -> (Duration, Vec<(PathBuf, Vec<u8>)>) {
    let begun = Instant::now();
    finish(start(dir, words));
    (begun.elapsed(), contents(dir))
}

#[test]
fn killed_at_any_instant() {
    const MOMENTS: u32 = 24;
    let place = tempfile::tempdir().expect("a folder");
    let (_, aic) = whole(&place.path().join("aic"), "--target aic");
    let (took, cpu) = whole(&place.path().join("cpu"), "--target cpu");
    let output = place.path().join("output");
    for moment in 0..MOMENTS {
        let words = if moment % 2 == 0 { "--target aic" } else { "--target cpu" };
        let mut child = start(&output, words);
        std::thread::sleep(took * moment / (MOMENTS - 2));
        child.kill().expect("a signal");
        child.wait().expect("it ends");
        if output.exists() {
            assert_whole(&output, &[&aic, &cpu], &format!("moment {moment}"));
        }
    }
    // What was left is gone with the next one.
    finish(start(&output, "--target cpu"));
    assert!(contents(&output) == cpu);
    assert!(entries(&output).iter().all(|name| !name.display().to_string().starts_with('.')), "{:?}", entries(&output));
}

#[test]
fn several_at_once() {
    let place = tempfile::tempdir().expect("a folder");
    let (_, aic) = whole(&place.path().join("aic"), "--target aic");
    let (_, cpu) = whole(&place.path().join("cpu"), "--target cpu");
    for round in 0..4 {
        let output = place.path().join(format!("output{round}/deep"));
        let children: Vec<_> =
            ["aic", "cpu", "aic", "cpu"].iter().map(|target| start(&output, &format!("--target {target}"))).collect();
        children.into_iter().for_each(finish);
        let found = contents(&output);
        assert!(found == aic || found == cpu, "round {round}: files of two exports are mixed");
        assert_eq!(entries(&output).len(), found.len(), "round {round}: something is left");
    }
}

#[test]
fn an_interrupt_leaves_nothing() {
    use std::os::unix::process::ExitStatusExt as _;
    let place = tempfile::tempdir().expect("a folder");
    let (took, _) = whole(&place.path().join("whole"), "--target aic");
    let mut interrupted = 0;
    for moment in 0..12 {
        for (name, number) in [("INT", 2), ("TERM", 15)] {
            let output = place.path().join(format!("{name}{moment}"));
            let mut child = start(&output, "--target aic");
            std::thread::sleep(took * moment / 12);
            let signal = Process::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
            assert!(signal.expect("kill").success());
            let status = child.wait().expect("it ends");
            // It may have been done already, or not have begun to listen.
            if status.success() {
                assert!(output.join("LlamaForCausalLM.onnx").is_file());
            } else {
                assert_eq!(status.signal(), Some(number), "{status}");
                assert!(!output.exists(), "{name} at {moment}: {:?}", entries(&output));
                interrupted += 1;
            }
        }
    }
    assert!(interrupted > 0, "no export was long enough to be interrupted");
}
