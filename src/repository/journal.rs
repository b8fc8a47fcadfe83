//! The journal: what a batch is about to do to a source's trees, and what the index is to say of it afterwards.
//!
//! A batch is written to the index and committed before anything is done, then carried out, and then its rows follow.
//! It stays pending until its deeds are on the disk, too: waiting for that is left to the next batch, which has to wait
//! for its own files anyway. Whoever comes after a crash carries it out again: each deed finds out whether it was done
//! already. Files that deeds place lie in staging until then, complete and on the disk.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;

use super::Repository;
use super::archive::open_directory;
use super::dirs::Dir;
use super::dirs::Metadata;
use super::evidence::ProvedFile;
use super::index::{Index, NewVersion, Record, SourceId, Write};
use super::newest_run::note_batch;
use super::relayout::relocate;
use super::staging::{StagedName, Staging};
use crate::entry::{DirectoryId, Entry, Hash, Time, flags, mode_on_disk};
use crate::error::{Error, Kind as ErrorKind, OnServer, Result};
use crate::path::{AbsPath, Name, SourceName};

mod stored;
#[cfg(test)]
mod tests;
mod trees;

pub use trees::Found;

use stored::{FORMAT, SETTLED, decode_batch, encode_batch};
use trees::{Touched, Trees};

// Directories held open while the files of a batch are examined.
const MAX_OPEN_DIRECTORIES: usize = 128;

/// What is done at once: to the trees first, then to the index.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// The run that does it.
    pub run: i64,
    /// Every directory that something changes in. Deeds and rows refer to them by their places here.
    pub directories: Vec<AbsPath>,
    /// In order.
    pub deeds: Vec<Deed>,
    /// In order.
    pub rows: Vec<Row>,
    /// Plain files whose content is known once the deeds are done. Whoever carries the batch out again does not know it.
    pub known: Vec<Known>,
    /// Records of other plain files that were read while the batch was planned.
    pub found: Vec<(u64, Record)>,
}

/// A plain file whose content is known: by that of which it is another name, or as it was received.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Where it is.
    pub at: At,
    /// BLAKE3 of the content.
    pub hash: Hash,
    /// When that was computed, nanoseconds since 1970 UTC.
    pub read: i64,
    /// The file that was proved; `None` for one that was received, which has the size and mtime of its row.
    pub file: Option<ProvedFile>,
}

/// A place in the trees of a batch's source.
#[derive(Clone, Debug, PartialEq)]
pub enum At {
    /// The snapshot path of the version that the row with this index begins.
    Row(usize),
    /// In the archive: the directory's place in the batch, and the name there.
    Archive(u32, Name),
}

/// One change to the trees.
#[derive(Debug, PartialEq)]
pub enum Deed {
    /// A tray of staging becomes a directory of the snapshot, if that is there and empty. Then the changes that place its
    /// files are done; otherwise each places one.
    Fill {
        /// The client's directory.
        directory: u32,
        /// The tray's name in staging.
        tray: Name,
    },
    /// A name in the snapshot becomes something else.
    Change {
        /// The client's directory.
        directory: u32,
        /// The name in it.
        name: Name,
        /// What becomes of what is there.
        old: Old,
        /// What comes in its place.
        new: New,
    },
    /// Something in staging goes to the archive.
    Keep {
        /// The client's directory.
        directory: u32,
        /// Its name in staging.
        staged: Name,
        /// Its name in the archive, which is free.
        name: Name,
    },
    /// As [`Deed::Delete`], in the batches of earlier programs.
    Drop {
        /// The client's directory.
        directory: AbsPath,
        /// Its name in the archive.
        name: Name,
        /// The inode whose name goes.
        inode: (u64, u64),
    },
    /// A name goes from the archive for good: no rule keeps it. The index's fingerprints stay as they are.
    Delete {
        /// The client's directory.
        directory: AbsPath,
        /// Its name in the archive.
        name: Name,
        /// The file whose name goes.
        file: ProvedFile,
    },
}

/// What becomes of what is at a name of the snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum Old {
    /// Nothing is there.
    None,
    /// As [`Old::Retire`], in the batches of earlier programs.
    Archive {
        /// Its name there, which is free.
        name: Name,
        /// The inode that moves.
        inode: (u64, u64),
    },
    /// As [`Old::Delete`], in the batches of earlier programs.
    Remove {
        /// The inode whose name goes.
        inode: (u64, u64),
    },
    /// An empty directory goes; what nobody knows of moves to the archive.
    Clear,
    /// It goes, for the archive has it, or another name.
    Delete {
        /// The file whose name goes.
        file: ProvedFile,
    },
    /// It moves to the archive.
    Retire {
        /// Its name there, which is free.
        name: Name,
        /// The file that moves.
        file: ProvedFile,
    },
}

