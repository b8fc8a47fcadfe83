//! A history: two machines that change, and pulls of both into one repository, some of which end early.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::faults::{Killed, Synced};
use super::random::Random;
use super::workers::TurnTaking;
use crate::client::Client;
use crate::client::fake::{Call, FakeClient, Fault, FaultKind, Lie, Machine};
use crate::entry::{Kind, Time, unknown_directory};
use crate::fault::Plan;
use crate::path::{AbsPath, SourceName};
use crate::pull::{Options, pull_by};
use crate::report::{Change, Level, Outcome, Progress, Report, Summary, Tee};
use crate::repository::Repository;
use crate::source::{ArchiveWhat, HashWhere, LinkWhen, Settings, Source, Tuning};

#[path = "../../../tests/support/checker.rs"]
#[expect(dead_code, reason = "the integration tests use all of it")]
mod checker;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e~", "f.20260101T000000Z"];

const DIRECTORIES: [&str; 4] = ["/data", "/data/x", "/data/y", "/data/x/z"];

/// What a run showed: kind, hash or target, and mtime, by path.
type Tree = BTreeMap<Vec<u8>, (i64, Vec<u8>, i64)>;

/// One history.
pub struct History {
    random: Random,
    _directory: tempfile::TempDir,
    repository: PathBuf,
    synced: PathBuf,
    sources: [TestSource; 2],
    // Trees of the runs that ended well, by source and number.
    expected: Vec<(String, i64, Tree)>,
    contents: Vec<Arc<[u8]>>,
    log: RefCell<String>,
    pulls: u64,
}

/// A source, and its machine.
struct TestSource {
    source: Source,
    machine: Arc<Machine>,
    // Counts up, for times that differ.
    clock: Cell<i64>,
    // What the client says is not what it has.
    is_lying: Cell<bool>,
    // Its last pull was not cut off.
    is_at_rest: Cell<bool>,
}

/// How a pull ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Well,
    KilledBetween,
    KilledWithin,
    PowerCut,
    Disk(Errno),
    Client(FaultKind),
}

