//! Queues: threads that runs are done on, one behind the other on each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::status::{Fail, Status};
use super::{Context, lock};

/// Something to do.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A queue.
pub struct Queue {
    /// Its context.
    pub context: Arc<Context>,
    jobs: Mutex<Option<Sender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Queue {
    pub(super) fn new(context: Arc<Context>, threads: u32) -> Self {
        let (sender, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let work = |receiver: Arc<Mutex<Receiver<Job>>>| {
            move || {
                loop {
                    let job = lock(&receiver).recv();
                    let Ok(job) = job else { return };
                    job();
                }
            }
        };
        let threads = (0..threads.clamp(1, 64)).filter_map(|i| {
            let builder = std::thread::Builder::new().name(format!("queue{number}.{i}"));
            builder.spawn(work(Arc::clone(&receiver))).ok()
        });
        Queue { context, jobs: Mutex::new(Some(sender)), threads: Mutex::new(threads.collect()) }
    }

    pub(super) fn submit(&self, job: Job) -> Result<(), Fail> {
        let sent = lock(&self.jobs).as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(()) } else { Err(Fail::new(Status::INVAL, "the queue has ended")) }
    }

    /// Ends it once everything is done.
    pub(super) fn end(&self) {
        lock(&self.jobs).take();
        for thread in lock(&self.threads).drain(..) {
            // A job that panicked has said so by its status.
            let _ = thread.join();
        }
    }
}
