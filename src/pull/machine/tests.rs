//! Transitions of the state machine, as tables of events and orders.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use super::*;
use crate::client::FileState;
use crate::entry::{DirectoryId, Time, Version, testing};
use crate::path::{AbsPath, Name};
use crate::pull::Directory;
use crate::repository::dirs::Abilities;

const SMALL: u64 = 100;
const LARGE: u64 = 200_000;
const HUGE: u64 = 2 << 20;

const ONE: Hash = [1; 32];
const TWO: Hash = [2; 32];

/// An index that knows these sizes and contents.
#[derive(Default)]
struct Known {
    sizes: RefCell<HashSet<u64>>,
    own: RefCell<HashSet<Hash>>,
    foreign: RefCell<HashSet<Hash>>,
    is_slow: Cell<bool>,
    // How often a size was looked up.
    asked: Cell<u32>,
}

impl Lookup for Known {
    fn has_size(&self, size: u64) -> Result<bool> {
        self.asked.set(self.asked.get() + 1);
        Ok(self.sizes.borrow().contains(&size))
    }

    fn has_content(&self, hash: &Hash) -> Result<bool> {
        Ok(self.own.borrow().contains(hash))
    }

    fn has_foreign_content(&self, hash: &Hash) -> Result<bool> {
        Ok(self.foreign.borrow().contains(hash) || self.own.borrow().contains(hash))
    }

    fn is_hashing_cheaper(&self) -> bool {
        self.is_slow.get()
    }
}

/// A machine, and the files of its last orders by name.
struct Table {
    machine: Machine,
    known: Known,
    ids: HashMap<String, FileId>,
    files: HashMap<String, Box<FileTask>>,
}

fn policy() -> Policy {
    Policy {
        client_hashes: true,
        sends_small_files: true,
        max_small_file_bytes: 128 * 1024,
        sends_deltas: true,
        max_delta_bytes: 1 << 40,
        links: true,
        begins_empty: false,
        has_others: false,
        abilities: Abilities::assumed(0),
    }
}

fn version(name: &str, size: u64, hash: Hash) -> Version {
    Version {
        id: 1,
        directory: DirectoryId(1),
        entry: Entry { size, ..testing::file(name) },
        hash: Some(hash),
        from_run: 1,
        until_run: None,
        archive_name: None,
        flags: 0,
        relies_on: None,
    }
}

fn shown(hash: &Hash) -> String {
    match *hash {
        ONE => "one".to_owned(),
        TWO => "two".to_owned(),
        other if other == hash_of_nothing() => "nothing".to_owned(),
        other => format!("{other:?}"),
    }
}

fn state(size: u64) -> FileState {
    FileState { size, mtime: testing::file("x").mtime, uid: 0 }
}

fn reading(hash: Hash, size: u64) -> Reading {
    Reading { hash, size, state: state(size), is_consistent: true }
}

impl Table {
    fn new(policy: Policy) -> Table {
        Table { machine: Machine::new(policy), known: Known::default(), ids: HashMap::new(), files: HashMap::new() }
    }

    fn handle(&mut self, event: Event) -> String {
        let mut orders = Vec::new();
        match self.machine.handle(event, &self.known, &mut orders) {
            Ok(()) => orders.into_iter().map(|order| self.note(order)).collect::<Vec<_>>().join(", "),
            Err(error) => format!("error: {error}"),
        }
    }

    fn note(&mut self, order: Order) -> String {
        let name = |path: &AbsPath| path.split().unwrap().1.to_string();
        match order {
            Order::Hash(HashJob { id, path, kind, .. }) => {
                self.ids.insert(name(&path), id);
                let how = match kind {
                    HashKind::Plain => "hash".to_owned(),
                    HashKind::Proof => "hash with key".to_owned(),
                    HashKind::Sample { other: None } => "sample".to_owned(),
                    HashKind::Sample { other: Some(first) } => format!("with {} sample", name(&first)),
                };
                format!("{how} {}", name(&path))
            }
            Order::Fetch(FetchOrder { id, path, is_dedup, basis, may_resume, .. }) => {
                self.ids.insert(name(&path), id);
                let words = [("dedup ", is_dedup), ("delta ", basis.is_some()), ("resumable ", may_resume)];
                let how: String = words.iter().filter(|(_, is_so)| *is_so).map(|(word, _)| *word).collect();
                format!("fetch {how}{}", name(&path))
            }
            Order::Prove(file, claim) => {
                let name = self.keep("prove", file);
                format!("{name} has {}", shown(&claim.hash))
            }
            Order::Keep { file, is_consistent } => {
                let how = match (is_consistent, file.is_as_listed(), file.is_basis_corrupt()) {
                    (false, _, true) => "keep inconsistent for corrupt basis",
                    (false, _, false) => "keep inconsistent",
                    (true, _, true) => "keep for corrupt basis",
                    (true, false, false) => "keep other than listed",
                    (true, true, false) => "keep",
                };
                self.keep(how, file)
            }
            Order::Record(Change::Known { file, hash, possession }) => {
                let name = self.keep(if possession.is_some() { "link proved" } else { "link" }, file);
                format!("{name} to {}", shown(&hash))
            }
            Order::Record(Change::Plain(file)) => self.keep("record", file),
            Order::Record(Change::Restated(file)) => self.keep("restate", file),
            Order::GiveUp(file, error) => {
                self.keep(if error == ReadError::Vanished { "forget" } else { "give up" }, file)
            }
            Order::Postpone(file) => self.keep("postpone", file),
            other => panic!("{other:?}"),
        }
    }

