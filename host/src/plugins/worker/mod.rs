//! Plugins in a process of their own, which can do nothing but compute.
//!
//! A [`Worker`] starts this program once more (`qeff-host plugin-worker`), hands it the checked image of one plugin, and
//! passes calls on. The process limits itself, gives up its rights and only then loads the image ([`serve`], `sandbox`);
//! if it cannot give them up, it loads nothing. Whatever the plugin does there, the host gets an answer, or the event that
//! ended it: a signal, a deadline, a forbidden system call, an answer that is none.
//!
//! ```text
//! host                                        worker
//!   spawn, environment cleared ─────────────▶ limits, descriptors closed
//!   Start, with image and arena ────────────▶ landlock, seccomp
//!                         ◀──────────────────  Confined
//!                                              dlopen
//!                         ◀──────────────────  Reply: the manifest
//!   Request ────────────────────────────────▶ call
//!                         ◀──────────────────  Reply
//! ```
//!
//! Messages go over a socket that the plugin's `println!` does not reach; what it prints is kept and told. Weights go
//! through two files in memory (`arena`), so that no byte of them is framed. Once the plugin runs, everything on the socket
//! may be its doing: replies are capped, parsed as a stranger's, and checked by whoever asked.

mod arena;
mod channel;
mod event;
mod message;
mod process;
mod raw;
mod sandbox;
mod serve;

use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use qeff_plugin_api::abi::{Call, Calls, MAX_ANSWER, Manifest};
use qeff_plugin_api::plugin::PluginError;

pub use serve::serve;

use self::arena::Arena;
use self::channel::{Channel, Failure};
use self::message::{Confined, Reply, Request, Start};
use self::process::Process;
use super::file::PluginFile;

/// How much a worker may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest time of one call. Decoding gets a second more for every [`DECODED_A_SECOND`] bytes.
    pub wall: Duration,
    /// Processor time of one call; likewise.
    pub cpu: Duration,
    /// Address space in bytes, without the tensor that is being decoded.
    pub memory: u64,
}

/// The slowest that decoding may be, in bytes of stored or decoded weights a second.
pub const DECODED_A_SECOND: u64 = 8 << 20;

impl Default for Limits {
    fn default() -> Self {
        // A description takes milliseconds and megabytes.
        Limits { wall: Duration::from_secs(30), cpu: Duration::from_secs(10), memory: 2 << 30 }
    }
}

/// How a worker is started.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The program that is started as `PROGRAM plugin-worker`.
    pub program: PathBuf,
    /// Go on where the system cannot confine it.
    pub allow_unsandboxed: bool,
    /// How much it may use.
    pub limits: Limits,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        // This very program, even if its file has been replaced since.
        WorkerOptions { program: "/proc/self/exe".into(), allow_unsandboxed: false, limits: Limits::default() }
    }
}

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process cannot be started.
    #[error("cannot start a worker process: {0}")]
    Spawn(io::Error),
    /// The system cannot confine it.
    #[error("this system cannot confine a plugin: {0}; --allow-unsandboxed runs it with all your rights")]
    Unconfined(String),
    /// The image was refused.
    #[error("{0}")]
    Load(String),
    /// It ended while it was loaded.
    #[error(transparent)]
    Ended(PluginError),
}

/// A process that holds one plugin.
pub struct Worker {
    state: Mutex<State>,
    /// Why it is not confined, if it is not.
    unconfined: Option<String>,
}

struct State {
    channel: Channel,
    process: Process,
    arena: Arena,
    limits: Limits,
    started: Instant,
    /// What ended it.
    ended: Option<String>,
}

impl Worker {
    /// Starts a worker with a plugin, and returns it with what the plugin says of itself.
    ///
    /// # Errors
    /// See [`StartError`]. No process is left.
    pub fn start(file: &PluginFile, options: &WorkerOptions) -> Result<(Worker, Manifest), StartError> {
        let image = file.image().map_err(|error| StartError::Load(error.fault.to_string()))?;
        let arena = Arena::new().map_err(StartError::Spawn)?;
        let (process, channel) = Process::spawn(&options.program).map_err(StartError::Spawn)?;
        let limits = options.limits;
        let mut state = State { channel, process, arena, limits, started: Instant::now(), ended: None };
        let start = Start {
            symbol: file.symbol().to_owned(),
            memory: limits.memory,
            cpu_seconds: whole_seconds(limits.cpu),
            allow_unsandboxed: options.allow_unsandboxed,
        };
        let descriptors = [image.as_fd(), state.arena.input.as_fd(), state.arena.output.as_fd()];
        let deadline = Instant::now() + limits.wall;
        let sent = state.channel.send(&start.encode_to_vec(), &descriptors, deadline);
        let confined = sent.and_then(|()| state.channel.receive(1 << 16, deadline));
        let confined = confined.and_then(|bytes| Confined::decode(bytes.as_slice()).map_err(Failure::from));
        let confined = confined.map_err(|failure| StartError::Ended(state.end(failure, limits)))?;
        let unconfined = Some(confined.why).filter(|why| !why.is_empty());
        if let Some(why) = &unconfined
            && !options.allow_unsandboxed
        {
            return Err(StartError::Unconfined(why.clone()));
        }
        let text = match state.reply(limits, deadline) {
            Ok(text) => text,
            Err(error @ PluginError::Died(_)) => return Err(StartError::Ended(error)),
            Err(error) => return Err(StartError::Load(error.to_string())),
        };
        let manifest = String::from_utf8(text).map_err(|error| error.to_string());
        let manifest = manifest.and_then(|text| Manifest::parse(&text));
        let manifest = manifest.map_err(|error| StartError::Load(format!("its manifest is malformed: {error}")))?;
        Ok((Worker { state: Mutex::new(state), unconfined }, manifest))
    }

