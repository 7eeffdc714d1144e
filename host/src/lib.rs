//! qeff host.

pub mod generate;
pub mod text;
