//! What a change is to do to the trees: plans deeds and rows, and touches nothing but staging.
//!
//! Planning looks at the trees as they are between two batches, when they are what the index says, or is about to.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use nix::errno::Errno;

use super::contents::{FileTask, Spot};
use super::dispatch::hash_of_nothing;
use super::fetching::path_of;
use super::ledger::Ledger;
use super::whereabouts::{Wanted, Whereabouts};
use super::{Directory, Run};
use crate::entry::{Entry, Hash, Kind, Version, flags, is_on_disk, mode_on_disk};
use crate::error::{Error, Kind as ErrorKind, OnServer, Result};
use crate::path::{AbsPath, Name};
use crate::repository::archive::Archive;
use crate::repository::dirs::{Dir, Metadata, OpenTree};
use crate::repository::journal::{Batch, Deed, Looks, New, Old, Row};
use crate::repository::staging::{Staged, StagedName, Staging};
use crate::source::{ArchiveWhat, HashWhere, LinkWhen};

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
    whereabouts: Whereabouts<'a>,
    // How many files of each directory's tray are in the batch, and behind which deed a directory is there.
    trays: HashMap<u32, (Arc<Directory>, u64)>,
    made: HashMap<AbsPath, usize>,
}

/// A version of a file that is about to begin.
struct NewFile<'a> {
    directory: &'a Arc<Directory>,
    entry: &'a Entry,
    old: Option<&'a Version>,
    hash: Hash,
    flags: u32,
    other_name: Option<&'a Spot>,
    // The old version is the same but for metadata, and its inode has other names: its name here may just go.
    drop_old: bool,
}

impl<'a> NewFile<'a> {
    fn of(task: &'a FileTask, hash: Hash, flags: u32) -> NewFile<'a> {
        let FileTask { directory, entry, old, other_name, .. } = task;
        NewFile {
            directory,
            entry,
            old: old.as_deref(),
            hash,
            flags,
            other_name: other_name.as_deref(),
            drop_old: false,
        }
    }

    fn wanted(&self) -> Wanted<'a> {
        let NewFile { directory, entry, hash, other_name, .. } = *self;
        Wanted { directory, entry, hash, other_name }
    }

    fn begin(&self, number: u32, archive_name: Option<Name>) -> Row {
        let (hash, flags) = (Some(self.hash), self.flags);
        Row::Begin { directory: number, entry: Box::new(self.entry.clone()), hash, archive_name, flags }
    }

