//! The workers of a run, stepped one after the other in a random order.

#![expect(clippy::vec_box, reason = "a file moves from owner to owner without being copied")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver as Unbounded, unbounded};

use super::faults::Killed;
use super::random::Random;
use crate::client::{self, Client, Fetch, FetchEvent, FetchJob, HashJob, IsWanted};
use crate::entry::{Entry, Hash};
use crate::error::Result;
use crate::path::AbsPath;
use crate::plan::Step;
use crate::pull::applying::BatchWriter;
use crate::pull::applying::Change;
use crate::pull::applying::Ledger;
use crate::pull::dispatch::Dispatch;
use crate::pull::fetching::{Fetcher, Transfers};
use crate::pull::hashing::event;
use crate::pull::in_flight::InFlight;
use crate::pull::listing::{Steps, list};
use crate::pull::machine::{Event, FileId, FileTask};
use crate::pull::pipeline::{clear_staging, is_wanted, policy};
use crate::pull::receiving::Inbox;
use crate::pull::routes::{Decider, Routes};
use crate::pull::{Directory, Engine, Run};
use crate::queue::{Receiver, Sender, bounded_by_number};
use crate::report::Report;
use crate::source::Source;

// Nothing waits for room in a queue: the thread that would make room is the one that waits.
const UNBOUNDED: usize = usize::MAX / 2;

/// Has the workers of a run take turns.
pub struct TurnTaking<'a> {
    /// Decides whose turn it is.
    pub random: &'a Random,
    /// Connects to the client of a source.
    pub connect: &'a dyn Fn(&Source) -> Box<dyn Client>,
    /// Called between turns: the client may change.
    pub between: &'a dyn Fn(),
    /// The process is killed after so many turns.
    pub killed_after: Option<u64>,
}

impl Engine for TurnTaking<'_> {
    fn connect(&self, source: &Source, _: &client::Options, _: &dyn Report) -> Result<Box<dyn Client>> {
        Ok((self.connect)(source))
    }

    fn pause(&self) {}

    fn work(&self, run: &Run<'_>) -> Result<()> {
        let staging = Arc::new(clear_staging(run)?);
        let policy = policy(run);
        let snapshot = policy.sends_deltas.then(|| run.repository.snapshot(&run.source.name)).transpose()?;
        let (in_flight, transfers) = (InFlight::new(policy), Transfers::default());
        let (hashing, to_hash) = bounded_by_number(UNBOUNDED);
        let (jobs, to_fetch) = bounded_by_number(UNBOUNDED);
        let (arrived, to_receive) = bounded_by_number(UNBOUNDED);
        let (changes, to_apply) = bounded_by_number(UNBOUNDED);
        let (postponed, to_resume) = unbounded();
        let fetcher = Fetcher { jobs, transfers: &transfers, staging: &staging, snapshot: snapshot.as_ref() };
        let routes = Routes { hashing: Some(hashing), fetcher: Some(fetcher), changes: Some(changes), postponed };
        let index = run.repository.index()?;
        let ledger = Ledger::of_one_thread(run.repository.index()?);
        let receiving = || Decider::new(run, &in_flight, routes.of_receiving());
        let mut workers = Workers {
            engine: self,
            run,
            in_flight: &in_flight,
            transfers: &transfers,
            to_hash,
            hash_jobs: Vec::new(),
            to_fetch,
            fetch_jobs: Vec::new(),
            arrived,
            to_receive,
            events: BTreeMap::new(),
            to_resume,
            postponed: Vec::new(),
            to_apply,
            changes: VecDeque::new(),
            hashing: Decider::new(run, &in_flight, routes.of_hashing()),
            resuming: Decider::new(run, &in_flight, routes.clone()),
            describing: Mutex::new(receiving()),
            inbox: Inbox::new(run, &staging, &transfers, receiving()),
            writer: BatchWriter::open(run, &staging, &in_flight, &routes.of_recording(), ledger)?,
            turns: 0,
        };
        let remembered = run.remembered(&index, &staging);
        let dispatch = Dispatch::new(run, &index, Decider::new(run, &in_flight, routes), &staging);
        let mut listing = Listing { dispatch, workers: &mut workers };
        let listed = list(run.client, run.source, run.repository.id(), &remembered, run.tally, &mut listing);
        let done = listed.and_then(|roots| listing.dispatch.finish(&roots)).and_then(|()| workers.finish());
        if let Err(error) = done {
            run.client.hang_up();
            in_flight.abort();
            // The batch writer still takes what its queue holds.
            workers.gather();
            let Workers { mut writer, changes, .. } = workers;
            let _ = changes.into_iter().try_for_each(|change| writer.add(change)).and_then(|()| writer.finish());
            return Err(error);
        }
        workers.writer.finish()?;
        staging.clear_partials().map_err(|errno| crate::error::Error::server("can't clear staging", errno.into()))
    }
}

