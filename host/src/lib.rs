//! qeff host.

pub mod artifacts;
pub mod audio;
pub mod checkpoint;
pub mod cli;
pub mod compile;
pub mod conformance;
pub mod describe;
pub mod encode;
pub mod engines;
mod foreign;
pub mod forms;
pub mod generate;
mod gguf;
pub mod home;
pub mod interrupt;
pub mod linking;
pub mod plugins;
pub mod prepare;
pub mod qpc;
pub mod runtime;
pub mod speech;
pub mod text;
pub mod vision;
