//! `verify`: is every plain file still what the index says? Reads each inode once, several at a time.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use jiff::Timestamp;
use serde::Serialize;

use crate::check::{Problems, check_source};
use crate::entry::{Hash, hash_content};
use crate::error::{Error, Kind, Result};
use crate::path::{AbsPath, Escaped, SourceName};
use crate::report::Report;
use crate::repository::Repository;
use crate::repository::dirs::Metadata;
use crate::repository::index::{Index, Located, SourceId, Verification};
use crate::repository::journal::recover;
use crate::repository::lock::Lock;
use crate::repository::place::Place;
use crate::source::LinkWhen;

mod repair;

use repair::Repair;

// How long to wait for a pull that has been broken off, and is about to be gone.
const PATIENCE: Duration = Duration::from_secs(1);

// Files that may wait for a thread to read them.
const QUEUE: usize = 256;

// More threads than this rarely read faster.
const MOST_THREADS: usize = 8;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Plain files in both trees.
    pub files: u64,
    /// Inodes that were read.
    pub inodes: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is not as it should be: rotten, missing, unknown, or of another size or kind.
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

/// Compares the trees of a source with the index, content included, and tells of every difference as an error.
pub fn verify(repository: &Repository, source: &SourceName, options: Options, report: &dyn Report) -> Result<Verified> {
    let mut index = repository.known_index()?;
    let _lock = options.repair.map(|_| Lock::source(repository, source, PATIENCE)).transpose()?;
    if options.repair.is_some() {
        recover(repository, &mut index, source)?;
    }
    let Problems { count: bad, mut lost } = check_source(repository, &mut index, source, report)?;
    let Some(id) = index.source_id(source)? else { return Ok(Verified { bad, ..Verified::default() }) };
    let chosen = match options.sample {
        Some(percent) => Some(index.longest_unverified(id, percent)?.into_iter().collect::<HashSet<_>>()),
        None => None,
    };
    let reading = Reading { repository, source, id, chosen, inodes: Mutex::default() };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let mut verified = Verified { bad, ..Verified::default() };
    let mut right = HashMap::new();
    thread::scope(|scope| {
        let (found, to_read) = bounded::<Copy>(QUEUE);
        let (read, outcomes) = bounded(QUEUE);
        let finder = scope.spawn(|| reading.find(&repository.known_index()?, found));
        for _ in 0..threads {
            let (to_read, read, reading) = (to_read.clone(), read.clone(), &reading);
            scope.spawn(move || reading.read(&to_read, &read));
        }
        drop((to_read, read));
        for (copy, outcome) in outcomes {
            verified.files += 1;
            if outcome.first {
                verified.inodes += 1;
                verified.bytes += copy.metadata.size;
            }
            let is_right = reading.judge(&index, &copy, &outcome, report)?;
            verified.bad += u64::from(!is_right);
            *right.entry(copy.located.version.id).or_insert(true) &= is_right;
            if !is_right {
                lost.push((copy.place.tree, copy.located.version));
            }
        }
        finder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    if let Some(link) = options.repair {
        let mut repair = Repair::open(repository, source, link)?;
        for (tree, version) in lost {
            verified.repaired += u64::from(repair.repair(&mut index, (tree, &version), report)?);
        }
        verified.bad -= verified.repaired;
    }
    let ended = Timestamp::now();
    let write = index.write()?;
    right.iter().filter(|(_, right)| **right).try_for_each(|(version, _)| write.set_verified(*version, ended))?;
    write.end_verification(id, &Verification { ended, files: verified.files, bad: verified.bad })?;
    write.commit()?;
    Ok(verified)
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

impl Reading<'_> {
    // Directory by directory, so that no long look at the index holds up those who write to it.
    fn find(&self, index: &Index, found: Sender<Copy>) -> Result<()> {
        for (id, directory) in index.directories_below(self.id, &AbsPath::root())? {
            for version in index.versions_in(id)? {
                if version.hash.is_none() || self.chosen.as_ref().is_some_and(|chosen| !chosen.contains(&version.id)) {
                    continue;
                }
                let located = Located { source: self.source.clone(), directory: directory.clone(), version };
                for place in Place::all_of(&located) {
                    // What can't be opened, or has another size, was told of already.
                    let Ok((dir, metadata)) = place.look(self.repository) else { continue };
                    let Ok(file) = dir.open_file(&place.name) else { continue };
                    if metadata.size != located.version.entry.size {
                        continue;
                    }
                    if found.send(Copy { located: located.clone(), place, metadata, file }).is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&self, copies: &Receiver<Copy>, read: &Sender<(Copy, Outcome)>) {
        for copy in copies {
            let mut first = false;
            let mut hash = || {
                first = true;
                hash_content(&copy.file, blake3::Hasher::new()).map_err(|error| error.to_string())
            };
            let hash = match copy.metadata.links {
                1 => hash(),
                _ => self.promised(copy.metadata.inode).get_or_init(hash).clone(),
            };
            if read.send((copy, Outcome { hash, first })).is_err() {
                return;
            }
        }
    }

    fn promised(&self, inode: (u64, u64)) -> Promised {
        let mut inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(inodes.entry(inode).or_default())
    }

    // True when it is what the index says, or is no longer what the index speaks of.
    fn judge(&self, index: &Index, copy: &Copy, outcome: &Outcome, report: &dyn Report) -> Result<bool> {
        let version = &copy.located.version;
        let Some(expected) = version.hash else { return Ok(true) };
        let why = match &outcome.hash {
            Ok(hash) if *hash == expected => return Ok(true),
            Ok(_) => "is rotten: its content is not what it was".to_owned(),
            Err(error) => format!("can't be read: {error}"),
        };
        // A pull may have replaced it meanwhile.
        let now = index.versions_at(self.id, &self.path(copy)?)?;
        let is_same = |now: &&crate::entry::Version| {
            now.id == version.id && now.until_run == version.until_run && now.hash == version.hash
        };
        if !now.iter().any(|now| is_same(&now)) {
            return Ok(true);
        }
        let place = copy.place.on_disk();
        match Place::intact(self.repository, index, &expected, &copy.place)? {
            Some(good) => {
                report.error(format_args!(
                    "`{}` {why}; a good copy is at `{}`",
                    Escaped(&place),
                    Escaped(&good.on_disk())
                ));
            }
            None => report.error(format_args!("`{}` {why}, and there is no good copy", Escaped(&place))),
        }
        Ok(false)
    }

    fn path(&self, copy: &Copy) -> Result<AbsPath> {
        let path = copy.located.directory.join(&copy.located.version.entry.name);
        path.ok_or_else(|| Error::new(Kind::Failed, "the index holds a path that is too long"))
    }
}
