//! Compiling for AI 100: from a program's interface and what was asked for to command lines, files, and a QPC.
//!
//! ```text
//! interface + shape ─► specializations ─┐
//! interface ─────────► custom I/O      ├─► plan: commands and files ─► child processes ─► QPC
//! devices ───────────► MDP             ┘      (pure)
//! ```
//! A [`Plan`] is made without touching a disk or a device, so a dry run, an explanation, the key of the artifact and the
//! real thing are one and the same. The files and flags are those of the reference's class API, which are what the
//! compiler is known to accept; where we differ on purpose stands in `docs/src/reference/deviations.md`.
//!
//! This room knows the compilers' command lines and the names of the AI 100 interface. It does not know families, what a
//! graph computes, or where artifacts are kept (`artifacts`).

mod ccl;
mod child;
mod command;
mod custom_io;
mod fit;
mod hints;
mod interface;
mod json;
mod mdp;
mod options;
mod plan;
mod program;
mod qnn;
pub mod sdk;
mod specializations;
#[cfg(test)]
mod testing;

pub use ccl::Ccl;
pub(crate) use child::end_group;
pub use child::{ChildError, Execution, execute};
pub use command::{Arg, Command, shell};
pub use fit::{Fit, Weights, fit};
pub use hints::hint;
pub use interface::{Interface, Kind, Port, State};
pub use json::canonical;
pub use mdp::Strategy;
pub use options::{Options, Partition, Phase, Precision, Shape, UserFile};
pub use plan::{PLACE_OF_ARTIFACT, PLACE_OF_MODEL, Places, Plan, PlannedFile};
pub use program::Program;
pub use qnn::Config as QnnConfig;
pub use specializations::{Dialect, Specialization};
