//! The room that a pull leaves free on the repository's file system.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::{Statvfs, fstatvfs};

use super::Repository;
use super::dirs::Dir;
use super::index;
use crate::error::{Error, Kind, OnServer, Result};
use crate::path::Name;
use crate::source::MinFree;

// How many bytes may be written before it is looked at again. A file counts as some, for its inode.
const EVERY: u64 = 16 << 20;
const FILE: u64 = 64 << 10;

// What the index may need to write while something is removed, beside its own size; and the most that is made for it.
const SPARE: u64 = 1 << 20;
const MAX_SPARE: u64 = 64 << 20;

// A file that takes room while there is enough, so that something can still be removed when there is none: the index logs a
// change before it makes one. Removal in small batches takes about one MiB.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 4 << 20;

// It is not worth having where it would take a larger share of what is free.
const MIN_FREE_PER_RESERVE_BYTE: u64 = 16;

impl Repository {
    /// Keeps some room for a later [`make_room`](Repository::make_room), if there is enough. Without it everything works until
    /// the disk is full.
    pub fn keep_reserve(&self) {
        let name = reserve();
        let is_kept = self.base().metadata(&name).is_ok_and(|found| found.size >= RESERVE_BYTES);
        let has_room =
            || fstatvfs(self.base()).is_ok_and(|found| free(&found) / MIN_FREE_PER_RESERVE_BYTE >= RESERVE_BYTES);
        if is_kept || !has_room() {
            return;
        }
        // Of one that another process is making at this moment, the larger part may be lost: the next pull makes it again.
        let _ = self.base().unlink(&name);
        if let Ok(file) = self.base().create_file(&name)
            && fill(file).is_err()
        {
            let _ = self.base().unlink(&name);
        }
    }

    /// Makes room for what the index needs to write before anything can be removed: where there is too little, the reserve is
    /// removed, and then the index's dated copies, the oldest first; later pulls make them again. False when it is still too
    /// little.
    pub fn make_room(&self) -> Result<bool> {
        let index = Name::new(index::FILE_NAME).expect("it is a name");
        let needed = self.base().metadata(&index).map_or(0, |found| found.size).saturating_add(SPARE).min(MAX_SPARE);
        if !self.has_room_for(needed)? {
            match self.base().unlink(&reserve()) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => {
                    return Err(errno).on_server(format_args!("can't remove `{RESERVE}` from the repository"));
                }
            }
        }
        let mut copies = self.index_copies()?;
        copies.sort();
        for copy in &copies {
            if self.has_room_for(needed)? {
                return Ok(true);
            }
            self.remove_index_copy(copy)?;
        }
        self.has_room_for(needed)
    }

    // A quota shows only in an attempt.
    fn has_room_for(&self, bytes: u64) -> Result<bool> {
        let free = free(&fstatvfs(self.base()).on_server("can't tell how much room is free")?);
        Ok(free >= bytes && self.base().check_has_room_for(bytes).is_ok())
    }
}

/// Watches the free room.
#[derive(Debug)]
pub struct Room {
    dir: Dir,
    least: MinFree,
    written: AtomicU64,
}

impl Room {
    /// Watches over the file system of a repository.
    pub fn new(repository: &Repository, least: MinFree) -> Room {
        Room { dir: repository.base().clone(), least, written: AtomicU64::new(0) }
    }

    /// Counts an entry that is about to be written with so many bytes of content, or a part of it; looks now and then
    /// whether there is room.
    pub fn take(&self, bytes: u64) -> Result<()> {
        let more = bytes.saturating_add(FILE);
        let before = self.written.fetch_add(more, Ordering::Relaxed);
        if before / EVERY == before.saturating_add(more) / EVERY { Ok(()) } else { self.check() }
    }

    /// Tells when less is free than has to stay free: [`Kind::Full`].
    pub fn check(&self) -> Result<()> {
        let found = fstatvfs(&self.dir).on_server("can't tell how much room is free")?;
        let what = match self.least {
            MinFree::Percent(percent) => lacking(&found, percent),
            // A file system that reports no blocks at all does not report free ones either.
            MinFree::Bytes(bytes) => {
                (found.blocks() > 0 && free(&found) < bytes).then(|| bytesize::ByteSize(free(&found)).to_string())
            }
        };
        match what {
            None => Ok(()),
            Some(left) => {
                let what = format_args!("only {left} are free where the repository is, less than min_free");
                Err(Error::new(Kind::Full, what).hint("make room, or lower it for one run by `--min-free`"))
            }
        }
    }
}

fn reserve() -> Name {
    Name::new(RESERVE).expect("it is a name")
}

// Bytes that nothing compresses, where the file system can't set room aside without them.
fn fill(mut file: File) -> io::Result<()> {
    if fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES as i64).is_ok() {
        return Ok(());
    }
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut block = vec![0; 64 << 10];
    for _ in 0..RESERVE_BYTES / block.len() as u64 {
        noise.fill(&mut block);
        file.write_all(&block)?;
    }
    Ok(())
}

fn free(found: &Statvfs) -> u64 {
    found.blocks_available().saturating_mul(found.fragment_size())
}

// File systems that make inodes as they need them tell of none.
fn lacking(found: &Statvfs, percent: u8) -> Option<String> {
    let below = |left: u64, all: u64| all > 0 && u128::from(left) * 100 < u128::from(all) * u128::from(percent);
    if below(found.blocks_available(), found.blocks()) {
        return Some(bytesize::ByteSize(free(found)).to_string());
    }
    below(found.files_available(), found.files()).then(|| format!("{} inodes", found.files_available()))
}
