//! Fetching.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use archive::client::{BasisRef, Client, Fetch, FetchEvent, FetchJob, FileState, IsWanted, ReadError};
use archive::entry::{Entry, Extent};
use archive::error::{Kind, Result};
use archive::queue::{Receiver, bounded_by_number};

use super::{Reach, abs, lstat, noise, write};
use crate::support::tree::{Tree, dir, file, mode};

pub fn job(id: u64, path: &Path) -> FetchJob {
    let Entry { size, mtime, uid, .. } = lstat(path);
    FetchJob { id, path: abs(path), size, mtime, uid, offset: 0, dedup: false, data: None, basis: None }
}

/// What arrived of a file.
#[derive(Debug, Default)]
struct Got {
    bytes: Vec<u8>,
    // Bytes that were sent, and bytes of holes.
    sent: usize,
    hole_bytes: u64,
    already_sent: Option<[u8; 32]>,
    end: Option<std::result::Result<(FileState, bool), ReadError>>,
}

impl Got {
    fn content(&self) -> &[u8] {
        assert!(matches!(self.end, Some(Ok((_, true)))), "{:?}", self.end);
        &self.bytes
    }
}

fn collect(events: &Receiver<FetchEvent>, jobs: &BTreeMap<u64, FetchJob>) -> BTreeMap<u64, Got> {
    let mut files = BTreeMap::<u64, Got>::new();
    for event in events.iter() {
        let job = &jobs[&event.id()];
        let got =
            files.entry(event.id()).or_insert_with(|| Got { bytes: vec![0; job.offset as usize], ..Got::default() });
        assert!(got.end.is_none() && got.already_sent.is_none(), "{event:?} after the end");
        match event {
            FetchEvent::Data { bytes, .. } => {
                assert!((1..=256 * 1024).contains(&bytes.len()));
                got.sent += bytes.len();
                got.bytes.extend(bytes);
            }
            FetchEvent::Speculative { .. } => assert!(got.bytes.is_empty()),
            FetchEvent::Hole { length, .. } => {
                got.hole_bytes += length;
                got.bytes.resize(got.bytes.len() + length as usize, 0);
            }
            FetchEvent::FromBasis { offset, length, .. } => {
                let mut part = vec![0; length as usize];
                let basis = job.basis.as_ref().unwrap().open().unwrap();
                std::os::unix::fs::FileExt::read_exact_at(&basis, &mut part, offset).unwrap();
                got.bytes.extend(part);
            }
            FetchEvent::Full { bytes, hash, state, .. } => {
                assert!(got.bytes.is_empty() && hash == *blake3::hash(&bytes).as_bytes());
                got.sent += bytes.len();
                got.bytes = bytes;
                got.end = Some(Ok((state, true)));
            }
            FetchEvent::AlreadySent { hash, .. } => got.already_sent = Some(hash),
            FetchEvent::Restart { .. } => got.bytes.clear(),
            FetchEvent::End { state, consistent, claimed, .. } => {
                assert!(claimed.is_none_or(|claimed| claimed == *blake3::hash(&got.bytes).as_bytes()));
                got.end = Some(Ok((state, consistent)));
            }
            FetchEvent::Failed { error, .. } => got.end = Some(Err(error)),
        }
    }
    files
}

fn fetch_if(client: &dyn Client, files: Vec<FetchJob>, is_wanted: &IsWanted<'_>) -> Result<BTreeMap<u64, Got>> {
    let by_id: BTreeMap<u64, FetchJob> = files.iter().map(|job| (job.id, job.clone())).collect();
    let (sender, jobs) = bounded_by_number(files.len().max(1));
    files.into_iter().for_each(|job| sender.send(job).unwrap());
    drop(sender);
    let (events, arrived) = bounded_by_number(1 << 20);
    client.fetch(Fetch { jobs: &jobs, events: &events, is_wanted, expects_many: false })?;
    drop(events);
    Ok(collect(&arrived, &by_id))
}

/// Fetches files, each of which is answered once.
fn fetch(client: &dyn Client, files: Vec<FetchJob>) -> BTreeMap<u64, Got> {
    let count = files.len();
    let got = fetch_if(client, files, &|_, _, _| Ok(true)).unwrap();
    assert!(got.len() == count && got.values().all(|got| got.end.is_some() || got.already_sent.is_some()));
    got
}

pub fn files_of_every_size_arrive_unchanged(reach: &dyn Reach) {
    let tree = Tree::new::<&str>([]);
    let sizes = [0, 1, 4096, 131_071, 131_072, 131_073, 1_000_000, 5_000_001];
    let files: Vec<_> = (0..)
        .zip(sizes)
        .map(|(id, size)| job(id, &write(&tree.path(id.to_string()), &noise(size, id as u32 + 1))))
        .collect();
    let client = reach.connect(&tree.root());
    let got = fetch(&*client, files.clone());
    for (file, size) in files.iter().zip(sizes) {
        let FetchJob { id, size: listed, mtime, uid, .. } = *file;
        assert!(got[&id].content() == noise(size, id as u32 + 1), "file of {size} bytes");
        assert_eq!(got[&id].end, Some(Ok((FileState { size: listed, mtime, uid }, true))));
    }
    client.disconnect();
}

