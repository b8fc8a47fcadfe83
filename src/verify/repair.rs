//! Repair: a good copy comes to where a plain file is rotten or missing; what was there is put aside, never deleted.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use nix::errno::Errno;

use super::orphans::{Orphan, Orphans};
use crate::entry::{DirectoryId, Hash, Kind, Version, flags, hash_content, mode_on_disk};
use crate::error::{OnServer, Result};
use crate::path::{Escaped, Name, SourceName};
use crate::report::Report;
use crate::repository::Repository;
use crate::repository::archive::{Archive, path_on_disk};
use crate::repository::dirs::{Dir, Metadata, file_metadata};
use crate::repository::index::Index;
use crate::repository::place::{Place, Tree};
use crate::repository::staging::Staging;
use crate::source::LinkWhen;

const WHAT: &str = "can't repair the trees";

/// What repairs the trees of one source, which is locked.
pub(super) struct Repair<'a> {
    repository: &'a Repository,
    source: &'a SourceName,
    staging: Arc<Staging>,
    damaged: Archive,
    archive: Archive,
    // Names in the archive that versions without a place are about to get.
    taken: HashSet<(DirectoryId, Name)>,
    link: LinkWhen,
    // Contents that were found where others should be.
    misplaced: HashMap<Hash, Place>,
    orphans: Orphans,
}

/// A version whose plain file is not what it was, and what is to come in its place, if there is anything.
struct Lost {
    version: Version,
    place: Place,
    // True when the index knows no plain file of the version: `place` becomes its own.
    is_baseless: bool,
    staged: Option<Good>,
}

/// A name in staging with what a plain file should be, and where that is from, if it is not made up.
struct Good {
    name: Name,
    from: Option<Vec<u8>>,
    orphan: Option<Orphan>,
}

