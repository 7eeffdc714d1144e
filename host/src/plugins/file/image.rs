//! A file in memory that nobody can change any more.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use super::FileFault;

/// Checked bytes, to be loaded or to be handed to a worker.
#[derive(Debug)]
pub struct Image(OwnedFd);

impl Image {
    pub(super) fn new(bytes: &[u8]) -> Result<Self, FileFault> {
        let sealed = || -> std::io::Result<Image> {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let fd = match memfd_create("qeff-plugin", flags | MemfdFlags::EXEC) {
                // Before Linux 6.3 nobody asked.
                Err(Errno::INVAL) => memfd_create("qeff-plugin", flags)?,
                other => other?,
            };
            let mut file = File::from(fd);
            file.write_all(bytes)?;
            let fd = OwnedFd::from(file);
            fcntl_add_seals(&fd, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
            Ok(Image(fd))
        };
        sealed().map_err(FileFault::Memory)
    }

    /// A name under which this process can load it, for as long as the image lives.
    pub fn path(&self) -> PathBuf {
        image_path(self.0.as_fd())
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A name under which this process can load an open file.
pub(crate) fn image_path(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}
