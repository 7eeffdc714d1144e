//! Objects of the library with their owners: what is made first is released last, whatever happens in between.
//!
//! Each object holds an `Arc` of what it was made from, so nothing is released while something above it lives:
//!
//! ```text
//! Execution ─► Activation ─► Program ─► (created) ─► Qpc
//!     Queue ─► Context ◄────────────────────┘
//! ```
//! Making and releasing objects is done by one thread at a time. Calls of different executions may run at once.
#![allow(unsafe_code)]

mod execution;

use std::ffi::{CString, c_void};
use std::path::Path;
use std::ptr;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::error::{CallError, QaicError, Status};
use super::ffi::{self, Block, Bytes, Handle, Library, Resources};
use super::header::Layout;
use super::messages::{self, Moment};

pub use execution::{Execution, Memory};

/// Making and releasing, one at a time, over all libraries: they share a driver.
static MAKING: Mutex<()> = Mutex::new(());

/// Turns a status into an error that says where it comes from.
fn check(status: u32, call: &'static str, on: &str, since: Moment) -> Result<(), QaicError> {
    let status = Status(status);
    if status == Status::SUCCESS {
        return Ok(());
    }
    let error = CallError { call, on: on.to_owned(), status, said: messages::since(since), note: None };
    Err(QaicError::Call(Box::new(error)))
}

/// Releases something. There is nobody left to be told of a failure but whoever watches the log.
fn release(call: &'static str, on: &str, status: u32) {
    if status != Status::SUCCESS.0 {
        tracing::warn!("{call} failed on {on}: {}", Status(status));
    }
}

fn making<T>(of: impl FnOnce() -> T) -> T {
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    of()
}

impl Library {
    /// Its version.
    ///
    /// # Errors
    /// If it does not say.
    pub fn version(&self) -> Result<(u16, u16), QaicError> {
        let (mut major, mut minor) = (0, 0);
        let (mut patch, mut variant) = (ptr::null(), ptr::null());
        let since = messages::now();
        // SAFETY: four places to write to, as the function wants them.
        let status = unsafe { (self.functions().get_version)(&mut major, &mut minor, &mut patch, &mut variant) };
        check(status, "qaicGetAicVersion", self.name(), since)?;
        Ok((major, minor))
    }

    /// What of a card is in use; `None` if the library does not say, or has no such card.
    pub fn resources(&self, card: i32) -> Option<Resources> {
        // A release may have made the struct longer.
        let mut block = Block::zeros();
        // SAFETY: the block is larger than any release's struct.
        let status = unsafe { self.functions().get_resource_info?(card, block.0.as_mut_ptr().cast()) };
        // SAFETY: it begins with the known fields, which are plain numbers, and is aligned for them.
        (status == Status::SUCCESS.0).then(|| unsafe { ptr::read(block.0.as_ptr().cast()) })
    }

    /// Status of a card: 0 starting, 1 ready, 2 in error; an error status if there is no such card.
    pub fn card_status(&self, card: i32) -> Option<Result<u32, Status>> {
        let mut block = Block::zeros();
        // SAFETY: the block is larger than any release's struct.
        let status = Status(unsafe { self.functions().get_device_info?(card, block.0.as_mut_ptr().cast()) });
        let [a, b, c, d, ..] = block.0;
        Some(if status == Status::SUCCESS { Ok(u32::from_ne_bytes([a, b, c, d])) } else { Err(status) })
    }
}

/// Cards that are used together.
#[derive(Debug)]
pub struct Context {
    handle: Handle,
    library: Arc<Library>,
    cards: Vec<i32>,
    on: String,
}

// SAFETY: a handle may be used by any thread; the library locks what it shares, and making and releasing is done by one
// thread at a time ([`MAKING`]).
unsafe impl Send for Context {}
// SAFETY: a shared context is only used to make and release other objects, which is done by one thread at a time.
unsafe impl Sync for Context {}

impl Context {
    /// A context over cards, at least one.
    ///
    /// # Errors
    /// If the library refuses.
    pub fn new(library: Arc<Library>, cards: &[i32]) -> Result<Arc<Self>, QaicError> {
        let count = u32::try_from(cards.len()).map_err(|_| QaicError::Unfit("too many cards".into()))?;
        let on = format!(
            "card{} {}",
            if cards.len() == 1 { "" } else { "s" },
            cards.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
        );
        let mut handle = ptr::null_mut();
        let since = messages::now();
        // SAFETY: a place for the handle, as many cards as said, and callbacks that live as long as the process.
        let status = making(|| unsafe {
            (library.functions().create_context)(
                &mut handle,
                ptr::null(),
                count,
                cards.as_ptr(),
                Some(ffi::log),
                ptr::null_mut(),
                Some(ffi::error),
                ptr::null_mut(),
            )
        });
        check(status, "qaicCreateContext", &on, since)?;
        Ok(Arc::new(Context { handle, library, cards: cards.to_vec(), on }))
    }

