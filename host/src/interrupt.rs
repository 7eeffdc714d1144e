//! Signals that ask a process to end (Ctrl-C, `kill`): noted, so that what is half done can be tidied up first.
//!
//! Work looks at [`Interrupts::flag`] between its steps. When it has stopped and tidied up, [`Interrupts::end`] lets the
//! signal do what it would have done at once: a shell sees that the process was interrupted, not that it failed. A second
//! signal does not wait for anything.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// The signals that arrived.
pub struct Interrupts {
    arrived: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupts {
    /// From here on, signals are noted.
    ///
    /// # Errors
    /// What the system says.
    pub fn watch() -> io::Result<Self> {
        let interrupts = Interrupts { arrived: Arc::default(), signal: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // Handlers run in this order, so only the second signal finds the flag set.
            flag::register_conditional_default(signal, Arc::clone(&interrupts.arrived))?;
            flag::register(signal, Arc::clone(&interrupts.arrived))?;
            flag::register_usize(signal, Arc::clone(&interrupts.signal), signal as usize)?;
        }
        Ok(interrupts)
    }

    /// Set when a signal has arrived.
    pub fn flag(&self) -> &AtomicBool {
        &self.arrived
    }

    /// Ends the process as the signal would have.
    ///
    /// # Errors
    /// Returns only if no signal arrived, or the system does not let it.
    pub fn end(&self) -> anyhow::Result<()> {
        let signal = self.signal.load(Ordering::Relaxed) as i32;
        low_level::emulate_default_handler(signal)?;
        anyhow::bail!("interrupted by signal {signal}")
    }
}
