//! Batches as the journal stores them: in the index's table `pending`, until what they do is on the disk.
//!
//! These types are the definition of the bytes, in postcard's encoding. A change of one, other than a variant at the end of
//! an enum, needs a new [`FORMAT`]. An earlier program can't read a batch with a variant that it does not know, and says so.

use serde::{Deserialize, Serialize, Serializer};

use super::{Batch as JournalBatch, Deed as JournalDeed, Looks as JournalLooks, New as JournalNew, Old as JournalOld};
use super::{ProvedFile as Proved, Row as JournalRow};
use crate::entry::{self, Hash};
use crate::path::{AbsPath, Name};
use crate::repository::staging::StagedName as StagingName;
use crate::repository::stored::{Bytes, Damaged, Entry, decode, encode, time};

/// The number of the encoding of a batch, in the column `format`. Batches of 1 and 2 can't be read.
pub(super) const FORMAT: i64 = 3;

/// The number of the same encoding, for a batch whose rows are in the index.
pub(super) const SETTLED: i64 = 4;

/// A batch: with lists that are computed while they are encoded, or that were decoded.
#[derive(Serialize, Deserialize)]
struct Batch<Directories, Deeds, Rows> {
    run: i64,
    directories: Directories,
    deeds: Deeds,
    rows: Rows,
}

type Decoded<'a> = Batch<Vec<Bytes<'a>>, Vec<Deed<'a>>, Vec<Row<'a>>>;

/// The elements of a list, each converted when it is encoded.
struct Each<'a, T>(&'a [T]);

trait Store<'a> {
    type Stored: Serialize;

    fn store(&'a self) -> Self::Stored;
}

#[derive(Debug, Serialize, Deserialize)]
enum Deed<'a> {
    Fill {
        directory: u32,
        #[serde(borrow)]
        tray: Bytes<'a>,
    },
    Change {
        directory: u32,
        name: Bytes<'a>,
        old: Old<'a>,
        new: New<'a>,
    },
    Keep {
        directory: u32,
        staged: Bytes<'a>,
        name: Bytes<'a>,
    },
    Drop {
        directory: Bytes<'a>,
        name: Bytes<'a>,
        inode: (u64, u64),
    },
    Delete {
        directory: Bytes<'a>,
        name: Bytes<'a>,
        file: ProvedFile,
    },
}

#[derive(Debug, Serialize, Deserialize)]
enum Old<'a> {
    None,
    Archive {
        #[serde(borrow)]
        name: Bytes<'a>,
        inode: (u64, u64),
    },
    Remove {
        inode: (u64, u64),
    },
    Clear,
    Delete {
        file: ProvedFile,
    },
    Retire {
        name: Bytes<'a>,
        file: ProvedFile,
    },
}

