//! Listings that tell of things below what is no directory, here or on the client.

use std::fs;
use std::path::PathBuf;

use archive_helper::protocol::*;

use super::{directory, entries, entry, harmless, once_honest, path, read_answer, root, sized, untouchable};
use crate::support::hostile::{Hostile, To, frames};
use crate::support::*;

fn canary(hostile: &Hostile) -> PathBuf {
    hostile.program.path("canary")
}

fn link_to(name: &str, target: &std::path::Path) -> Entry {
    Entry { target: target.to_str().unwrap().as_bytes().to_vec(), ..entry(name, Kind::Symlink) }
}

/// A directory, a file with content, and one that is in the canary too.
fn below() -> Vec<Entry> {
    vec![entry("inside", Kind::Dir), sized("sings", 0), sized("song", 5)]
}

/// The content of `song`.
fn song() -> Vec<u8> {
    read_answer(ReadOutcome::Content(Bytes::new(&b"a-a-a"[..]).unwrap()))
}

/// Nothing was written through the symlink, however the listing is ordered.
#[track_caller]
fn canary_sings(hostile: &Hostile, what: &str) {
    assert_eq!(names(&canary(hostile)), ["sings"], "{what}");
    assert_eq!(fs::read(canary(hostile).join("sings")).unwrap(), b"sings", "{what}");
}

/// What is called `x`, with things below it all the same, told of in both orders.
fn listings_below(x: Option<Entry>) -> [Vec<u8>; 2] {
    let above: Vec<_> = [sized("kept", 4)].into_iter().chain(x).collect();
    let first = [directory(0, "/root/data"), entries(0, above.clone())];
    let then = [directory(1, "/root/data/x"), entries(1, below())];
    let late = [directory(0, "/root/data"), directory(1, "/root/data/x"), entries(1, below()), entries(0, above)];
    let whole = |middle: Vec<Reply>| frames([root()].iter().chain(&middle).chain(&[Reply::End]));
    [whole([first, then].concat()), whole(late.to_vec())]
}

#[test]
fn below_what_is_no_directory_nothing_is_written_elsewhere() {
    for kind in [Some(Kind::File), Some(Kind::Symlink), Some(Kind::Fifo), None] {
        for order in 0..2 {
            let (hostile, kept) = once_honest();
            let before = untouchable(&hostile);
            let what = format!("{kind:?}, {order}");
            let target = canary(&hostile);
            let x = kind.map(|kind| if kind == Kind::Symlink { link_to("x", &target) } else { entry("x", kind) });
            hostile.answers(To::Walk, &listings_below(x)[order]);
            hostile.answers(To::Read, song());
            for _ in 0..2 {
                let ran = hostile.pull(&["-q"]);
                assert!(matches!(ran.status, 0 | 1 | 3 | 6), "{what}: {} {}", ran.status, ran.stderr);
                canary_sings(&hostile, &what);
                assert_eq!(untouchable(&hostile), before, "{what}");
                assert_eq!(fs::read(&kept).unwrap(), b"kept", "{what}");
            }
        }
    }
}

#[test]
fn problems_and_skips_elsewhere_change_nothing() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    let problem = |at: &str| Reply::Problem(Problem { path: path(at), errno: 13 });
    let skip = |at: &str, reason| Reply::Skipped(Skipped { path: path(at), reason });
    hostile.answers(
        To::Walk,
        frames(&[
            root(),
            problem("/etc"),
            problem("/"),
            skip("/tmp", SkipReason::Repository),
            skip("/root/data/kept", SkipReason::Cache),
            directory(0, "/root/data"),
            entries(0, vec![sized("kept", 4)]),
            Reply::End,
        ]),
    );
    let ran = hostile.pull(&["-q"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    harmless(&hostile, &before, &kept, &ran, "elsewhere");
}
