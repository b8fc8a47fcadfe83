//! Ending a verb from outside: a signal or a limit of time asks, the verb finishes what it has in hand and ends.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use jiff::SignedDuration;

use super::stream::Traffic;
use crate::error::{Error, Kind};

// How often a limit of time looks whether its connection still exists.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The way to stop a verb that is under way in another thread. Clones stop the same.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    state: Arc<Mutex<State>>,
    limit: Option<Limit>,
}

#[derive(Debug, Default)]
struct State {
    asked: Option<Kind>,
    // Those of connections that are still there count.
    lines: Vec<Weak<Traffic>>,
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    until: Instant,
    length: Duration,
}

impl Stop {
    /// Asks the verb to end, now and in time to come; `kind` is [`Kind::Interrupted`] or [`Kind::Terminated`].
    pub fn ask(&self, kind: Kind) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.get_or_insert(kind);
        state.lines.drain(..).filter_map(|line| line.upgrade()).for_each(|line| line.shut_down());
    }

    /// The same way, which also ends by itself after `length` (`max_time`); `None` adds no limit.
    pub fn within(&self, length: Option<Duration>) -> Stop {
        // A limit beyond what a clock can hold is none.
        let limit = length.and_then(|length| Some(Limit { until: Instant::now().checked_add(length)?, length }));
        Stop { state: Arc::clone(&self.state), limit: limit.or(self.limit) }
    }

    /// Why the verb is to end, if it is.
    pub fn asked(&self) -> Option<Error> {
        let asked = self.state.lock().unwrap_or_else(PoisonError::into_inner).asked;
        let over = self.limit.filter(|limit| Instant::now() >= limit.until);
        match (asked, over) {
            (Some(kind), _) => {
                let error = Error::new(kind, "stopped by a signal");
                Some(error.hint("what was done stays; do the same again for the rest"))
            }
            (None, Some(Limit { length, .. })) => {
                let length = shown(length);
                let error = Error::new(Kind::Guard, format_args!("the pull took longer than {length} (max_time)"));
                Some(error.hint("what was received stays; the next pull goes on"))
            }
            (None, None) => None,
        }
    }

    /// From now on, this is a line to cut.
    pub fn watch(&self, line: &Arc<Traffic>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.asked {
            Some(_) => line.shut_down(),
            None => {
                state.lines.retain(|line| line.strong_count() > 0);
                state.lines.push(Arc::downgrade(line));
            }
        }
        drop(state);
        if let Some(limit) = self.limit {
            let line = Arc::downgrade(line);
            std::thread::spawn(move || cut_at(limit.until, &line));
        }
    }
}

/// A length of time for a message, as in `1h 30m`.
pub(super) fn shown(length: Duration) -> String {
    SignedDuration::try_from(length).map_or_else(|_| "for ever".to_owned(), |length| format!("{length:#}"))
}

// Ends with the connection, or at the end of the limit.
fn cut_at(until: Instant, line: &Weak<Traffic>) {
    while let Some(line) = line.upgrade() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return line.shut_down();
        }
        drop(line);
        std::thread::sleep(left.min(WATCH_INTERVAL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_of_time_shuts_the_connection_down() {
        let (stop, line) = (Stop::default(), Arc::new(Traffic::new(Duration::ZERO, None)));
        let limited = stop.within(Some(Duration::from_millis(50)));
        limited.watch(&line);
        assert!(limited.asked().is_none() && !line.is_shut_down());
        std::thread::sleep(Duration::from_millis(500));
        assert!(line.is_shut_down());
        assert_eq!(limited.asked().unwrap().kind(), Kind::Guard);
        assert!(stop.asked().is_none(), "the limit is of one run only");
        stop.ask(Kind::Terminated);
        assert_eq!(limited.asked().unwrap().kind(), Kind::Terminated);
    }

    #[test]
    fn length_of_time_is_shown_for_people() {
        assert_eq!(shown(Duration::from_secs(90)), "1m 30s");
    }
}