#[derive(Debug, Serialize, Deserialize)]
enum New<'a> {
    None,
    #[serde(borrow)]
    Staged(StagedName<'a>),
    Directory(Option<Looks>),
    Restated {
        looks: Looks,
        mtime: i128,
    },
    Restate {
        looks: Looks,
        mtime: i128,
        file: ProvedFile,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct StagedName<'a> {
    #[serde(borrow)]
    tray: Option<Bytes<'a>>,
    name: Bytes<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Looks {
    mode: u32,
    owner: Option<(u32, u32)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ProvedFile {
    inode: u64,
    size: u64,
    mtime: i128,
}

#[derive(Debug, Serialize, Deserialize)]
enum Row<'a> {
    Begin {
        #[serde(borrow)]
        version: NewVersion<'a>,
    },
    End {
        id: i64,
        archive_name: Option<Bytes<'a>>,
    },
    Stray {
        directory: Bytes<'a>,
        entry: Entry<'a>,
        hash: Option<Hash>,
        archive_name: Bytes<'a>,
    },
    Refresh {
        id: i64,
        entry: Entry<'a>,
        hash: Option<Hash>,
        flags: u32,
    },
    Flag {
        id: i64,
    },
    Gone {
        directory: Bytes<'a>,
    },
    Forget {
        id: i64,
    },
    Continue {
        id: i64,
        version: NewVersion<'a>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct NewVersion<'a> {
    directory: u32,
    #[serde(borrow)]
    entry: Entry<'a>,
    hash: Option<Hash>,
    archive_name: Option<Bytes<'a>>,
    flags: u32,
}

impl<'a> NewVersion<'a> {
    fn of(
        directory: u32,
        entry: &'a entry::Entry,
        hash: Option<Hash>,
        archive_name: Option<&'a Name>,
        flags: u32,
    ) -> NewVersion<'a> {
        NewVersion { directory, entry: entry.into(), hash, archive_name: archive_name.map(Bytes::from), flags }
    }
}

/// The bytes of a batch.
pub(super) fn encode_batch(batch: &JournalBatch) -> Vec<u8> {
    encode(&Batch {
        run: batch.run,
        directories: Each(&batch.directories),
        deeds: Each(&batch.deeds),
        rows: Each(&batch.rows),
    })
}

/// The batch that [`encode_batch`] encoded, if nothing has damaged it.
pub(super) fn decode_batch(bytes: &[u8]) -> Result<JournalBatch, Damaged> {
    let stored: Decoded<'_> = decode(bytes)?;
    let batch = JournalBatch {
        run: stored.run,
        directories: stored.directories.into_iter().map(AbsPath::try_from).collect::<Result<_, _>>()?,
        deeds: stored.deeds.into_iter().map(JournalDeed::try_from).collect::<Result<_, _>>()?,
        rows: stored.rows.into_iter().map(JournalRow::try_from).collect::<Result<_, _>>()?,
        ..JournalBatch::default()
    };
    if is_sound(&batch) { Ok(batch) } else { Err(Damaged) }
}

// Deeds and rows refer to directories by their places in the batch.
fn is_sound(batch: &JournalBatch) -> bool {
    let known = |directory: &u32| (*directory as usize) < batch.directories.len();
    let deeds = batch.deeds.iter().all(|deed| match deed {
        JournalDeed::Fill { directory, .. }
        | JournalDeed::Change { directory, .. }
        | JournalDeed::Keep { directory, .. } => known(directory),
        JournalDeed::Drop { .. } | JournalDeed::Delete { .. } => true,
    });
    let rows = |row: &JournalRow| match row {
        JournalRow::Begin { directory, .. } | JournalRow::Continue { directory, .. } => known(directory),
        _ => true,
    };
    deeds && batch.rows.iter().all(rows)
}

impl<'a, T: Store<'a>> Serialize for Each<'a, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(T::store))
    }
}

impl<'a> Store<'a> for AbsPath {
    type Stored = Bytes<'a>;

    fn store(&'a self) -> Bytes<'a> {
        self.into()
    }
}

impl<'a> Store<'a> for JournalDeed {
    type Stored = Deed<'a>;

    fn store(&'a self) -> Deed<'a> {
        match self {
            JournalDeed::Fill { directory, tray } => Deed::Fill { directory: *directory, tray: tray.into() },
            JournalDeed::Change { directory, name, old, new } => {
                Deed::Change { directory: *directory, name: name.into(), old: old.into(), new: new.into() }
            }
            JournalDeed::Keep { directory, staged, name } => {
                Deed::Keep { directory: *directory, staged: staged.into(), name: name.into() }
            }
            JournalDeed::Drop { directory, name, inode } => {
                Deed::Drop { directory: directory.into(), name: name.into(), inode: *inode }
            }
            JournalDeed::Delete { directory, name, file } => {
                Deed::Delete { directory: directory.into(), name: name.into(), file: file.into() }
            }
        }
    }
}

impl TryFrom<Deed<'_>> for JournalDeed {
    type Error = Damaged;

    fn try_from(stored: Deed<'_>) -> Result<JournalDeed, Damaged> {
        Ok(match stored {
            Deed::Fill { directory, tray } => JournalDeed::Fill { directory, tray: tray.try_into()? },
            Deed::Change { directory, name, old, new } => {
                JournalDeed::Change { directory, name: name.try_into()?, old: old.try_into()?, new: new.try_into()? }
            }
            Deed::Keep { directory, staged, name } => {
                JournalDeed::Keep { directory, staged: staged.try_into()?, name: name.try_into()? }
            }
            Deed::Drop { directory, name, inode } => {
                JournalDeed::Drop { directory: directory.try_into()?, name: name.try_into()?, inode }
            }
            Deed::Delete { directory, name, file } => {
                JournalDeed::Delete { directory: directory.try_into()?, name: name.try_into()?, file: file.try_into()? }
            }
        })
    }
}

impl<'a> From<&'a JournalOld> for Old<'a> {
    fn from(old: &'a JournalOld) -> Old<'a> {
        match old {
            JournalOld::None => Old::None,
            JournalOld::Archive { name, inode } => Old::Archive { name: name.into(), inode: *inode },
            JournalOld::Remove { inode } => Old::Remove { inode: *inode },
            JournalOld::Clear => Old::Clear,
            JournalOld::Delete { file } => Old::Delete { file: file.into() },
            JournalOld::Retire { name, file } => Old::Retire { name: name.into(), file: file.into() },
        }
    }
}

impl TryFrom<Old<'_>> for JournalOld {
    type Error = Damaged;

    fn try_from(stored: Old<'_>) -> Result<JournalOld, Damaged> {
        Ok(match stored {
            Old::None => JournalOld::None,
            Old::Archive { name, inode } => JournalOld::Archive { name: name.try_into()?, inode },
            Old::Remove { inode } => JournalOld::Remove { inode },
            Old::Clear => JournalOld::Clear,
            Old::Delete { file } => JournalOld::Delete { file: file.try_into()? },
            Old::Retire { name, file } => JournalOld::Retire { name: name.try_into()?, file: file.try_into()? },
        })
    }
}

impl<'a> From<&'a JournalNew> for New<'a> {
    fn from(new: &'a JournalNew) -> New<'a> {
        match new {
            JournalNew::None => New::None,
            JournalNew::Staged(StagingName { tray, name }) => {
                New::Staged(StagedName { tray: tray.as_ref().map(Bytes::from), name: name.into() })
            }
            JournalNew::Directory(looks) => New::Directory(looks.map(Looks::from)),
            JournalNew::Restated { looks, mtime } => New::Restated { looks: (*looks).into(), mtime: (*mtime).into() },
            JournalNew::Restate { looks, mtime, file } => {
                New::Restate { looks: (*looks).into(), mtime: (*mtime).into(), file: file.into() }
            }
        }
    }
}

impl TryFrom<New<'_>> for JournalNew {
    type Error = Damaged;

    fn try_from(stored: New<'_>) -> Result<JournalNew, Damaged> {
        Ok(match stored {
            New::None => JournalNew::None,
            New::Staged(StagedName { tray, name }) => {
                let tray = tray.map(Name::try_from).transpose()?;
                JournalNew::Staged(StagingName { tray, name: name.try_into()? })
            }
            New::Directory(looks) => JournalNew::Directory(looks.map(JournalLooks::from)),
            New::Restated { looks, mtime } => JournalNew::Restated { looks: looks.into(), mtime: time(mtime)? },
            New::Restate { looks, mtime, file } => {
                JournalNew::Restate { looks: looks.into(), mtime: time(mtime)?, file: file.try_into()? }
            }
        })
    }
}

