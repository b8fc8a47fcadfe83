//! Reconciles the index with the trees: marks the versions that were found, and ends or adopts the others.

use rusqlite::{OptionalExtension, params};

use super::{CANT_WRITE, COLUMNS, OnIndex, SourceId, Write, range_below, version_of};
use crate::entry::{DirectoryId, Version, flags};
use crate::error::Result;
use crate::path::{AbsPath, Name};

/// What became of versions whose plain files were not found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfound {
    /// Versions that were current and are past now.
    pub closed: u64,
    /// Versions that have no plain file any more.
    pub baseless: u64,
}

/// Directories of a source: one, and another with all below it.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The source.
    pub source: SourceId,
    /// Without those below it.
    pub directory: &'a AbsPath,
    /// With all below it.
    pub below: Option<&'a AbsPath>,
}

// The numbers of the directories of a scope, which is ?1 to ?5.
const OF_SCOPE: &str =
    "(SELECT id FROM directory WHERE source = ?1 AND (path = ?2 OR path = ?3 OR path >= ?4 AND path < ?5))";

// Those of `below`.
const BELOW: &str = "(SELECT id FROM directory WHERE source = ?1 AND (path = ?3 OR path >= ?4 AND path < ?5))";

impl Scope<'_> {
    fn params(&self) -> impl rusqlite::Params {
        let (from, until) = self.below.map(range_below).unzip();
        (self.source.0, self.directory.as_bytes(), self.below.map(AbsPath::as_bytes), from, until)
    }
}

