//! Proof that a plain file has, at this moment, the content that is claimed.
//!
//! A name and a size prove nothing: somebody may have changed the file, another process may be about to replace it, and an
//! index that was put back may speak of another one. What counts is the file that is open: either its inode is as it was when
//! its content was last known, or the content is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek};
use std::time::Duration;

use jiff::Timestamp;
use nix::errno::Errno;

use super::Repository;
use super::dirs::{Dir, Metadata, file_metadata};
use super::index::{Index, Record};
use super::place::Place;
use crate::entry::{Hash, Kind, Time, Version, flags, hash_content};
use crate::error::Result;
use crate::path::Name;
use crate::time::clamped_nanoseconds;

/// How old the last reading of a plain file may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// At most this old: a link to a corrupt file would be corrupt as well.
    AtMost(Duration),
    /// Any age.
    Any,
}

/// A file as it was when its content was proved. It is linked, copied or deleted only while it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvedFile {
    pub(super) inode: u64,
    // Bytes.
    pub(super) size: u64,
    pub(super) mtime: Time,
}

impl ProvedFile {
    /// The file that was found and proved.
    pub fn of(found: &Metadata) -> ProvedFile {
        ProvedFile { inode: found.inode.1, size: found.size, mtime: found.mtime }
    }

    /// True for the file after its mtime was set.
    pub fn is_with(self, found: &Metadata, mtime: Time) -> bool {
        ProvedFile { mtime, ..self }.is(found)
    }

    /// True while nothing has replaced or overwritten it. The ctime may differ: making and removing links changes it.
    pub fn is(self, found: &Metadata) -> bool {
        self == ProvedFile::of(found)
    }
}

/// Whether a plain file is a version's.
#[derive(Debug)]
pub enum Proof {
    /// It has the version's content or symlink target, and this metadata.
    Holds(Metadata),
    /// It is another file.
    Differs,
    /// The name does not exist.
    Missing,
    /// The file can't be examined: it may be the version's.
    Unreadable(io::Error),
}

impl Proof {
    /// What a failed system call proves: a failing disk must not look like one without the file.
    pub fn failed(errno: Errno) -> Proof {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => Proof::Missing,
            errno => Proof::Unreadable(errno.into()),
        }
    }
}

/// What is known of the contents of plain files: by the index, and what was found out since it was last written to.
#[derive(Debug, Default)]
pub struct Evidence {
    found: HashMap<u64, Record>,
    now: i64,
}

impl Evidence {
    /// Knows only the records in the index.
    pub fn new() -> Evidence {
        Evidence { found: HashMap::new(), now: now() }
    }

    /// The hash of an open file, and when its content was last read. Reads it if its inode is not as recorded.
    pub fn content(
        &mut self,
        index: &Index,
        (file, found): (&File, &Metadata),
        age: Age,
    ) -> Result<io::Result<Record>> {
        if let Some(record) = self.recorded(index, found, age)? {
            return Ok(Ok(record));
        }
        let read = read(file);
        if let Ok(record) = &read {
            self.found.insert(found.inode.1, *record);
        }
        Ok(read)
    }

    /// The record of an inode that nothing has changed since its content was last known.
    pub fn record(&self, index: &Index, found: &Metadata) -> Result<Option<Record>> {
        self.recorded(index, found, Age::Any)
    }

    // What is known of an inode that is as it was when its content was last known.
    fn recorded(&self, index: &Index, found: &Metadata, age: Age) -> Result<Option<Record>> {
        let number = found.inode.1;
        let known = match self.found.get(&number) {
            Some(record) => Some(*record),
            None => index.record(found)?,
        };
        let is_young = |record: &Record| match age {
            Age::Any => true,
            // A timestamp in the future, written by a wrong clock, counts as old.
            Age::AtMost(most) => {
                (0..=most.as_nanos() as i128).contains(&(i128::from(self.now) - i128::from(record.read)))
            }
        };
        Ok(known.filter(|record| record.fits(found) && is_young(record)))
    }

    /// True when an open file has this content.
    pub fn proves(&mut self, index: &Index, file: (&File, &Metadata), hash: &Hash, age: Age) -> Result<Option<Record>> {
        // An empty file needs no proof.
        if file.1.size == 0 {
            let record = Record::of(file.1, *blake3::hash(b"").as_bytes(), self.now);
            return Ok((record.hash == *hash).then_some(record));
        }
        Ok(self.content(index, file, age)?.ok().filter(|record| record.hash == *hash))
    }

    /// Whether the plain file at a place is a version's.
    pub fn of_version(
        &mut self,
        repository: &Repository,
        index: &Index,
        place: &Place,
        version: &Version,
    ) -> Result<Proof> {
        match place.open_directory(repository) {
            Ok(dir) => self.of_version_at(index, (&dir, &place.name), version),
            Err(errno) => Ok(Proof::failed(errno)),
        }
    }

