//! `engines`, and the flags that choose one: what is found, what is refused, and that a refusal leaves nothing behind.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use qeff::command::{Command, entries};
use qeff::ort_library;
use qeff_host::engines::{LIBRARY_VARIABLE, Release};
use serde_json::Value as Json;
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::{llama, qeff, snapshot};

/// A folder to be spoiled.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Place { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    /// A wheel with these files.
    fn wheel(&self, files: &[(&str, &[u8])]) -> PathBuf {
        let path = self.dir.path().join("onnxruntime.whl");
        let mut zip = ZipWriter::new(std::fs::File::create(&path).expect("a file"));
        for (name, bytes) in files {
            zip.start_file(*name, SimpleFileOptions::default()).expect("an entry");
            zip.write_all(bytes).expect("bytes");
        }
        zip.finish().expect("a wheel");
        path
    }

    /// A program that pretends to be an interpreter.
    #[cfg(unix)]
    fn interpreter(&self, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.file("python", format!("#!/bin/sh\n{script}\n").as_bytes());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
        path
    }

    fn engines(&self, verb: &str) -> Command {
        qeff("engines").arg(verb).home(&self.home())
    }

    fn install(&self) -> Command {
        self.engines("install").arg("ort")
    }

    fn run(&self) -> Command {
        qeff("run").model(&llama()).words("--prompt-ids 1,2,3 --max-new-tokens 2").home(&self.home())
    }

    /// What is in the folder of engines; a test that refuses leaves it empty.
    fn installed(&self) -> Vec<PathBuf> {
        entries(&self.home().join("engines"))
    }
}

/// The release for this machine; there is one wherever these tests run in earnest.
fn release() -> &'static Release {
    Release::here().expect("a release of ONNX Runtime for this platform")
}

/// Messages without what differs between platforms and releases.
fn masked(text: &str) -> String {
    let text = text.replace(release().library_sha256, "EXPECTED").replace(&release().folder(), "onnxruntime-VERSION");
    let text = text.replace(release().library, "LIBRARY");
    let hash = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let found: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(hash).collect();
    found.into_iter().fold(text.clone(), |text, hash| text.replace(hash, "FOUND"))
}

#[test]
fn without_a_library_there_is_rten() {
    let place = Place::new();
    let said = place.engines("list").succeeds();
    assert!(said.stdout.starts_with("rten 0."), "{}", said.stdout);
    assert!(said.stdout.contains("ort is not there"), "{}", said.stdout);
    let json = place.engines("list").arg("--json").succeeds().json();
    assert_eq!(json["engines"][0]["usable"], true);
    assert_eq!(json["engines"][1]["usable"], false);

    let outcome = place.run().succeeds();
    assert!(outcome.stderr.starts_with("engine: rten 0."), "{}", outcome.stderr);
    assert_eq!(place.run().arg("--json").succeeds().json()["metrics"]["engine"], "rten");
    assert!(!place.home().exists(), "looking for a library makes no folder");
}

/// The version that is printed is that of the crate.
#[test]
fn the_version_of_rten_is_the_one_that_is_linked() {
    let lock = std::fs::read_to_string(qeff::root().join("Cargo.lock")).expect("Cargo.lock");
    let expected = format!("name = \"rten\"\nversion = \"{}\"", qeff_host::engines::RTEN_VERSION);
    assert!(lock.contains(&expected), "{expected}");
}

#[test]
fn libraries_that_do_not_do_are_refused_by_path_and_reason() {
    let place = Place::new();
    let text = place.file("text.so", b"this is not a library, whatever its name says, and longer than a header");
    let installed = format!("home/engines/{}/{}", release().folder(), release().library);
    let mut all = String::new();
    let mut add = |what: &str, said: String| all.push_str(&format!("## {what}\n{said}\n"));
    add("nothing there", place.run().words("--engine ort").refuses());
    add(
        "both rten and a library",
        place.run().words("--engine rten").path("--ort-library", &text, "LIBRARY").refuses(),
    );
    add("no such file", place.run().path("--ort-library", Path::new("/nowhere/lib.so"), "LIBRARY").refuses());
    add("a folder", place.run().path("--ort-library", place.dir.path(), "FOLDER").refuses());
    add("no library, by flag", place.run().path("--ort-library", &text, "LIBRARY").refuses());
    add(
        "no library, by variable",
        place.run().words("--engine auto").path_variable(LIBRARY_VARIABLE, &text, "LIBRARY").refuses(),
    );
    let wrong = place.file(&installed, b"\x7fELF, but not the bytes that were installed");
    add("installed, and changed since", place.run().words("--engine auto").refuses());
    let listed = place.engines("list").succeeds().stdout.replace(&place.home().display().to_string(), "HOME");
    add("the same in the list", listed);
    snapshot("engines-refused", &masked(&all));
    assert!(wrong.exists(), "what is refused is not removed");
}

