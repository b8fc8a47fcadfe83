//! Contents: which versions have a hash, found by its first bytes, and which sizes files have.
//!
//! Hashes come in no order. A b-tree of all of them would be written nearly whole, page by page, with every batch of a
//! large pull. So those of new versions go into a small one, `new_content`, which little by little, a range of hashes
//! at a time, is carried over into the large one, `content`: what falls together there is written together.

use rusqlite::{Connection, params};

use super::facts::{Located, located};
use super::{CANT_WRITE, Index, OnIndex, SourceId};
use crate::entry::{Entry, Hash, Kind};
use crate::error::Result;

// With each so many versions the next of so many ranges of hashes is carried over. So `new_content` holds half of what
// comes until every range has had its turn, and a range as much as comes between two turns.
// In tests that is soon.
const TURN: i64 = if cfg!(debug_assertions) { 16 } else { 4096 };
const RANGES: i64 = 32;

// Versions that a transaction keeps before it enters them.
const MAX_KEPT: usize = if cfg!(debug_assertions) { 32 } else { 1 << 16 };

/// What fills empty tables of contents and sizes.
pub(super) const FROM_VERSIONS: [&str; 2] = [
    "INSERT INTO content SELECT substr(hash, 1, 8), id FROM version WHERE kind = 0 AND hash IS NOT NULL ORDER BY 1, 2",
    "INSERT INTO size SELECT DISTINCT size FROM version WHERE kind = 0",
];

// The first bytes of a hash.
type Head = [u8; 8];

impl Index {
    /// True when some file of this size is or was known, of whatever source and age.
    pub fn knows_size(&self, size: u64) -> Result<bool> {
        self.one("SELECT 1 FROM size WHERE bytes = ?1", params![size as i64], |_| Ok(())).map(|found| found.is_some())
    }

    /// True when this source itself once sent this content.
    pub fn source_sent(&self, source: SourceId, hash: &Hash) -> Result<bool> {
        let sql = "SELECT 1 FROM \
                   (SELECT version FROM new_content WHERE head = ?1 UNION ALL SELECT version FROM content WHERE head = ?1) \
                   JOIN version ON version.id = version JOIN directory ON directory.id = version.directory \
                   WHERE hash = ?2 AND source = ?3 LIMIT 1";
        self.one(sql, params![head_of(hash), &hash[..], source.0], |_| Ok(())).map(|found| found.is_some())
    }

    /// Versions with this content, newest first, at most `limit`.
    pub fn versions_with(&self, hash: &Hash, limit: u32) -> Result<Vec<Located>> {
        self.versions_with_before(hash, i64::MAX, limit)
    }

    /// As [`versions_with`](Index::versions_with), those of one source only if one is named.
    pub fn versions_with_of(&self, hash: &Hash, source: Option<SourceId>, limit: u32) -> Result<Vec<Located>> {
        self.newest_versions(hash, i64::MAX, source, limit)
    }

    /// As [`versions_with`](Index::versions_with), those whose number is below `before`.
    pub fn versions_with_before(&self, hash: &Hash, before: i64, limit: u32) -> Result<Vec<Located>> {
        self.newest_versions(hash, before, None, limit)
    }

    fn newest_versions(&self, hash: &Hash, before: i64, source: Option<SourceId>, limit: u32) -> Result<Vec<Located>> {
        // Of a content that there is a thousand times, no more than `limit` are looked at.
        let (join, of_source) = match source {
            None => ("", "AND ?5 IS NULL"),
            Some(_) => ("JOIN directory ON directory.id = version.directory", "AND directory.source = ?5"),
        };
        let newest = |table: &str| {
            format!(
                "SELECT * FROM (SELECT version.id FROM {table} JOIN version ON version.id = {table}.version {join} \
                 WHERE head = ?1 AND {table}.version < ?4 AND hash = ?2 {of_source} \
                 ORDER BY {table}.version DESC LIMIT ?3)"
            )
        };
        let sql = located(&format!(
            "version.id IN ({} UNION ALL {}) ORDER BY version.id DESC LIMIT ?3",
            newest("new_content"),
            newest("content")
        ));
        let source = source.map(|source| source.0);
        self.all(&sql, params![head_of(hash), &hash[..], limit, before, source], Located::of)
    }

    /// Calls `each` with every version whose hash lies between two, both included.
    pub fn each_with_hash(&self, from: &Hash, to: &Hash, each: &mut dyn FnMut(Located) -> Result<()>) -> Result<()> {
        let sql = located(
            "version.id IN (SELECT version FROM new_content WHERE head BETWEEN ?1 AND ?2 \
             UNION ALL SELECT version FROM content WHERE head BETWEEN ?1 AND ?2) \
             AND hash BETWEEN ?3 AND ?4 ORDER BY hash, version.id",
        );
        self.each(&sql, params![head_of(from), head_of(to), &from[..], &to[..]], each)
    }

