//! The shortest user of the library: what tests of the stand-in, and people with a card, drive it with.
//!
//! It is no runtime. Every function is one call; what a call answers but 0 is an error with the number. Handles are numbers,
//! so that tests can use them wrongly.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use libloading::Library;

use crate::header::Properties;

/// What a call answers but 0.
pub type Answer<T> = Result<T, u32>;

/// What a listener was told: level and text.
pub type Heard = Arc<Mutex<Vec<(u32, String)>>>;

/// An open library.
pub struct Client {
    library: Library,
}

/// A buffer for a call: bytes with a shape, or left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its numbers, little endian.
    pub bytes: Vec<u8>,
    /// Its shape; `[0]` if it is left out.
    pub dims: Vec<u32>,
    /// Bytes of an element.
    pub elem_size: u32,
}

impl Tensor {
    /// One that is left out.
    pub fn skipped(elem_size: u32) -> Self {
        Tensor { bytes: vec![], dims: vec![0], elem_size }
    }

    /// 64-bit integers.
    pub fn i64(dims: &[u32], numbers: impl IntoIterator<Item = i64>) -> Self {
        let bytes = numbers.into_iter().flat_map(i64::to_le_bytes).collect();
        Tensor { bytes, dims: dims.to_vec(), elem_size: 8 }
    }

    /// 32-bit floats.
    pub fn f32(dims: &[u32], numbers: impl IntoIterator<Item = f32>) -> Self {
        let bytes = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
        Tensor { bytes, dims: dims.to_vec(), elem_size: 4 }
    }

    /// Room for a result.
    pub fn room(dims: &[u32], elem_size: u32) -> Self {
        let count: u32 = dims.iter().product();
        Tensor { bytes: vec![0; (count * elem_size) as usize], dims: dims.to_vec(), elem_size }
    }

    /// The numbers as f32.
    pub fn as_f32(&self) -> Vec<f32> {
        self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

#[repr(C)]
struct QBuffer {
    size: usize,
    buf: *mut u8,
    handle: u64,
    offset: u32,
    kind: u32,
}

#[repr(C)]
struct QBufferDimensions {
    count: u32,
    size_of_elem: u32,
    dims: *mut u32,
}

#[repr(C)]
struct QData {
    size: usize,
    data: *mut u8,
}

extern "C" fn hear(level: u32, text: *const c_char, user: *mut c_void) {
    if user.is_null() || text.is_null() {
        return;
    }
    // Both were handed to `create_context` by us; the list is leaked there, so it is still alive.
    let (text, heard) = unsafe { (std::ffi::CStr::from_ptr(text), &*user.cast::<Mutex<Vec<(u32, String)>>>()) };
    crate::runtime::lock(heard).push((level, text.to_string_lossy().into_owned()));
}

/// What a program is to be like.
#[derive(Debug, Clone, Default)]
pub struct ProgramWish<'a> {
    /// The card, or a negative number.
    pub device: i32,
    /// `devMapping`, put where `layout` says.
    pub mapping: Option<&'a str>,
    /// `dataPathTimeoutMs`, put where `layout` says.
    pub timeout_ms: Option<u32>,
}

macro_rules! symbol {
    ($self:ident, $name:expr, fn($($ty:ty),*)) => {
        // The prototypes are the published ones.
        unsafe {
            let name = CString::new($name).map_err(|_| u32::MAX)?;
            $self
                .library
                .get::<unsafe extern "C" fn($($ty),*) -> u32>(name.as_bytes_with_nul())
                .map_err(|_| u32::MAX)?
        }
    };
}

fn answer<T>(status: u32, value: T) -> Answer<T> {
    if status == 0 { Ok(value) } else { Err(status) }
}

impl Client {
    /// Opens a library.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn open(path: &Path) -> Result<Self> {
        let library = unsafe { Library::new(path) }.with_context(|| path.display().to_string())?;
        Ok(Client { library })
    }

    /// Whether the library has a function.
    pub fn has(&self, name: &str) -> bool {
        let Ok(name) = CString::new(name) else { return false };
        unsafe { self.library.get::<unsafe extern "C" fn()>(name.as_bytes_with_nul()) }.is_ok()
    }

    /// A function that takes a handle and nothing else: all that release, load, unload, clear.
    ///
    /// # Errors
    /// What it answers.
    pub fn one(&self, name: &str, handle: u64) -> Answer<()> {
        let function = symbol!(self, name, fn(*mut c_void));
        answer(unsafe { function(handle as *mut c_void) }, ())
    }

    /// `qaicGetAicVersion`.
    ///
    /// # Errors
    /// What it answers.
    pub fn version(&self) -> Answer<[u16; 2]> {
        let function =
            symbol!(self, "qaicGetAicVersion", fn(*mut u16, *mut u16, *mut *const c_char, *mut *const c_char));
        let (mut major, mut minor) = (0, 0);
        answer(unsafe { function(&raw mut major, &raw mut minor, null_mut(), null_mut()) }, ())?;
        Ok([major, minor])
    }

