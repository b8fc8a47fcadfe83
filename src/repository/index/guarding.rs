//! What the guards of a pull ask: what is remembered of mount points and entries, what they stopped the newest pull for, and
//! whether a person has accepted that.

use rusqlite::{Connection, params};

use super::{CANT_WRITE, Index, OnIndex, SourceId, path_of, range_below};
use crate::entry::DirectoryId;
use crate::error::Result;
use crate::path::AbsPath;

// Mount points of a source that are guarded: a hostile client could call every directory one.
const MAX_MOUNTS: u32 = 4096;

/// What a pull was about to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// Files.
    pub removed: u64,
    /// Missing and empty roots and mount points.
    pub paths: Vec<AbsPath>,
    /// The roots below which too many files are gone; empty when paths are missing, or nobody wrote them down.
    pub roots: Vec<AbsPath>,
}

impl Stop {
    // What is left of it after a pull of these roots.
    fn without(self, roots: &[AbsPath]) -> Stop {
        let rest = |paths: Vec<AbsPath>| paths.into_iter().filter(|path| !is_below(path, roots)).collect();
        Stop { removed: self.removed, paths: rest(self.paths), roots: rest(self.roots) }
    }
}

fn is_below(path: &AbsPath, roots: &[AbsPath]) -> bool {
    roots.iter().any(|root| path.starts_with(root))
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
    /// The next pull may remove that.
    pub is_accepted: bool,
}

impl Index {
    /// The stop of a source's newest pull; `None` when no guard stopped it.
    pub fn stop_of(&self, source: SourceId) -> Result<Option<Stopped>> {
        if !self.has_table("stopped")? {
            return Ok(None);
        }
        let roots = if self.has_table("stopped_root")? {
            self.all("SELECT path FROM stopped_root WHERE source = ?1", params![source.0], |row| {
                path_of(row.get_ref(0)?)
            })?
        } else {
            Vec::new()
        };
        let sql = "SELECT run, reason, removed, paths, accepted FROM stopped WHERE source = ?1";
        self.one(sql, params![source.0], |row| {
            let paths = row.get_ref(3)?.as_blob()?;
            let paths = paths.split(|&byte| byte == 0).filter_map(AbsPath::new).collect();
            let stop = Stop { removed: row.get::<_, i64>(2)? as u64, paths, roots };
            Ok(Stopped { run: row.get(0)?, reason: row.get(1)?, stop, is_accepted: row.get(4)? })
        })
    }

    /// True when a version is one of the files whose removal the newest pull of its source was stopped for.
    pub fn is_stopped_file(&self, version: i64) -> Result<bool> {
        // An index that can only be read may be older.
        if !self.has_table("stopped_file")? {
            return Ok(false);
        }
        let sql = "SELECT 1 FROM stopped_file WHERE version = ?1";
        self.one(sql, params![version], |_| Ok(())).map(|found| found.is_some())
    }

    /// Notes what a run was stopped for: besides missing paths, these versions of files.
    pub fn note_stop(
        &mut self,
        source: SourceId,
        run: i64,
        stop: &Stop,
        reason: &str,
        files: impl Iterator<Item = Result<i64>>,
    ) -> Result<()> {
        let mut stop = stop.clone();
        let accepted = self.stop_of(source)?.filter(|before| before.is_accepted);
        let transaction = self.connection.transaction().on_index(CANT_WRITE)?;
        match accepted {
            None => forget_stop(&transaction, source)?,
            // An acceptance that did not suffice is added to the new stop.
            Some(before) => {
                // An older program wrote down no files: it accepted a number, which counts no more.
                let is_number = before.stop.paths.is_empty() && count_stopped_files(&transaction, source)? == 0;
                stop.removed += if is_number { 0 } else { before.stop.removed };
                for (paths, before) in [(&mut stop.paths, before.stop.paths), (&mut stop.roots, before.stop.roots)] {
                    let more: Vec<_> = before.into_iter().filter(|path| !paths.contains(path)).collect();
                    paths.extend(more);
                }
            }
        }
        write_stop(&transaction, source, &Stopped { run, reason: reason.to_owned(), stop, is_accepted: false })?;
        add_stopped_files(&transaction, source, files)?;
        transaction.commit().on_index(CANT_WRITE)
    }

    /// Lets the next pull of a source remove what this run was stopped for; false when another stop has taken its place.
    pub fn accept_stop(&mut self, source: SourceId, run: i64) -> Result<bool> {
        let sql = "UPDATE stopped SET accepted = 1 WHERE source = ?1 AND run = ?2";
        self.connection.execute(sql, params![source.0, run]).map(|rows| rows == 1).on_index(CANT_WRITE)
    }

