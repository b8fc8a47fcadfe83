//! `verify`: is every plain file still what the index says? Reads each inode once, several at a time.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use jiff::Timestamp;
use nix::errno::Errno;
use serde::Serialize;

use crate::entry::{Hash, Version, hash_content};
use crate::error::{Error, Kind, Result, cause};
use crate::index::check::{Problems, check_source, finish_interrupted};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::report::Report;
use crate::repository::Repository;
use crate::repository::dirs::Metadata;
use crate::repository::index::{Index, Located, Record, SourceId, Verification};
use crate::repository::journal::recover;
use crate::repository::lock::Lock;
use crate::repository::place::Place;
use crate::source::LinkWhen;
use crate::time::clamped_nanoseconds;

mod orphans;
mod repair;

use orphans::Orphans;
use repair::Repair;

// How long to wait for a pull that has been broken off, and is about to be gone.
const PATIENCE: Duration = Duration::from_secs(1);

// Files that may wait for a thread to read them.
const QUEUE: usize = 256;

// How many inodes are written to the index at once.
const RECORDS: usize = 8192;

// More threads than this rarely read faster.
const MOST_THREADS: usize = 8;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Plain files in both trees.
    pub files: u64,
    /// Plain files with content that a sample was taken from; `None` when all were read.
    #[serde(skip)]
    pub sampled_from: Option<u64>,
    /// Inodes that were read.
    pub inodes: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is not as it should be: corrupt, missing, unknown, or of another size or kind.
    pub bad: u64,
    /// What was, but is no longer, for it was repaired.
    pub repaired: u64,
}

/// How to verify.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Read only this share of the files, in percent: the ones that were verified the longest ago.
    pub sample: Option<u8>,
    /// Put good copies to where plain files are not what they were; linked when the source's files are.
    pub repair: Option<LinkWhen>,
}

// A repair holds the lock until it is done.
fn begin(
    repository: &Repository,
    source: &SourceName,
    options: Options,
    report: &dyn Report,
) -> Result<(Option<Lock>, Index)> {
    if options.repair.is_none() {
        let mut index = repository.index_to_note()?;
        repository.check_index_is_newest(&index)?;
        finish_interrupted(repository, &mut index, source, report)?;
        return Ok((None, index));
    }
    let lock = Lock::source(repository, source, PATIENCE)?;
    let mut index = repository.index()?;
    repository.check_index_is_newest(&index)?;
    recover(repository, &mut index, source)?.found.report(report);
    Ok((Some(lock), index))
}

/// Compares the trees of a source with the index, content included, and reports every difference as an error.
pub fn verify(repository: &Repository, source: &SourceName, options: Options, report: &dyn Report) -> Result<Verified> {
    let (_lock, mut index) = begin(repository, source, options, report)?;
    let Problems { count: bad, lost, baseless, unknown } = check_source(repository, &index, source, report)?;
    let Some(id) = index.source_id(source)? else { return Ok(Verified { bad, ..Verified::default() }) };
    let oldest = |percent| index.longest_unverified(id, percent, Timestamp::now());
    let chosen = options.sample.map(oldest).transpose()?.map(HashSet::from_iter);
    let reading = Reading { repository, source, id, chosen, inodes: Mutex::default() };
    let mut notes = Notes { is_on: index.is_writable(), records: Vec::new() };
    let Read { mut verified, mut examined, wrong } = reading.all(&mut index, &mut notes, report)?;
    verified.bad += bad + wrong.len() as u64;
    verified.sampled_from = options.sample.map(|_| index.plain_files(id)).transpose()?;
    let mut sources = Sources::new(repository, &index, &wrong);
    wrong.iter().try_for_each(|wrong| sources.tell(wrong, report))?;
    let misplaced = sources.misplaced;
    let known: HashSet<i64> = lost.iter().map(|(_, version)| version.id).collect();
    if let Some(link) = options.repair {
        let wrong = wrong.into_iter().map(|wrong| (wrong.place.tree, wrong.version));
        let lost = lost.into_iter().chain(wrong).map(|(tree, version)| (Some(tree), version));
        let lost: Vec<_> = lost.chain(baseless.into_iter().map(|version| (None, version))).collect();
        if !lost.is_empty() {
            repository.note_change(&mut index)?;
        }
        let orphans = Orphans::find(repository, source, &unknown)?;
        let repaired =
            Repair::open(repository, source, link, (misplaced, orphans))?.repair(&mut index, lost, report)?;
        examined.extend(repaired.iter().map(|version| (*version, false)));
        verified.repaired = repaired.len() as u64;
        verified.bad -= verified.repaired;
    }
    notes.keep(|| remember(&mut index, id, &known, &examined, &verified))?;
    if !notes.is_on {
        report.notice(format_args!("the index can't be written: this verification of `{source}` is not recorded"));
    }
    Ok(verified)
}

