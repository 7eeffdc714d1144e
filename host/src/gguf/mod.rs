//! A lone GGUF file as a checkpoint: what config.json and the ids that end a text would be, from the metadata.
//!
//! The file says the same things under other keys, with the sizes of one family under the family's prefix. Here they become
//! the fields that Hugging Face writes, so that a plugin has one config to read; what a key would change and no field
//! expresses is refused. The vocabulary is read by [`text`](crate::text), tensors by `qeff_core::weights`.

mod config;
mod metadata;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use config::read;
