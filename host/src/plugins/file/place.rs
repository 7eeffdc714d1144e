//! Whose a file is, and who could put another in its place.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::FileFault;

const GROUP_WRITES: u32 = 0o020;
const ALL_WRITE: u32 = 0o002;
/// In a folder with this mark, only an entry's owner may rename or remove it.
const STICKY: u32 = 0o1000;

/// Opens a regular file that only this user and root can change, and says where it really is.
pub(super) fn open(path: &Path) -> Result<(File, PathBuf), FileFault> {
    let path = std::path::absolute(path)?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Err(FileFault::NotAFile) };
    // Links on the way are followed now; those above what they lead to are looked at as they are.
    let folder = folder.canonicalize()?;
    for above in folder.ancestors() {
        let meta = std::fs::metadata(above)?;
        check(above, meta.uid(), meta.mode(), meta.mode() & STICKY != 0)?;
    }
    let place = folder.join(name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(&place, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP) => return Err(FileFault::Link),
        // A socket, a device that nobody serves.
        Err(Errno::NXIO) => return Err(FileFault::NotAFile),
        Err(error) => return Err(std::io::Error::from(error).into()),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(FileFault::NotAFile);
    }
    check(&place, meta.uid(), meta.mode(), false)?;
    Ok((file, place))
}

/// `shared`: whether others may make entries of their own, but not touch ours.
fn check(what: &Path, owner: u32, mode: u32, shared: bool) -> Result<(), FileFault> {
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(FileFault::Owner { what: what.to_owned(), owner });
    }
    let who = match mode {
        _ if shared => return Ok(()),
        mode if mode & ALL_WRITE != 0 => "everybody",
        mode if mode & GROUP_WRITES != 0 => "its group",
        _ => return Ok(()),
    };
    Err(FileFault::Writable { what: what.to_owned(), mode: mode & 0o7777, who })
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A folder of ours with a file in it, and what opening the file says.
    fn said(change: impl FnOnce(&Path, &Path)) -> String {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        create_dir(&folder).unwrap();
        set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        let file = folder.join("file");
        write(&file, "x").unwrap();
        set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        change(&folder, &file);
        let text = open(&file).map_or_else(|fault| fault.to_string(), |_| "opened".to_owned());
        text.replace(&root.path().canonicalize().unwrap().display().to_string(), "ROOT")
    }

    fn mode(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn files_of_ours_are_opened() {
        assert_eq!(said(|_, _| {}), "opened");
        assert_eq!(said(|folder, _| mode(folder, 0o700)), "opened");
        // What /tmp is: everybody's, but nobody touches what is another's.
        assert_eq!(said(|folder, _| mode(folder, 0o1777)), "opened");
    }

    #[test]
    fn what_others_could_change_is_refused() {
        let text = said(|_, file| mode(file, 0o666));
        let expected =
            "ROOT/folder/file is writable by everybody (mode 0666); take that away: chmod go-w ROOT/folder/file";
        assert_eq!(text, expected);
        let text = said(|_, file| mode(file, 0o664));
        assert!(text.starts_with("ROOT/folder/file is writable by its group (mode 0664)"), "{text}");
        let text = said(|folder, _| mode(folder, 0o777));
        assert!(text.starts_with("ROOT/folder is writable by everybody (mode 0777)"), "{text}");
        let text = said(|folder, _| mode(folder, 0o775));
        assert!(text.starts_with("ROOT/folder is writable by its group (mode 0775)"), "{text}");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let replaced = |make: fn(&Path)| {
            said(|_, file| {
                std::fs::remove_file(file).unwrap();
                make(file);
            })
        };
        assert_eq!(replaced(|file| create_dir(file).unwrap()), "it is not a regular file");
        assert_eq!(replaced(|file| symlink("/bin/true", file).unwrap()), FileFault::Link.to_string());
        let fifo = |file: &Path| {
            rustix::fs::mknodat(rustix::fs::CWD, file, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        };
        // Nobody writes into it, and nobody waits.
        assert_eq!(replaced(fifo), "it is not a regular file");
        let socket = |file: &Path| drop(std::os::unix::net::UnixListener::bind(file).unwrap());
        assert_eq!(replaced(socket), "it is not a regular file");
        assert!(replaced(|_| {}).contains("No such file"));
        assert_eq!(open(Path::new("/")).unwrap_err().to_string(), "it is not a regular file");
    }

    #[test]
    fn owners_are_this_user_and_root() {
        let me = rustix::process::geteuid().as_raw();
        check(Path::new("f"), me, 0o644, false).unwrap();
        check(Path::new("f"), 0, 0o644, false).unwrap();
        let text = check(Path::new("f"), me + 4711, 0o644, false).unwrap_err().to_string();
        assert_eq!(
            text,
            format!("f belongs to user {}, who could change it; expected it to be yours or root's", me + 4711)
        );
    }

    #[test]
    fn links_on_the_way_lead_to_what_is_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        create_dir(&folder).unwrap();
        write(folder.join("file"), "x").unwrap();
        symlink(&folder, root.path().join("link")).unwrap();
        let (_, place) = open(&root.path().join("link/file")).unwrap();
        assert_eq!(place, folder.canonicalize().unwrap().join("file"));
        mode(&folder, 0o777);
        assert!(open(&root.path().join("link/file")).is_err());
    }
}
