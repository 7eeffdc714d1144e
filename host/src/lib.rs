//! qeff host.

pub mod checkpoint;
pub mod cli;
pub mod describe;
pub mod engines;
pub mod generate;
mod gguf;
pub mod home;
pub mod plugins;
pub mod prepare;
pub mod runtime;
pub mod text;
