//! SDKs with cards that execute (`qeff-standin`), in a folder of their own, and what was called of them.

use std::path::{Path, PathBuf};

use qeff_standin::config::{Card, Fault, SimConfig, What};
use qeff_standin::{Built, Root, sim_root};
use serde_json::Value as Json;
use tempfile::TempDir;

/// The library within an SDK.
pub const LIBRARY: &str = "dev/lib/x86_64/libQAic.so";

/// A laid-out SDK, and a home for artifacts.
#[derive(Debug)]
pub struct Cards {
    dir: TempDir,
    root: Root,
}

impl Cards {
    /// An SDK as the config says; `tool` is the stand-in's program.
    pub fn new(tool: &str, config: &SimConfig) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let built = Built::with_tool(Path::new(tool)).expect("the stand-in is built");
        let root = sim_root(&dir.path().join("sdk"), config, &built).expect("an SDK");
        Cards { dir, root }
    }

    /// The same with a library of its own: a process has a library once, by what is stored where, so tests that open several
    /// SDKs in a process need one for each.
    pub fn with_own_library(self) -> Self {
        let (library, copy) = (self.root().join(LIBRARY), self.root().join("copy"));
        std::fs::copy(&library, &copy).expect("a copy");
        std::fs::rename(&copy, &library).expect("a copy");
        self
    }

    /// Its root.
    pub fn root(&self) -> &Path {
        &self.root.dir
    }

    /// Where artifacts go.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// Another folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.path().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    /// Changes what cards and library do; what is installed stays.
    pub fn configure(&self, config: &SimConfig) {
        self.root.configure(config).expect("a config");
    }

    /// Everything that was called and run, oldest first; forgotten then.
    pub fn calls(&self) -> Vec<Json> {
        let calls = self.root.calls().expect("a log");
        let _ = std::fs::remove_file(self.root().join("calls.jsonl"));
        calls
    }

    /// Command lines of the tools that were started, oldest first; forgotten then.
    pub fn tool_calls(&self) -> Vec<String> {
        let line = |call: &Json| {
            let arguments = call["arguments"].as_array()?;
            let words = std::iter::once(&call["call"]).chain(arguments).map(|word| word.as_str().unwrap_or_default());
            Some(words.collect::<Vec<_>>().join(" "))
        };
        self.calls().iter().filter_map(line).collect()
    }

    /// The calls, which must have used the library rightly and released all that they made.
    pub fn clean_calls(&self) -> Vec<Json> {
        let calls = self.calls();
        check(&calls, true);
        calls
    }
}

/// Every QPC below a folder.
pub fn qpcs(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(qpcs(&path));
        } else if path.ends_with("qpc/programqpc.bin") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Calls of a function, or runs (`run`).
pub fn of<'c>(calls: &'c [Json], name: &str) -> Vec<&'c Json> {
    calls.iter().filter(|call| call["call"] == name || (name == "run" && !call["run"].is_null())).collect()
}

/// Refuses calls that use the library wrongly, and, if all is to be released, objects that were not.
pub fn check(calls: &[Json], released: bool) {
    for call in calls {
        assert!(call["misuse"].is_null(), "misuse of the library: {call}");
        assert!(call["ambiguous"].is_null(), "more than one specialization fits: {call}");
    }
    if !released {
        return;
    }
    let made = |name| of(calls, name).iter().filter(|call| call["status"] == 0).count();
    let pairs = [
        ("qaicCreateContext", "qaicReleaseContext"),
        ("qaicOpenQpcFile", "qaicCloseQpc"),
        ("qaicCreateProgram", "qaicReleaseProgram"),
        ("qaicLoadProgram", "qaicUnloadProgram"),
        ("qaicCreateQueue", "qaicReleaseQueue"),
        ("qaicCreateExecObj", "qaicReleaseExecObj"),
    ];
    for (make, release) in pairs {
        assert_eq!(made(make), made(release), "{make} and {release}");
    }
    let command = |n| {
        of(calls, "qaicRunActivationCmd").iter().filter(|c| c["status"] == 0 && c["arguments"]["command"] == n).count()
    };
    assert_eq!(command(0), command(1), "activations");
    assert_eq!(of(calls, "qaicEnqueueExecObj").iter().filter(|c| c["status"] == 0).count(), of(calls, "run").len());
}

/// So many cards, four to a board.
pub fn several(cards: u16) -> SimConfig {
    SimConfig { cards: Card::several(cards), ..SimConfig::default() }
}

/// A config in which the nth call of a function goes wrong.
pub fn fault(call: &str, nth: u64, what: What) -> SimConfig {
    let fault = Fault { call: call.to_owned(), nth, ever_after: false, what };
    SimConfig { faults: vec![fault], ..SimConfig::default() }
}
