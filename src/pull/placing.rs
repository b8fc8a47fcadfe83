//! What a change is to do to the trees: plans deeds and rows, and touches nothing but staging.
//!
//! Planning looks at the trees as they are between two batches, when they are what the index says, or is about to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nix::errno::Errno;

use super::applying::Ledger;
use super::content_locator::ContentLocator;
use super::machine::{FileTask, hash_of_nothing};
use super::{Directory, Run};
use crate::client::protocol_violation;
use crate::entry::{Entry, Hash, Kind, Time, Version, flags};
use crate::error::{Error, Kind as ErrorKind, OnServer, Result};
use crate::path::{AbsPath, Name};
use crate::repository::archive::Archive;
use crate::repository::dirs::{Dir, Metadata, OpenTree};
use crate::repository::evidence::{Age, Evidence, ProvedFile};
use crate::repository::index::{Record, is_recorded};
use crate::repository::journal::{At, Batch, Deed, Known, Looks, New, Old, Row};
use crate::repository::staging::{StagedName, Staging};
use crate::source::ArchiveWhat;

pub(super) mod blocked;
mod files;
mod retiring;

use retiring::Retired;

const WHAT: &str = "can't look at the trees";

/// Plans a batch.
pub(super) struct Placing<'a> {
    run: &'a Run<'a>,
    staging: &'a Staging,
    snapshot: OpenTree,
    archive: Archive,
    // Owners can be given to files by root only.
    owned: bool,
    batch: Batch,
    // The places of directories in the batch, and names in the archive that it gives away.
    numbers: HashMap<*const Directory, u32>,
    taken: HashSet<(u32, Name)>,
    locator: ContentLocator<'a>,
    evidence: Evidence,
    // Versions that end with the batch.
    ended: HashSet<i64>,
    // How many files of each directory's tray are in the batch, and behind which deed a directory is there.
    trays: HashMap<u32, (Arc<Directory>, u64)>,
    made: HashMap<AbsPath, usize>,
}

/// Where the content of a plain file is from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    // When it was last read: a copy is as old as what it was made of.
    read: i64,
    // The proved file whose inode it shares, if it does, and the record of that.
    shared: Option<(ProvedFile, Record)>,
}

impl Origin {
    fn shared(file: ProvedFile, record: Record) -> Origin {
        Origin { read: record.read, shared: Some((file, record)) }
    }

    fn copied(read: i64) -> Origin {
        Origin { read, shared: None }
    }
}