impl Write<'_> {
    /// Starts a search: no plain file is found yet.
    pub fn begin_finding(&self) -> Result<()> {
        let sql = "CREATE TEMP TABLE IF NOT EXISTS found \
                   (version INTEGER, in_archive INTEGER, PRIMARY KEY (version, in_archive)) WITHOUT ROWID";
        self.execute(sql, params![])?;
        self.execute("DELETE FROM found", params![])
    }

    /// Marks a version's plain file as found, in the snapshot or in the archive.
    pub fn set_found(&self, id: i64, in_archive: bool) -> Result<()> {
        self.execute("INSERT OR IGNORE INTO found (version, in_archive) VALUES (?1, ?2)", params![id, in_archive])
    }

    /// The current version of a name.
    pub fn current_named(&self, directory: DirectoryId, name: &Name) -> Result<Option<Version>> {
        let sql = format!("SELECT {COLUMNS} FROM version WHERE directory = ?1 AND name = ?2 AND until_run IS NULL");
        self.find(&sql, params![directory.0, name.as_bytes()])
    }

    /// The version that has this name in the archive.
    pub fn archived_as(&self, directory: DirectoryId, name: &Name) -> Result<Option<Version>> {
        let sql = format!("SELECT {COLUMNS} FROM version WHERE directory = ?1 AND archive_name = ?2");
        self.find(&sql, params![directory.0, name.as_bytes()])
    }

    fn find(&self, sql: &str, params: impl rusqlite::Params) -> Result<Option<Version>> {
        let mut query = self.transaction.prepare_cached(sql).on_index(CANT_WRITE)?;
        query.query_row(params, version_of).optional().on_index(CANT_WRITE)
    }

    /// True for the directory `name` of `parent` at `path`, if it is above roots: it was never listed, but something below it
    /// is known from before `run`, which is that of the rebuild.
    pub fn only_leads(
        &self,
        (source, run): (SourceId, i64),
        path: &AbsPath,
        (parent, name): (DirectoryId, &Name),
    ) -> Result<bool> {
        let (from, until) = range_below(path);
        let sql = "SELECT 1 FROM directory WHERE source = ?1 AND (path = ?2 OR path >= ?3 AND path < ?4) \
                   AND EXISTS (SELECT 1 FROM version WHERE directory = directory.id AND from_run < ?7) AND NOT EXISTS \
                   (SELECT 1 FROM directory AS own JOIN listed ON listed.directory = own.id \
                    WHERE own.source = ?1 AND own.path = ?2) \
                   AND NOT EXISTS (SELECT 1 FROM version WHERE directory = ?5 AND name = ?6) LIMIT 1";
        let mut query = self.transaction.prepare_cached(sql).on_index(CANT_WRITE)?;
        query
            .exists(params![source.0, path.as_bytes(), from, until, parent.0, name.as_bytes(), run])
            .on_index(CANT_WRITE)
    }

    /// Ends the search in a source's trees: what was current and was not found is past since this run, and what was not
    /// found in the archive is not there. What is in the index only stays as it is.
    pub fn end_finding(&self, source: SourceId, run: i64) -> Result<Unfound> {
        let of_source = "directory IN (SELECT id FROM directory WHERE source = ?1)";
        let unfound = |in_archive: u8| {
            format!("NOT EXISTS (SELECT 1 FROM found WHERE found.version = version.id AND in_archive = {in_archive})")
        };
        let count = |sql: &str| -> Result<u64> {
            let counted = self.transaction.query_row(sql, params![source.0], |row| row.get::<_, i64>(0));
            counted.map(|count| count as u64).on_index(CANT_WRITE)
        };
        let current = format!("{of_source} AND until_run IS NULL AND kind IN (0, 1, 2) AND {}", unfound(0));
        let closed = count(&format!("SELECT count(*) FROM version WHERE {current}"))?;
        self.execute(&format!("UPDATE version SET until_run = ?2 WHERE {current}"), params![source.0, run])?;
        let archived = format!("{of_source} AND archive_name IS NOT NULL AND {}", unfound(1));
        self.execute(&format!("UPDATE version SET archive_name = NULL WHERE {archived}"), params![source.0])?;
        let root = AbsPath::root();
        let all = Scope { source, directory: &root, below: Some(&root) };
        self.adopt(&all, run)?;
        Ok(Unfound { closed, baseless: self.count_baseless(&all)? })
    }

    /// Ends all that is current below a directory which is gone from the snapshot.
    pub fn close_below(&self, scope: &Scope<'_>, run: i64) -> Result<()> {
        let ends = "UPDATE version SET until_run = ";
        self.execute(&format!("{ends} {run} WHERE until_run IS NULL AND directory IN {BELOW}"), scope.params())?;
        self.execute(&format!("DELETE FROM listed WHERE directory IN {BELOW}"), scope.params())?;
        self.execute(&format!("UPDATE directory SET fingerprint = NULL WHERE id IN {BELOW}"), scope.params())
    }

    /// Counts the versions that have no plain file.
    pub fn count_baseless(&self, scope: &Scope<'_>) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM version WHERE directory IN {OF_SCOPE} AND {BASELESS}");
        let mut query = self.transaction.prepare_cached(&sql).on_index(CANT_WRITE)?;
        let count: i64 = query.query_row(scope.params(), |row| row.get(0)).on_index(CANT_WRITE)?;
        Ok(count as u64)
    }

    /// Has each version that lost its plain file take that of a version of the same name and content, or an unknown file of its
    /// directory that has its content.
    pub fn adopt(&self, scope: &Scope<'_>, run: i64) -> Result<()> {
        let released = format!(
            "UPDATE version SET relies_on = NULL WHERE directory IN {OF_SCOPE} AND relies_on IN \
             (SELECT id FROM version WHERE directory IN {OF_SCOPE} AND until_run IS NOT NULL AND archive_name IS NULL)"
        );
        self.execute(&released, scope.params())?;
        for version in self.baseless(scope)? {
            if let Some(other) = self.same_with_file(&version, Some(run))? {
                self.set_relies_on(version.id, Some(other))?;
            } else if let Some(unknown) = self.unknown_with_content(&version, run)? {
                let name = unknown.archive_name.clone();
                self.set_archive_name(unknown.id, None)?;
                self.delete(unknown.id)?;
                self.set_archive_name(version.id, name.as_ref())?;
            }
        }
        Ok(())
    }

    /// Has the versions of a source that have no plain file rely on a later version of the same name and content that has one.
    pub fn rely_on_successors(&self, source: SourceId) -> Result<()> {
        let root = AbsPath::root();
        for version in self.baseless(&Scope { source, directory: &root, below: Some(&root) })? {
            if let Some(other) = self.same_with_file(&version, None)? {
                self.set_relies_on(version.id, Some(other))?;
            }
        }
        Ok(())
    }

    fn baseless(&self, scope: &Scope<'_>) -> Result<Vec<Version>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM version WHERE directory IN {OF_SCOPE} AND {BASELESS} \
             ORDER BY from_run DESC, id DESC"
        );
        let mut query = self.transaction.prepare(&sql).on_index(CANT_WRITE)?;
        let rows = query.query_map(scope.params(), version_of).on_index(CANT_WRITE)?;
        rows.collect::<rusqlite::Result<_>>().on_index(CANT_WRITE)
    }

    // Unknown files that the rebuild `run` has found do not count: each is for one version to take.
    fn same_with_file(&self, version: &Version, run: Option<i64>) -> Result<Option<i64>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM version WHERE directory = ?1 AND name = ?2 AND id <> ?3 AND kind = ?4 AND mtime = ?5 \
             AND hash IS ?6 AND target IS ?7 AND (until_run IS NULL OR archive_name IS NOT NULL) \
             AND from_run > ?8 AND NOT flags & ?9 AND NOT (from_run IS ?10 AND until_run IS ?10) ORDER BY from_run"
        );
        let entry = &version.entry;
        let target = (!entry.target.is_empty()).then_some(&entry.target);
        let kind = entry.kind.number();
        let mut query = self.transaction.prepare_cached(&sql).on_index(CANT_WRITE)?;
        let params = params![
            version.directory.0,
            entry.name.as_bytes(),
            version.id,
            kind,
            entry.mtime.clamped(),
            version.hash,
            target,
            version.from_run,
            flags::INCONSISTENT,
            run,
        ];
        // The column tells far times from near ones only.
        for other in query.query_map(params, version_of).on_index(CANT_WRITE)? {
            let other = other.on_index(CANT_WRITE)?;
            if other.entry.mtime == entry.mtime {
                return Ok(Some(other.id));
            }
        }
        Ok(None)
    }

    fn unknown_with_content(&self, version: &Version, run: i64) -> Result<Option<Version>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM version WHERE directory = ?1 AND hash IS ?2 AND target IS ?3 AND kind = ?4 \
             AND from_run = ?5 AND until_run = ?5 AND archive_name IS NOT NULL AND flags & ?6 \
             ORDER BY name <> ?7, mtime <> ?8 LIMIT 1"
        );
        let entry = &version.entry;
        let target = (!entry.target.is_empty()).then_some(&entry.target);
        let kind = entry.kind.number();
        let params = params![
            version.directory.0,
            version.hash,
            target,
            kind,
            run,
            flags::REBUILT,
            entry.name.as_bytes(),
            entry.mtime.clamped(),
        ];
        self.find(&sql, params)
    }

    /// Makes the next pull of a source list every directory.
    pub fn forget_fingerprints(&self, source: SourceId) -> Result<()> {
        let sql = "DELETE FROM listed WHERE directory IN (SELECT id FROM directory WHERE source = ?1)";
        self.execute(sql, params![source.0])?;
        self.execute("UPDATE directory SET fingerprint = NULL WHERE source = ?1", params![source.0])
    }
}

/// A past version that should have a plain file, and neither has one nor relies on another's.
pub(super) const BASELESS: &str = "version.kind IN (0, 2) AND version.until_run IS NOT NULL AND version.archive_name IS NULL AND version.relies_on IS NULL";
