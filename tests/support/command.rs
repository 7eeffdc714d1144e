//! Whole commands: what a person or a tool types, and what comes back.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;
use tempfile::TempDir;

/// Longest time a command may take; the models are tiny.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command in the making, with a folder of its own for temporary files.
pub struct Command {
    inner: assert_cmd::Command,
    temporary: TempDir,
    /// Where the command keeps artifacts and looks for engines, unless a test says where.
    _home: TempDir,
    filters: Vec<(String, &'static str)>,
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` if a signal ended the process.
    pub code: Option<i32>,
    /// What it handed over.
    pub stdout: String,
    /// What it said, paths replaced by names.
    pub stderr: String,
}

impl Command {
    /// The program at `program` with a verb.
    pub fn new(program: &str, verb: &str) -> Self {
        let mut inner = assert_cmd::Command::new(program);
        let temporary = tempfile::tempdir().expect("a temporary folder");
        inner.arg(verb).env("TMPDIR", temporary.path()).env("COLUMNS", "100").timeout(PATIENCE);
        let home = tempfile::tempdir().expect("a temporary folder");
        inner.env("QEFF_HOME", home.path().join("home"));
        inner.env("XDG_DATA_HOME", home.path().join("data")).env("XDG_CONFIG_HOME", home.path().join("config"));
        for variable in ["RUST_BACKTRACE", "QAIC_SDK_ROOT", "QNN_SDK_ROOT", "ORT_DYLIB_PATH", "QEFF_PLUGIN_PATH"] {
            inner.env_remove(variable);
        }
        Command { inner, temporary, _home: home, filters: vec![] }
    }

    /// Keeps artifacts below `home`; messages show it as `HOME`.
    pub fn home(mut self, home: &Path) -> Self {
        self.filters.push((home.display().to_string(), "HOME"));
        self.inner.env("QEFF_HOME", home);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(args);
        self
    }

    /// Adds arguments separated by spaces.
    pub fn words(self, words: &str) -> Self {
        self.args(words.split_whitespace())
    }

    /// Adds a flag with a path, which messages will show as `name`.
    pub fn path(mut self, flag: &str, path: &Path, name: &'static str) -> Self {
        self.filters.push((path.display().to_string(), name));
        self.arg(flag).arg(path)
    }

    /// Sets an environment variable to a path, which messages will show as `name`.
    pub fn path_variable(mut self, variable: &str, path: &Path, name: &'static str) -> Self {
        self.filters.push((path.display().to_string(), name));
        self.inner.env(variable, path);
        self
    }

    /// Adds `--model`; messages show it as `CHECKPOINT`.
    pub fn model(self, dir: &Path) -> Self {
        self.path("--model", dir, "CHECKPOINT")
    }

    /// Runs the command, which must end by itself and leave no temporary file, however it ends.
    pub fn run(mut self) -> Outcome {
        let output = self.inner.output().expect("the binary starts");
        let left = entries(self.temporary.path());
        assert!(left.is_empty(), "temporary files are left: {left:?}");
        let mut stderr = String::from_utf8(output.stderr).expect("messages are UTF-8");
        for (path, name) in &self.filters {
            stderr = stderr.replace(path.as_str(), name);
        }
        let outcome = Outcome {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("data is UTF-8"),
            stderr,
        };
        for stream in [&outcome.stdout, &outcome.stderr] {
            assert!(!stream.contains('\u{1b}'), "control sequences although nobody has a terminal: {outcome:?}");
        }
        outcome
    }

    /// Runs the command, which must succeed.
    pub fn succeeds(self) -> Outcome {
        let outcome = self.run();
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome
    }

    /// Runs the command, which must refuse the user's input: exit code 1, no data, one error. Returns what it said.
    pub fn refuses(self) -> String {
        self.fails(1)
    }

    /// Runs the command, which must fail with an exit code: no data, one error. Returns what it said.
    pub fn fails(self, code: i32) -> String {
        let outcome = self.run();
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert_eq!(outcome.stdout, "", "a refusal hands over nothing");
        let errors = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "one clear error was expected:\n{}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
        outcome.stderr
    }
}

impl Outcome {
    /// The last line of stdout as JSON.
    pub fn json(&self) -> Json {
        let last = self.stdout.lines().last().expect("a line of stdout");
        serde_json::from_str(last).expect("the last line of stdout is JSON")
    }

    /// Warnings, without the word.
    pub fn warnings(&self) -> Vec<&str> {
        self.stderr.lines().filter_map(|line| line.strip_prefix("warning: ")).collect()
    }
}

/// Names in a folder, hidden ones included, sorted; none if there is no such folder.
pub fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("an entry").file_name().into()).collect();
    entries.sort();
    entries
}