impl<'a> Placing<'a> {
    /// Opens the trees of the run's source.
    pub(super) fn open(run: &'a Run<'a>, staging: &'a Staging) -> Result<Placing<'a>> {
        let name = &run.source.name;
        Ok(Placing {
            run,
            staging,
            snapshot: OpenTree::new(run.repository.snapshot(name)?),
            archive: Archive::new(run.repository.archive(name)?),
            owned: nix::unistd::geteuid().is_root(),
            batch: Batch { run: run.number, ..Batch::default() },
            numbers: HashMap::new(),
            taken: HashSet::new(),
            locator: ContentLocator::new(run, staging)?,
            evidence: Evidence::new(),
            ended: HashSet::new(),
            trays: HashMap::new(),
            made: HashMap::new(),
        })
    }

    /// Refuses roots that the snapshot has no place for, as a part of their path is no directory in it.
    pub(super) fn check_roots(&self, roots: &[AbsPath]) -> Result<()> {
        for (parent, _) in roots.iter().filter_map(AbsPath::split) {
            if let Err(Errno::ELOOP | Errno::ENOTDIR) = self.snapshot.base().open(parent.below_root()) {
                let what = format_args!("the snapshot can't hold what is in `{parent}`, for it is no directory there");
                return Err(Error::new(ErrorKind::Failed, what)
                    .hint("was a path above it pulled, with a symlink on the way? pull where that leads to"));
            }
        }
        Ok(())
    }

    /// Hands over what was planned, and begins anew: the trees have to follow before anything else is planned.
    pub(super) fn take_batch(&mut self) -> Batch {
        self.numbers.clear();
        self.taken.clear();
        self.locator.forget();
        self.close_trays();
        self.made.clear();
        // What is open may be about to be replaced.
        self.snapshot.forget_all();
        self.archive.settle();
        self.ended.clear();
        self.batch.found = self.evidence.take();
        std::mem::replace(&mut self.batch, Batch { run: self.run.number, ..Batch::default() })
    }

    /// True when files of a tray are in the batch, and others of it have not come yet.
    pub(super) fn has_open_trays(&self) -> bool {
        self.trays.values().any(|(directory, _)| directory.settled().is_none())
    }

    /// True when files of this directory's tray are in the batch.
    pub(super) fn has_tray_of(&self, directory: &Arc<Directory>) -> bool {
        self.numbers.get(&Arc::as_ptr(directory)).is_some_and(|number| self.trays.contains_key(number))
    }

    // Each is moved as soon as its directory is there, before anything else comes to be in it.
    fn close_trays(&mut self) {
        let mut fills = Vec::new();
        for (number, (directory, files)) in self.trays.drain() {
            if let Some(tray) = directory.tray.close(files) {
                let at = self.made.get(&directory.path).map_or(0, |deed| deed + 1);
                fills.push((at, Deed::Fill { directory: number, tray }));
            }
        }
        fills.sort_by_key(|(at, _)| *at);
        let mut fills = fills.into_iter().peekable();
        let deeds = std::mem::take(&mut self.batch.deeds);
        for (at, deed) in deeds.into_iter().enumerate() {
            while let Some((_, fill)) = fills.next_if(|(before, _)| *before == at) {
                self.batch.deeds.push(fill);
            }
            self.batch.deeds.push(deed);
        }
        self.batch.deeds.extend(fills.map(|(_, fill)| fill));
    }

    /// Plans a row for something that is in a directory.
    pub(super) fn row(&mut self, directory: &Arc<Directory>, row: Row) {
        self.number(directory);
        self.batch.rows.push(row);
    }

    /// Plans that a version is flagged as unreadable, which is no change.
    pub(super) fn flag(&mut self, id: i64) {
        self.batch.rows.push(Row::Flag { id });
    }

    // What is planned for a version must be planned for the current one, and once.
    pub(super) fn end(&mut self, ledger: &mut Ledger<'_>, old: &Version) -> Result<()> {
        if ledger.index()?.is_current(old.id)? && self.ended.insert(old.id) {
            Ok(())
        } else {
            Err(protocol_violation("it lists one path in two ways"))
        }
    }

    /// Plans what has no content of its own: directories, symlinks, and what is in the index only.
    pub(super) fn plain(&mut self, ledger: &mut Ledger<'_>, task: &FileTask) -> Result<()> {
        let FileTask { directory, entry, old, .. } = task;
        let old = old.as_deref();
        old.map_or(Ok(()), |old| self.end(ledger, old))?;
        let same_kind = old.filter(|old| old.entry.kind == entry.kind);
        let same_symlink = same_kind
            .filter(|old| entry.kind == Kind::Symlink && old.entry.target == entry.target)
            .filter(|old| old.entry.mtime == entry.mtime);
        let retired = match old {
            Some(old) if !(same_kind.is_some() && (entry.kind == Kind::Dir || same_symlink.is_some())) => {
                self.retire(ledger, directory, old, false)?
            }
            _ => Retired::nothing(),
        };
        let kept = match entry.kind {
            Kind::Dir => {
                self.directory(directory, entry, old, retired.gone);
                None
            }
            Kind::Symlink => self.symlink(directory, entry, same_symlink, retired.gone)?,
            _ => {
                self.change(directory, &entry.name, retired.gone, New::None);
                None
            }
        };
        let (number, described) = (self.number(directory), Box::new(entry.clone()));
        let row = match same_kind.filter(|old| old.entry.target == entry.target && is_restated(&old.entry, entry)) {
            Some(old) => Row::Refresh { id: old.id, entry: described, hash: None, flags: 0 },
            None => match same_symlink {
                Some(old) => Row::Continue {
                    id: old.id,
                    directory: number,
                    entry: described,
                    hash: None,
                    archive_name: kept,
                    flags: 0,
                },
                None => {
                    let archive_name = retired.archive_name;
                    self.batch.rows.extend(old.map(|old| Row::End { id: old.id, archive_name }));
                    Row::Begin { directory: number, entry: described, hash: None, archive_name: kept, flags: 0 }
                }
            },
        };
        self.row(directory, row);
        Ok(())
    }

    fn directory(&mut self, directory: &Arc<Directory>, entry: &Entry, old: Option<&Version>, gone: Old) {
        let looks = Looks::of(entry, self.owned);
        let as_before = old.is_some_and(|old| {
            old.entry.kind == Kind::Dir && !old.has(flags::REBUILT) && Looks::of(&old.entry, self.owned) == looks
        });
        self.change(directory, &entry.name, gone, New::Directory((!as_before).then_some(looks)));
        if let Some(path) = directory.path.join(&entry.name) {
            self.made.insert(path, self.batch.deeds.len() - 1);
        }
    }

    // `same` is the old version of a symlink that leads to where it did.
    fn symlink(
        &mut self,
        directory: &Arc<Directory>,
        entry: &Entry,
        same: Option<&Version>,
        gone: Old,
    ) -> Result<Option<Name>> {
        if let Some(old) = same {
            let found = self.look(directory, &entry.name)?;
            let owner = (entry.uid, entry.gid);
            let gone = match found {
                // A name that is not the old version's is unknown.
                Some(found) if self.is_symlink_to(directory, &entry.name, &entry.target) => {
                    if !self.owned || (found.uid, found.gid) == owner {
                        return Ok(old.archive_name.clone());
                    }
                    Old::Delete { file: ProvedFile::of(&found) }
                }
                Some(_) => Old::Clear,
                None => Old::None,
            };
            let staged = self.staging.create_symlink(entry).on_server(WHAT)?;
            self.change(directory, &entry.name, gone, New::Staged(staged.into()));
            return Ok(old.archive_name.clone());
        }
        let staged = self.staging.create_symlink_for(&directory.tray, entry).on_server(WHAT)?;
        self.take_place(directory, &entry.name, gone, staged);
        if self.run.source.settings.archive != ArchiveWhat::All {
            return Ok(None);
        }
        let copy = self.staging.create_symlink(entry).on_server(WHAT)?;
        self.run.tally.progress.archived.add(1);
        let origin = Origin::copied(self.evidence.now());
        self.keep(directory, entry, copy, (hash_of_nothing(), origin)).map(Some)
    }

    fn is_symlink_to(&mut self, directory: &Directory, name: &Name, target: &[u8]) -> bool {
        let dir = self.snapshot.directory_by(&directory.path, |base| base.open(directory.path.below_root()));
        dir.and_then(|dir| dir.read_symlink(name)).is_ok_and(|found| found == target)
    }

    /// Plans that something goes, which is no longer on the client.
    pub(super) fn remove(
        &mut self,
        ledger: &mut Ledger<'_>,
        directory: &Arc<Directory>,
        version: &Version,
    ) -> Result<()> {
        self.end(ledger, version)?;
        let Retired { gone, archive_name, .. } = self.retire(ledger, directory, version, false)?;
        self.change(directory, &version.entry.name, gone, New::None);
        self.row(directory, Row::End { id: version.id, archive_name });
        if version.entry.kind == Kind::Dir {
            self.batch.rows.extend(directory.path.join(&version.entry.name).map(|directory| Row::Gone { directory }));
        }
        Ok(())
    }

    fn take_place(&mut self, directory: &Arc<Directory>, name: &Name, gone: Old, staged: StagedName) {
        if staged.tray.is_some() {
            let number = self.number(directory);
            self.trays.entry(number).or_insert_with(|| (Arc::clone(directory), 0)).1 += 1;
        }
        self.change(directory, name, gone, New::Staged(staged));
    }

    fn stage_link(&self, dir: &Dir, name: &Name) -> Result<Option<Name>> {
        let staged = self.staging.free_name();
        match dir.link(name, self.staging.dir(), &staged) {
            Ok(()) => Ok(Some(staged)),
            // The inode takes no further link, or none of ours: it is immutable, or another user's.
            Err(Errno::EMLINK | Errno::EPERM) => Ok(None),
            Err(errno) => Err(errno).on_server(WHAT),
        }
    }

    // What is at a name of the snapshot, if it is a file that proves to have this content.
    fn prove(
        &mut self,
        ledger: &mut Ledger<'_>,
        (directory, name): (&Directory, &Name),
        size: u64,
        (hash, age): (&Hash, Age),
    ) -> Result<Option<(Metadata, Record)>> {
        let dir = self.snapshot.directory_by(&directory.path, |base| base.open(directory.path.below_root()));
        let Ok((file, found)) = dir.and_then(|dir| dir.open_file_with_metadata(name)) else { return Ok(None) };
        if found.size != size {
            return Ok(None);
        }
        let record = self.evidence.proves(ledger.index()?, (&file, &found), hash, age)?;
        Ok(record.map(|record| (found, record)))
    }

    fn know(&mut self, at: At, size: u64, hash: Hash, Origin { read, shared }: Origin) {
        let file = shared.map(|(file, _)| file);
        self.batch.known.extend(is_recorded(size).then_some(Known { at, hash, read, file }));
    }

    // What is at a name of the snapshot; nothing, too, where the directory is yet to be made.
    fn look(&mut self, directory: &Directory, name: &Name) -> Result<Option<Metadata>> {
        let dir = self.snapshot.directory_by(&directory.path, |base| base.open(directory.path.below_root()));
        match dir.and_then(|dir| dir.metadata(name)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(errno) => Err(errno).on_server(WHAT),
        }
    }

    fn free_name(&mut self, directory: &Arc<Directory>, name: &Name, mtime: Time) -> Result<Name> {
        let number = self.number(directory);
        let taken = |archived: &Name| self.taken.contains(&(number, archived.clone()));
        let free = self.archive.free_name(&directory.path, name, mtime, taken).on_server(WHAT)?;
        self.taken.insert((number, free.clone()));
        Ok(free)
    }

    // Moves something in staging to the archive. A copy was made of what had the content a moment ago; it is read before
    // anything is linked to it.
    fn keep(
        &mut self,
        directory: &Arc<Directory>,
        entry: &Entry,
        staged: Name,
        (hash, origin): (Hash, Origin),
    ) -> Result<Name> {
        let archived = self.free_name(directory, &entry.name, entry.mtime)?;
        let directory = self.number(directory);
        self.batch.deeds.push(Deed::Keep { directory, staged, name: archived.clone() });
        if origin.shared.is_some() {
            self.know(At::Archive(directory, archived.clone()), entry.size, hash, origin);
        }
        Ok(archived)
    }

    fn change(&mut self, directory: &Arc<Directory>, name: &Name, old: Old, new: New) {
        if (&old, &new) != (&Old::None, &New::None) {
            let directory = self.number(directory);
            self.batch.deeds.push(Deed::Change { directory, name: name.clone(), old, new });
        }
    }

    // The batch holds a reference to every directory until it is done, so its address stays its own.
    fn number(&mut self, directory: &Arc<Directory>) -> u32 {
        *self.numbers.entry(Arc::as_ptr(directory)).or_insert_with(|| {
            self.batch.directories.push(directory.path.clone());
            (self.batch.directories.len() - 1) as u32
        })
    }
}

// What a person would call the same version: only its ctime differs, or the number that a file system has today.
fn is_restated(was: &Entry, is: &Entry) -> bool {
    let number = |entry: &Entry| entry.inode.map(|inode| inode.number);
    (was.mtime, was.mode, was.uid, was.gid, number(was)) == (is.mtime, is.mode, is.uid, is.gid, number(is))
        && was.attributes == is.attributes
}
