//! Calls of ONNX Runtime over memory that somebody else owns: the one place of this engine that is `unsafe`.
//!
//! The `ort` crate has no safe form for two things that a language model needs: weights that nobody copies, and a value
//! that is input and output at once. The C interface allows both as long as memory outlives its use, and that is what the
//! types here see to:
//!
//! - [`LoadedSession`] keeps the mappings of its weights for as long as the session lives, and drops them after it. ONNX
//!   Runtime never writes to an input or an initializer.
//! - [`LoadedSession::run`] borrows states exclusively, and values over them end with the call. A state may be read and
//!   written at once because the one operator that writes it, `ScatterND`, is declared to work in place; nothing reads the
//!   old rows afterwards, which is what "attention reads the newest version" means (`lower::cpu`).
#![allow(unsafe_code)]

use std::ffi::{CString, NulError, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use ort::AsPointer as _;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::MemoryInfo;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::sys::{ONNXTensorElementDataType as ElementType, OrtStatusPtr, OrtValue};
use ort::value::DynValue;
use qeff_core::mapping::{Mapping, MappingError};
use qeff_core::weights::Placement;
use qeff_plugin_api::DType;

use crate::runtime::cpu::engine::StateBuffer;
use crate::runtime::{Data, Tensor};

/// Has libraries that are loaded from here on send nothing to anybody.
///
/// From 1.29 on, the builds of its makers report to them how they are used, and leave an identifier of the machine in the
/// temporary folder. Turning that off on an environment comes too late, since making one is reported; this variable is the
/// switch that is read before.
pub(super) fn disable_telemetry() {
    // SAFETY: the standard library locks its own reads; what else might read the environment at this moment is code that
    // is not Rust's, and none has been loaded before the library that this is for.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") }
}

/// Why a session cannot be made or called.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// ONNX Runtime said no.
    #[error("{0}")]
    Ort(String),
    /// A weight lies outside its file.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// A name that C cannot hold.
    #[error("a name holds a zero byte: {0}")]
    Name(#[from] NulError),
    /// Names, inputs and states do not go together.
    #[error("the call has {found} values, expected {expected}")]
    Count {
        /// Inputs and states of the call.
        found: usize,
        /// Names.
        expected: usize,
    },
    /// A shape whose numbers are more than its memory holds.
    #[error("a tensor of shape {shape:?} needs more than the {bytes} bytes it has")]
    Shape {
        /// The shape.
        shape: Vec<i64>,
        /// Bytes there.
        bytes: usize,
    },
}

impl<R> From<ort::Error<R>> for SessionError {
    fn from(error: ort::Error<R>) -> Self {
        SessionError::Ort(error.message().to_owned())
    }
}

/// A weight where it lies.
pub(super) struct Weight<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: DType,
    pub(super) shape: &'a [u64],
    pub(super) file: &'a Arc<Mapping>,
    pub(super) place: &'a Placement,
}

/// A model, and the weights it takes by name.
pub(super) struct Model<'a> {
    /// The file.
    pub(super) bytes: &'a [u8],
    /// Weights that the file declares as inputs.
    pub(super) inputs: Vec<Weight<'a>>,
    /// Weights that the file declares as external initializers.
    pub(super) initializers: Vec<Weight<'a>>,
}

/// Names of what a call hands over and gets back, in order.
pub(super) struct Names {
    inputs: Vec<CString>,
    outputs: Vec<CString>,
}

impl Names {
    pub(super) fn new<'a>(
        inputs: impl Iterator<Item = &'a String>,
        outputs: impl Iterator<Item = &'a String>,
    ) -> Result<Self, SessionError> {
        let owned = |name: &String| CString::new(name.as_str());
        Ok(Names {
            inputs: inputs.map(owned).collect::<Result<_, _>>()?,
            outputs: outputs.map(owned).collect::<Result<_, _>>()?,
        })
    }
}

/// A session over weights that it does not own. Fields are dropped in their order: the session goes first.
pub(super) struct LoadedSession {
    session: Session,
    /// What every call hands over beside its own values.
    weights: Bound,
    _initializers: Bound,
}

