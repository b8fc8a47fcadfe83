//! Clients that lie, flood and stall: nothing outside of their own trees changes, and nothing of what is kept goes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use archive_helper::protocol::*;

use crate::support::hostile::{Hostile, To, frames, raw};
use crate::support::*;

#[path = "hostile/attributes.rs"]
mod attributes;
#[path = "hostile/busy.rs"]
mod busy;
#[path = "hostile/contents.rs"]
mod contents;
#[path = "hostile/digests.rs"]
mod digests;
#[path = "hostile/floods.rs"]
mod floods;
#[path = "hostile/large.rs"]
mod large;
#[path = "hostile/numbers.rs"]
mod numbers;
#[path = "hostile/places.rs"]
mod places;
#[path = "hostile/terminals.rs"]
mod terminals;

fn path(text: impl AsRef<[u8]>) -> AbsPath {
    AbsPath::new(text.as_ref()).unwrap()
}

fn name(text: impl AsRef<[u8]>) -> Name {
    Name::new(text.as_ref()).unwrap()
}

fn entry(text: impl AsRef<[u8]>, kind: Kind) -> Entry {
    let target = if kind == Kind::Symlink { b"/tmp".to_vec() } else { Vec::new() };
    let (mtime, ctime) = (Time::new(1_000_000_000, 0), 1);
    Entry {
        name: name(text),
        kind,
        size: 0,
        mtime,
        ctime,
        mode: 0o755,
        uid: 0,
        gid: 0,
        inode: None,
        device: 0,
        target,
        attributes: None,
    }
}

fn sized(text: &str, size: u64) -> Entry {
    Entry { size, ..entry(text, Kind::File) }
}

fn root() -> Reply {
    Reply::Root(Root::Found { path: path("/root/data"), entry: Some(entry("data", Kind::Dir)), empty: false })
}

fn directory(number: u64, at: impl AsRef<[u8]>) -> Reply {
    let (directory, path) = (number, path(at));
    Reply::Directory(Announced {
        directory,
        path,
        inode: 0,
        fingerprint: [number as u8; 16],
        // Enough to be worth a tray, if it is new.
        entries: 9,
        complete: true,
        mounted: Mounted::Nothing,
        excluded: 0,
    })
}

fn entries(directory: u64, entries: Vec<Entry>) -> Reply {
    in_order(directory, entries, &[])
}

fn in_order(directory: u64, entries: Vec<Entry>, order: &[u16]) -> Reply {
    Reply::Entries(Entries { directory, entries, last: true, order: order.to_vec() })
}

/// A file of one inode with several names, as it was at this time.
pub fn linked(text: &str, ctime: i64) -> Entry {
    Entry { inode: Some(Inode { device: 1, number: 1 }), ctime, ..sized(text, 5) }
}

/// The listing of one directory with these entries.
pub fn listing(of: Vec<Entry>) -> Vec<u8> {
    frames(&[root(), directory(0, "/root/data"), entries(0, of), Reply::End])
}

