//! Files: received, linked to or copied from what is on the server already, or only touched.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use super::super::applying::Ledger;
use super::super::content_locator::{Candidate, Wanted};
use super::super::machine::{FileTask, Possession, SnapshotPath, hash_of_nothing};
use super::{Directory, Origin, Placing, Retired, WHAT, is_restated};
use crate::entry::{Entry, Hash, Kind, Version, flags, mode_on_disk};
use crate::error::{Error, Kind as ErrorKind, OnServer, Result};
use crate::path::Name;
use crate::repository::dirs::{Abilities, Dir, Metadata};
use crate::repository::evidence::{Age, ProvedFile};
use crate::repository::index::Record;
use crate::repository::journal::{At, Looks, New, Old, Row};
use crate::repository::staging::{Staged, StagedName};
use crate::source::{ArchiveWhat, HashWhere, LinkWhen};

/// A version of a file that is about to begin.
#[derive(Clone, Copy)]
struct NewFile<'a> {
    directory: &'a Arc<Directory>,
    entry: &'a Entry,
    old: Option<&'a Version>,
    hash: Hash,
    flags: u32,
    other_name: Option<&'a SnapshotPath>,
    possession: Option<&'a Possession>,
    // The old version's plain file, if it differs in metadata only and its inode has other names: its name here may just
    // go.
    drop_old: Option<ProvedFile>,
}

/// A name in staging with a content that is on the server already, and what is known of its inode.
type Linked = (StagedName, Origin);

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
            possession: None,
            drop_old: None,
        }
    }

    fn wanted(&self) -> Wanted<'a> {
        let NewFile { directory, entry, hash, other_name, possession, .. } = *self;
        Wanted { directory, entry, hash, other_name, possession }
    }

    fn begin(&self, number: u32, archive_name: Option<Name>) -> Row {
        let (hash, flags) = (Some(self.hash), self.flags);
        Row::Begin { directory: number, entry: Box::new(self.entry.clone()), hash, archive_name, flags }
    }

    // The old version ends, but its plain file, or what comes in the place of that, is the new one's.
    fn follow(&self, old: i64, number: u32, archive_name: Option<Name>) -> Row {
        let (hash, flags, entry) = (Some(self.hash), self.flags, Box::new(self.entry.clone()));
        Row::Continue { id: old, directory: number, entry, hash, archive_name, flags }
    }

    fn had_its_content(&self) -> bool {
        self.old.is_some_and(|old| old.entry.kind == Kind::File && old.hash == Some(self.hash))
    }
}

