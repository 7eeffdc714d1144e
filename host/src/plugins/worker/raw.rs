//! What a worker needs of the system that has no safe form; the one place of `plugins` that is `unsafe`.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut, MmapOptions};

use super::sandbox::FORBIDDEN;

/// Closes every descriptor from `first` on: what was inherited is nobody's business here.
///
/// To be called before this process opens anything of its own.
pub(super) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: nothing in this process owns a descriptor yet but the three standard ones.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0u32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has a system call that the filter traps end the process with its number on stderr.
pub(super) fn report_forbidden_calls() -> io::Result<()> {
    // SAFETY: a zeroed sigaction is one without flags, mask and handler; handler and flags are set to what belongs together.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = forbidden as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Calls nothing but `write` and `_exit`, which signal handlers may.
extern "C" fn forbidden(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    let mut text = [0; 64];
    let mut length = 0;
    let mut push = |byte: u8| {
        if let Some(place) = text.get_mut(length) {
            *place = byte;
            length += 1;
        }
    };
    push(b'\n');
    FORBIDDEN.mark.bytes().for_each(&mut push);
    // SAFETY: the kernel passes a siginfo_t of 128 bytes. Of a SIGSYS on 64-bit machines, three numbers of 4 bytes and 4 bytes
    // of padding stand first, then the address of the call in 8, then its number, at byte 24.
    let number = unsafe { info.cast::<c_int>().add(6).read() };
    let mut digits = [0u8; 10];
    let mut rest = number.unsigned_abs();
    let mut count = 0;
    for digit in &mut digits {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    digits.iter().take(count).rev().for_each(|digit| push(*digit));
    // SAFETY: the bytes are on this stack, and neither call returns to anything that was interrupted.
    unsafe {
        libc::write(2, text.as_ptr().cast(), length);
        libc::_exit(FORBIDDEN.code);
    }
}

/// Maps the first `length` bytes of a file for reading.
pub(super) fn map(file: &File, length: usize) -> io::Result<Mmap> {
    // SAFETY: only the host changes the file, and not while a call is under way. Were it to shrink it, this process would end.
    unsafe { MmapOptions::new().len(length).map(file) }
}

/// Maps the first `length` bytes of a file for writing.
pub(super) fn map_mut(file: &File, length: usize) -> io::Result<MmapMut> {
    // SAFETY: as above; the host reads the file when the call is over.
    unsafe { MmapOptions::new().len(length).map_mut(file) }
}
