//! Packed storage: all weights of a graph in few external-data files.
//!
//! The files are written once, by all workers at once, each tile to its place. They grow beside their final names and are
//! renamed when every byte is written, so a file that has the name is whole, and a process that has mapped an older one
//! keeps it.
//!
//! This module knows offsets and files. It does not know ONNX: who refers to the file gets names, offsets and lengths.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use qeff_plugin_api::{DType, WeightExpr};
use tempfile::NamedTempFile;

use super::convert::Clipped;
use super::error::EvalError;
use super::eval::{Evaluation, Scratch, TileSink};
use super::source::TensorSource;
use super::tile::Tiling;

/// Every tensor begins at a multiple of this, so that engines may view it as any element type.
const ALIGNMENT: u64 = 64;

/// Tensors from [`LARGE`] bytes on begin on a page, so that engines may map them one by one.
const PAGE: u64 = 4096;

const LARGE: u64 = 1 << 20;

/// Weights are spread over this many files: the system lets one thread at a time write into a file.
const FILES: u64 = 4;

/// Smallest size at which spreading them begins a new file.
const SMALLEST_FILE: u64 = 64 << 20;

/// Bytes handed to the system at a time. Longer writes make it look for longer runs of free memory for its cache, and those
/// are what a virtual machine has given back to its host: the first touch of each costs more than the copy.
const LONGEST_WRITE: usize = 512 << 10;

/// A weight to be written.
#[derive(Debug, Clone)]
pub struct PackRequest {
    /// The name its user knows it by; for messages.
    pub name: String,
    /// What it is made of.
    pub expr: WeightExpr,
    /// The element type it is wanted in.
    pub dtype: DType,
}

/// Where a weight was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Name of the file, in the directory that was given.
    pub file: String,
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// How far a write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes written.
    pub done_bytes: u64,
    /// Bytes to write in all.
    pub total_bytes: u64,
}

/// How to write.
#[derive(Clone, Copy)]
pub struct PackOptions<'a> {
    /// Bytes of memory for all workers together: tiles, and stored bytes they hold on to.
    pub budget: usize,
    /// Bytes after which a new file is begun, at the latest. A tensor is never split, so one that is longer is a file of its
    /// own.
    pub file_limit: u64,
    /// Whether the files are on the disk, not only with the system, when the call returns. Without it a power cut soon
    /// afterwards may leave a file with its name and not all of its bytes, as it does with `cp`.
    pub sync: bool,
    /// The threads that evaluate; the global pool if there is none.
    pub pool: Option<&'a rayon::ThreadPool>,
    /// Set by whoever wants writing to end soon, with [`PackError::Interrupted`].
    pub interrupted: Option<&'a AtomicBool>,
    /// Called after every tile, from the threads that evaluate.
    pub progress: Option<&'a (dyn Fn(Progress) + Sync)>,
}

impl Default for PackOptions<'_> {
    /// 256 MB of memory, files of 10 GiB, not synced, on the global pool.
    fn default() -> Self {
        Self { budget: 256_000_000, file_limit: 10 << 30, sync: false, pool: None, interrupted: None, progress: None }
    }
}

impl PackOptions<'_> {
    fn is_interrupted(&self) -> bool {
        self.interrupted.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// One for each request, in their order; requests of equal content share one.
    pub placements: Vec<Placement>,
    /// Names of the files, in the directory that was given.
    pub files: Vec<String>,
    /// Bytes of weights written, without what alignment adds.
    pub bytes_written: u64,
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Numbers that f16 has no room for and that became its largest, by the name of the weight, in order of the requests.
    pub clipped: Vec<(String, Clipped)>,
}

