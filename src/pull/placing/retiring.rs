//! What becomes of the versions that are replaced or gone.

use std::sync::Arc;

use super::super::applying::Ledger;
use super::super::content_locator::Wanted;
use super::{Directory, Origin, Placing};
use crate::entry::{Kind, Version, is_on_disk};
use crate::error::{Result, cause};
use crate::path::Name;
use crate::repository::evidence::{Age, Proof, ProvedFile};
use crate::repository::journal::{At, Old};

/// What becomes of an old version.
pub(super) struct Retired {
    // The fate of its name in the snapshot.
    pub(super) gone: Old,
    // Its name in the archive, if it has one.
    pub(super) archive_name: Option<Name>,
    // What should have been its plain file is missing, or is something else.
    pub(super) is_lost: bool,
}

impl Retired {
    pub(super) fn nothing() -> Retired {
        Retired { gone: Old::None, archive_name: None, is_lost: false }
    }
}

impl Placing<'_> {
    // What becomes of an old version's name in the snapshot, and its name in the archive, if it has one. `is_fetched` when
    // its content has just come from the client.
    pub(super) fn retire(
        &mut self,
        ledger: &mut Ledger<'_>,
        directory: &Arc<Directory>,
        old: &Version,
        is_fetched: bool,
    ) -> Result<Retired> {
        let name = &old.entry.name;
        match old.entry.kind {
            Kind::Dir => return Ok(Retired { gone: Old::Clear, ..Retired::nothing() }),
            kind if !is_on_disk(kind) => return Ok(Retired::nothing()),
            _ => {}
        }
        let (found, record) = match self.prove_old(ledger, directory, old)? {
            Proof::Holds(found) => (found, self.evidence.record(ledger.index()?, &found)?),
            Proof::Missing => {
                let retired = self.lost(ledger, directory, old, Old::None)?;
                self.report_lost(directory, old, ("missing", is_fetched), retired.is_lost);
                return Ok(retired);
            }
            // A file that is not what the index says is unknown.
            Proof::Differs => {
                let retired = self.lost(ledger, directory, old, Old::Clear)?;
                self.report_lost(directory, old, ("corrupt", is_fetched), retired.is_lost);
                return Ok(retired);
            }
            Proof::Unreadable(error) => return self.retire_unread(directory, old, &error),
        };
        let file = ProvedFile::of(&found);
        if self.is_archived(ledger, directory, old)? {
            let archive_name = old.archive_name.clone();
            return Ok(Retired { gone: Old::Delete { file }, archive_name, is_lost: false });
        }
        self.run.tally.progress.archived.add(1);
        let archived = self.free_name(directory, name, old.entry.mtime)?;
        if let (Some(record), Some(hash)) = (record.filter(|_| found.size > 0), old.hash) {
            let at = At::Archive(self.number(directory), archived.clone());
            self.know(at, old.entry.size, hash, Origin::shared(file, record));
        }
        let gone = Old::Retire { name: archived.clone(), file };
        Ok(Retired { gone, archive_name: Some(archived), is_lost: false })
    }

    // Its content may be intact: what can't be read moves to the archive unread, and is the version's there.
    fn retire_unread(&mut self, directory: &Arc<Directory>, old: &Version, error: &std::io::Error) -> Result<Retired> {
        let Some(found) = self.look(directory, &old.entry.name)? else { return Ok(Retired::nothing()) };
        if let Some(path) = directory.path.join(&old.entry.name) {
            let cause = cause(error);
            self.run
                .tally
                .warn(format_args!("can't read the snapshot copy of `{path}`, which is archived unread: {cause}"));
        }
        if let Some(archived) = &old.archive_name {
            let in_archive = self.archive.directory(&directory.path).and_then(|dir| dir.metadata(archived)).ok();
            let is_same = in_archive.is_some_and(|in_archive| in_archive.is_inode(found.inode));
            let gone = if is_same { Old::Delete { file: ProvedFile::of(&found) } } else { Old::Clear };
            return Ok(Retired { gone, archive_name: Some(archived.clone()), is_lost: false });
        }
        self.run.tally.progress.archived.add(1);
        let archived = self.free_name(directory, &old.entry.name, old.entry.mtime)?;
        let gone = Old::Retire { name: archived.clone(), file: ProvedFile::of(&found) };
        Ok(Retired { gone, archive_name: Some(archived), is_lost: false })
    }

    fn report_lost(&self, directory: &Directory, old: &Version, (what, is_fetched): (&str, bool), is_lost: bool) {
        let Some(path) = directory.path.join(&old.entry.name) else { return };
        let tally = self.run.tally;
        match (is_lost, is_fetched) {
            (true, false) if old.entry.kind == Kind::File => tally.warn(format_args!(
                "snapshot copy of `{path}` was {what}, and no other copy was found: that version can't be restored"
            )),
            (true, true) => tally.warn(format_args!("snapshot copy of `{path}` was {what}; fetched it again")),
            _ => tally.warn(format_args!("snapshot copy of `{path}` was {what}")),
        }
    }

    // Finds the content of an old version in its archive name or in another plain file.
    fn lost(
        &mut self,
        ledger: &mut Ledger<'_>,
        directory: &Arc<Directory>,
        old: &Version,
        gone: Old,
    ) -> Result<Retired> {
        if self.is_archived(ledger, directory, old)? {
            return Ok(Retired { gone, archive_name: old.archive_name.clone(), is_lost: false });
        }
        let Some(hash) = old.hash.filter(|_| old.entry.kind == Kind::File) else {
            return Ok(Retired { gone, archive_name: None, is_lost: true });
        };
        let wanted = Wanted { directory, entry: &old.entry, hash, other_name: None, possession: None };
        let staging = self.staging;
        let copy = self.locator.first(ledger, &mut self.evidence, wanted, |_, candidate| {
            let copy = staging.copy(candidate.file, &old.entry, &hash).ok()??;
            Some((copy, Origin::copied(candidate.record.read)))
        })?;
        let archive_name = match copy {
            Some((copy, origin)) => Some(self.keep(directory, &old.entry, copy, (hash, origin))?),
            None => None,
        };
        Ok(Retired { gone, is_lost: archive_name.is_none(), archive_name })
    }

    // Whether what is at a version's name in the snapshot is that version's.
    fn prove_old(&mut self, ledger: &mut Ledger<'_>, directory: &Directory, old: &Version) -> Result<Proof> {
        let dir = self.snapshot.directory_by(&directory.path, |base| base.open(directory.path.below_root()));
        let (dir, name) = match dir {
            Ok(dir) => (dir, &old.entry.name),
            Err(errno) => return Ok(Proof::failed(errno)),
        };
        let proof = self.evidence.of_version_at(ledger.index()?, (&dir, name), old)?;
        match proof {
            Proof::Unreadable(_) if dir.make_own_readable(name) == Ok(true) => {
                self.evidence.of_version_at(ledger.index()?, (&dir, name), old)
            }
            proof => Ok(proof),
        }
    }

    // The archived file may be a copy with other metadata; its content must be the version's.
    fn is_archived(&mut self, ledger: &mut Ledger<'_>, directory: &Directory, old: &Version) -> Result<bool> {
        let Some(name) = &old.archive_name else { return Ok(false) };
        let Ok(dir) = self.archive.directory(&directory.path) else { return Ok(false) };
        if old.entry.kind == Kind::Symlink {
            return Ok(dir.read_symlink(name).is_ok_and(|target| target == old.entry.target));
        }
        let (Some(hash), Ok((file, found))) = (old.hash, dir.open_file_with_metadata(name)) else { return Ok(false) };
        Ok(self.evidence.proves(ledger.index()?, (&file, &found), &hash, Age::Any)?.is_some())
    }
}
