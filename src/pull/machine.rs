//! Decides what happens to each file of a run: a state machine without threads, locks, clocks, files and sockets.
//!
//! Workers report [`Event`]s, and carry out the [`Order`]s that [`Machine::handle`] adds. A file is listed, and then:
//!
//! ```text
//! Listed    -> (linked)    it is empty, or another name of its inode is in place
//!           -> Waiting     another name of its inode is under way
//!           -> Hashing     the server may have its content, or has a part of it from an earlier run
//!           -> Sampling    this run has met a file of its size, and samples may tell them apart
//!           -> Fetching    the server can't have its content, or fetching costs less than hashing
//! Sampling  -> Fetching    no file of its size has its sample
//!           -> Hashing     another one has, or may have
//! Hashing   -> (linked)    its old version has the content, or a file in place
//!           -> Waiting     the content is under way
//!           -> Proving     this source has not sent the content: does the client have what another one has sent?
//!           -> Fetching    there is nothing to prove, or the file has changed
//! Proving   -> (linked)    the client has shown that it has the content
//!           -> Fetching    it has not
//!           -> Received    it has not, but it has sent the content already
//! Fetching  -> Received    it is in staging, or small and in memory
//!           -> (linked)    the client reports a content that is in place
//!           -> Waiting     the client reports a content that is under way
//!           -> Hashing     the client reports a content that only another source has sent
//!           -> Proving     a small file was received, and another source may have its content
//!           -> Missing     its basis can't be read, or the result is not what the client has reported
//! Waiting   -> (linked)    its leader is done, and has the same content
//!           -> as Hashing  its leader has failed or has another content; the client has hashed this file before
//!           -> as Listed   the same, and the client has not hashed it
//! (linked)  -> Missing     no file on the server proves to have the content
//! Missing   -> Fetching    in full
//! ```
//!
//! A file is given up if it is too sparse or too large to read, if the client can't read it while it is sampled, hashed or
//! fetched, or if the server can't store it. The states of files that are about to be decided about are left out.

use std::collections::HashMap;
use std::sync::Arc;

use self::file::{Fetching, State};
use self::policy::is_little_and_changed;
use self::size_sampling::{Meeting, Sizes};
use self::waiting::{Lead, LinkedInode, Waiting};
use super::applying::Change;
use crate::client::{HashJob, HashKind, ReadError, protocol_violation};
use crate::entry::{Entry, Hash, Kind};
use crate::error::{Error, Kind as ErrorKind, Result};

mod event;
mod file;
mod policy;
mod size_sampling;
#[cfg(test)]
mod tests;
mod waiting;

pub use event::{BasisVersion, Event, FetchOrder, FileId, Order};
pub use file::{Claim, FileTask, MAX_HOLE_BYTES, Possession, Reading, SnapshotPath, TOO_SPARSE, refusal};
pub use policy::Policy;
pub use waiting::WaitKey;

/// BLAKE3 of no bytes.
pub fn hash_of_nothing() -> Hash {
    *blake3::hash(b"").as_bytes()
}

/// What the machine asks of the index and the client while it handles an event.
pub trait Lookup {
    /// True if some version of any source has this size.
    fn has_size(&self, size: u64) -> Result<bool>;
    /// True if this source has sent this content, and the index has it.
    fn has_content(&self, hash: &Hash) -> Result<bool>;
    /// True if any source has sent this content.
    fn has_foreign_content(&self, hash: &Hash) -> Result<bool>;
    /// True if the connection is so slow that a hash costs much less than a small file.
    fn is_hashing_cheaper(&self) -> bool;
}

/// The state machine of one run.
pub struct Machine {
    policy: Policy,
    hashing: Numbered,
    fetching: Numbered,
    waiting: Waiting,
    sizes: Sizes,
    // Files that are not committed or given up.
    unfinished: usize,
}

