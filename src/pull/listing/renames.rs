//! Directories that had another path before: what is in them is known, and need neither be listed nor hashed.
//!
//! A directory that is renamed keeps its inode number, and what is in it keeps its ctimes. So a directory with the
//! number and the fingerprint of a known one is that one, by what lets a file at its old path pass for unchanged.

use std::collections::{HashMap, HashSet};

use super::super::Directory;
use crate::client::list::AnnouncedDirectory;
use crate::entry::{Digests, DirectoryId, Version, flags};
use crate::error::Result;
use crate::path::AbsPath;
use crate::repository::index::{Index, SourceId};

// Of a larger directory the entries are listed, for they would be in memory together.
const MOST_ENTRIES: u64 = 64 * 1024;

// Versions in memory of moved directories that wait for their parents' entries.
const MAX_DEFERRED_VERSIONS: usize = 128 * 1024;

/// What such a directory holds.
pub struct Found {
    /// Where it was.
    pub origin: AbsPath,
    /// The current versions there, by name.
    pub versions: Vec<Version>,
    /// Their digests.
    pub digests: Digests,
}

/// Those whose parents' entries have not come yet, by the parents' paths.
#[derive(Default)]
pub struct Deferred {
    waiting: HashMap<AbsPath, Vec<(Directory, Found)>>,
    versions: usize,
}

impl Deferred {
    /// False when too many versions wait: further moved directories are listed instead.
    pub fn has_room(&self) -> bool {
        self.versions < MAX_DEFERRED_VERSIONS
    }

    /// Keeps a directory until its parent's entries are complete.
    pub fn add(&mut self, directory: Directory, found: Found) {
        let Some((parent, _)) = directory.path.split() else { return };
        self.versions += found.versions.len();
        self.waiting.entry(parent).or_default().push((directory, found));
    }

    /// Removes and returns the waiting directories in a directory.
    pub fn take(&mut self, parent: &AbsPath) -> Vec<(Directory, Found)> {
        let taken = self.waiting.remove(parent).unwrap_or_default();
        self.versions -= taken.iter().map(|(_, found)| found.versions.len()).sum::<usize>();
        taken
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Finds moved directories.
#[derive(Default)]
pub struct Moved {
    // A directory has one path: each is taken once.
    taken: HashSet<DirectoryId>,
}

impl Moved {
    /// What is in a directory that is new at its path and that the index knows by another one.
    pub fn find(&mut self, (index, source): (&Index, SourceId), listed: &AnnouncedDirectory) -> Result<Option<Found>> {
        let AnnouncedDirectory { path, inode, fingerprint, entries, complete, .. } = listed;
        if !complete || *inode == 0 || !(1..=MOST_ENTRIES).contains(entries) {
            return Ok(None);
        }
        let Some(known) = index.directory_with(source, *inode, fingerprint)? else { return Ok(None) };
        if self.taken.contains(&known) {
            return Ok(None);
        }
        let Some(origin) = index.directory_path(known)? else { return Ok(None) };
        let versions = index.current_after(known, None, MOST_ENTRIES as u32 + 1)?;
        let is_certain = |version: &Version| !version.is_uncertain() && !version.has(flags::UNREADABLE);
        let has_path = |version: &Version| path.join(&version.entry.name).is_some();
        let mut digests = Digests::default();
        versions.iter().for_each(|version| digests.add(&version.entry));
        // Between two looks at the index the directory may have got other entries.
        let fits = digests.fingerprint() == *fingerprint
            && versions.iter().all(|version| is_certain(version) && has_path(version));
        Ok((fits && self.taken.insert(known)).then_some(Found { origin, versions, digests }))
    }
}
