//! Sets of paths in bounded memory.
//!
//! A client can list new directories for ever. The digests of the first paths are kept in memory, further ones in a hash table
//! in a file without a name.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Kind, OnServer, Result};
use crate::fault::most_changes;
use crate::path::AbsPath;
use crate::repository::room::Room;
use crate::repository::staging::Staging;

// Digests in memory, at up to 35 bytes each.
const MAX_IN_MEMORY: usize = 256 * 1024;

// Bytes of a page of the table, and of one of its slots.
const PAGE_BYTES: usize = 4096;
const SLOT_BYTES: usize = size_of::<u128>();

// The table grows when half of its slots are taken, so that a look-up seldom reads a second page.
const MAX_DIGESTS_PER_PAGE: u64 = (PAGE_BYTES / SLOT_BYTES / 2) as u64;

// A dry run's file may be in memory: 256 MiB, for at least four million paths.
const MAX_TEMPORARY_PAGES: u64 = (256 << 20) / PAGE_BYTES as u64;

const WHAT: &str = "can't keep the paths of directories in the staging area";

/// Where paths are kept that are too many for memory.
#[derive(Clone, Copy)]
pub struct Spill<'a> {
    /// Holds the file.
    pub staging: &'a Staging,
    /// What the file takes of it is watched.
    pub room: &'a Room,
}

/// A set of paths.
pub struct PathSet<'a> {
    // A dry run has a temporary file.
    spill: Option<Spill<'a>>,
    in_memory: HashSet<u128>,
    max_in_memory: usize,
    table: Option<Table>,
}

impl<'a> PathSet<'a> {
    /// An empty set.
    pub fn new(spill: Option<Spill<'a>>) -> PathSet<'a> {
        // A test build with small batches keeps few in memory as well.
        PathSet { spill, in_memory: HashSet::new(), max_in_memory: most_changes(MAX_IN_MEMORY), table: None }
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.in_memory.is_empty()
    }

    /// Whether a path is in it.
    pub fn contains(&self, path: &AbsPath) -> Result<bool> {
        let digest = digest(path);
        match &self.table {
            _ if self.in_memory.contains(&digest) => Ok(true),
            Some(table) => Ok(table.find(digest).on_server(WHAT)? == Slot::Taken),
            None => Ok(false),
        }
    }

    /// Adds a path; false if it was in it.
    pub fn insert(&mut self, path: &AbsPath) -> Result<bool> {
        let digest = digest(path);
        if self.in_memory.len() < self.max_in_memory {
            return Ok(self.in_memory.insert(digest));
        }
        if self.in_memory.contains(&digest) {
            return Ok(false);
        }
        let spill = self.spill;
        let table = match &mut self.table {
            Some(table) if table.is_full() => table.grow(create(spill, table.pages * 2)?).on_server(WHAT)?,
            Some(table) => table,
            None => self.table.insert(Table::new(create(spill, 1)?, 1).on_server(WHAT)?),
        };
        table.insert(digest).on_server(WHAT)
    }
}

fn create(spill: Option<Spill<'_>>, pages: u64) -> Result<File> {
    match spill {
        Some(Spill { staging, room }) => {
            room.take(pages * PAGE_BYTES as u64)?;
            staging.create_unnamed().on_server(WHAT)
        }
        None if pages > MAX_TEMPORARY_PAGES => {
            let hint = "pull without `-n`, or exclude some";
            Err(Error::new(Kind::Failed, "the client has too many new directories for a dry run").hint(hint))
        }
        None => tempfile::tempfile().on_server("can't make a temporary file"),
    }
}

// A number that stands for a path, never 0: the first half of its BLAKE3 hash, for a client that could find two paths with one
// number could have one stand for the other.
fn digest(path: &AbsPath) -> u128 {
    let hash = blake3::hash(path.as_bytes());
    u128::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes")).max(1)
}

#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Taken,
    // Where the digest belongs in the file.
    Free(u64),
}

/// Digests in a file: each in the page that its hash says, or in the next one with a free slot. A free slot is zeros.
struct Table {
    file: File,
    pages: u64,
    digests: u64,
    // With a key of its own, or a client could find paths that fill one page.
    hashes: RandomState,
}

impl Table {
    fn new(file: File, pages: u64) -> io::Result<Table> {
        file.set_len(pages * PAGE_BYTES as u64)?;
        Ok(Table { file, pages, digests: 0, hashes: RandomState::new() })
    }

    fn find(&self, digest: u128) -> io::Result<Slot> {
        let mut page = self.hashes.hash_one(digest) % self.pages;
        loop {
            for (at, found) in (0..).zip(self.page(page)?) {
                match found {
                    0 => return Ok(Slot::Free(page * PAGE_BYTES as u64 + at * SLOT_BYTES as u64)),
                    found if found == digest => return Ok(Slot::Taken),
                    _ => {}
                }
            }
            page = (page + 1) % self.pages;
        }
    }

