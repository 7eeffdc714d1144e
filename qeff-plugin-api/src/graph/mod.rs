//! The semantic graph: what a model computes, before anyone decided for which machine.
//!
//! A [`Model`] is one or more [`Program`]s. A program is an arena: values, nodes and scopes live in vectors and are named
//! by typed `u32` handles, so a pass can keep its findings in side tables and a graph is cheap to copy. Node order is
//! execution order: a node's operands are defined before it.
//!
//! This module holds data and look-ups. It does not check shapes (`infer`), does not help to write a description
//! (`build`), and does not know that ONNX files exist (`wire`).

mod op;
mod program;
mod ty;

pub use op::{
    Attention, AttentionMask, AttrValue, Embedding, ExpertActivation, Experts, Linear, NegativeIds, NormProduct,
    OnnxOp, Op, RmsNorm, Rotary, RotaryLayout, Select, SelectMode, StateRead, StateWrite, Weigh,
};
pub use program::{Declaration, Def, Input, Node, Output, Program, State, StateKind, ValueData, Version};
pub use ty::{Dim, Symbol, Type};

use std::fmt;

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(crate) u32);

        impl $name {
            /// Position in the arena.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    )*};
}

handles! {
    /// A value of a program.
    ValueId, "%";
    /// A node of a program.
    NodeId, "node ";
    /// A scope path of a program.
    ScopeId, "scope ";
    /// A state slot of a program.
    SlotId, "slot ";
}

/// What a graph input or output means. Passes and runtimes look for roles, never for names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Token ids, `i64[batch, seq]`.
    Tokens,
    /// Absolute position of each token, `i64[batch, seq]`; −1 marks padding.
    Positions,
    /// Which tokens of a text are no padding, `i64[batch, seq]`.
    Mask,
    /// Which of two texts a token belongs to, `i64[batch, seq]`; all 0 where nobody gives it.
    Segments,
    /// What an audio encoder takes: samples, or their spectrum.
    Features,
    /// What an image encoder takes.
    Pixels,
    /// Which row of an image encoder's patches stands where in what it puts out.
    Packing,
    /// A counter that an output of this role hands to the next call.
    Carry,
    /// State slot of each batch row, `i64[batch, 1]`.
    BatchIndex,
    /// How many logits rows to keep, by the length of its first axis.
    Keep,
    /// How many positions attention looks at, by the length of its only axis.
    Context,
    /// Scores over the vocabulary.
    Logits,
    /// Last hidden states.
    Hidden,
    /// One pooled vector a row.
    Pooled,
    /// Scores over the classes of a text.
    Classes,
    /// What an encoder hands to the embedding layer of another program.
    Embeds,
}

impl Role {
    /// Every role with the word that text forms use.
    pub const ALL: &'static [(Role, &'static str)] = &[
        (Role::Tokens, "tokens"),
        (Role::Positions, "positions"),
        (Role::Mask, "mask"),
        (Role::Segments, "segments"),
        (Role::Features, "features"),
        (Role::Pixels, "pixels"),
        (Role::Packing, "packing"),
        (Role::Carry, "carry"),
        (Role::BatchIndex, "batch_index"),
        (Role::Keep, "keep"),
        (Role::Context, "context"),
        (Role::Logits, "logits"),
        (Role::Hidden, "hidden"),
        (Role::Pooled, "pooled"),
        (Role::Classes, "classes"),
        (Role::Embeds, "embeds"),
    ];

    /// The word that text forms use.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(role, _)| *role == self).map_or("", |(_, name)| name)
    }

    /// The role of a word.
    pub fn from_name(name: &str) -> Option<Role> {
        Self::ALL.iter().find(|(_, word)| *word == name).map(|(role, _)| *role)
    }
}

/// What a model is for; used to route a request and in refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Next-token prediction.
    CausalLm,
    /// Hidden states of a whole text.
    Encoder,
    /// One class of several for a whole text, or a score.
    SequenceClassification,
    /// A label for each frame of a sound.
    Ctc,
    /// Text from a sound.
    SpeechToText,
    /// Text from images and text.
    ImageTextToText,
}

impl Task {
    /// Every task with the word that text forms use.
    pub const ALL: &'static [(Task, &'static str)] = &[
        (Task::CausalLm, "causal_lm"),
        (Task::Encoder, "encoder"),
        (Task::SequenceClassification, "sequence_classification"),
        (Task::Ctc, "ctc"),
        (Task::SpeechToText, "speech_to_text"),
        (Task::ImageTextToText, "image_text_to_text"),
    ];

    /// The word that text forms use.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(task, _)| *task == self).map_or("", |(_, name)| name)
    }

    /// The task of a word.
    pub fn from_name(name: &str) -> Option<Task> {
        Self::ALL.iter().find(|(_, word)| *word == name).map(|(task, _)| *task)
    }
}

/// How many positions a model can serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionLimit {
    /// Positions the model was made for.
    pub trained: u64,
    /// Whether later positions do not exist (a learned table) rather than merely being untrained (rotary).
    pub hard: bool,
}

/// An output of one program that is an input of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Producing program and its output.
    pub from: (String, String),
    /// Consuming program and its input, or its state.
    pub to: (String, String),
}

/// A plugin's answer: programs, the links between them, and what the host must know about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Architecture as config.json names it, e.g. `LlamaForCausalLM`.
    pub architecture: String,
    /// What the model is for.
    pub task: Task,
    /// Positions the model can serve, if it has any.
    pub positions: Option<PositionLimit>,
    /// Name endings of stored tensors that carry no information (old mask buffers), not worth a warning when unused.
    pub stale_tensors: Vec<String>,
    /// At least one program; a decoder has one, called `main`.
    pub programs: Vec<Program>,
    /// Links between programs.
    pub links: Vec<Link>,
}

impl Model {
    /// The program called `name`.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|program| program.name == name)
    }

    /// The version of domain `qeff` that a reader must know: that of the newest thing in use, not of the crate that wrote it.
    pub fn since(&self) -> i64 {
        let nodes = self.programs.iter().flat_map(Program::nodes).map(|(_, node)| node.since());
        let states = self.programs.iter().flat_map(Program::states).map(|(_, state)| state.since());
        let weights = self.programs.iter().flat_map(Program::weights).map(|(_, expr)| expr.since());
        nodes.chain(states).chain(weights).max().unwrap_or(1)
    }

    /// Names of every stored tensor that any program reads.
    pub fn sources(&self) -> std::collections::BTreeSet<&str> {
        let mut names = std::collections::BTreeSet::new();
        for program in &self.programs {
            for (_, expr) in program.weights() {
                expr.for_each_source(&mut |name| {
                    names.insert(name);
                });
            }
        }
        names
    }
}