    /// The cards.
    pub fn cards(&self) -> &[i32] {
        &self.cards
    }

    /// The cards, for messages.
    pub fn on(&self) -> &str {
        &self.on
    }

    fn first(&self) -> i32 {
        self.cards.first().copied().unwrap_or(0)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and nothing that was made from it lives: all of that holds an `Arc` of this.
        let status = making(|| unsafe { (self.library.functions().release_context)(self.handle) });
        release("qaicReleaseContext", &self.on, status);
    }
}

/// A compiled program, opened.
#[derive(Debug)]
struct Qpc {
    handle: Handle,
    library: Arc<Library>,
}

impl Qpc {
    fn open(library: Arc<Library>, path: &Path) -> Result<Self, QaicError> {
        let refused = || QaicError::Unfit(format!("{}: a path with a zero byte", path.display()));
        let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| refused())?;
        let mut handle = ptr::null_mut();
        let since = messages::now();
        // SAFETY: a place for the handle, and a text that ends with a zero byte.
        let status = making(|| unsafe { (library.functions().open_qpc)(&mut handle, name.as_ptr()) });
        check(status, "qaicOpenQpcFile", &path.display().to_string(), since)?;
        Ok(Qpc { handle, library })
    }
}

impl Drop for Qpc {
    fn drop(&mut self) {
        // SAFETY: the handle is ours; the program that was made from it is gone, it owned this.
        let status = making(|| unsafe { (self.library.functions().close_qpc)(self.handle) });
        release("qaicCloseQpc", "a QPC", status);
    }
}

/// A program that is known to the library, and no more than that.
#[derive(Debug)]
struct Created {
    handle: Handle,
    /// Read by the library until the program is gone.
    _mapping: Option<CString>,
    _qpc: Qpc,
    context: Arc<Context>,
}

// SAFETY: as for `Context`.
unsafe impl Send for Created {}
// SAFETY: as for `Context`.
unsafe impl Sync for Created {}

impl Drop for Created {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and nothing that was made from it lives.
        let status = making(|| unsafe { (self.context.library.functions().release_program)(self.handle) });
        release("qaicReleaseProgram", &self.context.on, status);
    }
}

/// A program on cards, loaded but without cores.
#[derive(Debug)]
pub struct Program {
    created: Created,
}

/// What a program is made with beside its file.
#[derive(Debug, Clone, Copy)]
pub struct Properties<'a> {
    /// Layout of the struct of properties; needed for several cards, otherwise only for the timeout.
    pub layout: Option<&'a Layout>,
    /// When the library gives up a call.
    pub timeout: Duration,
}

impl Program {
    /// A program of a QPC file on the cards of a context, copied there.
    ///
    /// # Errors
    /// If the library refuses, or several cards cannot be named for want of a header.
    pub fn load(context: &Arc<Context>, qpc: &Path, properties: Properties<'_>) -> Result<Arc<Self>, QaicError> {
        let functions = *context.library.functions();
        let opened = Qpc::open(Arc::clone(&context.library), qpc)?;
        let mut block = Block::zeros();
        let since = messages::now();
        // SAFETY: the block is larger than any release's struct, and aligned for any field.
        let status = making(|| unsafe { (functions.init_properties)(block.0.as_mut_ptr().cast()) });
        check(status, "qaicProgramPropertiesInitDefault", context.library.name(), since)?;
        let mapping = device_mapping(context, properties.layout)?;
        if let Some((offset, text)) = &mapping {
            write(&mut block, *offset, &text.as_ptr().expose_provenance().to_ne_bytes())?;
        }
        if let Some(offset) = properties.layout.and_then(|layout| layout.timeout_ms) {
            let milliseconds = u32::try_from(properties.timeout.as_millis()).unwrap_or(u32::MAX);
            write(&mut block, offset, &milliseconds.to_ne_bytes())?;
        }
        let mut handle = ptr::null_mut();
        let since = messages::now();
        // SAFETY: a place for the handle, an initialised struct, a name that ends with a zero byte, and a QPC that is open
        // for as long as the program lives.
        let status = making(|| unsafe {
            let properties: *mut c_void = block.0.as_mut_ptr().cast();
            let (device, name) = (context.first(), c"qeff".as_ptr());
            (functions.create_program)(context.handle, &mut handle, properties, device, name, opened.handle)
        });
        check(status, "qaicCreateProgram", &context.on, since)?;
        let mapping = mapping.map(|(_, text)| text);
        let created = Created { handle, _mapping: mapping, _qpc: opened, context: Arc::clone(context) };
        let since = messages::now();
        // SAFETY: the handle was just made.
        let status = making(|| unsafe { (functions.load_program)(created.handle) });
        check(status, "qaicLoadProgram", &context.on, since)?;
        Ok(Arc::new(Program { created }))
    }

