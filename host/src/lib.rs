//! qeff host.

pub mod checkpoint;
pub mod cli;
pub mod describe;
pub mod engines;
pub mod forms;
pub mod generate;
mod gguf;
pub mod home;
pub mod interrupt;
pub mod linking;
pub mod plugins;
pub mod prepare;
pub mod runtime;
pub mod text;
