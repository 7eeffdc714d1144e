//! What a program takes and gives: bindings, the shapes that a call may have, and which bindings are states.

use super::messages::{Form, IoDesc, NetworkDescriptor, Shapes};

/// Largest dimension and largest binding, in elements: a slip in a file must not look like a large model.
const MOST: u64 = 1 << 40;

/// Endings of the output that carries a state to the next call; the second is what sub-functions leave.
const RETAINED: [&str; 2] = ["_RetainedState", "_InternalRetainedState"];

/// Element type of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elem {
    /// float32.
    F32,
    /// float16.
    F16,
    /// bfloat16, of newer SDKs.
    Bf16,
    /// int8, quantised or not.
    I8,
    /// uint8, quantised.
    U8,
    /// int16, quantised.
    I16,
    /// int32.
    I32,
    /// int64.
    I64,
    /// A number that is not known.
    Other(i32),
}

impl Elem {
    fn of(kind: i32) -> Self {
        match kind {
            0 => Elem::F32,
            1 => Elem::F16,
            2 | 8 => Elem::I8,
            3 => Elem::U8,
            4 => Elem::I16,
            5 | 6 => Elem::I32,
            7 => Elem::I64,
            11 => Elem::Bf16,
            other => Elem::Other(other),
        }
    }

    /// Bytes of an element; `None` if the type is not known.
    pub fn bytes(self) -> Option<usize> {
        Some(match self {
            Elem::F32 | Elem::I32 => 4,
            Elem::F16 | Elem::Bf16 | Elem::I16 => 2,
            Elem::I8 | Elem::U8 => 1,
            Elem::I64 => 8,
            Elem::Other(_) => return None,
        })
    }

    /// The word for people.
    pub fn name(self) -> String {
        match self {
            Elem::F32 => "f32".into(),
            Elem::F16 => "f16".into(),
            Elem::Bf16 => "bf16".into(),
            Elem::I8 => "i8".into(),
            Elem::U8 => "u8".into(),
            Elem::I16 => "i16".into(),
            Elem::I32 => "i32".into(),
            Elem::I64 => "i64".into(),
            Elem::Other(kind) => format!("type {kind}"),
        }
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the device.
    Input,
    /// From the device.
    Output,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// Its name.
    pub name: String,
    /// Element type.
    pub elem: Elem,
    /// The largest dimensions that it has in any call.
    pub dims: Vec<u32>,
    /// Which way.
    pub direction: Direction,
    /// Whether a call may leave it out, as states are.
    pub partial: bool,
}

impl Binding {
    /// The name without what a layer-wise export puts before it, and with the public ending of states.
    pub fn public_name(&self) -> String {
        let name = self.name.rsplit('/').next().unwrap_or(&self.name);
        match name.strip_suffix(RETAINED[1]) {
            Some(state) => format!("{state}{}", RETAINED[0]),
            None => name.to_owned(),
        }
    }

    /// The state that this output is the next value of.
    fn state_name(&self) -> Option<String> {
        (self.direction == Direction::Output)
            .then(|| self.public_name().strip_suffix(RETAINED[0]).map(str::to_owned))?
    }
}

/// Numbers of the bindings of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The input.
    pub input: usize,
    /// The output that is its next value.
    pub output: usize,
}

/// Why a descriptor contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceError {
    /// No form.
    #[error("binding `{0}` has neither type nor dimensions")]
    NoForm(String),
    /// A dimension that cannot be.
    #[error("`{name}` has dimensions {dims:?}; expected numbers that are not negative, and at most 2^40 elements")]
    Dims {
        /// Binding.
        name: String,
        /// The dimensions.
        dims: Vec<i32>,
    },
    /// A row of shapes for another number of bindings.
    #[error("shapes {row} are {found}, and there are {bindings} bindings")]
    Row {
        /// Number of the row.
        row: usize,
        /// Shapes in it.
        found: usize,
        /// Bindings.
        bindings: usize,
    },
    /// Two bindings of one name.
    #[error("two bindings are called `{0}`")]
    Twice(String),
    /// Bindings whose numbers are not 0, 1, 2, ….
    #[error("binding `{name}` is in place {place} and has number {index}")]
    Order {
        /// Binding.
        name: String,
        /// Where it stands.
        place: usize,
        /// The number it has.
        index: u32,
    },
    /// No bindings were selected.
    #[error("no set of bindings is selected")]
    NoSet,
}

/// Inputs and outputs of a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Name of the program.
    pub program: String,
    /// Inputs, then outputs. Their places are the numbers by which calls refer to them.
    pub bindings: Vec<Binding>,
    /// For each specialization, the dimensions of all bindings. At least one.
    pub rows: Vec<Vec<Vec<u32>>>,
}