/// Everything on the disk that no pull of the source `client` may touch.
fn untouchable(hostile: &Hostile) -> Vec<String> {
    let beside = hostile.program.path("");
    let script = "find . -path ./repo/snapshot/client -prune -o -path ./repo/archive/client -prune \
                  -o -path ./repo/staging/client -prune -o -path './repo/log*' -prune -o -path './repo/index*' -prune \
                  -o -path './repo/lock*' -prune -o -path ./repo/newest-run -prune -o -type d -print -o -printf '%p %y %s %T@\\n' | sort";
    let output = std::process::Command::new("sh").args(["-c", script]).current_dir(beside).output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// A host that was honest once, so that its snapshot holds `/root/data/kept`, and another source.
fn once_honest() -> (Hostile, PathBuf) {
    let hostile = Hostile::new();
    fs::create_dir(hostile.program.path("canary")).unwrap();
    fs::write(hostile.program.path("canary/sings"), "sings").unwrap();
    let other = Tree::new([("secret", file("of another source"))]);
    hostile.program.pull_local(&other.root(), &["--name", "other"]);
    hostile.answers(To::Walk, listing(vec![sized("kept", 4)]));
    let content = ReadOutcome::Content(Bytes::new(&b"kept"[..]).unwrap());
    hostile.answers(To::Read, frames(&[Reply::Read(vec![ReadAnswer { id: 0, outcome: content }])]));
    hostile.pull(&[]).well();
    let kept = hostile.program.snapshot("client", "/root/data/kept".as_ref());
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    (hostile, kept)
}

/// Nothing in it steers a terminal, or turns the direction of text; bytes that are no text would have become U+FFFD.
#[track_caller]
fn shown_plainly(text: &str, what: &str) {
    let steers = |c: char| {
        c.is_control() && c != '\n' || matches!(c, '\u{61c}' | '\u{200e}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    assert!(!text.contains(steers), "{what}: {text:?}");
}

/// Nothing of what was said was believed, nor shown as it came.
#[track_caller]
fn harmless(hostile: &Hostile, before: &[String], kept: &PathBuf, ran: &Ran, what: &str) {
    let log = fs::read_to_string(hostile.program.repo().join("log/archive.log")).unwrap();
    for text in [&ran.stderr, &ran.stdout, &log] {
        shown_plainly(text, what);
    }
    assert_eq!(untouchable(hostile), before, "{what}");
    assert_eq!(fs::read(kept).unwrap(), b"kept", "{what}");
    hostile.program.assert_index_is_right();
}

/// Each of these walks is refused, and harmless.
fn refused_walks(cases: Vec<(&str, Vec<u8>)>) {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    for (what, bytes) in cases {
        hostile.answers(To::Walk, bytes);
        let begun = Instant::now();
        let ran = hostile.pull(&["-q"]);
        assert!(matches!(ran.status, 6 | 1), "{what}: {} {}", ran.status, ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{what}: {}", ran.stderr);
        let told = ["breaks the protocol", "stopped answering", "can't be pulled"];
        assert!(told.iter().any(|told| ran.stderr.contains(told)), "{what}: {}", ran.stderr);
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        harmless(&hostile, &before, &kept, &ran, what);
    }
}

/// An entry in the wire's encoding whose name is whatever it is.
fn named(bytes: &[u8]) -> Vec<u8> {
    let honest = frames(&[entries(0, vec![entry("NAME", Kind::File)])]);
    let at = honest.windows(5).position(|window| window == b"\x04NAME").unwrap();
    let mut length = Vec::new();
    let mut left = bytes.len();
    while left >= 0x80 {
        length.push(left as u8 | 0x80);
        left >>= 7;
    }
    length.push(left as u8);
    raw(&[&honest[4..at], &length, bytes, &honest[at + 5..]].concat())
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let bad: [&[u8]; 8] = [b"../x", b"a/b", b".", b"..", b"", b"a\0b", &[b'x'; 300], b"/etc/passwd"];
    let begin = frames(&[root(), directory(0, "/root/data")]);
    let cases = bad.iter().map(|name| ("a name", [begin.clone(), named(name), frames(&[Reply::End])].concat()));
    refused_walks(cases.collect());
}

/// A listing of one file in a directory whose path is whatever it is, below 128 bytes.
fn listed_at(bytes: &[u8]) -> Vec<u8> {
    let honest = frames(&[directory(0, "/root/data")]);
    let at = honest.windows(11).position(|window| window == b"\x0a/root/data").unwrap();
    let body = [&honest[4..at], &[bytes.len() as u8], bytes, &honest[at + 11..]].concat();
    [frames(&[root()]), raw(&body), frames(&[entries(0, vec![sized("x", 0)]), Reply::End])].concat()
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let bad: [&[u8]; 14] = [
        b"/root/data/../../x",
        b"/../x",
        b"//root/data",
        b"//a",
        b"/root/data/",
        b"/root//data",
        b"root/data",
        b"",
        b"/",
        b"/etc",
        b"/root",
        // The root's name begins this one's.
        b"/root/database",
        b"/root/data/./x",
        b"/root/data\0x",
    ];
    refused_walks(bad.iter().map(|path| ("a path", listed_at(path))).collect());
}

#[test]
fn what_is_forged_into_a_good_value_is_believed() {
    let begin = frames(&[root(), directory(0, "/root/data")]);
    for (what, bytes) in [
        ("a name", [begin.clone(), named(b"x"), frames(&[Reply::End])].concat()),
        ("a path", listed_at(b"/root/data")),
        ("a size", [begin, with_size(&[0]), frames(&[Reply::End])].concat()),
    ] {
        let hostile = Hostile::new();
        hostile.answers(To::Walk, bytes);
        let ran = hostile.pull(&[]);
        assert_eq!((ran.status, ran.summary()["new"].as_u64()), (0, Some(2)), "{what}: {}", ran.stderr);
    }
}

#[test]
fn listings_that_contradict_themselves_are_refused() {
    let file = |text: &str| entry(text, Kind::File);
    let found = |path: AbsPath, entry| Reply::Root(Root::Found { path, entry, empty: false });
    let begin = [root(), directory(0, "/root/data")];
    let after = |more: &[Reply]| frames(begin.iter().chain(more));
    let deep = [b"/root/data".to_vec(), b"/x".repeat(2042)].concat();
    refused_walks(vec![
        ("another root", frames(&[found(path("/"), None), directory(0, "/"), entries(0, vec![]), Reply::End])),
        ("a root of another name", frames(&[found(path("/root/data"), Some(entry("etc", Kind::Dir))), Reply::End])),
        ("no root", frames(&[Reply::End])),
        ("two roots", frames(&[root(), root(), Reply::End])),
        ("a name twice", after(&[entries(0, vec![file("a"), file("a")]), Reply::End])),
        (
            "a file and a directory of one name",
            after(&[entries(0, vec![file("a"), entry("a", Kind::Dir)]), Reply::End]),
        ),
        ("names out of order", after(&[entries(0, vec![file("b"), file("a")]), Reply::End])),
        ("an order without one of them", after(&[in_order(0, vec![file("a"), file("b")], &[1]), Reply::End])),
        ("an order with one twice", after(&[in_order(0, vec![file("a"), file("b")], &[1, 1]), Reply::End])),
        ("an order of others", after(&[in_order(0, vec![file("a"), file("b")], &[1, 2]), Reply::End])),
        ("a directory twice", after(&[directory(1, "/root/data"), entries(0, vec![sized("kept", 4)]), Reply::End])),
        ("a number twice", after(&[directory(0, "/root/data/x"), Reply::End])),
        ("a number out of turn", after(&[directory(7, "/root/data/x"), Reply::End])),
        ("entries of what was not announced", after(&[entries(9, vec![file("a")]), Reply::End])),
        ("entries twice", after(&[entries(0, vec![sized("kept", 4)]), entries(0, vec![file("z")]), Reply::End])),
        ("an end before the entries", after(&[Reply::End])),
        ("answers to no question", after(&[Reply::Hashed(vec![]), Reply::End])),
        ("files that nobody asked for", after(&[Reply::Read(vec![]), Reply::End])),
        ("a path that is too long", {
            let long = entry([b'x'; 255], Kind::File);
            frames(&[root(), directory(0, &deep), entries(0, vec![long]), Reply::End])
        }),
        ("a frame of 4 GiB", [frames(&begin), vec![0xff; 64]].concat()),
        ("a frame that is no message", [frames(&begin), raw(&[0xff; 64])].concat()),
        ("a frame with more than its message", [frames(&begin), raw(&[5, 0, 0])].concat()),
        ("an end in the middle of a frame", [frames(&begin), vec![200, 0, 0, 0, 1]].concat()),
    ]);
}

/// An entry in the wire's encoding whose size is whatever it is.
fn with_size(size: &[u8]) -> Vec<u8> {
    // The honest size, 1, right after the kind.
    let honest = frames(&[entries(0, vec![sized("NAME", 1)])]);
    let at = honest.windows(4).position(|window| window == b"NAME").unwrap() + 5;
    raw(&[&honest[4..at], size, &honest[at + 1..]].concat())
}

#[test]
fn sizes_that_can_not_be_are_refused() {
    let begin = frames(&[root(), directory(0, "/root/data")]);
    let half = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
    let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    refused_walks(vec![
        ("2^63", [begin.clone(), with_size(&half)].concat()),
        ("2^64 - 1", [begin, with_size(&most)].concat()),
    ]);
}

#[test]
fn a_stream_that_ends_anywhere_is_no_complete_listing() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    let whole = listing(vec![sized("kept", 4), entry("new", Kind::Dir)]);
    hostile.ends();
    // What is left out must not count as removed.
    for length in (0..whole.len()).step_by(3) {
        hostile.answers(To::Walk, &whole[..length]);
        let ran = hostile.pull(&["-q"]);
        assert_eq!(ran.status, 6, "{length}: {}", ran.stderr);
        harmless(&hostile, &before, &kept, &ran, "a stream that ends");
    }
}

#[test]
fn below_a_symlink_nothing_is_written() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    let canary = hostile.program.path("canary");
    let link = Entry { target: canary.to_str().unwrap().as_bytes().to_vec(), ..entry("link", Kind::Symlink) };
    let below = vec![entry("inside", Kind::Dir), entry("sings", Kind::Fifo)];
    let orders = [
        vec![
            root(),
            directory(0, "/root/data"),
            entries(0, vec![sized("kept", 4), link.clone()]),
            directory(1, "/root/data/link"),
            entries(1, below.clone()),
            Reply::End,
        ],
        vec![
            root(),
            directory(0, "/root/data"),
            directory(1, "/root/data/link"),
            entries(1, below),
            entries(0, vec![sized("kept", 4), link]),
            Reply::End,
        ],
    ];
    for replies in orders {
        hostile.answers(To::Walk, frames(&replies));
        for _ in 0..2 {
            let ran = hostile.pull(&["-q"]);
            assert!(matches!(ran.status, 0 | 1 | 3 | 6), "{}", ran.stderr);
            assert_eq!((untouchable(&hostile), fs::read(&kept).unwrap()), (before.clone(), b"kept".to_vec()));
        }
    }
    assert_eq!(names(&canary), ["sings"]);
}

#[test]
fn directories_that_no_parent_lists_are_refused() {
    let below = |number, path: &str, list: Vec<Entry>| vec![directory(number, path), entries(number, list)];
    let walk = |parts: Vec<Vec<Reply>>| {
        let parts = [vec![root()]].into_iter().chain(parts).chain([vec![Reply::End]]);
        frames(&parts.flatten().collect::<Vec<_>>())
    };
    let data = |list| below(0, "/root/data", list);
    refused_walks(vec![
        (
            "in no directory",
            walk(vec![data(vec![sized("kept", 4)]), below(1, "/root/data/.ssh", vec![entry("keys", Kind::Fifo)])]),
        ),
        (
            "below one that is in no directory",
            walk(vec![data(vec![sized("kept", 4)]), below(1, "/root/data/a/b", vec![entry("f", Kind::Fifo)])]),
        ),
        (
            "a file",
            walk(vec![
                data(vec![entry("d", Kind::Fifo), sized("kept", 4)]),
                below(1, "/root/data/d", vec![entry("f", Kind::Fifo)]),
            ]),
        ),
        (
            "before the one above it",
            walk(vec![
                below(0, "/root/data/d", vec![entry("f", Kind::Fifo)]),
                below(1, "/root/data", vec![entry("d", Kind::Dir), sized("kept", 4)]),
            ]),
        ),
    ]);
}

#[test]
fn bytes_sent_for_directory_that_is_gone_are_not_archived_as_its_old_version() {
    // `d` itself is no longer listed, and then the directory above it, which is not announced again.
    for chain in [&["d"][..], &["up", "d"]] {
        let (hostile, kept) = once_honest();
        let before = untouchable(&hostile);
        let z = |mtime: i64| Entry { mtime: mtime.into(), ..sized("z", 5) };
        let answer = |bytes: &[u8]| read_answer(ReadOutcome::Content(Bytes::new(bytes).unwrap()));
        let mut replies = vec![root(), directory(0, "/root/data")];
        let mut list = vec![entry(chain[0], Kind::Dir), sized("kept", 4)];
        list.sort_by(|one, other| one.name.cmp(&other.name));
        replies.push(entries(0, list));
        let mut path = "/root/data".to_owned();
        for (number, name) in (1..).zip(chain) {
            path = format!("{path}/{name}");
            let below = chain.get(number as usize).map_or(z(1), |below| entry(below, Kind::Dir));
            replies.extend([directory(number, &path), entries(number, vec![below])]);
        }
        replies.push(Reply::End);
        hostile.answers(To::Walk, frames(&replies));
        hostile.answers(To::Read, answer(b"right"));
        hostile.pull(&[]).well();
        let without = [root(), directory(0, "/root/data"), entries(0, vec![sized("kept", 4)])];
        let gone = [directory(1, &path), entries(1, vec![z(2)]), Reply::End];
        hostile.answers(To::Walk, [frames(&without), frames(&gone)].concat());
        hostile.answers(To::Read, answer(b"wrong"));
        let ran = hostile.pull(&["-q"]);
        assert!(matches!(ran.status, 1 | 6), "{chain:?}: {} {}", ran.status, ran.stderr);
        harmless(&hostile, &before, &kept, &ran, "a directory that is gone");
        assert_eq!(files_with(&hostile, "wrong"), [] as [&str; 0], "{chain:?}");
        hostile.program.run(["verify"]).well();
    }
}

#[test]
fn directory_that_is_listed_and_gone_in_one_listing_is_refused() {
    let data = |number, list: Vec<Entry>| vec![directory(number, "/root/data"), entries(number, list)];
    let restated = Entry { mode: 0o600, ..entry("f", Kind::Fifo) };
    let d = |number| vec![directory(number, "/root/data/d"), entries(number, vec![restated.clone()])];
    let with_d = vec![entry("d", Kind::Dir), sized("kept", 4)];
    for (what, replies) in [
        ("listed before it is gone", [d(0), data(1, vec![sized("kept", 4)])].concat()),
        ("the one above announced twice", [data(0, with_d.clone()), d(1), data(2, vec![sized("kept", 4)])].concat()),
    ] {
        let (hostile, kept) = once_honest();
        let before = untouchable(&hostile);
        let first = [data(0, with_d.clone()), vec![directory(1, "/root/data/d")]].concat();
        let first = [vec![root()], first, vec![entries(1, vec![entry("f", Kind::Fifo)]), Reply::End]].concat();
        hostile.answers(To::Walk, frames(&first));
        hostile.pull(&[]).well();
        hostile.answers(To::Walk, frames(&[vec![root()], replies, vec![Reply::End]].concat()));
        let ran = hostile.pull(&["-q", "--max-delete", "100"]);
        assert_eq!(ran.status, 6, "{what}: {}", ran.stderr);
        harmless(&hostile, &before, &kept, &ran, what);
        hostile.program.assert_index_is_right();
        assert_eq!(checker::check(&hostile.program.repo()), [""; 0], "{what}");
    }
}

#[test]
fn directory_that_was_never_announced_is_not_listed_and_gone() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    let data = |number, list: Vec<Entry>| vec![directory(number, "/root/data"), entries(number, list)];
    let walk = |replies: Vec<Vec<Reply>>| frames(&[vec![root()], replies.concat(), vec![Reply::End]].concat());
    hostile.answers(To::Walk, walk(vec![data(0, vec![entry("d", Kind::Dir), sized("kept", 4)])]));
    hostile.pull(&[]).well();
    let d = vec![directory(0, "/root/data/d"), entries(0, vec![entry("f", Kind::Fifo)])];
    hostile.answers(To::Walk, walk(vec![d, data(1, vec![sized("kept", 4)])]));
    let ran = hostile.pull(&["-q", "--max-delete", "100"]);
    assert_eq!(ran.status, 6, "{}", ran.stderr);
    harmless(&hostile, &before, &kept, &ran, "a directory that was never announced");
    assert_eq!(checker::check(&hostile.program.repo()), [""; 0]);
}

#[test]
fn a_directory_that_contains_itself_ends_somewhere() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    let mut replies = vec![root()];
    let mut at = b"/root/data".to_vec();
    for number in 0..2000 {
        replies.push(directory(number, &at));
        replies.push(entries(number, vec![entry("d", Kind::Dir)]));
        at.extend(b"/d");
    }
    replies.push(Reply::End);
    hostile.answers(To::Walk, frames(&replies));
    let ran = hostile.pull(&["-q", "--max-delete", "100"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(untouchable(&hostile), before);
    // The file that is no longer listed is in the archive.
    assert!(!kept.exists());
    assert_eq!(hostile.program.archived("client", "/root/data".as_ref()), ["kept.20010909T014640Z"]);
    hostile.program.assert_index_is_right();
}

fn read_answer(outcome: ReadOutcome) -> Vec<u8> {
    frames(&[Reply::Read(vec![ReadAnswer { id: 0, outcome }])])
}

#[test]
fn contents_that_were_not_asked_for_are_refused() {
    let content = |bytes: &[u8]| ReadOutcome::Content(Bytes::new(bytes).unwrap());
    let stray = Reply::Read(vec![ReadAnswer { id: 77, outcome: content(b"1234") }]);
    for (what, answer) in [
        ("a longer content", read_answer(content(b"12345"))),
        ("a shorter content", read_answer(content(b"123"))),
        ("a file that nobody asked for", frames(&[stray])),
        ("a root", frames(&[root()])),
        ("nothing", Vec::new()),
    ] {
        let (hostile, kept) = once_honest();
        let before = untouchable(&hostile);
        hostile.answers(To::Walk, listing(vec![sized("kept", 4), sized("new", 777)]));
        hostile.answers(To::Read, answer);
        let ran = hostile.pull(&["-q"]);
        assert_eq!(ran.status, 6, "{what}: {}", ran.stderr);
        harmless(&hostile, &before, &kept, &ran, what);
    }
}

/// The files in the trees of the source `client`, and in its staging, that have this in them.
fn files_with(hostile: &Hostile, words: &str) -> Vec<String> {
    let trees = ["snapshot/client", "archive/client", "staging/client"];
    let mut grep = std::process::Command::new("grep");
    let found = grep.args(["-rlF", words]).args(trees).current_dir(hostile.program.repo()).output().unwrap();
    String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect()
}

/// The secret of another source, its hash, and a listing that claims to have it.
fn claim(hostile: &Hostile, outcome: HashOutcome) -> Ran {
    let secret = b"of another source";
    hostile.answers(To::Walk, listing(vec![sized("kept", 4), sized("mine", secret.len() as u64)]));
    hostile.answers(To::Key, frames(&[Reply::Hashed(vec![Hashed { id: 0, outcome }])]));
    // There is no such file to be read: the claim is all that there is.
    hostile.pull(&["-q"])
}

#[test]
fn the_hash_of_a_content_is_no_way_to_it() {
    let hash: Hash = blake3::hash(b"of another source").into();
    for proof in [None, Some(hash), Some([7; 32])] {
        let (hostile, kept) = once_honest();
        let before = untouchable(&hostile);
        let ran = claim(&hostile, HashOutcome::Done { hash, proof });
        harmless(&hostile, &before, &kept, &ran, "a claim without proof");
        let snapshot = hostile.program.snapshot("client", "/root/data".as_ref());
        assert_eq!(names(&snapshot), ["kept"], "{}", ran.stderr);
        let places = hostile.program.run(["find", "--hash", &blake3::hash(b"of another source").to_hex()]).stdout;
        assert!(!places.contains("/client/"), "{places}");
        assert_eq!(files_with(&hostile, "of another source"), [] as [&str; 0]);
    }
}

#[test]
fn a_content_is_kept_under_its_own_hash_whatever_was_claimed() {
    let hostile = Hostile::new();
    fs::create_dir_all(hostile.sshd.home()).unwrap();
    // The listing is of files that are there for SFTP, and a hash that is not theirs.
    let client = Tree::new([("one", file(vec![1; 200_000])), ("two", file(vec![2; 200_000]))]);
    let at = client.root();
    let at = at.to_str().unwrap();
    let listed = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(client.path(name)).unwrap();
        let mtime = Time::new(found.mtime(), found.mtime_nsec());
        Entry { mtime, uid: found.uid(), gid: found.gid(), ..sized(name, 200_000) }
    };
    let root = Reply::Root(Root::Found { path: path(at), entry: Some(entry("data", Kind::Dir)), empty: false });
    hostile.answers(
        To::Walk,
        frames(&[root, directory(0, at), entries(0, vec![listed("one"), listed("two")]), Reply::End]),
    );
    let outcome = HashOutcome::Done { hash: [9; 32], proof: None };
    hostile.answers(To::Key, frames(&[Reply::Hashed(vec![Hashed { id: 0, outcome }])]));
    let target = format!("client:{at}");
    let ran = hostile.program.pull(&hostile.sshd, [target.as_str(), "--retries", "0", "--timeout", "3s"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("may be inconsistent"), "{}", ran.stderr);
    for (name, byte) in [("one", 1), ("two", 2)] {
        let hash = blake3::hash(&vec![byte; 200_000]).to_hex().to_string();
        let places = hostile.program.run(["find", "--hash", &hash]).stdout;
        assert!(places.trim_end().ends_with(&format!("data/{name}")), "{places}");
    }
    assert_eq!(hostile.program.run(["find", "--hash", &"09".repeat(32)]).stdout, "");
}

#[test]
fn what_steers_terminals_is_shown_harmless() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    let ugly: [&[u8]; 4] = [b"\x1b]0;owned\x07", b"a\rb", b"\x9b31m", b"\x7f\x08\n"];
    let mut list = vec![sized("kept", 4)];
    list.extend(ugly.iter().map(|text| entry(text, Kind::Fifo)));
    list.sort_by(|one, other| one.name.cmp(&other.name));
    let problem = Reply::Problem(Problem { path: path([b"/root/data/", ugly[0]].concat()), errno: 13 });
    hostile.answers(To::Walk, frames(&[root(), directory(0, "/root/data"), problem, entries(0, list), Reply::End]));
    let ran = hostile.pull(&["-v"]);
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("\\x1b]0;owned\\x07"), "{}", ran.stderr);
    harmless(&hostile, &before, &kept, &ran, "escapes");
}