/// Why weights were not written. Whatever was written of them is gone.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A weight cannot be evaluated.
    #[error("weight `{name}` = {expr}: {error}")]
    Weight {
        /// Its name.
        name: String,
        /// Its expression as text.
        expr: String,
        /// What is wrong.
        #[source]
        error: Box<EvalError>,
    },
    /// The disk is full.
    #[error(
        "no space left for {}: the weights need {} MB; free some space there, or choose another directory",
        path.display(), needed.div_ceil(1_000_000)
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// Bytes of all files together.
        needed: u64,
    },
    /// Somebody asked for it.
    #[error("interrupted")]
    Interrupted,
    /// A file cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// Writes `requests` into `{stem}_0.onnx.data`, `{stem}_1.onnx.data` … in `dir`, which has to exist.
///
/// Equal canonical expressions of equal type are written once. Memory is bounded by [`PackOptions::budget`] whatever the
/// size of the tensors. A file of that name is replaced.
///
/// # Errors
/// See [`PackError`]; upon an error or a panic nothing is left in `dir`.
pub fn pack(
    dir: &Path,
    stem: &str,
    requests: &[PackRequest],
    source: &dyn TensorSource,
    options: PackOptions<'_>,
) -> Result<Packed, PackError> {
    match options.pool {
        Some(pool) => pool.install(|| pack_here(dir, stem, requests, source, options)),
        None => pack_here(dir, stem, requests, source, options),
    }
}

fn pack_here(
    dir: &Path,
    stem: &str,
    requests: &[PackRequest],
    source: &dyn TensorSource,
    options: PackOptions<'_>,
) -> Result<Packed, PackError> {
    let begun = Instant::now();
    let layout = Layout::new(requests, source, &options)?;
    let name = |number: usize| format!("{stem}_{number}.onnx.data");
    let total = layout.lengths.iter().sum();
    let failed = |path: &Path, error| io_error(path, error, total);
    // Dropped on the way out of an error or a panic, they remove themselves.
    let mut files = Vec::with_capacity(layout.lengths.len());
    for (number, &length) in layout.lengths.iter().enumerate() {
        files.push(neighbour(dir, length).map_err(|error| failed(&dir.join(name(number)), error))?);
    }
    let Written { read, written, clipped } = layout.write(&files, &options).map_err(|error| match error {
        (at, EvalError::Sink(error)) => failed(&dir.join(name(layout.jobs[at].file)), error),
        (at, error) => layout.jobs[at].failed(error),
    })?;
    if options.is_interrupted() {
        return Err(PackError::Interrupted);
    }
    let mut named = Unless { paths: Vec::new(), kept: false };
    for (number, file) in files.into_iter().enumerate() {
        let path = dir.join(name(number));
        // A file may end with a tensor of no elements, which nobody writes.
        file.as_file().set_len(layout.lengths[number]).map_err(|error| failed(&path, error))?;
        if options.sync {
            file.as_file().sync_all().map_err(|error| failed(&path, error))?;
        }
        file.persist(&path).map_err(|error| failed(&path, error.error))?;
        named.paths.push(path);
    }
    if options.sync {
        // The names are entries of the directory, which is a file too.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed(dir, error))?;
    }
    named.kept = true;
    let placement = |&at: &usize| {
        let job = &layout.jobs[at];
        Placement { file: name(job.file), offset: job.offset, length: job.evaluation.byte_len() }
    };
    Ok(Packed {
        placements: layout.of_request.iter().map(placement).collect(),
        files: (0..layout.lengths.len()).map(name).collect(),
        bytes_written: written,
        bytes_read: read,
        seconds: begun.elapsed().as_secs_f64(),
        clipped,
    })
}

/// Files that are removed again unless all of them got their names.
struct Unless {
    paths: Vec<PathBuf>,
    kept: bool,
}

impl Drop for Unless {
    fn drop(&mut self) {
        if !self.kept {
            self.paths.iter().for_each(|path| drop(std::fs::remove_file(path)));
        }
    }
}

/// A temporary file of `length` bytes that may become any file of `dir` by renaming.
fn neighbour(dir: &Path, length: u64) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".weights-").suffix(".tmp");
    #[cfg(unix)]
    {
        // Temporary files are their owner's alone; the artifact they become is as readable as any other new file.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let file = builder.tempfile_in(dir)?;
    reserve(file.as_file(), length)?;
    Ok(file)
}

