//! Dropping what no rule keeps: past versions into whose time no kept run falls.
//!
//! The runs that are not kept go first, so that nobody can ask for a moment of which something is missing. Then the
//! versions go, batch by batch through the journal: the index says what goes, the names go, the index forgets them.
//! What was cut off is finished by the next run of whatever kind. The snapshot is never touched.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::ZonedDateTime;
use serde::Serialize;

use crate::chronology::contradicting;
use crate::entry::Version;
use crate::error::{Error, OnServer, Result, cause};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::report::{Report, counted};
use crate::repository::Repository;
use crate::repository::evidence::{Evidence, Proof, ProvedFile};
use crate::repository::index::{Index, RunRow, SourceId, misdated};
use crate::repository::journal::{Batch, Deed, Journal, Row, Then, recover};
use crate::repository::lock::Lock;
use crate::repository::place::{Place, Tree};
use crate::repository::staging::Staging;
use crate::retention::Keep;

pub mod forget;
mod freed;
mod removal;

use freed::Freed;

// Versions that go at once; each is a few hundred bytes in memory.
const BATCH: usize = 8192;

// Versions that go at once on a full disk, until they have made room.
const SMALL_BATCH: usize = 32;

// How long to wait for another holder of the lock.
const PATIENCE: Duration = Duration::from_secs(1);

/// What went, or would go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Runs whose moments can still be asked for.
    pub kept_runs: u64,
    /// Runs whose dates can't be right; they are kept, and no rule counts them.
    pub misdated_runs: u64,
    /// Runs that went.
    pub runs: u64,
    /// Versions that went.
    pub versions: u64,
    /// Names that went from the archive.
    pub files: u64,
    /// Bytes that nothing else held, so that the disk has them back.
    pub bytes_freed: u64,
    /// Sources that went, with all of their runs.
    pub sources: u64,
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
    now: ZonedDateTime,
    // Versions that go at once.
    batch: usize,
    freed: Freed,
    evidence: Evidence,
    report: &'a dyn Report,
}

impl<'a> Prune<'a> {
    /// Prunes in this repository, by the clock and the time zone of `now`; with `dry_run` nothing goes, but all is told.
    pub fn new(repository: &'a Repository, dry_run: bool, now: ZonedDateTime, report: &'a dyn Report) -> Prune<'a> {
        let (freed, evidence) = (Freed::default(), Evidence::new());
        Prune { repository, dry_run, now, batch: BATCH, freed, evidence, report }
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
        let has_room = self.dry_run || self.repository.make_room()?;
        let mut index = if self.dry_run { self.repository.known_index()? } else { self.repository.index()? };
        if !has_room {
            index.expect_little_room()?;
            self.batch = SMALL_BATCH;
        }
        let Some(id) = index.source_id(source)? else { return Ok(Pruned::default()) };
        self.repository.check_index_is_newest(&index)?;
        if !self.dry_run {
            index.expect_much_writing()?;
            recover(self.repository, &mut index, source)?.found.report(self.report);
        }
        let Split { kept, dropped, misdated } = Split::of(&index.runs(id)?, keep, &self.now);
        report_misdated(self.report, source, &misdated);
        let (kept_runs, misdated_runs, runs) = (kept.len() as u64, misdated.len() as u64, dropped.len() as u64);
        let mut pruned = Pruned { kept_runs, misdated_runs, runs, ..Pruned::default() };
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
        let mut dropping =
            if self.dry_run { None } else { Some(Dropping::open(self.repository, (id, source), self.report)?) };
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
                    self.report.warn(format_args!("can't read `{}`, which stays: {}", Escaped(&on_disk), cause(error)));
                    continue;
                }
                if let Some(place) = place.as_ref().filter(|place| is_immutable(self.repository, place)) {
                    let on_disk = place.on_disk();
                    self.report
                        .warn(format_args!("can't remove `{}`, which is immutable (chattr(1))", Escaped(&on_disk)));
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
                    batch.deeds.push(Deed::Delete {
                        directory: place.directory,
                        name: place.name,
                        file: ProvedFile::of(&found),
                    });
                }
                if batch.rows.len() >= self.batch {
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
        if self.dry_run {
            Ok(look(self.repository, place))
        } else {
            self.evidence.of_version(self.repository, index, place, version)
        }
    }
}