impl Machine {
    /// A machine that knows no file.
    pub fn new(policy: Policy) -> Machine {
        Machine {
            policy,
            hashing: Numbered::default(),
            fetching: Numbered::default(),
            waiting: Waiting::default(),
            sizes: Sizes::default(),
            unfinished: 0,
        }
    }

    /// Bytes of memory of files that wait, or waited and are not yet decided about.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.bytes()
    }

    /// True if some file waits for another.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Files that are not committed or given up.
    pub fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// A file that is being fetched.
    pub fn fetched(&self, id: FileId) -> Option<&FileTask> {
        self.fetching.files.get(&id).map(|file| &**file)
    }

    /// Handles an event; adds what is to be done to `orders`. Fails if a lookup fails, and on an answer without a question.
    pub fn handle(&mut self, event: Event, lookup: &dyn Lookup, orders: &mut Vec<Order>) -> Result<()> {
        let mut step = Step { machine: self, lookup, orders };
        match event {
            Event::Listed(file) => {
                step.machine.unfinished += 1;
                step.listed(file)
            }
            Event::Moved { file, hash } => {
                step.machine.unfinished += 1;
                step.link(file, hash, None)
            }
            Event::Restated(file) => {
                step.machine.unfinished += 1;
                step.record(Change::Restated(file))
            }
            Event::Hashed { id, claim } => step.hashed(id, claim),
            Event::Sampled { id, sample, of_first } => step.sampled(id, sample, of_first),
            Event::ChangedBeforeHash { id } => {
                let file = step.machine.hashing.take(id)?;
                step.fetch(file, Fetching::Full)
            }
            Event::HashFailed { id, error } => {
                let file = step.machine.hashing.take(id)?;
                step.order(Order::GiveUp(file, error))
            }
            Event::FetchFailed { id, error } => {
                let file = step.machine.fetching.take(id)?;
                step.order(Order::GiveUp(file, error))
            }
            Event::Described { id, hash, is_in_basis } => step.described(id, hash, is_in_basis),
            Event::Repeated { id, hash } => {
                let file = step.machine.fetching.take(id)?;
                step.postpone(file, State::Claimed(Claim { hash, proof: None }))
            }
            Event::ReceivedSmall { id, reading, may_repeat } => step.received_small(id, reading, may_repeat),
            Event::Received { id, reading, claimed, is_resumed, is_speculative } => {
                step.received(id, reading, claimed, is_resumed, is_speculative)
            }
            Event::BasisLost { id } => {
                let file = step.machine.fetching.take(id)?;
                step.postpone(file, State::Missing)
            }
            Event::Proved { file, possession } => step.proved(file, possession),
            Event::NotFound(file) => step.postpone(file, State::Missing),
            Event::Resumed(file) => {
                step.machine.waiting.resume(&file);
                step.resumed(file)
            }
            Event::Finished { leads, hash, path } => {
                step.machine.unfinished = step.machine.unfinished.checked_sub(1).ok_or_else(broken)?;
                // The memory of released files stays counted until they are resumed.
                let released = step.machine.waiting.finish(leads, hash, path.as_ref());
                step.orders.extend(released.into_iter().map(Order::Postpone));
                Ok(())
            }
        }
    }
}

fn unasked() -> Error {
    protocol_violation("an answer came that nobody asked for")
}

/// The error of a worker that reports what no order asked for, or gets an order that it can't carry out.
pub fn broken() -> Error {
    Error::new(ErrorKind::Failed, "a part of the program broke").hint("please report this")
}

// Files that the client was asked about, by number.
#[derive(Default)]
struct Numbered {
    files: HashMap<FileId, Box<FileTask>>,
    next: FileId,
}

impl Numbered {
    fn enter(&mut self, file: Box<FileTask>) -> FileId {
        let id = self.next;
        self.next += 1;
        self.files.insert(id, file);
        id
    }

    fn take(&mut self, id: FileId) -> Result<Box<FileTask>> {
        self.files.remove(&id).ok_or_else(unasked)
    }
}

