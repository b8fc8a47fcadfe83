//! Carrying deeds out. Nothing is ever written over but an empty directory: what is unexpectedly in the way moves to the
//! archive.

use std::collections::HashSet;
use std::sync::Arc;

use nix::errno::Errno;

use super::{Batch, Deed, Looks, New, Old, Row};
use crate::entry::{Kind, Time, hash_content};
use crate::error::{OnServer, Result};
use crate::path::{AbsPath, Escaped, Name, SourceName};
use crate::report::Report;
use crate::repository::Repository;
use crate::repository::archive::{Archive, open_directory};
use crate::repository::dirs::{Dir, Metadata, OpenTree, Unlinked, owner_given};
use crate::repository::place::{Place, Tree};
use crate::repository::staging::{StagedName, Staging};

const WHAT: &str = "can't change the trees";

/// The trees of one source, to be changed.
pub struct Trees {
    source: SourceName,
    snapshot: OpenTree,
    archive: Archive,
    staging: Arc<Staging>,
    // Trays of the batch that were moved as a whole.
    moved: HashSet<Name>,
    touched: Vec<Touched>,
}

/// An inode that lost a name, before and after that.
#[derive(Debug)]
pub struct Touched {
    pub before: Metadata,
    pub after: Metadata,
}

/// Deviations of the trees from the index that a batch met.
#[derive(Debug, Default)]
pub struct Found {
    /// The client's paths where something was in the way, which the archive has now.
    pub strays: Vec<AbsPath>,
    /// What became of files that were no longer as they had been proved, a line for each.
    pub changed: Vec<String>,
}

/// What became of a file that was no longer as it had been proved.
#[derive(Debug, PartialEq)]
enum Deviation {
    // It was not deleted.
    Kept,
    // It moved to the archive all the same, to this name.
    Archived(Name),
    // No metadata was set.
    NotSet,
}

impl Found {
    /// A line for each, for a person.
    pub fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        let stray = |path| format!("`{path}` held something unknown, which is in the archive now");
        self.changed.iter().cloned().chain(self.strays.iter().map(stray))
    }

    /// Warns of each.
    pub fn report(&self, report: &dyn Report) {
        self.warnings().for_each(|warning| report.warn(&warning));
    }
}

impl Trees {
    /// Opens the trees of a source, which must be locked.
    pub fn open(repository: &Repository, source: &SourceName, staging: Arc<Staging>) -> Result<Trees> {
        Ok(Trees {
            source: source.clone(),
            snapshot: OpenTree::new(repository.snapshot(source)?),
            archive: Archive::new(repository.archive(source)?),
            staging,
            moved: HashSet::new(),
            touched: Vec::new(),
        })
    }

    /// The source's snapshot and archive.
    pub fn bases(&self) -> (Dir, Dir) {
        (self.snapshot.base().clone(), self.archive.base().clone())
    }

    /// Hands over which inodes lost a name.
    pub fn take_touched(&mut self) -> Vec<Touched> {
        std::mem::take(&mut self.touched)
    }

    /// Carries out a batch's deeds; `again` when it may have been begun before. Adds a row for each stray that was in the
    /// way.
    pub fn carry_out(&mut self, batch: &mut Batch, again: bool) -> Result<Found> {
        self.archive.settle();
        if again {
            self.expect_changes(batch).on_server(WHAT)?;
        }
        let mut changed = Vec::new();
        let mut found = Strays { paths: Vec::new(), rows: Vec::new(), claimed: claimed(batch) };
        self.moved.clear();
        for deed in &batch.deeds {
            let done = match deed {
                Deed::Fill { directory, tray } => {
                    self.fill(&batch.directories[*directory as usize], tray).map(|()| None)
                }
                Deed::Change { directory, name, old, new } => {
                    self.change(&batch.directories[*directory as usize], name, (old, new), again, &mut found)
                }
                Deed::Keep { directory, staged, name } => {
                    self.keep(&batch.directories[*directory as usize], staged, name, again).map(|()| None)
                }
                Deed::Drop { directory, name, inode } => {
                    self.delete_archived(directory, name, |found| found.is_inode(*inode)).map(|_| None)
                }
                Deed::Delete { directory, name, file } => {
                    let deleted = self.delete_archived(directory, name, |found| file.is(found));
                    deleted.map(|is_meant| (!is_meant).then_some(Deviation::Kept))
                }
            };
            let deviation = done.map_err(|error| error.at(self.place_of(deed, &batch.directories)))?;
            changed.extend(deviation.map(|deviation| self.describe(&deviation, deed, &batch.directories)));
        }
        batch.rows.extend(found.rows);
        Ok(Found { strays: found.paths, changed })
    }

