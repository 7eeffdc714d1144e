//! Everything that a plugin should not do: the host lives, and says which plugin did what.

use std::time::{Duration, Instant};

use qeff::command::{Command, Outcome};

use super::{asks_for, check, plugin_in, qeff};

/// What the host says of a plugin that does something when it is asked to describe a model.
fn outcome(behaviour: &str, flags: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let model = asks_for(behaviour);
    let plugin = plugin_in(folder.path(), "misbehaving");
    let started = Instant::now();
    let command: Command = qeff("inspect").model(model.path()).path("--plugin", &plugin, "PLUGIN").args(flags);
    let outcome = command.run();
    assert!(started.elapsed() < Duration::from_secs(40), "{behaviour} took {:?}", started.elapsed());
    outcome
}

/// What is said in the error about the plugin.
fn event(behaviour: &str, flags: &[&str]) -> String {
    let outcome = outcome(behaviour, flags);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{behaviour}: {outcome:?}");
    check(&outcome.stderr, "plugin misbehaving 0.1.0 (PLUGIN): it ");
    outcome.stderr
}

#[test]
fn who_behaves_is_heard() {
    let outcome = outcome("well", &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    check(&outcome.stdout, "MisbehavingModel");
    let expected =
        "note: plugin `PLUGIN` is not pinned and runs in a sandbox; `qeff-host plugins add PLUGIN` pins it\n";
    assert_eq!(outcome.stderr, expected);
}

#[test]
fn ends_of_the_process() {
    for (behaviour, expected) in [
        ("segfault", "it died of SIGSEGV"),
        ("overflow", "has overflowed its stack"),
        ("abort", "it died of SIGABRT"),
        ("exit", "it ended its own process with code 0"),
        ("panic", "it panicked at tests/plugins/misbehaving/src/behaviour.rs:"),
        ("allocate", "memory allocation of 67108864 bytes failed"),
    ] {
        check(&event(behaviour, &[]), expected);
    }
}

#[test]
fn time_is_limited() {
    for behaviour in ["loop", "sleep", "announce and stop", "print without end"] {
        check(&event(behaviour, &["--plugin-timeout", "1"]), "it did not answer within 1 s and was ended");
    }
}

#[test]
fn system_calls_are_limited() {
    for (behaviour, call) in [
        ("read a file", "openat"),
        ("write a file", "openat"),
        ("list a folder", "openat"),
        ("connect", "socket"),
        ("connect locally", "socket"),
        ("kill the host", "getppid"),
        ("raise limits", "prlimit64"),
        ("trace the host", "getppid"),
    ] {
        check(&event(behaviour, &[]), &format!("it made the system call `{call}`, which a plugin must not"));
    }
    // How these are made is the C library's choice; for a thread, it does not let the call be named.
    for behaviour in ["execute", "fork", "thread"] {
        let said = event(behaviour, &[]);
        assert!(said.contains("it made the system call `") || said.contains("it made a system call, as for"), "{said}");
    }
    assert!(!std::path::Path::new("/tmp/qeff-misbehaving").exists());
}

#[test]
fn answers_that_are_none() {
    for (behaviour, expected) in [
        ("say garbage", "it answered with what is no answer and was ended: "),
        ("say nothing in a message", "it answered with what is no answer and was ended: a message without content"),
        ("announce an exabyte", "it answered with 1152921504606846976 bytes and was ended; expected at most 65 MiB"),
        ("hang up", "it closed its connection and was ended"),
        ("close all", "it "),
    ] {
        check(&event(behaviour, &["--plugin-timeout", "5"]), expected);
    }
    let outcome = outcome("answer without a model", &[]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    check(&outcome.stderr, "plugin misbehaving 0.1.0 (PLUGIN): its answer cannot be read: ");
}

/// What a plugin prints is no answer, and reaches no terminal as it is.
#[test]
fn printing_is_told() {
    let outcome = outcome("print", &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.starts_with("architecture  MisbehavingModel"), "{}", outcome.stdout);
    let told = "note: plugin misbehaving 0.1.0 (PLUGIN) printed: hello from the plugin | ?[31mhello once more\n";
    check(&outcome.stderr, told);
}