impl Old {
    // The name in the archive that it gives away.
    fn archive_name(&self) -> Option<&Name> {
        match self {
            Old::Archive { name, .. } | Old::Retire { name, .. } => Some(name),
            Old::None | Old::Remove { .. } | Old::Clear | Old::Delete { .. } => None,
        }
    }
}

/// What comes to a name of the snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum New {
    /// Nothing.
    None,
    /// What has this name in staging.
    Staged(StagedName),
    /// A directory; with these permission bits, and this owner where one can be given.
    Directory(Option<Looks>),
    /// As [`New::Restate`], in the batches of earlier programs.
    Restated {
        /// Its permission bits and owner.
        looks: Looks,
        /// Its mtime.
        mtime: Time,
    },
    /// The same file with other metadata.
    Restate {
        /// Its permission bits and owner.
        looks: Looks,
        /// Its mtime.
        mtime: Time,
        /// What it is before that.
        file: ProvedFile,
    },
}

/// Permission bits and, where it can be given, the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks {
    /// At most `0o777`.
    pub mode: u32,
    /// User and group.
    pub owner: Option<(u32, u32)>,
}

impl Looks {
    /// How an entry looks on disk; only root can give owners.
    pub fn of(entry: &Entry, gives_owners: bool) -> Looks {
        Looks { mode: mode_on_disk(entry), owner: gives_owners.then_some((entry.uid, entry.gid)) }
    }
}

/// What is to be written to the index for one change; fields are as the index has them.
#[derive(Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Row {
    /// A version begins.
    Begin { directory: u32, entry: Box<Entry>, hash: Option<Hash>, archive_name: Option<Name>, flags: u32 },
    /// A version ends.
    End { id: i64, archive_name: Option<Name> },
    /// Something that was in the way, and that no row told of, went to the archive.
    Stray { directory: AbsPath, entry: Box<Entry>, hash: Option<Hash>, archive_name: Name },
    /// A version has other metadata.
    Refresh { id: i64, entry: Box<Entry>, hash: Option<Hash>, flags: u32 },
    /// A version could not be read this time.
    Flag { id: i64 },
    /// A directory is gone: the next pull must look at it anew.
    Gone { directory: AbsPath },
    /// A past version is no longer known.
    Forget { id: i64 },
    /// A version ends, and leaves its plain file to the one that begins.
    Continue { id: i64, directory: u32, entry: Box<Entry>, hash: Option<Hash>, archive_name: Option<Name>, flags: u32 },
}

/// Whether another batch follows at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It does, and will see to it that this one's deeds come to be on the disk.
    More,
    /// This one is the last, and nothing is pending after it.
    Nothing,
}

/// The trees of one source, to be changed batch by batch. Its user holds the source's lock.
pub struct Journal {
    source: SourceId,
    // The repository's own directory.
    base: Dir,
    trees: Trees,
    // Deeds of the last batch may not be on the disk yet.
    is_pending: bool,
}

impl Journal {
    /// Opens the trees of a source of which nothing is pending.
    pub fn open(
        repository: &Repository,
        (source, name): (SourceId, &SourceName),
        staging: Arc<Staging>,
    ) -> Result<Journal> {
        let (base, trees) = (repository.base().clone(), Trees::open(repository, name, staging)?);
        Ok(Journal { source, base, trees, is_pending: false })
    }

    /// Carries out a batch's deeds. Its rows are to follow before the next batch is carried out.
    pub fn carry_out(&mut self, index: &mut Index, mut batch: Batch, then: Then) -> Result<Done> {
        let mut found = Found::default();
        if !batch.deeds.is_empty() {
            // The files that it places, and what the batch before it did.
            self.trees.sync()?;
            batch.record(index, self.source)?;
            note_batch(&self.base, index)?;
            self.is_pending = true;
            found = self.trees.carry_out(&mut batch, false)?;
        }
        let ends = self.is_pending && then == Then::Nothing;
        if ends {
            self.trees.sync()?;
            self.is_pending = false;
        }
        let (trees, touched) = (self.trees.bases(), self.trees.take_touched());
        Ok(Done { batch, found, source: self.source, ends, trees, touched })
    }

    /// Removes a client's directory from the archive if nothing is in it, and then those above it.
    pub fn clear_archive(&mut self, directory: &AbsPath) -> Result<()> {
        self.trees.clear_archive(directory)
    }
}