    fn keep(&mut self, word: &str, file: Box<FileTask>) -> String {
        let name = file.entry.name.to_string();
        self.files.insert(name.clone(), file);
        format!("{word} {name}")
    }

    fn file(&mut self, name: &str) -> Box<FileTask> {
        self.files.remove(name).unwrap_or_else(|| panic!("no order about {name}"))
    }

    fn id(&self, name: &str) -> FileId {
        self.ids[name]
    }

    fn list(&mut self, name: &str, size: u64) -> String {
        self.list_entry(Entry { size, ..testing::file(name) }, None)
    }

    fn list_changed(&mut self, name: &str, size: u64, old: Version) -> String {
        let mut entry = Entry { size, ..testing::file(name) };
        entry.mtime = Time::from(entry.mtime.clamped() + 1);
        self.list_entry(entry, Some(old))
    }

    fn list_entry(&mut self, entry: Entry, old: Option<Version>) -> String {
        let directory = Arc::new(Directory::new(AbsPath::new("/d").unwrap()));
        self.handle(Event::Listed(FileTask::new(directory, entry, old)))
    }

    fn hashed(&mut self, name: &str, hash: Hash) -> String {
        self.handle(Event::Hashed { id: self.id(name), claim: Claim { hash, proof: None } })
    }

    fn received(&mut self, name: &str, hash: Hash, claimed: Option<Hash>) -> String {
        let id = self.id(name);
        let size = self.machine.fetched(id).map_or(0, |file| file.entry.size);
        let state = self.machine.fetched(id).map(|file| file.entry.mtime);
        let mut reading = reading(hash, size);
        reading.state.mtime = state.unwrap_or(reading.state.mtime);
        self.handle(Event::Received { id, reading, claimed, is_resumed: false, is_speculative: false })
    }

    fn received_small(&mut self, name: &str, hash: Hash) -> String {
        let id = self.id(name);
        let file = self.machine.fetched(id).unwrap();
        let mut reading = reading(hash, file.entry.size);
        reading.state.mtime = file.entry.mtime;
        self.handle(Event::ReceivedSmall { id, reading, may_repeat: false })
    }

    /// The batch writer has committed it with this content, or given it up.
    fn finish(&mut self, name: &str, hash: Option<Hash>) -> String {
        let file = self.file(name);
        if let Some(hash) = hash {
            self.known.own.borrow_mut().insert(hash);
        }
        let path = (file.leads_inode() && file.is_as_listed())
            .then(|| Arc::new(SnapshotPath { directory: file.directory.path.clone(), name: file.entry.name.clone() }));
        let (leads, _) = file.into_leads();
        self.handle(Event::Finished { leads, hash, path })
    }

    fn resume(&mut self, name: &str) -> String {
        let file = self.file(name);
        self.handle(Event::Resumed(file))
    }

    /// Nothing is under way.
    #[track_caller]
    fn assert_done(&self) {
        assert_eq!((self.machine.unfinished(), self.machine.waiting_bytes()), (0, 0));
        assert!(!self.machine.has_waiting());
        assert!(self.machine.hashing.files.is_empty() && self.machine.fetching.files.is_empty());
        assert!(self.machine.waiting.has_no_leaders());
    }
}

