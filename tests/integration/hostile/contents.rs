//! Answers about contents that are no answers, or no truth.

use std::fs;

use archive_helper::protocol::*;

use super::{files_with, harmless, listing, once_honest, read_answer, root, sized, untouchable};
use crate::support::hostile::{Hostile, To, frames};
use crate::support::is_root;

const SECRET: &[u8] = b"of another source";

fn hash(bytes: &[u8]) -> Hash {
    blake3::hash(bytes).into()
}

fn hashed(id: u64, hash: Hash) -> Reply {
    Reply::Hashed(vec![Hashed { id, outcome: HashOutcome::Done { hash, proof: None } }])
}

fn content(id: u64, bytes: &[u8]) -> ReadAnswer {
    ReadAnswer { id, outcome: ReadOutcome::Content(Bytes::new(bytes).unwrap()) }
}

/// The next listing has a file `mine` that is as large as the other source's secret, so that it is hashed first.
fn lists_what_is_hashed(hostile: &Hostile) {
    hostile.answers(To::Walk, listing(vec![sized("kept", 4), sized("mine", SECRET.len() as u64)]));
}

#[test]
fn hashes_that_were_not_asked_for_are_refused() {
    let mine = hashed(0, [7; 32]);
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    lists_what_is_hashed(&hostile);
    for (what, answer) in [
        ("an unknown number", frames(&[hashed(77, [7; 32])])),
        ("the largest number", frames(&[hashed(u64::MAX, [7; 32])])),
        ("one number twice", frames(&[mine.clone(), mine.clone()])),
        ("a root", frames(&[root()])),
        ("an end", frames(&[Reply::End])),
        ("a file", frames(&[Reply::Read(vec![content(0, SECRET)])])),
        ("nothing", Vec::new()),
    ] {
        hostile.answers(To::Key, answer);
        hostile.answers(To::Read, "");
        let ran = hostile.pull(&["-q"]);
        assert_eq!((ran.status, ran.stderr.lines().count()), (6, 1), "{what}: {}", ran.stderr);
        harmless(&hostile, &before, &kept, &ran, what);
    }
}

#[test]
fn a_file_that_comes_twice_is_refused() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    hostile.answers(To::Walk, listing(vec![sized("kept", 4), sized("new", 5)]));
    hostile.answers(To::Read, frames(&[Reply::Read(vec![content(0, b"once."), content(0, b"twice")])]));
    let ran = hostile.pull(&["-q"]);
    ran.refused(6, &["a file came that nobody asked for"]);
    harmless(&hostile, &before, &kept, &ran, "twice");
    assert_eq!(files_with(&hostile, "twice"), [] as [&str; 0]);
}

#[test]
fn answers_that_end_anywhere_are_no_contents() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    hostile.ends();
    let hashes = frames(&[hashed(0, [7; 32])]);
    let files = frames(&[Reply::Read(vec![content(0, SECRET)])]);
    lists_what_is_hashed(&hostile);
    hostile.answers(To::Read, &files);
    for length in 0..hashes.len() {
        hostile.answers(To::Key, &hashes[..length]);
        let ran = hostile.pull(&["-q"]);
        ran.refused(6, &["lost"]);
        harmless(&hostile, &before, &kept, &ran, "a hash that ends");
    }
    hostile.answers(To::Walk, listing(vec![sized("kept", 4), sized("new", SECRET.len() as u64 + 1)]));
    let files = frames(&[Reply::Read(vec![content(0, b"Of another source.")])]);
    for length in 0..files.len() {
        hostile.answers(To::Read, &files[..length]);
        let ran = hostile.pull(&["-q"]);
        ran.refused(6, &["lost"]);
        harmless(&hostile, &before, &kept, &ran, "a file that ends");
    }
    assert_eq!(files_with(&hostile, "Of"), [] as [&str; 0]);
}