    /// How many versions are not found by their content, and how many are by one that is not theirs.
    pub fn count_wrong_contents(&self) -> Result<u64> {
        let lost = "SELECT count(*) FROM version WHERE kind = 0 AND hash IS NOT NULL \
                    AND NOT EXISTS (SELECT 1 FROM content WHERE head = substr(hash, 1, 8) AND content.version = id) \
                    AND NOT EXISTS (SELECT 1 FROM new_content WHERE head = substr(hash, 1, 8) AND new_content.version = id)";
        let strange = "SELECT count(*) FROM \
                       (SELECT head, version FROM content UNION ALL SELECT head, version FROM new_content) \
                       LEFT JOIN version ON id = version WHERE id IS NULL OR head IS NOT substr(hash, 1, 8)";
        Ok(self.count(lost)? + self.count(strange)?)
    }
}

/// Contents and sizes that a transaction is about to enter. All of it at once, in order, is less work.
#[derive(Default)]
pub(super) struct NewContents {
    heads: Vec<(Head, i64)>,
    sizes: Vec<i64>,
    // The first and the last number that new versions, of whatever kind, got meanwhile.
    numbers: Option<(i64, i64)>,
}

impl NewContents {
    /// Has a new version found by its content and size, if it is one of a file.
    pub(super) fn add(
        &mut self,
        transaction: &Connection,
        version: i64,
        entry: &Entry,
        hash: Option<Hash>,
    ) -> Result<()> {
        let (first, _) = self.numbers.unwrap_or((version, version));
        self.numbers = Some((first, version));
        if entry.kind == Kind::File { self.keep(transaction, version, entry.size, hash) } else { Ok(()) }
    }

    fn keep(&mut self, transaction: &Connection, version: i64, size: u64, hash: Option<Hash>) -> Result<()> {
        self.sizes.push(size as i64);
        self.heads.extend(hash.map(|hash| (head_of(&hash), version)));
        if self.sizes.len() < MAX_KEPT { Ok(()) } else { self.enter(transaction) }
    }

    /// Has a version, which is about to get another size and hash, found by them; only if it does get others.
    pub(super) fn change(
        &mut self,
        transaction: &Connection,
        version: i64,
        entry: &Entry,
        hash: Option<Hash>,
    ) -> Result<()> {
        if entry.kind != Kind::File {
            return Ok(());
        }
        let sql = "SELECT 1 FROM version WHERE id = ?1 AND (size <> ?2 OR hash IS NOT ?3)";
        let mut query = transaction.prepare_cached(sql).on_index(CANT_WRITE)?;
        if !query.exists(params![version, entry.size as i64, hash]).on_index(CANT_WRITE)? {
            return Ok(());
        }
        self.remove(transaction, version)?;
        self.keep(transaction, version, entry.size, hash)
    }

    /// Has a version no longer found by its content.
    pub(super) fn remove(&mut self, transaction: &Connection, version: i64) -> Result<()> {
        self.enter(transaction)?;
        for table in ["content", "new_content"] {
            let sql = format!(
                "DELETE FROM {table} WHERE version = ?1 AND head = (SELECT substr(hash, 1, 8) FROM version WHERE id = ?1)"
            );
            execute(transaction, &sql, params![version])?;
        }
        Ok(())
    }

    /// Has every version found by its content and size, whatever it was found by before.
    pub(super) fn rebuild(&mut self, transaction: &Connection) -> Result<()> {
        self.clear(transaction)?;
        FROM_VERSIONS.iter().try_for_each(|sql| execute(transaction, sql, params![]))
    }

    /// Has nothing found any more.
    fn clear(&mut self, transaction: &Connection) -> Result<()> {
        self.enter(transaction)?;
        ["content", "new_content", "size"]
            .into_iter()
            .try_for_each(|table| execute(transaction, &format!("DELETE FROM {table}"), params![]))
    }