/// A batch whose deeds are done.
#[derive(Debug)]
#[must_use = "the trees are ahead of the index until it is settled"]
pub struct Done {
    /// What was done.
    pub batch: Batch,
    /// Deviations of the trees from the index.
    pub found: Found,
    source: SourceId,
    // All of it, and of what was before it, is on the disk: nothing is pending once its rows are.
    ends: bool,
    // The source's snapshot and archive.
    trees: (Dir, Dir),
    touched: Vec<Touched>,
}

impl Done {
    /// Commits the batch's rows, along with what `also` writes.
    pub fn settle(&self, index: &mut Index, also: impl FnOnce(&Write<'_>) -> Result<()>) -> Result<()> {
        // Records from planning come first, so that those of the finished batch replace them.
        let mut records = self.batch.found.clone();
        records.extend(self.records(index)?);
        let write = index.write()?;
        self.batch.settle(&write, self.source)?;
        write.set_inodes(records)?;
        let gone = self.touched.iter().filter(|touched| touched.after.links == 0);
        gone.into_iter().try_for_each(|touched| write.drop_inode(touched.after.inode.1))?;
        also(&write)?;
        if self.ends {
            write.clear_pending(self.source)?;
        } else if !self.batch.deeds.is_empty() {
            write.restate_pending(self.source, SETTLED)?;
        }
        write.commit()
    }

    // What is known of inodes now that nothing of this batch will change them any more.
    fn records(&self, index: &Index) -> Result<Vec<(u64, Record)>> {
        let mut records = Vec::with_capacity(self.batch.known.len());
        let is_unchanged = |touched: &&Touched| ProvedFile::of(&touched.before).is(&touched.after);
        for Touched { before, after } in
            self.touched.iter().filter(|touched| touched.after.links > 0).filter(is_unchanged)
        {
            let known = index.record(before)?;
            records.extend(known.map(|known| (after.inode.1, Record::of(after, known.hash, known.read))));
        }
        let mut open = HashMap::new();
        for known in &self.batch.known {
            let (in_archive, directory, name) = match &known.at {
                At::Archive(directory, name) => (true, *directory, name),
                At::Row(row) => match self.batch.rows.get(*row) {
                    Some(Row::Begin { directory, entry, .. } | Row::Continue { directory, entry, .. }) => {
                        (false, *directory, &entry.name)
                    }
                    _ => continue,
                },
            };
            if open.len() >= MAX_OPEN_DIRECTORIES {
                open.clear();
            }
            let dir = match open.entry((in_archive, directory)) {
                Slot::Occupied(dir) => dir.into_mut(),
                Slot::Vacant(free) => {
                    let path = &self.batch.directories[directory as usize];
                    let opened = if in_archive {
                        open_directory(&self.trees.1, path)
                    } else {
                        self.trees.0.open(path.below_root())
                    };
                    let Ok(opened) = opened else { continue };
                    free.insert(opened)
                }
            };
            if let Ok(found) = dir.metadata(name)
                && self.is_meant(known, &found)
            {
                records.push((found.inode.1, Record::of(&found, known.hash, known.read)));
            }
        }
        Ok(records)
    }

    fn is_meant(&self, known: &Known, found: &Metadata) -> bool {
        match (known.file, &known.at) {
            (Some(file), _) => file.is(found),
            (None, At::Row(row)) => match self.batch.rows.get(*row) {
                Some(Row::Begin { entry, .. } | Row::Continue { entry, .. }) => {
                    found.size == entry.size && self.trees.0.abilities().keeps(found.mtime, entry.mtime)
                }
                _ => false,
            },
            (None, At::Archive(..)) => false,
        }
    }
}

impl Batch {
    // Commits the batch to the index as pending, in the place of the one before it.
    fn record(&self, index: &mut Index, source: SourceId) -> Result<()> {
        let encoded = encode_batch(self);
        let write = index.write()?;
        write.set_pending(source, FORMAT, &encoded)?;
        write.commit()
    }

    // Writes the rows. The fingerprints of all directories go, for what they were computed from has changed.
    fn settle(&self, write: &Write<'_>, source: SourceId) -> Result<()> {
        let mut rows = Rows { write, source, run: self.run, ids: vec![None; self.directories.len()], batch: self };
        self.rows.iter().try_for_each(|row| rows.write(row))?;
        (0..self.directories.len()).try_for_each(|directory| write.forget_fingerprint(rows.id(directory as u32)?))
    }
}

struct Rows<'a> {
    write: &'a Write<'a>,
    source: SourceId,
    run: i64,
    ids: Vec<Option<DirectoryId>>,
    batch: &'a Batch,
}

