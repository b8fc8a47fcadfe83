//! Asks the client for files.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::arriving::{Part, Target};
use super::in_flight::InFlight;
use super::machine::{BasisVersion, FetchOrder, FileId, FileTask};
use super::pipeline::aborted;
use crate::client::{BasisRef, FetchJob};
use crate::entry::Time;
use crate::error::Result;
use crate::path::AbsPath;
use crate::queue::Sender;
use crate::repository::dirs::Dir;
use crate::repository::staging::{Staging, partial_name};

// Smallest file that a later run resumes when it was cut off, bytes.
const MIN_RESUMED_BYTES: u64 = 1 << 20;

/// Parts and bases of the files that are being fetched, for the receivers.
#[derive(Debug, Default)]
pub struct Transfers {
    transfers: Mutex<HashMap<FileId, Transfer>>,
    // Entries: none in most runs, so that no lock is needed.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Transfer {
    // The part that an earlier run has received, or that a later one may resume.
    part: Option<Part>,
    basis: Option<BasisRef>,
}

impl Transfers {
    /// The version that a delta is computed against.
    pub fn basis(&self, id: FileId) -> Option<BasisRef> {
        if self.is_empty() { None } else { self.lock().get(&id).and_then(|transfer| transfer.basis.clone()) }
    }

    /// Where a file is written.
    pub fn target(&self, id: FileId, in_flight: &InFlight) -> Option<Target> {
        let part = || self.lock().get(&id).and_then(|transfer| transfer.part.clone());
        match if self.is_empty() { None } else { part() } {
            Some(part) => Some(Target::Part(part)),
            None => in_flight.look_up(id, |file| Target::New(Arc::clone(&file.directory), file.entry.name.clone())),
        }
    }

    /// The file is received, or given up.
    pub fn end(&self, id: FileId) {
        if !self.is_empty() && self.lock().remove(&id).is_some() {
            self.count.fetch_sub(1, Ordering::Release);
        }
    }

    fn add(&self, id: FileId, transfer: Transfer) {
        // Before the file is asked for, so that whoever receives it sees the count.
        self.count.fetch_add(1, Ordering::Release);
        self.lock().insert(id, transfer);
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FileId, Transfer>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends fetch jobs to the client.
#[derive(Clone)]
pub struct Fetcher<'a> {
    /// Its queue.
    pub jobs: Sender<FetchJob>,
    /// What the receivers need to know.
    pub transfers: &'a Transfers,
    /// Where parts of files are that an earlier run has received.
    pub staging: &'a Staging,
    /// Where the bases of deltas are; `None` if there are none.
    pub snapshot: Option<&'a Dir>,
}

impl Fetcher<'_> {
    /// Asks for a file.
    pub fn fetch(&self, order: FetchOrder) -> Result<()> {
        let FetchOrder { id, path, size, mtime, uid, data, is_dedup, basis, may_resume } = order;
        // A part that is resumed must be checked by the hash of the whole.
        let part = self.part(&path, size, mtime).map(|part| if may_resume { part } else { Part { size: 0, ..part } });
        let offset = part.as_ref().map_or(0, |part| part.size);
        let basis = basis.and_then(|basis| self.open_later(basis));
        if part.is_some() || basis.is_some() {
            self.transfers.add(id, Transfer { part, basis: basis.clone() });
        }
        let job = FetchJob { id, path, size, mtime, uid, offset, dedup: is_dedup, data, basis };
        self.jobs.send(job).map_err(aborted)
    }

    fn open_later(&self, BasisVersion { directory, name, size }: BasisVersion) -> Option<BasisRef> {
        let snapshot = self.snapshot?.clone();
        Some(BasisRef::new(size, move || Ok(snapshot.open(directory.below_root())?.open_file(&name)?)))
    }

    /// True if an earlier run has received a part of a file.
    pub fn has_part(&self, file: &FileTask) -> bool {
        let (size, mtime) = (file.entry.size, file.entry.mtime);
        size >= MIN_RESUMED_BYTES && self.part(&file.path(), size, mtime).is_some_and(|part| part.size > 0)
    }

    fn part(&self, path: &AbsPath, size: u64, mtime: Time) -> Option<Part> {
        let name = (size >= MIN_RESUMED_BYTES).then(|| partial_name(path, size, mtime))?;
        let received = Some(self.staging.partial_size(&name)).filter(|received| *received <= size);
        Some(Part { name, size: received.unwrap_or(0) })
    }
}