#[test]
fn wheels_that_do_not_do_are_refused_and_leave_nothing() {
    let place = Place::new();
    let library = format!("onnxruntime/capi/{}", release().library);
    let mut all = String::new();
    let mut refused = |what: &str, wheel: &Path| {
        let said = place.install().path("--from", wheel, "WHEEL").refuses();
        all.push_str(&format!("## {what}\n{said}\n"));
        assert_eq!(place.installed(), Vec::<PathBuf>::new(), "{what}");
    };
    refused("no such file", Path::new("/nowhere/onnxruntime.whl"));
    refused("no wheel", &place.file("text.whl", b"not a wheel"));
    refused("another package", &place.wheel(&[("numpy/__init__.py", b"")]));
    refused("another library", &place.wheel(&[(&library, b"other bytes")]));
    snapshot("engines-wheels", &masked(&all));
}

#[cfg(unix)]
#[test]
fn a_download_that_fails_is_another_programs_failure() {
    let place = Place::new();
    let mut all = String::new();
    let mut failed = |what: &str, python: &Path| {
        let said = place.install().path("--python", python, "PYTHON").fails(3);
        all.push_str(&format!("## {what}\n{said}\n"));
        assert_eq!(place.installed(), Vec::<PathBuf>::new(), "{what}");
    };
    failed("no interpreter", Path::new("/nowhere/python3"));
    failed("no pip", &place.interpreter("echo 'python: No module named pip' >&2; exit 1"));
    failed("a pip that says it worked", &place.interpreter("exit 0"));
    snapshot("engines-download", &all);
}

/// pip is asked for one wheel, by hash; and what it brings is checked all the same.
#[cfg(unix)]
#[test]
fn pip_is_given_the_hash() {
    let place = Place::new();
    let wheel = place.wheel(&[(&format!("onnxruntime/capi/{}", release().library), b"other bytes")]);
    let log = place.dir.path().join("log");
    let script = format!(
        "while [ $# -gt 0 ]; do case $1 in --requirement) cat $2 >> {log};; --dest) mkdir -p $2; cp {wheel} $2;; \
         --require-hashes) echo hashes >> {log};; esac; shift; done",
        log = log.display(),
        wheel = wheel.display()
    );
    let said = place.install().path("--python", &place.interpreter(&script), "PYTHON").refuses();
    assert!(said.contains("is not installed"), "{said}");
    let asked = std::fs::read_to_string(log).expect("the script ran");
    assert_eq!(asked, format!("hashes\n{}", release().requirement()));
    assert_eq!(place.installed(), Vec::<PathBuf>::new());
}

/// Where a library is at hand: the command runs on it, says so, and answers as rten does.
#[test]
fn both_engines_answer_alike() {
    let Some(located) = ort_library() else { return };
    let answer = |engine: &str| -> Json {
        let command = Place::new().run().words("--json --logits --batch-size 2").words("--prompt-ids 5,6 --engine");
        let command = command.arg(engine);
        let command = if engine == "rten" { command } else { command.path("--ort-library", &located.path, "LIBRARY") };
        command.succeeds().json()
    };
    let (rten, ort) = (answer("rten"), answer("ort"));
    assert_eq!(ort["metrics"]["engine"], "ort");
    for (rten, ort) in rten["outputs"].as_array().into_iter().flatten().zip(ort["outputs"].as_array().expect("outputs"))
    {
        assert_eq!(rten["generated_ids"], ort["generated_ids"]);
    }
    let outcome =
        Place::new().run().words("--engine auto").path_variable(LIBRARY_VARIABLE, &located.path, "LIBRARY").succeeds();
    assert!(outcome.stderr.starts_with("engine: ONNX Runtime 1."), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("LIBRARY (ORT_DYLIB_PATH)"), "{}", outcome.stderr);
}
