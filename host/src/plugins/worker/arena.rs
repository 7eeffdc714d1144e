//! Two files in memory through which weights go to a worker and come back.
//!
//! The host writes and reads them as files and maps neither, so nothing that the worker does to them can hurt it: what was
//! cut off is an error of reading. They grow to the largest tensor and stay.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

#[derive(Debug)]
pub(super) struct Arena {
    pub(super) input: File,
    pub(super) output: File,
    /// Bytes that each has room for.
    room: (u64, u64),
}

impl Arena {
    pub(super) fn new() -> io::Result<Self> {
        let file = |name: &str| -> io::Result<File> {
            match memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL) {
                // Before Linux 6.3 nobody asked.
                Err(Errno::INVAL) => Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into()),
                other => Ok(other?.into()),
            }
        };
        Ok(Arena { input: file("qeff-stored")?, output: file("qeff-decoded")?, room: (0, 0) })
    }

    /// Puts stored bytes in, and makes room for a result of `out` bytes.
    pub(super) fn put(&mut self, bytes: &[u8], out: usize) -> io::Result<()> {
        grow(&self.input, &mut self.room.0, bytes.len() as u64)?;
        grow(&self.output, &mut self.room.1, out as u64)?;
        self.input.write_all_at(bytes, 0)
    }

    /// Takes the result out.
    pub(super) fn take(&self, out: &mut [u8]) -> io::Result<()> {
        self.output.read_exact_at(out, 0)
    }
}

fn grow(file: &File, room: &mut u64, length: u64) -> io::Result<()> {
    if length > *room {
        file.set_len(length)?;
        *room = length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_was_cut_off_is_an_error() {
        let mut arena = Arena::new().unwrap();
        arena.put(&[1, 2, 3], 4).unwrap();
        let mut out = [9; 4];
        arena.take(&mut out).unwrap();
        assert_eq!(out, [0; 4]);
        arena.output.set_len(2).unwrap();
        assert!(arena.take(&mut out).is_err());
        arena.take(&mut []).unwrap();
    }
}