#[test]
fn listed_file_is_sent_the_way_that_costs_least() {
    type Set = fn(&mut Policy, &mut Known);
    let nothing: Set = |_, _| ();
    let size_known: Set = |_, known| known.sizes.get_mut().extend([SMALL, LARGE, HUGE]);
    let slow: Set = |_, known| {
        known.sizes.get_mut().extend([SMALL, LARGE]);
        known.is_slow.set(true);
    };
    let others: Set = |policy, known| {
        policy.has_others = true;
        known.sizes.get_mut().insert(LARGE);
    };
    let empty: Set = |policy, known| {
        policy.begins_empty = true;
        known.sizes.get_mut().extend([SMALL, LARGE]);
    };
    let sftp: Set = |policy, _| (policy.sends_small_files, policy.sends_deltas) = (false, false);
    let server: Set = |policy, known| {
        policy.client_hashes = false;
        known.sizes.get_mut().insert(LARGE);
    };
    let old = |size| Some(version("f", size, ONE));
    for (set, size, old, expected) in [
        (nothing, 0, None, "link f to nothing"),
        (nothing, SMALL, None, "fetch dedup f"),
        (nothing, LARGE, None, "fetch f"),
        (nothing, 300 << 40, None, "give up f"),
        (size_known, SMALL, None, "hash f"),
        (size_known, LARGE, None, "hash f"),
        (size_known, SMALL, old(SMALL - 1), "fetch dedup f"),
        (size_known, SMALL, old(SMALL), "hash f"),
        (slow, SMALL, old(SMALL - 1), "hash f"),
        (size_known, LARGE, old(LARGE - 1), "fetch delta f"),
        (size_known, LARGE, old(LARGE * 5), "hash f"),
        (size_known, LARGE, old(LARGE / 20), "hash f"),
        (nothing, 8192, old(8000), "fetch dedup delta f"),
        (others, LARGE, None, "hash with key f"),
        (empty, SMALL, None, "fetch dedup f"),
        (empty, LARGE, None, "hash f"),
        (sftp, SMALL, None, "fetch f"),
        (sftp, LARGE, old(LARGE - 1), "fetch f"),
        (server, LARGE, None, "fetch f"),
    ] {
        let (mut policy, mut known) = (policy(), Known::default());
        set(&mut policy, &mut known);
        let mut table = Table { known, ..Table::new(policy) };
        let listed = match old {
            Some(old) => table.list_changed("f", size, old),
            None => table.list("f", size),
        };
        assert_eq!(listed, expected, "{size} bytes");
    }
}

#[test]
fn size_of_a_small_file_is_looked_up_ahead_only_if_it_decides() {
    let usual = policy();
    for policy in [Policy { begins_empty: true, ..policy() }, Policy { client_hashes: false, ..policy() }, usual] {
        for (name, size) in [("empty", 0), ("small", SMALL)] {
            let mut table = Table::new(policy.clone());
            let directory = Arc::new(Directory::new(AbsPath::new("/d").unwrap()));
            let file = FileTask::new(directory, Entry { size, ..testing::file(name) }, None);
            let is_looked_up = policy.looks_up_size(&file);
            table.handle(Event::Listed(file));
            assert_eq!(table.known.asked.get() > 0, is_looked_up, "{name} {policy:?}");
        }
    }
    // Without small files in one piece, each size is looked up once, and not for each file.
    let policy = Policy { sends_small_files: false, ..policy() };
    let directory = Arc::new(Directory::new(AbsPath::new("/d").unwrap()));
    assert!(!policy.looks_up_size(&FileTask::new(directory, Entry { size: SMALL, ..testing::file("f") }, None)));
}

#[test]
fn file_that_an_earlier_run_began_is_hashed_and_resumed() {
    let mut table = Table::new(policy());
    let directory = Arc::new(Directory::new(AbsPath::new("/d").unwrap()));
    let mut file = FileTask::new(directory, Entry { size: HUGE, ..testing::file("f") }, None);
    file.is_begun = true;
    assert_eq!(table.handle(Event::Listed(file)), "hash f");
    assert_eq!(table.hashed("f", ONE), "fetch resumable f");
    // The part was one of another file.
    let reading = reading(TWO, HUGE);
    let event = |id| Event::Received { id, reading, claimed: None, is_resumed: true, is_speculative: false };
    assert_eq!(table.handle(event(table.id("f"))), "postpone f");
    assert_eq!(table.resume("f"), "fetch resumable f");
}

#[test]
fn rebuilt_version_is_hashed_also_where_the_server_hashes() {
    let mut table = Table::new(Policy { client_hashes: false, ..policy() });
    let mut old = version("f", LARGE, ONE);
    old.flags = crate::entry::flags::REBUILT;
    assert_eq!(table.list_entry(Entry { size: LARGE, ..testing::file("f") }, Some(old)), "hash f");
    assert_eq!(table.hashed("f", ONE), "link f to one");
}

#[test]
fn equal_contents_from_several_paths_are_fetched_once() {
    let mut table = Table::new(policy());
    table.known.sizes.get_mut().insert(LARGE);
    for name in ["a", "b", "c"] {
        assert_eq!(table.list(name, LARGE), format!("hash {name}"));
    }
    assert_eq!(table.hashed("a", ONE), "fetch resumable a");
    assert_eq!(table.hashed("b", ONE), "");
    assert_eq!(table.hashed("c", ONE), "");
    assert!(table.machine.has_waiting());
    assert_eq!(table.received("a", ONE, None), "keep a");
    assert_eq!(table.finish("a", Some(ONE)), "postpone b, postpone c");
    assert_eq!(table.resume("b"), "link b to one");
    assert_eq!(table.resume("c"), "link c to one");
    assert_eq!(table.list("d", LARGE), "hash d");
    assert_eq!(table.hashed("d", ONE), "link d to one", "it is in place by now");
    for name in ["b", "c", "d"] {
        assert_eq!(table.finish(name, Some(ONE)), "");
    }
    table.assert_done();
}