impl Interface {
    pub(super) fn of_network(network: &NetworkDescriptor) -> Result<Self, InterfaceError> {
        let binding = |name: &str, form: Option<&Form>, direction, partial| {
            let form = form.ok_or_else(|| InterfaceError::NoForm(name.to_owned()))?;
            let dims = dims(name, &form.dims)?;
            Ok(Binding { name: name.to_owned(), elem: Elem::of(form.kind), dims, direction, partial })
        };
        // What the host hands over is an input before its conversion, and an output after it.
        let inputs =
            network.inputs.iter().map(|b| binding(&b.name, b.initial.as_ref(), Direction::Input, b.is_partial_allowed));
        let outputs = network
            .outputs
            .iter()
            .map(|b| binding(&b.name, b.transformed.as_ref(), Direction::Output, b.is_partial_allowed));
        let bindings = inputs.chain(outputs).collect::<Result<_, _>>()?;
        Interface::new(network.network_name.clone(), bindings, &network.allowed_shapes)
    }

    pub(super) fn of_descriptor(descriptor: &IoDesc) -> Result<Self, InterfaceError> {
        let set = descriptor.selected_set.as_ref().ok_or(InterfaceError::NoSet)?;
        let mut bindings = vec![];
        for (place, b) in set.bindings.iter().enumerate() {
            if b.index as usize != place {
                return Err(InterfaceError::Order { name: b.name.clone(), place, index: b.index });
            }
            bindings.push(Binding {
                name: b.name.clone(),
                elem: Elem::of(b.kind),
                dims: dims(&b.name, &b.dims)?,
                direction: if b.dir == 0 { Direction::Input } else { Direction::Output },
                partial: b.is_partial_buf_allowed,
            });
        }
        Interface::new(descriptor.program_name.clone(), bindings, &descriptor.allowed_shapes)
    }

    fn new(program: String, bindings: Vec<Binding>, shapes: &[Shapes]) -> Result<Self, InterfaceError> {
        let mut names: Vec<&str> = bindings.iter().map(|binding| binding.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InterfaceError::Twice(twice[0].to_owned()));
        }
        let mut rows = vec![];
        for (row, Shapes { shapes }) in shapes.iter().enumerate() {
            if shapes.len() != bindings.len() {
                return Err(InterfaceError::Row { row, found: shapes.len(), bindings: bindings.len() });
            }
            let of_row = shapes.iter().zip(&bindings).map(|(shape, binding)| dims(&binding.name, &shape.dims));
            rows.push(of_row.collect::<Result<_, _>>()?);
        }
        // A program of a single specialization does not list it.
        if rows.is_empty() {
            rows.push(bindings.iter().map(|binding| binding.dims.clone()).collect());
        }
        Ok(Interface { program, bindings, rows })
    }

    /// Number of the binding of a name: its own, the part after the last `/`, or that of a state without `Internal`.
    pub fn find(&self, name: &str) -> Option<usize> {
        let exact = self.bindings.iter().position(|binding| binding.name == name);
        exact.or_else(|| self.bindings.iter().position(|binding| binding.public_name() == name))
    }

    /// Number of the input of a name.
    pub fn input(&self, name: &str) -> Option<usize> {
        self.find(name).filter(|&i| self.bindings[i].direction == Direction::Input)
    }

    /// Number of the output of a name.
    pub fn output(&self, name: &str) -> Option<usize> {
        self.find(name).filter(|&i| self.bindings[i].direction == Direction::Output)
    }

    /// States, in the order of their outputs: an output `X_RetainedState` belongs to the input `X`.
    pub fn states(&self) -> Vec<State> {
        let outputs = self.bindings.iter().enumerate();
        outputs
            .filter_map(|(output, binding)| Some(State { input: self.input(&binding.state_name()?)?, output }))
            .collect()
    }
}

/// Dimensions that are numbers of elements.
fn dims(name: &str, dims: &[i32]) -> Result<Vec<u32>, InterfaceError> {
    let refused = || InterfaceError::Dims { name: name.to_owned(), dims: dims.iter().take(16).copied().collect() };
    let checked: Vec<u32> =
        dims.iter().map(|&dim| u32::try_from(dim)).collect::<Result<_, _>>().map_err(|_| refused())?;
    let count = checked.iter().try_fold(1u64, |count, &dim| count.checked_mul(dim.into()).filter(|&n| n <= MOST));
    if count.is_none() { Err(refused()) } else { Ok(checked) }
}