    /// As [`of_version`](Evidence::of_version), for a name in an open directory.
    pub fn of_version_at(&mut self, index: &Index, (dir, name): (&Dir, &Name), version: &Version) -> Result<Proof> {
        let found = match dir.metadata(name) {
            Ok(found) => found,
            Err(errno) => return Ok(Proof::failed(errno)),
        };
        let is_alike =
            found.kind == version.entry.kind && (found.kind != Kind::File || found.size == version.entry.size);
        let is_proved = match (found.kind, version.hash) {
            _ if !is_alike => Ok(false),
            // The record of the inode answers without opening the file, which may be refused.
            (Kind::File, Some(hash)) => match self.recorded(index, &found, Age::Any)? {
                Some(record) => Ok(record.hash == hash),
                None => match dir.open_file_with_metadata(name) {
                    Ok((file, found)) => {
                        self.content(index, (&file, &found), Age::Any)?.map(|record| record.hash == hash)
                    }
                    Err(errno) => return Ok(Proof::failed(errno)),
                },
            },
            (Kind::Symlink, _) => {
                dir.read_symlink(name).map(|target| target == version.entry.target).map_err(io::Error::from)
            }
            // The row of a file that could not be read was made of what the disk shows.
            (Kind::File, None) => Ok(version.has(flags::REBUILT) && found.mtime == version.entry.mtime),
            _ => Ok(true),
        };
        Ok(match is_proved {
            Ok(true) => Proof::Holds(found),
            Ok(false) => Proof::Differs,
            Err(error) => Proof::Unreadable(error),
        })
    }

    /// The time that new records carry, nanoseconds since 1970 UTC.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// The program itself has changed the inode, but not its content.
    pub fn carry_over(&mut self, found: &Metadata, record: &Record) {
        self.found.insert(found.inode.1, Record::of(found, record.hash, record.read));
    }

    /// Removes and returns the new records, for the index.
    pub fn take(&mut self) -> Vec<(u64, Record)> {
        self.now = now();
        self.found.drain().collect()
    }
}

// Fails if the file changes while it is read.
fn read(mut file: &File) -> io::Result<Record> {
    let before = file_metadata(file)?;
    file.rewind()?;
    let hash = hash_content(file, blake3::Hasher::new())?;
    let after = file_metadata(file)?;
    if (before.size, before.mtime) != (after.size, after.mtime) {
        return Err(io::Error::other("it changed while it was read"));
    }
    // A link that is made meanwhile changes the ctime only; the earlier one counts then as none.
    Ok(Record::of(&before, hash, now()))
}

fn now() -> i64 {
    clamped_nanoseconds(Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        place: tempfile::TempDir,
        index: Index,
        name: Name,
    }

    impl Fixture {
        fn new() -> Fixture {
            let place = tempfile::tempdir().unwrap();
            let index = Index::open(place.path()).unwrap();
            std::fs::write(place.path().join("f"), "the first").unwrap();
            Fixture { place, index, name: Name::new("f").unwrap() }
        }

        fn proves(&self, evidence: &mut Evidence, content: &str, age: Age) -> bool {
            let dir = Dir::open_base(self.place.path()).unwrap();
            let (file, found) = dir.open_file_with_metadata(&self.name).unwrap();
            let hash = *blake3::hash(content.as_bytes()).as_bytes();
            evidence.proves(&self.index, (&file, &found), &hash, age).unwrap().is_some()
        }

        // Writes other bytes of the same size, and has the record claim that the inode is as it was.
        fn decay(&mut self, evidence: &mut Evidence) {
            let path = self.place.path().join("f");
            std::fs::write(path, "the worst").unwrap();
            let found = Dir::open_base(self.place.path()).unwrap().metadata(&self.name).unwrap();
            let mut records = evidence.take();
            records[0].1 = Record::of(&found, records[0].1.hash, records[0].1.read - 2_000_000_000);
            let write = self.index.write().unwrap();
            write.set_inodes(records).unwrap();
            write.commit().unwrap();
        }
    }

    #[test]
    fn only_a_missing_name_counts_as_missing() {
        for missing in [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP] {
            assert!(matches!(Proof::failed(missing), Proof::Missing));
        }
        for failed in [Errno::EIO, Errno::EACCES, Errno::EMFILE] {
            assert!(matches!(Proof::failed(failed), Proof::Unreadable(_)), "{failed}");
        }
    }

    #[test]
    fn content_is_proved_by_reading_and_never_by_size() {
        let fixture = Fixture::new();
        assert!(fixture.proves(&mut Evidence::new(), "the first", Age::Any));
        assert!(!fixture.proves(&mut Evidence::new(), "the other", Age::Any));
    }

    #[test]
    fn file_that_was_replaced_under_its_name_is_read_again() {
        let fixture = Fixture::new();
        let mut evidence = Evidence::new();
        assert!(fixture.proves(&mut evidence, "the first", Age::Any));
        std::fs::write(fixture.place.path().join("new"), "the other").unwrap();
        std::fs::rename(fixture.place.path().join("new"), fixture.place.path().join("f")).unwrap();
        assert!(!fixture.proves(&mut evidence, "the first", Age::Any));
        assert!(fixture.proves(&mut evidence, "the other", Age::Any));
    }

    #[test]
    fn record_counts_until_it_is_too_old() {
        let mut fixture = Fixture::new();
        let mut evidence = Evidence::new();
        assert!(fixture.proves(&mut evidence, "the first", Age::Any));
        fixture.decay(&mut evidence);
        assert!(fixture.proves(&mut evidence, "the first", Age::Any));
        assert!(fixture.proves(&mut evidence, "the first", Age::AtMost(Duration::from_secs(3600))));
        assert!(!fixture.proves(&mut evidence, "the first", Age::AtMost(Duration::from_secs(1))));
        assert!(!fixture.proves(&mut evidence, "the first", Age::Any), "what was read last counts");
    }
}