#[test]
fn waiting_file_leads_when_its_leader_fails() {
    for error in [ReadError::Vanished, ReadError::Refused("no".to_owned())] {
        let mut table = Table::new(policy());
        table.known.sizes.get_mut().insert(LARGE);
        for name in ["a", "b", "c"] {
            table.list(name, LARGE);
            table.hashed(name, ONE);
        }
        let given_up = if error == ReadError::Vanished { "forget a" } else { "give up a" };
        assert_eq!(table.handle(Event::FetchFailed { id: table.id("a"), error }), given_up);
        assert_eq!(table.finish("a", None), "postpone b, postpone c");
        assert_eq!(table.resume("b"), "fetch resumable b");
        assert_eq!(table.resume("c"), "", "it waits for b now");
        assert_eq!(table.received("b", ONE, None), "keep b");
        assert_eq!(table.finish("b", Some(ONE)), "postpone c");
        assert_eq!(table.resume("c"), "link c to one");
        assert_eq!(table.finish("c", Some(ONE)), "");
        table.assert_done();
    }
}

#[test]
fn waiting_file_is_fetched_when_its_leader_has_another_content() {
    let mut table = Table::new(policy());
    table.known.sizes.get_mut().insert(LARGE);
    for name in ["a", "b"] {
        table.list(name, LARGE);
        table.hashed(name, ONE);
    }
    // The client said ONE of both.
    assert_eq!(table.received("a", TWO, None), "keep inconsistent a");
    assert_eq!(table.finish("a", Some(TWO)), "postpone b");
    assert_eq!(table.resume("b"), "fetch resumable b");
}

#[test]
fn first_file_of_a_size_is_fetched_and_the_others_wait_for_its_hash() {
    let mut table = Table::new(policy());
    assert_eq!(table.list("a", LARGE), "fetch a");
    assert_eq!(table.list("b", LARGE), "hash b");
    assert_eq!(table.hashed("b", ONE), "");
    assert_eq!(table.received("a", ONE, None), "keep a");
    assert_eq!(table.finish("a", Some(ONE)), "postpone b");
    assert_eq!(table.resume("b"), "link b to one");
    assert_eq!(table.finish("b", Some(ONE)), "");
    table.assert_done();
}

#[test]
fn huge_files_of_one_size_are_told_apart_by_samples() {
    let mut table = Table::new(policy());
    assert_eq!(table.list("a", HUGE), "fetch a");
    assert_eq!(table.list("b", HUGE), "with a sample b");
    let sampled = |table: &mut Table, name: &str, sample, of_first| {
        table.handle(Event::Sampled { id: table.id(name), sample, of_first })
    };
    assert_eq!(sampled(&mut table, "b", 7, Some(8)), "fetch b");
    assert_eq!(table.list("c", HUGE), "sample c");
    assert_eq!(sampled(&mut table, "c", 7, None), "postpone c");
    assert_eq!(table.resume("c"), "hash c");
    assert_eq!(table.hashed("c", ONE), "", "it waits for a, whose sample may be the same");
    assert_eq!(table.received("a", TWO, None), "keep a");
    assert_eq!(table.finish("a", Some(TWO)), "postpone c");
    assert_eq!(table.resume("c"), "", "it waits for b, which has its sample");
    assert_eq!(table.received("b", ONE, None), "keep b");
    assert_eq!(table.finish("b", Some(ONE)), "postpone c");
    assert_eq!(table.resume("c"), "link c to one");
    assert_eq!(table.finish("c", Some(ONE)), "");
    table.assert_done();
}

#[test]
fn sample_that_nobody_asked_for_is_refused() {
    let mut table = Table::new(policy());
    table.known.sizes.get_mut().insert(HUGE);
    table.list("a", HUGE);
    let answer = table.handle(Event::Sampled { id: table.id("a"), sample: 1, of_first: None });
    assert!(answer.contains("a sample came that nobody asked for"), "{answer}");
}