impl History {
    /// The history of a seed, with nothing in it.
    pub fn new(seed: u64) -> History {
        let random = Random::new(seed);
        let directory = tempfile::tempdir_in(shared_memory()).expect("a temporary directory can be made");
        let repository = directory.path().join("repository");
        Repository::create(&repository).expect("a repository can be made");
        let settings = Settings {
            hash: *random.pick(&[HashWhere::Client, HashWhere::Client, HashWhere::Client, HashWhere::Server]),
            link: *random.pick(&[LinkWhen::Content, LinkWhen::Exact, LinkWhen::Never]),
            archive: *random.pick(&[ArchiveWhat::Replaced, ArchiveWhat::Replaced, ArchiveWhat::All]),
            whole_file: random.once_in(8),
            tuning: Tuning { gather: !random.once_in(4), ..Tuning::default() },
            retries: random.below(3) as u32,
            max_delete: 100,
            verify_age: *random.pick(&[Duration::ZERO, Duration::from_secs(1 << 30)]),
            ..Settings::default()
        };
        let source = |name: &str| TestSource {
            source: Source {
                name: SourceName::new(name).expect("a name"),
                ssh: None,
                paths: vec![b"/data".to_vec()],
                settings: settings.clone(),
                schedule: None,
            },
            machine: Machine::new(),
            clock: Cell::new(1_000),
            is_lying: Cell::new(false),
            is_at_rest: Cell::new(true),
        };
        let sources = [source("one"), source("two")];
        sources[1].machine.state().id = Some([8; 16]);
        // Two of each size, and a large one with a small change.
        let sizes = [0, 1, 1, 5_000, 5_000, 140_000, 140_000, 1_100_000, 1_100_000];
        let contents = sizes.iter().zip(1u8..).map(|(size, byte)| {
            let mut content = vec![byte; *size];
            content.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= (at >> 9) as u8);
            Arc::from(content)
        });
        let mut contents: Vec<Arc<[u8]>> = contents.collect();
        let mut changed = contents[5].to_vec();
        changed[70_000] ^= 1;
        contents.push(Arc::from(changed));
        let synced = directory.path().join("synced");
        let history = History {
            random,
            _directory: directory,
            repository,
            synced,
            sources,
            expected: Vec::new(),
            contents,
            log: RefCell::default(),
            pulls: 0,
        };
        for client in &history.sources {
            (0..5).for_each(|_| history.change(client));
        }
        history
    }

    /// Everything that was done.
    pub fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// Does so many steps; returns how many pulls there were, or what was found wrong.
    pub fn run(&mut self, steps: u64) -> Result<u64, String> {
        for _ in 0..steps {
            let which = self.random.below(2) as usize;
            if self.random.once_in(2) {
                (0..=self.random.below(3)).for_each(|_| self.change(&self.sources[which]));
            } else {
                self.pull(which)?;
            }
        }
        // In the end both are pulled well, and everything is compared.
        for which in 0..2 {
            self.be_honest(which);
            self.pull_until(which, End::Well)?;
        }
        self.check()?;
        Ok(self.pulls)
    }

    fn note(&self, text: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.log.borrow_mut(), "{text}");
    }

    fn error(&self, what: impl std::fmt::Display) -> String {
        format!("{}{what}", self.log())
    }

    fn directory(&self) -> AbsPath {
        AbsPath::new(*self.random.pick(&DIRECTORIES)).expect("a path")
    }

    fn path(&self) -> AbsPath {
        AbsPath::new(format!("{}/{}", self.directory(), self.random.pick(&NAMES))).expect("a path")
    }

    fn existing(&self, client: &TestSource) -> Option<AbsPath> {
        let paths = client.machine.paths();
        (!paths.is_empty()).then(|| self.random.pick(&paths).0.clone())
    }

    // One random change of a machine.
    fn change(&self, client: &TestSource) {
        let (machine, random) = (&client.machine, &self.random);
        client.clock.set(client.clock.get() + 1);
        let now = client.clock.get();
        let (path, existing) = (self.path(), self.existing(client));
        let existing = existing.filter(|path| path.as_bytes() != b"/data");
        match (random.below(12), existing) {
            (0..4, _) | (_, None) => {
                machine.write(&path, Arc::clone(random.pick(&self.contents)), time(now));
                machine.edit(&path, |node| node.entry.ctime = now);
                self.note(format_args!("{}: write {path}", client.source.name));
            }
            (4, Some(old)) => {
                self.note(format_args!("{}: remove {old}", client.source.name));
                machine.remove(&old);
            }
            (5, Some(old)) if !path.starts_with(&old) && !old.starts_with(&path) => {
                self.note(format_args!("{}: rename {old} to {path}", client.source.name));
                machine.rename(&old, &path);
                machine.edit(&path, |node| node.entry.ctime = now);
            }
            (6, Some(old)) if machine.node(&old).is_some_and(|node| node.entry.kind == Kind::File) && old != path => {
                self.note(format_args!("{}: link {old} as {path}", client.source.name));
                machine.link(&old, &path);
                for path in [&old, &path] {
                    machine.edit(path, |node| node.entry.ctime = now);
                }
            }
            (7, Some(old)) => {
                self.note(format_args!("{}: chmod {old}", client.source.name));
                machine.edit(&old, |node| {
                    node.entry.mode ^= 0o11;
                    node.entry.ctime = now;
                });
            }
            (8, Some(old)) => {
                self.note(format_args!("{}: touch {old}", client.source.name));
                machine.edit(&old, |node| (node.entry.mtime, node.entry.ctime) = (time(now), now));
            }
            (9, Some(old)) if random.once_in(2) => {
                self.note(format_args!("{}: {old} can't be read", client.source.name));
                machine.edit(&old, |node| node.errno = Some(Errno::EACCES as i32));
            }
            (9, _) => self.heal(client),
            (10, Some(old)) if random.once_in(3) => {
                let lie = match random.below(3) {
                    0 => Lie::Hash(blake3::hash(&random.pick::<Arc<[u8]>>(&self.contents)[..]).into()),
                    1 => Lie::Content(Arc::clone(random.pick(&self.contents))),
                    _ => Lie::KeepsChanging,
                };
                self.note(format_args!("{}: lies about {old}", client.source.name));
                client.is_lying.set(true);
                machine.edit(&old, |node| node.lie = Some(lie));
            }
            (_, Some(_)) => {
                let mut link = unknown_directory(path.split().expect("no root").1);
                (link.kind, link.mtime, link.ctime) = (Kind::Symlink, time(now), now);
                link.target = random.pick(&NAMES).as_bytes().to_vec();
                self.note(format_args!("{}: symlink {path}", client.source.name));
                machine.put(&path.split().expect("no root").0, link, Vec::new());
            }
        }
    }

    // Everything can be read again.
    fn heal(&self, client: &TestSource) {
        self.note(format_args!("{}: everything can be read", client.source.name));
        for (path, _) in client.machine.paths() {
            client.machine.edit(&path, |node| node.errno = None);
        }
    }

    // No more lies. What was lied about changes, so that it is read again.
    fn be_honest(&self, which: usize) {
        let client = &self.sources[which];
        self.heal(client);
        client.is_lying.set(false);
        client.machine.state().faults.clear();
        for (path, node) in client.machine.paths().into_iter().filter(|(_, node)| node.lie.is_some()) {
            client.clock.set(client.clock.get() + 1);
            let now = client.clock.get();
            self.note(format_args!("{}: honest about {path}", client.source.name));
            client.machine.edit(&path, |node| {
                node.lie = None;
                (node.entry.mtime, node.entry.ctime) = (time(now), now);
            });
            drop(node);
        }
    }

    fn pull(&mut self, which: usize) -> Result<(), String> {
        let random = &self.random;
        let end = match random.below(12) {
            0 | 1 => End::KilledBetween,
            2 | 3 => End::KilledWithin,
            4 if random.once_in(2) => End::PowerCut,
            5 => End::Disk(*random.pick(&[Errno::ENOSPC, Errno::EIO])),
            6 | 7 => {
                let kinds = [FaultKind::Disconnect, FaultKind::Stall, FaultKind::Nonsense];
                End::Client(*random.pick(&kinds))
            }
            _ => End::Well,
        };
        self.pull_until(which, end)
    }

    fn pull_until(&mut self, which: usize, end: End) -> Result<(), String> {
        self.pulls += 1;
        let client = &self.sources[which];
        let random = &self.random;
        let changes = Cell::new(false);
        let may_change = random.once_in(4) && end != End::Well;
        let between = || {
            if may_change && random.once_in(12) {
                changes.set(true);
                self.change(client);
            }
        };
        let connect = |_: &Source| -> Box<dyn Client> {
            let mut fake = FakeClient::connect(&client.machine);
            fake.may_repeat = random.once_in(2);
            fake.speculates = random.once_in(2);
            fake.hashing_is_cheaper = random.once_in(3);
            fake.page_entries = 1 + random.below(4) as usize;
            if random.once_in(6) {
                (fake.capabilities.sends_small_files, fake.capabilities.sends_deltas) = (false, false);
            }
            Box::new(fake)
        };
        let killed_after = (end == End::KilledBetween).then(|| random.below(60));
        let engine = TurnTaking { random, connect: &connect, between: &between, killed_after };
        let mut plan = Plan::default();
        let at = 1 + random.below(150);
        let mut synced = None;
        match end {
            End::KilledWithin => plan.kill = Some((at, || Killed::now())),
            End::PowerCut => {
                let (follower, following) = Synced::follow(&self.repository, &self.synced);
                (synced, plan) = (Some(follower), following);
                plan.kill = Some((at, || Killed::now()));
            }
            End::Disk(errno) => plan.failure = Some((at, errno)),
            End::Client(kind) => {
                let fault = Fault { call: None::<Call>, after_events: random.below(60), kind };
                client.machine.state().faults.plan(fault);
            }
            End::Well | End::KilledBetween => {}
        }
        self.note(format_args!("pull {}, end: {end:?}", client.source.name));
        let options = Options { checksum: random.once_in(10), allow_missing: true, ..Options::default() };
        let before = tree_of(&client.machine);
        client.is_at_rest.set(false);
        let was_lying = client.is_lying.get();
        plan.set();
        let summary = Killed::catch(|| {
            let repository = Repository::open(&self.repository).map_err(|error| error.to_string())?;
            let messages = Messages::default();
            let report = Tee(vec![&messages as &dyn Report]);
            let summary = pull_by(&engine, Some(&repository), &client.source, &options, &report);
            Ok::<_, String>((summary, messages.0.into_inner().unwrap_or_default()))
        });
        Plan::default().set();
        client.machine.state().faults.clear();
        let Some(pulled) = summary else {
            self.note(format_args!("  killed"));
            if let Some(synced) = synced {
                synced.borrow().cut_power();
            }
            return Ok(());
        };
        let (summary, messages) = pulled.map_err(|error| self.error(error))?;
        self.note(format_args!("  {:?} {}: {messages:?}", summary.outcome, summary.exit));
        let is_undisturbed = !changes.get() && !was_lying && !client.is_lying.get();
        if end == End::Well && is_undisturbed && !has_unreadable(&client.machine) && summary.outcome != Outcome::Ok {
            return Err(self.error(format_args!("an undisturbed pull did not end well: {messages:?}")));
        }
        if summary.outcome == Outcome::Ok {
            // A disk that failed after the last commit may have kept a part of the index's copy in staging.
            client.is_at_rest.set(!matches!(end, End::Disk(_)));
            self.note_expected(which, &summary, before, is_undisturbed);
        }
        if self.sources.iter().all(|client| client.is_at_rest.get()) { self.check() } else { Ok(()) }
    }

    fn note_expected(&mut self, which: usize, summary: &Summary, before: Tree, is_undisturbed: bool) {
        if let (Some(run), true) = (summary.run, is_undisturbed) {
            self.expected.push((self.sources[which].source.name.to_string(), run, before));
        }
    }

    // The independent checker, and every run that ended well as its client was.
    fn check(&self) -> Result<(), String> {
        let findings = checker::check(&self.repository);
        if !findings.is_empty() {
            return Err(self.error(findings.join("\n")));
        }
        let history = checker::history(&self.repository).map_err(|error| self.error(error))?;
        for (source, run, expected) in &self.expected {
            let shown = history.at(source, *run);
            let shown = shown.into_iter().map(|(path, shown)| {
                let mtime = if shown.kind == 1 { 0 } else { shown.mtime };
                (path.to_vec(), (shown.kind, shown.content.clone(), mtime))
            });
            let shown: Tree = shown.collect();
            if shown != *expected {
                let paths = |tree: &Tree| {
                    tree.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect::<Vec<_>>()
                };
                let differing: Vec<_> = expected.iter().filter(|(path, node)| shown.get(*path) != Some(node)).collect();
                return Err(self.error(format_args!(
                    "run {run} of {source} shows {:?} instead of {:?}; {differing:?}",
                    paths(&shown),
                    paths(expected),
                )));
            }
        }
        Ok(())
    }
}

