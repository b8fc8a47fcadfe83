//! Questions to the index that span directories and sources: runs, totals.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::params;

use super::columns::FURTHER;
use super::{COLUMNS, Index, OnIndex, SourceId, path_of, version_of};
use crate::chronology;
use crate::entry::{DirectoryId, Version};
use crate::error::{Kind, Result};
use crate::path::{AbsPath, SourceName};
use crate::report::Outcome;

/// A version, and whose it is.
#[derive(Clone, Debug)]
pub struct Located {
    /// The source's name.
    pub source: SourceName,
    /// The directory on the client.
    pub directory: AbsPath,
    /// The version.
    pub version: Version,
}

impl Located {
    pub(super) fn of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Located> {
        let source: String = row.get(FURTHER)?;
        Ok(Located {
            version: version_of(row)?,
            source: SourceName::new(&source).map_err(|_| rusqlite::Error::InvalidQuery)?,
            directory: path_of(row.get_ref(FURTHER + 1)?)?,
        })
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct RunRow {
    /// Its number.
    pub id: i64,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; `None` while it goes on, or when it was cut off.
    pub ended: Option<Timestamp>,
    /// How it ended; `None` while it goes on, or when it was cut off.
    pub outcome: Option<String>,
    /// Its counts, exit status and error, as JSON.
    pub summary: Option<String>,
}

impl RunRow {
    /// True when it was a pull that read everything, or all but some files. One that lost its client on the way is recorded
    /// as partial, too, and has another exit status.
    pub fn has_finished(&self) -> bool {
        match self.outcome.as_deref() {
            Some(word) if word == Outcome::Ok.word() => true,
            Some(word) if word == Outcome::Partial.word() => {
                let exit = self.recorded()["exit"].as_u64();
                exit.is_none_or(|exit| exit == u64::from(Kind::Partial.exit_status()))
            }
            _ => false,
        }
    }

    /// What its summary says; null where it says nothing.
    pub fn recorded(&self) -> serde_json::Value {
        self.summary.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

/// The numbers of the runs whose dates can't be right: see [`chronology::misdated`].
pub fn misdated(runs: &[RunRow], now: Timestamp) -> BTreeSet<i64> {
    chronology::misdated(runs.iter().map(|run| (run.id, run.started)), now)
}

/// Those of these runs that finished and whose dates can be right, oldest first.
pub fn finished(runs: &[RunRow], now: Timestamp) -> Vec<&RunRow> {
    let misdated = misdated(runs, now);
    let mut finished: Vec<_> = runs.iter().filter(|run| run.has_finished() && !misdated.contains(&run.id)).collect();
    finished.sort_by_key(|run| run.id);
    finished
}

/// Totals.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Sources.
    pub sources: u64,
    /// Runs.
    pub runs: u64,
    /// Versions of entries, past and current.
    pub versions: u64,
    /// Current versions: the snapshot.
    pub current: u64,
    /// Different contents.
    pub contents: u64,
    /// Bytes of all different contents.
    pub bytes: u64,
    /// Bytes of the index itself.
    pub index_bytes: u64,
}

/// The highest numbers that a run and a batch ever had: an index that does not know both is an older copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// Number of the newest run, or of something else that took a run's number.
    pub run: i64,
    /// Number of the newest batch, counted over all sources.
    pub batch: i64,
}

impl Index {
    /// Which machine a source was in its last run, if that is known.
    pub fn machine(&self, source: SourceId) -> Result<Option<Vec<u8>>> {
        self.one("SELECT id FROM machine WHERE source = ?1", params![source.0], |row| row.get(0))
    }

    /// Keeps which machine a source is.
    pub fn set_machine(&mut self, source: SourceId, id: &[u8]) -> Result<()> {
        let write = self.write()?;
        write.execute("INSERT OR REPLACE INTO machine (source, id) VALUES (?1, ?2)", params![source.0, id])?;
        write.commit()
    }

    /// Calls `each` with every version there is, by source, directory and name.
    pub fn each_version(&self, each: &mut dyn FnMut(Located) -> Result<()>) -> Result<()> {
        self.each(&located("true ORDER BY source.name, directory.path, version.name, from_run"), params![], each)
    }

    /// Every version of a path, oldest first.
    pub fn versions_at(&self, source: SourceId, path: &AbsPath) -> Result<Vec<Version>> {
        let Some((parent, name)) = path.split() else { return Ok(Vec::new()) };
        let Some((directory, _)) = self.directory(source, &parent)? else { return Ok(Vec::new()) };
        let by_name = |state: &str| {
            let sql = format!("SELECT {COLUMNS} FROM version WHERE directory = ?1 AND name = ?2 AND until_run {state}");
            self.all(&sql, params![directory.0, name.as_bytes()], version_of)
        };
        let mut versions = by_name("IS NOT NULL")?;
        versions.sort_by_key(|version| version.from_run);
        versions.extend(by_name("IS NULL")?);
        Ok(versions)
    }

    /// The highest numbers that a run and a batch ever had, as far as this index knows.
    pub fn newest(&self) -> Result<Newest> {
        let sql = "SELECT coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = 'run'), 0), \
                   coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = 'batch'), 0)";
        let newest = self.one(sql, params![], |row| Ok(Newest { run: row.get(0)?, batch: row.get(1)? }))?;
        Ok(newest.unwrap_or_default())
    }

    /// The runs of a source, newest first.
    pub fn runs(&self, source: SourceId) -> Result<Vec<RunRow>> {
        let sql = "SELECT id, started, ended, outcome, summary FROM run WHERE source = ?1 ORDER BY id DESC";
        self.all(sql, params![source.0], |row| {
            Ok(RunRow {
                id: row.get(0)?,
                started: timestamp(row.get(1)?),
                ended: row.get::<_, Option<i64>>(2)?.map(timestamp),
                outcome: row.get(3)?,
                summary: row.get(4)?,
            })
        })
    }

    /// The versions in a directory as they were at the end of a run, by name.
    pub fn versions_as_of(&self, directory: DirectoryId, run: i64) -> Result<Vec<Version>> {
        let during = |state: &str| {
            let sql =
                format!("SELECT {COLUMNS} FROM version WHERE directory = ?1 AND from_run <= ?2 AND until_run {state}");
            self.all(&sql, params![directory.0, run], version_of)
        };
        let mut versions = during("IS NULL")?;
        versions.extend(during("> ?2")?);
        versions.sort_by(|one, other| one.entry.name.cmp(&other.entry.name));
        Ok(versions)
    }

    /// The versions in a directory that began or ended after one run, and not after another.
    pub fn versions_between(&self, directory: DirectoryId, after: i64, until: i64) -> Result<Vec<Version>> {
        let with = |state: &str| {
            let sql = format!(
                "SELECT {COLUMNS} FROM version WHERE directory = ?1 AND until_run {state} AND \
                 (from_run > ?2 AND from_run <= ?3 OR until_run > ?2 AND until_run <= ?3)"
            );
            self.all(&sql, params![directory.0, after, until], version_of)
        };
        let mut versions = with("IS NULL")?;
        versions.extend(with("IS NOT NULL")?);
        Ok(versions)
    }

    /// True when one of the last runs of a source did not come to its end, be it well or with files unread.
    pub fn has_cut_off_runs(&self, source: SourceId) -> Result<bool> {
        let sql = "SELECT 1 FROM (SELECT outcome, summary FROM run WHERE source = ?1 ORDER BY id DESC LIMIT 50) \
                   WHERE outcome IS NULL OR NOT (outcome IN ('ok', 'rebuild') OR json_extract(summary, '$.exit') = 3) \
                   LIMIT 1";
        self.one(sql, params![source.0], |_| Ok(())).map(|found| found.is_some())
    }

    /// How many files a source has now, and their bytes.
    pub fn current_size(&self, source: SourceId) -> Result<(u64, u64)> {
        let sql = "SELECT count(*), coalesce(sum(size), 0) FROM version JOIN directory ON directory.id = version.directory \
                   WHERE source = ?1 AND until_run IS NULL AND kind = 0";
        let size =
            self.one(sql, params![source.0], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))?;
        Ok(size.unwrap_or_default())
    }

    /// Totals over the whole repository.
    pub fn stats(&self) -> Result<Stats> {
        let contents = "SELECT hash, max(size) AS size FROM version WHERE kind = 0 AND hash IS NOT NULL GROUP BY hash";
        Ok(Stats {
            sources: self.count("SELECT count(*) FROM source")?,
            runs: self.count("SELECT count(*) FROM run")?,
            versions: self.count("SELECT count(*) FROM version")?,
            current: self.count("SELECT count(*) FROM version WHERE until_run IS NULL")?,
            contents: self.count(&format!("SELECT count(*) FROM ({contents})"))?,
            bytes: self.count(&format!("SELECT coalesce(sum(size), 0) FROM ({contents})"))?,
            index_bytes: self.count("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")?,
        })
    }

    /// What a question says that answers with one number.
    pub(super) fn count(&self, sql: &str) -> Result<u64> {
        self.one(sql, params![], |row| row.get::<_, i64>(0)).map(|count| count.unwrap_or(0) as u64)
    }

    pub(super) fn each(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        each: &mut dyn FnMut(Located) -> Result<()>,
    ) -> Result<()> {
        const WHAT: &str = "can't read the index";
        let mut query = self.connection.prepare(sql).on_index(WHAT)?;
        let mut rows = query.query(params).on_index(WHAT)?;
        while let Some(row) = rows.next().on_index(WHAT)? {
            each(Located::of(row).on_index(WHAT)?)?;
        }
        Ok(())
    }
}

pub(super) fn located(condition: &str) -> String {
    format!(
        "SELECT {COLUMNS}, source.name, directory.path FROM version JOIN directory ON directory.id = version.directory \
         JOIN source ON source.id = directory.source WHERE {condition}"
    )
}

pub(super) fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).expect("every i64 of nanoseconds is a time that jiff knows")
}