#[test]
fn answers_that_nobody_asked_for_are_refused() {
    let id = 77;
    let error = || ReadError::Vanished;
    let claim = Claim { hash: ONE, proof: None };
    let is_not_asked = |event: Event| {
        let mut table = Table::new(policy());
        table.list("a", LARGE);
        let answer = table.handle(event);
        assert!(answer.contains("that nobody asked for"), "{answer}");
        assert_eq!(table.received("a", ONE, None), "keep a", "nothing else has changed");
    };
    is_not_asked(Event::Hashed { id, claim });
    is_not_asked(Event::ChangedBeforeHash { id });
    is_not_asked(Event::HashFailed { id, error: error() });
    // A file that is fetched is not hashed.
    is_not_asked(Event::Hashed { id: 0, claim });
    is_not_asked(Event::FetchFailed { id, error: error() });
    is_not_asked(Event::Described { id, hash: ONE, is_in_basis: true });
    is_not_asked(Event::Repeated { id, hash: ONE });
    is_not_asked(Event::BasisLost { id });
    is_not_asked(Event::ReceivedSmall { id, reading: reading(ONE, 1), may_repeat: true });
    let reading = reading(ONE, 1);
    is_not_asked(Event::Received { id, reading, claimed: None, is_resumed: false, is_speculative: false });
}

#[test]
fn names_of_one_inode_are_fetched_once() {
    use crate::entry::Inode;
    let linked = |name: &str, size| Entry { size, inode: Some(Inode { device: 1, number: 5 }), ..testing::file(name) };
    let mut table = Table::new(policy());
    assert_eq!(table.list_entry(linked("a", LARGE), None), "fetch a");
    assert_eq!(table.list_entry(linked("b", LARGE), None), "");
    assert_eq!(table.list_entry(linked("other", LARGE + 1), None), "fetch other", "the number is used again");
    assert_eq!(table.received("a", ONE, None), "keep a");
    assert_eq!(table.finish("a", Some(ONE)), "postpone b");
    assert_eq!(table.resume("b"), "link b to one");
    assert_eq!(table.files["b"].other_name.as_ref().unwrap().name, Name::new("a").unwrap());
    assert_eq!(table.list_entry(linked("c", LARGE), None), "link c to one", "it is in place by now");
    table.received("other", TWO, None);
    for (name, hash) in [("b", ONE), ("c", ONE), ("other", TWO)] {
        table.finish(name, Some(hash));
    }
    table.assert_done();
}

#[test]
fn name_that_was_replaced_while_it_was_read_says_nothing_about_the_other_names() {
    let inode = Some(crate::entry::Inode { device: 1, number: 5 });
    let mut table = Table::new(policy());
    for name in ["a", "b"] {
        table.list_entry(Entry { size: LARGE, inode, ..testing::file(name) }, None);
    }
    // Another file was renamed to `a`.
    let mut other = reading(TWO, LARGE);
    other.state.mtime = Time::from(other.state.mtime.clamped() + 1);
    let id = table.id("a");
    let event = Event::Received { id, reading: other, claimed: None, is_resumed: false, is_speculative: false };
    assert_eq!(table.handle(event), "keep other than listed a");
    assert_eq!(table.finish("a", Some(TWO)), "postpone b");
    assert_eq!(table.resume("b"), "hash b");
    assert_eq!(table.list_entry(Entry { size: LARGE, inode, ..testing::file("c") }, None), "", "it waits for b");
}

#[test]
fn other_name_of_an_inode_leads_when_the_first_one_fails() {
    let inode = Some(crate::entry::Inode { device: 1, number: 5 });
    let mut table = Table::new(policy());
    for name in ["a", "b", "c"] {
        table.list_entry(Entry { size: LARGE, inode, ..testing::file(name) }, None);
    }
    table.handle(Event::FetchFailed { id: table.id("a"), error: ReadError::Vanished });
    assert_eq!(table.finish("a", None), "postpone b, postpone c");
    assert_eq!(table.resume("b"), "hash b", "its size was met");
    assert_eq!(table.resume("c"), "");
}

#[test]
fn touched_file_with_its_old_content_is_linked() {
    let mut table = Table::new(policy());
    table.known.sizes.get_mut().insert(SMALL);
    assert_eq!(table.list_changed("f", SMALL, version("f", SMALL, ONE)), "hash f");
    assert_eq!(table.hashed("f", ONE), "link f to one");
}

#[test]
fn described_file_is_sent_only_if_its_content_is_unknown() {
    let described = |set: fn(&mut Table), hash, is_in_basis| {
        let mut table = Table::new(policy());
        set(&mut table);
        assert_eq!(table.list_changed("f", LARGE, version("f", LARGE, ONE)), "fetch delta f");
        let id = table.id("f");
        let orders = table.handle(Event::Described { id, hash, is_in_basis });
        (orders, table.machine.fetched(id).is_some())
    };
    let linked = |name: &str| (format!("link f to {name}"), false);
    let sent = (String::new(), true);
    assert_eq!(described(|_| (), ONE, true), linked("one"), "only its mtime differs");
    assert_eq!(described(|_| (), TWO, false), sent);
    assert_eq!(described(|table| table.known.own.get_mut().extend([TWO]), TWO, false), linked("two"));
    // A file with bytes has another hash.
    assert_eq!(described(|_| (), hash_of_nothing(), false), sent);
    let foreign = |table: &mut Table| {
        table.machine.policy.has_others = true;
        table.known.foreign.get_mut().insert(TWO);
    };
    assert_eq!(described(foreign, TWO, false), ("postpone f".to_owned(), false));
    let is_led = |table: &mut Table| {
        table.known.sizes.get_mut().insert(LARGE);
        table.list("leader", LARGE);
        table.hashed("leader", TWO);
    };
    assert_eq!(described(is_led, TWO, false), (String::new(), false), "it waits");
}

