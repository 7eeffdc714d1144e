//! Other profiles and other compilers, on either side.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use qeff_host::plugins::{Place, file};
use semver::Version;
use serde_json::json;

use super::build::{Built, Variant, by};
use super::load;
use crate::{check, plugin_in, qeff, table};

const RELEASE: &str = "inherits = \"release\"";
const LTO: &str = "inherits = \"release\"\nlto = \"fat\"\ncodegen-units = 1\nstrip = true";

/// The version that a compiler says of itself, in the long form that tells builds apart.
fn version(mut rustc: Command) -> Option<String> {
    let output = rustc.arg("-vV").output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// The line of a long version that begins with `field`.
fn said<'a>(version: &'a str, field: &str) -> &'a str {
    version.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default()
}

/// Toolchains of this machine with another compiler than the one that built this test. Tells of those that are left out, and
/// where there are none, past whoever swallows what tests print.
fn other_toolchains() -> Vec<String> {
    let say = |text: &str| drop(writeln!(std::io::stderr(), "plugins of other compilers: {text}"));
    let listed = Command::new("rustup").args(["toolchain", "list", "--quiet"]).output();
    let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let here = version(Command::new("rustc")).unwrap_or_default();
    let oldest = Version::parse(&format!("{}.0", env!("CARGO_PKG_RUST_VERSION"))).expect("a version");
    let mut seen = vec![here];
    let mut others = vec![];
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let Some(version) = version(by(name, "rustc")) else {
            say(&format!("{name} is left out, its rustc does not start"));
            continue;
        };
        let release = Version::parse(said(&version, "release: ")).ok();
        if release.is_none_or(|release| Version { pre: semver::Prerelease::EMPTY, ..release } < oldest) {
            say(&format!("{name} is left out, it is older than {oldest}"));
        } else if !seen.contains(&version) {
            others.push(name.to_owned());
            seen.push(version);
        }
    }
    match others.as_slice() {
        [] => say("there is no second toolchain here (rustup toolchain install nightly); nothing of them is tested"),
        others => say(&format!("tested with {}", others.join(", "))),
    }
    others
}

/// Whatever built it, a plugin answers the same, in a debug build of the host, in its worker, and in small hosts that
/// were built as the plugins were.
#[test]
fn profiles_and_compilers_do_not_matter() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = plugin_in(folder.path(), "everything");
    let today = load(&[&here], Place::InProcess).remove(0);
    let build = |name: &str, profile: &str, toolchain| {
        let variant = Variant { name, changes: &[], profile, toolchain };
        (name.to_owned(), variant.build())
    };
    let mut all = vec![build("debug", "", None), build("release", RELEASE, None), build("lto", LTO, None)];
    for (i, toolchain) in other_toolchains().iter().enumerate() {
        let compiler = version(by(toolchain, "rustc")).expect("a version");
        let (name, built) = build(&format!("other_{i}"), RELEASE, Some(toolchain.as_str()));
        let manifest = file::examine(&built.plugin).expect("a plugin").manifest;
        check(&manifest.rustc, said(&compiler, "release: "));
        all.push((format!("{name}, {toolchain}"), built));
    }
    let plugins: Vec<&Path> = all.iter().map(|(_, built)| built.plugin.as_path()).collect();
    let hosts: [(&str, &dyn Fn() -> Vec<String>); 2] =
        [("here", &|| load(&plugins, Place::InProcess)), ("a worker", &|| load(&plugins, Place::Worker))];
    let agree = |host: &str, lines: Vec<String>| {
        for ((plugin, _), line) in all.iter().zip(lines) {
            assert_eq!(line, today, "plugin {plugin} in {host}");
        }
    };
    hosts.iter().for_each(|(host, lines)| agree(host, lines()));
    all.iter().for_each(|(host, built): &(String, Built)| agree(host, built.load(&plugins)));
}

/// Stripped and without unwinding: in a worker, it lives and dies like any other.
#[test]
fn plugins_that_abort_run_in_workers_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = plugin_in(folder.path(), "everything");
    let profile = "inherits = \"dev\"\nstrip = true\npanic = \"abort\"";
    let lean = Variant { name: "lean", changes: &[], profile, toolchain: None }.build().plugin;
    assert_eq!(load(&[&lean], Place::Worker), load(&[&here], Place::InProcess));
    let said = load(&[&lean], Place::InProcess).remove(0);
    check(&said, "it was built with `panic = \"abort\"`, so an error in it would end this process");
    let unlucky = table(&json!({ "architectures": ["BagModel"], "width": 13 }));
    let said = qeff("inspect").model(unlucky.path()).path("--plugin", &lean, "PLUGIN").run();
    assert_eq!(said.code, Some(2), "{said:?}");
    check(&said.stderr, "plugin everything 0.1.0 (PLUGIN): it died of SIGABRT");
    check(&said.stderr, "a width of 13 is bad luck");
}
