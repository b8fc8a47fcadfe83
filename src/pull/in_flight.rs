//! The state machine as the workers of a run share it, and their waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::machine::{Event, FileId, FileTask, Lookup, Machine, Order, Policy};
use crate::error::Result;

// Bytes of memory that waiting files may take; the listing pauses above that.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// The files that are under way.
pub struct InFlight {
    /// What the run decides by.
    pub policy: Policy,
    shared: Mutex<Shared>,
    // Files have ended, or memory was freed.
    changed: Condvar,
    // Whether the listing may have to wait: mostly not, so that it need not take the lock.
    may_wait: AtomicBool,
}

struct Shared {
    machine: Machine,
    // Only what is under way is waited for.
    is_ending: bool,
    is_aborted: bool,
}

impl InFlight {
    /// No file is under way.
    pub fn new(policy: Policy) -> InFlight {
        let shared = Shared { machine: Machine::new(policy.clone()), is_ending: false, is_aborted: false };
        InFlight { policy, shared: Mutex::new(shared), changed: Condvar::new(), may_wait: AtomicBool::new(false) }
    }

    /// Has the machine handle an event; what is to be done is added to `orders`.
    pub fn handle(&self, event: Event, lookup: &dyn Lookup, orders: &mut Vec<Order>) -> Result<()> {
        let mut shared = self.lock();
        let (was_full, was_busy) = (shared.is_full(), shared.machine.unfinished() > 0);
        shared.machine.handle(event, lookup, orders)?;
        if shared.is_full() != was_full {
            self.may_wait.store(!was_full || shared.is_aborted, Ordering::Relaxed);
        }
        let wakes = was_full && !shared.is_full() || was_busy && shared.machine.unfinished() == 0;
        drop(shared);
        if wakes {
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Returns what `look` says of a file that is being fetched; `None` if there is no such file.
    pub fn look_up<T>(&self, id: FileId, look: impl FnOnce(&FileTask) -> T) -> Option<T> {
        self.lock().machine.fetched(id).map(look)
    }

    /// Blocks until the waiting files are below their limit; false if the run is aborted.
    pub fn wait_for_room(&self) -> bool {
        if !self.may_wait.load(Ordering::Relaxed) {
            return true;
        }
        let is_full = |shared: &mut Shared| shared.is_full() && !shared.is_aborted;
        !self.changed.wait_while(self.lock(), is_full).unwrap_or_else(PoisonError::into_inner).is_aborted
    }

    /// True if the listing waits for room.
    pub fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    /// True if a file waits for another one, or the run for its last files.
    pub fn is_awaited(&self) -> bool {
        let shared = self.lock();
        shared.is_ending || shared.machine.has_waiting()
    }

    /// Files that are not committed or given up.
    #[cfg(test)]
    pub fn unfinished(&self) -> usize {
        self.lock().machine.unfinished()
    }

    /// Waits until every file is committed or given up, or the run is aborted.
    pub fn wait_until_finished(&self) {
        let mut shared = self.lock();
        shared.is_ending = true;
        let is_busy = |shared: &mut Shared| shared.machine.unfinished() > 0 && !shared.is_aborted;
        drop(self.changed.wait_while(shared, is_busy).unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends every wait: what is waited for will not happen.
    pub fn abort(&self) {
        let mut shared = self.lock();
        shared.is_aborted = true;
        self.may_wait.store(true, Ordering::Relaxed);
        drop(shared);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn is_full(&self) -> bool {
        self.machine.waiting_bytes() > MAX_WAITING_BYTES
    }
}
