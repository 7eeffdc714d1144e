//! The runtime library behind its C functions: objects, the rules of their use, cards, and what happens on them.
//!
//! | module | knows |
//! |---|---|
//! | [`status`] | status numbers, and how a call fails |
//! | [`objects`] | handles: what is alive, what was released |
//! | [`cards`] | cores, taken and given back |
//! | [`program`] | from a QPC to a program that is active on cards, with its states |
//! | [`flight`] | buffers, and one run from enqueue to completion |
//! | [`queue`] | threads that runs are done on |
//!
//! A wrong use is a status and a line in the log with a key `misuse`, never undefined behaviour: handles are numbers that are
//! looked up. The memory of callers is behind [`Memory`], so that nothing here is `unsafe`.

pub mod cards;
pub mod flight;
pub mod objects;
pub mod program;
pub mod queue;
pub mod status;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};

use self::cards::Cards;
use self::flight::Exec;
use self::objects::{Kind, Objects};
use self::program::{Program, Qpc};
use self::queue::Queue;
use self::status::{Fail, Status};
use crate::config::{SimConfig, What};
use crate::log::Log;

/// Memory of a caller, lent for as long as a run may touch it.
pub trait Memory: Send + Sync {
    /// A copy of what it holds now.
    fn read(&self) -> Vec<u8>;
    /// Overwrites all of it.
    fn write(&self, bytes: &[u8]);
}

/// Told what is logged: a level, and a text.
pub type Listener = Box<dyn Fn(u32, &str) + Send + Sync>;

/// Levels of what listeners are told.
pub mod level {
    /// How it went.
    pub const INFO: u32 = 1;
    /// What went wrong.
    pub const ERROR: u32 = 3;
}

/// The library of one process.
pub struct Runtime {
    /// What the SDK is like.
    pub config: SimConfig,
    log: Log,
    /// What is alive.
    pub objects: Objects,
    /// The cards.
    pub cards: Arc<Cards>,
    counts: Mutex<HashMap<String, u64>>,
}

/// A context: some cards, and somebody who wants to know.
pub struct Context {
    /// Numbers of its cards.
    pub devices: Vec<i32>,
    /// Lowest level that is told.
    pub level: AtomicU32,
    listener: Option<Listener>,
    /// Queues, programs, execution objects and events made with it.
    pub children: AtomicUsize,
    /// Its handle.
    pub id: u64,
}

impl Context {
    /// Tells whoever listens.
    pub fn say(&self, level: u32, text: &str) {
        if let Some(listener) = self.listener.as_ref().filter(|_| level >= self.level.load(Ordering::Relaxed)) {
            listener(level, text);
        }
    }
}

/// Something that happens once, for whoever waits.
#[derive(Default)]
pub struct Event {
    happened: Mutex<bool>,
    bell: Condvar,
}

impl Event {
    /// It happens.
    pub fn ring(&self) {
        *lock(&self.happened) = true;
        self.bell.notify_all();
    }

    /// It has not happened yet.
    pub fn clear(&self) {
        *lock(&self.happened) = false;
    }

    /// Waits until it happens.
    pub fn wait(&self) {
        let waited = self.bell.wait_while(lock(&self.happened), |happened| !*happened);
        drop(waited);
    }
}