impl Rows<'_> {
    fn id(&mut self, directory: u32) -> Result<DirectoryId> {
        let at = directory as usize;
        if let Some(id) = self.ids[at] {
            return Ok(id);
        }
        let id = self.write.enter_directory(self.source, &self.batch.directories[at])?;
        self.ids[at] = Some(id);
        Ok(id)
    }

    fn write(&mut self, row: &Row) -> Result<()> {
        let run = self.run;
        match row {
            Row::Begin { directory, entry, hash, archive_name, flags } => {
                let (directory, archive_name) = (self.id(*directory)?, archive_name.as_ref());
                let version = NewVersion { directory, entry, hash: *hash, run, archive_name, flags: *flags };
                self.write.insert(&version).map(drop)
            }
            Row::End { id, archive_name } => self.write.close(*id, run, archive_name.as_ref()),
            Row::Stray { directory, entry, hash, archive_name } => {
                let directory = self.write.enter_directory(self.source, directory)?;
                let (archive_name, flags) = (Some(archive_name), flags::REBUILT);
                let version = NewVersion { directory, entry, hash: *hash, run, archive_name, flags };
                self.write.insert_past(&version).map(drop)
            }
            Row::Refresh { id, entry, hash, flags } => self.write.refresh(*id, entry, *hash, *flags),
            Row::Flag { id } => self.write.flag(*id, flags::UNREADABLE),
            Row::Gone { directory } => {
                let gone = self.write.enter_directory(self.source, directory)?;
                self.write.forget_fingerprint(gone)
            }
            Row::Forget { id } => self.write.delete(*id),
            Row::Continue { id, directory, entry, hash, archive_name, flags } => {
                let (directory, archive_name) = (self.id(*directory)?, archive_name.as_ref());
                let version = NewVersion { directory, entry, hash: *hash, run, archive_name, flags: *flags };
                self.write.continue_as(*id, &version)
            }
        }
    }
}

/// What the batch of an interrupted run made when it was finished.
#[derive(Debug, Default)]
#[must_use = "a person must hear of what was found"]
pub struct Recovered {
    /// How many changes there were that the index did not know of.
    pub changes: u64,
    /// Deviations of the trees from the index.
    pub found: Found,
}

/// Finishes what an interrupted run of a source left. The source must be locked. Refuses an index that is older than the trees:
/// what it has pending was done long ago, and the trees have gone on since.
pub fn recover(repository: &Repository, index: &mut Index, source: &SourceName) -> Result<Recovered> {
    let Some(id) = index.source_id(source)? else { return Ok(Recovered::default()) };
    repository.check_index_is_newest(index)?;
    let finished = finish_pending(repository, index, (id, source))?;
    update_layout(repository, index, source)?;
    Ok(finished)
}

/// Gives the directories of a source's archive the names of the present layout. The source must be locked.
pub fn update_layout(repository: &Repository, index: &mut Index, source: &SourceName) -> Result<()> {
    match index.source_id(source)? {
        Some(id) if index.has_old_layout(id)? => {
            relocate(repository, index, (id, source))?;
            index.set_layout(id)
        }
        _ => Ok(()),
    }
}

fn finish_pending(
    repository: &Repository,
    index: &mut Index,
    (id, source): (SourceId, &SourceName),
) -> Result<Recovered> {
    let Some((format, encoded)) = index.pending(id)? else { return Ok(Recovered::default()) };
    let batch = [FORMAT, SETTLED].contains(&format).then(|| decode_batch(&encoded).ok()).flatten();
    let mut batch = batch.ok_or_else(|| {
        Error::new(ErrorKind::Failed, format_args!("an interrupted run of `{source}` can't be finished"))
            .hint("use the version of `archive` that began it, or run `archive index rebuild`")
    })?;
    let staging = Arc::new(
        Staging::open(repository.staging(source)?)
            .on_server(format_args!("can't open `staging/{source}`"))
            .map_err(|error| error.at(source))?,
    );
    let mut trees = Trees::open(repository, source, staging)?;
    // The run may have been cut off before that.
    note_batch(repository.base(), index)?;
    if format == SETTLED {
        // But for what may still be found in the way.
        batch.rows.clear();
    }
    let found = trees.carry_out(&mut batch, true)?;
    trees.sync()?;
    let touched = trees.take_touched();
    let write = index.write()?;
    batch.settle(&write, id)?;
    // A batch of an older program does not say which version relies on which plain file.
    write.rely_on_successors(id)?;
    touched
        .iter()
        .filter(|touched| touched.after.links == 0)
        .try_for_each(|gone| write.drop_inode(gone.after.inode.1))?;
    write.clear_pending(id)?;
    write.commit()?;
    Ok(Recovered { changes: if format == FORMAT { batch.deeds.len() as u64 } else { 0 }, found })
}
