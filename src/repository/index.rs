//! The index: which versions of which paths there were, and every place that holds a content.
//!
//! One SQLite database, its schema in `schema.sql`. Reading stands here, writing in [`write`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::entry::{Digests, DirectoryId, Fingerprint, Kind, Version, flags};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::path::{AbsPath, Name, SourceName};

mod attributes;
mod columns;
mod contents;
mod facts;
mod guarding;
mod inodes;
mod invariants;
mod migration;
mod opening;
mod reading;
mod reconcile;
mod removal;
mod shown;
#[cfg(test)]
mod tests;
mod verified;
mod write;

pub use attributes::encode as attributes_text;
pub use facts::{Located, Newest, RunRow, Stats, finished, misdated};
pub use guarding::Stop;
pub use inodes::{Record, is_recorded};
pub use reading::Copied;
pub(super) use reading::open as open_to_read;
pub use reconcile::{Scope, Unfound};
pub use verified::Verification;
pub use write::{NewVersion, Write};

use columns::{COLUMNS, version_of};
use opening::{configure, not_opened, not_writable, patiently};

const CANT_WRITE: &str = "can't write the index";

/// The database's name in the repository.
pub const FILE_NAME: &str = "index.sqlite";

const SCHEMA: &str = include_str!("index/schema.sql");

const CONTENTS: &str = include_str!("index/contents.sql");

// Came later; a program that doesn't know of them does without.
const ADDITIONS: &str = include_str!("index/additions.sql");

// Stands in the database's header; a database with another one is of another program or a newer format.
const USER_VERSION: i64 = 6;

// How long to wait for another process, or thread, that writes.
const PATIENCE: Duration = Duration::from_secs(120);

// Kilobytes of pages that one connection may keep in memory: of most, of which a pull has several, and of the one that
// writes, whose inserts go to places all over the database.
const CACHE_KIB: i64 = 2 * 1024;
const WRITING_CACHE_KIB: i64 = 12 * 1024;

/// A source's number in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId(pub i64);

/// What the index knows of a directory by itself.
#[derive(Clone, Copy, Debug)]
pub struct ListedDirectory {
    /// Its number.
    pub id: DirectoryId,
    /// That of what is current in it; `None` when a pull must list it.
    pub fingerprint: Option<Fingerprint>,
    /// Its inode number on the client when it was listed last; `None` when that is not known.
    pub inode: Option<u64>,
}

/// An open index.
#[derive(Debug)]
pub struct Index {
    connection: Connection,
    // Keeps the private copy that is open; it is removed with the last index that uses it.
    copy: Option<Arc<reading::PrivateCopy>>,
}

impl Index {
    /// Opens the index in a repository, creating it when it is not there.
    pub fn open(repository: &Path) -> Result<Index> {
        let path = repository.join(FILE_NAME);
        let failed = format!("can't open the index `{}`", path.display());
        let connection = Connection::open(&path).on_index(&failed)?;
        if connection.is_readonly("main").on_index(&failed)? {
            return Err(not_writable(&path));
        }
        connection.busy_timeout(PATIENCE).on_index(&failed)?;
        patiently(|| configure(&connection, repository)).map_err(|error| not_opened(&failed, repository, error))?;
        let index = Index { connection, copy: None };
        match index.format()? {
            0 => create_schema(index.connection),
            1..USER_VERSION => migration::bring_up_to_date(index),
            USER_VERSION => {
                index.connection.execute_batch(ADDITIONS).on_index("can't open the index")?;
                Ok(index)
            }
            version => Err(migration::newer(version)),
        }
    }

    /// True when it can be written: it is no copy, and neither the file nor its file system is read-only.
    pub fn is_writable(&self) -> bool {
        self.copy.is_none() && self.connection.is_readonly("main").is_ok_and(|is_readonly| !is_readonly)
    }

    /// Lets it keep more in memory, for much is to be written.
    pub fn expect_much_writing(&self) -> Result<()> {
        self.connection.pragma_update(None, "cache_size", -WRITING_CACHE_KIB).on_index("can't set up the index")
    }

    /// Keeps its write-ahead log short, for the disk is full.
    pub fn expect_little_room(&self) -> Result<()> {
        self.connection.pragma_update(None, "wal_autocheckpoint", 1).on_index("can't set up the index")
    }

