//! The first error of any stage ends them all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use super::in_flight::InFlight;
use crate::client::Client;
use crate::error::{Error, Kind, Result};

/// Remembers the first error, and makes every stage end.
pub struct Failure<'a> {
    first: Mutex<Option<Error>>,
    client: &'a dyn Client,
    in_flight: &'a InFlight,
}

impl<'a> Failure<'a> {
    /// Nothing has failed yet.
    pub fn new(client: &'a dyn Client, in_flight: &'a InFlight) -> Failure<'a> {
        Failure { first: Mutex::new(None), client, in_flight }
    }

    /// Runs a stage, or a thread of one; true when it ended well.
    pub fn watch(&self, stage: impl FnOnce() -> Result<()>) -> bool {
        // A panic, too: or the other stages would wait for ever for one that is gone.
        let ended = catch_unwind(AssertUnwindSafe(stage));
        let broken = |_| Error::new(Kind::Failed, "a part of the program broke").hint("please report what it printed");
        let Err(error) = ended.unwrap_or_else(|panic| Err(broken(panic))) else { return true };
        tracing::debug!(%error, "a stage ends early");
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        // Who only finds the next stage gone may be faster than who knows why.
        if first.as_ref().is_none_or(|first| first.kind() == Kind::BrokenOff) {
            *first = Some(error);
        }
        drop(first);
        self.client.hang_up();
        self.in_flight.abort();
        false
    }

    /// The first error.
    pub fn first(self) -> Option<Error> {
        self.first.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
