//! Places where nothing can be written: read-only, full, or with a limit on file sizes.
//!
//! Such places are made by the shell, in a namespace of its own where mounting is allowed. Where it is not, there is
//! nothing to test.

use std::path::Path;
use std::process::{Command as Process, Output};

use qeff::command::entries;

use crate::demo;

/// Runs a line of shell with the binary as `$qeff`, the demo model as `$model` and `place` as the working folder.
fn shell(wrapper: &[&str], line: &str, place: &Path) -> Output {
    let (program, args) = wrapper.split_first().expect("a program");
    Process::new(program)
        .args(args)
        .args(["bash", "-c", line])
        .current_dir(place)
        .env("qeff", env!("CARGO_BIN_EXE_qeff-host-under-test"))
        .env("model", demo())
        .env("TMPDIR", place)
        .env("QEFF_HOME", place)
        .env_remove("ORT_DYLIB_PATH")
        .output()
        .expect("a shell")
}

fn refusal(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{stderr}");
    stderr
}

/// The system's answer to a write past the limit is a signal that would end the process without a word.
#[test]
fn a_limit_on_file_sizes() {
    let place = tempfile::tempdir().expect("a folder");
    for line in [
        "ulimit -f 64; \"$qeff\" export --model \"$model\" --output new/export",
        "ulimit -f 64; \"$qeff\" run --model \"$model\" --prompt x",
    ] {
        let said = refusal(&shell(&["env"], line, place.path()));
        assert!(said.contains("File too large") && said.contains("ulimit -f"), "{said}");
        assert_eq!(entries(place.path()), Vec::<std::path::PathBuf>::new(), "{line}");
    }
}

const NAMESPACE: &[&str] = &["unshare", "--user", "--map-root-user", "--mount"];

fn can_mount(place: &Path) -> bool {
    let able = shell(NAMESPACE, "mkdir t && mount -t tmpfs none t; code=$?; rmdir t 2>&-; exit $code", place);
    let _ = std::fs::remove_dir(place.join("t"));
    able.status.success()
}

#[test]
fn a_full_disk() {
    let place = tempfile::tempdir().expect("a folder");
    if !can_mount(place.path()) {
        return;
    }
    // What is in the mount is gone with the namespace, so the shell lists it before it ends.
    let full = "mkdir disk && mount -t tmpfs -o size=512k none disk && echo mine >disk/notes;";
    for (output, left) in [("disk/new/export", "disk/notes\n"), ("disk", "disk/notes\n")] {
        let line = format!(
            "{full} \"$qeff\" export --model \"$model\" --output {output}; code=$?; find disk -type f; \
             find disk -mindepth 1 -type d; umount disk; rmdir disk; exit $code"
        );
        let answer = shell(NAMESPACE, &line, place.path());
        let said = refusal(&answer);
        assert!(said.contains("no space left for ") && said.contains("MB") && !said.contains(".export-"), "{said}");
        assert_eq!(String::from_utf8_lossy(&answer.stdout), left, "{output}");
    }
    let line = format!(
        "{full} TMPDIR=$PWD/disk \"$qeff\" run --model \"$model\" --prompt x; code=$?; find disk -type f; \
         find disk -mindepth 1 -type d; umount disk; rmdir disk; exit $code"
    );
    let answer = shell(NAMESPACE, &line, place.path());
    let said = refusal(&answer);
    assert!(said.contains("no space left") && said.contains("TMPDIR"), "{said}");
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "disk/notes\n");
}

#[test]
fn a_read_only_disk() {
    let place = tempfile::tempdir().expect("a folder");
    if !can_mount(place.path()) {
        return;
    }
    let line = "mkdir disk && mount -t tmpfs none disk && mkdir disk/old && mount -o remount,ro disk;
        for output in disk/new disk/old; do \"$qeff\" export --model \"$model\" --output $output; echo $?; done";
    let answer = shell(NAMESPACE, line, place.path());
    let said = String::from_utf8_lossy(&answer.stderr);
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "1\n1\n", "{said}");
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors, ["error: cannot export to disk/new", "error: cannot export to disk/old"]);
    assert_eq!(said.matches("Read-only file system").count(), 2, "{said}");
}

#[test]
fn stdout_that_takes_nothing() {
    let place = tempfile::tempdir().expect("a folder");
    let said = refusal(&shell(&["env"], "\"$qeff\" run --model \"$model\" --prompt x >/dev/full", place.path()));
    assert!(said.contains("\nerror: cannot write to stdout\n"), "{said}");
}
