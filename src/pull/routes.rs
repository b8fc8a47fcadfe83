//! Carries out the state machine's orders: hands files to the workers that hash, fetch and record them.
//!
//! Bounded queues lead from listing and deciding to hashing, from there to fetching and receiving, and from everywhere to
//! the batch writer; the only way back is the unbounded queue of postponed files. So no two workers wait for each other.

use std::cell::{Cell, OnceCell};

use crossbeam_channel::{Receiver as Postponed, Sender as Unbounded};

use super::Run;
use super::applying::Change;
use super::fetching::Fetcher;
use super::in_flight::InFlight;
use super::machine::{Claim, Event, FileTask, Lookup, Order, Possession, broken};
use super::pipeline::aborted;
use super::possession::{proof_of, proven};
use crate::client::{HashJob, ReadError};
use crate::entry::Hash;
use crate::error::Result;
use crate::queue::Sender;
use crate::repository::index::Index;

/// The queues that a worker hands files to.
#[derive(Clone)]
pub struct Routes<'a> {
    /// Queue of files to hash.
    pub hashing: Option<Sender<HashJob>>,
    /// Sends fetch jobs.
    pub fetcher: Option<Fetcher<'a>>,
    /// To the batch writer.
    pub changes: Option<Sender<Change>>,
    /// To be decided about again; `None` ends that.
    pub postponed: Unbounded<Option<Box<FileTask>>>,
}

impl<'a> Routes<'a> {
    /// The routes of the worker that receives hashes.
    pub fn of_hashing(&self) -> Routes<'a> {
        Routes { hashing: None, ..self.clone() }
    }

    /// The routes of a worker that receives files.
    pub fn of_receiving(&self) -> Routes<'a> {
        Routes { fetcher: None, ..self.of_hashing() }
    }

    /// The routes of the batch writer.
    pub fn of_recording(&self) -> Routes<'a> {
        Routes { changes: None, ..self.of_receiving() }
    }

    /// Hands a change to the batch writer.
    pub fn record(&self, change: Change) -> Result<()> {
        self.changes.as_ref().ok_or_else(broken)?.send(change).map_err(aborted)
    }
}

/// Decides again about postponed files, until their end.
pub fn resume(postponed: &Postponed<Option<Box<FileTask>>>, mut decider: Decider<'_>) -> Result<()> {
    postponed.iter().map_while(|file| file).try_for_each(|file| decider.report(Event::Resumed(file)))
}

/// A received file that is to be kept.
pub struct Kept {
    /// The file.
    pub file: Box<FileTask>,
    /// False if it kept changing while it was read.
    pub is_consistent: bool,
}

/// One worker's access to the state machine.
pub struct Decider<'a> {
    run: &'a Run<'a>,
    in_flight: &'a InFlight,
    /// Where its files go.
    pub routes: Routes<'a>,
    lookup: RunLookup<'a>,
    // Reused between calls.
    orders: Vec<Order>,
}

