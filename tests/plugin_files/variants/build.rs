//! Plugins and hosts as others build them.
//!
//! A variant is a workspace of its own below the target folder: the sources of qeff-plugin-api, perhaps changed in some places,
//! of the test plugin and of the small host. Variants of one compiler share a target folder, so third-party crates are built
//! once; and a file is written only if it changes, so that nothing is built twice on a machine that keeps its target folder.
//! Names of what is built hold the name of the variant: without that, they would take each other's place.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use qeff::root;

/// Folders that a variant has.
const PARTS: [&str; 3] = ["qeff-plugin-api", "tests/plugins/everything", "tests/plugins/loader"];

/// A change of a source: file, what stands there, what is to stand there.
pub(super) type Change = (&'static str, &'static str, &'static str);

/// A plugin and a host from the sources of this repository, but for some changes.
#[derive(Clone, Copy)]
pub(super) struct Variant<'a> {
    /// Letters and underscores.
    pub(super) name: &'a str,
    /// What is changed in the sources.
    pub(super) changes: &'a [Change],
    /// What is set in the profile; `dev` as it is if nothing.
    pub(super) profile: &'a str,
    /// The toolchain, as rustup calls it; the one that built this test if none is named.
    pub(super) toolchain: Option<&'a str>,
}

/// What came out.
pub(super) struct Built {
    /// The shared object of the plugin.
    pub(super) plugin: PathBuf,
    /// The small host.
    loader: PathBuf,
}

impl Built {
    /// What the small host says of the plugins of these files, a line for each.
    pub(super) fn load(&self, files: &[&Path]) -> Vec<String> {
        let output = Command::new(&self.loader).args(files).output().expect("the host starts");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && lines.len() == files.len(), "{:?}: {said}{text}", output.status);
        lines
    }
}

impl Variant<'_> {
    /// Builds both.
    pub(super) fn build(&self) -> Built {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-variants");
        let place = all.join(self.name);
        write(&place, self.sources());
        let target = all.join(self.toolchain.map_or("target".to_owned(), |name| format!("target-{name}")));
        let mut cargo = match self.toolchain {
            None => Command::new(env!("CARGO")),
            Some(name) => by(name, "cargo"),
        };
        cargo.args(["build", "--offline", "--workspace", "--target-dir"]).arg(&target);
        if !self.profile.is_empty() {
            cargo.args(["--profile", "variant"]);
        }
        let output = cargo.current_dir(&place).output().expect("cargo");
        assert!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        let built = target.join(if self.profile.is_empty() { "debug" } else { "variant" });
        let name = self.name;
        Built {
            plugin: built.join(format!("libqeff_plugin_everything_{name}.so")),
            loader: built.join(format!("qeff-plugin-loader-{name}")),
        }
    }

    /// Every file of the workspace.
    fn sources(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut sources = BTreeMap::new();
        PARTS.iter().for_each(|part| gather(Path::new(part), &mut sources));
        let plugin = format!("[lib]\nname = \"qeff_plugin_everything_{}\"\n", self.name);
        let loader = format!("[[bin]]\nname = \"qeff-plugin-loader-{}\"\npath = \"src/main.rs\"\n", self.name);
        let names = [
            ("tests/plugins/everything/Cargo.toml", "[lib]\n", plugin.as_str()),
            ("tests/plugins/loader/Cargo.toml", "[[bin]]\nname = \"qeff-plugin-loader\"\n", &loader),
        ];
        for &(file, before, after) in names.iter().chain(self.changes) {
            let source = sources.get_mut(Path::new(file)).unwrap_or_else(|| panic!("{}: no {file}", self.name));
            let text = String::from_utf8_lossy(source);
            assert_eq!(text.matches(before).count(), 1, "{}: {file} has no such place any more: {before}", self.name);
            *source = text.replace(before, after).into_bytes();
        }
        let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
        let shared = manifest.find("[workspace.package]").zip(manifest.find("\n[package]\n"));
        let (from, to) = shared.expect("the parts of the workspace's manifest");
        let profile = if self.profile.is_empty() { "" } else { "\n[profile.variant]\n" };
        // Cargo tells packages apart by their places within workspaces, so each has the variant's name in it: else one variant
        // would be handed what was built for another.
        let mut sources: BTreeMap<_, _> =
            sources.into_iter().map(|(file, bytes)| (Path::new(self.name).join(file), bytes)).collect();
        let members = PARTS.map(|part| format!("{}/{part}", self.name));
        let shared = manifest[from..to].replace("path = \"", &format!("path = \"{}/", self.name));
        let settings = self.profile;
        let dev = "[profile.dev]\ndebug = \"line-tables-only\"";
        let head = format!("[workspace]\nresolver = \"3\"\nmembers = {members:?}");
        sources.insert("Cargo.toml".into(), format!("{head}\n\n{shared}\n{dev}\n{profile}{settings}\n").into_bytes());
        sources.insert("Cargo.lock".into(), fs::read(root().join("Cargo.lock")).expect("a lock"));
        sources
    }
}

/// A tool of another toolchain, told nothing of this one.
pub(super) fn by(toolchain: &str, tool: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, tool]);
    // The coverage or lints of whoever runs this test are not the plugin's, nor is his compiler.
    for variable in ["RUSTFLAGS", "RUSTC", "RUSTC_WRAPPER", "RUSTDOC", "CARGO", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}

/// The files of a folder of this repository and of those in it.
fn gather(folder: &Path, sources: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(root().join(folder)).expect("a folder") {
        let path = folder.join(entry.expect("an entry").file_name());
        if root().join(&path).is_dir() {
            gather(&path, sources);
        } else {
            sources.insert(path.clone(), fs::read(root().join(&path)).expect("a file"));
        }
    }
}

/// Makes `place` hold these files; what is there already is not touched, so that cargo sees no change.
fn write(place: &Path, sources: BTreeMap<PathBuf, Vec<u8>>) {
    for (file, bytes) in sources {
        let path = place.join(file);
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            continue;
        }
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }
}