fn shared_memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

fn time(seconds: i64) -> Time {
    Time::new(seconds, seconds % 1_000)
}

fn has_unreadable(machine: &Machine) -> bool {
    machine.paths().iter().any(|(_, node)| node.errno.is_some())
}

// What a run of this machine has to show.
fn tree_of(machine: &Machine) -> Tree {
    let node = |(path, node): (AbsPath, crate::client::fake::Node)| {
        let (kind, content) = match node.entry.kind {
            Kind::File => (0, blake3::hash(&node.content).as_bytes().to_vec()),
            Kind::Dir => (1, Vec::new()),
            _ => (2, node.entry.target.clone()),
        };
        let mtime = if kind == 1 { 0 } else { node.entry.mtime.clamped() };
        (path.as_bytes().to_vec(), (kind, content, mtime))
    };
    machine.paths().into_iter().map(node).collect()
}

/// Keeps what is reported.
#[derive(Default)]
struct Messages(std::sync::Mutex<Vec<String>>);

impl Report for Messages {
    fn begin(&self, _: &SourceName, _: Option<i64>) {}

    fn change(&self, _: Change, _: &AbsPath) {}

    fn progress(&self, _: &Progress) {}

    fn summary(&self, _: &Summary) {}

    fn message(&self, _: Level, text: &dyn std::fmt::Display) {
        if let Ok(mut messages) = self.0.lock() {
            messages.push(text.to_string());
        }
    }
}
