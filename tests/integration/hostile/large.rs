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

/// Its chunks, and groups of them.
fn told_of(mut content: &[u8]) -> (Vec<Chunk>, Vec<Chunk>) {
    let average = Cutting::of(content.len() as u64, false).average;
    let (mut chunks, mut groups, mut grouping) = (Vec::new(), Vec::new(), Grouping::default());
    let read = |buffer: &mut [u8]| {
        let count = buffer.len().min(content.len());
        buffer[..count].copy_from_slice(&content[..count]);
        content = &content[count..];
        Ok::<_, std::convert::Infallible>(count)
    };
    cut(average, &mut Vec::new(), read, |cut| {
        chunks.push(cut.chunk());
        groups.extend(grouping.add(cut));
    })
    .unwrap();
    groups.extend(grouping.end());
    (chunks, groups)
}

fn chunks(content: &[u8]) -> Vec<Chunk> {
    told_of(content).0
}

fn groups(content: &[u8]) -> Vec<Chunk> {
    told_of(content).1
}

/// What the client has, as an honest listing would have it: the file is really there, for SFTP tells the truth.
fn listing(client: &Tree) -> Vec<u8> {
    listing_of(client, &["large"])
}

fn listing_of(client: &Tree, names: &[&str]) -> Vec<u8> {
    let path = client.root().as_os_str().as_bytes().to_vec();
    let listed = |name: &&str| {
        let found = fs::metadata(client.path(name)).unwrap();
        let mtime = Time::new(found.mtime(), found.mtime_nsec());
        Entry { size: found.len(), mtime, mode: found.mode() & 0o7777, uid: found.uid(), ..entry(name, Kind::File) }
    };
    let root =
        Root::Found { path: AbsPath::new(&path[..]).unwrap(), entry: Some(entry("data", Kind::Dir)), empty: false };
    let listed = entries(0, names.iter().map(listed).collect());
    frames(&[Reply::Root(root), directory(0, &path), listed, Reply::End])
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

/// The answer to the first question.
fn told(chunks: Vec<Chunk>, hash: Hash) -> Reply {
    answer(0, chunks, hash)
}

fn answer(id: u64, chunks: Vec<Chunk>, hash: Hash) -> Reply {
    Reply::Chunks(Chunks { id, chunks, end: Some(HashOutcome::Done { hash, proof: None }) })
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
        assert_ends(&old, what, &first, then);
    }
}

fn assert_ends(old: &[u8], what: &str, first: &[u8], then: Vec<u8>) -> Ran {
    let (hostile, client) = once_honest(old.len());
    hostile.answers(To::Chunk, first);
    hostile.answers_then(To::Chunk, then);
    let ran = pull(&hostile, &client);
    assert_eq!((ran.status, ran.stderr.lines().count()), (6, 1), "{what}: {}", ran.stderr);
    let snapshot = hostile.program.snapshot("client", &client.path("large"));
    assert!(fs::read(snapshot).unwrap() == old, "{what}: what was here stays");
    hostile.program.assert_index_is_right();
    ran
}

/// A file that changes or goes, or can't be read, while it comes: it comes another way, or what was here stays.
fn assert_comes_or_stays(size: usize, first: &[u8], then: Vec<u8>, (changes, status): (bool, i32)) {
    let (hostile, client) = once_honest(size);
    hostile.answers(To::Chunk, first);
    hostile.answers_then(To::Chunk, then);
    let ran = pull(&hostile, &client);
    assert_eq!(ran.status, status, "{}", ran.stderr);
    let kept = fs::read(hostile.program.snapshot("client", &client.path("large"))).unwrap();
    assert!(kept == if changes { vec![7; size + 1] } else { content(size) }, "{status}");
    hostile.program.assert_index_is_right();
}

/// One chunk of a length that chunks have, again and again, and what is left.
fn new_chunks(length: u32) -> Vec<Chunk> {
    let (whole, left) = (length / 20_000, length % 20_000);
    let mut chunks = vec![Chunk { length: 20_000, sum: [1; 8] }; whole as usize];
    chunks.extend((left > 0).then_some(Chunk { length: left, sum: [2; 8] }));
    chunks
}

