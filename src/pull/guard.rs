//! Stops a run that would remove more than its user expects, before anything in the trees is changed.
//!
//! Changes wait in front of the trees until the [`Gate`] opens: when enough of what is remembered was listed again, or when
//! the listing has ended and [`Removals`] are within the limit. Content that still exists under another name does not count.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

pub use self::gone::GoneFiles;
use self::mounts::Mounts;
use super::dispatch::{each_current, each_directory_below};
use super::removals::Removals;
use super::{Directory, Options};
use crate::entry::{Entry, Kind, Version};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::path::AbsPath;
use crate::plan::Step;
use crate::repository::index::{Index, SourceId, Stop};
use crate::source::Source;

mod gone;
mod mounts;

// Fewer removed files than this are never refused.
const MIN_GUARDED_FILES: u64 = 100;

// New files that are remembered, to recognise those that were moved: two numbers of 8 bytes each.
const MAX_NEW_FILES: usize = 512 * 1024;

/// What the index knew as the run began.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    /// The index.
    pub index: &'a Index,
    /// The source's number.
    pub source_id: SourceId,
    /// The run's number; `None` for a dry run.
    pub run: Option<i64>,
    /// True when it knew nothing of the source.
    pub is_empty: bool,
}

impl Before<'_> {
    fn count_files(&self, roots: &[AbsPath]) -> Result<u64> {
        roots.iter().map(|root| self.index.count_files_below(self.source_id, root, self.run)).sum()
    }
}

/// What the guards of a run have found.
#[derive(Debug)]
pub struct Outcome {
    /// What they stopped it for.
    pub stop: Option<Stop>,
    /// The files that are gone, besides those in and below missing paths.
    pub gone: Option<GoneFiles>,
    /// The roots that were listed to the end.
    pub listed: Vec<AbsPath>,
}

/// What a person has allowed a run to remove, and what a guard stops it for.
#[derive(Debug)]
pub struct Consent {
    // Missing and empty roots may lose everything.
    all_missing: bool,
    // Nothing is noted for `archive accept`.
    is_dry_run: bool,
    // What `archive accept` has allowed.
    accepted: Option<Stop>,
    stop: Mutex<Option<Stop>>,
    // The files that the stop is for, besides those in its paths.
    gone: Mutex<Option<GoneFiles>>,
    // The roots that were listed to the end.
    listed: Mutex<Vec<AbsPath>>,
}

