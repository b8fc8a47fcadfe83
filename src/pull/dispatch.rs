//! Reports each step of the listing to the state machine, and removals to the batch writer.
//!
//! Removals wait until the listing is complete and a guard has counted them, and with them what takes the place of a
//! directory.

use std::sync::Arc;

use super::applying::Change;
use super::guard::RemovalGuard;
use super::listing::Steps;
use super::machine::{Event, FileTask};
use super::mending::mend;
use super::pipeline::aborted;
use super::removals::{Removal, Removals};
use super::routes::Decider;
use super::{Directory, Run};
use crate::entry::{DirectoryId, Entry, Hash, Kind, Version};
use crate::error::Result;
use crate::path::AbsPath;
use crate::plan::Step;
use crate::repository::index::{Index, SourceId};
use crate::repository::staging::Staging;

// Versions that are read from the index together.
const PAGE: u32 = 4096;

/// Takes the steps of the listing.
pub struct Dispatch<'a> {
    run: &'a Run<'a>,
    index: &'a Index,
    decider: Decider<'a>,
    guard: RemovalGuard<'a>,
}

impl Steps for Dispatch<'_> {
    fn begin(&mut self, roots: &[AbsPath]) -> Result<()> {
        mend(self.run, roots)?;
        let mounts = self.index.mounts(self.run.source_id)?;
        let is_below = |path: &AbsPath| roots.iter().any(|root| path.starts_with(root));
        self.run.gate.expect_mounts(mounts.iter().filter(|(_, path)| is_below(path)).count() as u64);
        self.decider.routes.record(Change::Roots(roots.to_vec()))
    }

    fn step(&mut self, directory: &Arc<Directory>, step: Step) -> Result<()> {
        if !self.decider.in_flight().wait_for_room() {
            return Err(aborted(()));
        }
        if self.guard.note(directory, &step)? {
            return Ok(());
        }
        match step {
            Step::Same | Step::Removed { .. } => Ok(()),
            Step::New { entry } => self.decider.list(FileTask::new(directory.clone(), entry, None)),
            Step::Touched { entry, old } | Step::Changed { entry, old } => {
                self.decider.list(FileTask::new(directory.clone(), entry, Some(old)))
            }
            Step::Restated { entry, old } => {
                self.decider.report(Event::Restated(FileTask::new(directory.clone(), entry, Some(old))))
            }
        }
    }

    fn moved(&mut self, directory: &Arc<Directory>, entry: Entry, hash: Option<Hash>) -> Result<()> {
        if !self.decider.in_flight().wait_for_room() {
            return Err(aborted(()));
        }
        self.guard.note_moved(directory, &entry);
        match hash {
            Some(hash) => {
                let file = FileTask::new(directory.clone(), entry, None);
                self.decider.report(Event::Moved { file, hash })
            }
            None => self.decider.list(FileTask::new(directory.clone(), entry, None)),
        }
    }

    fn present(&mut self, entries: u64) {
        self.run.gate.note_present(entries);
    }

    fn mount(&mut self) {
        self.run.gate.note_mount();
    }

    fn unmounted(&mut self, path: &AbsPath) {
        self.guard.note_unmounted(path);
    }

    fn planned(&mut self, directory: Arc<Directory>) -> Result<()> {
        self.decider.routes.record(Change::Planned(directory))
    }

    fn unreadable(&mut self, path: &AbsPath) -> Result<()> {
        match self.index.current_at(self.run.source_id, path)? {
            Some(version) => self.decider.routes.record(Change::Unlisted(version)),
            None => Ok(()),
        }
    }

    fn read_content(&self) -> bool {
        true
    }
}

impl<'a> Dispatch<'a> {
    /// Has `decider` decide what happens.
    pub fn new(run: &'a Run<'a>, index: &'a Index, decider: Decider<'a>, staging: &'a Staging) -> Dispatch<'a> {
        let guard = RemovalGuard::new(run.before(index), run.source, Removals::new(staging));
        Dispatch { run, index, decider, guard }
    }

    /// Does what had to wait for the end of the listing.
    pub fn finish(self, roots: &[AbsPath]) -> Result<()> {
        let Dispatch { run, index, decider, guard } = self;
        let removals = guard.decide(roots, run.consent)?;
        run.consent.note_listed(roots);
        run.gate.open();
        let mut removing = Removing { run, index, decider };
        removals.drain(|removal| removing.remove(removal))
    }
}

/// Removes what is no longer there.
struct Removing<'a> {
    run: &'a Run<'a>,
    index: &'a Index,
    decider: Decider<'a>,
}

impl Removing<'_> {
    // Whatever takes the place of a directory moves the directory itself away.
    fn remove(&mut self, Removal { version, directory, replacement }: Removal) -> Result<()> {
        let old = self.index.version(version)?;
        let directory = match directory {
            Some(directory) => directory,
            None => Arc::new(Directory::new(self.index.path_of_directory(old.directory)?)),
        };
        if old.entry.kind == Kind::Dir
            && let Some(path) = directory.path.join(&old.entry.name)
        {
            self.remove_below(&path)?;
        }
        match replacement {
            Some(entry) => self.decider.list(FileTask::new(directory, entry, Some(old))),
            None => self.decider.routes.record(Change::Removed(directory, Box::new(old))),
        }
    }

    fn remove_below(&self, path: &AbsPath) -> Result<()> {
        each_directory_below(self.index, self.run.source_id, path, |id, path| {
            let directory = Arc::new(Directory::new(path));
            each_current(self.index, id, |version| {
                self.decider.routes.record(Change::Removed(directory.clone(), Box::new(version)))
            })
        })
    }
}

/// Calls `each` with the directories at and below a path, the deepest first, so that each is empty when its turn comes.
pub fn each_directory_below(
    index: &Index,
    source: SourceId,
    path: &AbsPath,
    mut each: impl FnMut(DirectoryId, AbsPath) -> Result<()>,
) -> Result<()> {
    let mut before = None;
    loop {
        let page = index.last_directories_below(source, path, before.as_ref(), PAGE)?;
        let Some((_, last)) = page.last() else { return Ok(()) };
        before = Some(last.clone());
        page.into_iter().try_for_each(|(id, path)| each(id, path))?;
    }
}

/// Calls `each` with the current versions in a directory, by name.
pub fn each_current(index: &Index, id: DirectoryId, mut each: impl FnMut(Version) -> Result<()>) -> Result<()> {
    let mut after = None;
    loop {
        let page = index.current_after(id, after.as_ref(), PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.entry.name.clone());
        page.into_iter().try_for_each(&mut each)?;
    }
}