/// Has the system set `length` bytes of disk aside: what does not fit is refused before any work is done, and writing
/// costs less. The file grows as it is written, so one that a power cut leaves is short rather than full of zeroes.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if length > 0 {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
            // Some file systems cannot; there, space runs out when it does.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            reserved => reserved?,
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, length);
    Ok(())
}

/// One tensor to be written.
struct Job<'r, 's> {
    request: &'r PackRequest,
    evaluation: Evaluation<'s>,
    tiling: Tiling,
    /// Tiles of all jobs before this one.
    tiles_before: u64,
    file: usize,
    offset: u64,
}

impl Job<'_, '_> {
    fn failed(&self, error: EvalError) -> PackError {
        weight_error(self.request, error)
    }
}

fn weight_error(request: &PackRequest, error: EvalError) -> PackError {
    let (name, expr) = (request.name.clone(), request.expr.to_string());
    PackError::Weight { name, expr, error: Box::new(error) }
}

fn io_error(path: &Path, error: io::Error, needed: u64) -> PackError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => PackError::DiskFull { path, needed },
        _ => PackError::Io { path, error },
    }
}

/// What goes where.
struct Layout<'r, 's> {
    /// In the order in which they lie: one file after the other, and front to back.
    jobs: Vec<Job<'r, 's>>,
    /// The job of each request.
    of_request: Vec<usize>,
    /// Bytes of each file.
    lengths: Vec<u64>,
    tiles: u64,
    workers: usize,
}

impl<'r, 's> Layout<'r, 's> {
    fn new(
        requests: &'r [PackRequest],
        source: &'s dyn TensorSource,
        options: &PackOptions<'_>,
    ) -> Result<Self, PackError> {
        let workers = rayon::current_num_threads();
        let mut of_request = Vec::with_capacity(requests.len());
        let mut known = HashMap::new();
        let mut evaluations = vec![];
        for request in requests {
            // Checked as it was written: simplifying may remove a step that does not fit.
            let failed = |error| weight_error(request, error);
            Evaluation::new(&request.expr, request.dtype, source).map_err(failed)?;
            let canonical = request.expr.clone().simplified(source.index());
            // The text form is exact, and unlike the expression it can be hashed.
            let key = (canonical.to_string(), request.dtype);
            let next = evaluations.len();
            let at = *known.entry(key).or_insert(next);
            of_request.push(at);
            if at == next {
                evaluations.push((request, Evaluation::new(&canonical, request.dtype, source).map_err(failed)?));
            }
        }
        let total: u64 = evaluations.iter().map(|(_, evaluation)| evaluation.byte_len()).sum();
        let limit = total.div_ceil(FILES).max(SMALLEST_FILE).min(options.file_limit);
        let mut layout = Self { jobs: Vec::new(), of_request, lengths: Vec::new(), tiles: 0, workers };
        for (request, evaluation) in evaluations {
            let (file, offset) = layout.place(evaluation.byte_len(), limit);
            let tiling = evaluation.tiles(options.budget / workers);
            let tiles_before = layout.tiles;
            layout.tiles += tiling.len();
            layout.jobs.push(Job { request, evaluation, tiling, tiles_before, file, offset });
        }
        Ok(layout)
    }

    fn place(&mut self, length: u64, limit: u64) -> (usize, u64) {
        let alignment = if length >= LARGE { PAGE } else { ALIGNMENT };
        let offset = self.lengths.last().map(|end| end.next_multiple_of(alignment));
        match (self.lengths.last_mut(), offset) {
            (Some(end), Some(offset)) if offset.saturating_add(length) <= limit || *end == 0 => {
                *end = offset + length;
                (self.lengths.len() - 1, offset)
            }
            _ => {
                self.lengths.push(length);
                (self.lengths.len() - 1, 0)
            }
        }
    }