/// What the index is told meanwhile, unless it can't be written.
struct Notes {
    is_on: bool,
    // So that no file has to be read again before it is linked to.
    records: Vec<(u64, Record)>,
}

impl Notes {
    fn keep_records(&mut self, index: &mut Index) -> Result<()> {
        let records = std::mem::take(&mut self.records);
        self.keep(|| {
            let write = index.write()?;
            write.set_inodes(records)?;
            write.commit()
        })
    }

    // A full disk is none the worse for being read.
    fn keep(&mut self, write: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.is_on {
            return Ok(());
        }
        match write() {
            Err(error) if error.kind() == Kind::Full => {
                self.is_on = false;
                Ok(())
            }
            other => other,
        }
    }
}

// What a sample did not read is as bad as it was when it was last read.
fn remember(
    index: &mut Index,
    id: SourceId,
    known: &HashSet<i64>,
    examined: &HashMap<i64, bool>,
    verified: &Verified,
) -> Result<()> {
    let ended = Timestamp::now();
    let write = index.write()?;
    examined.iter().try_for_each(|(version, bad)| write.set_examined(*version, ended, *bad))?;
    write.commit()?;
    let is_told = |version: &i64| known.contains(version) || examined.contains_key(version);
    let others = index.bad_when_examined(id)?.iter().filter(|version| !is_told(version)).count() as u64;
    let bad = verified.bad + others;
    let write = index.write()?;
    write.end_verification(id, &Verification { ended, files: verified.files, bad })?;
    write.commit()
}

/// A plain file that is not what the index says.
struct Wrong {
    place: Place,
    version: Version,
    why: String,
    // What it is instead.
    found: Option<Hash>,
}

/// Where good copies are of what is wrong.
struct Sources<'a> {
    repository: &'a Repository,
    index: &'a Index,
    // Contents that were found where others should be.
    misplaced: HashMap<Hash, Place>,
    // By content: reading all its places again for each of its names would take long.
    known: HashMap<Hash, Option<Place>>,
}

impl<'a> Sources<'a> {
    fn new(repository: &'a Repository, index: &'a Index, wrong: &[Wrong]) -> Sources<'a> {
        let misplaced = wrong.iter().filter_map(|wrong| Some((wrong.found?, wrong.place.clone()))).collect();
        Sources { repository, index, misplaced, known: HashMap::new() }
    }

    fn tell(&mut self, wrong: &Wrong, report: &dyn Report) -> Result<()> {
        let place = wrong.place.on_disk();
        let (place, why) = (Escaped(&place), &wrong.why);
        match self.of(wrong)? {
            Some(good) => {
                let good = good.on_disk();
                report.error(format_args!("`{place}` {why}; a good copy is at `{}`", Escaped(&good)));
            }
            None => report.error(format_args!("`{place}` {why}, and there is no good copy")),
        }
        Ok(())
    }

    fn of(&mut self, wrong: &Wrong) -> Result<Option<Place>> {
        let Some(hash) = wrong.version.hash else { return Ok(None) };
        if let Some(known) = self.known.get(&hash) {
            return Ok(known.clone());
        }
        let intact = Place::intact(self.repository, self.index, &hash, &wrong.place)?.map(|(place, _)| place);
        let found = intact.or_else(|| self.misplaced.get(&hash).cloned());
        self.known.insert(hash, found.clone());
        Ok(found)
    }
}

/// A plain file to be read.
struct Copy {
    located: Located,
    place: Place,
    metadata: Metadata,
    file: File,
}

/// What reading it told.
struct Outcome {
    hash: std::result::Result<Hash, String>,
    // Set for the first name of an inode.
    first: bool,
}

// A hash that is known, or about to be.
type Promised = Arc<OnceLock<std::result::Result<Hash, String>>>;

struct Reading<'a> {
    repository: &'a Repository,
    source: &'a SourceName,
    id: SourceId,
    // Versions that are read; all when `None`.
    chosen: Option<HashSet<i64>>,
    // Of inodes with several names.
    inodes: Mutex<HashMap<(u64, u64), Promised>>,
}

/// What reading told.
struct Read {
    verified: Verified,
    // The versions whose plain files were read, and whether one was bad.
    examined: HashMap<i64, bool>,
    wrong: Vec<Wrong>,
}

