//! Files on their way from the client: written into staging and hashed as they arrive.

use std::collections::HashMap;

use super::Run;
use super::applying::Change;
use super::arriving::{Arriving, Part, Received, Target};
use super::fetching::Transfers;
use super::machine::{Event, FileId, FileTask, Reading};
use super::pipeline::in_staging;
use super::routes::{Decider, Kept};
use crate::client::{FetchEvent, FileState, ReadError, protocol_violation};
use crate::entry::{Extent, Hash};
use crate::error::{Error, OnServer, Result};
use crate::queue::Receiver;
use crate::repository::staging::{Staged, Staging};

const WHAT: &str = "can't write into the staging area";

// How many threads write at most.
const MOST_LANES: usize = 4;

/// How many threads write at once what arrives: unless told otherwise as there are processors, but one file system takes
/// only so many at a time.
pub fn lanes(writers: Option<u8>) -> usize {
    let usual = || std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST_LANES));
    let writers = writers.map_or_else(usual, usize::from);
    tracing::debug!(writers, "writes what is received");
    writers
}

/// Returns the lane of an event. All events of a file, and all small files of one content, take the same lane, so that a
/// reference is handled after its content.
pub fn lane(arrived: &FetchEvent) -> usize {
    match arrived {
        FetchEvent::Full { hash, .. } | FetchEvent::AlreadySent { hash, .. } => usize::from(hash[0]),
        other => other.id() as usize,
    }
}

/// Writes what is received into staging, until nothing more is.
pub fn receive(
    run: &Run<'_>,
    staging: &Staging,
    arrived: &Receiver<FetchEvent>,
    transfers: &Transfers,
    decider: Decider<'_>,
) -> Result<()> {
    let mut inbox = Inbox::new(run, staging, transfers, decider);
    arrived.iter().try_for_each(|arrival| inbox.take(arrival)).map_err(|error| in_staging(run, error))
}

/// The files that are being received by one worker.
pub(super) struct Inbox<'a> {
    run: &'a Run<'a>,
    staging: &'a Staging,
    transfers: &'a Transfers,
    decider: Decider<'a>,
    receiving: HashMap<FileId, Arriving>,
}