    /// Forgets what a pull of these roots has listed and went through with; a stop of other roots remains.
    pub fn clear_stop(&mut self, source: SourceId, roots: &[AbsPath]) -> Result<()> {
        let Some(stopped) = self.stop_of(source)? else { return Ok(()) };
        let mut stop = stopped.stop.clone().without(roots);
        let transaction = self.connection.transaction().on_index(CANT_WRITE)?;
        if stop.paths.is_empty() && stop.roots.is_empty() {
            forget_stop(&transaction, source)?;
        } else {
            for root in roots {
                stop.removed = stop.removed.saturating_sub(forget_stopped_files(&transaction, source, root)?);
            }
            write_stop(&transaction, source, &Stopped { stop, ..stopped })?;
        }
        transaction.commit().on_index(CANT_WRITE)
    }

    /// The directories of a source that hold something, and on which another file system was mounted as they were listed
    /// last; the first ones, if they are too many.
    pub fn mounts(&self, source: SourceId) -> Result<Vec<(DirectoryId, AbsPath)>> {
        if !self.has_table("mount")? {
            return Ok(Vec::new());
        }
        let sql = "SELECT directory, path FROM mount JOIN directory ON directory.id = mount.directory WHERE source = ?1 \
                   AND EXISTS (SELECT 1 FROM version WHERE version.directory = directory.id AND until_run IS NULL) \
                   ORDER BY directory LIMIT ?2";
        self.all(sql, params![source.0, MAX_MOUNTS], |row| Ok((DirectoryId(row.get(0)?), path_of(row.get_ref(1)?)?)))
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

fn write_stop(connection: &Connection, source: SourceId, stopped: &Stopped) -> Result<()> {
    let Stopped { run, reason, stop, is_accepted } = stopped;
    let paths: Vec<u8> = stop.paths.iter().flat_map(|path| [path.as_bytes(), b"\0"].concat()).collect();
    let row = params![source.0, run, reason, stop.removed as i64, paths, is_accepted];
    connection.execute("INSERT OR REPLACE INTO stopped VALUES (?1, ?2, ?3, ?4, ?5, ?6)", row).on_index(CANT_WRITE)?;
    connection.execute("DELETE FROM stopped_root WHERE source = ?1", params![source.0]).on_index(CANT_WRITE)?;
    for root in &stop.roots {
        let row = params![source.0, root.as_bytes()];
        connection.execute("INSERT OR IGNORE INTO stopped_root VALUES (?1, ?2)", row).on_index(CANT_WRITE)?;
    }
    Ok(())
}

fn add_stopped_files(
    connection: &Connection,
    source: SourceId,
    files: impl Iterator<Item = Result<i64>>,
) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO stopped_file (version, source) VALUES (?1, ?2)";
    let mut insert = connection.prepare(sql).on_index(CANT_WRITE)?;
    for version in files {
        insert.execute(params![version?, source.0]).on_index(CANT_WRITE)?;
    }
    Ok(())
}

fn count_stopped_files(connection: &Connection, source: SourceId) -> Result<u64> {
    let sql = "SELECT count(*) FROM stopped_file WHERE source = ?1";
    connection
        .query_row(sql, params![source.0], |row| row.get::<_, i64>(0))
        .map(|count| count as u64)
        .on_index(CANT_WRITE)
}

// Those at and below a path; returns how many.
fn forget_stopped_files(connection: &Connection, source: SourceId, path: &AbsPath) -> Result<u64> {
    let (from, until) = range_below(path);
    let (parent, name) =
        path.split().map(|(parent, name)| (parent.as_bytes().to_vec(), name.as_bytes().to_vec())).unzip();
    let sql = "DELETE FROM stopped_file WHERE source = ?1 AND EXISTS \
               (SELECT 1 FROM version JOIN directory ON directory.id = version.directory \
               WHERE version.id = stopped_file.version \
               AND (path = ?2 OR (path > ?3 AND path < ?4) OR (path = ?5 AND name = ?6)))";
    let row = params![source.0, path.as_bytes(), from, until, parent, name];
    connection.execute(sql, row).map(|rows| rows as u64).on_index(CANT_WRITE)
}

fn forget_stop(connection: &Connection, source: SourceId) -> Result<()> {
    let tables = ["stopped", "stopped_root", "stopped_file"];
    let tables = tables.map(|table| format!("DELETE FROM {table} WHERE source = ?1"));
    let forget = |sql: &String| connection.execute(sql, params![source.0]).map(drop).on_index(CANT_WRITE);
    tables.iter().try_for_each(forget)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::SourceName;

    fn files(versions: &[i64]) -> impl Iterator<Item = Result<i64>> {
        versions.iter().map(|version| Ok(*version))
    }

    #[test]
    fn only_the_stop_that_was_shown_is_accepted_and_adds_up() {
        let place = tempfile::tempdir().unwrap();
        let mut index = Index::open(place.path()).unwrap();
        let source = index.enter_source(&SourceName::new("laptop").unwrap()).unwrap();
        let stop = |removed, path: &str| Stop { removed, paths: vec![AbsPath::new(path).unwrap()], roots: Vec::new() };
        index.note_stop(source, 7, &stop(60, "/m1"), "unmounted", files(&[1, 2])).unwrap();
        assert!(!index.accept_stop(source, 6).unwrap());
        assert!(!index.stop_of(source).unwrap().unwrap().is_accepted);
        // What nobody accepted is replaced.
        index.note_stop(source, 8, &stop(60, "/m2"), "unmounted", files(&[3])).unwrap();
        assert_eq!([1, 2, 3].map(|file| index.is_stopped_file(file).unwrap()), [false, false, true]);
        assert_eq!(index.stop_of(source).unwrap().unwrap().stop, stop(60, "/m2"));
        assert!(index.accept_stop(source, 8).unwrap());
        index.note_stop(source, 9, &stop(50, "/m1"), "unmounted", files(&[4])).unwrap();
        assert_eq!([3, 4].map(|file| index.is_stopped_file(file).unwrap()), [true; 2]);
        let stopped = index.stop_of(source).unwrap().unwrap();
        assert!(!stopped.is_accepted);
        assert_eq!(stopped.stop.removed, 110);
        assert_eq!(stopped.stop.paths.len(), 2);
        index.clear_stop(source, &[AbsPath::root()]).unwrap();
        assert_eq!(index.stop_of(source).unwrap(), None);
        assert!(!index.is_stopped_file(3).unwrap());
    }

    #[test]
    fn stop_ends_with_a_pull_of_what_was_stopped() {
        let place = tempfile::tempdir().unwrap();
        let mut index = Index::open(place.path()).unwrap();
        let source = index.enter_source(&SourceName::new("laptop").unwrap()).unwrap();
        let paths = |paths: &[&str]| paths.iter().map(|path| AbsPath::new(*path).unwrap()).collect::<Vec<_>>();
        let stop = Stop { removed: 60, paths: paths(&["/a/m"]), roots: paths(&["/b", "/c"]) };
        index.note_stop(source, 7, &stop, "gone", files(&[])).unwrap();
        let mut left = |roots: &[&str]| {
            index.clear_stop(source, &paths(roots)).unwrap();
            index.stop_of(source).unwrap().map(|stopped| (stopped.stop.paths, stopped.stop.roots))
        };
        assert_eq!(left(&["/d", "/b/below", "/a/m/below"]), Some((paths(&["/a/m"]), paths(&["/b", "/c"]))));
        assert_eq!(left(&["/b"]), Some((paths(&["/a/m"]), paths(&["/c"]))));
        assert_eq!(left(&["/a"]), Some((vec![], paths(&["/c"]))));
        assert_eq!(left(&["/"]), None);
        // An acceptance that was used in part remains for the rest.
        index.note_stop(source, 7, &stop, "gone", files(&[])).unwrap();
        assert!(index.accept_stop(source, 7).unwrap());
        let mut is_accepted = |root: &str| {
            index.clear_stop(source, &paths(&[root])).unwrap();
            index.stop_of(source).unwrap().unwrap().is_accepted
        };
        assert!(is_accepted("/d"));
        assert!(is_accepted("/b"));
        // What an older program accepted was a number.
        index.clear_stop(source, &paths(&["/"])).unwrap();
        index.note_stop(source, 7, &Stop { removed: 60, ..Stop::default() }, "gone", files(&[])).unwrap();
        assert!(index.accept_stop(source, 7).unwrap());
        let gone = Stop { removed: 50, paths: Vec::new(), roots: paths(&["/b"]) };
        index.note_stop(source, 8, &gone, "gone", files(&[1])).unwrap();
        assert_eq!(index.stop_of(source).unwrap().unwrap().stop, gone);
        // One that an older program noted.
        index.clear_stop(source, &paths(&["/"])).unwrap();
        index.note_stop(source, 8, &Stop { removed: 60, ..Stop::default() }, "gone", files(&[])).unwrap();
        index.clear_stop(source, &paths(&["/b"])).unwrap();
        assert_eq!(index.stop_of(source).unwrap(), None);
    }
}
