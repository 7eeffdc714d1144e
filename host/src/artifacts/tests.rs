use std::cell::Cell;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::*;

fn slot(root: &Path, n: u64) -> Slot {
    Slot::new(&root.join("Model"), ArtifactKind::Qpc, "Model", json!({ "n": n }))
}

fn made(dir: &Path, text: &str) -> Result<Made> {
    fs::create_dir_all(dir.join("qpc"))?;
    fs::write(dir.join("qpc/programqpc.bin"), text)?;
    Ok(Made { commands: vec![], details: json!({ "batch_size": 1 }) })
}

fn obtain(slot: &Slot, force: bool, text: &str) -> Result<Artifact> {
    slot.obtain(force, &mut |_| {}, |dir, _| made(dir, text))
}

fn content(slot: &Slot) -> String {
    fs::read_to_string(slot.dir.join("qpc/programqpc.bin")).expect("a file")
}

#[test]
fn made_once_and_found_again() {
    let root = tempfile::tempdir().expect("a folder");
    let slot = slot(root.path(), 1);
    assert!(slot.find().is_none());
    assert!(obtain(&slot, false, "first").expect("made").fresh);
    let again = obtain(&slot, false, "second").expect("found");
    assert_eq!((again.fresh, content(&slot)), (false, "first".into()));
    assert_eq!(again.manifest.files, [MadeFile { path: "qpc/programqpc.bin".into(), bytes: 5 }]);
    assert!(obtain(&slot, true, "third").expect("forced").fresh);
    assert_eq!(content(&slot), "third");
}

