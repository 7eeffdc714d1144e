//! Read-only mappings of files: the one place of this crate that is `unsafe`.
//!
//! Checkpoints are larger than memory, and most of their bytes go to the disk again unchanged; mapped, they are read by
//! whoever touches them and copied by nobody. The price is that a mapping's pages count as memory of this process until
//! they are given back, so [`Mapping::release`] exists beside [`Mapping::bytes`].
//!
//! This module knows bytes and ranges. It does not know what a tensor is.
//!
//! # What a mapping promises
//!
//! A `&[u8]` into a mapped file is sound while nobody changes the file. No portable system can promise that, so it is a
//! contract with the outside: checkpoints and artifacts are written beside their name and renamed into place, by us and
//! by the hub's clients, which replaces a directory entry and leaves a mapped file as it was. A process that *writes into*
//! a mapped checkpoint makes us read torn numbers; one that *truncates* it ends us with `SIGBUS` at the next touch of a
//! page behind the new end. Sizes are checked when the file is opened, which is all that can be checked.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

/// Releasing is rounded outward to this many bytes.
///
/// It is a multiple of every common page size. Besides, touching one page maps its cached neighbours: 64 KiB of them
/// (`fault_around_bytes`), and since Linux 6.18 the whole folio, which is up to 2 MiB. A sweep that stopped at the exact
/// page would leave those behind at every seam between two ranges, and over a checkpoint they add up to all of it.
const RELEASE_GRAIN: u64 = 2 << 20;

/// Why a file cannot be mapped, or has no such bytes.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// The file cannot be opened, measured or mapped.
    #[error("cannot map {}: {error}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// The file cannot be read, or has become shorter since it was opened.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// Bytes outside the file were asked for.
    #[error("{} has {length} bytes; bytes {}..{} were expected in it", path.display(), range.start, range.end)]
    Outside {
        /// The file.
        path: PathBuf,
        /// The bytes asked for.
        range: Range<u64>,
        /// Bytes in the file when it was opened.
        length: u64,
    },
}

/// A file mapped for reading; see the module documentation for what that promises.
///
/// Share it as `Arc<Mapping>`: the bytes stay mapped for as long as anyone holds it.
#[derive(Debug)]
pub struct Mapping {
    path: PathBuf,
    file: File,
    /// `None` for an empty file: a mapping of no bytes is refused by the system.
    map: Option<Mmap>,
}

