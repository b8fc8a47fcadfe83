//! What a client says is new in a directory of which it was told what is known.

use archive_helper::protocol::*;

use super::{directory, entries, entry, harmless, once_honest, path, refused_walks, root, sized, untouchable};
use crate::support::hostile::{To, frames};

/// `/root/data` holds these now, it says.
fn announced(number: u64, holds: &[Entry]) -> Reply {
    let (fingerprint, entries) = (fingerprint(holds), holds.len() as u64);
    let path = path("/root/data");
    Reply::Directory(Announced {
        directory: number,
        path,
        inode: 0,
        fingerprint,
        entries,
        complete: true,
        mounted: Mounted::Nothing,
        excluded: 0,
    })
}

fn changes(directory: u64, gone: &[u32], added: &[u32], entries: Vec<Entry>) -> Reply {
    let differences = Differences { gone: gone.to_vec(), added: added.to_vec() };
    Reply::Changes(Changes { directory, differences, entries })
}

fn walk(replies: Vec<Reply>) -> Vec<u8> {
    frames([&[root()][..], &replies, &[Reply::End]].concat().iter())
}

#[test]
fn changes_that_can_not_be_are_refused() {
    let (kept, larger, more) = (|| sized("kept", 4), || sized("kept", 5), || entry("more", Kind::Fifo));
    let both = || announced(0, &[kept(), more()]);
    refused_walks(vec![
        ("another fingerprint", walk(vec![announced(0, &[kept(), larger()]), changes(0, &[], &[1], vec![more()])])),
        ("a place too far", walk(vec![both(), changes(0, &[], &[2], vec![more()])])),
        ("a place twice", walk(vec![both(), changes(0, &[], &[1, 1], vec![more(), more()])])),
        ("an entry without a place", walk(vec![both(), changes(0, &[], &[], vec![more()])])),
        ("gone that was not there", walk(vec![both(), changes(0, &[1], &[1], vec![more()])])),
        ("gone more often than it was", walk(vec![both(), changes(0, &[0, 0], &[1], vec![more()])])),
        ("entries in disorder", walk(vec![both(), changes(0, &[0], &[0, 1], vec![more(), kept()])])),
        ("of nothing announced", walk(vec![both(), changes(1, &[], &[1], vec![more()])])),
        ("twice", walk(vec![both(), changes(0, &[], &[1], vec![more()]), changes(0, &[], &[1], vec![more()])])),
        ("and all entries", walk(vec![both(), changes(0, &[], &[1], vec![more()]), entries(0, vec![kept()])])),
        ("after some entries", {
            let some = Reply::Entries(Entries { directory: 0, entries: vec![kept()], last: false, order: Vec::new() });
            walk(vec![both(), some, changes(0, &[], &[1], vec![more()])])
        }),
        (
            "a second one of a name",
            walk(vec![announced(0, &[kept(), larger()]), changes(0, &[], &[1], vec![larger()])]),
        ),
        ("a name out of order", walk(vec![announced(0, &[more(), kept()]), changes(0, &[], &[0], vec![more()])])),
        ("of a directory that nothing is known of", {
            let below = directory(1, "/root/data/below");
            let parent = changes(0, &[], &[0], vec![entry("below", Kind::Dir)]);
            walk(vec![announced(0, &[entry("below", Kind::Dir), kept()]), parent, below, changes(1, &[], &[], vec![])])
        }),
    ]);
}

#[test]
fn true_changes_are_believed() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    let (old, more) = (sized("kept", 4), entry("more", Kind::Fifo));
    let now = [old.clone(), more.clone()];
    hostile.answers(To::Walk, walk(vec![announced(0, &now), changes(0, &[], &[1], vec![more])]));
    let ran = hostile.pull(&[]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!((&ran.summary()["new"], &ran.summary()["unchanged"]), (&1.into(), &2.into()));
    harmless(&hostile, &before, &kept, &ran, "more");
    // What was added is known now, and what is gone goes.
    hostile.answers(To::Walk, walk(vec![announced(0, &[old]), changes(0, &[1], &[], vec![])]));
    let ran = hostile.pull(&[]);
    assert_eq!((ran.status, &ran.summary()["removed"]), (0, &1.into()), "{}", ran.stderr);
    harmless(&hostile, &before, &kept, &ran, "less");
}
