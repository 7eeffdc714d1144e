//! Blocks: the parts that families share, as functions from a scope and values to values.
//!
//! A block leaves scopes and nodes, never an operator of its own: whatever a pass must find again is in domain `qeff`.
//! Blocks know the builder only; what differs between families comes in as data.

pub mod act;
pub mod attention;
pub mod conv;
pub mod decoder;
pub mod embed;
pub mod encoder;
pub mod linear;
pub mod lm;
pub mod masks;
pub mod mlp;
pub mod moe;
pub mod norm;
pub mod pool;
pub mod rope;
pub mod vision;

pub use act::Activation;
pub use attention::{Attn, InCall, attention, attention_in_call, cross_attention};
pub use decoder::{Decoder, Layer};
pub use embed::embed;
pub use linear::{Bias, Linear, linear};
pub use norm::Norm;
pub use rope::{Rope, RopeConfig, rotary};
