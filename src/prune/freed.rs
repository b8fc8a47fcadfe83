//! How many bytes the disk gets back when names go.

use std::collections::HashMap;

use crate::repository::dirs::Metadata;

/// Counts the names of inodes that go.
#[derive(Debug, Default)]
pub struct Freed {
    // Of inodes with several names: how many of them go, and how many there were before any went.
    shared: HashMap<(u64, u64), (u64, u64)>,
}

impl Freed {
    /// A name of this inode goes; the bytes that are free then, if it is the last.
    pub fn with(&mut self, found: &Metadata) -> u64 {
        let Metadata { inode, links, bytes_on_disk, identifies, .. } = *found;
        if !identifies || links == 1 && !self.shared.contains_key(&inode) {
            return bytes_on_disk;
        }
        let (going, links) = self.shared.entry(inode).or_insert((0, links));
        *going += 1;
        if going < links {
            return 0;
        }
        self.shared.remove(&inode);
        bytes_on_disk
    }
}
