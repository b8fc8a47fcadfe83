//! Hashing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use archive::client::{Client, Fetch, FetchJob, HashJob, HashKind, HashOutcome, RestoreRefused};
use archive::entry::Entry;
use archive::error::{Error, Kind, Result};
use archive::queue::bounded_by_number;

use super::{Reach, abs, listing, lstat, noise, restoring, write};
use crate::support::tree::{Tree, dir, file};

const KEY: [u8; 32] = [9; 32];

pub fn job(id: u64, path: &Path, kind: HashKind) -> HashJob {
    let Entry { size, mtime, uid, .. } = lstat(path);
    HashJob { id, path: abs(path), size, mtime, uid, kind }
}

/// Hashes what is asked for, each of which must be answered once.
fn hash(client: &dyn Client, jobs: Vec<HashJob>) -> Result<BTreeMap<u64, HashOutcome>> {
    let (count, mut outcomes) = (jobs.len(), BTreeMap::new());
    let (sender, receiver) = bounded_by_number(count.max(1));
    jobs.into_iter().for_each(|job| sender.send(job).unwrap());
    drop(sender);
    client.hash(&KEY, &receiver, &mut |id, outcome| {
        assert!(outcomes.insert(id, outcome).is_none(), "{id} is answered twice");
        Ok(())
    })?;
    assert_eq!(outcomes.len(), count);
    Ok(outcomes)
}

pub fn files_are_hashed_with_and_without_proof(reach: &dyn Reach) {
    let tree = Tree::new::<&str>([]);
    let contents: Vec<_> = [1, 70_000, 3_000_000].into_iter().map(|size| noise(size, size as u32)).collect();
    let path = |number: usize| tree.path(number.to_string());
    contents.iter().enumerate().for_each(|(number, content)| drop(write(&path(number), content)));
    let client = reach.connect(&tree.root());
    let jobs = (0..contents.len()).flat_map(|number| {
        let kinds = [HashKind::Plain, HashKind::Proof].into_iter().enumerate();
        kinds.map(move |(kind, wanted)| (2 * number + kind, number, wanted))
    });
    let jobs = jobs.map(|(id, number, kind)| job(id as u64, &path(number), kind)).collect();
    let outcomes = hash(&*client, jobs).unwrap();
    for (number, content) in contents.iter().enumerate() {
        let (hash, proof) = (blake3::hash(content).into(), blake3::keyed_hash(&KEY, content).into());
        assert_eq!(outcomes[&(2 * number as u64)], HashOutcome::Done { hash, proof: None });
        assert_eq!(outcomes[&(2 * number as u64 + 1)], HashOutcome::Done { hash, proof: Some(proof) });
    }
    client.disconnect();
}

pub fn changed_and_vanished_files_have_no_hash(reach: &dyn Reach) {
    let names = ["same", "larger", "touched", "other-owner", "directory", "gone"];
    let tree = Tree::new(names.map(|name| (name, file("content"))));
    let mut jobs: Vec<_> = (0..).zip(names).map(|(id, name)| job(id, &tree.path(name), HashKind::Plain)).collect();
    write(&tree.path("larger"), b"longer content");
    jobs[2].mtime = 5.into();
    jobs[3].uid += 1;
    for name in ["directory", "gone"] {
        fs::remove_file(tree.path(name)).unwrap();
    }
    fs::create_dir(tree.path("directory")).unwrap();
    let client = reach.connect(&tree.root());
    let outcomes: Vec<_> = hash(&*client, jobs).unwrap().into_values().collect();
    assert!(matches!(outcomes[0], HashOutcome::Done { .. }));
    assert_eq!(outcomes[1..5], [const { HashOutcome::Changed }; 4]);
    assert_eq!(outcomes[5], HashOutcome::Vanished);
    client.disconnect();
}