    // Deletes a name in the archive if it is that of the file that is meant; false if it is another's.
    fn delete_archived(
        &mut self,
        path: &AbsPath,
        name: &Name,
        is_meant: impl FnOnce(&Metadata) -> bool,
    ) -> Result<bool> {
        match self.archive.existing_directory(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(true),
            dir => self.delete(&dir.on_server(WHAT)?, name, is_meant),
        }
    }

    // Deletes a name if it is that of the file that is meant; false if it is another's.
    fn delete(&mut self, dir: &Dir, name: &Name, is_meant: impl FnOnce(&Metadata) -> bool) -> Result<bool> {
        match dir.unlink_if(name, is_meant).on_server(WHAT)? {
            Unlinked::Yes { before, after } => self.touched.push(Touched { before, after }),
            Unlinked::Missing => {}
            Unlinked::No => return Ok(false),
        }
        Ok(true)
    }

    fn describe(&self, deviation: &Deviation, deed: &Deed, directories: &[AbsPath]) -> String {
        let place = self.place_of(deed, directories);
        match (deviation, deed) {
            (Deviation::Archived(name), Deed::Change { directory, .. }) => {
                let directory = directories[*directory as usize].clone();
                let kept = Place { tree: Tree::Archive, source: self.source.clone(), directory, name: name.clone() };
                let kept = Escaped(&kept.on_disk()).to_string();
                format!("another program changed `{place}`, which is at `{kept}` now: run `archive verify --repair`")
            }
            (Deviation::NotSet, _) => format!(
                "another program changed `{place}`, or it can't be read: its metadata was not set; run `archive verify`"
            ),
            _ => format!("another program changed `{place}`, which was not removed: see `archive index check`"),
        }
    }

    // Where in the repository a deed changes something, for a person.
    fn place_of(&self, deed: &Deed, directories: &[AbsPath]) -> String {
        let of = |number: &u32| directories[*number as usize].clone();
        let (tree, directory, name) = match deed {
            Deed::Fill { directory, .. } => {
                let path = of(directory);
                return format!("{}/{}{path}", Tree::Snapshot.name(), self.source);
            }
            Deed::Change { directory, name, .. } => (Tree::Snapshot, of(directory), name),
            Deed::Keep { directory, name, .. } => (Tree::Archive, of(directory), name),
            Deed::Drop { directory, name, .. } | Deed::Delete { directory, name, .. } => {
                (Tree::Archive, directory.clone(), name)
            }
        };
        let place = Place { tree, source: self.source.clone(), directory, name: name.clone() };
        Escaped(&place.on_disk()).to_string()
    }

    // What an earlier attempt did may not be on the disk yet.
    fn expect_changes(&self, batch: &Batch) -> nix::Result<()> {
        let bases = [(self.snapshot.base(), false), (self.archive.base(), true)];
        for (base, is_archive) in bases {
            base.has_changed()?;
            for directory in &batch.directories {
                let mut path = Some(directory.clone());
                while let Some(at) = path {
                    let opened = if is_archive { open_directory(base, &at) } else { base.open(at.below_root()) };
                    opened.map_or(Ok(()), |dir| dir.has_changed())?;
                    path = at.split().map(|(parent, _)| parent);
                }
            }
        }
        Ok(())
    }

