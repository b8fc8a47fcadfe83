//! What becomes of the versions that are replaced or gone.

use std::sync::Arc;

use super::super::content_locator::Wanted;
use super::super::ledger::Ledger;
use super::{Directory, Origin, Placing};
use crate::entry::{Kind, Version, is_on_disk};
use crate::error::Result;
use crate::path::Name;
use crate::repository::dirs::Metadata;
use crate::repository::evidence::{Age, ProvedFile};
use crate::repository::index::Record;
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
        let Some(found) = self.look(directory, name)? else {
            let retired = self.lost(ledger, directory, old, Old::None)?;
            self.report_lost(directory, old, ("missing", is_fetched), retired.is_lost);
            return Ok(retired);
        };
        // A file that is not what the index says is unknown.
        let Some(record) = self.is_intact(ledger, directory, old, &found)? else {
            let retired = self.lost(ledger, directory, old, Old::Clear)?;
            self.report_lost(directory, old, ("corrupt", is_fetched), retired.is_lost);
            return Ok(retired);
        };
        let (inode, file) = (found.inode, ProvedFile::of(&found));
        if self.is_archived(ledger, directory, old)? {
            let archive_name = old.archive_name.clone();
            return Ok(Retired { gone: Old::Delete { file }, archive_name, is_lost: false });
        }
        self.run.tally.progress.archived.add(1);
        let archived = self.free_name(directory, name, old.entry.mtime)?;
        if let (Some(record), Some(hash)) = (record, old.hash) {
            let at = At::Archive(self.number(directory), archived.clone());
            self.know(at, old.entry.size, hash, Origin::shared(file, record));
        }
        let gone = Old::Archive { name: archived.clone(), inode };
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
            let copy = staging.copy(candidate.file, &old.entry).ok()?;
            Some((copy, Origin::copied(candidate.record.read)))
        })?;
        let archive_name = match copy {
            Some((copy, origin)) => Some(self.keep(directory, &old.entry, copy, (hash, origin))?),
            None => None,
        };
        Ok(Retired { gone, is_lost: archive_name.is_none(), archive_name })
    }

    // Whether what is at a version's name in the snapshot is that version's; what is known of a file with content.
    fn is_intact(
        &mut self,
        ledger: &mut Ledger<'_>,
        directory: &Directory,
        old: &Version,
        found: &Metadata,
    ) -> Result<Option<Option<Record>>> {
        let name = &old.entry.name;
        if found.kind != old.entry.kind {
            return Ok(None);
        }
        match old.hash {
            Some(hash) if old.entry.kind == Kind::File => {
                let proved = self.prove(ledger, (directory, name), old.entry.size, (&hash, Age::Any))?;
                Ok(proved.map(|(_, record)| Some(record).filter(|_| old.entry.size > 0)))
            }
            _ if old.entry.kind == Kind::Symlink => {
                Ok(self.is_symlink_to(directory, name, &old.entry.target).then_some(None))
            }
            // Of a file without a hash nothing can be proved.
            _ => Ok(None),
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
