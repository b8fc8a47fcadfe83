//! The index from the trees: all of it anew after a loss, or single files after somebody changed them by hand.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use jiff::Timestamp;
use nix::errno::Errno;

use crate::entry::{DirectoryId, Hash, Kind, Version, flags, hash_content, is_on_disk};
use crate::error::{Error, OnServer, Result, cause};
use crate::path::{AbsPath, Escaped, Name, SourceName};
use crate::report::{Report, counted};
use crate::repository::Repository;
use crate::repository::archive::{give_stamp, original_name, original_path, path_on_disk, renamed_directories};
use crate::repository::dirs::{Dir, Metadata};
use crate::repository::index::{Index, NewVersion, Record, SourceId, Unfound, Write};
use crate::repository::journal::{recover, update_layout};
use crate::repository::lock::Lock;
use crate::repository::place::Tree;
use crate::time::clamped_nanoseconds;

mod update;

pub use update::update;

const WHAT: &str = "can't read the trees";

// Files that may wait for a thread to hash them.
const QUEUE: usize = 1024;

// More threads than this rarely read faster.
const MOST_THREADS: usize = 8;

/// What a rebuild went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Files in both trees.
    pub files: u64,
    /// Different inodes among them.
    pub inodes: u64,
    /// Bytes of those inodes.
    pub bytes: u64,
}

/// Brings the index in line with the two trees, reading every inode once; makes it where there is none. What the index says
/// of a plain file that is as it says stays. Of others only place and content are certain: times, owners and modes of files
/// that share an inode, devices and earlier directories are lost.
pub fn rebuild(repository: &Repository, report: &dyn Report) -> Result<Rebuilt> {
    let _lock = Lock::repository(repository, Duration::ZERO)?;
    repository.make_room()?;
    repository.check_newest_can_be_noted()?;
    let mut index = repository.index()?;
    index.expect_much_writing()?;
    let (sources, unknown) = repository.known_sources(&index)?;
    for path in &unknown {
        report.warn(format_args!("`{}` is no source's, and is left alone", Escaped(path)));
    }
    finish_interrupted(repository, &mut index, &sources, report)?;
    let mut known = Vec::with_capacity(sources.len());
    for source in &sources {
        known.push(directories_on_disk(repository, &index, source, report)?);
    }
    let newest = repository.newest()?;
    let (mut rebuilt, mut baseless) = (Rebuilt::default(), Vec::new());
    // All sources in one transaction: an older index counts as the newest once all are taken in, and not before.
    let write = index.write()?;
    write.catch_up(newest)?;
    for (source, known) in sources.iter().zip(&known) {
        report.notice(format_args!("reads everything of `{source}`"));
        let unfound = rebuild_source(repository, (source, known), &write, report, &mut rebuilt)?;
        baseless.push((source, unfound.baseless));
    }
    write.restore_contents()?;
    write.commit()?;
    repository.note_newest(&index)?;
    for (source, count) in baseless.into_iter().filter(|(_, count)| *count > 0) {
        report.warn(format_args!(
            "{} of `{source}` without a plain file: `archive verify --repair` looks for the contents",
            counted(count, "version")
        ));
    }
    Ok(rebuilt)
}

// Finishes interrupted runs. A batch that can't be finished is dropped, and the trees are read as they are; so are all batches
// of an older index, which were finished long ago.
fn finish_interrupted(
    repository: &Repository,
    index: &mut Index,
    sources: &[SourceName],
    report: &dyn Report,
) -> Result<()> {
    let newest = repository.check_index_is_newest(index);
    if let Err(error) = &newest {
        report.notice(error);
    }
    for source in sources {
        if newest.is_err() {
            update_layout(repository, index, source)?;
        } else {
            match recover(repository, index, source) {
                Ok(recovered) => recovered.found.report(report),
                Err(error) => report.warn(&error),
            }
        }
    }
    Ok(())
}

