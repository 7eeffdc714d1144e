//! qeff host.

pub mod generate;
