//! Writing to the index: what one batch of changes did, in one transaction.

use std::cell::RefCell;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params, params_from_iter};

use super::columns::{Column, INSERT, NewRow, REFRESH};
use super::contents::NewContents;
use super::{CANT_WRITE, Index, Newest, OnIndex, SourceId, digests_of};
use crate::entry::{Digests, DirectoryId, Entry, Hash, Listed};
use crate::error::{OnServer, Result};
use crate::fault;
use crate::path::{AbsPath, Name, SourceName};
use crate::report::Summary;
use crate::time::clamped_nanoseconds;

/// The most characters of an error that are recorded with its run; a path may have 4,096 bytes.
const MAX_REASON_CHARS: usize = 8192;

// How the directories of archives are named today.
const LAYOUT: i64 = 2;

/// A transaction under way: nothing of it lasts until [`commit`](Write::commit).
pub struct Write<'a> {
    pub(super) transaction: Transaction<'a>,
    // Versions that are to be found by their content from now on, and sizes that are known.
    contents: RefCell<NewContents>,
}

const BEGIN_RUN: &str = "INSERT INTO run (source, started) VALUES (?1, ?2)";

/// A version that is to be current from now on.
#[derive(Clone, Debug)]
pub struct NewVersion<'a> {
    /// The directory it is in.
    pub directory: DirectoryId,
    /// What was listed.
    pub entry: &'a Entry,
    /// BLAKE3 of a file's content.
    pub hash: Option<Hash>,
    /// The run that found it.
    pub run: i64,
    /// Its name in the archive, if it is there already.
    pub archive_name: Option<&'a Name>,
    /// See [`flags`].
    pub flags: u32,
}

impl Index {
    /// Begins a transaction that may write; waits for another process's to end.
    pub fn write(&mut self) -> Result<Write<'_>> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).on_index(CANT_WRITE)?;
        Ok(Write { transaction, contents: RefCell::default() })
    }

    /// The number of a source, which is given one if it has none.
    pub fn enter_source(&mut self, name: &SourceName) -> Result<SourceId> {
        if let Some(id) = self.source_id(name)? {
            return Ok(id);
        }
        let write = self.write()?;
        let id = write.enter_source(name)?;
        write.commit().map(|()| id)
    }

    /// True while a source's archive may have directories under the names that older programs gave them.
    pub fn has_old_layout(&self, source: SourceId) -> Result<bool> {
        let sql = "SELECT 1 FROM source WHERE id = ?1 AND layout < ?2";
        self.one(sql, params![source.0, LAYOUT], |_| Ok(())).map(|found| found.is_some())
    }

    /// All directories of a source's archive have the names that they should have.
    pub fn set_layout(&mut self, source: SourceId) -> Result<()> {
        self.execute("UPDATE source SET layout = ?2 WHERE id = ?1", params![source.0, LAYOUT])
    }

    /// Begins a run and returns its number.
    pub fn begin_run(&mut self, source: SourceId, started: Timestamp) -> Result<i64> {
        self.execute(BEGIN_RUN, params![source.0, clamped_nanoseconds(started)])?;
        Ok(self.connection.last_insert_rowid())
    }

    /// Uses up a run's number.
    pub fn skip_run(&mut self) -> Result<()> {
        let write = self.write()?;
        write.take_number("run")?;
        write.commit()
    }

    /// Ends a run; `reason` says why it did not end well.
    pub fn end_run(&mut self, run: i64, ended: Timestamp, summary: &Summary, reason: Option<&str>) -> Result<()> {
        let mut counts: serde_json::Map<_, _> = crate::report::COUNT_NAMES
            .iter()
            .zip(summary.counts)
            .map(|(name, count)| ((*name).to_owned(), count.into()))
            .collect();
        counts.insert("exit".to_owned(), summary.exit.into());
        if let Some(reason) = reason {
            let length = reason.char_indices().nth(MAX_REASON_CHARS).map_or(reason.len(), |(at, _)| at);
            counts.insert("error".to_owned(), reason[..length].into());
        }
        let counts = serde_json::Value::Object(counts).to_string();
        let sql = "UPDATE run SET ended = ?2, outcome = ?3, summary = ?4 WHERE id = ?1";
        self.execute(sql, params![run, clamped_nanoseconds(ended), summary.outcome.word(), counts])
    }

    /// Writes a copy of the whole index, without its free pages, to a file that must not exist; fails if a page can't be
    /// understood. What is pending now is no business of whoever uses the copy later.
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        const WHAT: &str = "can't copy the index";
        self.connection.execute("VACUUM INTO CAST(?1 AS TEXT)", params![path.as_os_str().as_bytes()]).on_index(WHAT)?;
        let copy = Connection::open(path).on_index(WHAT)?;
        copy.execute("DELETE FROM pending", params![]).map(drop).on_index(WHAT)
    }

    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> Result<()> {
        self.connection.execute(sql, params).map(drop).on_index(CANT_WRITE)
    }
}