impl<'a> Decider<'a> {
    /// With an index of its own, which is opened when it is needed.
    pub fn new(run: &'a Run<'a>, in_flight: &'a InFlight, routes: Routes<'a>) -> Decider<'a> {
        Decider {
            run,
            in_flight,
            routes,
            lookup: RunLookup { run, index: OnceCell::new(), size: Cell::new(None) },
            orders: Vec::new(),
        }
    }

    /// The files that are under way.
    pub fn in_flight(&self) -> &'a InFlight {
        self.in_flight
    }

    /// Reports an event, and carries out what follows.
    pub fn report(&mut self, event: Event) -> Result<()> {
        match self.report_received(event, None)? {
            Some(_) => Err(broken()),
            None => Ok(()),
        }
    }

    /// Reports an entry that is new, changed or touched.
    pub fn list(&mut self, mut file: Box<FileTask>) -> Result<()> {
        file.is_begun = self.routes.fetcher.as_ref().is_some_and(|fetcher| fetcher.has_part(&file));
        let size = file.entry.size;
        // Before the machine is locked: the other workers do not wait for this lookup.
        if self.in_flight.policy.looks_up_size(&file) {
            self.lookup.size.set(Some((size, self.lookup.index()?.knows_size(size)?)));
        }
        self.report(Event::Listed(file))
    }

    /// Like [`report`](Decider::report), for a received file; `bytes` is its content if it is in memory. Returns the file if it is
    /// to be kept.
    pub fn report_received(&mut self, event: Event, bytes: Option<&[u8]>) -> Result<Option<Kept>> {
        let mut orders = std::mem::take(&mut self.orders);
        self.in_flight.handle(event, &self.lookup, &mut orders)?;
        orders.reverse();
        let mut kept = None;
        while let Some(order) = orders.pop() {
            match order {
                Order::Keep { file, is_consistent } => kept = Some(Kept { file, is_consistent }),
                Order::Prove(file, claim) => {
                    let possession = self.prove(&file, claim, bytes)?.map(Box::new);
                    self.in_flight.handle(Event::Proved { file, possession }, &self.lookup, &mut orders)?;
                }
                order => self.carry_out(order)?,
            }
        }
        self.orders = orders;
        Ok(kept)
    }

    fn carry_out(&self, order: Order) -> Result<()> {
        match order {
            Order::Hash(order) => self.routes.hashing.as_ref().ok_or_else(broken)?.send(order).map_err(aborted),
            Order::Fetch(order) => self.routes.fetcher.as_ref().ok_or_else(broken)?.fetch(order),
            Order::Record(change) => self.routes.record(change),
            Order::GiveUp(file, error) => self.give_up(file, &error),
            Order::Postpone(file) => {
                // Nobody takes it when the run is being broken off; what was received until then is still recorded.
                let _ = self.routes.postponed.send(Some(file));
                Ok(())
            }
            Order::Keep { .. } | Order::Prove(..) => Err(broken()),
        }
    }

    fn prove(&self, file: &FileTask, claim: Claim, bytes: Option<&[u8]>) -> Result<Option<Possession>> {
        let proof = claim.proof.or_else(|| bytes.map(|bytes| proof_of(self.run, bytes)));
        proven(self.run, self.lookup.index()?, file, Claim { proof, ..claim })
    }

    fn give_up(&self, file: Box<FileTask>, error: &ReadError) -> Result<()> {
        let path = file.path();
        let has_vanished = *error == ReadError::Vanished;
        if has_vanished {
            self.run.tally.notice(format_args!("`{path}` vanished before it was read"));
            self.run.tally.progress.skipped.add(1);
        } else {
            self.run.tally.unread(format_args!("can't read `{path}` on the client: {error}"));
        }
        self.routes.record(Change::Unread { file, has_vanished })
    }
}

/// Answers from the index of a run.
struct RunLookup<'a> {
    run: &'a Run<'a>,
    index: OnceCell<Index>,
    // Whether there is a version of this size, looked up before the machine is asked.
    size: Cell<Option<(u64, bool)>>,
}

impl RunLookup<'_> {
    fn index(&self) -> Result<&Index> {
        match self.index.get() {
            Some(index) => Ok(index),
            None => {
                let index = self.run.repository.index()?;
                Ok(self.index.get_or_init(|| index))
            }
        }
    }
}

impl Lookup for RunLookup<'_> {
    fn has_size(&self, size: u64) -> Result<bool> {
        match self.size.take() {
            Some((known, has_size)) if known == size => Ok(has_size),
            _ => self.index()?.knows_size(size),
        }
    }

    fn has_content(&self, hash: &Hash) -> Result<bool> {
        self.index()?.source_sent(self.run.source_id, hash)
    }

    fn has_foreign_content(&self, hash: &Hash) -> Result<bool> {
        Ok(!self.index()?.versions_with(hash, 1)?.is_empty())
    }

    fn is_hashing_cheaper(&self) -> bool {
        self.run.client.hashing_is_cheaper()
    }
}