    /// Waits until all of that, and what is in staging, is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.staging.dir().sync_file_system().on_server("can't sync the repository's file system")
    }

    /// Removes a client's directory from the archive if nothing is in it, and then those above it.
    pub fn clear_archive(&mut self, directory: &AbsPath) -> Result<()> {
        self.archive.clear(directory).on_server(WHAT)
    }

    fn change(
        &mut self,
        directory: &AbsPath,
        name: &Name,
        (old, new): (&Old, &New),
        again: bool,
        strays: &mut Strays,
    ) -> Result<Option<Deviation>> {
        if let New::Staged(staged) = new
            && self.is_placed(staged, again)
        {
            return Ok(None);
        }
        let dir = match new {
            New::None => match self.snapshot.directory_by(directory, |base| base.open(directory.below_root())) {
                // Where something goes that is gone already, nothing has to be made, and may be something else by now.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
                other => other.on_server(WHAT)?,
            },
            _ => self.directory(directory, strays)?,
        };
        if again
            && let New::Staged(staged) = new
            && self.completes(directory, &dir, name, (old, staged)).on_server(WHAT)?
        {
            return Ok(None);
        }
        let mut deviation = None;
        match old {
            Old::None => {}
            Old::Archive { name: archived, inode } => {
                self.retire(directory, &dir, name, (archived, &|found| found.is_inode(*inode)), again)?;
            }
            Old::Retire { name: archived, file } => {
                let is_meant = self.retire(directory, &dir, name, (archived, &|found| file.is(found)), again)?;
                deviation = (!is_meant).then(|| Deviation::Archived(archived.clone()));
            }
            Old::Remove { inode } => self.delete(&dir, name, |found| found.is_inode(*inode)).map(drop)?,
            Old::Delete { file } => {
                let is_meant = self.delete(&dir, name, |found| file.is(found))?;
                // What takes the name clears it first. After a crash it may be the place of what came since.
                if !is_meant && *new == New::None {
                    if again {
                        deviation = Some(Deviation::Kept);
                    } else {
                        self.clear(directory, &dir, name, strays)?;
                    }
                }
            }
            // What is in a directory by now may be what was placed there.
            Old::Clear if again && matches!(new, New::Directory(_)) && is_directory(&dir, name) => {}
            Old::Clear => self.clear(directory, &dir, name, strays)?,
        }
        match new {
            New::None => {}
            New::Staged(staged) => self.place(directory, &dir, name, staged, strays)?,
            New::Directory(looks) => self.make_directory(directory, &dir, name, *looks, strays)?,
            New::Restated { looks, mtime } => {
                restate(&dir, name, (*looks, *mtime), &self.staging, |_| true)?;
            }
            New::Restate { looks, mtime, file } => {
                // After a crash it may have been done already.
                let is_meant = |found: &Metadata| file.is(found) || again && file.is_with(found, *mtime);
                let is_set = restate(&dir, name, (*looks, *mtime), &self.staging, is_meant)?;
                deviation = deviation.or((!is_set).then_some(Deviation::NotSet));
            }
        }
        Ok(deviation)
    }

    // Moves a tray to where its directory is, which is empty. One that has gone was moved before; where there is no
    // directory, or something in it, or what either has inherited the other can't be given, each file finds its own place.
    fn fill(&mut self, path: &AbsPath, tray: &Name) -> Result<()> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let parent = self.snapshot.directory_by(&parent, |base| base.open(parent.below_root()));
        let (Ok(filled), Ok(parent)) = (self.staging.tray(tray), parent) else { return Ok(()) };
        let Ok(directory) = parent.open(name.as_bytes()) else { return Ok(()) };
        let empty = directory.own_metadata().on_server(WHAT)?;
        if directory.may_have_acl() || filled.may_have_acl() {
            return Ok(());
        }
        if nix::unistd::geteuid().is_root() {
            // The directory's own could not be given either, then: each file finds its own place.
            if !owner_given(filled.set_own_owner(empty.uid, empty.gid)).on_server(WHAT)? {
                return Ok(());
            }
        } else if filled.own_metadata().on_server(WHAT)?.gid != empty.gid {
            return Ok(());
        }
        filled.set_own_mode(empty.mode | 0o700).on_server(WHAT)?;
        match self.staging.move_tray(tray, &parent, &name) {
            Ok(()) => {
                self.snapshot.forget(path);
                self.moved.insert(tray.clone());
                Ok(())
            }
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR | Errno::EBUSY) => Ok(()),
            // A file system that does not move directories.
            Err(Errno::EINVAL | Errno::EPERM | Errno::EXDEV | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno).on_server(WHAT),
        }
    }

    // With its tray, or by an earlier attempt: what was there before went first.
    fn is_placed(&self, staged: &StagedName, again: bool) -> bool {
        let is_gone = || {
            let found = self.staging.directory_of(staged).and_then(|dir| dir.metadata(&staged.name));
            found == Err(Errno::ENOENT)
        };
        staged.tray.as_ref().is_some_and(|tray| self.moved.contains(tray)) || again && is_gone()
    }

    // An earlier attempt may have been cut off when the file had its name in the snapshot, and still the one in staging.
    fn completes(
        &mut self,
        path: &AbsPath,
        dir: &Dir,
        name: &Name,
        (old, staged): (&Old, &StagedName),
    ) -> nix::Result<bool> {
        // What was there may be of the same inode: it has to be in the archive first.
        if let Some(archived) = old.archive_name()
            && self.archive.directory(path)?.metadata(archived).is_err()
        {
            return Ok(false);
        }
        let from = self.staging.directory_of(staged)?;
        from.complete_move(&staged.name, dir, name)
    }

    // Moves what is at a name to the archive; false if that is not what was proved. It is kept under the version's name all the
    // same, and whoever reads it finds out. After a crash, what is there may have come since: then it was moved before, unless
    // this is a copy of the repository, in which all inodes have other numbers and the archive has no such name yet.
    fn retire(
        &mut self,
        path: &AbsPath,
        dir: &Dir,
        name: &Name,
        (archived, is_meant): (&Name, &dyn Fn(&Metadata) -> bool),
        again: bool,
    ) -> Result<bool> {
        let Ok(found) = dir.metadata(name) else { return Ok(true) };
        let mut is_undone = || -> nix::Result<bool> {
            let archive = self.archive.directory(path)?;
            Ok(found.kind != Kind::Dir && archive.metadata(archived) == Err(Errno::ENOENT))
        };
        let is_as_proved = is_meant(&found);
        if is_as_proved || is_undone().on_server(WHAT)? {
            self.archive_as(path, (dir, name), archived, again).on_server(WHAT)?;
            return Ok(is_as_proved);
        }
        Ok(true)
    }

    // Something may have taken the name since it was free: another directory of the client's, above all.
    fn archive_as(
        &mut self,
        path: &AbsPath,
        (from, name): (&Dir, &Name),
        archived: &Name,
        again: bool,
    ) -> nix::Result<()> {
        let to = self.archive.directory(path)?;
        match from.rename(name, &to, archived) {
            Err(Errno::EEXIST) if again && from.complete_move(name, &to, archived)? => Ok(()),
            Err(Errno::EEXIST) => {
                self.archive.make_room(path, archived)?;
                from.rename(name, &to, archived)
            }
            other => other,
        }
    }

    fn place(
        &mut self,
        path: &AbsPath,
        dir: &Dir,
        name: &Name,
        staged: &StagedName,
        strays: &mut Strays,
    ) -> Result<()> {
        let from = self.staging.directory_of(staged).on_server(WHAT)?;
        match from.rename(&staged.name, dir, name) {
            Err(Errno::EEXIST) => {
                self.clear(path, dir, name, strays)?;
                from.rename(&staged.name, dir, name).on_server(WHAT)
            }
            other => other.on_server(WHAT),
        }
    }

    fn keep(&mut self, path: &AbsPath, staged: &Name, name: &Name, again: bool) -> Result<()> {
        let staging = Arc::clone(&self.staging);
        match self.archive_as(path, (staging.dir(), staged), name, again) {
            Err(Errno::ENOENT) => Ok(()),
            other => other.on_server(WHAT),
        }
    }

    fn make_directory(
        &mut self,
        path: &AbsPath,
        parent: &Dir,
        name: &Name,
        looks: Option<Looks>,
        strays: &mut Strays,
    ) -> Result<()> {
        let made = match parent.open_or_create(name.as_bytes()) {
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                self.clear(path, parent, name, strays)?;
                parent.open_or_create(name.as_bytes())
            }
            other => other,
        };
        let (made, Some(looks)) = (made.on_server(WHAT)?, looks) else { return Ok(()) };
        if let Some((uid, gid)) = looks.owner {
            self.staging.note_owner(owner_given(made.set_own_owner(uid, gid)).on_server(WHAT)?);
        }
        // It may be another user's.
        owner_given(made.set_own_mode(looks.mode)).on_server(WHAT).map(drop)
    }

    // The snapshot's directory of a client's directory, made if need be. A client may first say that a path is no
    // directory, and then list what is in it: the last word counts.
    fn directory(&mut self, path: &AbsPath, strays: &mut Strays) -> Result<Dir> {
        match self.snapshot.directory(path) {
            Err(Errno::ELOOP | Errno::ENOTDIR) => {
                self.make_way(path, strays)?;
                self.snapshot.directory(path).on_server(WHAT)
            }
            other => other.on_server(WHAT),
        }
    }

    fn make_way(&mut self, path: &AbsPath, strays: &mut Strays) -> Result<()> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let dir = self.directory(&parent, strays)?;
        match dir.open(name.as_bytes()) {
            Err(Errno::ELOOP | Errno::ENOTDIR) => self.clear(&parent, &dir, &name, strays),
            _ => Ok(()),
        }
    }

    // Removes an empty directory; moves anything else, which no deed tells of, to the archive.
    fn clear(&mut self, path: &AbsPath, dir: &Dir, name: &Name, strays: &mut Strays) -> Result<()> {
        let whole = path.join(name);
        whole.iter().for_each(|path| self.snapshot.forget(path));
        match dir.remove_dir(name) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTDIR | Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Err(errno) => return Err(errno).on_server(WHAT),
        }
        strays.paths.extend(whole);
        self.put_aside(path, dir, name, strays)
    }

    fn put_aside(&mut self, path: &AbsPath, dir: &Dir, name: &Name, strays: &mut Strays) -> Result<()> {
        let found = dir.metadata(name).on_server(WHAT)?;
        if found.kind == Kind::Dir
            && let Some(below) = path.join(name)
        {
            let inside = dir.open(name.as_bytes()).on_server(WHAT)?;
            for name in inside.names().on_server(WHAT)? {
                self.put_aside(&below, &inside, &name, strays)?;
            }
            return dir.remove_dir(name).on_server(WHAT);
        }
        let target = if found.kind == Kind::Symlink { dir.read_symlink(name).on_server(WHAT)? } else { Vec::new() };
        let hash = match found.kind {
            // One that can't be read moves unread, or it would hold up the source for ever.
            Kind::File => {
                let opened = dir.open_own_file(name).ok();
                opened.and_then(|(file, _)| hash_content(&file, blake3::Hasher::new()).ok())
            }
            _ => None,
        };
        let is_claimed = |archived: &Name| strays.claimed.contains(&(path.clone(), archived.clone()));
        let archive_name = self.archive.take(path, (dir, name), found.mtime, is_claimed).on_server(WHAT)?;
        let entry = Box::new(found.entry(name.clone(), target));
        strays.rows.push(Row::Stray { directory: path.clone(), entry, hash, archive_name });
        Ok(())
    }
}