#[test]
fn corrupt_basis_is_replaced_by_the_content_that_the_client_sends() {
    let mut table = Table::new(policy());
    table.list_changed("f", LARGE, version("f", LARGE, ONE));
    let id = table.id("f");
    assert_eq!(table.handle(Event::Described { id, hash: ONE, is_in_basis: false }), "");
    assert_eq!(table.received("f", ONE, Some(ONE)), "keep for corrupt basis f");
}

#[test]
fn delta_that_does_not_lead_to_the_hash_is_fetched_in_full() {
    let mut table = Table::new(policy());
    table.list_changed("f", LARGE, version("f", LARGE, ONE));
    assert_eq!(table.received("f", ONE, Some(TWO)), "postpone f");
    assert_eq!(table.resume("f"), "fetch f");
    table.list_changed("g", LARGE, version("g", LARGE, ONE));
    assert_eq!(table.handle(Event::BasisLost { id: table.id("g") }), "postpone g");
    assert_eq!(table.resume("g"), "fetch g");
}

#[test]
fn corrupt_snapshot_copy_is_fetched_in_full() {
    let mut table = Table::new(policy());
    table.known.sizes.get_mut().insert(LARGE);
    table.known.own.get_mut().insert(ONE);
    // Its mtime and size are the old ones, so it is hashed and not fetched as a delta at first.
    let entry = Entry { size: LARGE, ..testing::file("f") };
    assert_eq!(table.list_entry(entry, Some(version("f", LARGE, TWO))), "hash f");
    assert_eq!(table.hashed("f", ONE), "link f to one");
    let file = table.file("f");
    assert_eq!(table.handle(Event::NotFound(file)), "postpone f");
    assert!(table.machine.waiting_bytes() > 0);
    assert_eq!(table.resume("f"), "fetch f");
    assert_eq!(table.received("f", ONE, None), "keep f");
    table.finish("f", Some(ONE));
    table.assert_done();
}

#[test]
fn file_that_changes_while_it_is_read_is_kept_as_it_was_read() {
    let mut table = Table::new(policy());
    table.list("f", LARGE);
    let id = table.id("f");
    let grown = Reading { size: LARGE + 1, ..reading(ONE, LARGE + 1) };
    let event = Event::Received { id, reading: grown, claimed: None, is_resumed: false, is_speculative: false };
    assert_eq!(table.handle(event), "keep other than listed f");
    assert_eq!(table.files["f"].entry.size, LARGE + 1);
    table.list("g", HUGE);
    let reading = Reading { is_consistent: false, ..reading(TWO, HUGE) };
    let id = table.id("g");
    let event = Event::Received { id, reading, claimed: None, is_resumed: false, is_speculative: false };
    assert_eq!(table.handle(event), "keep inconsistent g");
}

#[test]
fn file_that_changes_before_it_is_hashed_is_fetched_in_full() {
    let mut table = Table::new(policy());
    table.known.sizes.get_mut().insert(LARGE);
    let entry = Entry { size: LARGE, ..testing::file("f") };
    assert_eq!(table.list_entry(entry, Some(version("f", LARGE, TWO))), "hash f");
    assert_eq!(table.handle(Event::ChangedBeforeHash { id: table.id("f") }), "fetch f", "not as a delta");
    table.list("g", LARGE);
    assert_eq!(table.handle(Event::HashFailed { id: table.id("g"), error: ReadError::Vanished }), "forget g");
}

#[test]
fn content_of_another_source_is_linked_only_with_a_proof() {
    let table = || {
        let mut table = Table::new(Policy { has_others: true, ..policy() });
        table.known.sizes.get_mut().insert(LARGE);
        table.known.foreign.get_mut().insert(ONE);
        assert_eq!(table.list("f", LARGE), "hash with key f");
        table
    };
    let possession = || {
        let record = crate::repository::index::Record { hash: ONE, read: 0, size: LARGE, mtime: 0, ctime: 0 };
        Box::new(Possession { proof: TWO, inode: 1, record })
    };
    let claim = Claim { hash: ONE, proof: Some(TWO) };
    for (possession, expected) in [(None, "fetch resumable f"), (Some(possession()), "link proved f to one")] {
        let mut table = table();
        assert_eq!(table.handle(Event::Hashed { id: table.id("f"), claim }), "prove f has one");
        let file = table.file("f");
        assert_eq!(table.handle(Event::Proved { file, possession }), expected);
    }
    // A claim without a proof proves nothing.
    assert_eq!(table().hashed("f", ONE), "fetch resumable f");
    // What was received proves itself.
    let mut table = Table::new(Policy { has_others: true, begins_empty: true, ..policy() });
    table.known.foreign.get_mut().insert(ONE);
    table.list_changed("g", SMALL, version("g", SMALL - 1, TWO));
    assert_eq!(table.received_small("g", ONE), "prove g has one");
    let file = table.file("g");
    assert_eq!(table.handle(Event::Proved { file, possession: Some(possession()) }), "link proved g to one");
}