impl Consent {
    /// What the user of a pull, and `archive accept` before it, have allowed.
    pub fn read(known: Option<(&Index, SourceId)>, options: &Options) -> Result<Consent> {
        let stopped = known.map(|(index, source)| index.stop_of(source)).transpose()?.flatten();
        let accepted = stopped.filter(|stopped| stopped.is_accepted).map(|stopped| stopped.stop);
        let Options { allow_missing: all_missing, dry_run: is_dry_run, .. } = *options;
        let (stop, gone, listed) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Consent { all_missing, is_dry_run, accepted, stop, gone, listed })
    }

    /// True when a missing or empty path may lose everything, as what is below an accepted one may.
    pub fn allows_missing(&self, path: &AbsPath) -> bool {
        self.all_missing || self.has_accepted_path(path)
    }

    fn has_accepted_path(&self, path: &AbsPath) -> bool {
        let mut accepted = self.accepted.iter().flat_map(|stop| &stop.paths);
        accepted.any(|accepted| path.starts_with(accepted))
    }

    // True when `archive accept` has allowed the removal of this file.
    fn has_accepted(&self, index: &Index, directory: &AbsPath, file: &Version) -> Result<bool> {
        if self.accepted.is_none() {
            return Ok(false);
        }
        let is_below = directory.join(&file.entry.name).is_some_and(|path| self.has_accepted_path(&path));
        Ok(is_below || index.is_stopped_file(file.id)?)
    }

    /// Notes what would have to be accepted.
    pub fn note(&self, stop: Stop) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
    }

    /// Notes the roots that were listed to the end.
    pub fn note_listed(&self, roots: &[AbsPath]) {
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = roots.to_vec();
    }

    fn note_gone(&self, gone: Option<GoneFiles>) {
        *self.gone.lock().unwrap_or_else(PoisonError::into_inner) = gone;
    }

    /// What the run was stopped for, and the roots that it has listed.
    pub fn into_outcome(self) -> Outcome {
        Outcome {
            stop: self.stop.into_inner().unwrap_or_else(PoisonError::into_inner),
            gone: self.gone.into_inner().unwrap_or_else(PoisonError::into_inner),
            listed: self.listed.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The error for paths that are missing on the client, or empty.
    pub fn missing(&self, source: &Source, what: std::fmt::Arguments<'_>) -> Error {
        let hint = format!("is it mounted there? {}", self.hint(source, "--allow-missing"));
        Error::new(ErrorKind::Guard, what).hint(hint)
    }

    /// The hint of a guard: the ways to let a stopped run pass.
    fn hint(&self, source: &Source, flag: &str) -> String {
        let name = &source.name;
        let accept = format!("`archive accept {name}`");
        if self.is_dry_run {
            format!(
                "a pull would stop here; if the files are meant to be gone, run it, then {accept}, or pull once with `{flag}`"
            )
        } else {
            format!("nothing was changed; if the files are meant to be gone, run {accept}, or pull once with `{flag}`")
        }
    }
}

fn is_within(removed: u64, files: u64, source: &Source) -> bool {
    let max_percent = u64::from(source.settings.max_delete);
    removed < MIN_GUARDED_FILES || max_percent >= 100 || removed * 100 <= files * max_percent
}

/// Keeps changes from the trees until it is certain that the guard does not stop the run.
#[derive(Debug, Default)]
pub struct Gate {
    is_open: AtomicBool,
    // Remembered entries that were listed again.
    present: AtomicU64,
    // Remembered mount points that were not listed again.
    mounts: AtomicU64,
}

impl Gate {
    /// Notes remembered entries that were listed again.
    pub fn note_present(&self, entries: u64) {
        self.present.fetch_add(entries, Ordering::Relaxed);
    }

    /// Sets how many mount points are remembered: each may turn out to be empty.
    pub fn expect_mounts(&self, count: u64) {
        self.mounts.store(count, Ordering::Relaxed);
    }

    /// Notes a remembered mount point that was listed again.
    pub fn note_mount(&self) {
        self.mounts.fetch_sub(1, Ordering::Relaxed);
    }

    /// Lets all changes pass.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// True when changes may pass.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }
}

/// Opens a gate as soon as what was not listed yet is too little to be refused.
#[derive(Debug, Default)]
pub struct Watch {
    // Current entries below the roots as the run began, and the files among them.
    entries: Option<u64>,
    files: Option<u64>,
}

impl Watch {
    /// Opens the gate if it can be opened. True when it is open.
    pub fn opens(&mut self, gate: &Gate, before: Before<'_>, source: &Source, roots: &[AbsPath]) -> Result<bool> {
        if gate.is_open() {
            return Ok(true);
        }
        if gate.mounts.load(Ordering::Relaxed) > 0 {
            return Ok(false);
        }
        if source.settings.max_delete >= 100 {
            gate.open();
            return Ok(true);
        }
        let entries = match self.entries {
            Some(entries) => entries,
            None => *self.entries.insert(before.index.count_entries_below(before.source_id, roots)?),
        };
        let missing = entries.saturating_sub(gate.present.load(Ordering::Relaxed));
        // Counting the files takes longer, and helps only when the share is near the limit.
        if !is_within(missing, entries, source) {
            return Ok(false);
        }
        let files = match self.files {
            Some(files) => files,
            None => *self.files.insert(before.count_files(roots)?),
        };
        if is_within(missing, files, source) {
            gate.open();
        }
        Ok(gate.is_open())
    }
}

/// Files that are new at their paths, by what a moved file keeps: its size, and its time or its name.
#[derive(Debug, Default)]
struct NewFiles {
    // By what a move keeps: how many new files have it.
    counts: HashMap<u64, u32>,
    files: u64,
}

impl NewFiles {
    fn add(&mut self, entry: &Entry) {
        if entry.kind == Kind::File && self.counts.len() < 2 * MAX_NEW_FILES {
            kept_by_move(entry).into_iter().for_each(|key| *self.counts.entry(key).or_default() += 1);
            self.files += 1;
        }
    }

    // Each new file stands for one that is gone.
    fn take(&mut self, entry: &Entry) -> bool {
        let counts = &mut self.counts;
        let mut take = |key| counts.get_mut(&key).filter(|count| **count > 0).map(|count| *count -= 1);
        kept_by_move(entry).into_iter().any(|key| take(key).is_some())
    }
}

fn kept_by_move(entry: &Entry) -> [u64; 2] {
    let size = entry.size.to_le_bytes();
    let time = [&b"time"[..], &size, &entry.mtime.to_bytes()].concat();
    let name = [&b"name"[..], &size, entry.name.as_bytes()].concat();
    [xxh3_64(&time), xxh3_64(&name)]
}

/// Counts what a run would remove.
pub struct RemovalGuard<'a> {
    before: Before<'a>,
    source: &'a Source,
    removals: Removals<'a>,
    removed_files: u64,
    new_files: NewFiles,
    mounts: Mounts,
}