    fn format(&self) -> Result<i64> {
        self.one("PRAGMA user_version", params![], |row| row.get(0)).map(|version| version.unwrap_or(0))
    }

    /// The number of a source, if the index knows it.
    pub fn source_id(&self, name: &SourceName) -> Result<Option<SourceId>> {
        self.one("SELECT id FROM source WHERE name = ?1", params![name.as_str()], |row| row.get(0).map(SourceId))
    }

    /// The names of all sources.
    pub fn source_names(&self) -> Result<Vec<String>> {
        self.all("SELECT name FROM source ORDER BY name", params![], |row| row.get(0))
    }

    /// What a source is, or was, about to do: the batch's format and its bytes.
    pub fn pending(&self, source: SourceId) -> Result<Option<(i64, Vec<u8>)>> {
        self.one("SELECT format, batch FROM pending WHERE source = ?1", params![source.0], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    /// True when it holds no version of anything.
    pub fn is_empty(&self) -> Result<bool> {
        self.one("SELECT 1 FROM version LIMIT 1", params![], |_| Ok(())).map(|found| found.is_none())
    }

    /// True when some source other than `source` holds a file.
    pub fn has_other_sources(&self, source: SourceId) -> Result<bool> {
        let sql = "SELECT 1 FROM directory WHERE source <> ?1 LIMIT 1";
        self.one(sql, params![source.0], |_| Ok(())).map(|found| found.is_some())
    }

    /// True when something of this source is known.
    pub fn knows_directories(&self, source: SourceId) -> Result<bool> {
        let sql = "SELECT 1 FROM directory WHERE source = ?1 LIMIT 1";
        self.one(sql, params![source.0], |_| Ok(())).map(|found| found.is_some())
    }

    /// The number of a directory and its fingerprint, if the index knows it.
    pub fn directory(&self, source: SourceId, path: &AbsPath) -> Result<Option<(DirectoryId, Option<Fingerprint>)>> {
        let sql = "SELECT id, fingerprint FROM directory WHERE source = ?1 AND path = ?2";
        self.one(sql, params![source.0, path.as_bytes()], |row| {
            Ok((DirectoryId(row.get(0)?), row.get::<_, Option<[u8; 16]>>(1)?))
        })
    }

    /// The same, with the inode number that it had on the client when its fingerprint was kept.
    pub fn listed_directory(&self, source: SourceId, path: &AbsPath) -> Result<Option<ListedDirectory>> {
        let sql = "SELECT id, fingerprint, inode FROM directory LEFT JOIN listed ON listed.directory = id \
                   WHERE source = ?1 AND path = ?2";
        self.one(sql, params![source.0, path.as_bytes()], |row| {
            let (id, fingerprint) = (DirectoryId(row.get(0)?), row.get(1)?);
            Ok(ListedDirectory { id, fingerprint, inode: row.get::<_, Option<i64>>(2)?.map(|inode| inode as u64) })
        })
    }

    /// A directory of a source that has this inode number on the client, and this fingerprint.
    pub fn directory_with(
        &self,
        source: SourceId,
        inode: u64,
        fingerprint: &Fingerprint,
    ) -> Result<Option<DirectoryId>> {
        let sql = "SELECT id FROM listed JOIN directory ON id = listed.directory \
                   WHERE inode = ?1 AND source = ?2 AND fingerprint = ?3 LIMIT 1";
        self.one(sql, params![inode as i64, source.0, fingerprint], |row| row.get(0).map(DirectoryId))
    }

    /// The path of a directory.
    pub fn directory_path(&self, directory: DirectoryId) -> Result<Option<AbsPath>> {
        let sql = "SELECT path FROM directory WHERE id = ?1";
        self.one(sql, params![directory.0], |row| path_of(row.get_ref(0)?))
    }

    /// The path of a directory that is known to exist.
    pub fn path_of_directory(&self, directory: DirectoryId) -> Result<AbsPath> {
        let found = self.directory_path(directory)?;
        found.ok_or_else(|| Error::new(ErrorKind::Failed, "the index lost a directory while it was in use"))
    }

    /// At most `limit` of the directories of a source at and below `path` whose paths sort before `before`, in descending
    /// order: each deeper one before what holds it.
    pub fn last_directories_below(
        &self,
        source: SourceId,
        path: &AbsPath,
        before: Option<&AbsPath>,
        limit: u32,
    ) -> Result<Vec<(DirectoryId, AbsPath)>> {
        let (from, until) = range_below(path);
        let until = before.map_or(until, |before| before.as_bytes().to_vec());
        let columns = "SELECT id, path FROM directory WHERE source = ?1";
        let sql = format!("{columns} AND path > ?2 AND path < ?3 ORDER BY path DESC LIMIT ?4");
        let row = |row: &rusqlite::Row<'_>| Ok((DirectoryId(row.get(0)?), path_of(row.get_ref(1)?)?));
        let mut found = self.all(&sql, params![source.0, from, until, limit], row)?;
        // The directory itself sorts before those below it.
        if found.len() < limit as usize && before != Some(path) {
            found.extend(self.directory(source, path)?.map(|(id, _)| (id, path.clone())));
        }
        Ok(found)
    }

    /// The directories of a source at and below `path`, each deeper one after what holds it.
    pub fn directories_below(&self, source: SourceId, path: &AbsPath) -> Result<Vec<(DirectoryId, AbsPath)>> {
        let (from, until) = range_below(path);
        let sql = "SELECT id, path FROM directory WHERE source = ?1 AND (path = ?2 OR (path >= ?3 AND path < ?4)) ORDER BY path";
        self.all(sql, params![source.0, path.as_bytes(), from, until], |row| {
            Ok((DirectoryId(row.get(0)?), path_of(row.get_ref(1)?)?))
        })
    }

    /// The directories of a source that have versions in the archive, each deeper one after what holds it.
    pub fn directories_with_archive(&self, source: SourceId) -> Result<Vec<(DirectoryId, AbsPath)>> {
        let sql = "SELECT id, path FROM directory WHERE source = ?1 AND EXISTS \
                   (SELECT 1 FROM version WHERE directory = directory.id AND archive_name IS NOT NULL) ORDER BY path";
        self.all(sql, params![source.0], |row| Ok((DirectoryId(row.get(0)?), path_of(row.get_ref(1)?)?)))
    }

    /// The current versions in a directory whose names come after `after` and not after `until`, by name.
    pub fn current_in(&self, directory: DirectoryId, after: Option<&Name>, until: &Name) -> Result<Vec<Version>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM version WHERE directory = ?1 AND until_run IS NULL AND name > ?2 AND name <= ?3 ORDER BY name"
        );
        self.all(&sql, params![directory.0, after.map_or(&b""[..], Name::as_bytes), until.as_bytes()], version_of)
    }