#[test]
fn a_content_that_is_said_to_have_come_before_is_asked_for() {
    for (what, hash) in [("nobody's", [7; 32]), ("another source's", hash(SECRET)), ("its own", hash(b"kept"))] {
        let (hostile, kept) = once_honest();
        let before = untouchable(&hostile);
        hostile.answers(To::Walk, listing(vec![sized("kept", 4), sized("new", 5)]));
        hostile.answers(To::Read, read_answer(ReadOutcome::Sent(hash)));
        // It does not come the second time either.
        hostile.answers_then(
            To::Read,
            frames(&[Reply::Read(vec![ReadAnswer { id: 1, outcome: ReadOutcome::Sent(hash) }])]),
        );
        let ran = hostile.pull(&["-q"]);
        ran.refused(6, &["a file that was to come did not"]);
        harmless(&hostile, &before, &kept, &ran, what);
        hostile.answers_then(To::Read, frames(&[Reply::Read(vec![content(1, b"there")])]));
        let ran = hostile.pull(&["-q"]);
        assert_eq!(ran.status, 0, "{what}: {}", ran.stderr);
        assert_eq!(fs::read(kept.with_file_name("new")).unwrap(), b"there", "{what}");
        harmless(&hostile, &before, &kept, &ran, what);
        assert_eq!(files_with(&hostile, "of another source"), [] as [&str; 0]);
    }
}

#[test]
fn the_hash_of_an_own_content_of_another_size_is_not_believed() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    lists_what_is_hashed(&hostile);
    hostile.answers(To::Key, frames(&[hashed(0, hash(b"kept"))]));
    hostile.answers(To::Read, frames(&[Reply::Read(vec![content(0, b"Not of my source!")])]));
    let ran = hostile.pull(&["-q"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(fs::read(kept.with_file_name("mine")).unwrap(), b"Not of my source!");
    let own = blake3::hash(b"Not of my source!").to_hex();
    assert!(hostile.program.run(["find", "--hash", &own]).stdout.contains("/mine"));
    harmless(&hostile, &before, &kept, &ran, "its own");
}

#[test]
fn the_hash_of_nothing_is_not_that_of_a_file_with_a_size() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    hostile.answers(To::Walk, listing(vec![sized("kept", 4), sized("mine", 0)]));
    hostile.pull(&[]).well();
    lists_what_is_hashed(&hostile);
    hostile.answers(To::Key, frames(&[hashed(0, hash(b""))]));
    hostile.answers(To::Read, "");
    let ran = hostile.pull(&["-q"]);
    assert!(matches!(ran.status, 3 | 6), "{} {}", ran.status, ran.stderr);
    harmless(&hostile, &before, &kept, &ran, "nothing");
}

#[test]
fn names_of_one_inode_need_not_be_of_one_size() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    let inode = Some(Inode { device: 1, number: 1 });
    let of_inode = |name: &str, size| Entry { inode, ..sized(name, size) };
    hostile.answers(To::Walk, listing(vec![sized("kept", 4), of_inode("one", 5), of_inode("two", 6)]));
    hostile.answers(To::Read, frames(&[Reply::Read(vec![content(0, b"first"), content(1, b"second")])]));
    let ran = hostile.pull(&["-q"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let read = |name: &str| fs::read_to_string(kept.with_file_name(name)).unwrap();
    assert_eq!((read("one"), read("two")), ("first".to_owned(), "second".to_owned()));
    harmless(&hostile, &before, &kept, &ran, "an inode");
}

#[test]
fn files_that_are_said_to_fail_keep_what_is_there() {
    for (outcome, status) in [
        (ReadOutcome::Failed(i32::MIN), 3),
        (ReadOutcome::Failed(0), 3),
        (ReadOutcome::Failed(-2), 3),
        (ReadOutcome::Vanished, 0),
        // SFTP finds no such file; an ordinary user may not even look for it in /root.
        (ReadOutcome::Changed, if is_root() { 0 } else { 3 }),
    ] {
        let (hostile, kept) = once_honest();
        let before = untouchable(&hostile);
        let what = format!("{outcome:?}");
        hostile.answers(To::Walk, listing(vec![sized("kept", 5)]));
        hostile.answers(To::Read, read_answer(outcome));
        let ran = hostile.pull(&["-q"]);
        assert_eq!(ran.status, status, "{what}: {}", ran.stderr);
        harmless(&hostile, &before, &kept, &ran, &what);
    }
}
