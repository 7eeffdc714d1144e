//! A folder of the user's, written as if in one step.
//!
//! Files grow in a work folder inside the output folder (so that renaming is all it takes to publish them) and get their
//! names when all of them are whole, the model file last. Whatever ends the process in between, no model file refers to
//! data that is not there, or to another export's.
//!
//! Two locks, both advisory and both gone with the process that holds them: one on the *output folder*, held for the moments
//! in which names change, so that two exports publish one after the other; one on each *work folder*, held for as long as
//! it is in use, so that whoever comes later can tell what a killed process has left from what is being written.
//!
//! This module knows names. It does not know what is in a file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use tempfile::TempDir;

/// What the names of work folders begin with.
const PREFIX: &str = ".export-";

/// Random characters that follow.
const RANDOM: usize = 6;

/// A work folder in an output folder; gone when it is dropped, and the output folder with it if that was made for it and
/// nothing was published.
pub(super) struct Staging {
    /// `None` only while it is dropped.
    work: Option<TempDir>,
    /// Locked for as long as the work folder is in use.
    in_use: Option<File>,
    dir: PathBuf,
    /// Folders that were made on the way, outermost first.
    made: Vec<PathBuf>,
}

impl Staging {
    /// Makes `dir` if need be, removes what killed processes left in it, and opens a work folder.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let mut staging = Self { work: None, in_use: None, dir: dir.to_owned(), made: missing(dir) };
        fs::create_dir_all(dir)?;
        let turn = lock(dir);
        remove_stale(dir);
        let work = tempfile::Builder::new().prefix(PREFIX).rand_bytes(RANDOM).tempdir_in(dir)?;
        staging.in_use = try_lock(work.path());
        staging.work = Some(work);
        drop(turn);
        Ok(staging)
    }

    /// The work folder.
    pub(super) fn path(&self) -> &Path {
        self.work.as_ref().map_or(&self.dir, TempDir::path)
    }

    /// Moves `files` and then `last`, all of them names in the work folder, to the output folder, and removes those of the
    /// other files there that `is_stale` picks.
    ///
    /// An older `last` goes first: it must not be left referring to newer files, whatever happens between two renames.
    pub(super) fn publish(&self, files: &[String], last: &str, is_stale: &dyn Fn(&str) -> bool) -> io::Result<()> {
        let turn = lock(&self.dir);
        let place = |name: &str| self.dir.join(name);
        match fs::remove_file(place(last)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for name in files.iter().map(String::as_str).chain([last]) {
            fs::rename(self.path().join(name), place(name))?;
        }
        for entry in fs::read_dir(&self.dir)?.flatten() {
            let name = entry.file_name();
            let stale = name.to_str().is_some_and(|name| !files.iter().any(|file| file == name) && is_stale(name));
            // Links are removed, not what they lead to. What stays only takes room.
            if stale && entry.file_type().is_ok_and(|kind| !kind.is_dir()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        drop(turn);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Best effort, all of it: what counts is the error that brought us here.
        if let Some(work) = self.work.take() {
            let _ = work.close();
        }
        // Folders that are not empty stay, whoever wrote into them.
        for dir in self.made.iter().rev() {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// Folders of the path that are not there, outermost first.
fn missing(dir: &Path) -> Vec<PathBuf> {
    let there = |path: &Path| path.as_os_str().is_empty() || path.exists();
    let mut missing: Vec<PathBuf> = dir.ancestors().take_while(|path| !there(path)).map(Path::to_owned).collect();
    missing.reverse();
    missing
}

/// Waits for the lock of a folder. File systems without locks have `None`, and there exports must not race.
fn lock(dir: &Path) -> Option<File> {
    let file = File::open(dir).ok()?;
    file.lock().ok()?;
    Some(file)
}

/// The lock of a folder, unless somebody has it.
fn try_lock(dir: &Path) -> Option<File> {
    let file = File::open(dir).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// Removes work folders that nobody uses any more. Called with the output folder locked, so that none is being made.
fn remove_stale(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let ours = random.is_some_and(|end| end.len() == RANDOM && end.bytes().all(|b| b.is_ascii_alphanumeric()));
        if ours
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(unused) = try_lock(&entry.path())
        {
            let _ = std::fs::remove_dir_all(entry.path());
            drop(unused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn write(staging: &Staging, name: &str, text: &str) -> String {
        std::fs::write(staging.path().join(name), text).unwrap();
        name.to_owned()
    }

    #[test]
    fn what_is_not_published_is_gone_with_the_folders_made_for_it() {
        let place = tempfile::tempdir().unwrap();
        let staging = Staging::open(&place.path().join("a/b")).unwrap();
        write(&staging, "data", "1");
        drop(staging);
        assert!(names(place.path()).is_empty());
    }

    #[test]
    fn folders_that_somebody_else_writes_to_stay() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("a/b");
        let (first, second) = (Staging::open(&dir).unwrap(), Staging::open(&dir).unwrap());
        let data = write(&second, "data", "2");
        let model = write(&second, "model", "2");
        drop(first);
        second.publish(&[data], &model, &|_| false).unwrap();
        drop(second);
        assert_eq!(names(&dir), ["data", "model"]);
    }

    #[test]
    fn older_files_are_replaced_and_leftovers_removed() {
        let place = tempfile::tempdir().unwrap();
        for name in ["model", "data_0", "data_1", "notes"] {
            std::fs::write(place.path().join(name), "old").unwrap();
        }
        let staging = Staging::open(place.path()).unwrap();
        let (data, model) = (write(&staging, "data_0", "new"), write(&staging, "model", "new"));
        staging.publish(&[data], &model, &|name| name.starts_with("data_")).unwrap();
        drop(staging);
        assert_eq!(names(place.path()), ["data_0", "model", "notes"]);
        assert_eq!(std::fs::read(place.path().join("model")).unwrap(), b"new");
    }

    #[test]
    fn work_folders_of_the_dead_are_removed_and_those_of_the_living_are_not() {
        let place = tempfile::tempdir().unwrap();
        for name in [".export-Ab12cD", ".export-notes", ".export-of-2024"] {
            std::fs::create_dir(place.path().join(name)).unwrap();
            std::fs::write(place.path().join(name).join("weights"), "half").unwrap();
        }
        let alive = Staging::open(place.path()).unwrap();
        let next = Staging::open(place.path()).unwrap();
        assert!(alive.path().is_dir() && next.path().is_dir());
        drop((alive, next));
        assert_eq!(names(place.path()), [".export-notes", ".export-of-2024"]);
    }
}