#[test]
fn chatter_and_greetings_have_an_end() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    let version = VERSION.replace("protocol", "protocoI");
    for (what, greeting) in [
        ("much chatter", vec![b'y'; 200_000]),
        ("no greeting", Vec::new()),
        ("another version", [&MAGIC[..], &[version.len() as u8], version.as_bytes()].concat()),
        ("a cut greeting", MAGIC[..5].to_vec()),
    ] {
        hostile.greets(&greeting);
        let ran = hostile.pull(&["-q"]);
        assert_eq!(ran.status, 6, "{what}: {}", ran.stderr);
        harmless(&hostile, &before, &kept, &ran, what);
    }
}

#[test]
fn a_flood_ends_at_its_first_frame() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    hostile.answers(To::Walk, frames(&[root(), directory(0, "/root/data")]));
    hostile.floods();
    let ran = hostile.pull(&["-q"]);
    assert_eq!(ran.status, 6, "{}", ran.stderr);
    harmless(&hostile, &before, &kept, &ran, "a flood");
}

#[test]
fn a_stall_ends_with_the_time_out() {
    let (hostile, kept) = once_honest();
    let before = untouchable(&hostile);
    hostile.answers(To::Walk, frames(&[root(), directory(0, "/root/data")]));
    let begun = Instant::now();
    let ran = hostile.pull(&["-q"]);
    assert_eq!(ran.status, 6, "{}", ran.stderr);
    assert!(ran.stderr.contains("stopped answering"), "{}", ran.stderr);
    assert!((2..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    harmless(&hostile, &before, &kept, &ran, "a stall");
}

#[test]
fn a_million_entries_and_directories_take_no_memory() {
    let hostile = Hostile::new();
    let mut bytes = frames(&[root(), directory(0, "/root/data")]);
    for frame in 0..250 {
        let names = (0..4000).map(|n| entry(format!("{:07}", frame * 4000 + n), Kind::Fifo)).collect();
        let part = Entries { directory: 0, entries: names, last: frame == 249, order: Vec::new() };
        bytes.extend(frames(&[Reply::Entries(part)]));
    }
    bytes.extend(frames(&[Reply::End]));
    hostile.answers(To::Walk, &bytes);
    let peak = peak_memory(&hostile);
    assert!(peak < 256 << 10, "{peak} KiB");
    // Directories that are announced without end, and never listed.
    let mut bytes = frames(&[root()]);
    let long = "y".repeat(250);
    for number in 0..400_000 {
        bytes.extend(frames(&[directory(number, format!("/root/data/{long}/{number}"))]));
    }
    hostile.answers(To::Walk, &bytes);
    let peak = peak_memory(&hostile);
    assert!(peak < 256 << 10, "{peak} KiB");
}

/// The most memory that a pull had, in KiB.
fn peak_memory(hostile: &Hostile) -> u64 {
    let mut command = hostile.program.command(["pull", "-q", "--retries", "0", "--timeout", "5s", "-F"]);
    let mut pull = command.arg(hostile.sshd.config()).arg("client:/root/data").spawn().unwrap();
    let mut peak = 0;
    while pull.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", pull.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        peak = peak.max(now);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(peak > 0);
    peak
}

#[test]
fn a_shell_that_never_stops_talking_is_left() {
    let (sshd, program) = (Sshd::new(), Program::new());
    let config = fs::read_to_string(sshd.path("sshd_config")).unwrap();
    for command in
        ["yes", "cat /dev/zero", "printf '\\nARCHIVE-FOUND /tmp/\\033]0;x\\007\\nARCHIVE-PROBE \\033[31m x\\n'"]
    {
        fs::write(sshd.path("sshd_config"), format!("{config}ForceCommand {command}\n")).unwrap();
        let begun = Instant::now();
        let ran = program.pull(&sshd, ["client:/etc", "-q", "--retries", "0", "--timeout", "3s"]);
        assert!(matches!(ran.status, 1 | 6), "{command}: {} {}", ran.status, ran.stderr);
        assert!(!ran.stderr.contains('\x1b') && ran.stderr.lines().count() == 1, "{command}: {}", ran.stderr);
        assert!(begun.elapsed() < Duration::from_secs(15), "{command}: {:?}", begun.elapsed());
    }
}