    /// The first `limit` of the current versions in a directory whose names come after `after`, by name.
    pub fn current_after(&self, directory: DirectoryId, after: Option<&Name>, limit: u32) -> Result<Vec<Version>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM version WHERE directory = ?1 AND until_run IS NULL AND name > ?2 ORDER BY name LIMIT ?3"
        );
        self.all(&sql, params![directory.0, after.map_or(&b""[..], Name::as_bytes), limit], version_of)
    }

    /// The current version at a path.
    pub fn current_at(&self, source: SourceId, path: &AbsPath) -> Result<Option<Version>> {
        let Some((parent, name)) = path.split() else { return Ok(None) };
        let Some((directory, _)) = self.directory(source, &parent)? else { return Ok(None) };
        let sql = format!("SELECT {COLUMNS} FROM version WHERE directory = ?1 AND until_run IS NULL AND name = ?2");
        self.one(&sql, params![directory.0, name.as_bytes()], version_of)
    }

    /// A version by its number.
    pub fn version(&self, id: i64) -> Result<Version> {
        let sql = format!("SELECT {COLUMNS} FROM version WHERE id = ?1");
        let found = self.one(&sql, params![id], version_of)?;
        found.ok_or_else(|| Error::new(ErrorKind::Failed, "the index lost a version while it was in use"))
    }

    /// True while a version is current.
    pub fn is_current(&self, id: i64) -> Result<bool> {
        let sql = "SELECT 1 FROM version WHERE id = ?1 AND until_run IS NULL";
        self.one(sql, params![id], |_| Ok(())).map(|found| found.is_some())
    }

    /// The version whose plain file is that of this one: itself, or the one that it relies on.
    pub fn with_plain_file(&self, version: &Version) -> Result<Version> {
        version.relies_on.map_or_else(|| Ok(version.clone()), |other| self.version(other))
    }

    /// The versions that rely on the plain file of another one, the newest first.
    pub fn relying_on(&self, id: i64) -> Result<Vec<Version>> {
        let sql = format!("SELECT {COLUMNS} FROM version WHERE relies_on = ?1 ORDER BY from_run DESC, id DESC");
        self.all(&sql, params![id], version_of)
    }

    /// Every version in a directory, past ones too.
    pub fn versions_in(&self, directory: DirectoryId) -> Result<Vec<Version>> {
        let current = format!("SELECT {COLUMNS} FROM version WHERE directory = ?1 AND until_run IS NULL");
        let mut versions = self.all(&current, params![directory.0], version_of)?;
        versions.extend(self.past_in(directory)?);
        Ok(versions)
    }

    /// The names that there are and were in a directory, sorted.
    pub fn names_in(&self, directory: DirectoryId) -> Result<Vec<Name>> {
        let sql = "SELECT name FROM version WHERE directory = ?1 AND until_run IS NULL UNION \
                   SELECT name FROM version WHERE directory = ?1 AND until_run IS NOT NULL ORDER BY name";
        self.all(sql, params![directory.0], |row| name_of(row.get_ref(0)?))
    }

    /// The past versions in a directory.
    pub fn past_in(&self, directory: DirectoryId) -> Result<Vec<Version>> {
        let sql = format!("SELECT {COLUMNS} FROM version WHERE directory = ?1 AND until_run IS NOT NULL");
        self.all(&sql, params![directory.0], version_of)
    }

    /// How many files were current below a path when a run began; `None` for now.
    pub fn count_files_below(&self, source: SourceId, path: &AbsPath, run: Option<i64>) -> Result<u64> {
        let current =
            "SELECT count(*) FROM version WHERE directory = ?1 AND until_run IS NULL AND kind = 0 AND from_run < ?2";
        let ended =
            "SELECT count(*) FROM version WHERE directory = ?1 AND until_run = ?2 AND kind = 0 AND from_run < ?2";
        let mut count = 0;
        for (directory, _) in self.directories_below(source, path)? {
            let run = run.unwrap_or(i64::MAX);
            for sql in [current, ended] {
                count += self.one(sql, params![directory.0, run], |row| row.get::<_, i64>(0))?.unwrap_or(0) as u64;
            }
        }
        Ok(count)
    }

    /// True when the fingerprint that is kept of a directory is not that of its current versions: a pull could take
    /// for unchanged what it is not.
    pub fn has_wrong_fingerprint(&self, directory: DirectoryId) -> Result<bool> {
        // All is read as it was at one moment, whatever a pull writes meanwhile.
        let moment = self.connection.unchecked_transaction().on_index("can't read the index")?;
        let sql = "SELECT fingerprint FROM directory WHERE id = ?1";
        let kept = self.one(sql, params![directory.0], |row| row.get::<_, Option<Fingerprint>>(0))?.flatten();
        let Some(kept) = kept else { return Ok(false) };
        let digests = digests_of(&moment, directory)?;
        let is_other = |digests: &Digests| digests.fingerprint() != kept;
        Ok(digests.is_none_or(|digests| is_other(&digests))
            || self.kept_digests(directory)?.is_some_and(|kept| is_other(&kept)))
    }

    /// The digests of the current versions in a directory that has this fingerprint; `None` when they were not kept.
    pub fn digests(&self, directory: DirectoryId, fingerprint: &Fingerprint) -> Result<Option<Digests>> {
        Ok(self.kept_digests(directory)?.filter(|digests| digests.fingerprint() == *fingerprint))
    }

    fn kept_digests(&self, directory: DirectoryId) -> Result<Option<Digests>> {
        let sql = "SELECT digests FROM listed WHERE directory = ?1";
        let kept = self.one(sql, params![directory.0], |row| row.get::<_, Option<Vec<u8>>>(0))?.flatten();
        Ok(kept.and_then(Digests::from_bytes))
    }

    /// The names of the current versions in a directory, sorted, and their numbers.
    pub fn current_names(&self, directory: DirectoryId) -> Result<Vec<(Name, i64)>> {
        // All of it is in an index of the table.
        let sql = "SELECT name, id FROM version WHERE directory = ?1 AND until_run IS NULL ORDER BY name";
        self.all(sql, params![directory.0], |row| Ok((name_of(row.get_ref(0)?)?, row.get(1)?)))
    }

    fn one<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        let found = self.connection.prepare_cached(sql).and_then(|mut query| query.query_row(params, read).optional());
        found.on_index("can't read the index")
    }

    fn all<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let rows = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut query| query.query_map(params, read)?.collect::<rusqlite::Result<Vec<T>>>());
        rows.on_index("can't read the index")
    }
}

