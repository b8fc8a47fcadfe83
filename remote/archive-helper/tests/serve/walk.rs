//! Walks of trees of every sort.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use archive_helper::protocol::*;
use rustix::fs::{CWD, Mode, Timespec, Timestamps};

use crate::client::{Helper, abs, is_root, make, temp, walk_of};

#[test]
fn an_ugly_tree_is_told_exactly() {
    let (_temp, top) = temp();
    make_ugly(&top);
    let mut helper = Helper::start();
    let walked = helper.walk(walk_of(&[&top]), |_| true);
    walked.check_order();
    assert_eq!((walked.problems, walked.skipped), (Vec::new(), Vec::new()));
    let walked = Helper::start().walk(walk_of(&[&top]), |_| true);
    let entries = walked.entries();
    let mut found = 0;
    check_below(&top, &entries, &mut found);
    assert_eq!(found, entries.len(), "nothing is told of that is not there");
    assert!(walked.announced.iter().all(|announced| announced.complete));
}

fn make_ugly(top: &Path) {
    let names: [&[u8]; 9] =
        [b"a b", b"new\nline", b"-rf", b"\xff\xfe", b"'\"`$(x)", b"\\", b"\x01\x1b[m", b"*", "\u{202e}x".as_bytes()];
    for name in names {
        fs::write(top.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(top.join(OsStr::from_bytes(&[0xfe; 255])), "long").unwrap();
    make(top, &["empty/", "dir/one", "dir/sub/two"]);
    fs::hard_link(top.join("dir/one"), top.join("dir/sub/again")).unwrap();
    symlink("..", top.join("dir/loop")).unwrap();
    symlink("nowhere", top.join("dangling")).unwrap();
    symlink("/etc", top.join("absolute")).unwrap();
    symlink(OsStr::from_bytes(&[b'x'; 4095]), top.join("far")).unwrap();
    rustix::fs::mkfifoat(CWD, top.join("fifo"), Mode::RUSR).unwrap();
    UnixListener::bind(top.join("socket")).unwrap();
    if is_root() {
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, top.join("null"), rustix::fs::FileType::CharacterDevice, Mode::RUSR, device).unwrap();
    }
    fs::set_permissions(top.join("dir/one"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::set_permissions(top.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    for (name, seconds) in [("-rf", -315_619_200), ("a b", 4_102_444_801)] {
        let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, top.join(name), &times, rustix::fs::AtFlags::empty()).unwrap();
    }
    let deep = top.join("d/".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "").unwrap();
}

// Compares each entry with what std tells of it.
fn check_below(dir: &Path, entries: &std::collections::BTreeMap<AbsPath, Entry>, found: &mut usize) {
    for listed in fs::read_dir(dir).unwrap() {
        let path = listed.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let entry = &entries[&abs(&path)];
        assert_eq!(*entry, expected(&path, &metadata));
        *found += 1;
        if metadata.is_dir() {
            check_below(&path, entries, found);
        }
    }
}

fn expected(path: &Path, metadata: &fs::Metadata) -> Entry {
    let kind = match metadata.mode() & 0o170_000 {
        0o100_000 => Kind::File,
        0o040_000 => Kind::Dir,
        0o120_000 => Kind::Symlink,
        0o010_000 => Kind::Fifo,
        0o140_000 => Kind::Socket,
        0o020_000 => Kind::Char,
        _ => Kind::Block,
    };
    let inode = Inode { device: metadata.dev(), number: metadata.ino() };
    let target = |path| fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec();
    Entry {
        name: Name::new(path.file_name().unwrap().as_bytes()).unwrap(),
        kind,
        size: if kind == Kind::File { metadata.size() } else { 0 },
        mtime: Time::new(metadata.mtime(), metadata.mtime_nsec()),
        ctime: metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        inode: (kind == Kind::File && metadata.nlink() > 1).then_some(inode),
        device: if kind == Kind::Char { metadata.rdev() } else { 0 },
        target: if kind == Kind::Symlink { target(path) } else { Vec::new() },
        attributes: None,
    }
}

#[test]
fn only_wanted_directories_are_sent() {
    let (_temp, top) = temp();
    make(&top, &["a/1", "b/2", "c/3", "c/d/4"]);
    let walked = Helper::start().walk(walk_of(&[&top]), |announced| announced.path == abs(&top.join("c")));
    assert_eq!(walked.announced.len(), 5);
    assert_eq!(walked.names(&top), ["c/3", "c/d"]);
}

#[test]
fn all_are_sent_without_a_verdict_when_all_was_asked_for() {
    let (_temp, top) = temp();
    make(&top, &["a/1", "b/2", "c/3"]);
    let walked = Helper::start().walk(Walk { all: true, ..walk_of(&[&top]) }, |_| false);
    walked.check_order();
    assert_eq!(walked.names(&top), ["a", "a/1", "b", "b/2", "c", "c/3"]);
}

#[test]
fn entries_are_to_be_read_in_the_order_of_their_inodes() {
    let (_temp, top) = temp();
    let names = ["m", "c", "z", "a", "k", "b"];
    make(&top, &names);
    let walked = Helper::start().walk(walk_of(&[&top]), |_| true);
    let Entries { entries, order, .. } = &walked.frames[0];
    let inode = |place: &u16| {
        let name = OsStr::from_bytes(entries[usize::from(*place)].name.as_bytes());
        fs::symlink_metadata(top.join(name)).unwrap().ino()
    };
    let by_name: Vec<u16> = (0..6).collect();
    let order = if order.is_empty() { &by_name } else { order };
    assert!(order.iter().map(inode).is_sorted());
    let mut each = order.clone();
    each.sort_unstable();
    assert_eq!(each, by_name);
}

#[test]
fn fingerprints_are_the_same_until_something_changes() {
    let (_temp, top) = temp();
    make(&top, &["a/1", "a/2", "b/3"]);
    let walk = || Helper::start().walk(walk_of(&[&top]), |_| false);
    let before = walk();
    let again = walk();
    for dir in [top.clone(), top.join("a"), top.join("b")] {
        assert_eq!(before.directory(&dir).fingerprint, again.directory(&dir).fingerprint);
    }
    fs::set_permissions(top.join("a/1"), fs::Permissions::from_mode(0o600)).unwrap();
    let after = walk();
    assert_ne!(before.directory(&top.join("a")).fingerprint, after.directory(&top.join("a")).fingerprint);
    assert_eq!(before.directory(&top.join("b")).fingerprint, after.directory(&top.join("b")).fingerprint);
}

#[test]
fn a_large_directory_comes_sorted_in_several_frames() {
    let (_temp, top) = temp();
    for number in 0..10_000 {
        fs::write(top.join(format!("file-{number}")), "").unwrap();
    }
    let walked = Helper::start().walk(walk_of(&[&top]), |_| true);
    assert_eq!(walked.entries().len(), 10_000);
    assert!(walked.frames.len() >= 3);
    assert!(walked.frames.iter().all(|frame| frame.entries.len() <= MAX_ENTRIES));
}

// A directory with so many entries of 4000 bytes: all are names of one symlink, for that is quick.
fn make_large(dir: &Path, count: usize) {
    fs::create_dir(dir).unwrap();
    symlink("t".repeat(4000), dir.join("0")).unwrap();
    (1..count).for_each(|number| fs::hard_link(dir.join("0"), dir.join(format!("{number}"))).unwrap());
}

#[test]
fn a_directory_larger_than_the_memory_for_listings_passes() {
    let (_temp, top) = temp();
    make(&top, &["a/1", "z/2"]);
    make_large(&top.join("large"), 5000);
    let walked = Helper::start().walk(walk_of(&[&top]), |_| true);
    assert_eq!(walked.entries().len(), 5000 + 5);
}

#[test]
fn waits_with_more_listings_until_some_are_judged() {
    let (_temp, top) = temp();
    (0..12).for_each(|dir| make_large(&top.join(format!("{dir}")), 500));
    let mut helper = Helper::start();
    helper.ask(&Request::Walk(walk_of(&[&top])));
    let mut input = helper.input.take().unwrap();
    let (sender, replies) = std::sync::mpsc::channel();
    std::thread::spawn(move || while sender.send(helper.reply()).is_ok() {});
    let mut announced = Vec::new();
    while let Ok(reply) = replies.recv_timeout(Duration::from_secs(1)) {
        announced.extend(number(&reply));
    }
    assert!((1..12).contains(&announced.len()), "{} of 13 directories, of 2 MB each", announced.len());
    loop {
        let verdicts = announced.drain(..).map(|directory| Verdict { directory, send: Wish::Nothing }).collect();
        write_frame(&mut input, &Request::Verdicts(verdicts)).unwrap();
        match replies.recv().unwrap() {
            Reply::End => break,
            reply => announced.extend(number(&reply)),
        }
    }
}

fn number(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::Directory(announced) => Some(announced.directory),
        _ => None,
    }
}

#[test]
fn names_that_make_a_path_too_long_leave_the_directory_incomplete() {
    let (_temp, top) = temp();
    let name = "n".repeat(200);
    let mut dir = rustix::fs::openat(CWD, &top, rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..25 {
        rustix::fs::mkdirat(&dir, &name, Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, &name, rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let walked = Helper::start().walk(walk_of(&[&top]), |_| true);
    let last = walked.announced.last().unwrap();
    assert!(!last.complete && last.entries == 0);
    assert!(walked.announced.iter().rev().skip(1).all(|announced| announced.complete));
    let errno = rustix::io::Errno::NAMETOOLONG.raw_os_error();
    assert_eq!(walked.problems, [Problem { path: last.path.clone(), errno }]);
    // What std's own removal can't, a relative one can.
    assert!(std::process::Command::new("rm").arg("-rf").arg(top.join(&name)).status().unwrap().success());
}

#[test]
fn a_tree_that_changes_meanwhile_comes_to_an_end() {
    let (_temp, top) = temp();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                make(&top, &["a/b/c/1", "a/b/d/2", "e/3"]);
                fs::remove_dir_all(top.join("a")).unwrap();
                fs::rename(top.join("e"), top.join("a")).unwrap();
                symlink("a", top.join("e")).unwrap();
                fs::remove_file(top.join("e")).unwrap();
                fs::remove_dir_all(top.join("a")).unwrap();
            }
        });
        for _ in 0..30 {
            let walked = Helper::start().walk(walk_of(&[&top]), |_| true);
            walked.check_order();
            walked.entries();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
