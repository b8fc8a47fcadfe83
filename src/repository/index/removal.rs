//! Removes a source that holds nothing any more.

use rusqlite::params;

use super::{Index, SourceId, Write};
use crate::error::Result;

impl Index {
    /// True when the index holds a version of this source, past or current.
    pub fn holds_versions(&self, source: SourceId) -> Result<bool> {
        let sql = "SELECT 1 FROM directory WHERE source = ?1 AND EXISTS \
                   (SELECT 1 FROM version WHERE directory = directory.id) LIMIT 1";
        self.one(sql, params![source.0], |_| Ok(())).map(|found| found.is_some())
    }
}

impl Write<'_> {
    /// Removes a source without versions: its runs, its directories, and what else is known of it.
    pub fn remove_source(&self, source: SourceId) -> Result<()> {
        for sql in [
            "DELETE FROM listed WHERE directory IN (SELECT id FROM directory WHERE source = ?1)",
            "DELETE FROM mount WHERE directory IN (SELECT id FROM directory WHERE source = ?1)",
            "DELETE FROM directory WHERE source = ?1",
            "DELETE FROM verification WHERE source = ?1",
            "DELETE FROM pending WHERE source = ?1",
            "DELETE FROM stopped WHERE source = ?1",
            "DELETE FROM stopped_root WHERE source = ?1",
            "DELETE FROM stopped_file WHERE source = ?1",
            "DELETE FROM machine WHERE source = ?1",
            "DELETE FROM run WHERE source = ?1",
            "DELETE FROM source WHERE id = ?1",
        ] {
            self.execute(sql, params![source.0])?;
        }
        Ok(())
    }
}
