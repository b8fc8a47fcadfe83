//! When plain files were last read, and whether they were what the index says.

use jiff::Timestamp;
use rusqlite::params;

use super::{Index, SourceId, Write};
use crate::error::Result;
use crate::time::clamped_nanoseconds;

// The versions of a source that have a plain file with content.
const WITH_PLAIN_FILE: &str = "FROM version JOIN directory ON directory.id = version.directory WHERE source = ?1 \
                               AND kind = 0 AND hash IS NOT NULL AND (until_run IS NULL OR archive_name IS NOT NULL)";

/// How the last verification of a source ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verification {
    /// When.
    pub ended: Timestamp,
    /// Plain files that were read.
    pub files: u64,
    /// What was not as it should be.
    pub bad: u64,
}

impl Index {
    /// The numbers of those versions of a source with a plain file that were read the longest ago, or never: this
    /// share of all, in percent, and at least one. One that was read later than `now` counts as never read.
    pub fn longest_unverified(&self, source: SourceId, percent: u8, now: Timestamp) -> Result<Vec<i64>> {
        let share = (self.plain_files(source)? * u64::from(percent)).div_ceil(100);
        let oldest = "ORDER BY (SELECT ended FROM examined WHERE examined.version = version.id AND ended <= ?3), version.id LIMIT ?2";
        let params = params![source.0, share as i64, clamped_nanoseconds(now)];
        self.all(&format!("SELECT version.id {WITH_PLAIN_FILE} {oldest}"), params, |row| row.get(0))
    }

    /// Counts the versions of a source that have a plain file with content.
    pub fn plain_files(&self, source: SourceId) -> Result<u64> {
        let sql = format!("SELECT count(*) {WITH_PLAIN_FILE}");
        self.one(&sql, params![source.0], |row| row.get::<_, i64>(0)).map(|count| count.unwrap_or(0) as u64)
    }

    /// Counts those of them that the verification read that ended at this time.
    pub fn examined_at(&self, source: SourceId, ended: Timestamp) -> Result<u64> {
        let of_then = "AND EXISTS (SELECT 1 FROM examined WHERE examined.version = version.id AND ended = ?2)";
        let sql = format!("SELECT count(*) {WITH_PLAIN_FILE} {of_then}");
        let params = params![source.0, clamped_nanoseconds(ended)];
        self.one(&sql, params, |row| row.get::<_, i64>(0)).map(|count| count.unwrap_or(0) as u64)
    }

    /// The numbers of the versions of a source whose plain files were bad when they were last read.
    pub fn bad_when_examined(&self, source: SourceId) -> Result<Vec<i64>> {
        let sql = "SELECT examined.version FROM examined JOIN version ON version.id = examined.version \
                   JOIN directory ON directory.id = version.directory WHERE source = ?1 AND bad <> 0";
        self.all(sql, params![source.0], |row| row.get(0))
    }

    /// How the last verification of a source ended, if there was one.
    pub fn verification(&self, source: SourceId) -> Result<Option<Verification>> {
        self.one("SELECT ended, files, bad FROM verification WHERE source = ?1", params![source.0], |row| {
            Ok(Verification {
                ended: super::facts::timestamp(row.get(0)?),
                files: row.get::<_, i64>(1)? as u64,
                bad: row.get::<_, i64>(2)? as u64,
            })
        })
    }
}

impl Write<'_> {
    /// Keeps that the plain files of a version were read, and whether one was not what it should be.
    pub fn set_examined(&self, version: i64, ended: Timestamp, bad: bool) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO examined (version, ended, bad) VALUES (?1, ?2, ?3)";
        self.execute(sql, params![version, clamped_nanoseconds(ended), bad])
    }

    /// Keeps how the verification of a source ended.
    pub fn end_verification(&self, source: SourceId, verification: &Verification) -> Result<()> {
        let Verification { ended, files, bad } = *verification;
        let sql = "INSERT OR REPLACE INTO verification (source, ended, files, bad) VALUES (?1, ?2, ?3, ?4)";
        self.execute(sql, params![source.0, clamped_nanoseconds(ended), files as i64, bad as i64])
    }
}
