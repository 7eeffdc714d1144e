//! The file `programqpc.bin`, written and read.
//!
//! Container and descriptors have the real format, so whoever reads QPCs can read these. What makes ours executable is one
//! segment more ([`MARKER`]), which a reader of the real format does not know and passes over.
//!
//! | module | knows |
//! |---|---|
//! | [`container`] | header, segments, addresses |
//! | [`network`] | bindings and shape rows: `networkdesc.bin`, and the `IoDesc` that a runtime makes of it |
//! | [`image`] | which segments a program has, on one card or on several |

pub mod container;
pub mod image;
pub mod network;

/// The segment that is ours: what the program computes.
pub const MARKER: &str = "qaic-sim.bin";