    /// Enters what was kept for it, and carries ranges over whose turn it is.
    pub(super) fn enter(&mut self, transaction: &Connection) -> Result<()> {
        let NewContents { mut heads, mut sizes, numbers } = std::mem::take(self);
        sizes.sort_unstable();
        sizes.dedup();
        let sql = "INSERT OR IGNORE INTO size (bytes) VALUES (?1)";
        let mut enter = transaction.prepare_cached(sql).on_index(CANT_WRITE)?;
        sizes.iter().try_for_each(|size| enter.execute(params![size]).map(drop)).on_index(CANT_WRITE)?;
        heads.sort_unstable();
        // A row that is there already does no harm.
        let sql = "INSERT OR IGNORE INTO new_content (head, version) VALUES (?1, ?2)";
        let mut enter = transaction.prepare_cached(sql).on_index(CANT_WRITE)?;
        let entered = heads.iter().try_for_each(|(head, version)| enter.execute(params![head, version]).map(drop));
        entered.on_index(CANT_WRITE)?;
        let Some((first, last)) = numbers else { return Ok(()) };
        let turns = (first - 1) / TURN + 1..=last / TURN;
        turns.take(RANGES as usize).try_for_each(|turn| carry_over(transaction, turn % RANGES))
    }
}

fn carry_over(transaction: &Connection, range: i64) -> Result<()> {
    let from = [(range * 256 / RANGES) as u8];
    // Beyond every head, for the last.
    let until = match u8::try_from((range + 1) * 256 / RANGES) {
        Ok(until) => vec![until],
        Err(_) => vec![u8::MAX; 9],
    };
    let sql = "INSERT OR IGNORE INTO content SELECT head, version FROM new_content \
               WHERE head >= ?1 AND head < ?2 ORDER BY head, version";
    execute(transaction, sql, params![from, until])?;
    execute(transaction, "DELETE FROM new_content WHERE head >= ?1 AND head < ?2", params![from, until])
}