fn rebuild_source(
    repository: &Repository,
    (source, known): (&SourceName, &Reverse),
    write: &Write<'_>,
    report: &dyn Report,
    rebuilt: &mut Rebuilt,
) -> Result<Unfound> {
    let id = write.enter_source(source)?;
    let run = write.begin_rebuild(id, Timestamp::now())?;
    write.clear_pending(id)?;
    write.begin_finding()?;
    enter_all(repository, (source, known), &Entering { report, write, source: id, run }, rebuilt)?;
    let unfound = write.end_finding(id, run)?;
    write.forget_fingerprints(id)?;
    write.end_rebuild(run, Timestamp::now())?;
    Ok(unfound)
}

// Client directories by their path in the archive, where the two differ.
type Reverse = HashMap<Vec<u8>, AbsPath>;

fn directories_on_disk(
    repository: &Repository,
    index: &Index,
    source: &SourceName,
    report: &dyn Report,
) -> Result<Reverse> {
    let id = index.source_id(source)?;
    let mut known = id.map_or(Ok(Reverse::new()), |id| renamed_directories(index, id))?;
    add_renamed(&repository.snapshot(source)?, &mut known)?;
    normalize(repository, source, &mut known, report)?;
    Ok(known)
}

// The index may not know a directory yet, or any more, that the snapshot has.
fn add_renamed(snapshot: &Dir, known: &mut Reverse) -> Result<()> {
    let mut waiting = vec![AbsPath::root()];
    while let Some(path) = waiting.pop() {
        let dir = snapshot.open(path.below_root()).on_server(WHAT)?;
        for name in dir.names().on_server(WHAT)? {
            if dir.metadata(&name).on_server(WHAT)?.kind == Kind::Dir {
                waiting.extend(path.join(&name));
            }
        }
        let on_disk = path_on_disk(&path);
        if on_disk != path.below_root() {
            known.insert(on_disk, path);
        }
    }
    Ok(())
}

// Directories of the archive that have names which no client's directory has there get the names that they should have.
fn normalize(repository: &Repository, source: &SourceName, known: &mut Reverse, report: &dyn Report) -> Result<()> {
    let base = repository.archive(source)?;
    let mut waiting = vec![AbsPath::root()];
    while let Some(path) = waiting.pop() {
        let dir = base.open(path.below_root()).on_server(WHAT)?;
        let (original, is_exact) = original_path(&path);
        let is_right = is_exact || known.contains_key(path.below_root());
        for name in dir.names().on_server(WHAT)? {
            let is_dir = dir.metadata(&name).on_server(WHAT)?.kind == Kind::Dir;
            if is_dir {
                waiting.extend(path.join(&name));
            } else if !is_right {
                let on_disk = path_on_disk(&original);
                let to = base.open_or_create(&on_disk).on_server(WHAT)?;
                known.insert(on_disk, original.clone());
                match dir.rename(&name, &to, &name) {
                    Err(Errno::EEXIST) if dir.complete_move(&name, &to, &name).on_server(WHAT)? => {}
                    Err(Errno::EEXIST) => report.warn(format_args!(
                        "`{}` is in a directory that is no client's, and stays there",
                        Escaped(path.join(&name).as_ref().map_or(b"", |path| path.as_bytes()))
                    )),
                    other => other.on_server(WHAT)?,
                }
            }
        }
    }
    Ok(())
}

/// Something found in a tree; a file's hash follows when it is known.
struct Found {
    tree: Tree,
    directory: AbsPath,
    name: Name,
    metadata: Metadata,
    target: Vec<u8>,
    // `None` for a file that can't be read.
    hash: Option<Hash>,
    // Set for the first name of an inode.
    first: bool,
}

type Inodes = Mutex<HashMap<(u64, u64), Arc<OnceLock<std::result::Result<Hash, String>>>>>;