/// Values over mapped files by their names. Fields are dropped in their order: the values go before what they point into.
#[derive(Default)]
struct Bound {
    names: Vec<CString>,
    values: Vec<Value<'static>>,
    mappings: Vec<Arc<Mapping>>,
}

impl Bound {
    fn new(weights: &[Weight<'_>]) -> Result<Self, SessionError> {
        let mut bound = Bound::default();
        for weight in weights {
            let Placement { offset, length, .. } = *weight.place;
            let bytes = weight.file.bytes(offset..offset.saturating_add(length))?;
            // SAFETY: the bytes stay mapped while the mapping is held, which is longer than the value.
            let bytes: &'static [u8] = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
            let shape: Vec<i64> = weight.shape.iter().map(|&n| n as i64).collect();
            bound.mappings.push(Arc::clone(weight.file));
            bound.values.push(Value::reading(bytes, weight.dtype, &shape)?);
            bound.names.push(CString::new(weight.name)?);
        }
        Ok(bound)
    }
}

impl LoadedSession {
    pub(super) fn new(environment: &Environment, model: &Model<'_>) -> Result<Self, SessionError> {
        let mut builder = SessionBuilder::new(environment)?.with_log_level(LogLevel::Fatal)?;
        let weights = Bound::new(&model.inputs)?;
        let initializers = Bound::new(&model.initializers)?;
        let options = builder.ptr_mut();
        let (names, values) = (pointers(&initializers.names), feeds(&initializers.values));
        // What stands for the external data while the graph is read …
        if !names.is_empty() {
            // SAFETY: builder and values are live; names are copied, and the values outlive the session.
            checked(unsafe {
                (ort::api().AddExternalInitializers)(options, names.as_ptr(), values.as_ptr(), names.len())
            })?;
        }
        // … and what kernels use, where the former alone would be copied for good.
        for (&name, &value) in names.iter().zip(&values) {
            // SAFETY: as above.
            checked(unsafe { (ort::api().AddInitializer)(options, name, value) })?;
        }
        let session = builder.commit_from_memory(model.bytes)?;
        Ok(LoadedSession { session, weights, _initializers: initializers })
    }

    /// One call; `states` are updated in place.
    pub(super) fn run(
        &mut self,
        names: &Names,
        inputs: &[&Tensor],
        states: &mut [StateBuffer],
    ) -> Result<Vec<Tensor>, SessionError> {
        let state_count = states.len();
        let count = inputs.len() + state_count;
        let given = names.outputs.len().checked_sub(state_count);
        let Some(given) = given.filter(|_| count == names.inputs.len()) else {
            return Err(SessionError::Count { found: count, expected: names.inputs.len() });
        };
        let mut values = Vec::with_capacity(count);
        for input in inputs {
            let shape: Vec<i64> = input.shape.iter().map(|&n| n as i64).collect();
            let (bytes, dtype) = bytes_of(&input.data);
            values.push(Value::reading(bytes, dtype, &shape)?);
        }
        for state in states {
            values.push(Value::updating(state)?);
        }
        // A null output is allocated by the engine; the others are the states themselves.
        let mut results = vec![ptr::null_mut::<OrtValue>(); given];
        results.extend(values[values.len() - state_count..].iter().map(Value::pointer));
        let mut input_names = pointers(&names.inputs);
        input_names.extend(pointers(&self.weights.names));
        let mut inputs = feeds(&values);
        inputs.extend(feeds(&self.weights.values));
        let output_names = pointers(&names.outputs);
        // SAFETY: all lists have the lengths that are given, and live through the call, as does all memory behind the
        // values: integers are read only, states are borrowed exclusively.
        checked(unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                ptr::null(),
                input_names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                output_names.as_ptr(),
                output_names.len(),
                results.as_mut_ptr(),
            )
        })?;
        results[..given].iter().map(|&result| self.given(result)).collect()
    }

    /// A result that the engine allocated, which is released here.
    fn given(&self, result: *mut OrtValue) -> Result<Tensor, SessionError> {
        let result = NonNull::new(result).ok_or_else(|| SessionError::Ort("a result is missing".into()))?;
        // SAFETY: the call succeeded, so this is a tensor that the session's allocator made and nobody else releases.
        let result: DynValue = unsafe { DynValue::from_ptr(result, Some(self.session.allocator())) };
        let lengths = |shape: &[i64]| shape.iter().map(|&n| n as usize).collect::<Vec<_>>();
        if let Ok((shape, numbers)) = result.try_extract_tensor::<f32>() {
            return Ok(Tensor::floats(lengths(shape), numbers.to_vec()));
        }
        if let Ok((shape, numbers)) = result.try_extract_tensor::<i64>() {
            return Ok(Tensor::integers(lengths(shape), numbers.to_vec()));
        }
        let (shape, flags) = result.try_extract_tensor::<bool>()?;
        Ok(Tensor { shape: lengths(shape), data: Data::Bool(flags.to_vec()) })
    }
}

