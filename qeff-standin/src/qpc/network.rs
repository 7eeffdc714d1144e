//! Descriptors of a program's interface: protobuf messages of the real format, spelled as Rust types.

use anyhow::{Context as _, Result, bail};
use prost::Message;

/// Version of the network descriptor.
const MAJOR: u32 = 9;

/// Type of a binding's elements, by the number that descriptors and mappings have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Elem {
    /// 32-bit float.
    F32 = 0,
    /// 16-bit float.
    F16 = 1,
    /// Unsigned byte.
    U8 = 3,
    /// 32-bit integer.
    I32 = 6,
    /// 64-bit integer.
    I64 = 7,
    /// Byte: an integer, a truth value, or MXINT8.
    I8 = 8,
    /// bfloat16.
    BF16 = 11,
}

impl Elem {
    /// The type of a number.
    pub fn of(number: i32) -> Option<Self> {
        [Elem::F32, Elem::F16, Elem::U8, Elem::I32, Elem::I64, Elem::I8, Elem::BF16]
            .into_iter()
            .find(|&elem| elem as i32 == number)
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Elem::I64 => 8,
            Elem::F32 | Elem::I32 => 4,
            Elem::F16 | Elem::BF16 => 2,
            Elem::U8 | Elem::I8 => 1,
        }
    }
}

/// An input or output as a caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Name.
    pub name: String,
    /// Whether the caller reads it rather than writes it.
    pub output: bool,
    /// Type of its elements.
    pub elem: Elem,
    /// The largest shape over all rows.
    pub dims: Vec<usize>,
    /// Whether a call may leave it out: it is half of a retained state.
    pub partial: bool,
}

impl Binding {
    /// Bytes of the largest shape.
    pub fn size(&self) -> usize {
        bytes(self.elem, &self.dims)
    }
}

/// Bytes of a shape.
pub fn bytes(elem: Elem, dims: &[usize]) -> usize {
    dims.iter().fold(elem.size(), |size, &dim| size.saturating_mul(dim))
}

/// What a network descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Name of the program.
    pub name: String,
    /// Cores it takes on each card.
    pub cores: u32,
    /// Inputs, then outputs; their place in this list is their index.
    pub bindings: Vec<Binding>,
    /// For each specialization the shape of every binding.
    pub rows: Vec<Vec<Vec<usize>>>,
}

#[derive(Clone, PartialEq, Message)]
struct Descriptor {
    #[prost(uint32, tag = "1")]
    major: u32,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(message, repeated, tag = "4")]
    inputs: Vec<IoBinding>,
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<IoBinding>,
    #[prost(uint32, tag = "7")]
    cores: u32,
    #[prost(int32, tag = "14")]
    batch: i32,
    #[prost(message, repeated, tag = "18")]
    rows: Vec<Shapes>,
}

#[derive(Clone, PartialEq, Message)]
struct IoBinding {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    initial: Option<IoDescriptor>,
    #[prost(message, optional, tag = "3")]
    transformed: Option<IoDescriptor>,
    #[prost(bool, tag = "5")]
    partial: bool,
}

