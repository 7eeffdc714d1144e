//! What a program takes and gives.

/// Numbers of any shape, the last axis densest.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// As many numbers as the shape says.
    pub data: Data,
}

/// The numbers of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Activations, whatever precision they have inside.
    F32(Vec<f32>),
    /// Ids, positions, indices.
    I64(Vec<i64>),
    /// Flags.
    Bool(Vec<bool>),
}

impl Data {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Data::F32(data) => data.len(),
            Data::I64(data) => data.len(),
            Data::Bool(data) => data.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The word for their type.
    pub fn name(&self) -> &'static str {
        match self {
            Data::F32(_) => "f32",
            Data::I64(_) => "i64",
            Data::Bool(_) => "bool",
        }
    }
}

impl Tensor {
    /// Activations of a shape, which must have as many elements.
    pub fn floats(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self::new(shape.into(), Data::F32(data))
    }

    /// Integers of a shape, which must have as many elements.
    pub fn integers(shape: impl Into<Vec<usize>>, data: Vec<i64>) -> Self {
        Self::new(shape.into(), Data::I64(data))
    }

    /// `number` everywhere.
    pub fn filled(shape: impl Into<Vec<usize>>, number: i64) -> Self {
        let shape = shape.into();
        let count = shape.iter().product();
        Self::new(shape, Data::I64(vec![number; count]))
    }

    fn new(shape: Vec<usize>, data: Data) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len(), "{shape:?}");
        Tensor { shape, data }
    }

    /// The numbers of activations, `None` if these are something else.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            Data::F32(data) => Some(data),
            _ => None,
        }
    }

    /// The numbers of integers, `None` if these are something else.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match &self.data {
            Data::I64(data) => Some(data),
            _ => None,
        }
    }
}