impl<'a> Inbox<'a> {
    /// No file has begun.
    pub(super) fn new(
        run: &'a Run<'a>,
        staging: &'a Staging,
        transfers: &'a Transfers,
        decider: Decider<'a>,
    ) -> Inbox<'a> {
        Inbox { run, staging, transfers, decider, receiving: HashMap::new() }
    }

    /// Takes what was received next.
    pub(super) fn take(&mut self, arrival: FetchEvent) -> Result<()> {
        match arrival {
            FetchEvent::Data { id, bytes } => self.data(id, &bytes),
            FetchEvent::Speculative { id } => self.ahead(id),
            FetchEvent::Hole { id, length } => {
                let run = self.run;
                self.begun(id)?.skip(length, run)
            }
            FetchEvent::FromBasis { id, offset, length } => self.here(id, Extent { offset, length }),
            FetchEvent::Full { id, bytes, hash, state, may_repeat } => {
                let reading = Reading { hash, size: bytes.len() as u64, state, is_consistent: true };
                self.small(id, &bytes, reading, may_repeat)
            }
            FetchEvent::AlreadySent { id, hash } => self.report(id, Event::Repeated { id, hash }),
            FetchEvent::Restart { id } => self.restart(id),
            FetchEvent::End { id, state, consistent, claimed } => self.end(id, state, consistent, claimed),
            FetchEvent::Failed { id, error } => {
                self.discard(id)?;
                self.report(id, Event::FetchFailed { id, error })
            }
        }
    }

    fn report(&mut self, id: FileId, event: Event) -> Result<()> {
        self.transfers.end(id);
        self.decider.report(event)
    }

    fn target(&self, id: FileId) -> Result<Target> {
        self.transfers.target(id, self.decider.in_flight()).ok_or_else(unasked)
    }

    fn begun(&mut self, id: FileId) -> Result<&mut Arriving> {
        if !self.receiving.contains_key(&id) {
            let begun = Arriving::begin(self.staging, self.target(id)?, self.transfers.basis(id).as_ref())?;
            self.receiving.insert(id, limited(self.run, begun));
        }
        self.receiving.get_mut(&id).ok_or_else(unasked)
    }

    fn ahead(&mut self, id: FileId) -> Result<()> {
        self.begun(id)?.is_ahead = true;
        Ok(())
    }

    fn count(&self, bytes: u64) {
        self.run.tally.progress.bytes_copied.add(bytes);
        self.run.tally.report.progress(&self.run.tally.progress);
    }

    fn data(&mut self, id: FileId, bytes: &[u8]) -> Result<()> {
        self.run.room.take(bytes.len() as u64)?;
        self.count(bytes.len() as u64);
        self.begun(id)?.add(bytes)
    }

    fn here(&mut self, id: FileId, extent: Extent) -> Result<()> {
        self.run.room.take(extent.length)?;
        let (basis, run) = (self.transfers.basis(id), self.run);
        self.begun(id)?.copy(basis, extent, run)
    }

    fn small(&mut self, id: FileId, bytes: &[u8], reading: Reading, may_repeat: bool) -> Result<()> {
        self.run.room.take(bytes.len() as u64)?;
        self.count(bytes.len() as u64);
        self.transfers.end(id);
        let event = Event::ReceivedSmall { id, reading, may_repeat };
        let Some(kept) = self.decider.report_received(event, Some(bytes))? else { return Ok(()) };
        let received = Received::whole((bytes, reading.hash), &kept.file, self.staging)?;
        self.keep(kept, received)
    }

    fn restart(&mut self, id: FileId) -> Result<()> {
        self.discard(id)?;
        let target = match self.target(id)? {
            Target::Part(part) => Target::Part(Part { size: 0, ..part }),
            new => new,
        };
        let begun = limited(self.run, Arriving::begin(self.staging, target, None)?);
        self.receiving.insert(id, begun);
        Ok(())
    }

    fn end(&mut self, id: FileId, state: FileState, is_consistent: bool, claimed: Option<Hash>) -> Result<()> {
        let begun = match self.receiving.remove(&id) {
            Some(begun) => begun,
            None => Arriving::begin(self.staging, self.target(id)?, None)?,
        };
        let (is_resumed, is_speculative) = (begun.is_carried_on, begun.is_ahead);
        if let Some(trouble) = begun.trouble {
            begun.discard(self.staging)?;
            let event = match trouble.words() {
                Some(words) => Event::FetchFailed { id, error: ReadError::Refused(words.to_owned()) },
                None => Event::BasisLost { id },
            };
            return self.report(id, event);
        }
        let mut received = begun.end()?;
        let is_other = |file: &FileTask| !file.is_as_claimed(&received.hash);
        let is_refused = claimed.is_some_and(|claimed| claimed != received.hash)
            || is_resumed && self.decider.in_flight().look_up(id, is_other).unwrap_or(true);
        if is_speculative || is_refused {
            // The file may be fetched again before this copy is removed.
            received.name = self.staging.set_aside(&received.name).on_server(WHAT)?;
        }
        self.transfers.end(id);
        let reading = Reading { hash: received.hash, size: received.size, state, is_consistent };
        let event = Event::Received { id, reading, claimed, is_resumed, is_speculative };
        let Some(kept) = self.decider.report_received(event, None)? else {
            return self.staging.unlink(&received.name).on_server(WHAT);
        };
        self.staging.permit(&received.file, &kept.file.entry).on_server(WHAT)?;
        self.keep(kept, received)
    }

    fn discard(&mut self, id: FileId) -> Result<()> {
        self.receiving.remove(&id).map_or(Ok(()), |begun| begun.discard(self.staging))
    }

    fn keep(&self, Kept { file, is_consistent }: Kept, received: Received) -> Result<()> {
        let Received { name, file: open, hash, size } = received;
        if !is_consistent {
            let path = file.path();
            self.run.tally.warn(format_args!("`{path}` kept changing while it was read; its copy may be inconsistent"));
        }
        self.staging.dress(&open, &file.entry).on_server(WHAT)?;
        self.run.tally.progress.copied.add(1);
        self.decider.routes.record(Change::Received(file, Staged { name, hash, size, consistent: is_consistent }))
    }
}

fn unasked() -> Error {
    protocol_violation("a file came that nobody asked for")
}

// What was listed as larger is left out already.
fn limited(run: &Run<'_>, mut begun: Arriving) -> Arriving {
    begun.limit = run.source.settings.max_file_size.unwrap_or(u64::MAX);
    begun
}
