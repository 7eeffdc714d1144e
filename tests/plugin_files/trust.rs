//! Pins and signatures: what was agreed to is what runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use qeff::command::Command;
use serde_json::json;
use tempfile::TempDir;

use super::{asks_for, check, plugin_in, qeff, table};

/// A user's folders, and a plugin's file among them.
struct User {
    home: TempDir,
}

impl User {
    fn new() -> Self {
        User { home: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.home.path().join(below)
    }

    fn qeff(&self, verb: &str) -> Command {
        let command = qeff(verb).path_variable("XDG_DATA_HOME", &self.path("data"), "DATA");
        command.path_variable("XDG_CONFIG_HOME", &self.path("config"), "CONFIG")
    }

    fn plugins(&self, words: &[&str]) -> Command {
        self.qeff("plugins").args(words)
    }

    fn describe(&self, model: &Path, plugin: &str) -> Command {
        self.qeff("inspect").model(model).args(["--plugin", plugin])
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn bag() -> TempDir {
    table(&json!({ "architectures": ["BagModel"], "width": 3 }))
}

#[test]
fn a_pinned_plugin_is_found_shown_run_and_removed() {
    let user = User::new();
    let file = plugin_in(user.home.path(), "everything");
    let shown = user.plugins(&["add", text(&file)]).succeeds().stdout;
    for part in
        ["everything 0.1.0", "architectures: BagModel", "weight formats: toy", "built     by rustc ", "sha256    "]
    {
        check(&shown, part);
    }
    fs::remove_file(&file).expect("the original is not needed any more");
    let listed = user.plugins(&["list"]).succeeds().stdout;
    check(&listed, &format!("everything 0.1.0 ({})", text(&user.path("data/qeff/plugins/everything.so"))));
    let info = user.plugins(&["info", "everything", "--json"]).succeeds().json();
    assert_eq!((&info["pinned"], &info["manifest"]["panic"]), (&json!(true), &json!("unwind")));
    assert_eq!(user.plugins(&["verify"]).succeeds().stdout, "everything 0.1.0: as pinned\n");
    // By its architecture, by its name, and in this process; pinned, it is nothing to talk about.
    let bag = bag();
    let quiet = [
        user.qeff("inspect").model(bag.path()),
        user.describe(bag.path(), "everything"),
        user.describe(bag.path(), "everything").arg("--in-process"),
    ];
    for command in quiet {
        let outcome = command.succeeds();
        check(&outcome.stdout, "plugin        everything");
        assert_eq!(outcome.stderr, "");
    }
    check(&user.plugins(&["remove", "everything"]).succeeds().stderr, "removed everything 0.1.0 with sha256 ");
    check(&user.plugins(&["remove", "everything"]).refuses(), "no plugin called `everything` was added; known: none");
    check(&user.qeff("inspect").model(bag.path()).refuses(), "no plugin describes the architecture `BagModel`");
}

#[test]
fn a_changed_file_is_refused_with_both_hashes() {
    let user = User::new();
    let file = plugin_in(user.home.path(), "everything");
    let before = user.plugins(&["add", text(&file), "--json"]).succeeds().json()["sha256"].clone();
    let installed = user.path("data/qeff/plugins/everything.so");
    let bag = bag();
    // A byte that nothing loads: only the hash can tell.
    for changed in [&file, &installed] {
        let mut bytes = fs::read(changed).expect("a file");
        bytes.push(0);
        fs::write(changed, bytes).expect("a file");
        let after = qeff_host::artifacts::sha256(&fs::read(changed).expect("a file"));
        for flags in [vec![], vec!["--in-process"]] {
            let said = user.describe(bag.path(), text(changed)).args(flags).refuses();
            check(&said, "has changed since `everything` was pinned");
            check(&said, &format!("pinned sha256 {}", before.as_str().expect("text")));
            check(&said, &format!("found  sha256 {after}"));
        }
    }
    check(&user.describe(bag.path(), "everything").refuses(), "has changed since");
    // Found by its architecture, it is left out, and it is said why.
    check(
        &user.qeff("inspect").model(bag.path()).refuses(),
        "note: left out: plugin `DATA/qeff/plugins/everything.so` has changed",
    );
    let outcome = user.plugins(&["verify"]).run();
    assert_eq!(outcome.code, Some(1));
    check(&outcome.stdout, "everything 0.1.0: it has sha256 ");
    check(&outcome.stderr, "1 of 1 plugins are not what was pinned");
    // Who changed it himself says so.
    check(&user.plugins(&["add", text(&file)]).succeeds().stderr, "replaces everything 0.1.0 with sha256 ");
    user.describe(bag.path(), text(&file)).succeeds();
}

#[test]
fn in_process_needs_a_pin() {
    let user = User::new();
    let file = plugin_in(user.home.path(), "everything");
    let said = user.describe(bag().path(), text(&file)).arg("--in-process").refuses();
    check(&said, "--in-process runs a plugin with all your rights, so it must be pinned first: qeff-host plugins add ");
}

/// A panic is caught there, too.
#[test]
fn a_pinned_plugin_may_panic_in_process() {
    let user = User::new();
    let file = plugin_in(user.home.path(), "misbehaving");
    user.plugins(&["add", text(&file)]).succeeds();
    let outcome = user.describe(asks_for("panic").path(), text(&file)).arg("--in-process").run();
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    check(&outcome.stderr, "it panicked at tests/plugins/misbehaving/src/behaviour.rs:");
}

#[test]
fn what_others_could_change_is_not_loaded() {
    let user = User::new();
    let file = plugin_in(user.home.path(), "everything");
    let bag = bag();
    let link = user.path("link.so");
    symlink(&file, &link).expect("a link");
    check(&user.describe(bag.path(), text(&link)).refuses(), "it is a symbolic link; name the file that it leads to");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("permissions");
    check(&user.describe(bag.path(), text(&file)).refuses(), "is writable by everybody (mode 0666)");
    check(&user.plugins(&["add", text(&file)]).refuses(), "is writable by everybody (mode 0666)");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("permissions");
    fs::set_permissions(user.home.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
    check(&user.describe(bag.path(), text(&file)).refuses(), "is writable by everybody (mode 0777)");
    fs::set_permissions(user.home.path(), fs::Permissions::from_mode(0o700)).expect("permissions");
    user.describe(bag.path(), text(&file)).succeeds();
}

/// A key of somebody who signs: its secret half, and the file of the public one.
fn key() -> (minisign::SecretKey, String) {
    let pair = minisign::KeyPair::generate_unencrypted_keypair().expect("a key");
    (pair.sk, pair.pk.to_box().expect("a key").to_string())
}

fn sign(key: &minisign::SecretKey, file: &Path) {
    let bytes = fs::read(file).expect("a file");
    let signature = minisign::sign(None, key, &*bytes, Some("release 0.1.0"), None).expect("a signature");
    fs::write(format!("{}.minisig", file.display()), signature.to_string()).expect("a file");
}

#[test]
fn signatures_are_optional_until_they_are_asked_for() {
    let user = User::new();
    let file = plugin_in(user.home.path(), "everything");
    let add = |flags: &[&str]| user.plugins(&["add", text(&file)]).args(flags);
    let said = add(&["--signed"]).refuses();
    check(&said, "no key of yours signed");
    check(&said, "CONFIG/qeff/keys");
    check(&add(&[]).succeeds().stdout, "signed    by nobody whose key you have");

    // By somebody whom the user does not know yet.
    let (acme, public) = key();
    sign(&acme, &file);
    check(&add(&[]).succeeds().stdout, "signed    by nobody whose key you have");
    add(&["--signed"]).refuses();
    let keys = user.path("config/qeff/keys");
    fs::create_dir_all(&keys).expect("a folder");
    fs::write(keys.join("other.pub"), key().1).expect("a key");
    add(&["--signed"]).refuses();
    fs::write(keys.join("acme.pub"), public).expect("a key");
    check(&add(&["--signed"]).succeeds().stdout, "signed    by acme: release 0.1.0");
    assert_eq!(user.plugins(&["info", text(&file), "--json"]).succeeds().json()["signed_by"], "acme");

    // A known key under another file.
    let mut bytes = fs::read(&file).expect("a file");
    bytes.push(0);
    fs::write(&file, bytes).expect("a file");
    check(&add(&[]).refuses(), "everything.so.minisig: by the key `acme`, but not of this file");
    fs::write(user.path("everything.so.minisig"), "nonsense").expect("a file");
    check(&add(&[]).refuses(), "everything.so.minisig: no signature of minisign");
    fs::remove_file(user.path("everything.so.minisig")).expect("a file");
    fs::write(keys.join("acme.pub"), "nonsense").expect("a key");
    sign(&acme, &file);
    check(&add(&[]).refuses(), "acme.pub: no public key of minisign");
}