// It, or its directory, by chattr(1).
fn is_immutable(repository: &Repository, place: &Place) -> bool {
    let found = place.look(repository);
    found.is_ok_and(|(dir, _)| dir.is_immutable(None) || dir.is_immutable(Some(&place.name)))
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
    report: &'a dyn Report,
    // Set once the change is noted, so that an older copy of the index is recognised.
    is_noted: bool,
    journal: Journal,
    // Directories of the archive that may be empty now.
    emptied: BTreeSet<AbsPath>,
}

impl<'a> Dropping<'a> {
    fn open(
        repository: &'a Repository,
        (source, name): (SourceId, &SourceName),
        report: &'a dyn Report,
    ) -> Result<Dropping<'a>> {
        let staging = Staging::open(repository.staging(name)?)
            .on_server(format_args!("can't open `staging/{name}`"))
            .map_err(|error| error.at(name))?;
        let journal = Journal::open(repository, (source, name), Arc::new(staging))?;
        Ok(Dropping { repository, report, is_noted: false, journal, emptied: BTreeSet::new() })
    }

    fn carry_out(&mut self, index: &mut Index, batch: Batch, then: Then) -> Result<()> {
        if !batch.rows.is_empty() && !std::mem::replace(&mut self.is_noted, true) {
            self.repository.note_change(index)?;
        }
        let done = self.journal.carry_out(index, batch, then)?;
        done.settle(index, |_| Ok(()))?;
        done.found.report(self.report);
        self.emptied.extend(done.batch.deeds.into_iter().filter_map(|deed| match deed {
            Deed::Drop { directory, .. } | Deed::Delete { directory, .. } => Some(directory),
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

/// The runs of a source, by what becomes of them.
struct Split {
    kept: BTreeSet<i64>,
    dropped: Vec<i64>,
    // Those of the kept ones whose dates can't be right.
    misdated: BTreeSet<i64>,
}

impl Split {
    // A failed run shows no moment that a rule could mean: it counts for nothing, and goes when a good one came after it. The run
    // of a rebuild shows what was left of the trees: it is kept in addition, and does not count against the limits for pulls. A
    // date that can't be right proves nothing, so that run is kept and counts for nothing, too.
    fn of(runs: &[RunRow], keep: &Keep, now: &ZonedDateTime) -> Split {
        let misdated = misdated(runs, now.timestamp());
        let is_rebuild = |run: &RunRow| run.outcome.as_deref() == Some("rebuild");
        let good: Vec<_> = runs.iter().filter(|run| run.has_finished() || is_rebuild(run)).collect();
        let newest = good.iter().map(|run| run.id).max().unwrap_or(i64::MAX);
        let dated: Vec<_> = good.into_iter().filter(|run| !misdated.contains(&run.id)).collect();
        let kept_of = |runs: &[&RunRow]| {
            let runs: Vec<_> = runs.iter().map(|run| (run.id, run.started)).collect();
            keep.kept(&runs, now.time_zone())
        };
        let (rebuilds, pulls): (Vec<_>, Vec<_>) = dated.iter().partition(|run| is_rebuild(run));
        let kept_with_rebuilds = kept_of(&dated);
        let mut kept = kept_of(&pulls);
        kept.extend(rebuilds.iter().map(|run| run.id).filter(|run| kept_with_rebuilds.contains(run)));
        kept.extend(&misdated);
        kept.extend(contradicting(runs.iter().map(|run| (run.id, run.started)), &misdated, now.timestamp()));
        kept.extend(runs.iter().map(|run| run.id).filter(|run| *run > newest));
        let dropped = runs.iter().map(|run| run.id).filter(|run| !kept.contains(run)).collect();
        Split { kept, dropped, misdated }
    }
}

fn report_misdated(report: &dyn Report, source: &SourceName, misdated: &BTreeSet<i64>) {
    const MAX_NAMED: usize = 5;
    if misdated.is_empty() {
        return;
    }
    let named: Vec<_> = misdated.iter().take(MAX_NAMED).map(i64::to_string).collect();
    let more = if misdated.len() > MAX_NAMED { ", …" } else { "" };
    report.warn(format_args!(
        "the clock was wrong for {} of `{source}` ({}{more}): dated later than now, before 2020 or not in the order of their \
         numbers; kept, and no rule counts them",
        counted(misdated.len() as u64, "run"),
        named.join(", "),
    ));
}

// A stray that was past from the beginning belongs to the run that found it.
fn is_shown(version: &Version, kept: &BTreeSet<i64>) -> bool {
    let until = version.until_run.unwrap_or(i64::MAX).max(version.from_run + 1);
    kept.range(version.from_run..until).next().is_some()
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    const DAY: i64 = 86_400;

    fn now() -> ZonedDateTime {
        "2026-11-23T12:00:00[Europe/Berlin]".parse().unwrap()
    }

    /// A run by its number and its age in seconds.
    fn run(id: i64, age: i64, outcome: &str, exit: u8) -> RunRow {
        let started = now().timestamp() - jiff::SignedDuration::from_secs(age);
        let summary = Some(format!("{{\"exit\":{exit}}}"));
        RunRow { id, started, ended: Some(started), outcome: Some(outcome.to_owned()), summary }
    }

    fn dropped(runs: &[RunRow], keep: &Keep, now: &ZonedDateTime) -> (Vec<i64>, Vec<i64>) {
        let Split { kept, mut dropped, misdated } = Split::of(runs, keep, now);
        assert_eq!(kept.len() + dropped.len(), runs.len());
        dropped.sort();
        (dropped, misdated.into_iter().collect())
    }

    #[test]
    fn wrong_clock_drops_nothing_that_the_right_one_would_keep() {
        let within = Keep { within: Some(30.days().fieldwise()), ..Keep::default() };
        let daily = Keep { daily: Some(14), weekly: Some(8), monthly: Some(12), ..Keep::default() };
        let last = Keep { last: Some(3), ..Keep::default() };
        let yearly = Keep { yearly: Some(2), ..Keep::default() };
        let runs: Vec<_> = (1..=40).map(|id| run(id, (41 - id) * DAY, "ok", 0)).collect();
        for keep in [within, daily, last, yearly] {
            let (expected, none) = dropped(&runs, &keep, &now());
            assert_eq!(none, [0; 0]);
            for years in [-30, -12, -2, 3, 12, 56] {
                for at in [0, 20, 39] {
                    let mut wrong = runs.clone();
                    wrong[at] = run(at as i64 + 1, years * 365 * DAY, "ok", 0);
                    let (gone, misdated) = dropped(&wrong, &keep, &now());
                    // The first run may well have been pulled years ago.
                    if at > 0 || years < 0 {
                        assert_eq!(misdated, [at as i64 + 1], "{keep:?} {years}");
                        assert!(!gone.contains(&(at as i64 + 1)));
                    }
                    let others: Vec<_> = gone.iter().filter(|run| !expected.contains(run)).collect();
                    assert!(others.iter().all(|run| **run == at as i64 + 1), "{keep:?} {years}: {others:?}");
                }
            }
        }
    }

    #[test]
    fn clock_of_prune_itself_may_be_wrong() {
        let runs: Vec<_> = (1..=40).map(|id| run(id, (41 - id) * DAY, "ok", 0)).collect();
        let keep = Keep { within: Some(30.days().fieldwise()), ..Keep::default() };
        let expected = dropped(&runs, &keep, &now()).0;
        assert_eq!(dropped(&runs, &keep, &(now() + 12.years())).0, expected);
        let (gone, misdated) = dropped(&runs, &keep, &(now() - 12.years()));
        assert_eq!((gone.len(), misdated.len()), (0, 40));
    }

    #[test]
    fn clock_that_is_ahead_for_pull_and_prune_drops_nothing() {
        let keep = Keep { within: Some(30.days().fieldwise()), ..Keep::default() };
        let mut runs: Vec<_> = (1..=40).map(|id| run(id, (41 - id) * DAY, "ok", 0)).collect();
        let expected: Vec<_> = dropped(&runs, &keep, &now()).0;
        runs.push(run(41, -12 * 365 * DAY, "ok", 0));
        let (gone, misdated) = dropped(&runs, &keep, &(now() + 12.years()));
        // One more run has made one more day.
        assert_eq!((gone.len(), misdated.len()), (expected.len() + 1, 0));
    }

    #[test]
    fn run_that_lost_its_client_does_not_stand_for_its_day() {
        let keep = Keep { daily: Some(9), ..Keep::default() };
        let runs = [run(1, 7200, "ok", 0), run(2, 3600, "partial", 6), run(3, 0, "failed", 1)];
        assert_eq!(dropped(&runs, &keep, &now()).0, [0; 0]);
        let runs = [run(1, 7200, "ok", 0), run(2, 3600, "partial", 6), run(3, 0, "partial", 3)];
        assert_eq!(dropped(&runs, &keep, &now()).0, [1, 2]);
    }
}
