//! The C interface of `libQAic.so`, as far as it is used: functions by name, structs, numbers.
//!
//! Functions are looked up one by one; the table that the library also offers has an order that is not published. Structs
//! are those whose layout is the same in all known releases, and their sizes are checked when this is compiled. The one
//! struct that differs, `QAicProgramProperties_t`, is a block of bytes here, of which only places that the installed header
//! names are written ([`super::header`]).
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::mem::{ManuallyDrop, offset_of, size_of};
use std::path::Path;
use std::ptr;

use super::error::QaicError;
use super::messages;

/// A handle of the library.
pub type Handle = *mut c_void;
/// A status as C returns it.
pub type RawStatus = u32;

/// Memory of one binding in one call.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Buffer {
    /// Bytes; 0 leaves the binding out.
    pub size: usize,
    /// The bytes.
    pub data: *mut u8,
    /// For other kinds of memory.
    pub handle: u64,
    /// For other kinds of memory.
    pub offset: u32,
    /// [`Buffer::HEAP`].
    pub kind: u32,
}

impl Buffer {
    /// Ordinary memory.
    pub const HEAP: u32 = 0;
    /// Leaves the binding out.
    pub const NONE: Buffer = Buffer { size: 0, data: ptr::null_mut(), handle: 0, offset: 0, kind: Buffer::HEAP };
}

/// Dimensions of one binding in one call, which choose the specialization.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Dimensions {
    /// How many.
    pub count: u32,
    /// Bytes of an element.
    pub elem_size: u32,
    /// The dimensions.
    pub dims: *mut u32,
}

/// Bytes that the library owns.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Bytes {
    /// How many.
    pub size: usize,
    /// The bytes.
    pub data: *mut u8,
}

/// What of a card is in use.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Resources {
    /// Kind of reservation.
    pub reservation: i32,
    /// Memory.
    pub dram_total: u64,
    /// Memory that is free.
    pub dram_free: u64,
    /// Virtual channels.
    pub vc_total: u8,
    /// Those that are free.
    pub vc_free: u8,
    /// Cores.
    pub nsp_total: u8,
    /// Cores that are free.
    pub nsp_free: u8,
    /// Multicast ids.
    pub mcid_total: u32,
    /// Those that are free.
    pub mcid_free: u32,
    /// Semaphores.
    pub sem_total: u32,
    /// Those that are free.
    pub sem_free: u32,
    /// Physical channels.
    pub pc_total: u8,
    /// Those that are reserved.
    pub pc_reserved: u8,
    /// Kind of card.
    pub sku: u8,
}

/// A block for structs whose layout is not known: larger than any release's, aligned for any field.
#[derive(Debug, Clone)]
#[repr(C, align(16))]
pub struct Block(pub [u8; 4096]);

impl Block {
    /// Zeros.
    pub fn zeros() -> Box<Self> {
        Box::new(Block([0; 4096]))
    }
}

// What the headers of the open runtime measure on x86-64 and aarch64.
const _: () = {
    assert!(size_of::<usize>() == 8);
    assert!(size_of::<Buffer>() == 32 && offset_of!(Buffer, handle) == 16 && offset_of!(Buffer, kind) == 28);
    assert!(
        size_of::<Dimensions>() == 16 && offset_of!(Dimensions, elem_size) == 4 && offset_of!(Dimensions, dims) == 8
    );
    assert!(size_of::<Bytes>() == 16 && offset_of!(Bytes, data) == 8);
    // The real one has 56 bytes: after the last field that is known come others.
    assert!(size_of::<Resources>() <= 56 && offset_of!(Resources, nsp_total) == 26 && offset_of!(Resources, sku) == 46);
    assert!(offset_of!(Resources, dram_free) == 16 && offset_of!(Resources, mcid_total) == 28);
};

/// `QAicProgramActivationCmd`: take cores and memory.
pub const ACTIVATE: u32 = 0;
/// `QAicProgramActivationCmd`: give them back.
pub const DEACTIVATE: u32 = 1;
/// `QLogLevel`: what went wrong or may do so.
const LOG_WARN: u32 = 2;

/// Told what the library logs.
pub type LogCallback = unsafe extern "C" fn(level: u32, message: *const c_char);
/// Told of errors that have no call to be returned from.
pub type ErrorHandler = unsafe extern "C" fn(
    context: usize,
    message: *const c_char,
    kind: u32,
    data: *const c_void,
    size: usize,
    user: *mut c_void,
);

