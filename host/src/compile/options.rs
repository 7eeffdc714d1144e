//! What is asked of the compiler, apart from the program.

use std::collections::BTreeMap;

use qeff_plugin_api::graph::{Model, Task};

use super::{Ccl, Strategy};

/// Which calls a decoder is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Prefill and decode.
    #[default]
    Both,
    /// Prefill alone, for a card that only reads prompts.
    Prefill,
    /// Decode alone, for a card that only writes.
    Decode,
}

/// In what a card computes, and keeps states that have no type of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Precision {
    /// Half: what the reference compiles.
    #[default]
    F16,
    /// Full, which takes twice the memory and more time, and shows what rounding costs.
    F32,
}

impl Precision {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F16 => "f16",
            Precision::F32 => "f32",
        }
    }

    /// Bytes of a number.
    pub fn size(self) -> u64 {
        match self {
            Precision::F16 => 2,
            Precision::F32 => 4,
        }
    }
}

/// Sizes that a program is compiled for. `None` where nobody said; the default depends on what the program is.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// Prompt tokens in one call.
    pub prompt_len: Option<u64>,
    /// Positions of a sequence.
    pub ctx_len: Option<u64>,
    /// Sequences in one call.
    pub batch_size: Option<u64>,
    /// Sequences in one decode call with continuous batching.
    pub full_batch_size: Option<u64>,
    /// Slots of the KV cache, if they are more than the sequences of a call: a prefix cache.
    pub kv_cache_batch_size: Option<u64>,
    /// Which calls.
    pub phase: Phase,
    /// For each decode program of a speculation target, how many drafted tokens it scores.
    pub speculative_tokens: Vec<u64>,
    /// Context lengths that attention looks at.
    pub ccl: Option<Ccl>,
    /// Lengths of texts (or sound) that an encoder is compiled for.
    pub seq_lens: Vec<u64>,
    /// Frames that an encoder hands to its decoder.
    pub encoder_ctx_len: Option<u64>,
    /// Any other symbol of the graph, by name.
    pub symbols: BTreeMap<String, u64>,
}

impl Shape {
    /// Positions of a sequence where nobody says.
    pub const CTX_LEN: u64 = 128;
    /// Tokens of a text where nobody says.
    pub const TEXT_LEN: u64 = 32;
    /// Tokens of a transcript where nobody says.
    pub const TRANSCRIPT_LEN: u64 = 150;

    /// The sizes for a model: a transcript of which nobody says how long it gets is no longer than the model's positions.
    pub fn fitted(self, model: &Model) -> Self {
        if model.task != Task::SpeechToText {
            return self;
        }
        let most = model.positions.map_or(u64::MAX, |limit| limit.trained);
        Shape { ctx_len: self.ctx_len.or(Some(Self::TRANSCRIPT_LEN.min(most))), ..self }
    }

    /// How many positions a decoder is compiled for: with context lengths, as many as the longest.
    pub fn positions(&self) -> u64 {
        let asked = self.ctx_len.unwrap_or(Self::CTX_LEN);
        let lengths = self.ccl.as_ref().and_then(|ccl| ccl.lengths(asked, self.prompt_len.unwrap_or(1)).ok());
        lengths.map_or(asked, |lengths| lengths.ctx_len)
    }

    /// How many tokens the longest text has that an encoder is compiled for.
    pub fn longest_text(&self) -> u64 {
        self.seq_lens.iter().copied().max().or(self.prompt_len).unwrap_or(Self::TEXT_LEN)
    }
}

/// A file of the user's that the compiler reads. It is copied beside the artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserFile {
    /// Its name, without the folder.
    pub name: String,
    /// Its text.
    pub content: String,
}

/// How a program is spread over several devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Partition {
    /// Each tensor is cut across all devices.
    #[default]
    Slices,
    /// As a file of the user's says.
    File(UserFile),
    /// Consecutive layers in stages, tensors cut across the devices of a stage.
    Stages {
        /// How many.
        stages: u64,
        /// Which nodes are listed.
        strategy: Strategy,
    },
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Sizes.
    pub shape: Shape,
    /// Cores of each device.
    pub num_cores: u64,
    /// What decided that number.
    pub num_cores_by: &'static str,
    /// Devices; `None` if nobody said, which is one, or as many as a partition file has.
    pub num_devices: Option<u64>,
    /// How the program is spread over them.
    pub partition: Partition,
    /// In what cards compute and keep states.
    pub precision: Precision,
    /// Weights of matrix products as MXFP6.
    pub mxfp6_matmul: bool,
    /// KV cache as MXINT8.
    pub mxint8_kv_cache: bool,
    /// Traffic between cards as MXINT8.
    pub allow_mxint8_mdp_io: bool,
    /// Depth-first schedule.
    pub aic_enable_depth_first: bool,
    /// Effort to keep data in on-chip memory.
    pub mos: Option<i64>,
    /// Nodes that are computed in another precision than the rest.
    pub node_precision: Option<UserFile>,
    /// Local functions of the graph are compiled once and called.
    pub sub_functions: bool,
    /// More flags of the compiler, as it spells them.
    pub pass_through: Vec<String>,
}