pub fn unreadable_file_has_no_hash(reach: &dyn Reach) {
    if !reach.obeys_modes() {
        return;
    }
    let tree = Tree::new([("secret", crate::support::tree::mode(0, file("x")))]);
    let client = reach.connect(&tree.root());
    let outcomes = hash(&*client, vec![job(0, &tree.path("secret"), HashKind::Plain)]).unwrap();
    assert_eq!(outcomes[&0], HashOutcome::Failed(nix::errno::Errno::EACCES as i32));
    client.disconnect();
}

pub fn samples_of_equal_files_are_equal(reach: &dyn Reach) {
    let (one, other) = (noise(3_000_000, 1), noise(3_000_000, 2));
    let tree = Tree::new([("a", file(&one)), ("b", file(&one)), ("c", file(&other)), ("d", file("short"))]);
    let client = reach.connect(&tree.root());
    let sample = |other: &str| HashKind::Sample { other: Some(abs(tree.path(other))) };
    let jobs = (0..).zip(["b", "c", "d", "none"]).map(|(id, other)| job(id, &tree.path("a"), sample(other)));
    let outcomes = hash(&*client, jobs.collect()).unwrap();
    let sampled = |id: u64| match outcomes[&id] {
        HashOutcome::Sampled { sample, other } => (sample, other),
        ref outcome => panic!("{outcome:?}"),
    };
    assert_eq!(sampled(0).1, Some(sampled(0).0));
    assert!(sampled(1).1.is_some_and(|other| other != sampled(1).0));
    assert_eq!([sampled(2).1, sampled(3).1], [None, None]);
    client.disconnect();
}

pub fn many_files_are_each_hashed_once(reach: &dyn Reach) {
    let tree = Tree::new((0..3000).map(|number: u32| (format!("{number}"), file(number.to_le_bytes()))));
    let client = reach.connect(&tree.root());
    let jobs = (0..3000).map(|number| job(number, &tree.path(number.to_string()), HashKind::Plain)).collect();
    for (id, outcome) in hash(&*client, jobs).unwrap() {
        let hash = blake3::hash(&(id as u32).to_le_bytes()).into();
        assert_eq!(outcome, HashOutcome::Done { hash, proof: None });
    }
    client.disconnect();
}

pub fn error_of_the_sink_ends_the_hashing(reach: &dyn Reach) {
    let tree = Tree::new([("a", file("a"))]);
    let client = reach.connect(&tree.root());
    // The queue stays open: the call must not wait for more.
    let (sender, receiver) = bounded_by_number(1);
    sender.send(job(0, &tree.path("a"), HashKind::Plain)).unwrap();
    let error = client.hash(&KEY, &receiver, &mut |_, _| Err(Error::new(Kind::Failed, "enough"))).unwrap_err();
    assert_eq!(error.to_string(), "enough");
    client.disconnect();
}

pub fn every_call_fails_after_hanging_up(reach: &dyn Reach) {
    let tree = Tree::new([("a", dir([("b", file("b"))]))]);
    let client = reach.connect(&tree.root());
    client.hang_up();
    let unreachable = |error: Error| assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    let jobs = || vec![job(0, &tree.path("a/b"), HashKind::Plain)];
    unreachable(hash(&*client, jobs()).unwrap_err());
    unreachable(client.list(&listing::request(&tree.root()), &mut listing::Seen::default()).unwrap_err());
    let (sender, receiver) = bounded_by_number::<FetchJob>(1);
    let (events, _arrived) = bounded_by_number(10);
    sender.send(super::fetching::job(0, &tree.path("a/b"))).unwrap();
    drop(sender);
    let fetch = Fetch { jobs: &receiver, events: &events, is_wanted: &|_, _, _| Ok(true), expects_many: false };
    unreachable(client.fetch(fetch).unwrap_err());
    // What this process does on this machine needs no connection.
    if client.kind() != archive::source::ClientKind::Local {
        match client.restore(&restoring::options(&tree.path("to"))) {
            Err(RestoreRefused::Client(error)) => unreachable(error),
            Err(RestoreRefused::Destination(errno)) => panic!("{errno}"),
            Ok(_) => panic!("it restores"),
        }
    }
    client.disconnect();
}
