//! Dropping what no rule keeps: past versions into whose time no kept run falls.
//!
//! The runs that are not kept go first, so that nobody can ask for a moment of which something is missing. Then the
//! versions go, batch by batch through the journal: the index says what goes, the names go, the index forgets them.
//! What was cut off is finished by the next run of whatever kind. The snapshot is never touched.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Serialize;

use crate::entry::Version;
use crate::error::{Error, OnServer, Result};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::report::{Outcome, Report};
use crate::repository::Repository;
use crate::repository::evidence::{Evidence, Proof};
use crate::repository::index::{Index, RunRow, SourceId};
use crate::repository::journal::{Batch, Deed, Journal, Row, Then, recover};
use crate::repository::lock::Lock;
use crate::repository::place::{Place, Tree};
use crate::repository::staging::Staging;
use crate::retention::Keep;

pub mod forget;
mod freed;

use freed::Freed;

// Versions that go at once; each is a few hundred bytes in memory.
const BATCH: usize = 8192;

// How long to wait for another holder of the lock.
const PATIENCE: Duration = Duration::from_secs(1);

/// What went, or would go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Runs whose moments can still be asked for.
    pub kept_runs: u64,
    /// Runs that went.
    pub runs: u64,
    /// Versions that went.
    pub versions: u64,
    /// Names that went from the archive.
    pub files: u64,
    /// Bytes that nothing else held, so that the disk has them back.
    pub bytes_freed: u64,
}

/// One version that goes.
#[derive(Clone, Debug)]
pub struct Going<'a> {
    /// The client's path.
    pub path: &'a AbsPath,
    /// The version.
    pub version: &'a Version,
    /// Where its plain file is; `None` for what has none.
    pub place: Option<&'a Place>,
}

/// Prunes sources, one after the other.
pub struct Prune<'a> {
    repository: &'a Repository,
    dry_run: bool,
    freed: Freed,
    evidence: Evidence,
    report: &'a dyn Report,
}

impl<'a> Prune<'a> {
    /// Prunes in this repository; with `dry_run` nothing goes, but all is told.
    pub fn new(repository: &'a Repository, dry_run: bool, report: &'a dyn Report) -> Prune<'a> {
        Prune { repository, dry_run, freed: Freed::default(), evidence: Evidence::new(), report }
    }

    /// Drops the runs of a source that `keep` doesn't keep, and each past version that only they show. Calls `each`
    /// before a version goes.
    pub fn source(
        &mut self,
        source: &SourceName,
        keep: &Keep,
        each: &mut dyn FnMut(&Going<'_>) -> Result<()>,
    ) -> Result<Pruned> {
        if keep.is_empty() {
            return Err(Error::usage(format_args!("nothing says what to keep of `{source}`"))
                .hint("give `--keep-daily 14` and the like, or `keep` in the configuration"));
        }
        let _lock = (!self.dry_run).then(|| Lock::source(self.repository, source, PATIENCE)).transpose()?;
        let mut index = if self.dry_run { self.repository.known_index()? } else { self.repository.index()? };
        let Some(id) = index.source_id(source)? else { return Ok(Pruned::default()) };
        self.repository.check_index_is_newest(&index)?;
        if !self.dry_run {
            index.expect_much_writing()?;
            recover(self.repository, &mut index, source)?;
        }
        let (kept, dropped) = split(&index.runs(id)?, keep);
        let mut pruned = Pruned { kept_runs: kept.len() as u64, runs: dropped.len() as u64, ..Pruned::default() };
        if kept.is_empty() {
            return Ok(pruned);
        }
        if !self.dry_run {
            let write = index.write()?;
            dropped.iter().try_for_each(|run| write.delete_run(*run))?;
            write.commit()?;
        }
        self.versions(&mut index, (source, id), &kept, &mut pruned, each)?;
        Ok(pruned)
    }

    fn versions(
        &mut self,
        index: &mut Index,
        (source, id): (&SourceName, SourceId),
        kept: &BTreeSet<i64>,
        pruned: &mut Pruned,
        each: &mut dyn FnMut(&Going<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut batch = Batch::default();
        let mut dropping = if self.dry_run { None } else { Some(Dropping::open(self.repository, source, id)?) };
        for (id, directory) in index.directories_below(id, &AbsPath::root())? {
            let (mut going, staying): (Vec<_>, Vec<_>) =
                index.past_in(id)?.into_iter().partition(|version| !is_shown(version, kept));
            // Versions without a plain file of their own go first, so that no file is handed to one that goes as well.
            going.sort_by_key(|version| version.relies_on.is_none());
            let relied_on: HashSet<i64> = staying.iter().filter_map(|version| version.relies_on).collect();
            for version in going {
                let Some(path) = directory.join(&version.entry.name) else { continue };
                let place = archived(source, &directory, &version).filter(|_| !relied_on.contains(&version.id));
                let proof = match &place {
                    Some(place) => self.prove(index, place, &version)?,
                    None => Proof::Missing,
                };
                if let (Proof::Unreadable(error), Some(place)) = (&proof, &place) {
                    // A later prune tries again.
                    let on_disk = place.on_disk();
                    self.report.warn(format_args!("can't read `{}`, which stays: {error}", Escaped(&on_disk)));
                    continue;
                }
                each(&Going { path: &path, version: &version, place: place.as_ref() })?;
                pruned.versions += 1;
                batch.rows.push(Row::Forget { id: version.id });
                if let (Proof::Differs, Some(place)) = (&proof, &place) {
                    report_other(self.report, place);
                }
                if let (Proof::Holds(found), Some(place)) = (proof, place) {
                    pruned.files += 1;
                    pruned.bytes_freed += self.freed.with(&found);
                    batch.deeds.push(Deed::Drop { directory: place.directory, name: place.name, inode: found.inode });
                }
                if batch.rows.len() >= BATCH {
                    let full = self.take(&mut batch);
                    dropping.as_mut().map_or(Ok(()), |dropping| dropping.carry_out(index, full, Then::More))?;
                }
            }
        }
        let batch = self.take(&mut batch);
        let Some(mut dropping) = dropping else { return Ok(()) };
        dropping.carry_out(index, batch, Then::Nothing)?;
        dropping.clear(index)
    }

    fn take(&mut self, batch: &mut Batch) -> Batch {
        let found = self.evidence.take();
        Batch { found, ..std::mem::take(batch) }
    }

    // A dry run doesn't read the contents.
    fn prove(&mut self, index: &Index, place: &Place, version: &Version) -> Result<Proof> {
        match self.dry_run {
            true => Ok(look(self.repository, place)),
            false => self.evidence.of_version(self.repository, index, place, version),
        }
    }
}

// What a dry run learns of a plain file.
fn look(repository: &Repository, place: &Place) -> Proof {
    place.look(repository).map_or_else(Proof::failed, |(_, found)| Proof::Holds(found))
}

// Unknown files are kept.
fn report_other(report: &dyn Report, place: &Place) {
    report.warn(format_args!("`{}` is not what the index says, and stays", Escaped(&place.on_disk())));
}

/// The trees of a source, from which versions go.
struct Dropping<'a> {
    repository: &'a Repository,
    // Set once the change is noted, so that an older copy of the index is recognised.
    is_noted: bool,
    journal: Journal,
    // Directories of the archive that may be empty now.
    emptied: BTreeSet<AbsPath>,
}