pub fn rest_of_a_file_arrives_from_its_offset(reach: &dyn Reach) {
    let content = noise(3_000_000, 1);
    let tree = Tree::new([("a", file(&content))]);
    let client = reach.connect(&tree.root());
    let got = fetch(&*client, vec![FetchJob { offset: 2_000_000, ..job(0, &tree.path("a")) }]);
    assert!(got[&0].content()[2_000_000..] == content[2_000_000..]);
    assert_eq!(got[&0].sent, 1_000_000);
    client.disconnect();
}

pub fn sparse_file_arrives_with_its_holes(reach: &dyn Reach) {
    let tree = Tree::new::<&str>([]);
    let (path, length) = (tree.path("sparse"), 40 << 20);
    let made = File::create(&path).unwrap();
    made.set_len(length).unwrap();
    let data = [(1 << 20, 300_000), (30 << 20, 65_536)].map(|(offset, length)| Extent { offset, length });
    let mut expected = vec![0; length as usize];
    for (at, extent) in (1..).zip(data) {
        let bytes = noise(extent.length as usize, at);
        std::os::unix::fs::FileExt::write_all_at(&made, &bytes, extent.offset).unwrap();
        expected[extent.offset as usize..extent.end() as usize].copy_from_slice(&bytes);
    }
    drop(made);
    let client = reach.connect(&tree.root());
    let got = fetch(&*client, vec![FetchJob { data: Some(data.into()), ..job(0, &path) }]);
    assert!(got[&0].content() == expected);
    let sent: u64 = data.iter().map(|extent| extent.length).sum();
    assert_eq!((got[&0].sent as u64, got[&0].hole_bytes), (sent, length - sent));
    client.disconnect();
}

fn basis(path: &Path) -> Option<BasisRef> {
    let (path, size) = (path.to_owned(), fs::metadata(path).unwrap().len());
    Some(BasisRef::new(size, move || File::open(&path)))
}

pub fn changed_ranges_alone_are_sent_against_a_basis(reach: &dyn Reach) {
    let (before, mut now) = (noise(8_000_000, 1), noise(8_000_000, 1));
    now[5_000_000..5_000_100].fill(7);
    now.extend(noise(1000, 2));
    let tree = Tree::new([("now", file(&now)), ("small", file(noise(50_000, 3)))]);
    let own = tempfile::tempdir().unwrap();
    let old = write(&own.path().join("before"), &before);
    let small = write(&own.path().join("small"), &noise(50_000, 4));
    let client = reach.connect(&tree.root());
    let files = vec![
        FetchJob { basis: basis(&old), ..job(0, &tree.path("now")) },
        FetchJob { basis: basis(&small), ..job(1, &tree.path("small")) },
    ];
    let got = fetch(&*client, files);
    assert!(got[&0].content() == now);
    assert!(got[&1].content() == noise(50_000, 3));
    if client.capabilities().sends_deltas {
        assert!(got[&0].sent < 1_000_000, "{} bytes were sent", got[&0].sent);
    }
    client.disconnect();
}

pub fn unwanted_file_with_a_basis_sends_nothing(reach: &dyn Reach) {
    let (before, now) = (noise(1_000_000, 1), noise(1_000_000, 2));
    let tree = Tree::new([("now", file(&now))]);
    let own = tempfile::tempdir().unwrap();
    let old = write(&own.path().join("before"), &before);
    let client = reach.connect(&tree.root());
    let asked = std::sync::Mutex::new(Vec::new());
    let is_wanted = |id: u64, hash: &[u8; 32], is_here: bool| {
        asked.lock().unwrap().push((id, *hash, is_here));
        Ok(false)
    };
    let file = FetchJob { basis: basis(&old), ..job(3, &tree.path("now")) };
    let got = fetch_if(&*client, vec![file], &is_wanted).unwrap();
    if client.capabilities().sends_deltas {
        assert_eq!(*asked.lock().unwrap(), [(3, *blake3::hash(&now).as_bytes(), false)]);
        assert!(got.is_empty());
    } else {
        assert!(got[&3].content() == now);
    }
    client.disconnect();
}

pub fn file_that_shrank_or_grew_arrives_as_it_is(reach: &dyn Reach) {
    let sizes = [(100_000, 10), (10, 100_000), (2_000_000, 1_000_000), (1_000_000, 2_000_000), (500_000, 0)];
    let tree = Tree::new((0..).zip(sizes).map(|(id, (before, _))| (format!("{id}"), file(noise(before, id + 1)))));
    let own = tempfile::tempdir().unwrap();
    let old = write(&own.path().join("before"), &noise(2_000_000, 3));
    let mut files: Vec<_> = (0..5).map(|id| job(id, &tree.path(id.to_string()))).collect();
    files[2].basis = basis(&old);
    for (id, (_, now)) in (0..).zip(sizes) {
        write(&tree.path(id.to_string()), &noise(now, id + 50));
    }
    let client = reach.connect(&tree.root());
    let got = fetch(&*client, files);
    for (id, (_, now)) in (0..).zip(sizes) {
        let Entry { size, mtime, uid, .. } = lstat(&tree.path(id.to_string()));
        assert!(got[&id].content() == noise(now, id as u32 + 50), "{id}");
        let Some(Ok((state, true))) = got[&id].end else { panic!("{:?}", got[&id].end) };
        assert_eq!((state.size, state.uid), (size, uid));
        if client.capabilities().sends_small_files {
            assert!(state.mtime == mtime || state.mtime.seconds() == mtime.seconds());
        }
    }
    client.disconnect();
}

