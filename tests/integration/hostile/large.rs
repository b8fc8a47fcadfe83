//! False chunks and pieces of a large file that changed.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use archive_helper::chunks::{Cutting, Grouping, cut};
use archive_helper::protocol::*;

use super::{directory, entries, entry};
use crate::support::hostile::{Hostile, To, frames};
use crate::support::*;

const SIZE: usize = 2 << 20;

// Of a file of this size groups of chunks are told first.
const GROUPED: usize = 12 << 20;

fn content(size: usize) -> Vec<u8> {
    (0..size as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn chunks(mut content: &[u8]) -> Vec<Chunk> {
    let average = Cutting::of(content.len() as u64, false).average;
    let mut chunks = Vec::new();
    let read = |buffer: &mut [u8]| {
        let count = buffer.len().min(content.len());
        buffer[..count].copy_from_slice(&content[..count]);
        content = &content[count..];
        Ok::<_, std::convert::Infallible>(count)
    };
    cut(average, &mut Vec::new(), read, |chunk| chunks.push(chunk)).unwrap();
    chunks
}

/// What the client has, as an honest listing would have it: the file is really there, for SFTP tells the truth.
fn listing(client: &Tree) -> Vec<u8> {
    let path = client.root().as_os_str().as_bytes().to_vec();
    let found = fs::metadata(client.path("large")).unwrap();
    let mtime = found.mtime() * 1_000_000_000 + found.mtime_nsec();
    let large =
        Entry { size: found.len(), mtime, mode: found.mode() & 0o7777, uid: found.uid(), ..entry("large", Kind::File) };
    let root =
        Root::Found { path: AbsPath::new(&path[..]).unwrap(), entry: Some(entry("data", Kind::Dir)), empty: false };
    frames(&[Reply::Root(root), directory(0, &path), entries(0, vec![large]), Reply::End])
}

fn groups(content: &[u8]) -> Vec<Chunk> {
    let mut grouping = Grouping::default();
    let mut groups: Vec<Chunk> = chunks(content).iter().filter_map(|chunk| grouping.add(chunk)).collect();
    groups.extend(grouping.end());
    groups
}

/// All chunks of the earlier version but its last, and one that is none of it.
fn almost_old() -> Vec<Chunk> {
    but_the_last(chunks(&content(SIZE)))
}

fn but_the_last(mut chunks: Vec<Chunk>) -> Vec<Chunk> {
    let last = chunks.pop().unwrap();
    chunks.push(Chunk { length: last.length + 1, sum: [0; 8] });
    chunks
}

/// The bytes that are none of it.
fn rest() -> Vec<u8> {
    vec![b'x'; almost_old().pop().unwrap().length as usize]
}

fn told(chunks: Vec<Chunk>, hash: Hash) -> Reply {
    Reply::Chunks(Chunks { id: 0, chunks, end: Some(HashOutcome::Done { hash, proof: None }) })
}

fn piece(bytes: &[u8]) -> Reply {
    Reply::Piece(Piece { id: 0, bytes: Bytes::new(bytes).unwrap() })
}

fn streamed(outcome: StreamOutcome) -> Reply {
    Reply::Streamed(Streamed { id: 0, outcome })
}

/// A client whose large file was pulled honestly, and has another content and one byte more now.
fn once_honest(size: usize) -> (Hostile, Tree) {
    let (hostile, client) = (Hostile::new(), Tree::new([("large", at(1_000_000_000, 0, file(content(size))))]));
    hostile.answers(To::Walk, listing(&client));
    pull(&hostile, &client).well();
    client.put("large", file(vec![7; size + 1]));
    hostile.answers(To::Walk, listing(&client));
    (hostile, client)
}

fn pull(hostile: &Hostile, client: &Tree) -> Ran {
    let target = format!("client:{}", client.root().display());
    hostile.program.pull(&hostile.sshd, ["-q", &target, "--retries", "0", "--timeout", "3s"])
}

#[test]
fn what_chunks_make_up_is_believed_only_with_its_hash() {
    for hash in [[9; 32], blake3::hash(&vec![7; SIZE + 1]).into()] {
        let (hostile, client) = once_honest(SIZE);
        // That is not what the file is.
        hostile.answers(To::Chunk, frames(&[told(almost_old(), hash)]));
        hostile.answers_then(To::Chunk, frames(&[piece(&rest()), streamed(StreamOutcome::Done)]));
        pull(&hostile, &client).well();
        assert_same(&client.root(), &hostile.program.snapshot("client", &client.root()));
        hostile.program.assert_index_is_right();
    }
}

#[test]
fn chunks_and_pieces_that_cannot_be_end_the_run() {
    let old = content(SIZE);
    let whole = almost_old();
    let hash = [9; 32];
    let good = frames(&[told(whole.clone(), hash)]);
    let done = streamed(StreamOutcome::Done);
    let cases: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("too few", frames(&[told(chunks(&old), hash)]), Vec::new()),
        ("too many", frames(&[told([&whole[..], &whole[..]].concat(), hash)]), Vec::new()),
        ("an empty one", frames(&[told(vec![Chunk { length: 0, sum: [0; 8] }], hash)]), Vec::new()),
        ("short ones", frames(&[told(vec![Chunk { length: 1, sum: [0; 8] }; 100], hash)]), Vec::new()),
        ("a huge one", frames(&[told(vec![Chunk { length: u32::MAX, sum: [0; 8] }], hash)]), Vec::new()),
        ("another file's", frames(&[Reply::Chunks(Chunks { id: 77, chunks: Vec::new(), end: None })]), Vec::new()),
        ("a piece first", frames(&[piece(b"x")]), Vec::new()),
        ("an end first", frames(std::slice::from_ref(&done)), Vec::new()),
        ("chunks again", good.clone(), frames(&[told(whole.clone(), hash)])),
        ("a piece too long", good.clone(), frames(&[piece(&[&rest()[..], b"y"].concat()), done.clone()])),
        ("an empty piece", good.clone(), frames(&[piece(b""), done.clone()])),
        ("one piece too many", good.clone(), frames(&[piece(&rest()), piece(b"x"), done.clone()])),
        ("no piece", good.clone(), frames(std::slice::from_ref(&done))),
        ("packed rubbish", frames(&[Reply::Packed(Bytes::new(&b"rubbish"[..]).unwrap())]), Vec::new()),
        ("nothing", Vec::new(), Vec::new()),
    ];
    for (what, first, then) in cases {
        assert_ends(&old, what, first, then);
    }
}

fn assert_ends(old: &[u8], what: &str, first: Vec<u8>, then: Vec<u8>) {
    let (hostile, client) = once_honest(old.len());
    hostile.answers(To::Chunk, first);
    hostile.answers_then(To::Chunk, then);
    let ran = pull(&hostile, &client);
    assert_eq!((ran.status, ran.stderr.lines().count()), (6, 1), "{what}: {}", ran.stderr);
    let snapshot = hostile.program.snapshot("client", &client.path("large"));
    assert!(fs::read(snapshot).unwrap() == old, "{what}: what was here stays");
    hostile.program.assert_index_is_right();
}

#[test]
fn what_groups_make_up_is_believed_only_with_its_hash() {
    let told_groups = but_the_last(groups(&content(GROUPED)));
    let length = told_groups.last().unwrap().length;
    // One chunk of a length that chunks have, again and again, and what is left.
    let (whole, left) = (length / 20_000, length % 20_000);
    let mut chunks = vec![Chunk { length: 20_000, sum: [1; 8] }; whole as usize];
    chunks.extend((left > 0).then_some(Chunk { length: left, sum: [2; 8] }));
    for hash in [[9; 32], blake3::hash(&vec![7; GROUPED + 1]).into()] {
        let (hostile, client) = once_honest(GROUPED);
        hostile.answers(To::Chunk, frames(&[told(told_groups.clone(), hash)]));
        let bytes = vec![b'x'; length as usize];
        let mut then = vec![told(chunks.clone(), [8; 32])];
        then.extend(bytes.chunks(65_536).map(piece));
        then.push(streamed(StreamOutcome::Done));
        hostile.answers_then(To::Chunk, frames(&then));
        pull(&hostile, &client).well();
        assert_same(&client.root(), &hostile.program.snapshot("client", &client.root()));
        hostile.program.assert_index_is_right();
    }
}

#[test]
fn what_is_said_to_be_empty_and_is_not_is_fetched() {
    let (hostile, client) = once_honest(SIZE);
    client.add([("empty", file(""))]);
    hostile.program.pull_local(&client.path("empty"), &["--name", "client"]);
    let nothing = *blake3::hash(b"").as_bytes();
    hostile.answers(To::Chunk, frames(&[told(almost_old(), nothing)]));
    hostile.answers_then(To::Chunk, frames(&[piece(&rest()), streamed(StreamOutcome::Done)]));
    pull(&hostile, &client).well();
    let kept = fs::read(hostile.program.snapshot("client", &client.path("large"))).unwrap();
    assert!(kept == vec![7; SIZE + 1]);
}

#[test]
fn another_client_s_content_that_can_t_be_hashed_is_fetched_not_asked_about_again() {
    let (hostile, client) = once_honest(SIZE);
    let other = Tree::new([("theirs", file(vec![8; SIZE + 1]))]);
    hostile.program.pull_local(&other.root(), &["--name", "other"]);
    let theirs = *blake3::hash(&vec![8; SIZE + 1]).as_bytes();
    hostile.answers(To::Chunk, frames(&[told(almost_old(), theirs)]));
    hostile.answers(To::Key, frames(&[Reply::Hashed(vec![Hashed { id: 0, outcome: HashOutcome::Changed }])]));
    hostile.answers(To::Read, frames(&[]));
    pull(&hostile, &client).well();
    let kept = fs::read(hostile.program.snapshot("client", &client.path("large"))).unwrap();
    assert!(kept == vec![7; SIZE + 1]);
}

#[test]
fn groups_and_their_chunks_that_cannot_be_end_the_run() {
    let old = content(GROUPED);
    let all = groups(&old);
    let hash = [9; 32];
    let told_groups = but_the_last(all.clone());
    let length = told_groups.last().unwrap().length;
    let good = frames(&[told(told_groups.clone(), hash)]);
    let chunk = |length| Chunk { length, sum: [3; 8] };
    let cases: Vec<(&str, Vec<u8>, Vec<u8>)> = vec![
        ("too few groups", frames(&[told(all.clone(), hash)]), Vec::new()),
        ("too many", frames(&[told([&told_groups[..], &told_groups[..]].concat(), hash)]), Vec::new()),
        ("a huge one", frames(&[told(vec![chunk(u32::MAX)], hash)]), Vec::new()),
        ("short ones", frames(&[told(vec![chunk(1); 100], hash)]), Vec::new()),
        ("no chunks of a group", good.clone(), frames(&[told(Vec::new(), hash)])),
        ("too few of them", good.clone(), frames(&[told(vec![chunk(20_000)], hash)])),
        ("one longer than its group", good.clone(), frames(&[told(vec![chunk(length + 1)], hash)])),
        ("a group among them", good.clone(), frames(&[told(vec![all[0]], hash)])),
        ("a piece before them", good.clone(), frames(&[piece(b"x")])),
        ("an end before them", good, frames(&[streamed(StreamOutcome::Done)])),
    ];
    for (what, first, then) in cases {
        assert_ends(&old, what, first, then);
    }
}

#[test]
fn what_changes_or_goes_meanwhile_is_fetched_another_way_or_told() {
    let whole = almost_old();
    for (outcome, status) in [(StreamOutcome::Changed, 0), (StreamOutcome::Vanished, 0), (StreamOutcome::Failed(13), 3)]
    {
        let (hostile, client) = once_honest(SIZE);
        hostile.answers(To::Chunk, frames(&[told(whole.clone(), [9; 32])]));
        hostile.answers_then(To::Chunk, frames(&[piece(&rest()), streamed(outcome)]));
        let ran = pull(&hostile, &client);
        assert_eq!(ran.status, status, "{outcome:?}: {}", ran.stderr);
        let snapshot = fs::read(hostile.program.snapshot("client", &client.path("large"))).unwrap();
        let expected = if outcome == StreamOutcome::Changed { vec![7; SIZE + 1] } else { content(SIZE) };
        assert!(snapshot == expected, "{outcome:?}");
        hostile.program.assert_index_is_right();
    }
}
