//! The C functions of `libQAic.so`, with their published names, signatures and structures.
//!
//! Exactly the functions whose prototypes are published: a host that calls a guessed name fails to find it here as it may
//! there. Not there: the table of functions (its order is not published), the list of devices (nobody has seen its
//! prototype), callbacks of events (nor theirs), program groups, DMA buffers and slices.
//!
//! The only `unsafe` of the crate. What it rests on is what the real library rests on: pointers are what the prototypes say,
//! and buffers live until the wait returns.

#![allow(unsafe_code)]
// Names are the library's, and what may go wrong with a pointer is the same for all.
#![allow(clippy::missing_safety_doc, non_snake_case, unreachable_pub)]

mod calls;
mod cards;
mod contexts;
mod layout;
mod programs;

use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;

use serde_json::Value as Json;

use crate::runtime::objects::spell;
use crate::runtime::status::{Fail, Status};
use crate::runtime::{Memory, Runtime};

/// An opaque pointer: one of our handles.
type Handle = *mut c_void;

type LogCallback = unsafe extern "C" fn(u32, *const c_char, *mut c_void);

/// The library. It finds its SDK by its own path: `ROOT/dev/lib/x86_64/libQAic.so`.
fn runtime() -> Result<&'static Runtime, Status> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new(root()).ok()).as_ref().ok_or(Status::ERROR)
}

fn root() -> Option<PathBuf> {
    let here = cards::qaicGetAicVersion as *const () as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (begin, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        (number(begin)? <= here && here < number(end)?).then(|| rest.find('/').map(|at| PathBuf::from(&rest[at..])))?
    })?;
    path.ancestors().nth(4).map(PathBuf::from).filter(|root| root.join(crate::config::FILE).is_file())
}

/// Does a call; a panic is a status, since it must not leave the library.
fn call(
    name: &str,
    arguments: impl FnOnce() -> Json,
    body: impl FnOnce(&'static Runtime) -> Result<Json, Fail>,
) -> u32 {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match runtime() {
        Ok(runtime) => runtime.call(name, arguments, || body(runtime)).0,
        Err(status) => status.0,
    }));
    done.unwrap_or(Status::ERROR.0)
}

fn id(handle: Handle) -> u64 {
    handle as u64
}

fn name_of(handle: Handle) -> String {
    spell(id(handle))
}

fn null(what: &str) -> Fail {
    Fail::new(Status::INVAL, format!("{what} is NULL"))
}

/// Writes a result where the caller wants it.
unsafe fn give<T>(to: *mut T, value: T, what: &str) -> Result<(), Fail> {
    if to.is_null() {
        return Err(null(what));
    }
    unsafe { to.write(value) };
    Ok(())
}

/// A handle, given to the caller and to the log.
unsafe fn give_handle(to: *mut Handle, made: Result<u64, Fail>) -> Result<Json, Fail> {
    if to.is_null() {
        return Err(null("the place for the result"));
    }
    let made = made?;
    unsafe { to.write(made as Handle) };
    Ok(spell(made).into())
}

unsafe fn text(pointer: *const c_char) -> Option<String> {
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

/// Memory of the caller.
struct Lent {
    at: usize,
    size: usize,
}

impl Memory for Lent {
    fn read(&self) -> Vec<u8> {
        if self.size == 0 {
            return vec![];
        }
        // The caller promised that this many bytes are there until the run is done.
        unsafe { std::slice::from_raw_parts(self.at as *const u8, self.size) }.to_vec()
    }

    fn write(&self, bytes: &[u8]) {
        let size = bytes.len().min(self.size);
        if size > 0 {
            // As above; nothing of ours refers to this memory meanwhile.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at as *mut u8, size) };
        }
    }
}
