//! A second listing that only counts removals.
//!
//! Changes that wait for the guard are in memory. When they are too many before the listing has ended, another helper
//! lists everything for the guard alone.

use std::sync::{Arc, OnceLock};

use super::guard::RemovalGuard;
use super::listing::{Steps, list};
use super::removals::{Removal, Removals};
use super::{Directory, Run, Tally};
use crate::entry::{Entry, Hash, Kind, Version};
use crate::error::Result;
use crate::plan::Step;
use crate::report::{Progress, Tee};
use crate::repository::index::Index;
use crate::repository::staging::Staging;

/// Opens the gate, or fails if the guard stops the run.
pub fn decide_ahead(run: &Run<'_>, index: &Index, staging: &Staging) -> Result<()> {
    let silent = Tee(Vec::new());
    let tally = Tally { progress: Progress::default(), report: &silent, first_error: OnceLock::new() };
    let removals = Removals::new(Some(staging));
    let mut counting = Counting { guard: RemovalGuard::new(run.before(index), run.source, removals) };
    let (conversation, id) = (run.client.converse()?, run.repository.id());
    let roots = list(conversation, run.source, id, &run.remembered(index), &tally, &mut counting)?;
    counting.guard.decide(&roots, run.consent)?;
    run.gate.open();
    Ok(())
}

struct Counting<'a> {
    guard: RemovalGuard<'a>,
}

impl Counting<'_> {
    fn remove(&mut self, directory: &Directory, old: &Version, replacement: Option<Entry>) -> Result<()> {
        self.guard.remove(&directory.path, old, Removal { version: old.id, directory: None, replacement })
    }
}

impl Steps for Counting<'_> {
    fn step(&mut self, directory: &Arc<Directory>, step: Step) -> Result<()> {
        match step {
            Step::New { entry } => self.guard.note_new(&entry),
            Step::Changed { entry, old } if old.entry.kind == Kind::Dir && entry.kind != Kind::Dir => {
                return self.remove(directory, &old, Some(entry));
            }
            Step::Removed { old } => return self.remove(directory, &old, None),
            Step::Same | Step::Changed { .. } | Step::Touched { .. } | Step::Restated { .. } => {}
        }
        Ok(())
    }

    fn moved(&mut self, _: &Arc<Directory>, entry: Entry, _: Option<Hash>) -> Result<()> {
        self.guard.note_new(&entry);
        Ok(())
    }
}