#[test]
fn small_content_that_is_in_place_or_under_way_is_not_kept_twice() {
    let mut table = Table::new(policy());
    table.known.own.get_mut().insert(ONE);
    table.list_changed("a", SMALL, version("a", SMALL - 1, TWO));
    assert_eq!(table.received_small("a", ONE), "link a to one");
    table.list("b", SMALL);
    assert_eq!(table.received_small("b", TWO), "keep b", "the client sends each content once");
    table.list("c", SMALL);
    let id = table.id("c");
    let repeated = Event::ReceivedSmall { id, reading: reading(TWO, SMALL), may_repeat: true };
    assert_eq!(table.handle(repeated), "", "it waits for b");
    table.list("d", SMALL);
    assert_eq!(table.handle(Event::Repeated { id: table.id("d"), hash: TWO }), "postpone d");
    assert_eq!(table.resume("d"), "", "it waits for b");
    assert_eq!(table.finish("b", Some(TWO)), "postpone c, postpone d");
    assert_eq!(table.resume("c"), "link c to two");
    assert_eq!(table.resume("d"), "link d to two");
}

#[test]
fn small_content_of_another_size_than_listed_is_kept_as_received() {
    for hash in [ONE, hash_of_nothing()] {
        let mut table = Table::new(policy());
        table.known.own.get_mut().insert(hash);
        table.list_changed("f", SMALL, version("f", SMALL - 1, hash));
        let id = table.id("f");
        let event = Event::ReceivedSmall { id, reading: reading(hash, 0), may_repeat: true };
        assert_eq!(table.handle(event), "keep other than listed f");
        assert_eq!(table.files["f"].entry.size, 0);
    }
}

#[test]
fn memory_of_a_postponed_file_is_counted_until_it_is_decided_about() {
    let mut table = Table::new(policy());
    table.known.sizes.get_mut().insert(LARGE);
    for name in ["a", "b"] {
        table.list(name, LARGE);
        table.hashed(name, ONE);
    }
    let one = table.machine.waiting_bytes();
    assert!(one >= 512);
    table.received("a", ONE, None);
    table.finish("a", Some(ONE));
    assert_eq!(table.machine.waiting_bytes(), one);
    table.resume("b");
    assert_eq!(table.machine.waiting_bytes(), 0);
}

#[test]
fn corrupt_basis_is_not_forgotten_when_the_file_is_fetched_in_full() {
    type End = fn(&mut Table) -> String;
    let lost: End = |table| table.handle(Event::BasisLost { id: table.id("f") });
    let other: End = |table| table.received("f", TWO, Some(ONE));
    for end in [lost, other] {
        let mut table = Table::new(policy());
        table.list_changed("f", LARGE, version("f", LARGE, ONE));
        table.handle(Event::Described { id: table.id("f"), hash: ONE, is_in_basis: false });
        assert_eq!(end(&mut table), "postpone f");
        assert_eq!(table.resume("f"), "fetch f");
        assert_eq!(table.received("f", ONE, None), "keep for corrupt basis f");
    }
}

#[test]
fn speculatively_sent_file_is_kept_only_if_it_is_wanted() {
    let received = |set: fn(&mut Table), hash| {
        let mut table = Table::new(policy());
        set(&mut table);
        table.list_changed("f", LARGE, version("f", LARGE, ONE));
        let event = Event::Received {
            id: table.id("f"),
            reading: Reading {
                state: FileState { mtime: table.machine.fetched(0).unwrap().entry.mtime, ..state(LARGE) },
                ..reading(hash, LARGE)
            },
            claimed: None,
            is_resumed: false,
            is_speculative: true,
        };
        table.handle(event)
    };
    assert_eq!(received(|_| (), TWO), "keep f");
    assert_eq!(received(|_| (), ONE), "keep for corrupt basis f", "its basis was not read");
    assert_eq!(received(|table| table.known.own.get_mut().extend([TWO]), TWO), "link f to two");
    let foreign = |table: &mut Table| {
        table.machine.policy.has_others = true;
        table.known.foreign.get_mut().extend([TWO]);
    };
    assert_eq!(received(foreign, TWO), "postpone f");
    assert_eq!(received(|table| table.machine.policy.client_hashes = false, ONE), "keep f");
}

