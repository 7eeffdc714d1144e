//! Child processes: a compiler that runs for an hour, and small tools that are asked something.
//!
//! What a compiler prints goes to a log as it is, and line by line to whoever watches. It runs in a process group of its
//! own, so that everything it started ends with it: on Ctrl-C, at a deadline. If we are killed ourselves, it holds the
//! artifact's lock on as its standard input, and the next one who wants the artifact knows (see `artifacts::lock`).
//!
//! Nothing here knows what the children do.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt as _;

use rustix::process::{Pid, Signal, kill_process_group};

/// Lines kept for an error message.
const TAIL: usize = 20;
/// Longest line that is shown in one piece.
const MAX_LINE: usize = 4096;
/// How often flags and deadlines are looked at.
const TICK: Duration = Duration::from_millis(20);
/// How long a child may take to end once it is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// A command to execute.
pub struct Execution<'a> {
    /// The program, then its arguments.
    pub argv: &'a [String],
    /// Everything it prints is appended to this file.
    pub log: &'a Path,
    /// What it reads.
    pub stdin: Option<File>,
    /// When it is ended.
    pub timeout: Option<Duration>,
    /// Told the number of the process group once it runs.
    pub started: &'a dyn Fn(u32),
    /// Told every line that it prints.
    pub line: &'a dyn Fn(&str),
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("cannot start {program}: {error}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// It ended with an error.
    #[error("{program} ended with {status}")]
    Failed {
        /// The program.
        program: String,
        /// Exit code or signal, in words.
        status: String,
        /// The last lines it printed.
        tail: Vec<String>,
    },
    /// It was ended because it took too long.
    #[error("{program} was ended after {} s", after.as_secs())]
    TimedOut {
        /// The program.
        program: String,
        /// The deadline.
        after: Duration,
        /// The last lines it printed.
        tail: Vec<String>,
    },
    /// It was ended because somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Its output could not be kept.
    #[error("cannot write {log}: {error}")]
    Log {
        /// The log.
        log: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl ChildError {
    /// The last lines that the child printed.
    pub fn tail(&self) -> &[String] {
        match self {
            ChildError::Failed { tail, .. } | ChildError::TimedOut { tail, .. } => tail,
            _ => &[],
        }
    }
}

/// Executes a command and waits for it.
///
/// # Errors
/// See [`ChildError`]. Whatever the error, nothing that the command started runs on.
pub fn execute(what: Execution<'_>) -> Result<(), ChildError> {
    let program = what.argv.first().cloned().unwrap_or_default();
    let cannot = |error| ChildError::Start { program: program.clone(), error };
    let cannot_log = |error| ChildError::Log { log: what.log.display().to_string(), error };
    let mut log = File::options().create(true).append(true).open(what.log).map_err(cannot_log)?;
    let interrupted = Interrupt::watch().map_err(cannot)?;

    let mut command = Command::new(&program);
    command.args(what.argv.iter().skip(1)).process_group(0);
    command.stdin(what.stdin.map_or_else(Stdio::null, Stdio::from));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Group(command.spawn().map_err(cannot)?);
    // The command holds our copy of what the child reads; it shall not outlive the child.
    drop(command);
    (what.started)(child.0.id());

    let output = read_output(&mut child.0);
    let deadline = what.timeout.map(|timeout| Instant::now() + timeout);
    let mut tail = VecDeque::new();
    let mut lines = [Lines::default(), Lines::default()];
    let status = loop {
        let mut take = |(from, piece): (usize, Vec<u8>)| -> Result<(), ChildError> {
            log.write_all(&piece).map_err(cannot_log)?;
            lines[from].push(&piece, &mut |line| {
                (what.line)(line);
                tail.push_back(line.to_owned());
                if tail.len() > TAIL {
                    tail.pop_front();
                }
            });
            Ok(())
        };
        match output.recv_timeout(TICK) {
            Ok(piece) => take(piece)?,
            // Both pipes are closed, usually because the child is gone.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(TICK),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(status) = child.0.try_wait().map_err(cannot)? {
            // What is still in the pipes; a grandchild may keep them open for ever.
            while let Ok(piece) = output.recv_timeout(Duration::from_millis(200)) {
                take(piece)?;
            }
            // A last line need not have an end.
            (0..2).try_for_each(|from| take((from, b"\n".to_vec())))?;
            // A child that is done has no use for what it left running, and that would hold the lock on.
            end_group(child.0.id(), Signal::KILL);
            break status;
        }
        if interrupted.is_set() {
            child.end();
            return Err(ChildError::Interrupted);
        }
        if let (Some(deadline), Some(after)) = (deadline, what.timeout)
            && Instant::now() > deadline
        {
            child.end();
            return Err(ChildError::TimedOut { program, after, tail: tail.into() });
        }
    };
    if status.success() {
        return Ok(());
    }
    // Ctrl-C may have reached the child by another way than ours.
    if interrupted.is_set() {
        return Err(ChildError::Interrupted);
    }
    Err(ChildError::Failed { program, status: in_words(status), tail: tail.into() })
}

/// What a small tool prints; `None` if it fails or takes longer than `timeout`.
pub(super) fn capture(mut command: Command, timeout: Duration) -> Option<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut child = Group(command.spawn().ok()?);
    let output = read_output(&mut child.0);
    let deadline = Instant::now() + timeout;
    let mut bytes = vec![];
    loop {
        match output.recv_timeout(TICK) {
            Ok((_, piece)) => bytes.extend_from_slice(&piece),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() > deadline {
            return None;
        }
    }
    let success = loop {
        match child.0.try_wait().ok()? {
            Some(status) => break status.success(),
            None if Instant::now() > deadline => return None,
            None => thread::sleep(TICK),
        }
    };
    success.then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// A child with everything it starts. Dropping it ends them all.
struct Group(Child);

impl Group {
    /// Asks the group to end, and makes it end if it does not.
    fn end(&mut self) {
        end_group(self.0.id(), Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < GRACE && matches!(self.0.try_wait(), Ok(None)) {
            thread::sleep(TICK);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            end_group(self.0.id(), Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

/// Sends a signal to a process group.
pub(crate) fn end_group(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // It may have ended by itself meanwhile.
        let _ = kill_process_group(pid, signal);
    }
}

/// Both outputs of a child as they come, by number: 0 is stdout.
fn read_output(child: &mut Child) -> Receiver<(usize, Vec<u8>)> {
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, 0, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, 1, sender);
    }
    receiver
}

fn forward(mut from: impl Read + Send + 'static, number: usize, to: Sender<(usize, Vec<u8>)>) {
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if to.send((number, buffer[..n].to_vec())).is_err() {
                return;
            }
        }
    });
}

/// Bytes cut into lines. A progress bar ends its lines with a carriage return.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, piece: &[u8], line: &mut dyn FnMut(&str)) {
        for &byte in piece {
            if matches!(byte, b'\n' | b'\r') || self.rest.len() >= MAX_LINE {
                let text = String::from_utf8_lossy(&self.rest);
                let text: String = text.chars().filter(|c| !c.is_control() || *c == '\t').collect();
                if !text.trim().is_empty() {
                    line(text.trim_end());
                }
                self.rest.clear();
            }
            if !matches!(byte, b'\n' | b'\r') {
                self.rest.push(byte);
            }
        }
    }
}

fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

/// Ctrl-C, and a polite request to end, while a child runs.
struct Interrupt {
    flag: Arc<AtomicBool>,
    ids: Vec<signal_hook::SigId>,
}

impl Interrupt {
    fn watch() -> io::Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let flag = Arc::<AtomicBool>::default();
        let ids = [SIGINT, SIGTERM].map(|signal| signal_hook::flag::register(signal, Arc::clone(&flag)));
        Ok(Interrupt { flag, ids: ids.into_iter().collect::<io::Result<_>>()? })
    }

    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

#[cfg(test)]
#[path = "child_tests.rs"]
mod tests;
