//! Questions to the index about directories of which it may hold no version: those that lead to roots.

use std::collections::BTreeSet;

use rusqlite::params;

use super::{Index, SourceId, path_of, range_below};
use crate::entry::DirectoryId;
use crate::error::Result;
use crate::path::{AbsPath, Name};

impl Index {
    /// The names in a directory that are, or lead to, directories that the index knows of any time, sorted.
    pub fn directories_in(&self, source: SourceId, path: &AbsPath) -> Result<Vec<Name>> {
        let (prefix, until) = range_below(path);
        let mut names = BTreeSet::new();
        let mut from = prefix.clone();
        // Jumps over what is below a name: two look-ups a name, however much that is.
        while let Some(below) = self.first_directory(source, &from, &until)? {
            let rest = &below[prefix.len()..];
            let length = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            names.extend(Name::new(&rest[..length]));
            from = below[..prefix.len() + length].to_vec();
            // `a`, `a!` and `a/b` are in this order: a name that another begins with may come between.
            from.push(if length == rest.len() { 0 } else { b'/' + 1 });
        }
        Ok(names.into_iter().collect())
    }

    fn first_directory(&self, source: SourceId, from: &[u8], until: &[u8]) -> Result<Option<Vec<u8>>> {
        // `/` itself is never asked for: it is in no directory.
        let sql = "SELECT path FROM directory WHERE source = ?1 AND path >= ?2 AND path < ?3 AND path <> x'2f' \
                   ORDER BY path LIMIT 1";
        self.one(sql, params![source.0, from, until], |row| row.get(0))
    }

    /// The directories of a source at and below `path` of which no listing is kept: above all those that only lead to roots.
    pub fn unlisted_below(&self, source: SourceId, path: &AbsPath) -> Result<Vec<(DirectoryId, AbsPath)>> {
        let (from, until) = range_below(path);
        let sql = "SELECT id, path FROM directory WHERE source = ?1 AND (path = ?2 OR (path >= ?3 AND path < ?4)) \
                   AND fingerprint IS NULL ORDER BY path";
        self.all(sql, params![source.0, path.as_bytes(), from, until], |row| {
            Ok((DirectoryId(row.get(0)?), path_of(row.get_ref(1)?)?))
        })
    }

    /// True when the index has a version, of any time, of something below a path.
    pub fn knows_below(&self, source: SourceId, path: &AbsPath) -> Result<bool> {
        self.has_below(source, path, "?5 = ?5", 0)
    }

    /// True when something below a path was there at the end of a run.
    pub fn shows_below(&self, source: SourceId, path: &AbsPath, run: i64) -> Result<bool> {
        Ok(self.has_below(source, path, "from_run <= ?5 AND until_run IS NULL", run)?
            || self.has_below(source, path, "from_run <= ?5 AND until_run > ?5", run)?)
    }

    fn has_below(&self, source: SourceId, path: &AbsPath, condition: &str, run: i64) -> Result<bool> {
        let (from, until) = range_below(path);
        let sql = format!(
            "SELECT 1 FROM directory CROSS JOIN version ON version.directory = directory.id WHERE source = ?1 \
             AND (path = ?2 OR (path >= ?3 AND path < ?4)) AND {condition} LIMIT 1"
        );
        let params = params![source.0, path.as_bytes(), from, until, run];
        self.one(&sql, params, |_| Ok(())).map(|found| found.is_some())
    }
}