/// What was in the way: where, and the rows for it.
struct Strays {
    paths: Vec<AbsPath>,
    rows: Vec<Row>,
    // Names in the archive that the batch gives to versions.
    claimed: HashSet<(AbsPath, Name)>,
}

fn claimed(batch: &Batch) -> HashSet<(AbsPath, Name)> {
    let claim = |directory: &u32, name: &Name| Some((batch.directories[*directory as usize].clone(), name.clone()));
    let claims = batch.deeds.iter().filter_map(|deed| match deed {
        Deed::Change { directory, old, .. } => old.archive_name().and_then(|name| claim(directory, name)),
        Deed::Keep { directory, name, .. } => claim(directory, name),
        Deed::Fill { .. } | Deed::Drop { .. } | Deed::Delete { .. } => None,
    });
    claims.collect()
}

fn is_directory(dir: &Dir, name: &Name) -> bool {
    dir.metadata(name).is_ok_and(|found| found.kind == Kind::Dir)
}

// Sets the metadata of a file that is meant; false if it is another one, or can't be examined. What the file system or the file's
// owner does not allow to be set, the index knows all the same.
fn restate(
    dir: &Dir,
    name: &Name,
    (looks, mtime): (Looks, Time),
    staging: &Staging,
    is_meant: impl FnOnce(&Metadata) -> bool,
) -> Result<bool> {
    let (file, found) = match dir.open_file_with_metadata(name) {
        Ok(opened) => opened,
        // Somebody removed it since it was examined; the next pull says so.
        Err(Errno::ENOENT) => return Ok(true),
        Err(Errno::EACCES | Errno::EPERM | Errno::ELOOP | Errno::ENOTDIR) => return Ok(false),
        Err(errno) => return Err(errno).on_server(WHAT),
    };
    if !is_meant(&found) {
        return Ok(false);
    }
    match dir.set_file_metadata(&file, mtime, looks.owner) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => staging.note_owner(false),
        given => staging.note_owner(given.on_server(WHAT)?),
    }
    owner_given(dir.set_file_mode(&file, looks.mode)).on_server(WHAT)?;
    dir.sync_file(&file).on_server(WHAT)?;
    Ok(true)
}
