//! What the guards of a pull ask: what is remembered of mount points and entries, what they stopped the newest pull for, and
//! whether a person has accepted that.

use rusqlite::params;

use super::{Index, OnIndex, SourceId, path_of, range_below};
use crate::entry::DirectoryId;
use crate::error::Result;
use crate::path::AbsPath;

const WHAT: &str = "can't write the index";

/// What a pull was about to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// Files.
    pub removed: u64,
    /// Missing and empty roots.
    pub paths: Vec<AbsPath>,
}

/// A pull that a guard stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Its run.
    pub run: i64,
    /// The line that said why.
    pub reason: String,
    /// What it was about to remove.
    pub stop: Stop,
    /// The next pull may remove as much.
    pub is_accepted: bool,
}

impl Index {
    /// The stop of a source's newest pull; `None` when no guard stopped it.
    pub fn stop_of(&self, source: SourceId) -> Result<Option<Stopped>> {
        if !self.has_table("stopped")? {
            return Ok(None);
        }
        let sql = "SELECT run, reason, removed, paths, accepted FROM stopped WHERE source = ?1";
        self.one(sql, params![source.0], |row| {
            let paths = row.get_ref(3)?.as_blob()?;
            let paths = paths.split(|&byte| byte == 0).filter_map(AbsPath::new).collect();
            let stop = Stop { removed: row.get::<_, i64>(2)? as u64, paths };
            Ok(Stopped { run: row.get(0)?, reason: row.get(1)?, stop, is_accepted: row.get(4)? })
        })
    }

    /// Notes what a run was stopped for.
    pub fn note_stop(&mut self, source: SourceId, run: i64, stop: &Stop, reason: &str) -> Result<()> {
        // What was accepted and did not suffice stays accepted together with the rest.
        let mut stop = stop.clone();
        if let Some(before) = self.stop_of(source)?.filter(|before| before.is_accepted) {
            let is_more = !stop.paths.is_empty() && !stop.paths.iter().any(|path| before.stop.paths.contains(path));
            stop.removed =
                if is_more { stop.removed + before.stop.removed } else { stop.removed.max(before.stop.removed) };
            stop.paths
                .extend(before.stop.paths.into_iter().filter(|path| !stop.paths.contains(path)).collect::<Vec<_>>());
        }
        let paths: Vec<u8> = stop.paths.iter().flat_map(|path| [path.as_bytes(), b"\0"].concat()).collect();
        let sql = "INSERT OR REPLACE INTO stopped VALUES (?1, ?2, ?3, ?4, ?5, 0)";
        let row = params![source.0, run, reason, stop.removed as i64, paths];
        self.connection.execute(sql, row).map(drop).on_index(WHAT)
    }

    /// Lets the next pull of a source remove what this run was stopped for; false when another stop has taken its place.
    pub fn accept_stop(&mut self, source: SourceId, run: i64) -> Result<bool> {
        let sql = "UPDATE stopped SET accepted = 1 WHERE source = ?1 AND run = ?2";
        self.connection.execute(sql, params![source.0, run]).map(|rows| rows == 1).on_index(WHAT)
    }

    /// Forgets it: a pull went through.
    pub fn clear_stop(&mut self, source: SourceId) -> Result<()> {
        self.connection.execute("DELETE FROM stopped WHERE source = ?1", params![source.0]).map(drop).on_index(WHAT)
    }

    /// The directories of a source on which another file system was mounted as they were listed last.
    pub fn mounts(&self, source: SourceId) -> Result<Vec<(DirectoryId, AbsPath)>> {
        if !self.has_table("mount")? {
            return Ok(Vec::new());
        }
        let sql =
            "SELECT directory, path FROM mount JOIN directory ON directory.id = mount.directory WHERE source = ?1";
        self.all(sql, params![source.0], |row| Ok((DirectoryId(row.get(0)?), path_of(row.get_ref(1)?)?)))
    }

    /// How many entries are current in directories at and below paths.
    pub fn count_entries_below(&self, source: SourceId, paths: &[AbsPath]) -> Result<u64> {
        let mut count = 0;
        for path in paths {
            let (from, until) = range_below(path);
            let sql = "SELECT count(*) FROM directory JOIN version ON version.directory = directory.id \
                       WHERE directory.source = ?1 AND (path = ?2 OR (path > ?3 AND path < ?4)) \
                       AND until_run IS NULL";
            let row = params![source.0, path.as_bytes(), from, until];
            count += self.one(sql, row, |row| row.get::<_, i64>(0))?.unwrap_or(0) as u64;
        }
        Ok(count)
    }

    // Only an index that was opened to write is sure to have the tables of a newer program.
    fn has_table(&self, name: &str) -> Result<bool> {
        let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1";
        self.one(sql, params![name], |_| Ok(())).map(|found| found.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::SourceName;

    #[test]
    fn only_the_stop_that_was_shown_is_accepted_and_adds_up() {
        let place = tempfile::tempdir().unwrap();
        let mut index = Index::open(place.path()).unwrap();
        let source = index.enter_source(&SourceName::new("laptop").unwrap()).unwrap();
        let stop = |removed, path: &str| Stop { removed, paths: AbsPath::new(path).into_iter().collect() };
        index.note_stop(source, 7, &stop(60, "/m1"), "unmounted").unwrap();
        assert!(!index.accept_stop(source, 6).unwrap());
        assert!(!index.stop_of(source).unwrap().unwrap().is_accepted);
        // What nobody accepted is replaced.
        index.note_stop(source, 8, &stop(60, "/m2"), "unmounted").unwrap();
        assert_eq!(index.stop_of(source).unwrap().unwrap().stop, stop(60, "/m2"));
        assert!(index.accept_stop(source, 8).unwrap());
        index.note_stop(source, 9, &stop(50, "/m1"), "unmounted").unwrap();
        let stopped = index.stop_of(source).unwrap().unwrap();
        assert!(!stopped.is_accepted);
        assert_eq!(stopped.stop.removed, 110);
        assert_eq!(stopped.stop.paths.len(), 2);
        index.clear_stop(source).unwrap();
        assert_eq!(index.stop_of(source).unwrap(), None);
    }
}
