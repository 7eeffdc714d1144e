//! Texts through an encoder: one vector a text, or the scores of its classes.
//!
//! | module | knows | does not know |
//! |---|---|---|
//! | [`recipe`] | what a sentence-transformers folder says: pooling, what follows, prompts, lengths | what executes |
//! | [`batches`] | which texts share a call, so that little of it is padding | what a text is |
//! | [`ready`] | a model made ready to run | what it is run on |
//! | [`encoder`] | a program, and what goes into a call of it | what executes |
//! | [`pooling`] | heads appended to a model | what a text is |
//! | [`stages`] | what becomes of a pooled vector: normalised, projected | where it came from |
//! | [`vectors`] | files of vectors | how they were made |
//!
//! Everything here is about whole texts: nothing is generated and nothing is kept between calls.

pub mod batches;
pub mod encoder;
mod fields;
pub mod pooling;
pub mod ready;
pub mod recipe;
pub mod stages;
pub mod vectors;

pub use encoder::{Encoded, Encoder, Work};