impl Placing<'_> {
    /// Plans a file that was received.
    pub(in crate::pull) fn received(&mut self, ledger: &mut Ledger<'_>, task: &FileTask, staged: Staged) -> Result<()> {
        let settings = &self.run.source.settings;
        let file = NewFile::of(task, staged.hash, if staged.consistent { 0 } else { flags::INCONSISTENT });
        let same_mtime = file.old.is_some_and(|old| old.entry.mtime == file.entry.mtime);
        if task.is_basis_corrupt() {
            // The record of the inode is no proof any more.
            let age = Age::AtMost(Duration::ZERO);
            self.prove(ledger, (file.directory, &file.entry.name), file.entry.size, (&file.hash, age))?;
        }
        if file.had_its_content()
            && (same_mtime || settings.link == LinkWhen::Content)
            && let Some(found) = self.find_old(ledger, &file)?
            && self.same_content(ledger, file, found)?
        {
            return self.staging.unlink(&staged.name).on_server(WHAT);
        }
        // With hashing on the server, the received content may be on the server already.
        if settings.hash == HashWhere::Server {
            if settings.link != LinkWhen::Never
                && let Some(linked) = self.link(ledger, &file)?
            {
                self.staging.unlink(&staged.name).on_server(WHAT)?;
                self.run.tally.progress.linked.add(1);
                self.run.tally.progress.bytes_linked.add(file.entry.size);
                return self.place(ledger, &file, linked);
            }
            self.locator.add(staged.hash, staged.name.clone());
        }
        let origin = Origin::copied(self.evidence.now());
        self.place(ledger, &file, (staged.name, origin))
    }

    /// Plans a file whose content is on the server already; false when no plain file proves to have it.
    pub(in crate::pull) fn known(
        &mut self,
        ledger: &mut Ledger<'_>,
        task: &FileTask,
        hash: Hash,
        possession: Option<&Possession>,
    ) -> Result<bool> {
        let file = NewFile { possession, ..NewFile::of(task, hash, 0) };
        if file.had_its_content()
            && let Some(found) = self.find_old(ledger, &file)?
            && self.same_content(ledger, file, found)?
        {
            return Ok(true);
        }
        if hash == hash_of_nothing() {
            if file.entry.size > 0 {
                return Ok(false);
            }
            let (staged, empty) = self.staging.create_for(&file.directory.tray, file.entry).on_server(WHAT)?;
            self.staging.dress(&empty, file.entry).on_server(WHAT)?;
            let origin = Origin::copied(self.evidence.now());
            return self.place(ledger, &file, (staged, origin)).map(|()| true);
        }
        let Some(staged) = self.bring(ledger, &file)? else { return Ok(false) };
        self.place(ledger, &file, staged)?;
        self.run.tally.progress.linked.add(1);
        self.run.tally.progress.bytes_linked.add(task.entry.size);
        Ok(true)
    }

    // The old version's plain file, if it proves to be what the index says.
    fn find_old(&mut self, ledger: &mut Ledger<'_>, file: &NewFile<'_>) -> Result<Option<(Metadata, Record)>> {
        let age = Age::AtMost(self.run.source.settings.verify_age);
        self.prove(ledger, (file.directory, &file.entry.name), file.entry.size, (&file.hash, age))
    }

    // False if the old version's plain file turns out to have another content than its record says.
    fn same_content(
        &mut self,
        ledger: &mut Ledger<'_>,
        mut file: NewFile<'_>,
        (found, record): (Metadata, Record),
    ) -> Result<bool> {
        let old = file.old.expect("the same content is that of an old version");
        let link = self.run.source.settings.link;
        let shared = found.links > 1;
        let number = self.number(file.directory);
        if old.entry.mtime == file.entry.mtime || old.has(flags::REBUILT) {
            let as_wanted = looks_as(&found, file.entry, self.owned, self.staging.dir().abilities());
            if !as_wanted && !shared {
                let (looks, mtime) = (Looks::of(file.entry, self.owned), file.entry.mtime);
                self.change(
                    file.directory,
                    &file.entry.name,
                    Old::None,
                    New::Restate { looks, mtime, file: ProvedFile::of(&found) },
                );
            } else if !as_wanted && link == LinkWhen::Exact {
                file.drop_old = Some(ProvedFile::of(&found));
                return self.copy_of_itself(ledger, &file, (&found, &record));
            }
            return self
                .same_version(ledger, &file, old, Origin::shared(ProvedFile::of(&found), record))
                .map(|()| true);
        }
        if link == LinkWhen::Content
            && let Some(archive_name) = self.archive_link(&file, old, (&found, record))?
        {
            self.end(ledger, old)?;
            let origin = Origin::shared(ProvedFile::of(&found), record);
            let kept = self.archive_new(&file, None, origin)?;
            self.row(file.directory, Row::End { id: old.id, archive_name: Some(archive_name) });
            self.begin(&file, number, kept, origin);
            return Ok(true);
        }
        self.copy_of_itself(ledger, &file, (&found, &record))
    }

    // Owner and mode may have changed; if so that is another version, which has the same place.
    fn same_version(
        &mut self,
        ledger: &mut Ledger<'_>,
        file: &NewFile<'_>,
        old: &Version,
        origin: Origin,
    ) -> Result<()> {
        self.end(ledger, old)?;
        let number = self.number(file.directory);
        if old.has(flags::REBUILT) || is_restated(&old.entry, file.entry) {
            let (entry, hash) = (Box::new(file.entry.clone()), Some(file.hash));
            self.row(file.directory, Row::Refresh { id: old.id, entry, hash, flags: file.flags });
            return Ok(());
        }
        self.begin_with(file, file.follow(old.id, number, old.archive_name.clone()), origin);
        Ok(())
    }

    fn begin(&mut self, file: &NewFile<'_>, number: u32, archive_name: Option<Name>, origin: Origin) {
        self.begin_with(file, file.begin(number, archive_name), origin);
    }

    // A row with which a version of a file begins, and what is known of its plain file.
    fn begin_with(&mut self, file: &NewFile<'_>, row: Row, origin: Origin) {
        self.row(file.directory, row);
        if file.flags & flags::INCONSISTENT == 0 {
            let at = At::Row(self.batch.rows.len() - 1);
            self.know(at, file.entry.size, file.hash, origin);
        }
    }

    // `found` is the old version's plain file, which was proved to have the content. False if it has another one.
    fn copy_of_itself(
        &mut self,
        ledger: &mut Ledger<'_>,
        file: &NewFile<'_>,
        (found, record): (&Metadata, &Record),
    ) -> Result<bool> {
        let dir = self.snapshot.directory(&file.directory.path).on_server(WHAT)?;
        let old = open_proved(&dir, &file.entry.name, ProvedFile::of(found))?;
        let Some(staged) = self.staging.copy(&old, file.entry, &file.hash).on_server(WHAT)? else {
            // It is read again, so that nothing believes its record any more.
            let age = Age::AtMost(Duration::ZERO);
            self.prove(ledger, (file.directory, &file.entry.name), file.entry.size, (&file.hash, age))?;
            return Ok(false);
        };
        self.place(ledger, file, (staged.into(), Origin::copied(record.read))).map(|()| true)
    }

    // A copy of what was received or proved a moment ago.
    fn copy_staged(&self, from: &File, entry: &Entry, hash: &Hash) -> Result<Name> {
        let copied = self.staging.copy(from, entry, hash).on_server(WHAT)?;
        copied.ok_or_else(|| Error::new(ErrorKind::Failed, "a file in staging is not what was written to it"))
    }

    // A name in staging with the content that is on the server already.
    fn bring(&mut self, ledger: &mut Ledger<'_>, file: &NewFile<'_>) -> Result<Option<Linked>> {
        if self.run.source.settings.link != LinkWhen::Never
            && let Some(linked) = self.link(ledger, file)?
        {
            return Ok(Some(linked));
        }
        let staging = self.staging;
        let copied = self.locator.first(ledger, &mut self.evidence, file.wanted(), |_, candidate| {
            let copy = staging.copy(candidate.file, file.entry, &file.hash).ok()??;
            Some((StagedName::from(copy), Origin::copied(candidate.record.read)))
        })?;
        // Others of this batch that are as it is share its inode.
        if let Some((staged, _)) = copied.as_ref().filter(|_| self.run.source.settings.link == LinkWhen::Exact) {
            self.locator.add(file.hash, staged.clone());
        }
        Ok(copied)
    }

    // A further name, in staging, of an inode that has the content.
    fn link(&mut self, ledger: &mut Ledger<'_>, file: &NewFile<'_>) -> Result<Option<Linked>> {
        let exact = self.run.source.settings.link == LinkWhen::Exact;
        let (staging, owned) = (self.staging, self.owned);
        self.locator.first(ledger, &mut self.evidence, file.wanted(), |evidence, candidate| {
            let Candidate { dir, name, found, record, .. } = *candidate;
            let proved = ProvedFile::of(found);
            if exact && !looks_as(found, file.entry, owned, staging.dir().abilities()) {
                return None;
            }
            let link = |to: &Dir, to_name: &Name| dir.link(name, to, to_name);
            // EMLINK, above all: the inode takes no further link. Another inode is tried.
            let (staged, ()) = staging.put(&file.directory.tray, &file.entry.name, link).ok()?;
            // The name may have become another file's between the check and the link.
            let linked = staging.directory_of(&staged).and_then(|dir| dir.metadata(&staged.name)).ok();
            match linked.filter(|linked| proved.is(linked)) {
                Some(linked) => {
                    evidence.carry_over(&linked, &record);
                    Some((staged, Origin::shared(proved, record)))
                }
                None => {
                    let _ = staging.unlink(&staged);
                    None
                }
            }
        })
    }

    fn place(&mut self, ledger: &mut Ledger<'_>, file: &NewFile<'_>, (staged, origin): Linked) -> Result<()> {
        let name = &file.entry.name;
        file.old.map_or(Ok(()), |old| self.end(ledger, old))?;
        let retired = match file.old {
            Some(old) if file.drop_old.is_none() => self.retire(ledger, file.directory, old, file.had_its_content())?,
            _ => match file.drop_old {
                Some(file) => Retired { gone: Old::Delete { file }, ..Retired::nothing() },
                None => Retired::nothing(),
            },
        };
        // The new version has the content that the old one lost.
        let is_lost = retired.is_lost && file.had_its_content();
        let is_same_version = |old: &&Version| old.entry.mtime == file.entry.mtime;
        let follows = file.old.filter(|old| file.drop_old.is_some() || is_lost && is_same_version(old));
        let archive_name = match file.old {
            Some(old) if is_lost && follows.is_none() => Some(self.keep_for(file, old, &staged, origin)?),
            _ => retired.archive_name,
        };
        let kept = match follows {
            Some(old) => old.archive_name.clone(),
            None => self.archive_new(file, Some(&staged), origin)?,
        };
        let number = self.number(file.directory);
        self.take_place(file.directory, name, retired.gone, staged);
        match follows {
            // The mtime of a rebuilt version was a guess: the version stays and gets its own metadata.
            Some(old) if file.drop_old.is_some() && old.has(flags::REBUILT) => {
                let (entry, hash) = (Box::new(file.entry.clone()), Some(file.hash));
                self.row(file.directory, Row::Refresh { id: old.id, entry, hash, flags: file.flags });
            }
            Some(old) => self.begin_with(file, file.follow(old.id, number, kept), origin),
            None => {
                self.batch.rows.extend(file.old.map(|old| Row::End { id: old.id, archive_name }));
                self.begin(file, number, kept, origin);
            }
        }
        Ok(())
    }

    // A name in the archive for an old version whose plain file was lost, and whose content has come.
    fn keep_for(&mut self, file: &NewFile<'_>, old: &Version, staged: &StagedName, origin: Origin) -> Result<Name> {
        let dir = self.staging.directory_of(staged).on_server(WHAT)?;
        let linked = match self.run.source.settings.link {
            LinkWhen::Content => self.stage_link(&dir, &staged.name)?,
            _ => None,
        };
        let (kept, origin) = match linked {
            Some(linked) => (linked, origin),
            None => {
                let content = dir.open_file(&staged.name).on_server(WHAT)?;
                (self.copy_staged(&content, &old.entry, &file.hash)?, Origin::copied(origin.read))
            }
        };
        self.run.tally.progress.archived.add(1);
        self.keep(file.directory, &old.entry, kept, (file.hash, origin))
    }

    // With `archive = "all"`, a file is in the archive from the moment it is received. Its content is in staging, or
    // else in the snapshot.
    fn archive_new(&mut self, file: &NewFile<'_>, staged: Option<&StagedName>, origin: Origin) -> Result<Option<Name>> {
        if self.run.source.settings.archive != ArchiveWhat::All || file.drop_old.is_some() {
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
        let linked = match (linked, origin.shared) {
            // What is in the snapshot may have become another file since it was proved.
            (Some(linked), Some((proved, record))) if staged.is_none() => self.own_link(linked, proved, &record)?,
            (linked, _) => linked,
        };
        let (kept, origin) = match linked {
            Some(linked) => (linked, origin),
            None => {
                let content = match origin.shared.filter(|_| staged.is_none()) {
                    Some((proved, _)) => open_proved(&dir, from, proved)?,
                    None => dir.open_file(from).on_server(WHAT)?,
                };
                match self.staging.copy(&content, file.entry, &file.hash).on_server(WHAT)? {
                    Some(copy) => (copy, Origin::copied(origin.read)),
                    // The snapshot's file has another content: the version gets its name in the archive when it ends.
                    None => return Ok(None),
                }
            }
        };
        self.run.tally.progress.archived.add(1);
        self.keep(file.directory, file.entry, kept, (file.hash, origin)).map(Some)
    }

    // Gives an old version that stays in place its name in the archive; `None` when its inode takes no further name.
    fn archive_link(
        &mut self,
        file: &NewFile<'_>,
        old: &Version,
        (found, record): (&Metadata, Record),
    ) -> Result<Option<Name>> {
        if old.archive_name.is_some() {
            return Ok(old.archive_name.clone());
        }
        let dir = self.snapshot.directory(&file.directory.path).on_server(WHAT)?;
        let Some(staged) = self.stage_link(&dir, &old.entry.name)? else { return Ok(None) };
        let proved = ProvedFile::of(found);
        let Some(staged) = self.own_link(staged, proved, &record)? else { return Ok(None) };
        self.run.tally.progress.archived.add(1);
        let origin = Origin::shared(proved, record);
        self.keep(file.directory, &old.entry, staged, (file.hash, origin)).map(Some)
    }

    // A link in staging, if it is one of the file that was proved.
    fn own_link(&mut self, staged: Name, proved: ProvedFile, record: &Record) -> Result<Option<Name>> {
        let linked = self.staging.dir().metadata(&staged).on_server(WHAT)?;
        if !proved.is(&linked) {
            self.staging.unlink(&staged.into()).on_server(WHAT)?;
            return Ok(None);
        }
        self.evidence.carry_over(&linked, record);
        Ok(Some(staged))
    }
}

// Opens a name that must still be that of the file which was proved to have the content.
fn open_proved(dir: &Dir, name: &Name, proved: ProvedFile) -> Result<File> {
    let (file, found) = dir.open_file_with_metadata(name).on_server(WHAT)?;
    if proved.is(&found) {
        return Ok(file);
    }
    let what = format_args!("`{name}` in the snapshot was changed by another program");
    Err(Error::new(ErrorKind::Failed, what).hint("pull again"))
}

// As well as the file system can keep it.
fn looks_as(found: &Metadata, entry: &Entry, owned: bool, abilities: &Abilities) -> bool {
    abilities.keeps(found.mtime, entry.mtime)
        && (!abilities.modes || found.mode == mode_on_disk(entry))
        && (!owned || !abilities.owners || (found.uid, found.gid) == (entry.uid, entry.gid))
}