    /// `devStatus` of `qaicGetDeviceInfo`.
    ///
    /// # Errors
    /// What it answers.
    pub fn device_status(&self, qid: i32) -> Answer<u32> {
        let function = symbol!(self, "qaicGetDeviceInfo", fn(i32, *mut u8));
        let mut block = vec![0u8; 4096];
        answer(unsafe { function(qid, block.as_mut_ptr()) }, ())?;
        Ok(u32::from_le_bytes([block[0], block[1], block[2], block[3]]))
    }

    /// `nspTotal` and `nspFree` of `qaicGetResourceInfo`.
    ///
    /// # Errors
    /// What it answers.
    pub fn cores(&self, qid: i32) -> Answer<(u8, u8)> {
        let function = symbol!(self, "qaicGetResourceInfo", fn(i32, *mut u8));
        let mut block = [0u64; 64];
        answer(unsafe { function(qid, block.as_mut_ptr().cast()) }, ())?;
        let bytes: Vec<u8> = block.iter().flat_map(|word| word.to_le_bytes()).collect();
        Ok((bytes[26], bytes[27]))
    }

    /// `qaicCreateContext`; no devices are all. With a list, what is logged goes there.
    ///
    /// # Errors
    /// What it answers.
    pub fn create_context(&self, devices: &[i32], heard: Option<&Heard>) -> Answer<u64> {
        type Log = extern "C" fn(u32, *const c_char, *mut c_void);
        let function = symbol!(
            self,
            "qaicCreateContext",
            fn(*mut u64, *mut c_void, u32, *const i32, Option<Log>, *mut c_void, *mut c_void, *mut c_void)
        );
        let mut context = 0;
        let (log, user) = match heard {
            // Whoever listens does so until the process ends: the library may speak at any time.
            Some(heard) => (Some(hear as Log), Arc::into_raw(Arc::clone(heard)).cast_mut().cast()),
            None => (None, null_mut()),
        };
        let list = if devices.is_empty() { null() } else { devices.as_ptr() };
        let count = devices.len() as u32;
        let status = unsafe { function(&raw mut context, null_mut(), count, list, log, user, null_mut(), null_mut()) };
        answer(status, context)
    }

    /// `qaicSetLogLevel`.
    ///
    /// # Errors
    /// What it answers.
    pub fn log_level(&self, context: u64, level: u32) -> Answer<()> {
        let function = symbol!(self, "qaicSetLogLevel", fn(u64, u32));
        answer(unsafe { function(context, level) }, ())
    }

    /// `qaicOpenQpcFile`.
    ///
    /// # Errors
    /// What it answers.
    pub fn open_qpc(&self, path: &Path) -> Answer<u64> {
        let function = symbol!(self, "qaicOpenQpcFile", fn(*mut u64, *const c_char));
        let path = CString::new(path.display().to_string()).map_err(|_| u32::MAX)?;
        let mut qpc = 0;
        answer(unsafe { function(&raw mut qpc, path.as_ptr()) }, ()).map(|()| qpc)
    }

    /// `qaicOpenQpc` of bytes that stay where they are for as long as the QPC is open.
    ///
    /// # Errors
    /// What it answers.
    pub fn open_qpc_bytes(&self, bytes: &mut [u8], copy: bool) -> Answer<u64> {
        let function = symbol!(self, "qaicOpenQpc", fn(*mut u64, *mut u8, usize, bool));
        let mut qpc = 0;
        answer(unsafe { function(&raw mut qpc, bytes.as_mut_ptr(), bytes.len(), copy) }, ()).map(|()| qpc)
    }

    /// `qaicCreateProgram`, with properties that were initialised by the library and changed at the places of `layout`.
    ///
    /// # Errors
    /// What it answers.
    pub fn create_program(&self, context: u64, qpc: u64, layout: Properties, wish: &ProgramWish<'_>) -> Answer<u64> {
        let init = symbol!(self, "qaicProgramPropertiesInitDefault", fn(*mut u8));
        // More than any layout needs, and aligned for all of them.
        let mut block = [0u128; 64];
        let properties: *mut u8 = block.as_mut_ptr().cast();
        answer(unsafe { init(properties) }, ())?;
        let mapping = wish.mapping.map(CString::new).transpose().map_err(|_| u32::MAX)?;
        unsafe {
            if let Some(mapping) = &mapping {
                properties.add(layout.dev_mapping).cast::<*const c_char>().write_unaligned(mapping.as_ptr());
            }
            if let Some((ms, at)) = wish.timeout_ms.zip(layout.timeout) {
                properties.add(at).cast::<u32>().write_unaligned(ms);
            }
        }
        let function = symbol!(self, "qaicCreateProgram", fn(u64, *mut u64, *const u8, i32, *const c_char, u64));
        let mut program = 0;
        let status = unsafe { function(context, &raw mut program, properties, wish.device, c"program".as_ptr(), qpc) };
        answer(status, program)
    }

