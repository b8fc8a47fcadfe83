//! More than anybody needs to say.

use archive_helper::protocol::*;

use super::{directory, harmless, once_honest, peak_memory, root, sized, untouchable};
use crate::support::hostile::{Hostile, To, frames};

const MOST_KIB: u64 = 256 << 10;

#[test]
fn a_greeting_without_end_is_left() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    hostile.greets_without_end();
    let ran = hostile.pull(&["-q"]);
    ran.refused(6, &["no greeting came"]);
    harmless(&hostile, &before, &kept, &ran, "a greeting without end");
}

/// A listing of one directory with a million entries.
fn million(entry: impl Fn(String) -> Entry) -> Vec<u8> {
    let mut bytes = frames(&[root(), directory(0, "/root/data")]);
    for frame in 0..250 {
        let entries = (0..4000).map(|n| entry(format!("{:07}", frame * 4000 + n))).collect();
        bytes.extend(frames(&[Reply::Entries(Entries {
            directory: 0,
            entries,
            last: frame == 249,
            order: Vec::new(),
        })]));
    }
    bytes.extend(frames(&[Reply::End]));
    bytes
}

#[test]
fn a_million_files_that_never_come_take_no_memory() {
    let hostile = Hostile::new();
    hostile.answers(To::Walk, million(|name| sized(&name, 5)));
    hostile.answers(To::Read, "");
    let peak = peak_memory(&hostile);
    assert!(peak < MOST_KIB, "{peak} KiB");
}

#[test]
fn names_of_one_inode_that_never_comes_are_bounded_in_memory() {
    let hostile = Hostile::new();
    let xattr = Xattr { name: b"user.a".to_vec(), value: vec![b'x'; 100_000] };
    let linked = |number: u32| Entry {
        inode: Some(Inode { device: 1, number: 1 }),
        attributes: Some(Box::new(Attributes { xattrs: vec![xattr.clone()], data: None })),
        ..sized(&format!("{number:06}"), 5)
    };
    // 500 MB in all.
    let mut bytes = frames(&[root(), directory(0, "/root/data")]);
    for frame in 0..625 {
        let entries = (0..8).map(|n| linked(frame * 8 + n)).collect();
        let (directory, last, order) = (0, frame == 624, Vec::new());
        bytes.extend(frames(&[Reply::Entries(Entries { directory, entries, last, order })]));
    }
    bytes.extend(frames(&[Reply::End]));
    hostile.answers(To::Walk, &bytes);
    hostile.answers(To::Read, "");
    let peak = peak_memory(&hostile);
    assert!(peak < MOST_KIB, "{peak} KiB");
}
