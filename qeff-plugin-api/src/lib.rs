//! The vocabulary of a qeff plugin.
//!
//! A plugin *describes* a model: a pure function from config.json and a tensor index to a semantic graph. It never sees a
//! weight's bytes, a target, a batch mode or a context length; features are passes over the description and targets are
//! lowerings of it, so an architecture that is described once has every feature on every target.
//!
//! | module | holds |
//! |---|---|
//! | [`plugin`] | the traits to implement, `register!` |
//! | [`config`] | config.json with typed, remembered access |
//! | [`build`] | the builder: scopes, values, state slots |
//! | [`blocks`] | what families share: projections, norms, rotary, attention, heads |
//! | [`graph`] | the semantic graph itself |
//! | [`weight`] | weights as expressions over stored tensors |
//! | [`infer`] | types of results, demands on operands |
//! | [`abi`] | the boundary to plugins built elsewhere |
//! | [`wire`] | a model as bytes: what crosses the boundary |
//!
//! This crate knows nothing of ONNX files on disk, engines, devices or the command line.

pub mod abi;
pub mod blocks;
pub mod build;
pub mod config;
mod dtype;
pub mod graph;
mod index;
pub mod infer;
pub mod onnx;
pub mod plugin;
pub mod weight;
pub mod wire;

/// The example of the README is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use dtype::{DType, Elem, UnknownType};
pub use index::{TensorIndex, TensorInfo};
#[doc(hidden)]
pub use inventory;
pub use weight::WeightExpr;
