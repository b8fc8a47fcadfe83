//! Ending a verb from outside: a signal asks, the verb finishes what it has in hand and ends.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::stream::Traffic;
use crate::error::{Error, Kind};

/// The way to stop a verb that is under way in another thread. Clones stop the same.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    asked: Option<Kind>,
    // Those of connections that are still there count.
    lines: Vec<Weak<Traffic>>,
}

impl Stop {
    /// Asks the verb to end, now and in time to come; `kind` is [`Kind::Interrupted`] or [`Kind::Terminated`].
    pub fn ask(&self, kind: Kind) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.get_or_insert(kind);
        state.lines.drain(..).filter_map(|line| line.upgrade()).for_each(|line| line.shut_down());
    }

    /// Why the verb is to end, if it is.
    pub fn asked(&self) -> Option<Error> {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner).asked;
        asked.map(|kind| {
            Error::new(kind, "stopped by a signal").hint("what was done stays; do the same again for the rest")
        })
    }

    /// From now on, this is a line to cut.
    pub fn watch(&self, line: &Arc<Traffic>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.asked {
            Some(_) => line.shut_down(),
            None => {
                state.lines.retain(|line| line.strong_count() > 0);
                state.lines.push(Arc::downgrade(line));
            }
        }
    }
}
