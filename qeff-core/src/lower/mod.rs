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
//! Lowering does not choose features (passes do) and does not touch weights' bytes (`weights`). Of quantised weights it knows
//! the form of their blocks: whether a product can keep one is a matter of the target.

pub mod aic;
mod common;
pub mod cpu;
mod experts;
mod in_call;
mod quantised;
mod rolling;
mod stored;
mod writer;

use qeff_plugin_api::graph::{Model, Program, Role};
use qeff_plugin_api::onnx::{FunctionProto, GraphProto, OperatorSetIdProto};
use qeff_plugin_api::{DType, WeightExpr};

pub use quantised::{Quantised, Tensors};

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

/// As what weights enter a lowered program.
#[derive(Clone, Copy, Default)]
pub enum WeightsAs<'a> {
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
    /// What became of weights that are stored quantised.
    pub quantised: Quantised,
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

/// How a program is lowered.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// What for.
    pub target: Target,
    /// In what products with kept weights are computed, on targets that let one choose.
    pub products: Products,
    /// As what weights enter the program.
    pub weights: WeightsAs<'a>,
    /// Inputs that the lowered program does not have: they are 0 everywhere.
    pub zeros: &'a [Role],
}

/// What a product with a quantised weight is computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// The weight's numbers times f32: the result is that of the dense weight, up to rounding.
    #[default]
    F32,
    /// Activations are rounded to eight bits, too, where an engine is faster with that.
    Int8,
}

impl From<Target> for Options<'_> {
    fn from(target: Target) -> Self {
        // The reference's graphs for AI 100 have one segment.
        let zeros: &[Role] = if target == Target::Aic { &[Role::Segments] } else { &[] };
        Options { target, products: Products::default(), weights: WeightsAs::default(), zeros }
    }
}

/// Lowers one program. The program must be valid (`validate`).
///
/// # Errors
/// If the target cannot express an operator or one of its attributes.
pub fn lower<'a>(
    program: &'a Program,
    tensors: impl Into<Tensors<'a>>,
    options: impl Into<Options<'a>>,
) -> Result<Lowered, LowerError> {
    let options = options.into();
    let writer = Writer::new(program, tensors.into(), options);
    match options.target {
        Target::Aic => aic::lower(writer),
        Target::Cpu if program.act != DType::F32 => Err(LowerError {
            target: options.target.name(),
            node: format!("program {}", program.name),
            why: format!("its activations are {}; CPU engines compute in f32", program.act),
        }),
        Target::Cpu => cpu::lower(writer, options.products),
    }
}

/// The output that carries the state `name` to the next run.
pub fn retained_name(name: &str) -> String {
    format!("{name}_RetainedState")
}

/// File stem of a lowered program: the architecture, and the program's name unless it is the only one.
pub fn file_stem(model: &Model, program: &Program) -> String {
    if model.programs.len() == 1 {
        model.architecture.clone()
    } else {
        format!("{}_{}", model.architecture, program.name)
    }
}
