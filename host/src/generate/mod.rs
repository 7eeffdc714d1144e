//! Generation: from logits to the next id, again and again.
//!
//! Whatever batching, chunking or speculation does above, the id chosen for a request depends on its own logits and its
//! own random numbers only. [`sampler`] makes that choice; it does not know what an id means.

pub mod sampler;
