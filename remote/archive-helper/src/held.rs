//! Directories that were announced: each waits for its verdict, unless all are wanted; those that are, for being sent.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::listing::Listing;
use crate::outgoing::UNPOISONED;
use crate::protocol::{Verdict, Wish};
use crate::stack::Place;

// How many bytes of listings may be held before walkers wait. A larger one is let through alone.
const BUDGET: usize = 16 * 1024 * 1024;

/// A directory that was listed.
pub struct Listed {
    /// Where it is.
    pub place: Place,
    /// What is in it.
    pub listing: Listing,
}

impl Listed {
    fn weight(&self) -> usize {
        self.place.path.as_bytes().len() + self.listing.weight()
    }
}

/// The listings that are in memory.
#[derive(Default)]
pub struct Held {
    // Taken before `state`, and kept while an announcement is queued, which may take long.
    announcing: Mutex<u64>,
    state: Mutex<State>,
    room: Condvar,
    wanted: Condvar,
    all: bool,
}

#[derive(Default)]
struct State {
    unjudged: HashMap<u64, Listed>,
    wanted: VecDeque<(u64, Wish, Listed)>,
    bytes: usize,
    walked: bool,
}

impl Held {
    /// With `all`, every listing is wanted, and none waits for a verdict.
    pub fn new(all: bool) -> Held {
        Held { all, ..Held::default() }
    }

    /// Waits until there is room for what was listed, numbers it and lets `announce` queue the announcement.
    ///
    /// Numbers are queued in ascending order, and what is announced after this returns comes later.
    pub fn announce(&self, listed: Listed, announce: impl FnOnce(u64)) {
        self.reserve(listed.weight());
        let mut next = self.announcing.lock().expect(UNPOISONED);
        if self.all {
            announce(*next);
            self.lock().wanted.push_back((*next, Wish::All, listed));
            self.wanted.notify_all();
        } else {
            // First held, then announced: the verdict may come at once.
            self.lock().unjudged.insert(*next, listed);
            announce(*next);
        }
        *next += 1;
    }

    fn reserve(&self, weight: usize) {
        let mut state = self.lock();
        while state.bytes > 0 && state.bytes + weight > BUDGET {
            state = self.room.wait(state).expect(UNPOISONED);
        }
        state.bytes += weight;
    }

    /// Carries out verdicts; false if one is on a directory that does not wait for it.
    pub fn judge(&self, verdicts: Vec<Verdict>) -> bool {
        let mut state = self.lock();
        let known = verdicts.into_iter().all(|verdict| state.judge(verdict));
        drop(state);
        self.room.notify_all();
        self.wanted.notify_all();
        known
    }

    /// No further directory will be announced.
    pub fn finish(&self) {
        self.lock().walked = true;
        self.wanted.notify_all();
    }

    /// Hands each wanted listing to `send`, in the order of verdicts; returns when all was walked,
    /// judged and sent.
    pub fn send_wanted(&self, mut send: impl FnMut(u64, &Wish, &Listed)) {
        let mut state = self.lock();
        loop {
            if let Some((directory, wish, listed)) = state.wanted.pop_front() {
                drop(state);
                send(directory, &wish, &listed);
                state = self.lock();
                state.bytes -= listed.weight();
                self.room.notify_all();
            } else if state.walked && state.unjudged.is_empty() {
                return;
            } else {
                state = self.wanted.wait(state).expect(UNPOISONED);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }
}

impl State {
    fn judge(&mut self, Verdict { directory, send }: Verdict) -> bool {
        let Some(listed) = self.unjudged.remove(&directory) else { return false };
        match send {
            Wish::Nothing => self.bytes -= listed.weight(),
            wish => self.wanted.push_back((directory, wish, listed)),
        }
        true
    }
}