fn enter_all(
    repository: &Repository,
    (source, known): (&SourceName, &Reverse),
    entering: &Entering<'_>,
    rebuilt: &mut Rebuilt,
) -> Result<()> {
    let inodes = Inodes::default();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    thread::scope(|scope| {
        let (listed, to_hash) = bounded::<(Found, Option<File>)>(QUEUE);
        let (hashed, to_enter) = bounded::<Result<Found>>(QUEUE);
        let failed = hashed.clone();
        scope.spawn(move || {
            if let Err(error) = walk(repository, (source, known), &listed) {
                // The receiver is gone only when another error came first.
                let _ = failed.send(Err(error));
            }
        });
        for _ in 0..threads {
            let (to_hash, hashed, inodes) = (to_hash.clone(), hashed.clone(), &inodes);
            scope.spawn(move || hash_all(&to_hash, &hashed, inodes));
        }
        drop((to_hash, hashed));
        to_enter.into_iter().try_for_each(|found| entering.enter(found?, rebuilt))
    })
}

fn walk(
    repository: &Repository,
    (source, known): (&SourceName, &Reverse),
    listed: &Sender<(Found, Option<File>)>,
) -> Result<()> {
    for (tree, base) in [(Tree::Snapshot, repository.snapshot(source)?), (Tree::Archive, repository.archive(source)?)] {
        let mut waiting = vec![AbsPath::root()];
        while let Some(path) = waiting.pop() {
            let dir = base.open(path.below_root()).on_server(WHAT)?;
            let client = match tree {
                Tree::Snapshot => path.clone(),
                Tree::Archive => known.get(path.below_root()).cloned().unwrap_or_else(|| original_path(&path).0),
            };
            for name in dir.names().on_server(WHAT)? {
                let name = if tree == Tree::Archive { stamped(&dir, name)? } else { name };
                let (found, file) = look(tree, &client, &dir, name)?;
                if found.metadata.kind == Kind::Dir {
                    waiting.extend(path.join(&found.name));
                }
                if listed.send((found, file)).is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

// Gives a file that somebody put into the archive a name that no directory can have there.
fn stamped(dir: &Dir, name: Name) -> Result<Name> {
    let found = dir.metadata(&name).on_server(WHAT)?;
    if !is_on_disk(found.kind) || found.kind == Kind::Dir {
        return Ok(name);
    }
    give_stamp(dir, &name, found.mtime).on_server("can't rename a file in the archive")
}

fn look(tree: Tree, path: &AbsPath, dir: &Dir, name: Name) -> Result<(Found, Option<File>)> {
    let mut metadata = dir.metadata(&name).on_server(WHAT)?;
    let target = if metadata.kind == Kind::Symlink { dir.read_symlink(&name).on_server(WHAT)? } else { Vec::new() };
    let mut file = None;
    if metadata.kind == Kind::File {
        match dir.open_own_file(&name) {
            Ok(opened) => (file, metadata) = (Some(opened.0), opened.1),
            // One file of another user must not keep all others from being read.
            Err(Errno::EACCES | Errno::EPERM) => {}
            Err(errno) => return Err(errno).on_server(WHAT),
        }
    }
    let found = Found { tree, directory: path.clone(), name, metadata, target, hash: None, first: false };
    Ok((found, file))
}

fn hash_all(to_hash: &Receiver<(Found, Option<File>)>, hashed: &Sender<Result<Found>>, inodes: &Inodes) {
    for (mut found, file) in to_hash {
        let result = match file {
            None => Ok(()),
            Some(file) => hash_once(&file, &mut found, inodes),
        };
        if hashed.send(result.map(|()| found)).is_err() {
            return;
        }
    }
}

// Whoever comes second to an inode waits for the first one's result.
fn hash_once(file: &File, found: &mut Found, inodes: &Inodes) -> Result<()> {
    let shared = found.metadata.links > 1 && found.metadata.identifies;
    let cell = if shared {
        inodes.lock().unwrap_or_else(PoisonError::into_inner).entry(found.metadata.inode).or_default().clone()
    } else {
        Arc::default()
    };
    let mut first = false;
    let hash = cell.get_or_init(|| {
        first = true;
        hash_content(file, blake3::Hasher::new()).map_err(|error| cause(&error))
    });
    found.first = first;
    let hash = hash.as_ref().map_err(|error| Error::server(WHAT, std::io::Error::other(error.clone())))?;
    found.hash = Some(*hash);
    Ok(())
}

/// Where found things are entered.
struct Entering<'a> {
    report: &'a dyn Report,
    write: &'a Write<'a>,
    source: SourceId,
    run: i64,
}

impl Entering<'_> {
    fn enter(&self, found: Found, rebuilt: &mut Rebuilt) -> Result<()> {
        if found.metadata.kind == Kind::File {
            rebuilt.files += 1;
            rebuilt.inodes += u64::from(found.first);
            rebuilt.bytes += if found.first { found.metadata.size } else { 0 };
        }
        // Directories of the archive only hold what was in the client's.
        if !is_on_disk(found.metadata.kind) || (found.tree == Tree::Archive && found.metadata.kind == Kind::Dir) {
            return Ok(());
        }
        if let Some(hash) = found.hash.filter(|_| found.metadata.size > 0) {
            let record = Record::of(&found.metadata, hash, clamped_nanoseconds(Timestamp::now()));
            self.write.set_inode(found.metadata.inode.1, &record)?;
        }
        if found.metadata.kind == Kind::File && found.hash.is_none() {
            let path = found.directory.join(&found.name).map_or_else(String::new, |path| path.to_string());
            self.report
                .warn(format_args!("can't read `{path}` in the {}: its content was not checked", found.tree.name()));
        }
        let directory = self.write.enter_directory(self.source, &found.directory)?;
        match found.tree {
            Tree::Snapshot => self.enter_current(directory, found),
            Tree::Archive => self.enter_archived(directory, found),
        }
    }

    fn enter_current(&self, directory: DirectoryId, found: Found) -> Result<()> {
        if let Some(known) = self.write.current_named(directory, &found.name)? {
            if self.knows(&known, &found)? {
                return self.write.set_found(known.id, false);
            }
            self.write.close(known.id, self.run, known.archive_name.as_ref())?;
        } else if found.metadata.kind == Kind::Dir
            && let Some(path) = found.directory.join(&found.name)
            && self.write.only_leads((self.source, self.run), &path, (directory, &found.name))?
        {
            return Ok(());
        }
        let entry = found.metadata.entry(found.name, found.target);
        let (hash, run, archive_name, flags) = (found.hash, self.run, None, flags::REBUILT);
        let id = self.write.insert(&NewVersion { directory, entry: &entry, hash, run, archive_name, flags })?;
        self.write.set_found(id, false)
    }

    fn enter_archived(&self, directory: DirectoryId, found: Found) -> Result<()> {
        if let Some(known) = self.write.archived_as(directory, &found.name)? {
            if self.knows(&known, &found)? {
                return self.write.set_found(known.id, true);
            }
            self.write.set_archive_name(known.id, None)?;
        }
        let entry = found.metadata.entry(original_name(&found.name), found.target);
        let (hash, run, archive_name, flags) = (found.hash, self.run, Some(&found.name), flags::REBUILT);
        let id = self.write.insert_past(&NewVersion { directory, entry: &entry, hash, run, archive_name, flags })?;
        self.write.set_found(id, true)
    }
    // True if the index knows what was found; it gets the hash of a file that it has none of.
    fn knows(&self, known: &Version, found: &Found) -> Result<bool> {
        if known.entry.kind == Kind::File && known.hash.is_none() && found.hash.is_some() && is_as_known(known, found) {
            self.write.refresh(known.id, &known.entry, found.hash, known.flags)?;
        }
        Ok(is_as_known(known, found))
    }
}

// A hash that one of both lacks, for the file could not be read at one time, is that of the other.
fn is_as_known(known: &Version, found: &Found) -> bool {
    let has_hashes = known.hash.is_some() && found.hash.is_some();
    known.entry.kind == found.metadata.kind
        && known.entry.target == found.target
        && if has_hashes { known.hash == found.hash } else { is_alike(known, &found.metadata) }
}

fn is_alike(known: &Version, found: &Metadata) -> bool {
    known.entry.kind != Kind::File || known.entry.size == found.size
}
