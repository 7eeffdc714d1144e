//! Element types: what a file stores ([`DType`]) and what a value in a graph is ([`Elem`]).
//!
//! The two are kept apart because a graph computes in *the activation type*, which is chosen when the graph is lowered,
//! while a checkpoint tensor has whatever type its author stored.

use std::fmt;
use std::str::FromStr;

macro_rules! names {
    ($ty:ident { $($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        impl $ty {
            /// Every variant, in declaration order.
            pub const ALL: &'static [$ty] = &[$($ty::$variant),*];

            /// The name used in text forms and messages.
            pub fn name(self) -> &'static str {
                match self { $($ty::$variant => $name),* }
            }
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $ty {
            type Err = UnknownType;

            fn from_str(text: &str) -> Result<Self, UnknownType> {
                match text { $($name => Ok($ty::$variant),)* _ => Err(UnknownType(text.to_owned())) }
            }
        }
    };
}

/// A name that is no element type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an element type")]
pub struct UnknownType(pub String);

/// Type of the elements of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the names are the types
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

names!(DType {
    F64 = "f64",
    F32 = "f32",
    F16 = "f16",
    BF16 = "bf16",
    I64 = "i64",
    I32 = "i32",
    I16 = "i16",
    I8 = "i8",
    U8 = "u8",
    Bool = "bool",
});

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether the type holds floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }
}

/// Type of the elements of a graph value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Elem {
    /// The activation type of the program: f32 unless a pass chooses f16 or bf16.
    Act,
    /// 32-bit float whatever the activation type is (logits, rotary tables).
    F32,
    /// Token ids, positions, indices.
    I64,
    /// Indices where a target insists on 32 bits.
    I32,
    /// Flags and masks.
    Bool,
}

names!(Elem { Act = "act", F32 = "f32", I64 = "i64", I32 = "i32", Bool = "bool" });

impl Elem {
    /// The stored type once the activation type is known.
    pub fn resolve(self, act: DType) -> DType {
        match self {
            Elem::Act => act,
            Elem::F32 => DType::F32,
            Elem::I64 => DType::I64,
            Elem::I32 => DType::I32,
            Elem::Bool => DType::Bool,
        }
    }

    /// Whether the type holds floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Elem::Act | Elem::F32)
    }
}