impl Reading<'_> {
    fn all(&self, index: &mut Index, notes: &mut Notes, report: &dyn Report) -> Result<Read> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let mut done = Read { verified: Verified::default(), examined: HashMap::new(), wrong: Vec::new() };
        let unreadable = thread::scope(|scope| {
            let (found, to_read) = bounded::<Copy>(QUEUE);
            let (read, outcomes) = bounded(QUEUE);
            let finder = scope.spawn(|| self.find(&self.repository.known_index()?, found, report));
            for _ in 0..threads {
                let (to_read, read) = (to_read.clone(), read.clone());
                scope.spawn(move || self.read(&to_read, &read));
            }
            drop((to_read, read));
            for (copy, outcome) in outcomes {
                done.verified.files += 1;
                if outcome.first {
                    done.verified.inodes += 1;
                    done.verified.bytes += copy.metadata.size;
                }
                if let (true, Ok(hash)) = (outcome.first && copy.metadata.size > 0, &outcome.hash) {
                    let read = clamped_nanoseconds(Timestamp::now());
                    notes.records.push((copy.metadata.inode.1, Record::of(&copy.metadata, *hash, read)));
                    if notes.records.len() >= RECORDS {
                        notes.keep_records(index)?;
                    }
                }
                let is_bad = done.examined.entry(copy.located.version.id).or_insert(false);
                if let Some(found) = self.judge(index, copy, outcome)? {
                    *is_bad = true;
                    done.wrong.push(found);
                }
            }
            finder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        notes.keep_records(index)?;
        done.verified.bad = unreadable;
        Ok(done)
    }

    // Directory by directory, so that no long look at the index holds up those who write to it.
    // Returns how many plain files can't be opened.
    fn find(&self, index: &Index, found: Sender<Copy>, report: &dyn Report) -> Result<u64> {
        let mut unreadable = 0;
        for (id, directory) in index.directories_below(self.id, &AbsPath::root())? {
            for version in index.versions_in(id)? {
                if version.hash.is_none() || self.chosen.as_ref().is_some_and(|chosen| !chosen.contains(&version.id)) {
                    continue;
                }
                let located = Located { source: self.source.clone(), directory: directory.clone(), version };
                for place in Place::all_of(&located) {
                    // Missing files, and those of another kind or size, were reported already.
                    let opened = place.open_directory(self.repository);
                    let (file, metadata) = match opened.and_then(|dir| dir.open_file_with_metadata(&place.name)) {
                        Ok(opened) => opened,
                        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EINVAL | Errno::ENXIO) => continue,
                        Err(errno) => {
                            let (on_disk, error) = (place.on_disk(), errno.desc());
                            report.error(format_args!("`{}` can't be read: {error}", Escaped(&on_disk)));
                            unreadable += 1;
                            continue;
                        }
                    };
                    if metadata.size != located.version.entry.size {
                        continue;
                    }
                    if found.send(Copy { located: located.clone(), place, metadata, file }).is_err() {
                        return Ok(unreadable);
                    }
                }
            }
        }
        Ok(unreadable)
    }

    fn read(&self, copies: &Receiver<Copy>, read: &Sender<(Copy, Outcome)>) {
        for copy in copies {
            let mut first = false;
            let mut hash = || {
                first = true;
                hash_content(&copy.file, blake3::Hasher::new()).map_err(|error| cause(&error))
            };
            let is_shared = copy.metadata.links > 1 && copy.metadata.identifies;
            let hash = if is_shared { self.promised(copy.metadata.inode).get_or_init(hash).clone() } else { hash() };
            if read.send((copy, Outcome { hash, first })).is_err() {
                return;
            }
        }
    }

    fn promised(&self, inode: (u64, u64)) -> Promised {
        let mut inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(inodes.entry(inode).or_default())
    }

    // `None` when it is what the index says, or is no longer what the index speaks of.
    fn judge(&self, index: &Index, copy: Copy, outcome: Outcome) -> Result<Option<Wrong>> {
        let version = &copy.located.version;
        let (why, found) = match outcome.hash {
            Ok(hash) if version.hash.is_none_or(|expected| expected == hash) => return Ok(None),
            Ok(hash) => ("is corrupt: its content is not what it was".to_owned(), Some(hash)),
            Err(error) => (format!("can't be read: {error}"), None),
        };
        // A pull may have replaced it meanwhile.
        let now = index.versions_at(self.id, &self.path(&copy)?)?;
        let is_same =
            |now: &Version| now.id == version.id && now.until_run == version.until_run && now.hash == version.hash;
        let is_still = now.iter().any(is_same);
        Ok(is_still.then_some(Wrong { place: copy.place, version: copy.located.version, why, found }))
    }

    fn path(&self, copy: &Copy) -> Result<AbsPath> {
        let path = copy.located.directory.join(&copy.located.version.entry.name);
        path.ok_or_else(|| Error::new(Kind::Failed, "the index holds a path that is too long"))
    }
}
