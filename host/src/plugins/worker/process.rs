//! The worker's process, as the host sees it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process_group, pidfd_open, pidfd_send_signal, prlimit,
};

use super::channel::Channel;

/// The verb under which this program is a worker.
const VERB: &str = "plugin-worker";
/// How long an end may take once it has begun.
const GRACE: Duration = Duration::from_secs(2);

pub(super) struct Process {
    pid: Pid,
    /// Names the process for certain: numbers are given away again.
    handle: OwnedFd,
    status: Receiver<ExitStatus>,
}

impl Process {
    /// Starts `program` as a worker: a socket as its standard input, a pipe for what it prints, no environment.
    pub(super) fn spawn(program: &Path) -> io::Result<(Self, Channel)> {
        let (ours, theirs) = UnixStream::pair()?;
        let (output, printed) = io::pipe()?;
        let mut command = Command::new(program);
        command.arg0("qeff-host").arg(VERB).env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(printed.try_clone()?).stderr(printed);
        let (tell, told) = channel();
        let (tell_status, status) = channel();
        // The worker dies with the thread that started it, which therefore stays until the worker is gone.
        thread::Builder::new().name("plugin-worker".into()).spawn(move || {
            let started = command.spawn().and_then(|child| {
                let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                let pid = pid.ok_or_else(|| io::Error::other("a process without a number"))?;
                Ok((child, pid, pidfd_open(pid, PidfdFlags::empty())?))
            });
            // The command holds the worker's ends.
            drop(command);
            match started {
                Ok((mut child, pid, handle)) => {
                    let _ = tell.send(Ok((pid, handle)));
                    if let Ok(status) = child.wait() {
                        let _ = tell_status.send(status);
                    }
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        })?;
        let (pid, handle) = told.recv().map_err(io::Error::other)??;
        Ok((Process { pid, handle, status }, Channel::new(ours, output)?))
    }

    /// Sets how much processor time, in all, and how much address space it may use.
    pub(super) fn limit(&self, cpu_seconds: u64, memory: u64) {
        for (resource, limit) in [(Resource::Cpu, cpu_seconds), (Resource::As, memory)] {
            // The upper one is what this process has, which the worker inherited and kept.
            let maximum = getrlimit(resource).maximum;
            let current = Some(maximum.map_or(limit, |maximum| maximum.min(limit)));
            // A process that is gone has no limits; the next message will tell.
            let _ = prlimit(Some(self.pid), resource, Rlimit { current, maximum });
        }
    }

    /// How the process ended by itself, if it is about to (`going`); else `None`, and it is ended.
    pub(super) fn end(&self, going: bool) -> Option<ExitStatus> {
        let status = if going { self.status.recv_timeout(GRACE).ok() } else { None };
        if status.is_none() {
            self.kill();
            let _ = self.status.recv_timeout(GRACE);
        }
        status
    }

    fn kill(&self) {
        if pidfd_send_signal(&self.handle, Signal::KILL).is_ok() {
            // Without a sandbox it may have started others.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