    /// Why it is not confined, if it is not.
    pub fn unconfined(&self) -> Option<&str> {
        self.unconfined.as_deref()
    }

    /// What the plugin has printed so far, once; empty if nothing.
    pub fn take_printed(&self) -> String {
        self.state().channel.take_printed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked while asking left a worker that is out of step; `ended` or the next reply will tell.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("unconfined", &self.unconfined).finish_non_exhaustive()
    }
}

impl Calls for Worker {
    fn call(&self, number: u32, call: Call<'_>) -> Result<Vec<u8>, PluginError> {
        self.state().call(number, call)
    }
}

/// What a host makes of a worker's reply; for whoever tries what it makes of any bytes.
///
/// # Errors
/// If the reply is an error, or none.
pub fn read_reply(bytes: &[u8]) -> Result<Vec<u8>, PluginError> {
    let reply = Reply::decode(bytes).map_err(Failure::from).and_then(Reply::into_answer);
    reply.unwrap_or_else(|failure| Err(PluginError::Died(event::tell(&failure, None, Limits::default(), ""))))
}

impl State {
    fn call(&mut self, number: u32, call: Call<'_>) -> Result<Vec<u8>, PluginError> {
        if let Some(event) = &self.ended {
            return Err(PluginError::Retired(format!("it {event}")));
        }
        let Call::Decode { encoding, bytes, out } = call else {
            return self.ask(&Request::new(number, &call), self.limits);
        };
        let room = bytes.len().saturating_add(out.len()) as u64;
        let more = Duration::from_secs(room / DECODED_A_SECOND);
        let limits = Limits {
            wall: self.limits.wall.saturating_add(more),
            cpu: self.limits.cpu.saturating_add(more),
            memory: self.limits.memory.saturating_add(room),
        };
        let put = self.arena.put(bytes, out.len());
        put.map_err(|error| PluginError::Other(format!("no memory to pass {room} bytes to its process: {error}")))?;
        self.ask(&Request::in_arena(number, encoding, bytes.len(), out.len()), limits)?;
        match self.arena.take(out) {
            Ok(()) => Ok(vec![]),
            Err(error) => Err(self.end(Failure::Garbage(format!("weights that cannot be read: {error}")), limits)),
        }
    }

    fn ask(&mut self, request: &Request, limits: Limits) -> Result<Vec<u8>, PluginError> {
        // Time since the start is an upper bound of what it has used.
        let used = whole_seconds(self.started.elapsed());
        self.process.limit(used + whole_seconds(limits.cpu), limits.memory);
        let deadline = Instant::now() + limits.wall;
        if let Err(failure) = self.channel.send(&request.encode_to_vec(), &[], deadline) {
            return Err(self.end(failure, limits));
        }
        self.reply(limits, deadline)
    }

    fn reply(&mut self, limits: Limits, deadline: Instant) -> Result<Vec<u8>, PluginError> {
        let answer = self.channel.receive(MAX_ANSWER, deadline);
        let answer = answer.and_then(|bytes| Reply::decode(bytes.as_slice()).map_err(Failure::from));
        match answer.and_then(Reply::into_answer) {
            Ok(answer) => answer,
            Err(failure) => Err(self.end(failure, limits)),
        }
    }

    /// Ends the process, if it has not ended itself, and says what happened.
    fn end(&mut self, failure: Failure, limits: Limits) -> PluginError {
        let status = self.process.end(matches!(failure, Failure::Closed));
        self.channel.drain();
        let event = event::tell(&failure, status, limits, &self.channel.take_printed());
        self.ended = Some(event.clone());
        PluginError::Died(event)
    }
}

/// Rounded up, at least one.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + 1
}
