//! qeff host.

pub mod plugins;