impl Mapping {
    /// Maps the whole file at `path`.
    ///
    /// # Errors
    /// [`MappingError::Open`] if the file cannot be opened, measured or mapped.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, MappingError> {
        let path = path.into();
        let opened = File::open(&path).and_then(|file| Ok((Self::map(&file)?, file)));
        match opened {
            Ok((map, file)) => Ok(Self { path, file, map }),
            Err(error) => Err(MappingError::Open { path, error }),
        }
    }

    fn map(file: &File) -> std::io::Result<Option<Mmap>> {
        let meta = file.metadata()?;
        if meta.is_dir() {
            return Err(std::io::Error::other("it is a directory"));
        }
        if meta.len() == 0 {
            return Ok(None);
        }
        // SAFETY: the mapping is read-only and private to this value; that nobody changes the file meanwhile is the
        // contract in the module documentation.
        unsafe { Mmap::map(file) }.map(Some)
    }

    /// The file that is mapped.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes in the file when it was opened.
    pub fn len(&self) -> u64 {
        self.all().len() as u64
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.map.is_none()
    }

    /// The whole file.
    pub fn all(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// The bytes `range` of the file.
    ///
    /// # Errors
    /// [`MappingError::Outside`] if the range is reversed or reaches past the end.
    pub fn bytes(&self, range: Range<u64>) -> Result<&[u8], MappingError> {
        let within = || {
            let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
            self.all().get(start..end)
        };
        within().ok_or_else(|| MappingError::Outside {
            path: self.path.clone(),
            range: range.clone(),
            length: self.len(),
        })
    }

    /// Copies the bytes from `offset` on into `to`, which they have to fill.
    ///
    /// The system copies large pieces faster than a process takes page faults, and what is copied counts as memory once; so
    /// this is for whoever reads everything in passing.
    ///
    /// # Errors
    /// [`MappingError::Outside`] if the file ends before; [`MappingError::Read`] if the system cannot read.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), MappingError> {
        let range = offset..offset.saturating_add(to.len() as u64);
        let bytes = self.bytes(range)?;
        #[cfg(unix)]
        {
            let _ = bytes;
            std::os::unix::fs::FileExt::read_exact_at(&self.file, to, offset)
                .map_err(|error| MappingError::Read { path: self.path.clone(), error })
        }
        #[cfg(not(unix))]
        {
            to.copy_from_slice(bytes);
            Ok(())
        }
    }

    /// Says that `range` is not needed for now: its pages no longer count as memory of this process.
    ///
    /// The bytes stay valid: whoever touches them again, in this thread or another, gets them from the page cache or the
    /// file. That is why the range may be rounded outward, and is cut to the file rather than refused. Does nothing where
    /// the system has no such call.
    pub fn release(&self, range: Range<u64>) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            let start = range.start / RELEASE_GRAIN * RELEASE_GRAIN;
            let end = range.end.div_ceil(RELEASE_GRAIN).saturating_mul(RELEASE_GRAIN).min(self.len());
            if start < end {
                // SAFETY: `start..end` lies inside the mapping. DONTNEED alters memory only where pages are private and
                // were written, or have no file behind them; these are neither, so every page reads the same afterwards.
                let advice = unsafe {
                    map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start as usize,
                        (end - start) as usize,
                    )
                };
                // Pages that stay (locked ones, say) cost memory, not correctness.
                drop(advice);
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn ranges_are_checked() {
        let (_dir, path) = file(b"0123456789");
        let mapping = Mapping::open(&path).unwrap();
        assert_eq!(mapping.len(), 10);
        assert_eq!(mapping.bytes(2..5).unwrap(), b"234");
        assert_eq!(mapping.bytes(10..10).unwrap(), b"");
        #[allow(clippy::reversed_empty_ranges)]
        for range in [5..11, 11..11, 5..4, 0..u64::MAX, u64::MAX..u64::MAX] {
            let error = mapping.bytes(range.clone()).unwrap_err();
            assert!(matches!(error, MappingError::Outside { length: 10, .. }), "{range:?}: {error}");
        }
    }

    #[test]
    fn what_is_copied_is_what_is_mapped() {
        let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let (_dir, path) = file(&content);
        let mapping = Mapping::open(&path).unwrap();
        let mut copy = vec![0; 50_000];
        mapping.read(777, &mut copy).unwrap();
        assert!(copy == content[777..50_777]);
        for offset in [50_001, 100_001, u64::MAX] {
            assert!(matches!(mapping.read(offset, &mut copy), Err(MappingError::Outside { .. })), "{offset}");
        }
        mapping.read(100_000, &mut []).unwrap();
    }

    #[test]
    fn an_empty_file_is_an_empty_mapping() {
        let (_dir, path) = file(b"");
        let mapping = Mapping::open(&path).unwrap();
        assert!(mapping.is_empty());
        assert_eq!(mapping.bytes(0..0).unwrap(), b"");
        mapping.release(0..100);
    }

    #[test]
    fn released_bytes_read_the_same() {
        let content: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let (_dir, path) = file(&content);
        let mapping = Mapping::open(&path).unwrap();
        for range in [0..1, 5..200_000, 70_000..70_001, 299_999..300_000, 0..u64::MAX, 400_000..500_000] {
            assert!(mapping.all() == content);
            mapping.release(range);
        }
        assert!(mapping.all() == content);
    }

    /// Memory of this process that is pages of `path`, in bytes.
    #[cfg(target_os = "linux")]
    fn resident(path: &Path) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let of_file = maps.split_once(path.to_str().unwrap()).unwrap().1;
        let line = of_file.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn released_pages_are_no_memory_of_ours() {
        let (_dir, path) = file(&vec![1; 48 << 20]);
        let mapping = Mapping::open(&path).unwrap();
        // Steps that are no multiple of any page, so that every seam lies inside one.
        let step = 777_777;
        for start in (0..mapping.len()).step_by(step as usize) {
            let range = start..(start + step).min(mapping.len());
            assert!(mapping.bytes(range.clone()).unwrap().iter().all(|&byte| byte == 1));
            mapping.release(range);
        }
        assert!(resident(&path) <= RELEASE_GRAIN, "{} bytes stayed", resident(&path));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Mapping::open("/nowhere/model.safetensors").unwrap_err();
        assert!(error.to_string().contains("/nowhere/model.safetensors"), "{error}");
    }
}
