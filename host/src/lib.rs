//! qeff host.

pub mod runtime;
