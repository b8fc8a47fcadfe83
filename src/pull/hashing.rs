//! Asks the client for hashes, and reports them to the state machine.

use super::Run;
use super::machine::{Claim, Event, FileId};
use super::pipeline::{Failure, aborted};
use super::routes::Decider;
use crate::client::{HashJob, HashOutcome, ReadError};
use crate::error::Result;
use crate::queue::Receiver;

/// Has the client hash the files of the queue, until it ends, and reports the outcomes.
pub fn hash(run: &Run<'_>, jobs: &Receiver<HashJob>, mut decider: Decider<'_>, failure: &Failure<'_>) -> Result<()> {
    run.client.hash(&run.key, jobs, &mut |id, outcome| {
        // Noted before the client ends the exchange, or another stage might be the first to see that.
        if failure.watch(|| decider.report(event(id, outcome))) { Ok(()) } else { Err(aborted(())) }
    })
}

/// The event of a file that was hashed.
pub fn event(id: FileId, outcome: HashOutcome) -> Event {
    match outcome {
        HashOutcome::Done { hash, proof } => Event::Hashed { id, claim: Claim { hash, proof } },
        HashOutcome::Sampled { sample, other } => Event::Sampled { id, sample, of_first: other },
        HashOutcome::Changed => Event::ChangedBeforeHash { id },
        HashOutcome::Vanished => Event::HashFailed { id, error: ReadError::Vanished },
        HashOutcome::Failed(errno) => Event::HashFailed { id, error: ReadError::from_errno(errno) },
    }
}