#[test]
fn the_key_is_what_matters() {
    let root = tempfile::tempdir().expect("a folder");
    let inputs = |text: &str| serde_json::from_str(text).expect("JSON");
    let key = |kind, text: &str| Slot::new(root.path(), kind, "Model", inputs(text)).key;
    let first = key(ArtifactKind::Qpc, r#"{"a":1,"b":[2]}"#);
    assert_eq!(first, key(ArtifactKind::Qpc, r#"{"b":[2],"a":1}"#), "order does not matter");
    assert_ne!(first, key(ArtifactKind::Qpc, r#"{"a":1,"b":[3]}"#));
    assert_ne!(first, key(ArtifactKind::Export, r#"{"a":1,"b":[2]}"#));
}

#[test]
fn what_is_not_whole_is_made_again() {
    let root = tempfile::tempdir().expect("a folder");
    let slot = slot(root.path(), 1);
    // A kill while it was made: files, no manifest.
    fs::create_dir_all(slot.dir.join("qpc")).expect("a folder");
    fs::write(slot.dir.join("qpc/programqpc.bin"), "half").expect("a file");
    fs::write(slot.dir.join("left"), "over").expect("a file");
    assert!(slot.find().is_none());
    assert!(obtain(&slot, false, "whole").expect("made").fresh);
    assert!(!slot.dir.join("left").exists());
    // A manifest that is cut off, a file that is shorter than promised or gone, another key, another schema.
    let manifest = fs::read_to_string(slot.dir.join(MANIFEST)).expect("a manifest");
    let spoil: [&dyn Fn(); 5] = [
        &|| fs::write(slot.dir.join(MANIFEST), &manifest[..40]).expect("a file"),
        &|| fs::write(slot.dir.join("qpc/programqpc.bin"), "w").expect("a file"),
        &|| fs::remove_file(slot.dir.join("qpc/programqpc.bin")).expect("a file"),
        &|| fs::write(slot.dir.join(MANIFEST), manifest.replace(&slot.key, "0")).expect("a file"),
        &|| fs::write(slot.dir.join(MANIFEST), manifest.replace("\"schema\": 1", "\"schema\": 2")).expect("a file"),
    ];
    for (i, spoil) in spoil.iter().enumerate() {
        spoil();
        assert!(slot.find().is_none(), "case {i}");
        assert!(obtain(&slot, false, "whole").expect("made").fresh, "case {i}");
        assert_eq!(content(&slot), "whole");
    }
}

#[test]
fn a_failure_leaves_nothing_that_is_trusted() {
    let root = tempfile::tempdir().expect("a folder");
    let slot = slot(root.path(), 1);
    let failed = slot.obtain(false, &mut |_| {}, |dir, _| {
        made(dir, "half")?;
        anyhow::bail!("no")
    });
    assert!(failed.is_err() && slot.find().is_none());
    assert!(obtain(&slot, false, "whole").expect("made").fresh);
}

#[test]
fn one_at_a_time() {
    let root = tempfile::tempdir().expect("a folder");
    let slot = slot(root.path(), 1);
    let fresh: Vec<bool> = std::thread::scope(|scope| {
        let make = || {
            let make = |dir: &Path, _: &Lock| {
                std::thread::sleep(Duration::from_millis(100));
                made(dir, "once")
            };
            slot.obtain(false, &mut |_| {}, make).expect("made").fresh
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(fresh.iter().filter(|fresh| **fresh).count(), 1);
}

/// A process that held the lock and was killed has left its child, which holds the lock on.
#[test]
fn an_orphan_is_ended() {
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("lock");
    let lock = Lock::acquire(&path, &mut |_| {}).expect("a lock");
    let mut child = {
        let mut sleep = Command::new("sleep");
        std::os::unix::process::CommandExt::process_group(&mut sleep, 0);
        sleep.arg("600").stdin(Stdio::from(lock.file().expect("a file"))).spawn().expect("a child")
    };
    lock.note(Some(child.id())).expect("noted");
    // Our own number stands in the lock; make it that of a process that is gone.
    let mut gone = Command::new("true").spawn().expect("a child");
    gone.wait().expect("ended");
    let text = fs::read_to_string(&path).expect("a lock");
    let text = text.replace(&format!("\"pid\":{},", std::process::id()), &format!("\"pid\":{},", gone.id()));
    drop(lock);
    fs::write(&path, text).expect("a file");

    let said = Cell::new(None);
    // A zombie is no longer running, but has to be reaped by somebody.
    let reaper = std::thread::spawn(move || child.wait());
    let _lock = Lock::acquire(&path, &mut |why| said.set(Some(why))).expect("the lock");
    assert!(matches!(said.get(), Some(Waiting::Orphan { .. })), "{:?}", said.get());
    reaper.join().expect("no panic").expect("ended");
}

#[test]
fn a_living_maker_is_waited_for() {
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("lock");
    let lock = Lock::acquire(&path, &mut |_| {}).expect("a lock");
    assert!(Lock::attempt(&path).expect("no error").is_none());
    let said = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut said = vec![];
            Lock::acquire(&path, &mut |why| said.push(why)).map(|_| said)
        });
        std::thread::sleep(Duration::from_millis(200));
        drop(lock);
        other.join().expect("no panic").expect("the lock")
    });
    assert_eq!(said, [Waiting::Maker { pid: Some(std::process::id()) }]);
}

#[test]
fn digests_are_computed_once() {
    let root = tempfile::tempdir().expect("a folder");
    let file = root.path().join("weights");
    let write = |text: &str, age: u64| {
        fs::write(&file, text).expect("a file");
        let time = SystemTime::now() - Duration::from_secs(age);
        fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(time)).expect("a time");
    };
    let digests = Digests::new(root.path().join("digests"));
    let read = Cell::new(0);
    let digest = || digests.content(&file, &|n| read.set(read.get() + n)).expect("a digest");
    write("abc", 100);
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((digest(), digest(), read.get()), (abc.into(), abc.into(), 3));
    // Changed, and so recently that it may change again without its time telling: not noted.
    write("abd", 0);
    assert_ne!(digest(), abc);
    digest();
    assert_eq!(read.get(), 9);
    // A note that is no digest is ignored.
    write("abc", 100);
    for note in fs::read_dir(root.path().join("digests")).expect("notes") {
        fs::write(note.expect("a note").path(), "nonsense").expect("a file");
    }
    assert_eq!(digest(), abc);
}

#[test]
fn headers_identify_safetensors() {
    let root = tempfile::tempdir().expect("a folder");
    let file = root.path().join("model.safetensors");
    let write = |header: &str, data: &[u8]| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        fs::write(&file, bytes).expect("a file");
        header_identity(&file)
    };
    let one = write("{}", b"1").expect("an identity");
    assert!(one.contains("size 11"), "{one}");
    assert_ne!(one, write("{}", b"12").expect("an identity"));
    fs::write(&file, u64::MAX.to_le_bytes()).expect("a file");
    assert!(header_identity(&file).is_err());
}

#[test]
fn the_shelf_lists_and_prunes_what_is_ours() {
    let root = tempfile::tempdir().expect("a folder");
    let slots = [slot(root.path(), 1), slot(root.path(), 2), slot(root.path(), 3)];
    obtain(&slots[0], false, "one").expect("made");
    obtain(&slots[1], false, "two").expect("made");
    fs::create_dir_all(&slots[2].dir).expect("a folder");
    let others = root.path().join("engines/rten-0123456789abcdef");
    fs::create_dir_all(&others).expect("a folder");
    let shelf = Shelf::new(root.path().to_owned());
    let all = shelf.list().expect("a list");
    assert_eq!(all.len(), 3);
    assert_eq!(all.iter().filter(|one| one.manifest.is_none()).count(), 1);

    let dry = Prune { dry_run: true, ..Prune::default() };
    assert_eq!(shelf.prune(dry).expect("pruned").len(), 3);
    assert_eq!(shelf.list().expect("a list").len(), 3);
    let old = Prune { older_than: Some(Duration::from_secs(3600)), ..Prune::default() };
    assert_eq!(shelf.prune(old).expect("pruned").len(), 1, "only what was never finished");
    let exports = Prune { kind: Some(ArtifactKind::Export), ..Prune::default() };
    assert_eq!(shelf.prune(exports).expect("pruned").len(), 0);

    let lock = Lock::acquire(&lock_of(&slots[0].dir), &mut |_| {}).expect("a lock");
    assert_eq!(shelf.prune(Prune::default()).expect("pruned").len(), 1, "what is being made stays");
    drop(lock);
    assert_eq!(shelf.prune(Prune::default()).expect("pruned").len(), 1);
    assert!(others.exists() && !root.path().join("Model").exists());
}
