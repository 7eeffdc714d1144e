//! Systems that cannot confine a plugin: nothing is loaded, unless the user takes it upon himself.

use std::collections::BTreeMap;
use std::process::Output;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::{asks_for, check, plugin_in};

/// What the host says where a system call is not to be had.
fn without(call: i64, errno: i32, flags: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let plugin = plugin_in(folder.path(), "misbehaving");
    let model = asks_for("well");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_qeff-host-under-test"));
    command.arg("inspect").arg("--model").arg(model.path()).arg("--plugin").arg(plugin).args(flags);
    command.env("XDG_DATA_HOME", folder.path());
    // A filter holds for the thread that sets it, and for what the thread starts.
    let start = move || {
        let arch = TargetArch::try_from(std::env::consts::ARCH).expect("an architecture");
        let refuse = SeccompAction::Errno(errno as u32);
        let filter = SeccompFilter::new(BTreeMap::from([(call, vec![])]), SeccompAction::Allow, refuse, arch);
        let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
        seccompiler::apply_filter(&program).expect("a filter");
        command.output().expect("the binary starts")
    };
    std::thread::spawn(start).join().expect("no panic")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_a_sandbox_nothing_is_loaded() {
    let output = without(libc::SYS_landlock_create_ruleset, libc::ENOSYS, &[]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    check(&said(&output), "this system cannot confine a plugin: landlock: ");
    check(&said(&output), "--allow-unsandboxed runs it with all your rights");
    let output = without(libc::SYS_seccomp, libc::ENOSYS, &[]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    check(&said(&output), "this system cannot confine a plugin: seccomp: ");
}

#[test]
fn unsandboxed_is_a_choice_and_is_told() {
    let output = without(libc::SYS_landlock_create_ruleset, libc::ENOSYS, &["--allow-unsandboxed"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    check(&said(&output), "runs with all your rights: landlock: ");
}

#[test]
fn without_files_in_memory_nothing_is_loaded() {
    let output = without(libc::SYS_memfd_create, libc::EACCES, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    check(&said(&output), "a checked copy cannot be loaded from memory: Permission denied");
}