struct Workers<'a> {
    engine: &'a TurnTaking<'a>,
    run: &'a Run<'a>,
    in_flight: &'a InFlight,
    transfers: &'a Transfers,
    to_hash: Receiver<HashJob>,
    hash_jobs: Vec<HashJob>,
    to_fetch: Receiver<FetchJob>,
    fetch_jobs: Vec<FetchJob>,
    arrived: Sender<FetchEvent>,
    to_receive: Receiver<FetchEvent>,
    // By file, each in order.
    events: BTreeMap<FileId, VecDeque<FetchEvent>>,
    to_resume: Unbounded<Option<Box<FileTask>>>,
    postponed: Vec<Box<FileTask>>,
    to_apply: Receiver<Change>,
    changes: VecDeque<Change>,
    hashing: Decider<'a>,
    resuming: Decider<'a>,
    describing: Mutex<Decider<'a>>,
    inbox: Inbox<'a>,
    writer: BatchWriter<'a, 'a>,
    turns: u64,
}

impl Workers<'_> {
    // Takes what the queues hold.
    fn gather(&mut self) {
        self.hash_jobs.extend(std::iter::from_fn(|| self.to_hash.try_recv().ok()));
        self.fetch_jobs.extend(std::iter::from_fn(|| self.to_fetch.try_recv().ok()));
        self.postponed.extend(self.to_resume.try_iter().flatten());
        self.changes.extend(std::iter::from_fn(|| self.to_apply.try_recv().ok()));
        while let Ok(event) = self.to_receive.try_recv() {
            self.events.entry(event.id()).or_default().push_back(event);
        }
    }

    /// Some turns, perhaps none.
    fn some_turns(&mut self) -> Result<()> {
        let turns = self.engine.random.below(4);
        (0..turns).try_for_each(|_| self.turn().map(drop))
    }

    /// Turns until every file is committed or given up, and the batch writer has every change.
    fn finish(&mut self) -> Result<()> {
        loop {
            self.gather();
            if self.in_flight.unfinished() == 0 && self.changes.is_empty() {
                return Ok(());
            }
            if !self.turn()? {
                self.writer.commit_if_open()?;
                self.gather();
                let is_stuck = self.in_flight.unfinished() > 0 && self.is_idle();
                assert!(!is_stuck, "{} files wait for ever", self.in_flight.unfinished());
            }
        }
    }

    fn is_idle(&self) -> bool {
        let has_jobs = !self.hash_jobs.is_empty() || !self.fetch_jobs.is_empty() || !self.postponed.is_empty();
        !has_jobs && self.events.is_empty() && self.changes.is_empty()
    }

    /// One worker's turn; false if none has anything to do.
    fn turn(&mut self) -> Result<bool> {
        self.turns += 1;
        if self.engine.killed_after.is_some_and(|after| self.turns > after) {
            Killed::now();
        }
        (self.engine.between)();
        self.gather();
        let random = self.engine.random;
        type Turn<'w> = fn(&mut Workers<'w>) -> Result<()>;
        let turns: [(bool, Turn<'_>); 6] = [
            (!self.hash_jobs.is_empty(), Workers::hash),
            (!self.fetch_jobs.is_empty(), Workers::fetch),
            (!self.events.is_empty(), Workers::receive),
            (!self.postponed.is_empty(), Workers::resume),
            (!self.changes.is_empty(), Workers::apply),
            (random.once_in(8), |workers| workers.writer.commit_if_open()),
        ];
        let possible: Vec<Turn<'_>> =
            turns.iter().filter(|(is_possible, _)| *is_possible).map(|(_, turn)| *turn).collect();
        if possible.is_empty() {
            return Ok(false);
        }
        random.pick(&possible)(self).map(|()| true)
    }

    fn hash(&mut self) -> Result<()> {
        let (sender, jobs) = bounded_by_number(1);
        let _ = sender.send(self.engine.random.take(&mut self.hash_jobs));
        drop(sender);
        let hashing = &mut self.hashing;
        self.run.client.hash(&self.run.key, &jobs, &mut |id, outcome| hashing.report(event(id, outcome)))
    }

    fn fetch(&mut self) -> Result<()> {
        let (sender, jobs) = bounded_by_number(1);
        let _ = sender.send(self.engine.random.take(&mut self.fetch_jobs));
        drop(sender);
        let (describing, transfers) = (&self.describing, self.transfers);
        let asks: &IsWanted<'_> = &|id, hash, is_in_basis| is_wanted(describing, transfers, id, hash, is_in_basis);
        self.run.client.fetch(Fetch { jobs: &jobs, events: &self.arrived, is_wanted: asks, expects_many: false })
    }

    fn receive(&mut self) -> Result<()> {
        let ids: Vec<FileId> = self.events.keys().copied().collect();
        let id = *self.engine.random.pick(&ids);
        let queue = self.events.get_mut(&id).expect("the file has events");
        let event = queue.pop_front().expect("no queue is empty");
        if queue.is_empty() {
            self.events.remove(&id);
        }
        self.inbox.take(event)
    }

    fn resume(&mut self) -> Result<()> {
        let file = self.engine.random.take(&mut self.postponed);
        self.resuming.report(Event::Resumed(file))
    }

    fn apply(&mut self) -> Result<()> {
        self.changes.pop_front().map_or(Ok(()), |change| self.writer.add(change))
    }
}

