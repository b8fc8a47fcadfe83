//! What a change does to the trees. Content comes into place by renaming from staging, never over anything.

use std::collections::HashMap;
use std::sync::Arc;

use nix::errno::Errno;

use super::applying::{Row, WHAT, has_content, sync};
use super::contents::FileTask;
use super::dispatch::hash_of_nothing;
use super::{Directory, Run};
use crate::entry::{Entry, Hash, Kind, Version, flags, hash_content, is_on_disk, mode_on_disk};
use crate::error::{Error, Kind as ErrorKind, OnServer, Result};
use crate::path::{AbsPath, Name};
use crate::repository::archive::Archive;
use crate::repository::dirs::{Dir, Metadata, OpenTree, copy_content, set_file_metadata};
use crate::repository::index::Index;
use crate::repository::place::Place;
use crate::repository::staging::{Staged, Staging};
use crate::source::{ArchiveWhat, HashWhere, LinkWhen};

// Versions of a content whose places are tried before it is copied or fetched.
const MOST_CANDIDATES: u32 = 16;

/// The trees of a source, while a run changes them.
pub(super) struct Placing<'a> {
    run: &'a Run<'a>,
    staging: &'a Staging,
    snapshot: OpenTree,
    archive: Archive,
    // Owners can be given to files by root only.
    owned: bool,
    // What waits for the batch's sync.
    deferred: Vec<Deferred>,
    // What the index does not know yet, until the batch is committed: where new contents are, and the names in the
    // archive of versions that went there.
    recent: HashMap<Hash, (AbsPath, Name)>,
    retired: HashMap<i64, Option<Name>>,
}

/// A file in staging that is complete, but perhaps not on the disk yet.
struct Deferred {
    file: NewFile,
    staged: Name,
    received: bool,
}

/// A version of a file that is about to begin.
struct NewFile {
    directory: Arc<Directory>,
    entry: Entry,
    old: Option<Box<Version>>,
    hash: Hash,
    flags: u32,
    // The old version is the same but for metadata, and its inode has other names: its name here may just go.
    drop_old: bool,
}