#[test]
fn hash_of_nothing_is_not_that_of_a_file_with_bytes() {
    let mut table = Table::new(policy());
    table.known.sizes.get_mut().insert(LARGE);
    table.known.own.get_mut().insert(hash_of_nothing());
    let entry = Entry { size: LARGE, ..testing::file("f") };
    table.list_entry(entry, Some(version("f", LARGE, ONE)));
    assert_eq!(table.hashed("f", hash_of_nothing()), "fetch f", "without a basis, so that it is not described again");
    table.list("g", SMALL);
    assert_eq!(table.handle(Event::Repeated { id: table.id("g"), hash: hash_of_nothing() }), "postpone g");
    assert_eq!(table.resume("g"), "fetch g");
}

#[test]
fn entries_without_content_and_moved_files_are_recorded_at_once() {
    let mut table = Table::new(policy());
    let directory = || Arc::new(Directory::new(AbsPath::new("/d").unwrap()));
    let link = Entry { kind: Kind::Symlink, target: b"x".to_vec(), ..testing::file("l") };
    assert_eq!(table.list_entry(link, None), "record l");
    let file = FileTask::new(directory(), Entry { size: LARGE, ..testing::file("m") }, None);
    assert_eq!(table.handle(Event::Moved { file, hash: TWO }), "link m to two");
    let file = FileTask::new(directory(), testing::file("r"), Some(version("r", 0, ONE)));
    assert_eq!(table.handle(Event::Restated(file)), "restate r");
    for (name, hash) in [("l", None), ("m", Some(TWO)), ("r", None)] {
        assert_eq!(table.finish(name, hash), "");
    }
    table.assert_done();
}

#[test]
fn small_content_without_a_proof_is_kept() {
    let mut table = Table::new(Policy { has_others: true, begins_empty: true, ..policy() });
    table.list_changed("g", SMALL, version("g", SMALL - 1, TWO));
    assert_eq!(table.received_small("g", ONE), "prove g has one");
    let file = table.file("g");
    assert_eq!(table.handle(Event::Proved { file, possession: None }), "keep g");
    let mut table = Table::new(Policy { links: false, ..policy() });
    table.known.own.get_mut().insert(ONE);
    table.list_changed("g", SMALL, version("g", SMALL - 1, TWO));
    assert_eq!(table.received_small("g", ONE), "keep g", "nothing is linked");
}

#[test]
fn event_that_no_order_asked_for_is_an_error_of_the_program() {
    let mut table = Table::new(policy());
    table.list("f", LARGE);
    table.received("f", ONE, None);
    let file = table.file("f");
    assert!(table.handle(Event::Resumed(file)).contains("a part of the program broke"));
    table.list("g", LARGE + 1);
    table.received("g", ONE, None);
    let file = table.file("g");
    assert!(table.handle(Event::Proved { file, possession: None }).contains("a part of the program broke"));
    let mut table = Table::new(policy());
    let event = Event::Finished { leads: Vec::new(), hash: None, path: None };
    assert!(table.handle(event).contains("a part of the program broke"));
}

#[test]
fn lost_connection_leaves_a_state_that_another_attempt_decides_anew() {
    // Whatever is under way when the connection is lost is listed again by the next attempt, with a machine of its own.
    let mut lost = Table::new(policy());
    lost.known.sizes.get_mut().insert(LARGE);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(lost.list(name, LARGE), format!("hash {name}"));
    }
    assert_eq!(lost.hashed("a", ONE), "fetch resumable a");
    assert_eq!(lost.hashed("b", ONE), "", "it waits for a");
    assert_eq!(lost.received("a", ONE, None), "keep a");
    // Received files are still committed. The files that they release are not decided about any more.
    assert_eq!(lost.finish("a", Some(ONE)), "postpone b");
    assert_eq!(lost.machine.unfinished(), 3);
    let mut next = Table { known: lost.known, ..Table::new(policy()) };
    for name in ["b", "c", "d"] {
        assert_eq!(next.list(name, LARGE), format!("hash {name}"));
    }
    assert_eq!(next.hashed("b", ONE), "link b to one", "a is in place");
    assert_eq!(next.hashed("c", TWO), "fetch resumable c");
    assert_eq!(next.hashed("d", TWO), "");
    assert_eq!(next.received("c", TWO, None), "keep c");
    assert_eq!(next.finish("c", Some(TWO)), "postpone d");
    assert_eq!(next.resume("d"), "link d to two");
    for (name, hash) in [("b", ONE), ("d", TWO)] {
        assert_eq!(next.finish(name, Some(hash)), "");
    }
    next.assert_done();
}
