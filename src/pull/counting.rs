//! A second listing that only counts removals.
//!
//! Changes that wait for the guard are in memory. When they are too many before the listing has ended, the client
//! lists everything once more, for the guard alone.

use std::sync::{Arc, OnceLock};

use super::guard::RemovalGuard;
use super::listing::{Steps, list};
use super::removals::Removals;
use super::{Directory, Run, Tally};
use crate::entry::{Entry, Hash};
use crate::error::Result;
use crate::path::AbsPath;
use crate::plan::Step;
use crate::report::{Progress, Tee};
use crate::repository::index::Index;
use crate::repository::staging::Staging;

/// Opens the gate, or fails if the guard stops the run.
pub fn decide_ahead(run: &Run<'_>, index: &Index, staging: &Staging) -> Result<()> {
    let silent = Tee(Vec::new());
    let tally = Tally { progress: Progress::default(), report: &silent, first_error: OnceLock::new() };
    let removals = Removals::to_count(Some(staging));
    let mut counting = Counting { guard: RemovalGuard::new(run.before(index), run.source, removals) };
    let remembered = run.remembered(index, staging);
    let roots = list(run.client, run.source, run.repository.id(), &remembered, &tally, &mut counting)?;
    counting.guard.decide(&roots, run.consent)?;
    run.gate.open();
    Ok(())
}

struct Counting<'a> {
    guard: RemovalGuard<'a>,
}

impl Steps for Counting<'_> {
    fn step(&mut self, directory: &Arc<Directory>, step: Step) -> Result<()> {
        self.guard.note(directory, &step).map(drop)
    }

    fn moved(&mut self, directory: &Arc<Directory>, entry: Entry, _: Option<Hash>) -> Result<()> {
        self.guard.note_moved(directory, &entry);
        Ok(())
    }

    fn unmounted(&mut self, path: &AbsPath) {
        self.guard.note_unmounted(path);
    }
}
