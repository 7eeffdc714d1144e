//! Generation: from prompts to ids.

pub mod sampler;
mod schedule;

pub use sampler::{Sampler, Sampling, SamplingError};
pub use schedule::{Completion, Finish, Flow, GenerateError, Observer, Options, Request, Timing, generate};
