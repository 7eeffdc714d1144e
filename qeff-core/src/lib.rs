//! The machine of qeff: what turns a description into files and bytes.
//!
//! | module | holds | may not know |
//! |---|---|---|
//! | [`validate`] | what every model must keep to, whoever described or changed it | targets, families |
//! | [`text`] | the text form of semantic graphs | passes, targets |
//! | [`passes`] | features over the semantic graph | targets, families |
//! | [`lower`] | targets: semantic graph to ONNX nodes | weights' bytes |
//! | [`weights`] | checkpoints, and weight expressions as a stream of bytes | graphs, ONNX |
//! | [`onnx`] | model files and their text form | what a node means |
//! | [`mapping`] | mapped files | what is in them |
//! | [`qpc`] | compiled programs, as far as they can be read | devices, compilers |
//!
//! There is no dlopen here, no child process, no network, no terminal.

pub mod lower;
pub mod mapping;
pub mod onnx;
pub mod passes;
pub mod qpc;
pub mod text;
pub mod validate;
pub mod weights;