// The handling of one event.
struct Step<'a> {
    machine: &'a mut Machine,
    lookup: &'a dyn Lookup,
    orders: &'a mut Vec<Order>,
}

impl Step<'_> {
    fn order(&mut self, order: Order) -> Result<()> {
        self.orders.push(order);
        Ok(())
    }

    fn record(&mut self, change: Change) -> Result<()> {
        self.order(Order::Record(change))
    }

    fn link(&mut self, file: Box<FileTask>, hash: Hash, possession: Option<Box<Possession>>) -> Result<()> {
        self.record(Change::Known { file, hash, possession })
    }

    fn postpone(&mut self, file: Box<FileTask>, state: State) -> Result<()> {
        self.machine.waiting.postpone(&file);
        self.order(Order::Postpone(file.with(state)))
    }

    fn listed(&mut self, file: Box<FileTask>) -> Result<()> {
        match (file.entry.kind, file.entry.size) {
            (Kind::File, 0) => self.link(file, hash_of_nothing(), None),
            (Kind::File, _) => match refusal(&file.entry) {
                Some(why) => self.order(Order::GiveUp(file, ReadError::Refused(why.to_owned()))),
                None => self.content_listed(file),
            },
            _ => self.record(Change::Plain(file)),
        }
    }

    fn content_listed(&mut self, mut file: Box<FileTask>) -> Result<()> {
        if let Some(inode) = LinkedInode::of(&file.entry) {
            file = match self.machine.waiting.lead_inode(file, inode) {
                Lead::Leads(file) => file,
                Lead::Waits => return Ok(()),
                Lead::InPlace(file, hash) => return self.link(file, hash, None),
            };
        }
        let policy = &self.machine.policy;
        // The hash of the whole file shows whether the part is its beginning.
        if file.is_begun {
            self.machine.sizes.meet_other(file.entry.size);
            return self.hash(file);
        }
        if !policy.client_hashes {
            return if policy.is_like_rebuilt(&file) { self.hash(file) } else { self.fetch_usual(file) };
        }
        if policy.is_delta_first(&file) {
            self.machine.sizes.meet_other(file.entry.size);
            return self.fetch_usual(file);
        }
        if policy.is_sent_at_little_cost(&file) {
            let is_at_once = policy.begins_empty || is_little_and_changed(&file) && !self.lookup.is_hashing_cheaper();
            let is_hashed = !is_at_once && self.lookup.has_size(file.entry.size)?;
            return if is_hashed { self.hash(file) } else { self.fetch(file, Fetching::Dedup) };
        }
        self.large_listed(file)
    }

    fn large_listed(&mut self, mut file: Box<FileTask>) -> Result<()> {
        let Machine { policy, sizes, waiting, .. } = &mut *self.machine;
        let size = file.entry.size;
        // This run has met all sizes of an index that was empty. Other sources may fill it at the same time: for a large file
        // that is worth a lookup.
        let has_size = || Ok((!policy.is_small(&file) || !policy.begins_empty) && self.lookup.has_size(size)?);
        match sizes.meet(file.path(), size, has_size)? {
            Meeting::First => {
                waiting.lead(&mut file, WaitKey::Size(size));
                self.fetch_usual(file)
            }
            Meeting::Sample(first) => self.hash_as(file.with(State::Sampling), HashKind::Sample { other: first }),
            Meeting::Hash => self.hash(file),
        }
    }

    fn hash(&mut self, file: Box<FileTask>) -> Result<()> {
        let kind = if self.machine.policy.has_others { HashKind::Proof } else { HashKind::Plain };
        self.hash_as(file.with(State::Hashing), kind)
    }

    fn hash_as(&mut self, file: Box<FileTask>, kind: HashKind) -> Result<()> {
        let (path, &Entry { size, mtime, uid, .. }) = (file.path(), &file.entry);
        let id = self.machine.hashing.enter(file);
        self.order(Order::Hash(HashJob { id, path, size, mtime, uid, kind }))
    }

    fn fetch_usual(&mut self, file: Box<FileTask>) -> Result<()> {
        self.fetch(file, Fetching::Delta)
    }

    fn fetch(&mut self, file: Box<FileTask>, how: Fetching) -> Result<()> {
        let (path, &Entry { size, mtime, uid, .. }) = (file.path(), &file.entry);
        let data = file.entry.attributes.as_ref().and_then(|attributes| attributes.data.as_deref()).map(Arc::from);
        let basis = self.machine.policy.basis_of(&file).filter(|_| how != Fetching::Full);
        let basis = basis.map(|old| BasisVersion {
            directory: file.directory.path.clone(),
            name: old.entry.name.clone(),
            size: old.entry.size,
        });
        let (is_dedup, may_resume) = (how == Fetching::Dedup, file.is_claimed());
        let id = self.machine.fetching.enter(file.with(State::Fetching(how)));
        self.order(Order::Fetch(FetchOrder { id, path, size, mtime, uid, data, is_dedup, basis, may_resume }))
    }

    fn sampled(&mut self, id: FileId, sample: u64, of_first: Option<u64>) -> Result<()> {
        let mut file = self.machine.hashing.take(id)?;
        if file.state != State::Sampling {
            return Err(protocol_violation("a sample came that nobody asked for"));
        }
        let size = file.entry.size;
        file.sample = Some(sample);
        if self.machine.sizes.is_other(size, sample, of_first) {
            self.machine.waiting.lead(&mut file, WaitKey::Sample(size, sample));
            self.fetch_usual(file)
        } else {
            self.postpone(file, State::Unproven)
        }
    }

    fn hashed(&mut self, id: FileId, claim: Claim) -> Result<()> {
        let file = self.machine.hashing.take(id)?;
        self.claimed(file, claim)
    }

    fn claimed(&mut self, file: Box<FileTask>, claim: Claim) -> Result<()> {
        // A file with bytes has another hash. Without a basis the client can't report one again.
        if claim.hash == hash_of_nothing() {
            return self.fetch(file, Fetching::Full);
        }
        if file.old.as_ref().is_some_and(|old| old.hash == Some(claim.hash)) {
            return self.link(file, claim.hash, None);
        }
        let Some(file) = self.lead_claim(file, claim)? else { return Ok(()) };
        if self.machine.policy.has_others && claim.proof.is_some() {
            let file = file.with(State::Proving { claim, received: None });
            self.order(Order::Prove(file, claim))
        } else {
            self.fetch_usual(file)
        }
    }

    // The file, if it leads the content now; otherwise it waits, or is linked.
    fn lead_claim(&mut self, file: Box<FileTask>, claim: Claim) -> Result<Option<Box<FileTask>>> {
        let Some(mut file) = self.machine.waiting.unless_led(file, claim) else { return Ok(None) };
        // No commit can fall between the two: it is reported as an event of its own.
        if self.lookup.has_content(&claim.hash)? {
            return self.link(file, claim.hash, None).map(|()| None);
        }
        self.machine.waiting.lead(&mut file, WaitKey::Hash(claim.hash));
        Ok(Some(file))
    }

    fn proved(&mut self, file: Box<FileTask>, possession: Option<Box<Possession>>) -> Result<()> {
        let State::Proving { claim, received } = file.state else { return Err(broken()) };
        match (possession, received) {
            (Some(possession), _) => self.link(file, claim.hash, Some(possession)),
            (None, Some(reading)) => self.keep_small(file, reading),
            (None, None) => self.fetch_usual(file),
        }
    }

    // A file that is still wanted keeps its number; the fetch of any other ends.
    fn described(&mut self, id: FileId, hash: Hash, is_in_basis: bool) -> Result<()> {
        let file = self.machine.fetching.take(id)?;
        if let Some(file) = self.wanted(file, hash, is_in_basis)? {
            self.machine.fetching.files.insert(id, file);
        }
        Ok(())
    }

    // A file that was fetched before its hash was known, if it is still wanted.
    fn wanted(&mut self, mut file: Box<FileTask>, hash: Hash, is_in_basis: bool) -> Result<Option<Box<FileTask>>> {
        // A file with bytes has another hash. A file that was hashed before was decided about then.
        if hash == hash_of_nothing() || !self.machine.policy.client_hashes || file.is_claimed() {
            return Ok(Some(file));
        }
        if file.old.as_ref().is_some_and(|old| old.hash == Some(hash)) {
            if is_in_basis {
                return self.link(file, hash, None).map(|()| None);
            }
            // The basis lacks what it should have.
            file.is_basis_corrupt = true;
            return Ok(Some(file));
        }
        let is_foreign = self.machine.policy.has_others
            && !self.lookup.has_content(&hash)?
            && self.lookup.has_foreign_content(&hash)?;
        if is_foreign {
            return self.postpone(file, State::Unproven).map(|()| None);
        }
        self.lead_claim(file, Claim { hash, proof: None })
    }

    fn received_small(&mut self, id: FileId, reading: Reading, may_repeat: bool) -> Result<()> {
        let file = self.machine.fetching.take(id)?;
        let policy = &self.machine.policy;
        // The server may have the content of a file that was not hashed: in an older version, or from another channel. What is
        // not of the listed size is kept as it was received.
        let is_known = (may_repeat || file.old.is_some() && policy.links) && reading.size == file.entry.size;
        if file.state != State::Fetching(Fetching::Dedup) || !is_known {
            return self.keep_small(file, reading);
        }
        let has_others = policy.has_others;
        let claim = Claim { hash: reading.hash, proof: None };
        let Some(file) = self.lead_claim(file, claim)? else { return Ok(()) };
        if has_others {
            let file = file.with(State::Proving { claim, received: Some(reading) });
            self.order(Order::Prove(file, claim))
        } else {
            self.keep_small(file, reading)
        }
    }

    // Files with the same content that are hashed from now on wait for it.
    fn keep_small(&mut self, mut file: Box<FileTask>, reading: Reading) -> Result<()> {
        self.machine.waiting.lead(&mut file, WaitKey::Hash(reading.hash));
        self.keep(file, reading)
    }

    fn received(
        &mut self,
        id: FileId,
        reading: Reading,
        claimed: Option<Hash>,
        is_resumed: bool,
        is_speculative: bool,
    ) -> Result<()> {
        let file = self.machine.fetching.take(id)?;
        let is_other = claimed.is_some_and(|claimed| claimed != reading.hash);
        let is_other_part = is_resumed && !file.is_as_claimed(&reading.hash);
        if is_other || is_other_part {
            // The basis is corrupt, or the part is one of another file.
            return self.postpone(file, State::Missing);
        }
        let file = if is_speculative { self.wanted(file, reading.hash, false)? } else { Some(file) };
        match file {
            Some(file) => self.keep(file, reading),
            None => Ok(()),
        }
    }

    // What was read counts, not what was listed. Its ctime is unknown then, so the next run reads the file again.
    fn keep(&mut self, mut file: Box<FileTask>, reading: Reading) -> Result<()> {
        let Reading { hash, size, state, is_consistent } = reading;
        let is_unchanged = state.size == file.entry.size && size == file.entry.size && state.mtime == file.entry.mtime;
        (file.entry.size, file.entry.mtime) = (size, state.mtime);
        let is_consistent = is_consistent && (file.is_as_claimed(&hash) || !is_unchanged);
        let as_listed = is_unchanged && is_consistent;
        let file = file.with(State::Received { as_listed });
        self.order(Order::Keep { file, is_consistent })
    }

    fn resumed(&mut self, file: Box<FileTask>) -> Result<()> {
        match file.state {
            State::Listed => self.content_listed(file),
            State::Claimed(claim) => self.claimed(file, claim),
            State::Unproven => self.hash(file),
            State::Missing => self.fetch(file, Fetching::Full),
            State::Found(hash) => self.link(file, hash, None),
            _ => Err(broken()),
        }
    }
}