/// A tensor over memory of somebody else's, who keeps it for `'m`.
struct Value<'m> {
    pointer: NonNull<OrtValue>,
    memory: PhantomData<&'m mut [u8]>,
}

impl<'m> Value<'m> {
    /// A tensor that is only read: an input or an initializer.
    fn reading(bytes: &'m [u8], dtype: DType, shape: &[i64]) -> Result<Self, SessionError> {
        // The interface has no pointer to constant memory; what is never an output is never written.
        Self::over(bytes.as_ptr().cast_mut(), bytes.len(), dtype, shape)
    }

    /// A tensor that may be input and output.
    fn updating(state: &'m mut StateBuffer) -> Result<Self, SessionError> {
        let shape = state.shape.map(|n| n as i64);
        Self::over(state.data.as_mut_ptr().cast(), size_of_val(state.data.as_slice()), DType::F32, &shape)
    }

    fn over(start: *mut u8, bytes: usize, dtype: DType, shape: &[i64]) -> Result<Self, SessionError> {
        let count = shape.iter().try_fold(1usize, |count, &n| count.checked_mul(usize::try_from(n).ok()?));
        let needed = count.and_then(|count| count.checked_mul(dtype.size()));
        if needed.is_none_or(|needed| needed > bytes) {
            return Err(SessionError::Shape { shape: shape.to_vec(), bytes });
        }
        let info = MemoryInfo::default();
        let mut pointer = ptr::null_mut();
        // SAFETY: the memory has at least the bytes that the shape needs, and every list the length that is given.
        checked(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                info.ptr(),
                start.cast::<c_void>(),
                bytes,
                shape.as_ptr(),
                shape.len(),
                element_type(dtype),
                &mut pointer,
            )
        })?;
        let pointer = NonNull::new(pointer).ok_or_else(|| SessionError::Ort("a tensor was not made".into()))?;
        Ok(Value { pointer, memory: PhantomData })
    }

    fn pointer(&self) -> *mut OrtValue {
        self.pointer.as_ptr()
    }
}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `over`, released once; the memory behind it is not the value's.
        unsafe { (ort::api().ReleaseValue)(self.pointer.as_ptr()) }
    }
}

fn pointers(names: &[CString]) -> Vec<*const c_char> {
    names.iter().map(|name| name.as_ptr()).collect()
}

fn feeds(values: &[Value<'_>]) -> Vec<*const OrtValue> {
    values.iter().map(|value| value.pointer().cast_const()).collect()
}

fn bytes_of(data: &Data) -> (&[u8], DType) {
    fn raw<T>(numbers: &[T]) -> &[u8] {
        // SAFETY: used for numbers and flags, which have no padding; bytes need no alignment.
        unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
    }
    match data {
        Data::F32(numbers) => (raw(numbers), DType::F32),
        Data::I64(numbers) => (raw(numbers), DType::I64),
        Data::Bool(flags) => (raw(flags), DType::Bool),
    }
}

/// The error of a call, if it failed. Takes the status over.
fn checked(status: OrtStatusPtr) -> Result<(), SessionError> {
    // SAFETY: every status comes straight from a call of the interface.
    Ok(unsafe { ort::Error::result_from_status(status) }?)
}

fn element_type(dtype: DType) -> ElementType {
    match dtype {
        DType::F64 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DType::F32 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DType::F16 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DType::BF16 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DType::I64 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DType::I32 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DType::I16 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DType::I8 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DType::U8 => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DType::Bool => ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
    }
}