/// A lock that a panicking thread left is still a lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runtime {
    /// The library of the SDK at `root`.
    ///
    /// # Errors
    /// If its config is malformed.
    pub fn new(root: Option<PathBuf>) -> anyhow::Result<Self> {
        let config = SimConfig::find(root.as_deref())?;
        let log = Log::open(config.log_path(root.as_deref()));
        let cards = Arc::new(Cards::new(&config.cards));
        Ok(Runtime { config, log, objects: Objects::default(), cards, counts: Mutex::default() })
    }

    /// Does a call of the library: injected faults, what it does, its line in the log.
    pub fn call(
        &self,
        name: &str,
        arguments: impl FnOnce() -> Json,
        body: impl FnOnce() -> Result<Json, Fail>,
    ) -> Status {
        let outcome = match self.fault(name) {
            Some(What::Status(status, said)) => Err(Fail::new(Status(*status), said.clone())),
            Some(What::DeviceError) => Err(Fail::new(Status::DEV_ERROR, "the device is lost")),
            Some(What::Delay(ms)) => {
                std::thread::sleep(std::time::Duration::from_millis(*ms));
                body()
            }
            Some(What::Hang) | None => body(),
        };
        let status = outcome.as_ref().map_or_else(|fail| fail.status, |_| Status::SUCCESS);
        if let Err(fail) = &outcome {
            self.tell_all(&fail.said);
        }
        if self.log.is_kept() {
            let mut line = json!({ "call": name, "arguments": arguments(), "status": status.0, "thread": thread() });
            match outcome {
                Ok(Json::Null) => {}
                Ok(result) => line["result"] = result,
                Err(fail) => {
                    line["said"] = fail.said.into();
                    if let Some(misuse) = fail.misuse {
                        line["misuse"] = misuse.into();
                    }
                }
            }
            self.log.line(&line);
        }
        status
    }

    /// Whether a log is kept.
    pub fn logs(&self) -> bool {
        self.log.is_kept()
    }

    /// A line that is no call: what a card did.
    pub fn note(&self, line: &Json) {
        self.log.line(line);
    }

    /// The fault that this call of `name` runs into.
    pub fn fault(&self, name: &str) -> Option<&What> {
        if self.config.faults.is_empty() {
            return None;
        }
        let mut counts = lock(&self.counts);
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        let fault = self
            .config
            .faults
            .iter()
            .find(|fault| fault.call == name && (*count == fault.nth || fault.ever_after && *count > fault.nth));
        fault.map(|fault| &fault.what)
    }

    fn tell_all(&self, said: &str) {
        for context in self.objects.contexts() {
            context.say(level::ERROR, said);
        }
    }

    /// Makes a context; without devices one of all cards.
    ///
    /// # Errors
    /// 500 without a card, 5 for one that is not there or not ready.
    pub fn create_context(&self, devices: Option<Vec<i32>>, listener: Option<Listener>) -> Result<u64, Fail> {
        let refuse = |status, said: String| {
            // Nobody listens to a context that does not come to be but its own listener.
            if let Some(listener) = &listener {
                listener(level::ERROR, &said);
            }
            Fail::new(status, said)
        };
        let all = self.cards.ids();
        if all.is_empty() {
            return Err(refuse(Status::ERROR, "Failed to initialize driver".into()));
        }
        let devices = devices.unwrap_or(all);
        for &device in &devices {
            if !self.cards.is_ready(device) {
                return Err(refuse(Status::NODEV, format!("Device {device} is not available")));
            }
        }
        let id = self.objects.reserve(Kind::Context);
        let level = AtomicU32::new(level::INFO);
        let context = Context { devices, level, listener, children: AtomicUsize::new(0), id };
        self.objects.put(id, objects::Object::Context(Arc::new(context)));
        Ok(id)
    }

    /// Releases a context.
    ///
    /// # Errors
    /// 6 if it is none, or something made with it is alive.
    pub fn release_context(&self, id: u64) -> Result<(), Fail> {
        let context = self.objects.context(id)?;
        childless(&context.children, "the context", "a queue, program, execution object or event")?;
        self.objects.release(id)
    }

    /// Opens a QPC; `memory` is what the caller promised to keep, if it is not to be copied.
    ///
    /// # Errors
    /// 6 if it is none.
    pub fn open_qpc(&self, file: &[u8], memory: Option<Arc<dyn Memory>>) -> Result<u64, Fail> {
        let qpc = Qpc::open(file, memory).map_err(|error| Fail::new(Status::INVAL, format!("{error:#}")))?;
        Ok(self.objects.add(Kind::Qpc, |_| objects::Object::Qpc(Arc::new(qpc))))
    }

    /// Closes a QPC.
    ///
    /// # Errors
    /// 6 if it is none, or a program made of it is alive.
    pub fn close_qpc(&self, id: u64) -> Result<(), Fail> {
        let qpc = self.objects.qpc(id)?;
        childless(&qpc.programs, "the QPC", "a program")?;
        self.objects.release(id)
    }

    /// Makes a program.
    ///
    /// # Errors
    /// 6 for a wish that does not fit the QPC, 5 for a card that is not the context's, 500 for one without enough free cores.
    pub fn create_program(&self, context: u64, qpc: u64, wish: program::Wish) -> Result<(u64, Arc<Program>), Fail> {
        let (context, qpc) = (self.objects.context(context)?, self.objects.qpc(qpc)?);
        let program = Arc::new(Program::create(self, context, qpc, wish)?);
        let id = self.objects.add(Kind::Program, |_| objects::Object::Program(Arc::clone(&program)));
        Ok((id, program))
    }

    /// Releases a program.
    ///
    /// # Errors
    /// 6 if it is none, has execution objects, or was activated and not deactivated.
    pub fn release_program(&self, id: u64) -> Result<(), Fail> {
        let program = self.objects.program(id)?;
        childless(&program.children, "the program", "an execution object")?;
        program.end(self)?;
        program.context.children.fetch_sub(1, Ordering::Relaxed);
        program.qpc.programs.fetch_sub(1, Ordering::Relaxed);
        self.objects.release(id)
    }

    /// Makes a queue of so many threads.
    ///
    /// # Errors
    /// 5 if the card is none of the context's.
    pub fn create_queue(&self, context: u64, device: i32, threads: u32) -> Result<u64, Fail> {
        let context = self.objects.context(context)?;
        if !context.devices.contains(&device) {
            return Err(Fail::new(Status::NODEV, format!("device {device} is not one of the context's")));
        }
        context.children.fetch_add(1, Ordering::Relaxed);
        let queue = Queue::new(context, threads);
        Ok(self.objects.add(Kind::Queue, |_| objects::Object::Queue(Arc::new(queue))))
    }

    /// Releases a queue, once what was enqueued is done.
    ///
    /// # Errors
    /// 6 if it is none.
    pub fn release_queue(&self, id: u64) -> Result<(), Fail> {
        let queue = self.objects.queue(id)?;
        self.objects.release(id)?;
        queue.end();
        queue.context.children.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes an execution object; loads and activates the program if nobody did.
    ///
    /// # Errors
    /// Those of loading and activating; 6 for a description that is not the program's.
    pub fn create_exec(&self, context: u64, program: u64, io_desc: Option<&[u8]>) -> Result<u64, Fail> {
        let (context, program) = (self.objects.context(context)?, self.objects.program(program)?);
        if context.id != program.context.id {
            return Err(Fail::misuse(Status::INVAL, "the program is of another context"));
        }
        if io_desc.is_some_and(|given| given != program.io_desc) {
            return Err(Fail::new(Status::INVAL, "the IoDesc is not the program's"));
        }
        program.activate(self, program::By::ExecObj)?;
        context.children.fetch_add(1, Ordering::Relaxed);
        program.children.fetch_add(1, Ordering::Relaxed);
        Ok(self.objects.add(Kind::Exec, |id| objects::Object::Exec(Arc::new(Exec::new(id, program)))))
    }

    /// Releases an execution object.
    ///
    /// # Errors
    /// 6 if it is none, 4 if it is being run and nobody has waited in vain.
    pub fn release_exec(&self, id: u64) -> Result<(), Fail> {
        let exec = self.objects.exec(id)?;
        exec.end()?;
        exec.program.children.fetch_sub(1, Ordering::Relaxed);
        exec.program.context.children.fetch_sub(1, Ordering::Relaxed);
        self.objects.release(id)
    }

    /// Makes an event.
    ///
    /// # Errors
    /// 6 without a context.
    pub fn create_event(&self, context: u64) -> Result<u64, Fail> {
        let context = self.objects.context(context)?;
        context.children.fetch_add(1, Ordering::Relaxed);
        Ok(self.objects.add(Kind::Event, |_| objects::Object::Event(context, Arc::default())))
    }

    /// Releases an event.
    ///
    /// # Errors
    /// 6 if it is none.
    pub fn release_event(&self, id: u64) -> Result<(), Fail> {
        let (context, _) = self.objects.event(id)?;
        context.children.fetch_sub(1, Ordering::Relaxed);
        self.objects.release(id)
    }
}

fn childless(children: &AtomicUsize, what: &str, of: &str) -> Result<(), Fail> {
    match children.load(Ordering::Relaxed) {
        0 => Ok(()),
        _ => Err(Fail::misuse(Status::INVAL, format!("{what} is released before {of}"))),
    }
}

/// Name of the thread, or its number.
pub(crate) fn thread() -> String {
    let thread = std::thread::current();
    thread.name().map_or_else(|| format!("{:?}", thread.id()), str::to_owned)
}

/// A flag that is set once.
pub(crate) type Flag = AtomicBool;
