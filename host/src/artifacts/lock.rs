//! One maker at a time.
//!
//! The lock is the kernel's, on an open file, so it ends with whoever holds it, however they end. A compiler gets the lock
//! as its standard input: if we are killed and it lives on, the artifact stays locked, since the orphan still writes into
//! the folder. Whoever wants the artifact next reads in the lock who that is, and ends it.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::compile::end_group;

/// How often a lock that is taken is looked at.
const TICK: Duration = Duration::from_millis(50);

/// A process, told apart from a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    pid: u32,
    /// Ticks since the machine started.
    since: u64,
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything; fields are counted after it. A zombie runs no more.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let state = fields.next()?;
        let since = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Process { pid, since })
    }

    fn runs(&self) -> bool {
        Process::of(self.pid).as_ref() == Some(self)
    }
}

/// What stands in a lock.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Holder {
    /// Start of the machine: process numbers mean nothing on another one.
    boot: String,
    maker: Option<Process>,
    child: Option<Process>,
}

/// Why somebody has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Another process makes the same artifact.
    Maker {
        /// Its number, if it said so.
        pid: Option<u32>,
    },
    /// A compiler whose qeff was killed was found, and is being ended.
    Orphan {
        /// Its number.
        pid: u32,
    },
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits for the lock at `path`; `waiting` is told once for each thing that is waited for.
    ///
    /// # Errors
    /// If the file cannot be opened or locked.
    pub fn acquire(path: &Path, waiting: &mut dyn FnMut(Waiting)) -> Result<Self> {
        let mut said = None;
        loop {
            match Lock::attempt(path)? {
                Some(lock) => return Ok(lock),
                None => {
                    let why = look(path);
                    if said != Some(why) {
                        waiting(why);
                        said = Some(why);
                    }
                    thread::sleep(TICK);
                }
            }
        }
    }

    /// The lock if nobody has it.
    ///
    /// # Errors
    /// If the file cannot be opened or locked.
    pub fn attempt(path: &Path) -> Result<Option<Self>> {
        loop {
            let file = File::options().create(true).read(true).write(true).truncate(false).open(path);
            let file = file.with_context(|| format!("cannot open {}", path.display()))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            // Somebody may have removed the file between our opening and locking it.
            let same = std::fs::metadata(path).ok().zip(file.metadata().ok());
            if same.is_some_and(|(there, ours)| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                let lock = Lock { file, path: path.to_owned() };
                lock.note(None)?;
                return Ok(Some(lock));
            }
        }
    }

    /// Says in the lock which child works for us.
    ///
    /// # Errors
    /// If the lock cannot be written.
    pub fn note(&self, child: Option<u32>) -> Result<()> {
        let holder = Holder {
            boot: boot().unwrap_or_default(),
            maker: Process::of(std::process::id()),
            child: child.and_then(Process::of),
        };
        let text = serde_json::to_string(&holder)?;
        let mut file = &self.file;
        file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).and_then(|_| file.write_all(text.as_bytes()))?;
        Ok(())
    }

    /// The open file, for a child to hold.
    ///
    /// # Errors
    /// If the process has no file handle left.
    pub fn file(&self) -> Result<File> {
        Ok(self.file.try_clone()?)
    }

    /// Takes the lock's file away while holding it.
    pub(super) fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Who holds a lock that we did not get; an orphan is ended.
fn look(path: &Path) -> Waiting {
    let mut text = String::new();
    let read = File::open(path).map(|file| file.take(4096).read_to_string(&mut text));
    let holder: Holder = read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default();
    let maker = Waiting::Maker { pid: holder.maker.as_ref().map(|maker| maker.pid) };
    if boot().as_ref() != Some(&holder.boot) || holder.maker.is_none_or(|maker| maker.runs()) {
        return maker;
    }
    match holder.child.filter(Process::runs) {
        Some(child) => {
            end_group(child.pid, Signal::KILL);
            Waiting::Orphan { pid: child.pid }
        }
        None => maker,
    }
}

fn boot() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}