impl<'a> RemovalGuard<'a> {
    /// Nothing is removed yet.
    pub fn new(before: Before<'a>, source: &'a Source, removals: Removals<'a>) -> RemovalGuard<'a> {
        let (new_files, mounts) = (NewFiles::default(), Mounts::default());
        RemovalGuard { before, source, removals, removed_files: 0, new_files, mounts }
    }

    /// Notes what a step adds and removes. True when it removes something: then it waits for the decision.
    pub fn note(&mut self, directory: &Arc<Directory>, step: &Step) -> Result<bool> {
        if let Step::New { entry } = step {
            self.note_new(entry);
        }
        let Some((old, replacement)) = step.removed() else { return Ok(false) };
        let files = match path_of_directory(&directory.path, old) {
            Some(path) => {
                self.mounts.note_removed_directory(&path, self.before, self.source)?;
                self.before.index.count_files_below(self.before.source_id, &path, None)?
            }
            None => u64::from(old.entry.kind == Kind::File),
        };
        self.mounts.note_removed(&directory.path, &old.entry.name, files);
        self.removed_files += files;
        replacement.into_iter().for_each(|entry| self.note_new(entry));
        self.removals.add(old.id, directory, replacement.cloned())?;
        Ok(true)
    }

    /// Notes an entry of a directory that had another path before.
    pub fn note_moved(&mut self, directory: &Directory, entry: &Entry) {
        self.mounts.note_moved(directory);
        self.note_new(entry);
    }

    /// Notes that nothing is mounted any more on a mount point; what is removed below it may have gone with the file system.
    pub fn note_unmounted(&mut self, path: &AbsPath) {
        self.mounts.note_unmounted(path);
    }

    fn note_new(&mut self, entry: &Entry) {
        // In a first pull nothing can be removed that a new file could stand for.
        if !self.before.is_empty {
            self.new_files.add(entry);
        }
    }

    /// Returns the removals if they may be carried out.
    pub fn decide(mut self, roots: &[AbsPath], consent: &Consent) -> Result<Removals<'a>> {
        std::mem::take(&mut self.mounts).check(self.before, self.source, consent)?;
        // The files need not be counted where no number of them matters.
        if is_within(self.removed_files, 0, self.source) {
            return Ok(self.removals);
        }
        let files = self.before.count_files(roots)?;
        if is_within(self.removed_files, files, self.source) {
            return Ok(self.removals);
        }
        let Excused { moved, accepted, gone } = self.excuse(consent)?;
        // Files whose removal was accepted count as if they had been removed before.
        let (removed, files) = (self.removed_files - moved - accepted, files.saturating_sub(accepted));
        if is_within(removed, files, self.source) {
            return Ok(self.removals);
        }
        consent.note(Stop { removed, paths: Vec::new(), roots: roots.to_vec() });
        consent.note_gone(gone);
        let besides = match accepted {
            0 => String::new(),
            accepted => format!(" besides the {accepted} that were accepted"),
        };
        let max_percent = self.source.settings.max_delete;
        let what = format_args!(
            "{removed} of {files} files are gone on the client{besides}, more than {max_percent} % (max_delete)"
        );
        Err(Error::new(ErrorKind::Guard, what).hint(consent.hint(self.source, "--max-delete 100")))
    }

    fn excuse(&mut self, consent: &Consent) -> Result<Excused> {
        let (Before { index, source_id, .. }, new_files) = (self.before, &mut self.new_files);
        let gone = self.removals.staging().map(GoneFiles::new).transpose()?;
        let mut excused = Excused { moved: 0, accepted: 0, gone };
        let max_moved = new_files.files;
        let mut judge = |directory: &AbsPath, version: &Version| {
            if version.entry.kind != Kind::File {
                return Ok(());
            }
            if consent.has_accepted(index, directory, version)? {
                excused.accepted += 1;
            } else if excused.moved < max_moved && new_files.take(&version.entry) {
                excused.moved += 1;
            } else if let Some(gone) = &mut excused.gone {
                gone.add(version.id)?;
            }
            Ok(())
        };
        self.removals.each(|removal| {
            let old = index.version(removal.version)?;
            let directory = index.path_of_directory(old.directory)?;
            judge(&directory, &old)?;
            let Some(path) = path_of_directory(&directory, &old) else { return Ok(()) };
            each_directory_below(index, source_id, &path, |id, path| {
                each_current(index, id, |version| judge(&path, &version))
            })
        })?;
        Ok(excused)
    }
}

/// Removed files that don't count, and the others.
struct Excused {
    moved: u64,
    accepted: u64,
    // A dry run leaves nothing to accept.
    gone: Option<GoneFiles>,
}

fn path_of_directory(directory: &AbsPath, version: &Version) -> Option<AbsPath> {
    (version.entry.kind == Kind::Dir).then(|| directory.join(&version.entry.name)).flatten()
}