/// The listing, with turns of the workers between its steps.
struct Listing<'l, 'a> {
    dispatch: Dispatch<'a>,
    workers: &'l mut Workers<'a>,
}

impl Steps for Listing<'_, '_> {
    fn begin(&mut self, roots: &[AbsPath]) -> Result<()> {
        self.dispatch.begin(roots)
    }

    fn step(&mut self, directory: &Arc<Directory>, step: Step) -> Result<()> {
        self.dispatch.step(directory, step)?;
        self.workers.some_turns()
    }

    fn moved(&mut self, directory: &Arc<Directory>, entry: Entry, hash: Option<Hash>) -> Result<()> {
        self.dispatch.moved(directory, entry, hash)?;
        self.workers.some_turns()
    }

    fn present(&mut self, entries: u64) {
        self.dispatch.present(entries);
    }

    fn mount(&mut self) {
        self.dispatch.mount();
    }

    fn unmounted(&mut self, path: &AbsPath) {
        self.dispatch.unmounted(path);
    }

    fn planned(&mut self, directory: Arc<Directory>) -> Result<()> {
        self.dispatch.planned(directory)?;
        self.workers.some_turns()
    }

    fn unreadable(&mut self, path: &AbsPath) -> Result<()> {
        self.dispatch.unreadable(path)
    }

    fn read_content(&self) -> bool {
        self.dispatch.read_content()
    }
}
