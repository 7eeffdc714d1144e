//! Types of values: an element type and dimensions that may be symbols.

use std::fmt;
use std::sync::Arc;

use crate::{DType, Elem};

/// A dimension that is fixed only when a program is compiled or run, such as `seq_len`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(Arc<str>);

impl Symbol {
    /// A symbol; its name is the key that specializations use.
    pub fn new(name: impl AsRef<str>) -> Self {
        Symbol(name.as_ref().into())
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One dimension.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known when the model is described.
    Fixed(u64),
    /// Known when the program is compiled or run.
    Symbol(Symbol),
}

impl Dim {
    /// A symbolic dimension.
    pub fn symbol(name: &str) -> Self {
        Dim::Symbol(Symbol::new(name))
    }

    /// The number, if the dimension is fixed.
    pub fn fixed(&self) -> Option<u64> {
        match self {
            Dim::Fixed(n) => Some(*n),
            Dim::Symbol(_) => None,
        }
    }
}

impl From<u64> for Dim {
    fn from(n: u64) -> Self {
        Dim::Fixed(n)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Dim::symbol(name)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(symbol) => f.write_str(symbol.name()),
        }
    }
}

/// Element type and dimensions of a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub elem: Elem,
    /// Dimensions, slowest first.
    pub dims: Vec<Dim>,
}

impl Type {
    /// A type.
    pub fn new(elem: Elem, dims: impl IntoIterator<Item = Dim>) -> Self {
        Type { elem, dims: dims.into_iter().collect() }
    }

    /// The type of a weight operand: activations' elements, fixed dimensions.
    pub fn weight(shape: &[u64]) -> Self {
        Type::new(Elem::Act, shape.iter().map(|&n| Dim::Fixed(n)))
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The last dimension.
    pub fn last(&self) -> Option<&Dim> {
        self.dims.last()
    }

    /// The same dimensions with another element type.
    pub fn with_elem(&self, elem: Elem) -> Self {
        Type { elem, dims: self.dims.clone() }
    }

    /// The stored element type once the activation type is known.
    pub fn dtype(&self, act: DType) -> DType {
        self.elem.resolve(act)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.elem)?;
        for (i, dim) in self.dims.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}
