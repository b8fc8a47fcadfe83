//! Numbers at the edge of what their types hold.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use archive_helper::protocol::*;

use super::{directory, entries, entry, harmless, listing, once_honest, path, root, sized, untouchable};
use crate::support::hostile::{Hostile, To, frames};
use crate::support::*;

#[test]
fn counts_that_can_not_be_break_nothing() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    // A directory with a known fingerprint is not listed again: its count is all that is told of it.
    let fingerprint = fingerprint(&[sized("kept", 4)]);
    let known = |directory| {
        let path = path("/root/data");
        Reply::Directory(Announced {
            directory,
            path,
            inode: 0,
            fingerprint,
            entries: u64::MAX,
            complete: true,
            mounted: Mounted::Nothing,
            excluded: 0,
        })
    };
    hostile.answers(To::Walk, frames(&[root(), known(0), known(1), known(2), Reply::End]));
    let ran = hostile.pull(&[]);
    assert!(matches!(ran.status, 0 | 6), "{} {}", ran.status, ran.stderr);
    assert_eq!(ran.summary()["exit"], ran.status);
    harmless(&hostile, &before, &kept, &ran, "counts");
    for verb in ["log", "status"] {
        let told = hostile.program.run([verb]);
        assert_eq!((told.status, told.stderr.as_str()), (0, ""), "{verb}");
    }
}

#[test]
fn times_owners_and_devices_at_the_edge_are_kept() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    let list = |mtime: Time, mode: u32, size: u64| {
        let edge = |name: &str, kind| Entry { mtime, ctime: i64::MIN, mode, ..entry(name, kind) };
        let device = |name: &str, kind| Entry { device: u64::MAX, ..edge(name, kind) };
        let file = Entry { uid: u32::MAX - 1, gid: u32::MAX - 1, size, ..edge("file", Kind::File) };
        let list = vec![device("block", Kind::Block), device("char", Kind::Char), edge("dir", Kind::Dir), file];
        listing([list, vec![sized("kept", 4), edge("link", Kind::Symlink)]].concat())
    };
    let (first, last) = (Time::new(i64::MIN, 0), Time::new(i64::MAX, 999_999_999));
    let near = [(i64::MIN, 0o7777), (i64::MAX, 0), (-1, 0o7000), (0, 0o777)].map(|(mtime, mode)| (mtime.into(), mode));
    for (mtime, mode) in [(first, 0o7777), (last, 0)].into_iter().chain(near) {
        hostile.answers(To::Walk, list(mtime, mode, 0));
        let ran = hostile.pull(&["-q"]);
        assert_eq!(ran.status, 0, "{mtime}: {}", ran.stderr);
        harmless(&hostile, &before, &kept, &ran, "an edge");
        for name in ["file", "dir"] {
            let found = fs::symlink_metadata(kept.with_file_name(name)).unwrap();
            assert_eq!((found.mode() & 0o7000, found.mode() & 0o600), (0, 0o600), "{mtime} {name}");
        }
        assert!(!kept.with_file_name("block").exists() && !kept.with_file_name("char").exists());
        let again = hostile.pull(&[]);
        assert_eq!((again.status, again.summary()["unchanged"].as_u64()), (0, Some(7)), "{mtime}: {}", again.stdout);
    }
}

#[test]
fn an_owner_that_is_no_number_of_an_owner_is_survived() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    // To chown(2), -1 means that the owner stays.
    let nobody = |size| Entry { uid: u32::MAX, gid: u32::MAX, ..sized("new", size) };
    hostile.answers(To::Walk, listing(vec![sized("kept", 4), nobody(0)]));
    for _ in 0..2 {
        let ran = hostile.pull(&["-q"]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        harmless(&hostile, &before, &kept, &ran, "no owner");
    }
}

#[test]
fn error_numbers_that_are_none_are_told() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    for errno in [i32::MIN, -2, -1, 0, 4095, i32::MAX] {
        let problem = Reply::Problem(Problem { path: path("/root/data/kept"), errno });
        hostile.answers(
            To::Walk,
            frames(&[root(), directory(0, "/root/data"), problem, entries(0, vec![sized("kept", 4)]), Reply::End]),
        );
        let ran = hostile.pull(&["-q"]);
        ran.refused(3, &["can't read `/root/data/kept`"]);
        harmless(&hostile, &before, &kept, &ran, "an error number");
        for root in [Root::Unreadable { path: path("/root/data"), errno }, Root::Invalid] {
            hostile.answers(To::Walk, frames(&[Reply::Root(root)]));
            let ran = hostile.pull(&["-q"]);
            assert!(matches!(ran.status, 2 | 4), "{} {}", ran.status, ran.stderr);
            harmless(&hostile, &before, &kept, &ran, "a root that can't be read");
        }
    }
}

#[test]
fn a_file_that_is_said_to_be_endless_is_as_long_as_it_is() {
    let hostile = Hostile::new();
    let client = Tree::new([("endless", file(vec![1; 200_000]))]);
    let (at, file) = (client.root(), client.path("endless"));
    let at = at.to_str().unwrap();
    let found = fs::metadata(&file).unwrap();
    let mtime = Time::new(found.mtime(), found.mtime_nsec());
    // What is said to be larger is not read at all.
    let most = 256 << 40;
    for (size, flag) in [(most, "-q"), (most, "-n"), (199_999, "-q"), (1, "-q"), (i64::MAX as u64, "-q")] {
        let listed = Entry { mtime, uid: found.uid(), gid: found.gid(), ..sized("endless", size) };
        let root = Reply::Root(Root::Found { path: path(at), entry: Some(entry("data", Kind::Dir)), empty: false });
        hostile.answers(To::Walk, frames(&[root, directory(0, at), entries(0, vec![listed]), Reply::End]));
        hostile.answers(To::Read, frames(&[Reply::Read(vec![ReadAnswer { id: 0, outcome: ReadOutcome::Changed }])]));
        let end = Some(HashOutcome::Changed);
        hostile.answers(To::Chunk, frames(&[Reply::Chunks(Chunks { id: 0, chunks: Vec::new(), end })]));
        hostile.answers(To::Key, frames(&[Reply::Hashed(vec![Hashed { id: 0, outcome: HashOutcome::Changed }])]));
        let begun = Instant::now();
        let target = format!("client:{at}");
        let ran = hostile.program.pull(&hostile.sshd, [target.as_str(), flag, "--retries", "0", "--timeout", "3s"]);
        assert_eq!(ran.status, if size > most { 3 } else { 0 }, "{size}: {}", ran.stderr);
        assert!(begun.elapsed() < Duration::from_secs(10), "{size}: {:?}", begun.elapsed());
        let copy = hostile.program.snapshot("client", &file);
        assert_eq!(fs::read(copy).unwrap(), vec![1; 200_000], "{size}");
        hostile.program.assert_index_is_right();
    }
}
