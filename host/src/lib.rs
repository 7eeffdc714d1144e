//! qeff host.

pub mod generate;
pub mod runtime;
pub mod text;
