//! What is known of the inodes of plain files: proof of their content that need not be read again.
//!
//! A record counts only while size, mtime and ctime of the inode are as recorded: whoever changes a file changes its ctime.
//! The device is no part of it, for a file system can have another number each time it is mounted.

use rusqlite::{ToSql, params};

use super::{CANT_WRITE, Index, OnIndex, Write};
use crate::entry::Hash;
use crate::error::Result;
use crate::repository::dirs::Metadata;

// Bytes; smaller files have no record. To read one costs as much as to look its record up, and records of all files made a
// first pull a tenth slower. Tests have files on both sides of it.
const MIN_RECORDED_BYTES: u64 = if cfg!(debug_assertions) { 8 } else { 16 * 1024 };

// Rows that one statement writes.
const ROWS: usize = 32;

/// A plain file's content, and what its inode was like when that was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970 UTC.
    pub mtime: i64,
    /// Nanoseconds since 1970 UTC.
    pub ctime: i64,
    /// BLAKE3 of the content.
    pub hash: Hash,
    /// When the content was last read and hashed, nanoseconds since 1970 UTC.
    pub read: i64,
}

impl Record {
    /// The record of an inode as it is now.
    pub fn of(found: &Metadata, hash: Hash, read: i64) -> Record {
        Record { size: found.size, mtime: found.mtime.clamped(), ctime: found.ctime, hash, read }
    }

    /// True while nothing has changed the inode since, and no other one can have taken its number.
    pub fn fits(&self, found: &Metadata) -> bool {
        found.identifies && (self.size, self.mtime, self.ctime) == (found.size, found.mtime.clamped(), found.ctime)
    }
}

/// True when the index keeps records of files of this size in bytes.
pub fn is_recorded(size: u64) -> bool {
    size >= MIN_RECORDED_BYTES
}

impl Index {
    /// The record of an inode, if nothing has changed it since.
    pub fn record(&self, found: &Metadata) -> Result<Option<Record>> {
        if !is_recorded(found.size) {
            return Ok(None);
        }
        let sql = "SELECT size, mtime, ctime, hash, read FROM inode WHERE number = ?1";
        let record = self.one(sql, params![found.inode.1 as i64], |row| {
            let size = row.get::<_, i64>(0)? as u64;
            Ok(Record { size, mtime: row.get(1)?, ctime: row.get(2)?, hash: row.get(3)?, read: row.get(4)? })
        })?;
        Ok(record.filter(|record| record.fits(found)))
    }
}

impl Write<'_> {
    /// Writes the record of an inode.
    pub fn set_inode(&self, number: u64, record: &Record) -> Result<()> {
        self.set_inodes(vec![(number, *record)])
    }

    /// Writes the records of files that are large enough; of two for one inode the later one counts.
    pub fn set_inodes(&self, mut records: Vec<(u64, Record)>) -> Result<()> {
        records.retain(|(_, record)| is_recorded(record.size));
        // Ascending keys and many rows a statement cost least.
        records.sort_by_key(|(number, _)| *number);
        let several = records.chunks_exact(ROWS);
        let rest = several.remainder();
        several.chain(rest.chunks(1)).try_for_each(|some| self.insert_inodes(some))
    }

    fn insert_inodes(&self, records: &[(u64, Record)]) -> Result<()> {
        const COLUMNS: usize = 6;
        let rows = vec!["(?, ?, ?, ?, ?, ?)"; records.len()].join(", ");
        let sql = format!("INSERT OR REPLACE INTO inode (number, size, mtime, ctime, hash, read) VALUES {rows}");
        let mut insert = self.transaction.prepare_cached(&sql).on_index(CANT_WRITE)?;
        for (row, (number, record)) in records.iter().enumerate() {
            let Record { size, mtime, ctime, hash, read } = record;
            let values: [&dyn ToSql; COLUMNS] = [&(*number as i64), &(*size as i64), mtime, ctime, hash, read];
            for (column, value) in values.into_iter().enumerate() {
                insert.raw_bind_parameter(row * COLUMNS + column + 1, value).on_index(CANT_WRITE)?;
            }
        }
        insert.raw_execute().map(drop).on_index(CANT_WRITE)
    }

    /// Forgets an inode that is gone.
    pub fn drop_inode(&self, number: u64) -> Result<()> {
        self.execute("DELETE FROM inode WHERE number = ?1", params![number as i64])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Name;
    use crate::repository::dirs::Dir;

    #[test]
    fn small_files_have_no_record() {
        let place = tempfile::tempdir().unwrap();
        let mut index = Index::open(place.path()).unwrap();
        for (content, is_recorded) in [("seven b", false), ("eight by", true)] {
            std::fs::write(place.path().join("f"), content).unwrap();
            let found = Dir::open_base(place.path()).unwrap().metadata(&Name::new("f").unwrap()).unwrap();
            let record = Record::of(&found, [7; 32], 0);
            let write = index.write().unwrap();
            write.set_inode(found.inode.1, &record).unwrap();
            write.commit().unwrap();
            let rows = index.count("SELECT count(*) FROM inode").unwrap();
            assert_eq!((rows == 1, index.record(&found).unwrap()), (is_recorded, is_recorded.then_some(record)));
        }
    }
}