fn execute(transaction: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<()> {
    let done = transaction.prepare_cached(sql).and_then(|mut statement| statement.execute(params));
    done.map(drop).on_index(CANT_WRITE)
}

fn head_of(hash: &Hash) -> Head {
    *hash.first_chunk().expect("a hash is longer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{DirectoryId, testing};
    use crate::path::{AbsPath, SourceName};
    use crate::repository::index::NewVersion;

    struct Fixture {
        _scratch: tempfile::TempDir,
        index: Index,
        source: SourceId,
        directory: DirectoryId,
    }

    impl Fixture {
        fn new() -> Fixture {
            let scratch = tempfile::tempdir().unwrap();
            let mut index = Index::open(scratch.path()).unwrap();
            let source = index.enter_source(&SourceName::new("host").unwrap()).unwrap();
            let write = index.write().unwrap();
            let directory = write.enter_directory(source, &AbsPath::root()).unwrap();
            write.commit().unwrap();
            Fixture { _scratch: scratch, index, source, directory }
        }

        // One version of each hash, in one transaction.
        fn enter(&mut self, hashes: &[Hash]) {
            let known: i64 = self.count("version");
            let write = self.index.write().unwrap();
            for (number, hash) in hashes.iter().enumerate() {
                let entry = file(&format!("file-{}", known + number as i64));
                let version = NewVersion {
                    directory: self.directory,
                    entry: &entry,
                    hash: Some(*hash),
                    run: 1,
                    archive_name: None,
                    flags: 0,
                };
                write.insert(&version).unwrap();
            }
            write.commit().unwrap();
        }

        fn count(&self, table: &str) -> i64 {
            self.index.count(&format!("SELECT count(*) FROM {table}")).unwrap() as i64
        }

        fn found(&self, hash: &Hash, before: i64, limit: u32) -> Vec<i64> {
            let found = self.index.versions_with_before(hash, before, limit).unwrap();
            found.into_iter().map(|located| located.version.id).collect()
        }
    }

    fn file(name: &str) -> Entry {
        Entry { size: 7, ..testing::file(name) }
    }

    fn hash(number: u64) -> Hash {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    #[test]
    fn every_content_is_found_wherever_it_stands() {
        let mut fixture = Fixture::new();
        let hashes: Vec<Hash> = (0..3000).map(hash).collect();
        hashes.chunks(37).for_each(|some| fixture.enter(some));
        let (new, old) = (fixture.count("new_content"), fixture.count("content"));
        assert_eq!(new + old, 3000);
        assert!(old > 0 && new > 0, "{new} are new, {old} are not");
        // Every range has had its turn by then.
        let late = format!("new_content WHERE version <= 3000 - 37 - {}", TURN * RANGES);
        assert_eq!(fixture.count(&late), 0);
        for (number, hash) in hashes.iter().enumerate() {
            assert_eq!(fixture.found(hash, i64::MAX, 9), [number as i64 + 1]);
            assert!(fixture.index.source_sent(fixture.source, hash).unwrap());
        }
        assert!(fixture.found(&hash(3000), i64::MAX, 9).is_empty());
        assert!(!fixture.index.source_sent(fixture.source, &hash(3000)).unwrap());
        assert!(fixture.index.knows_size(7).unwrap() && !fixture.index.knows_size(8).unwrap());
        let mut all = Vec::new();
        let mut each = |located: Located| {
            all.extend(located.version.hash);
            Ok(())
        };
        fixture.index.each_with_hash(&[0; 32], &[255; 32], &mut each).unwrap();
        let mut sorted = hashes;
        sorted.sort();
        assert_eq!(all, sorted);
        assert_eq!(fixture.index.count_wrong_contents().unwrap(), 0);
    }

    #[test]
    fn the_newest_come_first_and_hashes_that_begin_alike_are_told_apart() {
        let mut fixture = Fixture::new();
        let (mut one, mut other) = (hash(1), hash(1));
        (one[31], other[31]) = (0, 1);
        // Enough for both to be in both tables.
        (0..40).for_each(|_| fixture.enter(&[[one; 10], [other; 10]].concat()));
        assert!(fixture.count("content") > 0 && fixture.count("new_content") > 0);
        assert_eq!(fixture.found(&one, i64::MAX, 12), [790, 789, 788, 787, 786, 785, 784, 783, 782, 781, 770, 769]);
        assert_eq!(fixture.found(&other, 799, 2), [798, 797]);
        assert_eq!(fixture.found(&one, 11, 100), (1..=10).rev().collect::<Vec<_>>());
        assert_eq!(fixture.found(&one, i64::MAX, 1000).len(), 400);
    }

    #[test]
    fn a_version_that_gets_another_hash_or_is_deleted_is_no_longer_found_by_it() {
        let mut fixture = Fixture::new();
        (0..100).for_each(|turn| fixture.enter(&(turn * 10..turn * 10 + 10).map(hash).collect::<Vec<_>>()));
        let write = fixture.index.write().unwrap();
        for id in 1..=1000 {
            match id % 4 {
                0 => write.delete(id).unwrap(),
                1 => write.refresh(id, &Entry { size: 8, ..file("changed") }, Some(hash(5000 + id as u64)), 0).unwrap(),
                2 => write.refresh(id, &file("same"), Some(hash(id as u64 - 1)), 0).unwrap(),
                _ => write.refresh(id, &file("lost"), None, 0).unwrap(),
            }
        }
        write.commit().unwrap();
        for id in 1..=1000_i64 {
            let before = fixture.found(&hash(id as u64 - 1), i64::MAX, 9);
            assert_eq!(before, if id % 4 == 2 { vec![id] } else { vec![] });
            let after = fixture.found(&hash(5000 + id as u64), i64::MAX, 9);
            assert_eq!(after, if id % 4 == 1 { vec![id] } else { vec![] });
        }
        assert!(fixture.index.knows_size(8).unwrap() && !fixture.index.knows_size(9).unwrap());
        assert_eq!(fixture.index.count_wrong_contents().unwrap(), 0);
    }

    #[test]
    fn what_is_wrong_is_counted_and_put_right() {
        let mut fixture = Fixture::new();
        (0..100).for_each(|turn| fixture.enter(&(turn * 10..turn * 10 + 10).map(hash).collect::<Vec<_>>()));
        let spoil = "UPDATE version SET hash = zeroblob(32), size = 9 WHERE id IN (1, 1000)";
        fixture.index.connection.execute_batch(spoil).unwrap();
        assert_eq!(fixture.index.count_wrong_contents().unwrap(), 4, "two are lost, two are strange");
        let write = fixture.index.write().unwrap();
        write.restore_contents().unwrap();
        write.commit().unwrap();
        assert_eq!(fixture.index.count_wrong_contents().unwrap(), 0);
        assert_eq!(fixture.found(&[0; 32], i64::MAX, 9), [1000, 1]);
        assert!(fixture.index.knows_size(7).unwrap() && fixture.index.knows_size(9).unwrap());
        // What an older program left of a version, whose number another one has now, stops nobody.
        let stale = [hash(7), hash(8)];
        for table in ["content", "new_content"] {
            let sql = format!("INSERT INTO {table} VALUES (?1, 1001), (?2, 1002)");
            fixture.index.connection.execute(&sql, params![head_of(&stale[0]), head_of(&stale[1])]).unwrap();
        }
        fixture.enter(&stale);
        (0..60).for_each(|_| fixture.enter(&(2000..2010).map(hash).collect::<Vec<_>>()));
        assert_eq!(fixture.found(&hash(7), i64::MAX, 9), [1001, 8]);
    }
}