    /// The tiles of each file, to be drawn in order, so that each file is read and written front to back.
    fn queues(&self) -> Vec<Queue> {
        let first = |file: usize| {
            let at = self.jobs.partition_point(|job| job.file < file);
            self.jobs.get(at).map_or(self.tiles, |job| job.tiles_before)
        };
        (0..self.lengths.len()).map(|file| Queue { next: first(file).into(), end: first(file + 1) }).collect()
    }

    /// Evaluates all tiles into `files`; an error comes with the job it belongs to.
    fn write(&self, files: &[NamedTempFile], options: &PackOptions<'_>) -> Result<Written, (usize, EvalError)> {
        let total = self.jobs.iter().map(|job| job.evaluation.byte_len()).sum();
        let (queues, claimed) = (self.queues(), AtomicUsize::new(0));
        let stop = AtomicBool::new(false);
        let (read, written) = (AtomicU64::new(0), AtomicU64::new(0));
        let error = Mutex::new(None);
        // By job; few weights have any, so nobody waits.
        let clipped: Mutex<BTreeMap<usize, Clipped>> = Mutex::default();
        let drain = |queue: &Queue, scratch: &mut Scratch| {
            while !stop.load(Ordering::Relaxed) && !options.is_interrupted() {
                let Some(tile) = queue.draw() else { return };
                let at = self.jobs.partition_point(|job| job.tiles_before <= tile) - 1;
                let job = &self.jobs[at];
                let sink = Positioned { file: files[job.file].as_file(), offset: job.offset };
                match job.evaluation.write_tile(&job.tiling, tile - job.tiles_before, scratch, &sink) {
                    Ok(traffic) => {
                        read.fetch_add(traffic.read, Ordering::Relaxed);
                        if traffic.clipped.count > 0 {
                            let mut clipped = clipped.lock().unwrap_or_else(PoisonError::into_inner);
                            clipped.entry(at).or_default().add(traffic.clipped);
                        }
                        let done_bytes = written.fetch_add(traffic.written, Ordering::Relaxed) + traffic.written;
                        if let Some(progress) = options.progress {
                            progress(Progress { done_bytes, total_bytes: total });
                        }
                    }
                    Err(found) => {
                        stop.store(true, Ordering::Relaxed);
                        error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((at, found));
                    }
                }
            }
        };
        let work = || {
            let mut scratch = Scratch::default();
            // Each worker has a file to itself for as long as there are files, then it helps with those of others.
            while let Some(queue) = queues.get(claimed.fetch_add(1, Ordering::Relaxed)) {
                drain(queue, &mut scratch);
            }
            queues.iter().for_each(|queue| drain(queue, &mut scratch));
        };
        rayon::scope(|scope| {
            for _ in 0..self.workers {
                scope.spawn(|_| {
                    // A worker that panics takes the others with it instead of letting them finish for nothing.
                    let guard = StopOnPanic(&stop);
                    work();
                    drop(guard);
                });
            }
        });
        match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => {
                let clipped = clipped.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter();
                let named = clipped.map(|(at, clipped)| (self.jobs[at].request.name.clone(), clipped)).collect();
                Ok(Written { read: read.into_inner(), written: written.into_inner(), clipped: named })
            }
        }
    }
}

/// What [`Layout::write`] has done.
struct Written {
    read: u64,
    written: u64,
    clipped: Vec<(String, Clipped)>,
}

/// Tiles that follow one another.
struct Queue {
    next: AtomicU64,
    end: u64,
}

impl Queue {
    fn draw(&self) -> Option<u64> {
        let tile = self.next.fetch_add(1, Ordering::Relaxed);
        (tile < self.end).then_some(tile)
    }
}

struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A tensor's place in a file.
struct Positioned<'f> {
    file: &'f File,
    offset: u64,
}

impl TileSink for Positioned<'_> {
    #[cfg(unix)]
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = self.offset + offset;
        for part in bytes.chunks(LONGEST_WRITE) {
            std::os::unix::fs::FileExt::write_all_at(self.file, part, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    #[cfg(not(unix))]
    fn write(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "positioned writes need a Unix system"))
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
