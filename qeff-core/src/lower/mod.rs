//! Lowering: from what a model computes to the nodes a target understands.
//!
//! Both targets read the same semantic graph; what differs between them stands in one folder each. A lowered program is
//! nearly an ONNX file, only that initializers are still weight expressions: bytes are the emitter's business.
//!
//! | target | states | attention | experts | functions |
//! |---|---|---|---|---|
//! | [`aic`] | `CtxScatter` / `CtxGather` | gathered rows, −∞ mask | matrices gathered for each token | custom functions with bodies |
//! | [`cpu`] | `ScatterND` in place, one slack row | on the state as it lies | tokens sorted by expert | none, all inlined |
//!
//! Lowering does not choose features (passes do) and does not touch weights' bytes (`weights`).

pub mod aic;
mod common;
pub mod cpu;
mod experts;
mod rolling;
mod stored;
mod writer;

use qeff_plugin_api::graph::{Model, Program};
use qeff_plugin_api::onnx::{FunctionProto, GraphProto, OperatorSetIdProto};
use qeff_plugin_api::{DType, TensorIndex, WeightExpr};

use writer::Writer;

/// What a program is lowered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Cloud AI 100: the reference's graph contract, opset 17, custom functions.
    Aic,
    /// A CPU engine: opset 23, standard operators only.
    Cpu,
}

impl Target {
    /// The word of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Target::Aic => "aic",
            Target::Cpu => "cpu",
        }
    }
}

/// In which form weights enter a lowered program.
#[derive(Clone, Copy, Default)]
pub enum WeightForm<'a> {
    /// As its users want them, whatever that takes to make.
    #[default]
    Wanted,
    /// As the checkpoint stores them: another layout or type is made by nodes, whenever all that a weight is made of is
    /// usable as it lies.
    Stored {
        /// Whether a stored tensor, of which elements of a type are wanted, can be referred to and cast by a node.
        usable: &'a dyn Fn(&str, DType) -> bool,
        /// Whether a run of a tensor's elements can be referred to as well, not only all of them.
        runs: bool,
    },
}

/// A program for one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Lowered {
    /// Nodes, inputs and outputs. `initializer` holds small constants only.
    pub graph: GraphProto,
    /// Weights, in order of first use.
    pub weights: Vec<Initializer>,
    /// Local functions.
    pub functions: Vec<FunctionProto>,
    /// Operator sets.
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Version of the file schema.
    pub ir_version: i64,
}

/// A weight of a lowered program.
#[derive(Debug, Clone, PartialEq)]
pub struct Initializer {
    /// Name in the file.
    pub name: String,
    /// What it holds, canonical.
    pub expr: WeightExpr,
    /// Element type in the file.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<u64>,
}

/// A program that a target cannot express.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("target {target}, {node}: {why}")]
pub struct LowerError {
    /// The target.
    pub target: &'static str,
    /// Scope and operator.
    pub node: String,
    /// What is not possible.
    pub why: String,
}

/// Lowers one program, with weights as they are wanted. The program must be valid (`validate`).
///
/// # Errors
/// If the target cannot express an operator or one of its attributes.
pub fn lower(program: &Program, tensors: &TensorIndex, target: Target) -> Result<Lowered, LowerError> {
    lower_with(program, tensors, target, WeightForm::Wanted)
}

/// As [`lower`], with weights in the form of `weights`.
///
/// # Errors
/// As [`lower`].
pub fn lower_with(
    program: &Program,
    tensors: &TensorIndex,
    target: Target,
    weights: WeightForm<'_>,
) -> Result<Lowered, LowerError> {
    let writer = Writer::new(program, tensors, target, weights);
    match target {
        Target::Aic => aic::lower(writer),
        Target::Cpu => cpu::lower(writer),
    }
}

/// File stem of a lowered program: the architecture, and the program's name unless it is the only one.
pub fn file_stem(model: &Model, program: &Program) -> String {
    if model.programs.len() == 1 {
        model.architecture.clone()
    } else {
        format!("{}_{}", model.architecture, program.name)
    }
}