impl Write<'_> {
    /// Makes everything since [`Index::write`] last.
    pub fn commit(self) -> Result<()> {
        fault::step().on_server(CANT_WRITE)?;
        self.contents.take().enter(&self.transaction)?;
        self.transaction.commit().on_index(CANT_WRITE)
    }

    /// The number of a source, which is given one if it has none.
    pub fn enter_source(&self, name: &SourceName) -> Result<SourceId> {
        let sql = "INSERT INTO source (name, layout) VALUES (?1, ?2) \
                   ON CONFLICT (name) DO UPDATE SET name = name RETURNING id";
        let id = self
            .transaction
            .prepare_cached(sql)
            .and_then(|mut insert| insert.query_row(params![name.as_str(), LAYOUT], |row| row.get(0)));
        id.map(SourceId).on_index(CANT_WRITE)
    }

    /// Begins a run that is no pull but a look at what is on the disk, and returns its number.
    pub fn begin_rebuild(&self, source: SourceId, started: Timestamp) -> Result<i64> {
        self.execute(BEGIN_RUN, params![source.0, clamped_nanoseconds(started)])?;
        Ok(self.transaction.last_insert_rowid())
    }

    /// Has the index know all that the newest one knew: no number below is given away any more, and it counts as the newest.
    pub fn catch_up(&self, newest: Newest) -> Result<()> {
        self.raise("run", newest.run)?;
        self.raise("batch", newest.batch)
    }

    // Takes the next number of a sequence.
    fn take_number(&self, sequence: &str) -> Result<()> {
        self.raise(sequence, 0)?;
        self.execute("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = ?1", params![sequence])
    }

    fn raise(&self, sequence: &str, number: i64) -> Result<()> {
        let raised = "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1";
        self.execute(raised, params![sequence, number])?;
        let new = "INSERT INTO sqlite_sequence (name, seq) SELECT ?1, ?2 \
                   WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)";
        self.execute(new, params![sequence, number])
    }

    /// The number of a directory, which is given one if it has none.
    pub fn enter_directory(&self, source: SourceId, path: &AbsPath) -> Result<DirectoryId> {
        let sql = "INSERT INTO directory (source, path) VALUES (?1, ?2) \
                   ON CONFLICT (source, path) DO UPDATE SET path = path RETURNING id";
        let id = self
            .transaction
            .prepare_cached(sql)
            .and_then(|mut insert| insert.query_row(params![source.0, path.as_bytes()], |row| row.get(0)));
        id.map(DirectoryId).on_index(CANT_WRITE)
    }

    /// Enters a version that is current, and returns its number.
    pub fn insert(&self, version: &NewVersion<'_>) -> Result<i64> {
        self.insert_row(version, None)
    }

    fn insert_row(&self, version: &NewVersion<'_>, until_run: Option<i64>) -> Result<i64> {
        let NewVersion { directory, entry, hash, archive_name, .. } = version;
        self.release_name(Some(*directory), 0, *archive_name)?;
        let row = NewRow { version, until_run, attributes: self.attributes_of(entry)? };
        self.execute(&INSERT, params_from_iter(Column::ALL.iter().map(|column| column.value(&row))))?;
        let id = self.transaction.last_insert_rowid();
        self.contents.borrow_mut().add(&self.transaction, id, entry, *hash).map(|()| id)
    }

    /// Gives a current version other metadata, without making another version of it.
    pub fn refresh(&self, id: i64, entry: &Entry, hash: Option<Hash>, flags: u32) -> Result<()> {
        self.contents.borrow_mut().change(&self.transaction, id, entry, hash)?;
        // Its directory, its run and its name in the archive stay.
        let version = NewVersion { directory: DirectoryId(0), entry, hash, run: 0, archive_name: None, flags };
        let row = NewRow { version: &version, until_run: None, attributes: self.attributes_of(entry)? };
        let values = Column::refreshed().map(|column| column.value(&row));
        self.execute(&REFRESH, params_from_iter([id.into()].into_iter().chain(values)))
    }

    fn attributes_of(&self, entry: &Entry) -> Result<Option<i64>> {
        super::attributes::stored(entry).map(|text| self.enter_attributes(&text)).transpose()
    }

    /// Makes a current version a past one; leaves a past one as it is.
    pub fn close(&self, id: i64, run: i64, archive_name: Option<&Name>) -> Result<()> {
        self.release_name(None, id, archive_name)?;
        let sql = "UPDATE version SET until_run = ?2, archive_name = ?3 WHERE id = ?1 AND until_run IS NULL";
        self.execute(sql, params![id, run, archive_name.map(Name::as_bytes)])?;
        if archive_name.is_none() {
            self.execute("UPDATE version SET relies_on = NULL WHERE relies_on = ?1", params![id])?;
        }
        Ok(())
    }

    // Takes a name in the archive from a version whose file was not there any more, or the name could not have been given away.
    fn release_name(&self, directory: Option<DirectoryId>, id: i64, archive_name: Option<&Name>) -> Result<()> {
        let Some(name) = archive_name else { return Ok(()) };
        let sql = "UPDATE version SET archive_name = NULL WHERE archive_name = ?2 AND id <> ?1 \
                   AND directory = coalesce(?3, (SELECT directory FROM version WHERE id = ?1))";
        self.execute(sql, params![id, name.as_bytes(), directory.map(|directory| directory.0)])
    }

    /// Makes a current version a past one that leaves its plain file, in both trees, to the version that follows it.
    pub fn continue_as(&self, id: i64, version: &NewVersion<'_>) -> Result<()> {
        let sql = "UPDATE version SET until_run = ?2, archive_name = NULL WHERE id = ?1";
        self.execute(sql, params![id, version.run])?;
        let next = self.insert(version)?;
        self.execute("UPDATE version SET relies_on = ?2 WHERE id = ?1 OR relies_on = ?1", params![id, next])
    }

    /// Gives a past version a plain file of its own, or takes it away.
    pub fn set_archive_name(&self, id: i64, archive_name: Option<&Name>) -> Result<()> {
        let sql = "UPDATE version SET archive_name = ?2, relies_on = NULL WHERE id = ?1";
        self.execute(sql, params![id, archive_name.map(Name::as_bytes)])
    }

    /// Has a past version rely on the plain file of another one; on none's without.
    pub fn set_relies_on(&self, id: i64, other: Option<i64>) -> Result<()> {
        self.execute("UPDATE version SET relies_on = ?2 WHERE id = ?1", params![id, other])
    }

    /// Sets flags of a version.
    pub fn flag(&self, id: i64, flags: u32) -> Result<()> {
        self.execute("UPDATE version SET flags = flags | ?2 WHERE id = ?1", params![id, flags])
    }

    /// Clears [`flags::UNREADABLE`] of a root and all below it: a run sets it anew.
    pub fn clear_unreadable(&self, source: SourceId, root: &AbsPath) -> Result<()> {
        let sql = "UPDATE version SET flags = flags - 2 WHERE flags & 2 AND directory IN \
                   (SELECT id FROM directory WHERE source = ?1 AND (path = ?2 OR substr(path, 1, ?3) = ?4))";
        let below = if root.is_root() { b"/".to_vec() } else { [root.as_bytes(), b"/"].concat() };
        self.execute(sql, params![source.0, root.as_bytes(), below.len() as i64, below])?;
        let Some((parent, name)) = root.split() else { return Ok(()) };
        let own = "UPDATE version SET flags = flags - 2 WHERE flags & 2 AND name = ?3 AND directory = \
                   (SELECT id FROM directory WHERE source = ?1 AND path = ?2)";
        self.execute(own, params![source.0, parent.as_bytes(), name.as_bytes()])
    }

    /// Enters a version that is past already, something that lay in the way and went to the archive; returns its number.
    pub fn insert_past(&self, version: &NewVersion<'_>) -> Result<i64> {
        self.insert_row(version, Some(version.run))
    }

    /// Ends a run that was no pull but a look at what is on the disk.
    pub fn end_rebuild(&self, run: i64, ended: Timestamp) -> Result<()> {
        let sql = "UPDATE run SET ended = ?2, outcome = 'rebuild' WHERE id = ?1";
        self.execute(sql, params![run, clamped_nanoseconds(ended)])
    }

    /// Keeps what a source is about to do, which takes the next number of a batch.
    pub fn set_pending(&self, source: SourceId, format: i64, batch: &[u8]) -> Result<()> {
        self.take_number("batch")?;
        let sql = "INSERT OR REPLACE INTO pending (source, format, batch) VALUES (?1, ?2, ?3)";
        self.execute(sql, params![source.0, format, batch])
    }

    /// Says something else of what a source was about to do.
    pub fn restate_pending(&self, source: SourceId, format: i64) -> Result<()> {
        self.execute("UPDATE pending SET format = ?2 WHERE source = ?1", params![source.0, format])
    }

    /// Forgets what a source was about to do: it is done.
    pub fn clear_pending(&self, source: SourceId) -> Result<()> {
        self.execute("DELETE FROM pending WHERE source = ?1", params![source.0])
    }

    /// Forgets a version. Its plain file in the archive is left to the newest of those that rely on it, if there are any.
    pub fn delete(&self, id: i64) -> Result<()> {
        self.hand_over(id)?;
        // Another version may get the number.
        self.execute("DELETE FROM examined WHERE version = ?1", params![id])?;
        self.execute("DELETE FROM stopped_file WHERE version = ?1", params![id])?;
        self.contents.borrow_mut().remove(&self.transaction, id)?;
        self.execute("DELETE FROM version WHERE id = ?1", params![id])
    }

    fn hand_over(&self, id: i64) -> Result<()> {
        let heir = "SELECT id FROM version WHERE relies_on = ?1 ORDER BY from_run DESC, id DESC LIMIT 1";
        let mut query = self.transaction.prepare_cached(heir).on_index(CANT_WRITE)?;
        let heir: Option<i64> = query.query_row(params![id], |row| row.get(0)).optional().on_index(CANT_WRITE)?;
        let Some(heir) = heir else { return Ok(()) };
        let name = "SELECT archive_name FROM version WHERE id = ?1";
        let mut query = self.transaction.prepare_cached(name).on_index(CANT_WRITE)?;
        let name: Option<Vec<u8>> = query.query_row(params![id], |row| row.get(0)).on_index(CANT_WRITE)?;
        // No two versions may have one name at any time.
        self.execute("UPDATE version SET archive_name = NULL WHERE id = ?1", params![id])?;
        let has_file = name.is_some();
        self.execute("UPDATE version SET archive_name = ?2, relies_on = NULL WHERE id = ?1", params![heir, name])?;
        let others = "UPDATE version SET relies_on = ?2 WHERE relies_on = ?1";
        self.execute(others, params![id, has_file.then_some(heir)])
    }

    /// Has every version found by its content and size, whatever it was found by before.
    pub fn restore_contents(&self) -> Result<()> {
        self.contents.borrow_mut().rebuild(&self.transaction)
    }

    /// Forgets a run: its moment of the past can no longer be asked for.
    pub fn delete_run(&self, run: i64) -> Result<()> {
        self.execute("DELETE FROM run WHERE id = ?1", params![run])
    }

    /// Keeps a directory's fingerprint, the digests that it is of, and its inode number on the client; computes the
    /// first two from the current versions when they are not known.
    pub fn remember_fingerprint(&self, directory: DirectoryId, known: Option<&Listed>, inode: u64) -> Result<()> {
        let computed = if known.is_none() { digests_of(&self.transaction, directory)?.map(Listed::from) } else { None };
        let listed = known.or(computed.as_ref());
        let digests = listed.and_then(|listed| listed.digests.as_ref()).map(Digests::as_bytes);
        let sql = "INSERT OR REPLACE INTO listed (directory, inode, digests) VALUES (?1, ?2, ?3)";
        self.execute(sql, params![directory.0, inode as i64, digests])?;
        let sql = "UPDATE directory SET fingerprint = ?2 WHERE id = ?1";
        self.execute(sql, params![directory.0, listed.map(|listed| listed.fingerprint)])
    }

    /// Remembers whether a file system is mounted on a directory of the client.
    pub fn remember_mount(&self, directory: DirectoryId, is_mount: bool) -> Result<()> {
        let sql = if is_mount {
            "INSERT OR IGNORE INTO mount (directory) VALUES (?1)"
        } else {
            "DELETE FROM mount WHERE directory = ?1"
        };
        self.execute(sql, params![directory.0])
    }

    /// Makes the next pull list a directory.
    pub fn forget_fingerprint(&self, directory: DirectoryId) -> Result<()> {
        let sql = "UPDATE directory SET fingerprint = NULL WHERE id = ?1 AND fingerprint IS NOT NULL";
        self.execute(sql, params![directory.0])
    }

    pub(super) fn execute(&self, sql: &str, params: impl rusqlite::Params) -> Result<()> {
        let done = self.transaction.prepare_cached(sql).and_then(|mut statement| statement.execute(params));
        done.map(drop).on_index(CANT_WRITE)
    }
}