    fn had_its_content(&self) -> bool {
        self.old.is_some_and(|old| old.entry.kind == Kind::File && old.hash == Some(self.hash))
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
            whereabouts: Whereabouts::new(run, staging)?,
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
        self.whereabouts.forget();
        self.close_trays();
        self.made.clear();
        // What is open may be about to be replaced.
        self.snapshot.forget_all();
        self.archive.settle();
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

    /// Plans what has no content of its own: directories, symlinks, and what is in the index only.
    pub(super) fn plain(&mut self, task: &FileTask) -> Result<()> {
        let FileTask { directory, entry, old, .. } = task;
        let old = old.as_deref();
        let same_kind = old.filter(|old| old.entry.kind == entry.kind);
        let same_symlink =
            same_kind.filter(|old| old.entry.target == entry.target && old.entry.mtime == entry.mtime).is_some();
        let (gone, archive_name) = match old {
            Some(old) if !(same_kind.is_some() && (entry.kind == Kind::Dir || same_symlink)) => {
                self.retire(directory, old)?
            }
            _ => (Old::None, None),
        };
        let kept = match entry.kind {
            Kind::Dir => self.directory(directory, entry, old, gone)?,
            Kind::Symlink => self.symlink(directory, entry, old.filter(|_| same_symlink), gone)?,
            _ => self.change(directory, &entry.name, gone, New::None),
        };
        match same_kind.filter(|old| old.entry.target == entry.target && is_restated(&old.entry, entry)) {
            Some(old) => {
                let entry = Box::new(entry.clone());
                self.row(directory, Row::Refresh { id: old.id, entry, hash: None, flags: 0 });
            }
            None => {
                self.batch.rows.extend(old.map(|old| Row::End { id: old.id, archive_name }));
                let (number, entry) = (self.number(directory), Box::new(entry.clone()));
                let begin = Row::Begin { directory: number, entry, hash: None, archive_name: kept, flags: 0 };
                self.row(directory, begin);
            }
        }
        Ok(())
    }

    fn directory(
        &mut self,
        directory: &Arc<Directory>,
        entry: &Entry,
        old: Option<&Version>,
        gone: Old,
    ) -> Result<Option<Name>> {
        let looks = Looks::of(entry, self.owned);
        let as_before = old.is_some_and(|old| {
            old.entry.kind == Kind::Dir && !old.has(flags::REBUILT) && Looks::of(&old.entry, self.owned) == looks
        });
        self.change(directory, &entry.name, gone, New::Directory((!as_before).then_some(looks)));
        if let Some(path) = directory.path.join(&entry.name) {
            self.made.insert(path, self.batch.deeds.len() - 1);
        }
        Ok(None)
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
                Some(found) if !self.owned || (found.uid, found.gid) == owner => return Ok(old.archive_name.clone()),
                Some(found) => Old::Remove { inode: found.inode },
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
        self.keep(directory, &entry.name, entry.mtime, copy).map(Some)
    }

    /// Plans a file that was received.
    pub(super) fn received(&mut self, ledger: &mut Ledger<'_>, task: &FileTask, staged: Staged) -> Result<()> {
        let settings = &self.run.source.settings;
        let file = NewFile::of(task, staged.hash, if staged.consistent { 0 } else { flags::INCONSISTENT });
        let same_mtime = file.old.is_some_and(|old| old.entry.mtime == file.entry.mtime);
        if file.had_its_content() && task.spoilt {
            self.run
                .tally
                .warn(format_args!("`{}` was not what it was in the snapshot, and came again", path_of(task)));
        } else if file.had_its_content()
            && (same_mtime || settings.link == LinkWhen::Content)
            && let Some(found) = self.find_old(&file)?
        {
            self.staging.unlink(&staged.name).on_server(WHAT)?;
            return self.same_content(file, found);
        }
        // Where nothing was hashed before it came, what came may be here already.
        if settings.hash == HashWhere::Server {
            if settings.link != LinkWhen::Never
                && let Some(linked) = self.link(ledger, &file)?
            {
                self.staging.unlink(&staged.name).on_server(WHAT)?;
                self.run.tally.progress.linked.add(1);
                self.run.tally.progress.bytes_linked.add(file.entry.size);
                return self.place(&file, linked);
            }
            self.whereabouts.add(staged.hash, staged.name.clone());
        }
        self.place(&file, staged.name)
    }

    /// Plans a file whose content is here already; false when no place has it any more.
    pub(super) fn known(&mut self, ledger: &mut Ledger<'_>, task: &FileTask, hash: Hash) -> Result<bool> {
        let file = NewFile::of(task, hash, 0);
        if file.had_its_content()
            && let Some(found) = self.find_old(&file)?
        {
            return self.same_content(file, found).map(|()| true);
        }
        if hash == hash_of_nothing() {
            let (staged, empty) = self.staging.create_for(&file.directory.tray, file.entry).on_server(WHAT)?;
            self.staging.dress(&empty, file.entry).on_server(WHAT)?;
            return self.place(&file, staged).map(|()| true);
        }
        let Some(staged) = self.bring(ledger, &file)? else { return Ok(false) };
        self.place(&file, staged)?;
        self.run.tally.progress.linked.add(1);
        self.run.tally.progress.bytes_linked.add(task.entry.size);
        Ok(true)
    }

    /// Plans that something goes, which is no longer on the client.
    pub(super) fn remove(&mut self, directory: &Arc<Directory>, version: &Version) -> Result<()> {
        let (gone, archive_name) = self.retire(directory, version)?;
        self.change(directory, &version.entry.name, gone, New::None);
        self.row(directory, Row::End { id: version.id, archive_name });
        if version.entry.kind == Kind::Dir {
            self.batch.rows.extend(directory.path.join(&version.entry.name).map(|directory| Row::Gone { directory }));
        }
        Ok(())
    }

    // The old version's plain file, if it is still what the index says.
    fn find_old(&mut self, file: &NewFile<'_>) -> Result<Option<Metadata>> {
        let found = self.look(file.directory, &file.entry.name)?;
        Ok(found.filter(|found| found.kind == Kind::File && found.size == file.entry.size))
    }

    fn same_content(&mut self, mut file: NewFile<'_>, found: Metadata) -> Result<()> {
        let old = file.old.expect("the same content is that of an old version");
        let link = self.run.source.settings.link;
        let shared = found.links > 1;
        let number = self.number(file.directory);
        if old.entry.mtime == file.entry.mtime || old.has(flags::REBUILT) {
            let as_wanted = looks_as(&found, file.entry, self.owned);
            if !as_wanted && !shared {
                let (looks, mtime) = (Looks::of(file.entry, self.owned), file.entry.mtime);
                self.change(file.directory, &file.entry.name, Old::None, New::Restated { looks, mtime });
            } else if !as_wanted && link == LinkWhen::Exact {
                file.drop_old = true;
                return self.copy_of_itself(&file);
            }
            return self.same_version(&file, old);
        }
        if link == LinkWhen::Content
            && let Some(archive_name) = self.archive_link(&file, old)?
        {
            let kept = self.archive_new(&file, None)?;
            self.row(file.directory, Row::End { id: old.id, archive_name: Some(archive_name) });
            self.row(file.directory, file.begin(number, kept));
            return Ok(());
        }
        self.copy_of_itself(&file)
    }

    // Owner and mode may have changed; if so that is another version, which has the same place.
    fn same_version(&mut self, file: &NewFile<'_>, old: &Version) -> Result<()> {
        if old.has(flags::REBUILT) || is_restated(&old.entry, file.entry) {
            let (entry, hash) = (Box::new(file.entry.clone()), Some(file.hash));
            self.row(file.directory, Row::Refresh { id: old.id, entry, hash, flags: file.flags });
            return Ok(());
        }
        let number = self.number(file.directory);
        self.row(file.directory, Row::End { id: old.id, archive_name: None });
        self.row(file.directory, file.begin(number, old.archive_name.clone()));
        Ok(())
    }

    fn copy_of_itself(&mut self, file: &NewFile<'_>) -> Result<()> {
        let old = self.open_old(file)?;
        let staged = self.staging.copy(&old, file.entry).on_server(WHAT)?;
        self.place(file, staged.into())
    }

    fn open_old(&mut self, file: &NewFile<'_>) -> Result<File> {
        let dir = self.snapshot.directory(&file.directory.path).on_server(WHAT)?;
        dir.open_file(&file.entry.name).on_server(WHAT)
    }

    // A name in staging with the content that is here already.
    fn bring(&mut self, ledger: &mut Ledger<'_>, file: &NewFile<'_>) -> Result<Option<StagedName>> {
        if self.run.source.settings.link != LinkWhen::Never
            && let Some(linked) = self.link(ledger, file)?
        {
            return Ok(Some(linked));
        }
        let staging = self.staging;
        let copy = |dir: &Dir, name: &Name, _: &Metadata| {
            dir.open_file(name).ok().and_then(|from| staging.copy(&from, file.entry).ok()).map(StagedName::from)
        };
        self.whereabouts.first(ledger, file.wanted(), copy)
    }

    // A further name, in staging, of an inode that has the content.
    fn link(&mut self, ledger: &mut Ledger<'_>, file: &NewFile<'_>) -> Result<Option<StagedName>> {
        let exact = self.run.source.settings.link == LinkWhen::Exact;
        let (staging, owned) = (self.staging, self.owned);
        self.whereabouts.first(ledger, file.wanted(), |dir, name, found| {
            let fits = !exact || looks_as(found, file.entry, owned);
            let link = |to: &Dir, to_name: &Name| dir.link(name, to, to_name);
            // EMLINK, above all: the file system gives an inode no further name. Then another inode will do.
            let linked = fits.then(|| staging.put(&file.directory.tray, &file.entry.name, link));
            linked.and_then(|linked| linked.ok()).map(|(staged, ())| staged)
        })
    }

    fn place(&mut self, file: &NewFile<'_>, staged: StagedName) -> Result<()> {
        let name = &file.entry.name;
        let (gone, retired) = match file.old {
            Some(_) if file.drop_old => match self.look(file.directory, name)? {
                Some(found) => (Old::Remove { inode: found.inode }, None),
                None => (Old::None, None),
            },
            Some(old) => self.retire(file.directory, old)?,
            None => (Old::None, None),
        };
        let kept = self.archive_new(file, Some(&staged))?;
        let carried = file.old.filter(|_| file.drop_old).and_then(|old| old.archive_name.clone());
        let number = self.number(file.directory);
        self.take_place(file.directory, name, gone, staged);
        self.batch.rows.extend(file.old.map(|old| Row::End { id: old.id, archive_name: retired }));
        self.row(file.directory, file.begin(number, carried.or(kept)));
        Ok(())
    }

    fn take_place(&mut self, directory: &Arc<Directory>, name: &Name, gone: Old, staged: StagedName) {
        if staged.tray.is_some() {
            let number = self.number(directory);
            self.trays.entry(number).or_insert_with(|| (Arc::clone(directory), 0)).1 += 1;
        }
        self.change(directory, name, gone, New::Staged(staged));
    }

    // With `archive = "all"`, a file is in the archive from the moment it is received. Its content is in staging, or
    // else in the snapshot.
    fn archive_new(&mut self, file: &NewFile<'_>, staged: Option<&StagedName>) -> Result<Option<Name>> {
        if self.run.source.settings.archive != ArchiveWhat::All || file.drop_old {
            return Ok(None);
        }
        let (dir, from) = match staged {
            Some(staged) => (self.staging.directory_of(staged).on_server(WHAT)?, &staged.name),
            None => (self.snapshot.directory(&file.directory.path).on_server(WHAT)?, &file.entry.name),
        };
        let linked = match self.run.source.settings.link {
            LinkWhen::Never => None,
            _ => self.stage_link(&dir, from)?,
        };
        let kept = match linked {
            Some(linked) => linked,
            None => {
                let content = dir.open_file(from).on_server(WHAT)?;
                self.staging.copy(&content, file.entry).on_server(WHAT)?
            }
        };
        self.run.tally.progress.archived.add(1);
        self.keep(file.directory, &file.entry.name, file.entry.mtime, kept).map(Some)
    }

    // Gives an old version that stays in place its name in the archive; `None` when its inode takes no further name.
    fn archive_link(&mut self, file: &NewFile<'_>, old: &Version) -> Result<Option<Name>> {
        if old.archive_name.is_some() {
            return Ok(old.archive_name.clone());
        }
        let dir = self.snapshot.directory(&file.directory.path).on_server(WHAT)?;
        let Some(staged) = self.stage_link(&dir, &old.entry.name)? else { return Ok(None) };
        self.run.tally.progress.archived.add(1);
        self.keep(file.directory, &old.entry.name, old.entry.mtime, staged).map(Some)
    }

    fn stage_link(&self, dir: &Dir, name: &Name) -> Result<Option<Name>> {
        let staged = self.staging.free_name();
        match dir.link(name, self.staging.dir(), &staged) {
            Ok(()) => Ok(Some(staged)),
            Err(Errno::EMLINK) => Ok(None),
            Err(errno) => Err(errno).on_server(WHAT),
        }
    }

    // What becomes of an old version's name in the snapshot, and its name in the archive, if it has one.
    fn retire(&mut self, directory: &Arc<Directory>, old: &Version) -> Result<(Old, Option<Name>)> {
        let name = &old.entry.name;
        if !is_on_disk(old.entry.kind) {
            return Ok((Old::None, None));
        }
        let Some(found) = self.look(directory, name)? else {
            if old.entry.kind != Kind::Dir
                && let Some(path) = directory.path.join(name)
            {
                self.run.tally.warn(format_args!("`{path}` was missing from the snapshot"));
            }
            return Ok((Old::None, old.archive_name.clone()));
        };
        // Something else than the index says is none of ours.
        if old.entry.kind == Kind::Dir || found.kind != old.entry.kind || !has_size(&found, &old.entry) {
            return Ok((Old::Clear, old.archive_name.clone()));
        }
        let inode = found.inode;
        if self.is_archived(directory, old, &found)? {
            return Ok((Old::Remove { inode }, old.archive_name.clone()));
        }
        self.run.tally.progress.archived.add(1);
        let archived = self.free_name(directory, name, old.entry.mtime)?;
        Ok((Old::Archive { name: archived.clone(), inode }, Some(archived)))
    }

    fn is_archived(&mut self, directory: &Directory, old: &Version, found: &Metadata) -> Result<bool> {
        let Some(name) = &old.archive_name else { return Ok(false) };
        let archived = self.archive.directory(&directory.path).and_then(|dir| dir.metadata(name));
        // It may be a copy, with other metadata: the index says that it is this version.
        Ok(archived.is_ok_and(|archived| archived.kind == found.kind && archived.size == found.size))
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

    fn free_name(&mut self, directory: &Arc<Directory>, name: &Name, mtime: i64) -> Result<Name> {
        let number = self.number(directory);
        let taken = |archived: &Name| self.taken.contains(&(number, archived.clone()));
        let free = self.archive.free_name(&directory.path, name, mtime, taken).on_server(WHAT)?;
        self.taken.insert((number, free.clone()));
        Ok(free)
    }

    fn keep(&mut self, directory: &Arc<Directory>, name: &Name, mtime: i64, staged: Name) -> Result<Name> {
        let archived = self.free_name(directory, name, mtime)?;
        let directory = self.number(directory);
        self.batch.deeds.push(Deed::Keep { directory, staged, name: archived.clone() });
        Ok(archived)
    }

    fn change(&mut self, directory: &Arc<Directory>, name: &Name, old: Old, new: New) -> Option<Name> {
        if (&old, &new) != (&Old::None, &New::None) {
            let directory = self.number(directory);
            self.batch.deeds.push(Deed::Change { directory, name: name.clone(), old, new });
        }
        None
    }

    // The batch holds a reference to every directory until it is done, so its address stays its own.
    fn number(&mut self, directory: &Arc<Directory>) -> u32 {
        *self.numbers.entry(Arc::as_ptr(directory)).or_insert_with(|| {
            self.batch.directories.push(directory.path.clone());
            (self.batch.directories.len() - 1) as u32
        })
    }
}

fn looks_as(found: &Metadata, entry: &Entry, owned: bool) -> bool {
    found.mtime == entry.mtime
        && found.mode == mode_on_disk(entry)
        && (!owned || (found.uid, found.gid) == (entry.uid, entry.gid))
}

fn has_size(found: &Metadata, entry: &Entry) -> bool {
    entry.kind != Kind::File || found.size == entry.size
}

// What a person would call the same version: only its ctime differs, or the number that a file system has today.
fn is_restated(was: &Entry, is: &Entry) -> bool {
    let number = |entry: &Entry| entry.inode.map(|inode| inode.number);
    (was.mtime, was.mode, was.uid, was.gid, number(was)) == (is.mtime, is.mode, is.uid, is.gid, number(is))
        && was.attributes == is.attributes
}