macro_rules! functions {
    ($($(#[$doc:meta])* $field:ident = $symbol:literal ($($argument:ty),* $(,)?);)*) => {
        /// Functions that are called.
        #[derive(Debug, Clone, Copy)]
        pub struct Functions {
            $($(#[$doc])* #[doc = concat!(" `", $symbol, "`.")] pub $field: unsafe extern "C" fn($($argument),*) -> RawStatus,)*
            /// `qaicGetDeviceInfo`, where there is one.
            pub get_device_info: Option<unsafe extern "C" fn(i32, *mut c_void) -> RawStatus>,
            /// `qaicGetResourceInfo`, where there is one.
            pub get_resource_info: Option<unsafe extern "C" fn(i32, *mut Resources) -> RawStatus>,
        }

        impl Functions {
            fn of(library: &libloading::Library, path: &Path) -> Result<Self, QaicError> {
                $(
                    // SAFETY: the type is that of the documented prototype; the pointer is only used while the library
                    // is loaded, which is until the process ends.
                    let $field = *unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) -> RawStatus>($symbol.as_bytes())
                    }
                    .map_err(|_| QaicError::Symbol { library: path.to_owned(), symbol: $symbol })?;
                )*
                // SAFETY: as above.
                let get_device_info = unsafe { library.get(b"qaicGetDeviceInfo") }.ok().map(|symbol| *symbol);
                // SAFETY: as above.
                let get_resource_info = unsafe { library.get(b"qaicGetResourceInfo") }.ok().map(|symbol| *symbol);
                Ok(Functions { $($field,)* get_device_info, get_resource_info })
            }
        }
    };
}

functions! {
    /// Version of the library.
    get_version = "qaicGetAicVersion" (*mut u16, *mut u16, *mut *const c_char, *mut *const c_char);
    /// A context over cards.
    create_context = "qaicCreateContext" (
        *mut Handle, *const c_void, u32, *const i32, Option<LogCallback>, *mut c_void, Option<ErrorHandler>, *mut c_void,
    );
    /// Ends a context.
    release_context = "qaicReleaseContext" (Handle);
    /// A compiled program from its file.
    open_qpc = "qaicOpenQpcFile" (*mut Handle, *const c_char);
    /// Ends it.
    close_qpc = "qaicCloseQpc" (Handle);
    /// Defaults of a program's properties.
    init_properties = "qaicProgramPropertiesInitDefault" (*mut c_void);
    /// A program on cards.
    create_program = "qaicCreateProgram" (Handle, *mut Handle, *mut c_void, i32, *const c_char, Handle);
    /// Ends it.
    release_program = "qaicReleaseProgram" (Handle);
    /// Copies it to the cards.
    load_program = "qaicLoadProgram" (Handle);
    /// Removes it from them.
    unload_program = "qaicUnloadProgram" (Handle);
    /// Takes cores for it, or gives them back.
    run_activation = "qaicRunActivationCmd" (Handle, u32);
    /// Its inputs and outputs.
    get_descriptor = "qaicProgramGetIoDescriptor" (Handle, *mut Bytes);
    /// A queue.
    create_queue = "qaicCreateQueue" (Handle, *mut Handle, *const c_void, i32);
    /// Ends it.
    release_queue = "qaicReleaseQueue" (Handle);
    /// What one call after the other is made with.
    create_execution = "qaicCreateExecObj" (
        Handle, *mut Handle, *const c_void, Handle, *const Bytes, *mut u32, *mut *mut Buffer,
    );
    /// Ends it.
    release_execution = "qaicReleaseExecObj" (Handle);
    /// Memory and dimensions of its next call.
    set_data = "qaicExecObjSetDataExt" (Handle, u32, *mut Buffer, *mut Dimensions);
    /// Hands the call to a queue.
    enqueue = "qaicEnqueueExecObj" (Handle, Handle, Handle);
    /// Waits for it, at most so many microseconds.
    wait = "qaicExecObjWaitForCompletion" (Handle, u32);
}

/// The library, for as long as the process lives: its threads outlive what they were made for.
#[derive(Debug)]
pub struct Library {
    functions: Functions,
    name: String,
    _loaded: Option<ManuallyDrop<libloading::Library>>,
}

impl Library {
    /// Opens a library.
    ///
    /// # Errors
    /// If it cannot be opened, or lacks a function.
    pub fn open(path: &Path, by: &str) -> Result<Self, QaicError> {
        // SAFETY: opening a library runs its code. It is the one that the user or the installation names, and without it
        // there is nothing to run on.
        let loaded = unsafe { libloading::Library::new(path) }.map_err(|error| QaicError::Library {
            library: path.to_owned(),
            by: by.to_owned(),
            why: match std::error::Error::source(&error) {
                Some(cause) => cause.to_string(),
                None => error.to_string(),
            },
        })?;
        let functions = Functions::of(&loaded, path)?;
        Ok(Library { functions, name: path.display().to_string(), _loaded: Some(ManuallyDrop::new(loaded)) })
    }

    /// A library of functions that are already there.
    ///
    /// # Safety
    /// They must behave as the C interface says.
    pub unsafe fn of(functions: Functions, name: &str) -> Self {
        Library { functions, name: name.to_owned(), _loaded: None }
    }

    /// Its functions.
    pub(super) fn functions(&self) -> &Functions {
        &self.functions
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Remembers what the library logs, if it matters.
pub(super) unsafe extern "C" fn log(level: u32, message: *const c_char) {
    // Debug messages are for whoever looks at the library's own log.
    if level >= LOG_WARN {
        // SAFETY: the library hands over a text that ends with a zero byte and lives as long as this call.
        unsafe { hear(message) }
    }
}

/// Remembers an error.
pub(super) unsafe extern "C" fn error(
    _context: usize,
    message: *const c_char,
    _kind: u32,
    _data: *const c_void,
    _size: usize,
    _user: *mut c_void,
) {
    // SAFETY: as in `log`.
    unsafe { hear(message) }
}

/// # Safety
/// `message` is null, or a text that ends with a zero byte and lives as long as this call.
unsafe fn hear(message: *const c_char) {
    /// No text lies in the first page. A release that hands its arguments over in another order would give a small number.
    const FIRST_PAGE: usize = 4096;
    if message.addr() >= FIRST_PAGE {
        // SAFETY: what the caller promises.
        messages::hear(&unsafe { CStr::from_ptr(message) }.to_string_lossy());
    }
}
