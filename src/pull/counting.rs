//! A second listing that only counts removals.
//!
//! Changes that wait for the guard are in memory. When they are too many before the listing has ended, another helper
//! lists everything for the guard alone.

use std::sync::{Arc, OnceLock};

use super::guard::RemovalGuard;
use super::listing::{Steps, list};
use super::removals::Removals;
use super::{Directory, Run, Tally};
use crate::entry::{Entry, Hash};
use crate::error::Result;
use crate::path::AbsPath;
use crate::plan::Step;
use crate::remote::helper::Conversation;
use crate::report::{Progress, Tee};
use crate::repository::index::Index;
use crate::repository::staging::Staging;

/// Opens the gate, or fails if the guard stops the run.
pub fn decide_ahead(run: &Run<'_>, index: &Index, staging: &Staging) -> Result<()> {
    match run.client.converse() {
        Ok(conversation) => decide_by(run, conversation, index, staging),
        Err(error) if run.client.line().is_shut_down() => Err(error),
        Err(error) => {
            tracing::debug!(%error, "connects once more to count removals");
            decide_on_another_connection(run, index, staging)
        }
    }
}

// The server allows no more sessions on one connection (MaxSessions), and the other stages use those that there are.
fn decide_on_another_connection(run: &Run<'_>, index: &Index, staging: &Staging) -> Result<()> {
    let client = run.client.connect_again(run.source.ssh.as_ref(), run.tally.report)?;
    let decided = client.converse().and_then(|conversation| decide_by(run, conversation, index, staging));
    client.close();
    decided
}

fn decide_by(run: &Run<'_>, conversation: Conversation, index: &Index, staging: &Staging) -> Result<()> {
    let silent = Tee(Vec::new());
    let tally = Tally { progress: Progress::default(), report: &silent, first_error: OnceLock::new() };
    let removals = Removals::to_count(Some(staging));
    let mut counting = Counting { guard: RemovalGuard::new(run.before(index), run.source, removals) };
    let remembered = run.remembered(index, staging);
    let roots = list(conversation, run.source, run.repository.id(), &remembered, &tally, &mut counting)?;
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
