//! Ending a verb from outside: a signal asks, the verb finishes what it has in hand and ends.

use std::sync::{Arc, Mutex, PoisonError};

use super::stream::Traffic;
use crate::error::{Error, Kind};

/// The way to stop a verb that is under way in another thread. Clones stop the same.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    asked: Option<Kind>,
    line: Option<Arc<Traffic>>,
}

impl Stop {
    /// Asks the verb to end, now and in time to come; `kind` is [`Kind::Interrupted`] or [`Kind::Terminated`].
    pub fn ask(&self, kind: Kind) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.get_or_insert(kind);
        if let Some(line) = state.line.take() {
            line.shut_down();
        }
    }

    /// Why the verb is to end, if it is.
    pub fn asked(&self) -> Option<Error> {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner).asked;
        asked.map(|kind| {
            Error::new(kind, "stopped by a signal").hint("what was done stays; do the same again for the rest")
        })
    }

    /// From now on, this is the line to cut.
    pub fn watch(&self, line: &Arc<Traffic>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.asked {
            Some(_) => line.shut_down(),
            None => state.line = Some(Arc::clone(line)),
        }
    }
}
