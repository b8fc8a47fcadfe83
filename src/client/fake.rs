//! A client in memory, for tests: deterministic, without threads and without real time.
//!
//! A [`Machine`] holds the tree, the virtual clock and the faults; a [`FakeClient`] is one connection to it. Every call handles its
//! jobs one after the other on the caller's thread: with a queue that is closed, all events of a job were sent when it returns. The
//! queue for events must have room for them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    AccountLists, ByteCounts, Capabilities, Client, Fetch, HashJob, HashSink, ListRequest, ListSink, MachineId,
    RestoreOptions, RestoreRefused, RestoreSession, connection_lost,
};
use crate::entry::Hash;
use crate::error::Result;
use crate::queue::Receiver;
use crate::source::ClientKind;

mod faults;
mod fetch;
mod hash;
mod list;
mod machine;
mod restore;
#[cfg(test)]
mod tests;

pub use faults::{Call, Fault, FaultKind, Faults};
pub use machine::{Lie, Machine, Node, State};

/// A connection to a machine in memory.
#[derive(Debug)]
pub struct FakeClient {
    machine: Arc<Machine>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// What [`Client::hashing_is_cheaper`] returns; then small files with a basis are fetched as deltas, too.
    pub hashing_is_cheaper: bool,
    /// Several channels send small files: what [`FetchEvent::Full`](super::FetchEvent::Full) says of that.
    pub may_repeat: bool,
    /// Files with a basis of which little has changed are sent before their hash is known.
    pub speculates: bool,
    /// Entries of one page of a listing.
    pub page_entries: usize,
    // Contents that were sent.
    sent: Mutex<HashSet<Hash>>,
    is_lost: AtomicBool,
    has_stalled: AtomicBool,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

impl FakeClient {
    /// Connects to a machine, with every capability.
    pub fn connect(machine: &Arc<Machine>) -> FakeClient {
        let capabilities = Capabilities {
            hashes: true,
            sends_small_files: true,
            sends_deltas: true,
            nanoseconds: true,
            inodes: true,
            attributes: true,
        };
        FakeClient {
            machine: Arc::clone(machine),
            capabilities,
            hashing_is_cheaper: false,
            may_repeat: false,
            speculates: false,
            page_entries: super::list::MAX_PAGE_ENTRIES,
            sent: Mutex::default(),
            is_lost: AtomicBool::new(false),
            has_stalled: AtomicBool::new(false),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        }
    }

    /// The machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.machine.state()
    }

    fn sent(&self) -> MutexGuard<'_, HashSet<Hash>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Stands before each event that carries so many bytes of content: fails if something goes wrong instead.
    fn event(&self, call: Call, bytes: usize) -> Result<()> {
        if self.is_lost.load(Ordering::Relaxed) {
            return Err(connection_lost());
        }
        let mut state = self.state();
        state.spend(bytes);
        self.received_bytes.fetch_add(bytes as u64 + 1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(1, Ordering::Relaxed);
        let Some(kind) = state.faults.next(call) else { return Ok(()) };
        drop(state);
        if kind == FaultKind::Stall {
            self.has_stalled.store(true, Ordering::Relaxed);
        }
        if matches!(kind, FaultKind::Disconnect | FaultKind::Stall) {
            self.hang_up();
        }
        Err(kind.error())
    }
}

impl Client for FakeClient {
    fn kind(&self) -> ClientKind {
        ClientKind::Helper
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn machine(&self) -> Option<MachineId> {
        self.state().id
    }

    fn is_this_machine(&self) -> bool {
        false
    }

    fn accounts(&self) -> Result<AccountLists> {
        self.event(Call::Accounts, 0)?;
        let (users, groups) = ("root:x:0:0::/root:/bin/sh\n".to_owned(), "root:x:0:\n".to_owned());
        Ok(AccountLists { users, groups })
    }

    fn list(&self, request: &ListRequest, sink: &mut dyn ListSink) -> Result<()> {
        list::list(self, request, sink)
    }

    fn hash(&self, key: &Hash, jobs: &Receiver<HashJob>, sink: &mut (dyn HashSink + Send)) -> Result<()> {
        jobs.iter().try_for_each(|job| {
            self.event(Call::Hash, 0)?;
            let outcome = hash::outcome(&self.state(), key, &job);
            sink.hashed(job.id, outcome)
        })
    }

    fn fetch(&self, fetch: Fetch<'_>) -> Result<()> {
        fetch::fetch(self, &fetch)
    }

    fn restore(&self, options: &RestoreOptions) -> std::result::Result<Box<dyn RestoreSession + '_>, RestoreRefused> {
        Ok(Box::new(restore::Session::open(self, options)?))
    }

    fn hashing_is_cheaper(&self) -> bool {
        self.hashing_is_cheaper
    }

    fn limitation(&self) -> Option<String> {
        None
    }

    fn traffic(&self) -> ByteCounts {
        ByteCounts {
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
        }
    }

    fn progress(&self, _bytes: u64) {}

    fn has_stalled(&self) -> bool {
        self.has_stalled.load(Ordering::Relaxed)
    }

    fn hang_up(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
    }

    fn disconnect(self: Box<Self>) {
        self.hang_up();
    }
}