fn create_schema(mut connection: Connection) -> Result<Index> {
    let created = (|| {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // Another process may have been faster.
        let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version == 0 {
            transaction.execute_batch(SCHEMA)?;
            transaction.execute_batch(CONTENTS)?;
            transaction.execute_batch(ADDITIONS)?;
            transaction.pragma_update(None, "user_version", USER_VERSION)?;
        }
        transaction.commit()
    })();
    created.on_index("can't create the index")?;
    Ok(Index { connection, copy: None })
}

/// Turns SQLite's errors into ours; a full disk is told apart.
pub(crate) trait OnIndex<T> {
    fn on_index(self, what: &str) -> Result<T>;
}

impl<T> OnIndex<T> for rusqlite::Result<T> {
    fn on_index(self, what: &str) -> Result<T> {
        self.map_err(|error| error_on_index(what, error))
    }
}

fn error_on_index(what: &str, error: rusqlite::Error) -> Error {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    let (kind, hint) = match error.sqlite_error_code() {
        // No room for the memory that processes share.
        _ if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) => {
            return Error::new(ErrorKind::Full, format_args!("{what}: no space left on device"));
        }
        Some(rusqlite::ErrorCode::DiskFull) => (ErrorKind::Full, None),
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            (ErrorKind::Failed, Some("move index.sqlite aside and run `archive index rebuild`"))
        }
        Some(
            rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::PermissionDenied,
        ) => (
            ErrorKind::Failed,
            Some("if files of the repository belong to another user, change the owner with `chown -R`"),
        ),
        _ => (ErrorKind::Failed, None),
    };
    let error = Error::caused(kind, what, error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

// Of the current versions; `None` when a file has to be read again, however it is listed.
fn digests_of(connection: &Connection, directory: DirectoryId) -> Result<Option<Digests>> {
    const WHAT: &str = "can't read the index";
    let sql = format!("SELECT {COLUMNS} FROM version WHERE directory = ?1 AND until_run IS NULL ORDER BY name");
    let mut query = connection.prepare_cached(&sql).on_index(WHAT)?;
    let mut rows = query.query(params![directory.0]).on_index(WHAT)?;
    let mut digests = Digests::default();
    while let Some(row) = rows.next().on_index(WHAT)? {
        let version = version_of(row).on_index(WHAT)?;
        if version.has(flags::INCONSISTENT) {
            return Ok(None);
        }
        digests.add(&version.entry);
    }
    Ok(Some(digests))
}

// The least of the paths below one, and what is greater than all of them.
fn range_below(path: &AbsPath) -> (Vec<u8>, Vec<u8>) {
    let mut from = path.as_bytes().to_vec();
    if !path.is_root() {
        from.push(b'/');
    }
    let mut until = from.clone();
    *until.last_mut().expect("a path has a byte") += 1;
    (from, until)
}

fn name_of(value: ValueRef<'_>) -> rusqlite::Result<Name> {
    let bytes = value.as_bytes()?;
    Name::new(bytes).ok_or(rusqlite::Error::InvalidQuery)
}

fn path_of(value: ValueRef<'_>) -> rusqlite::Result<AbsPath> {
    let bytes = value.as_bytes()?;
    AbsPath::new(bytes).ok_or(rusqlite::Error::InvalidQuery)
}

fn kind_of(number: i64) -> Kind {
    u32::try_from(number).ok().and_then(Kind::with_number).unwrap_or(Kind::Socket)
}
