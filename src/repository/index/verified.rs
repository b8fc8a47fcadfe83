//! When plain files were last found to be what the index says.

use jiff::Timestamp;
use rusqlite::params;

use super::{Index, SourceId, Write};
use crate::error::Result;

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
    /// The numbers of those versions of a source with a plain file that were verified the longest ago, or never: this
    /// share of all, in percent, and at least one.
    pub fn longest_unverified(&self, source: SourceId, percent: u8) -> Result<Vec<i64>> {
        let from = "FROM version JOIN directory ON directory.id = version.directory WHERE source = ?1 AND kind = 0 \
                    AND hash IS NOT NULL AND (until_run IS NULL OR archive_name IS NOT NULL)";
        let all = self.one(&format!("SELECT count(*) {from}"), params![source.0], |row| row.get::<_, i64>(0))?;
        let share = (all.unwrap_or(0) as u64 * u64::from(percent)).div_ceil(100);
        let oldest = "ORDER BY (SELECT ended FROM verified WHERE verified.version = version.id), version.id LIMIT ?2";
        self.all(&format!("SELECT version.id {from} {oldest}"), params![source.0, share as i64], |row| row.get(0))
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
    /// Keeps that the plain files of a version were read and found right.
    pub fn set_verified(&self, version: i64, ended: Timestamp) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO verified (version, ended) VALUES (?1, ?2)";
        self.execute(sql, params![version, ended.as_nanosecond() as i64])
    }

    /// Keeps how the verification of a source ended.
    pub fn end_verification(&self, source: SourceId, verification: &Verification) -> Result<()> {
        let Verification { ended, files, bad } = *verification;
        let sql = "INSERT OR REPLACE INTO verification (source, ended, files, bad) VALUES (?1, ?2, ?3, ?4)";
        self.execute(sql, params![source.0, ended.as_nanosecond() as i64, files as i64, bad as i64])
    }
}