impl<'a> Dropping<'a> {
    fn open(repository: &'a Repository, name: &SourceName, source: SourceId) -> Result<Dropping<'a>> {
        let staging = Staging::open(repository.staging(name)?).on_server("can't open the staging area")?;
        let journal = Journal::open(repository, (source, name), Arc::new(staging))?;
        Ok(Dropping { repository, is_noted: false, journal, emptied: BTreeSet::new() })
    }

    fn carry_out(&mut self, index: &mut Index, batch: Batch, then: Then) -> Result<()> {
        if !batch.rows.is_empty() && !std::mem::replace(&mut self.is_noted, true) {
            self.repository.note_change(index)?;
        }
        let done = self.journal.carry_out(index, batch, then)?;
        done.settle(index, |_| Ok(()))?;
        self.emptied.extend(done.batch.deeds.into_iter().filter_map(|deed| match deed {
            Deed::Drop { directory, .. } => Some(directory),
            Deed::Fill { .. } | Deed::Change { .. } | Deed::Keep { .. } => None,
        }));
        Ok(())
    }

    // Those below come after those above.
    fn clear(mut self, index: &mut Index) -> Result<()> {
        let write = index.write()?;
        write.drop_unused_attributes()?;
        write.commit()?;
        self.emptied.iter().rev().try_for_each(|directory| self.journal.clear_archive(directory))
    }
}

fn archived(source: &SourceName, directory: &AbsPath, version: &Version) -> Option<Place> {
    let name = version.archive_name.clone()?;
    Some(Place { tree: Tree::Archive, source: source.clone(), directory: directory.clone(), name })
}

// The runs that are kept, and those that go. A run that came to no good end shows no moment that a rule could mean: it
// counts for nothing, and goes when a good one came after it.
fn split(runs: &[RunRow], keep: &Keep) -> (BTreeSet<i64>, Vec<i64>) {
    let is_good = |run: &&RunRow| {
        let outcome = run.outcome.as_deref();
        [Outcome::Ok.word(), Outcome::Partial.word(), "rebuild"].iter().any(|word| outcome == Some(word))
    };
    let good: Vec<_> = runs.iter().filter(is_good).map(|run| (run.id, run.started)).collect();
    let mut kept = keep.kept(&good, &TimeZone::system());
    let newest = good.iter().map(|(run, _)| *run).max().unwrap_or(i64::MAX);
    kept.extend(runs.iter().map(|run| run.id).filter(|run| *run > newest));
    let dropped = runs.iter().map(|run| run.id).filter(|run| *run <= newest && !kept.contains(run)).collect();
    (kept, dropped)
}

// A stray that was past from the beginning belongs to the run that found it.
fn is_shown(version: &Version, kept: &BTreeSet<i64>) -> bool {
    let until = version.until_run.unwrap_or(i64::MAX).max(version.from_run + 1);
    kept.range(version.from_run..until).next().is_some()
}
