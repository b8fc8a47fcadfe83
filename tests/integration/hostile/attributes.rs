//! Attributes that a client makes up: too many, too large, of things that can't have them.

use archive_helper::protocol::{Attributes, Extent, Xattr};

use super::*;

fn with(attributes: Attributes, entry: Entry) -> Entry {
    Entry { attributes: Some(Box::new(attributes)), ..entry }
}

fn xattrs(names: &[&[u8]], bytes: usize) -> Attributes {
    let xattrs = names.iter().map(|name| Xattr { name: name.to_vec(), value: vec![b'v'; bytes] }).collect();
    Attributes { xattrs, data: None }
}

fn holes(extents: &[(u64, u64)]) -> Attributes {
    let data = extents.iter().map(|&(offset, length)| Extent { offset, length }).collect();
    Attributes { xattrs: Vec::new(), data: Some(data) }
}

#[test]
fn attributes_that_cannot_be_are_refused() {
    let link = |text: &str| entry(text, Kind::Symlink);
    let many: Vec<(u64, u64)> = (0..=MAX_EXTENTS as u64).map(|number| (2 * number, 1)).collect();
    let cases = [
        ("another namespace", with(xattrs(&[b"security.selinux"], 1), sized("f", 0))),
        ("a NUL in a name", with(xattrs(&[b"user.\0"], 1), sized("f", 0))),
        ("a name twice", with(xattrs(&[b"user.a", b"user.a"], 1), sized("f", 0))),
        ("names out of order", with(xattrs(&[b"user.b", b"user.a"], 1), sized("f", 0))),
        ("too many bytes", with(xattrs(&[b"user.a"], MAX_XATTRS), sized("f", 0))),
        ("none at all", with(Attributes::default(), sized("f", 0))),
        ("holes of a symlink", with(holes(&[]), link("l"))),
        ("data behind the end", with(holes(&[(0, 11)]), sized("f", 10))),
        ("data without end", with(holes(&[(5, u64::MAX)]), sized("f", 10))),
        ("nothing as data", with(holes(&[(5, 0)]), sized("f", 10))),
        ("data that overlaps", with(holes(&[(0, 5), (4, 2)]), sized("f", 10))),
        ("too many pieces", with(holes(&many), sized("f", 1 << 20))),
    ];
    refused_walks(cases.into_iter().map(|(what, entry)| (what, listing(vec![entry]))).collect());
}

#[test]
fn many_large_attributes_take_no_memory() {
    let hostile = Hostile::new();
    let mut bytes = frames(&[root(), directory(0, "/root/data")]);
    for frame in 0..300_u32 {
        let each = (0..8).map(|n| {
            let mut attributes = xattrs(&[b"user.a"], MAX_XATTRS - 6);
            attributes.xattrs[0].value[..4].copy_from_slice(&(frame * 8 + n).to_le_bytes());
            with(attributes, entry(format!("{:07}", frame * 8 + n), Kind::Fifo))
        });
        let part = Entries { directory: 0, entries: each.take(7).collect(), last: frame == 299, order: Vec::new() };
        bytes.extend(frames(&[Reply::Entries(part)]));
    }
    bytes.extend(frames(&[Reply::End]));
    hostile.answers(To::Walk, &bytes);
    let peak = peak_memory(&hostile);
    assert!(peak < 400 << 10, "{peak} KiB");
    hostile.program.assert_index_is_right();
}