    /// `qaicRunActivationCmd`.
    ///
    /// # Errors
    /// What it answers.
    pub fn activation(&self, program: u64, active: bool) -> Answer<()> {
        let function = symbol!(self, "qaicRunActivationCmd", fn(u64, u32));
        answer(unsafe { function(program, u32::from(!active)) }, ())
    }

    /// `qaicProgramGetIoDescriptor`.
    ///
    /// # Errors
    /// What it answers.
    pub fn io_desc(&self, program: u64) -> Answer<Vec<u8>> {
        let function = symbol!(self, "qaicProgramGetIoDescriptor", fn(u64, *mut QData));
        let mut data = QData { size: 0, data: null_mut() };
        answer(unsafe { function(program, &raw mut data) }, ())?;
        Ok(unsafe { std::slice::from_raw_parts(data.data, data.size) }.to_vec())
    }

    /// `qaicCreateQueue`.
    ///
    /// # Errors
    /// What it answers.
    pub fn create_queue(&self, context: u64, device: i32) -> Answer<u64> {
        let function = symbol!(self, "qaicCreateQueue", fn(u64, *mut u64, *const c_void, i32));
        let mut queue = 0;
        answer(unsafe { function(context, &raw mut queue, null(), device) }, ()).map(|()| queue)
    }

    /// `qaicCreateExecObj` for buffers of ours.
    ///
    /// # Errors
    /// What it answers.
    pub fn create_exec(&self, context: u64, program: u64) -> Answer<u64> {
        let function =
            symbol!(self, "qaicCreateExecObj", fn(u64, *mut u64, *const u32, u64, *const QData, *mut u32, *mut c_void));
        let mut exec = 0;
        let status = unsafe { function(context, &raw mut exec, null(), program, null(), null_mut(), null_mut()) };
        answer(status, exec)
    }

    /// `qaicExecObjSetDataExt`. The bytes of `tensors` are the buffers.
    ///
    /// # Errors
    /// What it answers.
    pub fn set_data(&self, exec: u64, tensors: &mut [Tensor]) -> Answer<()> {
        let function = symbol!(self, "qaicExecObjSetDataExt", fn(u64, u32, *const QBuffer, *const QBufferDimensions));
        let (mut buffers, mut dims) = (vec![], vec![]);
        for tensor in tensors.iter_mut() {
            let buf = if tensor.bytes.is_empty() { null_mut() } else { tensor.bytes.as_mut_ptr() };
            buffers.push(QBuffer { size: tensor.bytes.len(), buf, handle: 0, offset: 0, kind: 0 });
            let count = tensor.dims.len() as u32;
            dims.push(QBufferDimensions { count, size_of_elem: tensor.elem_size, dims: tensor.dims.as_mut_ptr() });
        }
        answer(unsafe { function(exec, buffers.len() as u32, buffers.as_ptr(), dims.as_ptr()) }, ())
    }

    /// `qaicEnqueueExecObj`; no event is 0.
    ///
    /// # Errors
    /// What it answers.
    pub fn enqueue(&self, queue: u64, exec: u64, event: u64) -> Answer<()> {
        let function = symbol!(self, "qaicEnqueueExecObj", fn(u64, u64, u64));
        answer(unsafe { function(queue, exec, event) }, ())
    }

    /// `qaicExecObjWaitForCompletion`, in microseconds.
    ///
    /// # Errors
    /// What it answers.
    pub fn wait(&self, exec: u64, timeout_us: u32) -> Answer<()> {
        let function = symbol!(self, "qaicExecObjWaitForCompletion", fn(u64, u32));
        answer(unsafe { function(exec, timeout_us) }, ())
    }

    /// `qaicCreateEvent`.
    ///
    /// # Errors
    /// What it answers.
    pub fn create_event(&self, context: u64) -> Answer<u64> {
        let function = symbol!(self, "qaicCreateEvent", fn(u64, *mut u64, u32));
        let mut event = 0;
        answer(unsafe { function(context, &raw mut event, 0) }, ()).map(|()| event)
    }

    /// One run from buffers to results.
    ///
    /// # Errors
    /// What the first call answers that fails.
    pub fn run(&self, queue: u64, exec: u64, tensors: &mut [Tensor]) -> Answer<()> {
        self.set_data(exec, tensors)?;
        self.enqueue(queue, exec, 0)?;
        self.wait(exec, 60_000_000)
    }
}