    fn is_full(&self) -> bool {
        self.digests >= self.pages * MAX_DIGESTS_PER_PAGE
    }

    fn insert(&mut self, digest: u128) -> io::Result<bool> {
        let Slot::Free(offset) = self.find(digest)? else { return Ok(false) };
        self.file.write_all_at(&digest.to_le_bytes(), offset)?;
        self.digests += 1;
        Ok(true)
    }

    // Moves to a file of twice as many pages.
    fn grow(&mut self, file: File) -> io::Result<&mut Table> {
        let mut larger = Table::new(file, self.pages * 2)?;
        for page in 0..self.pages {
            for digest in self.page(page)?.into_iter().filter(|digest| *digest != 0) {
                larger.insert(digest)?;
            }
        }
        *self = larger;
        Ok(self)
    }

    fn page(&self, page: u64) -> io::Result<[u128; PAGE_BYTES / SLOT_BYTES]> {
        let mut bytes = [0; PAGE_BYTES];
        self.file.read_exact_at(&mut bytes, page * PAGE_BYTES as u64)?;
        let (slots, _) = bytes.as_chunks();
        Ok(std::array::from_fn(|at| u128::from_le_bytes(slots[at])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::Repository;
    use crate::repository::dirs::Dir;
    use crate::source::MinFree;

    fn path(number: u32) -> AbsPath {
        AbsPath::new(format!("/d{number}")).unwrap()
    }

    fn check(mut set: PathSet<'_>) {
        for number in 0..5000 {
            assert!(!set.contains(&path(number)).unwrap());
            assert!(set.insert(&path(number)).unwrap());
            assert!(!set.insert(&path(number / 2)).unwrap());
        }
        assert!((0..5000).all(|number| set.contains(&path(number)).unwrap()));
        assert!((5000..6000).all(|number| !set.contains(&path(number)).unwrap()));
        assert_eq!(set.in_memory.len(), set.max_in_memory);
        assert_eq!(set.in_memory.len() as u64 + set.table.unwrap().digests, 5000);
    }

    fn with_spill(min_free: MinFree, test: impl FnOnce(Spill<'_>)) {
        let place = tempfile::tempdir().unwrap();
        let repository = Repository::create(&place.path().join("repo")).unwrap();
        let staging = tempfile::tempdir().unwrap();
        let staging = Staging::open(Dir::open_base(staging.path()).unwrap()).unwrap();
        test(Spill { staging: &staging, room: &Room::new(&repository, min_free) });
    }

    #[test]
    fn paths_beyond_the_limit_are_in_a_file_without_a_name() {
        with_spill(MinFree::Bytes(0), |spill| {
            check(PathSet { max_in_memory: 10, ..PathSet::new(Some(spill)) });
            assert!(spill.staging.dir().names().unwrap().is_empty());
        });
    }

    #[test]
    fn dry_run_keeps_paths_beyond_the_limit_in_a_temporary_file() {
        check(PathSet { max_in_memory: 10, ..PathSet::new(None) });
    }

    #[test]
    fn table_of_paths_leaves_room() {
        with_spill(MinFree::Bytes(u64::MAX), |spill| {
            let mut set = PathSet { max_in_memory: 10, ..PathSet::new(Some(spill)) };
            let error = (0..1_000_000).find_map(|number| set.insert(&path(number)).err()).unwrap();
            assert_eq!(error.kind(), Kind::Full);
        });
    }

    #[test]
    fn full_page_goes_over_into_the_next() {
        let mut table = Table::new(tempfile::tempfile().unwrap(), 2).unwrap();
        // Half of two pages, all of which belong in the last one.
        let mut digests = (1..).filter(|digest| table.hashes.hash_one(digest) % 2 == 1);
        let digests: Vec<u128> = digests.by_ref().take(2 * MAX_DIGESTS_PER_PAGE as usize).collect();
        for digest in &digests {
            assert!(table.insert(*digest).unwrap());
        }
        let more: Vec<u128> =
            (1..).filter(|digest| table.hashes.hash_one(digest) % 2 == 1).skip(digests.len()).take(9).collect();
        table.digests = 0;
        assert!(more.iter().all(|digest| table.insert(*digest).unwrap()));
        assert!(digests.iter().chain(&more).all(|digest| table.find(*digest).unwrap() == Slot::Taken));
        table.digests = 2 * MAX_DIGESTS_PER_PAGE;
        assert!(table.is_full());
        assert!(table.grow(tempfile::tempfile().unwrap()).unwrap().insert(u128::MAX).unwrap());
        assert_eq!(table.digests as usize, digests.len() + more.len() + 1);
        assert!(digests.iter().chain(&more).all(|digest| table.find(*digest).unwrap() == Slot::Taken));
    }
}