// Types are written even where they are 0, the number of float32: hence `optional`.
#[derive(Clone, PartialEq, Message)]
struct IoDescriptor {
    #[prost(int32, optional, tag = "1")]
    elem: Option<i32>,
    #[prost(float, tag = "2")]
    scale: f32,
    #[prost(int32, repeated, tag = "4")]
    dims: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Shapes {
    #[prost(message, repeated, tag = "1")]
    shapes: Vec<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(int32, optional, tag = "1")]
    elem: Option<i32>,
    #[prost(int32, repeated, tag = "2")]
    dims: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct IoDesc {
    #[prost(message, repeated, tag = "1")]
    sets: Vec<IoSet>,
    #[prost(message, optional, tag = "2")]
    selected: Option<IoSet>,
    #[prost(string, tag = "3")]
    program: String,
    #[prost(message, repeated, tag = "8")]
    rows: Vec<Shapes>,
}

#[derive(Clone, PartialEq, Message)]
struct IoSet {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    bindings: Vec<Described>,
}

#[derive(Clone, PartialEq, Message)]
struct Described {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    index: u32,
    #[prost(int32, tag = "3")]
    elem: i32,
    #[prost(int32, tag = "4")]
    direction: i32,
    #[prost(float, tag = "5")]
    scale: f32,
    #[prost(int32, repeated, tag = "7")]
    dims: Vec<i32>,
    #[prost(uint32, tag = "8")]
    size: u32,
    #[prost(bool, tag = "10")]
    partial: bool,
    #[prost(bool, tag = "20")]
    valid: bool,
}

impl Network {
    /// The bytes of `networkdesc.bin`.
    pub fn encode(&self) -> Vec<u8> {
        let describe = |binding: &Binding| {
            let descriptor = IoDescriptor { elem: Some(binding.elem as i32), scale: 1.0, dims: numbers(&binding.dims) };
            IoBinding {
                name: binding.name.clone(),
                initial: Some(descriptor.clone()),
                transformed: Some(descriptor),
                partial: binding.partial,
            }
        };
        let (outputs, inputs): (Vec<_>, Vec<_>) = self.bindings.iter().partition(|binding| binding.output);
        let descriptor = Descriptor {
            major: MAJOR,
            name: self.name.clone(),
            inputs: inputs.into_iter().map(describe).collect(),
            outputs: outputs.into_iter().map(describe).collect(),
            cores: self.cores,
            batch: 1,
            rows: self.shapes(),
        };
        descriptor.encode_to_vec()
    }

    /// Reads `networkdesc.bin`.
    ///
    /// # Errors
    /// If it is none, or its rows do not fit its bindings.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let descriptor = Descriptor::decode(bytes).context("networkdesc.bin")?;
        let mut bindings = vec![];
        for (output, list) in [(false, &descriptor.inputs), (true, &descriptor.outputs)] {
            for binding in list {
                let described = if output { &binding.transformed } else { &binding.initial };
                let place = || format!("networkdesc.bin: binding `{}`", binding.name);
                let described = described.as_ref().with_context(place)?;
                let elem = Elem::of(described.elem.unwrap_or(0)).with_context(place)?;
                let dims = lengths(&described.dims).with_context(place)?;
                bindings.push(Binding { name: binding.name.clone(), output, elem, dims, partial: binding.partial });
            }
        }
        let mut rows = vec![];
        for row in &descriptor.rows {
            if row.shapes.len() != bindings.len() {
                bail!("networkdesc.bin: a row has {} shapes for {} bindings", row.shapes.len(), bindings.len());
            }
            rows.push(row.shapes.iter().map(|shape| lengths(&shape.dims)).collect::<Result<_>>()?);
        }
        Ok(Network { name: descriptor.name, cores: descriptor.cores, bindings, rows })
    }

    /// The `IoDesc` that a runtime hands out.
    pub fn io_desc(&self) -> Vec<u8> {
        let bindings = self.bindings.iter().enumerate().map(|(i, binding)| Described {
            name: binding.name.clone(),
            index: i as u32,
            elem: binding.elem as i32,
            direction: i32::from(binding.output),
            scale: 1.0,
            dims: numbers(&binding.dims),
            size: binding.size() as u32,
            partial: binding.partial,
            valid: false,
        });
        let set = IoSet { name: "default".into(), bindings: bindings.collect() };
        let mut selected = set.clone();
        // One of the two sets says this; which, the length of the open runtime's answer does not tell.
        selected.bindings.iter_mut().for_each(|binding| binding.valid = true);
        let desc =
            IoDesc { sets: vec![set], selected: Some(selected), program: self.name.clone(), rows: self.shapes() };
        desc.encode_to_vec()
    }

    fn shapes(&self) -> Vec<Shapes> {
        let shape =
            |(dims, binding): (&Vec<usize>, &Binding)| Shape { elem: Some(binding.elem as i32), dims: numbers(dims) };
        self.rows.iter().map(|row| Shapes { shapes: row.iter().zip(&self.bindings).map(shape).collect() }).collect()
    }
}

fn numbers(dims: &[usize]) -> Vec<i32> {
    dims.iter().map(|&dim| dim as i32).collect()
}

fn lengths(dims: &[i32]) -> Result<Vec<usize>> {
    dims.iter().map(|&dim| usize::try_from(dim).context("a dimension is negative")).collect()
}