#[test]
fn what_groups_make_up_is_believed_only_with_its_hash() {
    let told_groups = but_the_last(groups(&content(GROUPED)));
    let length = told_groups.last().unwrap().length;
    let chunks = new_chunks(length);
    for hash in [[9; 32], blake3::hash(&vec![7; GROUPED + 1]).into()] {
        let (hostile, client) = once_honest(GROUPED);
        hostile.answers(To::Chunk, frames(&[told(told_groups.clone(), hash)]));
        let bytes = vec![b'x'; length as usize];
        let mut then = vec![answer(1, chunks.clone(), [8; 32])];
        then.extend(bytes.chunks(65_536).map(piece));
        then.push(streamed(StreamOutcome::Done));
        hostile.answers_then(To::Chunk, frames(&then));
        pull(&hostile, &client).well();
        assert_same(&client.root(), &hostile.program.snapshot("client", &client.root()));
        hostile.program.assert_index_is_right();
    }
}

fn sampled(sample: u64, other: Option<u64>) -> Vec<u8> {
    frames(&[Reply::Hashed(vec![Hashed { id: 0, outcome: HashOutcome::Sampled { sample, other } }])])
}

#[test]
fn a_file_whose_sample_no_other_has_comes_without_a_hash() {
    let hostile = Hostile::new();
    let client = Tree::new([("large", file(content(SIZE))), ("second", file(vec![7; SIZE]))]);
    hostile.answers(To::Walk, listing_of(&client, &["large", "second"]));
    hostile.answers(To::Key, "");
    hostile.answers_then(To::Key, sampled(1, Some(2)));
    // If it were to be hashed, that would be waited for in vain.
    pull(&hostile, &client).well();
    assert_same(&client.root(), &hostile.program.snapshot("client", &client.root()));
    hostile.program.assert_index_is_right();
}

#[test]
fn a_sample_that_nobody_asked_for_ends_the_run() {
    let (hostile, client) = once_honest(SIZE);
    client.put("large", at(1_000_000_000, 0, file(content(SIZE))));
    client.add([("second", file(vec![7; SIZE]))]);
    // A content of this size is here, so it is to be hashed.
    hostile.answers(To::Walk, listing_of(&client, &["second"]));
    hostile.answers(To::Key, "");
    hostile.answers_then(To::Key, sampled(1, Some(2)));
    let ran = pull(&hostile, &client);
    ran.refused(6, &["a sample came that nobody asked for"]);
    hostile.program.assert_index_is_right();
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
        ("no chunks of a group", good.clone(), frames(&[answer(1, Vec::new(), hash)])),
        ("too few of them", good.clone(), frames(&[answer(1, vec![chunk(20_000)], hash)])),
        ("one longer than its group", good.clone(), frames(&[answer(1, vec![chunk(length + 1)], hash)])),
        ("a group among them", good.clone(), frames(&[answer(1, vec![all[0]], hash)])),
        ("a piece before them", good.clone(), frames(&[piece(b"x")])),
        ("an end before them", good, frames(&[streamed(StreamOutcome::Done)])),
    ];
    for (what, first, then) in cases {
        assert_ends(&old, what, &first, then);
    }
}

/// What is told of a file whose fourth group is new, and one byte longer than it was.
struct Ahead {
    // All groups but two.
    first: Vec<u8>,
    // Answers to what the server asks then: of what the group consists, what else the file consists of, and the group's bytes.
    chunks: Reply,
    rest: Vec<Chunk>,
    pieces: Vec<Reply>,
    // What that makes up.
    content: Vec<u8>,
}

fn ahead() -> Ahead {
    let old = content(AHEAD);
    let mut all = groups(&old);
    let at: usize = all[..3].iter().map(|group| group.length as usize).sum();
    let behind = at + all[3].length as usize;
    let new = vec![b'x'; all[3].length as usize + 1];
    all[3] = Chunk { length: new.len() as u32, sum: [0; 8] };
    let rest = all.split_off(all.len() - 2);
    Ahead {
        first: frames(&[Reply::Chunks(Chunks { id: 0, chunks: all, end: None })]),
        chunks: answer(1, new_chunks(new.len() as u32), [8; 32]),
        rest,
        pieces: new.chunks(65_536).map(piece).collect(),
        content: [&old[..at], &new, &old[behind..]].concat(),
    }
}

// So large that it has many groups.
const AHEAD: usize = 24 << 20;