impl<'a> Repair<'a> {
    pub(super) fn open(
        repository: &'a Repository,
        source: &'a SourceName,
        link: LinkWhen,
        (misplaced, orphans): (HashMap<Hash, Place>, Orphans),
    ) -> Result<Repair<'a>> {
        let staging = Staging::open(repository.staging(source)?).on_server(WHAT)?;
        staging.clear().on_server(WHAT)?;
        let damaged = Archive::new(repository.damaged(source)?);
        let archive = Archive::new(repository.archive(source)?);
        Ok(Repair {
            repository,
            source,
            staging: Arc::new(staging),
            damaged,
            archive,
            taken: HashSet::new(),
            link,
            misplaced,
            orphans,
        })
    }

    /// Puts good copies to where versions' plain files are not what they were, and returns the numbers of those for which
    /// there was one; `None` for the tree of one that has no place. What else a pull can fetch again is marked so that the next
    /// one does.
    pub(super) fn repair(
        &mut self,
        index: &mut Index,
        lost: Vec<(Option<Tree>, Version)>,
        report: &dyn Report,
    ) -> Result<Vec<i64>> {
        let mut to_do = Vec::with_capacity(lost.len());
        // All copies first: they may be found by way of names that are put aside, of each other above all.
        for (tree, version) in lost {
            let place = match tree {
                Some(tree) => self.place(index, tree, &version)?,
                None => self.free_place(index, &version)?,
            };
            let Some(place) = place else { continue };
            let staged = self.stage(index, &place, &version)?;
            to_do.push(Lost { version, place, is_baseless: tree.is_none(), staged });
        }
        self.staging.dir().sync_file_system().on_server(WHAT)?;
        let mut repaired = Vec::new();
        for lost in to_do {
            let id = lost.version.id;
            if self.put(index, lost, report)? {
                repaired.push(id);
            }
        }
        Ok(repaired)
    }

    fn put(&mut self, index: &mut Index, lost: Lost, report: &dyn Report) -> Result<bool> {
        let Lost { version, place, is_baseless, staged } = lost;
        if staged.is_none() && place.tree == Tree::Archive {
            // What is rotten is better than nothing.
            return Ok(false);
        }
        let dir = self.directory(&place).on_server(WHAT)?;
        let found = match dir.metadata(&place.name) {
            Err(Errno::ENOENT) => None,
            found => Some(found.on_server(WHAT)?),
        };
        let shown = place.on_disk();
        let shown = Escaped(&shown);
        if dir.is_immutable(None) || found.is_some() && dir.is_immutable(Some(&place.name)) {
            let unused = staged.map(|good| good.name);
            unused.map_or(Ok(()), |name| self.staging.dir().unlink(&name)).on_server(WHAT)?;
            report.error(format_args!(
                "can't repair `{shown}`: it or its directory is immutable (see `lsattr -d`, `chattr -ia`)"
            ));
            return Ok(false);
        }
        // A directory is never in the way of good bytes: what is in it is somebody's.
        let is_blocked = found.as_ref().is_some_and(|found| found.kind == Kind::Dir);
        if let Some(found) = found.filter(|_| !is_blocked) {
            let aside = self.put_aside(&place, &dir, &found)?;
            report.notice(format_args!("what was at `{shown}` is at `{}` now", Escaped(&aside)));
        }
        match staged {
            Some(good) if is_blocked => {
                self.staging.dir().unlink(&good.name).on_server(WHAT)?;
                report.error(format_args!("`{shown}` can't be repaired, for a directory is there"));
                Ok(false)
            }
            Some(good) => {
                // First: a repair that is killed leaves a version whose plain file is missing, and no unknown file.
                if is_baseless {
                    let write = index.write()?;
                    write.set_archive_name(version.id, Some(&place.name))?;
                    write.commit()?;
                }
                self.staging.dir().rename(&good.name, &dir, &place.name).on_server(WHAT)?;
                if let Some(orphan) = good.orphan {
                    dir.sync_file_system().on_server(WHAT)?;
                    orphan.remove().on_server(WHAT)?;
                }
                let from = good.from;
                let from = from.map_or(String::new(), |from| format!(", from `{}`", Escaped(&from)));
                report.notice(format_args!("`{shown}` is repaired{from}"));
                Ok(true)
            }
            None => {
                self.ask_for(index, &version)?;
                report.notice(format_args!("`{shown}` will be fetched by the next pull, if the client has it still"));
                Ok(false)
            }
        }
    }

    fn place(&self, index: &Index, tree: Tree, version: &Version) -> Result<Option<Place>> {
        let name = match tree {
            Tree::Snapshot => Some(version.entry.name.clone()),
            Tree::Archive => version.archive_name.clone(),
        };
        let directory = index.directory_path(version.directory)?;
        let source = self.source.clone();
        Ok(name.zip(directory).map(|(name, directory)| Place { tree, source, directory, name }))
    }

    // A free name in the archive for a version without a plain file.
    fn free_place(&mut self, index: &Index, version: &Version) -> Result<Option<Place>> {
        let Some(directory) = index.directory_path(version.directory)? else { return Ok(None) };
        let taken = &self.taken;
        let is_taken = |name: &Name| taken.contains(&(version.directory, name.clone()));
        let name =
            self.archive.free_name(&directory, &version.entry.name, version.entry.mtime, is_taken).on_server(WHAT)?;
        self.taken.insert((version.directory, name.clone()));
        Ok(Some(Place { tree: Tree::Archive, source: self.source.clone(), directory, name }))
    }

    // Of the tree, made if it is gone.
    fn directory(&self, place: &Place) -> nix::Result<Dir> {
        let base = [place.tree.name().as_bytes(), b"/", self.source.as_str().as_bytes()].concat();
        let base = self.repository.base().open(&base)?;
        match place.tree {
            Tree::Snapshot => base.open_or_create(place.directory.below_root()),
            Tree::Archive => base.open_or_create(&path_on_disk(&place.directory)),
        }
    }

    fn stage(&mut self, index: &Index, wrong: &Place, version: &Version) -> Result<Option<Good>> {
        let entry = &version.entry;
        if entry.kind == Kind::Symlink {
            return Ok(Some(Good {
                name: self.staging.create_symlink(entry).on_server(WHAT)?,
                from: None,
                orphan: None,
            }));
        }
        let Some(hash) = version.hash.filter(|_| entry.kind == Kind::File) else { return Ok(None) };
        if entry.size == 0 {
            let (name, file) = self.staging.create().on_server(WHAT)?;
            self.staging.permit(&file, entry).on_server(WHAT)?;
            self.staging.dress(&file, entry).on_server(WHAT)?;
            return Ok(Some(Good { name, from: None, orphan: None }));
        }
        let misplaced = || {
            let place = self.misplaced.get(&hash)?;
            Some((place.clone(), self.open_with(place, &hash)?))
        };
        let Some((from, file)) = Place::intact(self.repository, index, &hash, wrong)?.or_else(misplaced) else {
            return self.stage_orphan(version, &hash);
        };
        let found = file_metadata(&file).on_server(WHAT)?;
        // A link into another source's tree needs proof that the client has the content.
        let is_own = from.source == *self.source;
        let may_link = match self.link {
            LinkWhen::Content => is_own,
            LinkWhen::Exact => is_own && (found.mtime, found.mode) == (entry.mtime, mode_on_disk(entry)),
            LinkWhen::Never => false,
        };
        let linked = if may_link { self.link(&from, &hash)? } else { None };
        let name = match linked {
            Some(linked) => Some(linked),
            None => self.staging.copy(&file, entry, &hash).on_server(WHAT)?,
        };
        Ok(name.map(|name| Good { name, from: Some(from.on_disk()), orphan: None }))
    }

    // A further name of a file with this content. It is read under that name: the other one may have become another file's, for
    // its source may not be locked.
    fn link(&self, from: &Place, hash: &Hash) -> Result<Option<Name>> {
        let (linked, staging) = (self.staging.free_name(), self.staging.dir());
        let dir = from.open_directory(self.repository);
        if dir.and_then(|dir| dir.link(&from.name, staging, &linked)).is_err() {
            return Ok(None);
        }
        let read = staging.open_file(&linked).map_err(std::io::Error::from);
        let is_good = read.and_then(|file| hash_content(file, blake3::Hasher::new())).is_ok_and(|read| read == *hash);
        if is_good {
            return Ok(Some(linked));
        }
        staging.unlink(&linked).on_server(WHAT)?;
        Ok(None)
    }

    // A copy, because the unknown file's inode may have other names.
    fn stage_orphan(&mut self, version: &Version, hash: &Hash) -> Result<Option<Good>> {
        let Some(mut orphan) = self.orphans.with(hash, version.entry.size) else { return Ok(None) };
        let Some(file) = orphan.open(hash) else { return Ok(None) };
        let name = self.staging.copy(&file, &version.entry, hash).on_server(WHAT)?;
        Ok(name.map(|name| Good { name, from: Some(orphan.on_disk.clone()), orphan: Some(orphan) }))
    }

    fn open_with(&self, place: &Place, hash: &Hash) -> Option<File> {
        let file = place.open(self.repository).ok()?;
        hash_content(&file, blake3::Hasher::new()).is_ok_and(|found| found == *hash).then_some(file)
    }

    // Returns where it is, relative to the repository.
    fn put_aside(&mut self, place: &Place, dir: &Dir, found: &Metadata) -> Result<Vec<u8>> {
        let name = self.damaged.take(&place.directory, (dir, &place.name), found.mtime, |_| false).on_server(WHAT)?;
        Ok(crate::repository::path_in("damaged", self.source, &place.directory, &name))
    }

    fn ask_for(&self, index: &mut Index, version: &Version) -> Result<()> {
        let write = index.write()?;
        write.flag(version.id, flags::INCONSISTENT)?;
        write.forget_fingerprint(version.directory)?;
        write.commit()
    }
}