impl From<JournalLooks> for Looks {
    fn from(JournalLooks { mode, owner }: JournalLooks) -> Looks {
        Looks { mode, owner }
    }
}

impl From<Looks> for JournalLooks {
    fn from(Looks { mode, owner }: Looks) -> JournalLooks {
        JournalLooks { mode, owner }
    }
}

impl From<&Proved> for ProvedFile {
    fn from(file: &Proved) -> ProvedFile {
        ProvedFile { inode: file.inode, size: file.size, mtime: file.mtime.into() }
    }
}

impl TryFrom<ProvedFile> for Proved {
    type Error = Damaged;

    fn try_from(stored: ProvedFile) -> Result<Proved, Damaged> {
        Ok(Proved { inode: stored.inode, size: stored.size, mtime: time(stored.mtime)? })
    }
}

impl<'a> Store<'a> for JournalRow {
    type Stored = Row<'a>;

    fn store(&'a self) -> Row<'a> {
        match self {
            JournalRow::Begin { directory, entry, hash, archive_name, flags } => {
                Row::Begin { version: NewVersion::of(*directory, entry, *hash, archive_name.as_ref(), *flags) }
            }
            JournalRow::End { id, archive_name } => {
                Row::End { id: *id, archive_name: archive_name.as_ref().map(Bytes::from) }
            }
            JournalRow::Stray { directory, entry, hash, archive_name } => Row::Stray {
                directory: directory.into(),
                entry: Entry::from(&**entry),
                hash: *hash,
                archive_name: archive_name.into(),
            },
            JournalRow::Refresh { id, entry, hash, flags } => {
                Row::Refresh { id: *id, entry: Entry::from(&**entry), hash: *hash, flags: *flags }
            }
            JournalRow::Flag { id } => Row::Flag { id: *id },
            JournalRow::Gone { directory } => Row::Gone { directory: directory.into() },
            JournalRow::Forget { id } => Row::Forget { id: *id },
            JournalRow::Continue { id, directory, entry, hash, archive_name, flags } => Row::Continue {
                id: *id,
                version: NewVersion::of(*directory, entry, *hash, archive_name.as_ref(), *flags),
            },
        }
    }
}

impl TryFrom<Row<'_>> for JournalRow {
    type Error = Damaged;

    fn try_from(stored: Row<'_>) -> Result<JournalRow, Damaged> {
        let name = |name: Option<Bytes<'_>>| name.map(Name::try_from).transpose();
        let entry = |entry: Entry<'_>| entry.try_into().map(Box::new);
        Ok(match stored {
            Row::Begin { version } => JournalRow::Begin {
                directory: version.directory,
                entry: entry(version.entry)?,
                hash: version.hash,
                archive_name: name(version.archive_name)?,
                flags: version.flags,
            },
            Row::End { id, archive_name } => JournalRow::End { id, archive_name: name(archive_name)? },
            Row::Stray { directory, entry: stray, hash, archive_name } => JournalRow::Stray {
                directory: directory.try_into()?,
                entry: entry(stray)?,
                hash,
                archive_name: archive_name.try_into()?,
            },
            Row::Refresh { id, entry: new, hash, flags } => JournalRow::Refresh { id, entry: entry(new)?, hash, flags },
            Row::Flag { id } => JournalRow::Flag { id },
            Row::Gone { directory } => JournalRow::Gone { directory: directory.try_into()? },
            Row::Forget { id } => JournalRow::Forget { id },
            Row::Continue { id, version } => JournalRow::Continue {
                id,
                directory: version.directory,
                entry: entry(version.entry)?,
                hash: version.hash,
                archive_name: name(version.archive_name)?,
                flags: version.flags,
            },
        })
    }
}
