//! What can be wrong with a model, and where.

use std::fmt;

use qeff_plugin_api::DType;
use qeff_plugin_api::graph::{Role, Type};
use qeff_plugin_api::infer::Mismatch;
use qeff_plugin_api::weight::WeightError;

/// One finding: a place and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Name of the program; empty if the finding is about the model.
    pub program: String,
    /// Scope path; empty for the top.
    pub scope: String,
    /// The operator, or what else it is: `input ids`, `State kv.0`, `output logits`, `link`, `weight`.
    pub op: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.program.as_str() {
            "" => f.write_str("model")?,
            program => write!(f, "program {program}")?,
        }
        for part in [&self.scope, &self.op] {
            if !part.is_empty() {
                write!(f, ", {part}")?;
            }
        }
        write!(f, ": {}", self.problem)
    }
}

/// Every finding of a validation, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings(pub Vec<Invalid>);

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.0.iter().enumerate() {
            let newline = if i > 0 { "\n" } else { "" };
            write!(f, "{newline}{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}

/// What is wrong at a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    // --- handles
    /// A handle belongs to another program.
    #[error("{what} belongs to another program")]
    Foreign {
        /// What holds the handle.
        what: String,
    },
    /// A place holds a value that says it comes from another.
    #[error("{what}: expected a value that comes from here, found one that comes from elsewhere")]
    Torn {
        /// What holds the value.
        what: String,
    },
    /// A value is used that nothing makes any more.
    #[error("{what}: expected a value that an input, state or node has, found one that none has any more")]
    Dropped {
        /// What uses the value.
        what: String,
    },
    /// A declaration without its input.
    #[error("expected the input that is declared here, found none")]
    InputGone,
    /// An input without its declaration.
    #[error("expected a declaration of this input, found none")]
    Undeclared,
    /// A value is used before the node that makes it.
    #[error("operand {operand} is made by a later node, expected one before")]
    UsedBeforeDefined {
        /// Index of the operand.
        operand: usize,
    },

    // --- names
    /// A name that no file format or tool can be relied on to carry.
    #[error("expected a name of printable ASCII without spaces, found {name:?}")]
    Name {
        /// The name.
        name: String,
    },
    /// A name is given twice.
    #[error("expected a unique name, found `{name}`, which {by} has")]
    NameTaken {
        /// The name.
        name: String,
        /// What has it already.
        by: String,
    },
    /// A role is given twice.
    #[error("expected role `{}` at most once, found it at `{by}` too", role.name())]
    RoleTaken {
        /// The role.
        role: Role,
        /// Name of the port that has it already.
        by: String,
    },

    // --- declarations
    /// There is nothing to compute.
    #[error("expected at least one program, found none")]
    NoPrograms,
    /// Activations are numbers.
    #[error("expected f32, f16 or bf16 activations, found {found}")]
    Activations {
        /// The stated type.
        found: DType,
    },
    /// A state has another number of names than parts.
    #[error("expected a name for each of {parts} parts, at least one, found {names} names")]
    StateNames {
        /// Number of parts.
        parts: usize,
        /// Number of names.
        names: usize,
    },
    /// A part of a state has no sense as one.
    #[error("part {part}: expected [lead, heads, axis, dim] with numbers for heads and dim, found {found}")]
    StateType {
        /// Which part.
        part: usize,
        /// Its type.
        found: Type,
    },
    /// A dimension that the outside cannot give.
    #[error("expected symbols of inputs and states, or lengths made of them, found `{symbol}`")]
    Symbol {
        /// The symbol.
        symbol: String,
    },

    // --- nodes
    /// The operands do not fit the operator.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// A node takes more operands than its operator knows.
    #[error("expected at most {most} operands, found {found}")]
    Surplus {
        /// How many the operator knows.
        most: usize,
        /// How many there are.
        found: usize,
    },
    /// A node has another number of results than its operator.
    #[error("expected {expected} results, found {found}")]
    Results {
        /// What the operator yields.
        expected: usize,
        /// What the node has.
        found: usize,
    },
    /// A result has another type than the operator yields.
    #[error("result {result}: expected {expected}, found {found}")]
    ResultType {
        /// Which result.
        result: usize,
        /// What the operator yields.
        expected: Type,
        /// What the value says.
        found: Type,
    },
    /// An attribute that makes every result NaN or infinite.
    #[error("attribute `{attribute}`: expected a finite number, found {found}")]
    Number {
        /// The attribute.
        attribute: &'static str,
        /// Its value as text.
        found: String,
    },
    /// An operator passed as it stands cannot be in the domain whose operators are known.
    #[error("expected an operator of another domain than `qeff`, found one that version 1 does not have")]
    UnknownOperator,
    /// More than one selection on the way to an output.
    #[error("expected at most one Select on the way to it, found {found}")]
    Selects {
        /// How many.
        found: usize,
    },

    // --- states
    /// A version is used where only plain values may be.
    #[error("operand {operand}: expected a value that is no version of a state, found one of `{slot}`")]
    StateUse {
        /// Index of the operand.
        operand: usize,
        /// The state.
        slot: String,
    },
    /// A state of a kind that the operator does not take, or not with these operands.
    #[error("`{slot}` is a {kind} state, which {op} does not take with these operands")]
    Kind {
        /// The state.
        slot: String,
        /// Its kind.
        kind: &'static str,
        /// The operator.
        op: String,
    },
    /// A read of something that is no state.
    #[error("operand {operand}: expected a version of a state, found another value")]
    NoState {
        /// Index of the operand.
        operand: usize,
    },
    /// A write has something else where the parts of a state belong.
    #[error("expected the {expected} parts of one state in order, found {found}")]
    WriteParts {
        /// Number of parts.
        expected: usize,
        /// What the operands are.
        found: String,
    },
    /// Keys and values come from different places.
    #[error("expected keys and values of one state, or none, found {found}")]
    KeysAndValues {
        /// What the operands are.
        found: String,
    },
    /// A version is read or written over after a write has replaced it.
    #[error("operand {operand}: expected version {current} of `{slot}`, found version {found}, replaced by then")]
    StaleVersion {
        /// Index of the operand.
        operand: usize,
        /// The state.
        slot: String,
        /// The version that counts, by the number of writes before it.
        current: usize,
        /// The version that is used.
        found: usize,
    },
    /// States are retained as they are; they are no outputs besides.
    #[error("expected a value that is no version of a state, found one of `{slot}`")]
    StateOutput {
        /// The state.
        slot: String,
    },

    // --- weights
    /// An expression has no shape.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// An expression has another shape than its value.
    #[error("expected {expected:?}, the shape of {expr}, found {found}")]
    WeightType {
        /// The expression.
        expr: String,
        /// Its shape under the tensor index.
        expected: Vec<u64>,
        /// Type of the value.
        found: Type,
    },
    /// An expression that would exhaust the stack of whoever walks it.
    #[error("expected a weight expression at most {most} steps deep, found a deeper one")]
    WeightDepth {
        /// The limit.
        most: usize,
    },

    // --- links
    /// A link has an end that does not exist.
    #[error("expected a program with {port}, found none")]
    LinkEnd {
        /// The port in words.
        port: String,
    },
    /// A link joins ports of different kinds.
    #[error("expected an input like {from}, found {to}")]
    LinkType {
        /// Type of the output.
        from: Type,
        /// Type of the input.
        to: Type,
    },
    /// Two links feed one input.
    #[error("expected one link to {port}, found another")]
    LinkTwice {
        /// The input in words.
        port: String,
    },
}