#[test]
fn what_is_put_together_ahead_is_believed_only_with_its_hash() {
    let told = ahead();
    let right = blake3::hash(&told.content).into();
    for hash in [right, [9; 32]] {
        let (hostile, client) = once_honest(AHEAD);
        hostile.answers(To::Chunk, &told.first);
        // If the server did not ask about the new group before it has heard of all, it would wait in vain.
        let mut then = vec![told.chunks.clone(), answer(0, told.rest.clone(), hash)];
        then.extend(told.pieces.clone());
        then.push(streamed(StreamOutcome::Done));
        hostile.answers_then(To::Chunk, frames(&then));
        pull(&hostile, &client).well();
        let kept = fs::read(hostile.program.snapshot("client", &client.path("large"))).unwrap();
        assert!(if hash == right { kept == told.content } else { kept == vec![7; AHEAD + 1] });
        hostile.program.assert_index_is_right();
    }
}

#[test]
fn what_breaks_off_while_it_is_put_together_ahead_is_left_to_be_carried_on() {
    let told = ahead();
    let (hostile, client) = once_honest(AHEAD);
    hostile.answers(To::Chunk, &told.first);
    hostile.answers_then(To::Chunk, frames(&[told.chunks.clone(), told.pieces[0].clone()]));
    assert_eq!(pull(&hostile, &client).status, 6);
    let staging = hostile.program.repo().join("staging/client");
    let left: Vec<_> = fs::read_dir(staging).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 1);
    if !left[0].file_name().unwrap().as_bytes().starts_with(b"partial-") {
        return eprintln!("this file system shares blocks: it is compared anew");
    }
    let part = fs::read(&left[0]).unwrap();
    assert!(part.len() > 65_536 && told.content.starts_with(&part), "{} bytes", part.len());
    hostile.program.assert_index_is_right();
}

#[test]
fn nonsense_while_it_is_put_together_ahead_ends_the_run() {
    let told = ahead();
    let rest = told.rest.clone();
    let more = [rest.clone(), rest.clone()].concat();
    let cases = [
        ("bytes before they were asked for", vec![told.pieces[0].clone()]),
        ("an end before it was asked for", vec![streamed(StreamOutcome::Done)]),
        (
            "an end before its bytes",
            vec![told.chunks.clone(), streamed(StreamOutcome::Done), answer(0, rest.clone(), [9; 32])],
        ),
        ("nothing", vec![Reply::Chunks(Chunks { id: 0, chunks: Vec::new(), end: None })]),
        ("too much", vec![answer(0, more, [9; 32])]),
        ("an end with less than all", vec![answer(0, rest[..1].to_vec(), [9; 32])]),
    ];
    for (what, then) in cases {
        let ran = assert_ends(&content(AHEAD), what, &told.first, frames(&then));
        assert!(ran.stderr.contains("breaks the protocol"), "{what}: {}", ran.stderr);
    }
}

#[test]
fn what_changes_or_goes_while_it_is_put_together_ahead_is_fetched_another_way_or_told() {
    let told = ahead();
    for (outcome, status) in [(HashOutcome::Changed, 0), (HashOutcome::Vanished, 0), (HashOutcome::Failed(13), 3)] {
        let changes = outcome == HashOutcome::Changed;
        let mut then = vec![told.chunks.clone()];
        then.extend(told.pieces.iter().take(2).cloned());
        then.push(Reply::Chunks(Chunks { id: 0, chunks: told.rest.clone(), end: Some(outcome) }));
        then.extend(told.pieces.iter().skip(2).cloned());
        then.push(streamed(StreamOutcome::Done));
        assert_comes_or_stays(AHEAD, &told.first, frames(&then), (changes, status));
    }
}

#[test]
fn what_changes_or_goes_meanwhile_is_fetched_another_way_or_told() {
    let whole = almost_old();
    for (outcome, status) in
        [(StreamOutcome::Changed(None), 0), (StreamOutcome::Vanished, 0), (StreamOutcome::Failed(13), 3)]
    {
        let then = frames(&[piece(&rest()), streamed(outcome)]);
        let first = frames(&[told(whole.clone(), [9; 32])]);
        assert_comes_or_stays(SIZE, &first, then, (outcome == StreamOutcome::Changed(None), status));
    }
}