    fn context(&self) -> &Arc<Context> {
        &self.created.context
    }

    /// The descriptor of its inputs and outputs.
    ///
    /// # Errors
    /// If the library refuses.
    pub fn descriptor(&self) -> Result<Vec<u8>, QaicError> {
        let mut bytes = Bytes { size: 0, data: ptr::null_mut() };
        let since = messages::now();
        // SAFETY: a place for the answer.
        let status =
            making(|| unsafe { (self.context().library.functions().get_descriptor)(self.created.handle, &mut bytes) });
        check(status, "qaicProgramGetIoDescriptor", &self.context().on, since)?;
        if bytes.data.is_null() || bytes.size == 0 {
            return Ok(vec![]);
        }
        // SAFETY: the library says that so many bytes are there, and they live as long as the program.
        Ok(unsafe { slice::from_raw_parts(bytes.data, bytes.size) }.to_vec())
    }

    /// Takes cores for the program.
    ///
    /// # Errors
    /// If there are not enough, or the library refuses.
    pub fn activate(self: &Arc<Self>) -> Result<Arc<Activation>, QaicError> {
        let since = messages::now();
        // SAFETY: the program is loaded.
        let status = making(|| unsafe {
            (self.context().library.functions().run_activation)(self.created.handle, ffi::ACTIVATE)
        });
        check(status, "qaicRunActivationCmd", &self.context().on, since)?;
        Ok(Arc::new(Activation { program: Arc::clone(self) }))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let Created { handle, context, .. } = &self.created;
        // SAFETY: the program is loaded, and nothing that was made from it lives.
        let status = making(|| unsafe { (context.library.functions().unload_program)(*handle) });
        release("qaicUnloadProgram", &context.on, status);
    }
}

/// Where the cards of a program are named in its properties, and how; `None` for one card.
fn device_mapping(context: &Context, layout: Option<&Layout>) -> Result<Option<(usize, CString)>, QaicError> {
    if context.cards.len() < 2 {
        return Ok(None);
    }
    let why = |why: String| QaicError::Header { why };
    let layout = layout.ok_or_else(|| {
        why("a program for several cards needs QAicApi.h of the SDK, which says how cards are named, and there is none".into())
    })?;
    let offset = layout.device_mapping.ok_or_else(|| {
        let header = layout.header.display();
        why(format!(
            "{header}: QAicProgramProperties_t has no field devMapping, so a program cannot be put on several cards"
        ))
    })?;
    let text = context.cards.iter().map(i32::to_string).collect::<Vec<_>>().join(":");
    let text = CString::new(text).map_err(|_| why("a card's number has a zero byte".into()))?;
    Ok(Some((offset, text)))
}

fn write(block: &mut Block, offset: usize, bytes: &[u8]) -> Result<(), QaicError> {
    let place = offset.checked_add(bytes.len()).and_then(|end| block.0.get_mut(offset..end));
    let place = place.ok_or_else(|| QaicError::Header {
        why: format!("the header puts a field of QAicProgramProperties_t at byte {offset}, past any known release"),
    })?;
    place.copy_from_slice(bytes);
    Ok(())
}

/// A program that has its cores.
#[derive(Debug)]
pub struct Activation {
    program: Arc<Program>,
}

impl Drop for Activation {
    fn drop(&mut self) {
        let Created { handle, context, .. } = &self.program.created;
        // SAFETY: the program is active, and nothing that was made from its activation lives.
        let status = making(|| unsafe { (context.library.functions().run_activation)(*handle, ffi::DEACTIVATE) });
        release("qaicRunActivationCmd (deactivate)", &context.on, status);
    }
}

/// Where calls wait for their turn.
#[derive(Debug)]
pub struct Queue {
    handle: Handle,
    /// Handing over calls from two threads at once is not documented.
    turn: Mutex<()>,
    context: Arc<Context>,
}

// SAFETY: as for `Context`.
unsafe impl Send for Queue {}
// SAFETY: calls are handed over by one thread at a time.
unsafe impl Sync for Queue {}

impl Queue {
    /// A queue of the first card, through which all cards of a program are reached.
    ///
    /// # Errors
    /// If the library refuses.
    pub fn new(context: &Arc<Context>) -> Result<Arc<Self>, QaicError> {
        let mut handle = ptr::null_mut();
        let since = messages::now();
        // SAFETY: a place for the handle; default properties.
        let status = making(|| unsafe {
            (context.library.functions().create_queue)(context.handle, &mut handle, ptr::null(), context.first())
        });
        check(status, "qaicCreateQueue", &context.on, since)?;
        Ok(Arc::new(Queue { handle, turn: Mutex::new(()), context: Arc::clone(context) }))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and whatever handed calls to it holds an `Arc` of this.
        let status = making(|| unsafe { (self.context.library.functions().release_queue)(self.handle) });
        release("qaicReleaseQueue", &self.context.on, status);
    }
}
