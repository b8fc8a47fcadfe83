//! What must hold in the index itself: see archive-tree(5).

use rusqlite::params;

use super::reconcile::BASELESS;
use super::{COLUMNS, Index, SourceId, path_of, version_of};
use crate::entry::{Kind, Version, flags};
use crate::error::Result;
use crate::path::AbsPath;

// A run that is still in the index shows the version.
const SHOWN: &str = "EXISTS (SELECT 1 FROM run WHERE run.source = ?1 AND run.id >= version.from_run \
                     AND run.id < max(version.until_run, version.from_run + 1))";

const OF_SOURCE: &str = "version.directory IN (SELECT id FROM directory WHERE source = ?1)";

impl Index {
    /// Versions of a source that a run shows and for which the index knows no plain file.
    pub fn baseless(&self, source: SourceId) -> Result<Vec<Version>> {
        let sql = format!("SELECT {COLUMNS} FROM version WHERE {OF_SOURCE} AND {BASELESS} AND {SHOWN}");
        self.all(&sql, params![source.0], version_of)
    }

    /// Versions of a source that rely on one that is not of the same name and content, or has no plain file of its own.
    pub fn wrongly_relying(&self, source: SourceId) -> Result<Vec<Version>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM version LEFT JOIN version AS other ON other.id = version.relies_on \
             WHERE {OF_SOURCE} AND version.relies_on IS NOT NULL AND (other.id IS NULL \
             OR other.directory <> version.directory OR other.name <> version.name OR other.kind <> version.kind \
             OR other.hash IS NOT version.hash OR other.target IS NOT version.target \
             OR other.relies_on IS NOT NULL OR other.until_run IS NOT NULL AND other.archive_name IS NULL \
             OR version.until_run IS NULL OR version.archive_name IS NOT NULL)"
        );
        self.all(&sql, params![source.0], version_of)
    }

    /// Directories of a source that hold current versions and have no entry in their parent, although they were listed, or a
    /// directory above them was and its listing still counts. Others lead to a root.
    pub fn unlisted_directories(&self, source: SourceId) -> Result<Vec<AbsPath>> {
        let sql = "SELECT path, EXISTS (SELECT 1 FROM listed WHERE listed.directory = directory.id) FROM directory \
                   WHERE source = ?1 \
                   AND EXISTS (SELECT 1 FROM version WHERE version.directory = directory.id AND until_run IS NULL)";
        let row = |row: &rusqlite::Row<'_>| Ok((path_of(row.get_ref(0)?)?, row.get(1)?));
        let holding: Vec<(AbsPath, bool)> = self.all(sql, params![source.0], row)?;
        let mut unlisted = Vec::new();
        for (path, was_listed) in holding {
            if !path.is_root()
                && self.current_directory(source, &path)?.is_none()
                && (was_listed || self.is_below_listed(source, &path)?)
            {
                unlisted.push(path);
            }
        }
        Ok(unlisted)
    }

    fn current_directory(&self, source: SourceId, path: &AbsPath) -> Result<Option<Version>> {
        Ok(self.current_at(source, path)?.filter(|version| version.entry.kind == Kind::Dir))
    }

    // A rebuild can't tell which directories of the snapshot are above the roots, so those that it found do not count. Nor does a
    // listing without a fingerprint: a root was pulled below it since, and the next pull lists it again.
    fn is_below_listed(&self, source: SourceId, path: &AbsPath) -> Result<bool> {
        let mut path = path.clone();
        while let Some((parent, _)) = path.split() {
            let found = self.current_directory(source, &parent)?;
            if found.is_some_and(|version| !version.has(flags::REBUILT)) {
                let listing = self.directory(source, &parent)?;
                return Ok(listing.is_some_and(|(_, fingerprint)| fingerprint.is_some()));
            }
            path = parent;
        }
        Ok(false)
    }
}
