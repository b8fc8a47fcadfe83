//! The staging area of one source: files that are being received, before anything points at them.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use super::dirs::Dir;
use crate::entry::Hash;
use crate::path::Name;

/// The staging area of one source. Its user holds the source's lock.
#[derive(Debug)]
pub struct Staging {
    dir: Dir,
    next: AtomicU64,
}

/// A file that was received whole, with its metadata set.
#[derive(Debug)]
pub struct Staged {
    /// Its name in the staging area.
    pub name: Name,
    /// BLAKE3 of what was received.
    pub hash: Hash,
    /// Bytes received.
    pub size: u64,
    /// False when it kept changing while it was read.
    pub consistent: bool,
}

impl Staging {
    /// Opens the area and removes what an interrupted run left in it.
    pub fn open(dir: Dir) -> nix::Result<Staging> {
        for name in dir.names()? {
            dir.unlink(&name)?;
        }
        Ok(Staging { dir, next: AtomicU64::new(0) })
    }

    /// A name that nothing in the area has.
    pub fn free_name(&self) -> Name {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        Name::new(name).expect("a number is a name")
    }

    /// Creates a file under a name of its own.
    pub fn create(&self) -> nix::Result<(Name, File)> {
        let name = self.free_name();
        let file = self.dir.create_file(&name)?;
        Ok((name, file))
    }

    /// The area's directory.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }
}