pub fn vanished_file_and_directory_fail(reach: &dyn Reach) {
    let tree = Tree::new([("a", file("a")), ("large", file(noise(300_000, 1))), ("b", file("b"))]);
    let files: Vec<_> = (0..).zip(["a", "large", "b"]).map(|(id, name)| job(id, &tree.path(name))).collect();
    for name in ["a", "large", "b"] {
        fs::remove_file(tree.path(name)).unwrap();
    }
    fs::create_dir(tree.path("b")).unwrap();
    let client = reach.connect(&tree.root());
    let got = fetch(&*client, files);
    assert_eq!(got[&0].end, Some(Err(ReadError::Vanished)));
    assert_eq!(got[&1].end, Some(Err(ReadError::Vanished)));
    assert!(matches!(got[&2].end, Some(Err(ReadError::Refused(_)))), "{:?}", got[&2].end);
    client.disconnect();
}

pub fn file_of_another_owner_fails(reach: &dyn Reach) {
    let tree = Tree::new([("a", file("a"))]);
    let client = reach.connect(&tree.root());
    let listed = job(0, &tree.path("a"));
    let got = fetch(&*client, vec![FetchJob { uid: listed.uid + 1, ..listed }]);
    assert!(matches!(got[&0].end, Some(Err(ReadError::Refused(_)))), "{:?}", got[&0].end);
    client.disconnect();
}

pub fn unreadable_file_fails(reach: &dyn Reach) {
    if !reach.obeys_modes() {
        return;
    }
    let tree = Tree::new([("small", mode(0, file("x"))), ("large", mode(0, file(noise(300_000, 1))))]);
    let client = reach.connect(&tree.root());
    let got = fetch(&*client, vec![job(0, &tree.path("small")), job(1, &tree.path("large"))]);
    for got in got.values() {
        assert!(matches!(&got.end, Some(Err(ReadError::Refused(_)))), "{:?}", got.end);
    }
    client.disconnect();
}

pub fn many_files_are_each_fetched_once(reach: &dyn Reach) {
    let size = |number: u32| if number.is_multiple_of(100) { 200_000 } else { 1 + number as usize };
    let tree = Tree::new([(
        "d",
        dir((0..2000).map(|number: u32| (format!("{number}"), file(noise(size(number), number + 1))))),
    )]);
    let client = reach.connect(&tree.root());
    let got = fetch(&*client, (0..2000).map(|id| job(id, &tree.path(format!("d/{id}")))).collect());
    for (id, got) in got {
        assert!(got.content() == noise(size(id as u32), id as u32 + 1), "{id}");
    }
    client.disconnect();
}

pub fn equal_small_files_are_sent_once(reach: &dyn Reach) {
    let tree = Tree::new((0..20).map(|number| (format!("{number}"), file("the same in all"))));
    let client = reach.connect(&tree.root());
    let files = (0..20).map(|id| FetchJob { dedup: true, ..job(id, &tree.path(id.to_string())) });
    let got = fetch(&*client, files.collect());
    let hash = *blake3::hash(b"the same in all").as_bytes();
    let already = got.values().filter(|got| got.already_sent == Some(hash)).count();
    let sent = got.values().filter(|got| got.bytes == b"the same in all").count();
    assert_eq!(already + sent, 20);
    if client.capabilities().sends_small_files {
        // Each channel sends a content once.
        assert!((1..=2).contains(&sent), "{sent} were sent");
    }
    client.disconnect();
}

pub fn hanging_up_amid_a_file_ends_the_fetch(reach: &dyn Reach) {
    let tree = Tree::new([("large", file(vec![7; 30_000_000]))]);
    let client = reach.connect(&tree.root());
    let (sender, jobs) = bounded_by_number(1);
    sender.send(job(0, &tree.path("large"))).unwrap();
    drop(sender);
    let (events, arrived) = bounded_by_number(4);
    let client = &*client;
    std::thread::scope(|scope| {
        let hanging_up = scope.spawn(move || {
            let first = arrived.recv();
            client.hang_up();
            // The rest of what is under way is taken, or its sender would wait.
            arrived.iter().for_each(drop);
            first.is_some()
        });
        let fetched =
            client.fetch(Fetch { jobs: &jobs, events: &events, is_wanted: &|_, _, _| Ok(true), expects_many: false });
        assert_eq!(fetched.unwrap_err().kind(), Kind::Unreachable);
        drop(events);
        assert!(hanging_up.join().unwrap());
    });
}