impl NewFile {
    fn of(task: &FileTask, hash: Hash, flags: u32) -> NewFile {
        let (directory, entry, old) = (task.directory.clone(), task.entry.clone(), task.old.clone());
        NewFile { directory, entry, old, hash, flags, drop_old: false }
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
            deferred: Vec::new(),
            recent: HashMap::new(),
            retired: HashMap::new(),
        })
    }

    /// Places what has no content of its own: directories, symlinks, and what is in the index only.
    pub(super) fn plain(&mut self, task: &FileTask, rows: &mut Vec<Row>) -> Result<()> {
        let FileTask { directory, entry, old, .. } = task;
        let old = old.as_deref();
        let same_kind = old.is_some_and(|old| old.entry.kind == entry.kind);
        let same_symlink =
            same_kind && old.is_some_and(|old| old.entry.target == entry.target && old.entry.mtime == entry.mtime);
        let retired = match old {
            Some(old) if !(same_kind && entry.kind == Kind::Dir || same_symlink) => {
                self.retire(directory, old, rows)?
            }
            _ => None,
        };
        let archived = match entry.kind {
            Kind::Dir => self.make_directory(directory, entry, old, rows)?,
            Kind::Symlink if !same_symlink => self.make_symlink(directory, entry, rows)?,
            Kind::Symlink => self.own_symlink(directory, entry)?,
            _ => None,
        };
        let restated =
            old.filter(|old| same_kind && old.entry.target == entry.target && is_restated(&old.entry, entry));
        match restated {
            Some(old) => rows.push(Row::Refresh { id: old.id, entry: Box::new(entry.clone()), hash: None, flags: 0 }),
            None => {
                rows.extend(old.map(|old| Row::End { id: old.id, archive_name: retired.or(old.archive_name.clone()) }));
                rows.push(begin(directory, entry, None, archived, 0));
            }
        }
        Ok(())
    }

    /// Takes a file that was received; it comes into place when the batch settles.
    pub(super) fn received(&mut self, task: &FileTask, staged: Staged) {
        let flags = if staged.consistent { 0 } else { flags::INCONSISTENT };
        self.deferred.push(Deferred {
            file: NewFile::of(task, staged.hash, flags),
            staged: staged.name,
            received: true,
        });
    }

    /// Places a file whose content is here already; false when no place has it any more.
    pub(super) fn known(&mut self, index: &Index, task: &FileTask, hash: Hash, rows: &mut Vec<Row>) -> Result<bool> {
        let file = NewFile::of(task, hash, 0);
        if has_content(task, &hash)
            && let Some(found) = self.find_old(&file)?
        {
            return self.same_content(file, found, rows).map(|()| true);
        }
        if hash == hash_of_nothing() {
            let (staged, empty) = self.staging.create().on_server(WHAT)?;
            self.staging.dress(&empty, &file.entry).on_server(WHAT)?;
            self.place(file, &staged, rows)?;
            return Ok(true);
        }
        match self.bring(index, &file)? {
            Brought::Linked(staged) => self.place(file, &staged, rows)?,
            Brought::Copied(staged) => self.deferred.push(Deferred { file, staged, received: false }),
            Brought::Nothing => return Ok(false),
        }
        self.run.tally.progress.linked.add(1);
        self.run.tally.progress.bytes_linked.add(task.entry.size);
        Ok(true)
    }

    /// Moves away what is no longer on the client.
    pub(super) fn remove(&mut self, directory: &Arc<Directory>, version: &Version, rows: &mut Vec<Row>) -> Result<()> {
        let name = &version.entry.name;
        let archive_name = self.retire(directory, version, rows)?;
        rows.push(Row::End { id: version.id, archive_name });
        if version.entry.kind == Kind::Dir {
            rows.push(Row::Gone { directory: directory.clone(), name: name.clone() });
        }
        Ok(())
    }

    /// Puts everything into place that waited, after making sure that it is on the disk.
    pub(super) fn settle(&mut self, index: &Index, rows: &mut Vec<Row>) -> Result<()> {
        if self.deferred.is_empty() {
            return Ok(());
        }
        sync(self.staging)?;
        for Deferred { file, staged, received } in std::mem::take(&mut self.deferred) {
            match received {
                true => self.place_received(index, file, &staged, rows)?,
                false => self.place(file, &staged, rows)?,
            }
        }
        Ok(())
    }

    /// The index knows all now.
    pub(super) fn committed(&mut self) {
        self.recent.clear();
        self.retired.clear();
    }

    // Where nothing was hashed before it came, what came may be here already.
    fn place_received(&mut self, index: &Index, file: NewFile, staged: &Name, rows: &mut Vec<Row>) -> Result<()> {
        let settings = &self.run.source.settings;
        let same = file.old.as_ref().is_some_and(|old| old.hash == Some(file.hash) && old.entry.kind == Kind::File);
        let same_mtime = file.old.as_ref().is_some_and(|old| old.entry.mtime == file.entry.mtime);
        if same
            && (same_mtime || settings.link == LinkWhen::Content)
            && let Some(found) = self.find_old(&file)?
        {
            self.staging.dir().unlink(staged).on_server(WHAT)?;
            return self.same_content(file, found, rows);
        }
        if settings.hash == HashWhere::Server
            && settings.link != LinkWhen::Never
            && let Some(linked) = self.link(index, &file)?
        {
            self.staging.dir().unlink(staged).on_server(WHAT)?;
            self.run.tally.progress.linked.add(1);
            self.run.tally.progress.bytes_linked.add(file.entry.size);
            return self.place(file, &linked, rows);
        }
        self.place(file, staged, rows)
    }

    // The old version's plain file, if it is still what the index says.
    fn find_old(&mut self, file: &NewFile) -> Result<Option<Metadata>> {
        let dir = self.directory(&file.directory.path)?;
        let found = dir.metadata(&file.entry.name).ok();
        Ok(found.filter(|found| found.kind == Kind::File && found.size == file.entry.size))
    }

    fn same_content(&mut self, mut file: NewFile, found: Metadata, rows: &mut Vec<Row>) -> Result<()> {
        let old = file.old.take().expect("the same content is that of an old version");
        let link = self.run.source.settings.link;
        let shared = found.links > 1;
        if old.entry.mtime == file.entry.mtime || old.has(flags::REBUILT) {
            let as_wanted = self.looks_as(&found, &file.entry);
            if !as_wanted && !shared {
                self.restate_on_disk(&file)?;
            } else if !as_wanted && link == LinkWhen::Exact {
                file.drop_old = true;
                file.old = Some(old);
                return self.copy_of_itself(file);
            }
            return self.same_version(file, &old, rows);
        }
        if link == LinkWhen::Content
            && let Some(archive_name) = self.archive_link(&file.directory.path, &old)?
        {
            let archived = self.archive_new(&file)?;
            rows.push(Row::End { id: old.id, archive_name: Some(archive_name) });
            rows.push(begin(&file.directory, &file.entry, Some(file.hash), archived, file.flags));
            return Ok(());
        }
        file.old = Some(old);
        self.copy_of_itself(file)
    }

    // Owner and mode may have changed; if so that is another version, which has the same place.
    fn same_version(&mut self, file: NewFile, old: &Version, rows: &mut Vec<Row>) -> Result<()> {
        if old.has(flags::REBUILT) || is_restated(&old.entry, &file.entry) {
            rows.push(Row::Refresh {
                id: old.id,
                entry: Box::new(file.entry),
                hash: Some(file.hash),
                flags: file.flags,
            });
            return Ok(());
        }
        rows.push(Row::End { id: old.id, archive_name: None });
        rows.push(begin(&file.directory, &file.entry, Some(file.hash), old.archive_name.clone(), file.flags));
        Ok(())
    }

    fn copy_of_itself(&mut self, file: NewFile) -> Result<()> {
        let dir = self.directory(&file.directory.path)?;
        let staged = self.copy(&dir, &file.entry.name, &file.entry)?;
        self.deferred.push(Deferred { file, staged, received: false });
        Ok(())
    }

    fn restate_on_disk(&mut self, file: &NewFile) -> Result<()> {
        let dir = self.directory(&file.directory.path)?;
        let plain = dir.open_file(&file.entry.name).on_server(WHAT)?;
        let owner = self.owned.then_some((file.entry.uid, file.entry.gid));
        set_file_metadata(&plain, mode_on_disk(&file.entry), file.entry.mtime, owner).on_server(WHAT)
    }

    fn looks_as(&self, found: &Metadata, entry: &Entry) -> bool {
        found.mtime == entry.mtime
            && found.mode == mode_on_disk(entry)
            && (!self.owned || (found.uid, found.gid) == (entry.uid, entry.gid))
    }

    fn bring(&mut self, index: &Index, file: &NewFile) -> Result<Brought> {
        if self.run.source.settings.link != LinkWhen::Never
            && let Some(linked) = self.link(index, file)?
        {
            return Ok(Brought::Linked(linked));
        }
        let copied = self.first_place(index, file, |placing, dir, name| placing.copy(dir, name, &file.entry).ok())?;
        Ok(copied.map_or(Brought::Nothing, Brought::Copied))
    }

    // A further name, in staging, of an inode that has the content.
    fn link(&mut self, index: &Index, file: &NewFile) -> Result<Option<Name>> {
        let exact = self.run.source.settings.link == LinkWhen::Exact;
        self.first_place(index, file, |placing, dir, name| {
            let fits = !exact || dir.metadata(name).is_ok_and(|found| placing.looks_as(&found, &file.entry));
            let staged = placing.staging.free_name();
            // EMLINK, above all: the file system gives an inode no further name. Then another inode will do.
            (fits && dir.link(name, placing.staging.dir(), &staged).is_ok()).then_some(staged)
        })
    }

    // Tries the places of a content, the newest first, until one serves. Mostly the first does.
    fn first_place<T>(
        &mut self,
        index: &Index,
        file: &NewFile,
        mut serve: impl FnMut(&Self, &Dir, &Name) -> Option<T>,
    ) -> Result<Option<T>> {
        if let Some((path, name)) = self.recent.get(&file.hash).cloned() {
            let dir = self.directory(&path)?;
            if let Some(served) = serve(self, &dir, &name) {
                return Ok(Some(served));
            }
        }
        for (skipped, limit) in [(0, 1), (1, MOST_CANDIDATES)] {
            for mut located in index.versions_with(&file.hash, limit)?.into_iter().skip(skipped) {
                if let Some(archive_name) = self.retired.get(&located.version.id) {
                    located.version.until_run = Some(self.run.number);
                    located.version.archive_name = archive_name.clone();
                }
                for place in Place::all_of(&located) {
                    let found = place.look(self.run.repository).ok();
                    let fits = |found: &Metadata| found.kind == Kind::File && found.size == file.entry.size;
                    let served =
                        found.filter(|(_, found)| fits(found)).and_then(|(dir, _)| serve(self, &dir, &place.name));
                    if served.is_some() {
                        return Ok(served);
                    }
                }
            }
        }
        Ok(None)
    }

    fn copy(&self, dir: &Dir, name: &Name, entry: &Entry) -> Result<Name> {
        let from = dir.open_file(name).on_server(WHAT)?;
        let (staged, to) = self.staging.create().on_server(WHAT)?;
        copy_content(&from, &to).on_server(WHAT)?;
        self.staging.dress(&to, entry).on_server(WHAT)?;
        Ok(staged)
    }

    fn place(&mut self, file: NewFile, staged: &Name, rows: &mut Vec<Row>) -> Result<()> {
        let dir = self.directory(&file.directory.path)?;
        let name = &file.entry.name;
        let retired = match &file.old {
            Some(_) if file.drop_old => dir.unlink(name).map(|()| None).on_server(WHAT)?,
            Some(old) => self.retire(&file.directory, old, rows)?,
            None => None,
        };
        let staging = self.staging.dir();
        if staging.rename(staged, &dir, name) == Err(Errno::EEXIST) {
            self.clear(&file.directory, &dir, name, rows)?;
            staging.rename(staged, &dir, name).on_server(WHAT)?;
        }
        if self.run.source.settings.hash == HashWhere::Server {
            self.recent.insert(file.hash, (file.directory.path.clone(), name.clone()));
        }
        let archived = self.archive_new(&file)?;
        let carried = file.old.as_ref().filter(|_| file.drop_old).and_then(|old| old.archive_name.clone());
        rows.extend(file.old.as_ref().map(|old| Row::End { id: old.id, archive_name: retired }));
        rows.push(begin(&file.directory, &file.entry, Some(file.hash), carried.or(archived), file.flags));
        Ok(())
    }

    // With `archive = "all"`, a file is in the archive from the moment it is received.
    fn archive_new(&mut self, file: &NewFile) -> Result<Option<Name>> {
        if self.run.source.settings.archive != ArchiveWhat::All || file.drop_old {
            return Ok(None);
        }
        let (path, name, mtime) = (&file.directory.path, &file.entry.name, file.entry.mtime);
        let dir = self.directory(path)?;
        let linked = match self.run.source.settings.link {
            LinkWhen::Never => Err(Errno::EMLINK),
            _ => self.archive.link(path, &dir, name, mtime),
        };
        let archived = match linked {
            Err(Errno::EMLINK) => self.archive.copy(path, &dir, name, mtime, self.staging),
            other => other,
        };
        self.run.tally.progress.archived.add(1);
        archived.map(Some).on_server(WHAT)
    }

    // Gives an old version that stays in place its name in the archive; `None` when its inode takes no further name.
    fn archive_link(&mut self, path: &AbsPath, old: &Version) -> Result<Option<Name>> {
        if old.archive_name.is_some() {
            return Ok(old.archive_name.clone());
        }
        let dir = self.directory(path)?;
        match self.archive.link(path, &dir, &old.entry.name, old.entry.mtime) {
            Ok(name) => {
                self.run.tally.progress.archived.add(1);
                Ok(Some(name))
            }
            Err(Errno::EMLINK) => Ok(None),
            Err(errno) => Err(errno).on_server(WHAT),
        }
    }

    /// Moves an old version out of the snapshot; returns its name in the archive, if it has one.
    fn retire(&mut self, directory: &Arc<Directory>, old: &Version, rows: &mut Vec<Row>) -> Result<Option<Name>> {
        let archive_name = self.move_out(directory, old, rows)?;
        self.retired.insert(old.id, archive_name.clone());
        Ok(archive_name)
    }

    fn move_out(&mut self, directory: &Arc<Directory>, old: &Version, rows: &mut Vec<Row>) -> Result<Option<Name>> {
        let name = &old.entry.name;
        if !is_on_disk(old.entry.kind) {
            return Ok(None);
        }
        let dir = self.directory(&directory.path)?;
        let found = match dir.metadata(name) {
            Ok(found) => found,
            Err(Errno::ENOENT) => return self.missing(directory, old),
            Err(errno) => return Err(errno).on_server(WHAT),
        };
        if found.kind == Kind::Dir || old.entry.kind == Kind::Dir {
            self.clear(directory, &dir, name, rows)?;
            return Ok(None);
        }
        if self.is_archived(directory, old, &found)? {
            dir.unlink(name).on_server(WHAT)?;
            return Ok(old.archive_name.clone());
        }
        self.run.tally.progress.archived.add(1);
        self.archive.take(&directory.path, &dir, name, old.entry.mtime).map(Some).on_server(WHAT)
    }

    fn missing(&self, directory: &Directory, old: &Version) -> Result<Option<Name>> {
        if old.entry.kind != Kind::Dir
            && let Some(path) = directory.path.join(&old.entry.name)
        {
            self.run.tally.warn(format_args!("`{path}` was missing from the snapshot"));
        }
        Ok(old.archive_name.clone())
    }

    fn is_archived(&mut self, directory: &Directory, old: &Version, found: &Metadata) -> Result<bool> {
        let Some(name) = &old.archive_name else { return Ok(false) };
        let archived = self.archive.directory(&directory.path).and_then(|dir| dir.metadata(name));
        Ok(archived.is_ok_and(|archived| {
            let copy = self.run.source.settings.link == LinkWhen::Never || archived.kind == Kind::Symlink;
            archived.inode == found.inode || (copy && archived.kind == found.kind && archived.size == found.size)
        }))
    }

    // Removes an empty directory; moves anything else that is in the way, and that no version told of, to the archive.
    fn clear(&mut self, directory: &Arc<Directory>, dir: &Dir, name: &Name, rows: &mut Vec<Row>) -> Result<()> {
        let path = directory.path.join(name);
        path.iter().for_each(|path| self.snapshot.forget(path));
        match dir.remove_dir(name) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTDIR | Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Err(errno) => return Err(errno).on_server(WHAT),
        }
        if let Some(path) = &path {
            self.run.tally.warn(format_args!("`{path}` held something unknown, which is in the archive now"));
        }
        self.put_aside(directory, dir, name, rows)
    }

    // Moves what no version tells of to the archive, file by file.
    fn put_aside(&mut self, directory: &Arc<Directory>, dir: &Dir, name: &Name, rows: &mut Vec<Row>) -> Result<()> {
        let found = dir.metadata(name).on_server(WHAT)?;
        if found.kind == Kind::Dir
            && let Some(path) = directory.path.join(name)
        {
            let below = Arc::new(Directory::new(path, false));
            let inside = dir.open(name.as_bytes()).on_server(WHAT)?;
            for name in inside.names().on_server(WHAT)? {
                self.put_aside(&below, &inside, &name, rows)?;
            }
            return dir.remove_dir(name).on_server(WHAT);
        }
        let target = if found.kind == Kind::Symlink { dir.read_symlink(name).on_server(WHAT)? } else { Vec::new() };
        let hash = match found.kind {
            Kind::File => Some(
                dir.open_file(name)
                    .map_err(Into::into)
                    .and_then(|file| hash_content(&file, blake3::Hasher::new()))
                    .on_server(WHAT)?,
            ),
            _ => None,
        };
        let archive_name = self.archive.take(&directory.path, dir, name, found.mtime).on_server(WHAT)?;
        let entry = Box::new(stray(name, &found, target));
        rows.push(Row::Stray { directory: directory.clone(), entry, hash, archive_name });
        Ok(())
    }

    // The snapshot's directory of a client's directory. What is above a root may have become something else.
    fn directory(&mut self, path: &AbsPath) -> Result<Dir> {
        match self.snapshot.directory(path) {
            Err(Errno::ELOOP | Errno::ENOTDIR) => Err(Error::new(
                ErrorKind::Failed,
                format_args!("the snapshot can't hold `{path}`, for a part of it is no directory there"),
            )
            .hint("was a path above it pulled, with a symlink on the way? pull where that leads to")),
            other => other.on_server(WHAT),
        }
    }

    fn make_directory(
        &mut self,
        directory: &Arc<Directory>,
        entry: &Entry,
        old: Option<&Version>,
        rows: &mut Vec<Row>,
    ) -> Result<Option<Name>> {
        let parent = self.directory(&directory.path)?;
        let made = match parent.create_dir(&entry.name, 0o700) {
            Err(Errno::EEXIST) => parent.open(entry.name.as_bytes()),
            other => other.and_then(|()| parent.open(entry.name.as_bytes())),
        };
        let made = match made {
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                self.clear(directory, &parent, &entry.name, rows)?;
                parent.open_or_create(entry.name.as_bytes())
            }
            other => other,
        };
        let made = made.on_server(WHAT)?;
        let looks = |entry: &Entry| (entry.kind, mode_on_disk(entry), entry.uid, entry.gid);
        if old.is_none_or(|old| old.has(flags::REBUILT) || looks(&old.entry) != looks(entry)) {
            if self.owned {
                made.set_own_owner(entry.uid, entry.gid).on_server(WHAT)?;
            }
            made.set_own_mode(mode_on_disk(entry)).on_server(WHAT)?;
        }
        Ok(None)
    }

    fn make_symlink(&mut self, directory: &Arc<Directory>, entry: &Entry, rows: &mut Vec<Row>) -> Result<Option<Name>> {
        let parent = self.directory(&directory.path)?;
        if parent.create_symlink(&entry.name, &entry.target, entry.mtime) == Err(Errno::EEXIST) {
            self.clear(directory, &parent, &entry.name, rows)?;
            parent.create_symlink(&entry.name, &entry.target, entry.mtime).on_server(WHAT)?;
        }
        self.own_symlink(directory, entry)?;
        if self.run.source.settings.archive != ArchiveWhat::All {
            return Ok(None);
        }
        self.run.tally.progress.archived.add(1);
        let archived = self.archive.copy_symlink(&directory.path, &entry.name, &entry.target, entry.mtime);
        archived.map(Some).on_server(WHAT)
    }

    fn own_symlink(&mut self, directory: &Directory, entry: &Entry) -> Result<Option<Name>> {
        if self.owned {
            let parent = self.directory(&directory.path)?;
            match parent.set_owner(&entry.name, entry.uid, entry.gid) {
                // Somebody removed it here.
                Err(Errno::ENOENT) => {
                    parent.create_symlink(&entry.name, &entry.target, entry.mtime).on_server(WHAT)?;
                    parent.set_owner(&entry.name, entry.uid, entry.gid).on_server(WHAT)?;
                }
                other => other.on_server(WHAT)?,
            }
        }
        Ok(None)
    }
}

enum Brought {
    Linked(Name),
    Copied(Name),
    Nothing,
}

fn begin(directory: &Arc<Directory>, entry: &Entry, hash: Option<Hash>, archive_name: Option<Name>, flags: u32) -> Row {
    Row::Begin { directory: directory.clone(), entry: Box::new(entry.clone()), hash, archive_name, flags }
}

// What a person would call the same version: only ctime or the client's inode number differ.
fn is_restated(was: &Entry, is: &Entry) -> bool {
    (was.mtime, was.mode, was.uid, was.gid) == (is.mtime, is.mode, is.uid, is.gid)
}

fn stray(name: &Name, found: &Metadata, target: Vec<u8>) -> Entry {
    Entry {
        name: name.clone(),
        kind: found.kind,
        size: if found.kind == Kind::File { found.size } else { 0 },
        mtime: found.mtime,
        ctime: 0,
        mode: found.mode,
        uid: found.uid,
        gid: found.gid,
        inode: None,
        device: 0,
        target,
    }
}
