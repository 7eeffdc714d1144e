//! A stand-in for the Cloud AI 100 SDK: compilers, tools and runtime library, without a card.
//!
//! It lets tests run the host's whole way (start the compiler, read the QPC, load the library, prefill and decode with states
//! that stay on the device), and it is strict where the real ones are known or believed to be: a host that gets a step
//! wrong fails here. It is written from the published facts alone; what passes here *passes on the stand-in* and nowhere
//! else for that. Nothing of it is linked into what ships.
//!
//! | module | stands for |
//! |---|---|
//! | [`root`] | the folder in which the SDK is installed |
//! | [`compiler`] | `qaic-compile`, `qaic-exec`, and QNN's converter and generator |
//! | [`util`] | `qaic-util` |
//! | [`header`] | the text of `QAicApi.h` |
//! | [`qpc`] | the file that a compiler leaves |
//! | [`graph`] | the cores: what a program computes |
//! | [`runtime`] | `libQAic.so`: objects, rules, cards; safe |
//! | `abi` | its C functions; with the client all that is `unsafe` |
//! | [`client`] | nothing: it calls the library, in tests |
//!
//! [`testing`] has small models for its own tests.
//! [`config`] says what an SDK is like and what goes wrong in it, [`log`] keeps what was called.

mod abi;
pub mod client;
pub mod compiler;
pub mod config;
pub mod graph;
pub mod header;
pub mod log;
pub mod qpc;
pub mod root;
pub mod runtime;
pub mod testing;
pub mod util;

pub use config::SimConfig;
pub use root::{Built, Root, sim_root};
