//! Mount points that are remembered and on which nothing is mounted any more: the files may be on a disk that is not there.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::Directory;
use super::{Before, Consent};
use crate::error::Result;
use crate::exclude::Excludes;
use crate::path::{AbsPath, Name};
use crate::repository::index::Stop;
use crate::source::Source;

// Paths that an error names.
const MAX_NAMED: usize = 10;

/// What a run finds out about them; no more than the index remembers of each.
#[derive(Debug, Default)]
pub struct Mounts {
    // Those that are remembered, once a directory is gone.
    remembered: Option<BTreeSet<AbsPath>>,
    // Those that are gone with a directory.
    vanished: BTreeSet<AbsPath>,
    // Where file systems were mounted that are mounted at another path now.
    moved: HashSet<AbsPath>,
    // Those that are directories of the file system above now, with the number of files that were removed below each; `None`
    // while nothing was.
    unmounted: HashMap<AbsPath, Option<u64>>,
}

impl Mounts {
    /// Notes that nothing is mounted any more at a path.
    pub fn note_unmounted(&mut self, path: &AbsPath) {
        self.unmounted.insert(path.clone(), None);
    }

    /// Notes a directory that had another path before.
    pub fn note_moved(&mut self, directory: &Directory) {
        if let Some((origin, _)) = directory.origin.as_ref().filter(|_| directory.is_mount) {
            self.moved.insert(origin.clone());
        }
    }

    /// Notes a removed entry, with so many files.
    pub fn note_removed(&mut self, directory: &AbsPath, name: &Name, files: u64) {
        if self.unmounted.is_empty() {
            return;
        }
        let mut next = directory.join(name);
        while let Some(path) = next {
            if let Some(removed_files) = self.unmounted.get_mut(&path) {
                *removed_files.get_or_insert_default() += files;
            }
            next = path.split().map(|(parent, _)| parent);
        }
    }

    /// Notes a removed directory. A disk that is unplugged may take its mount point along, as those below /media do.
    pub fn note_removed_directory(&mut self, removed: &AbsPath, before: Before<'_>, source: &Source) -> Result<()> {
        let remembered = match &self.remembered {
            Some(remembered) => remembered,
            None => {
                let mounts = before.index.mounts(before.source_id)?.into_iter().map(|(_, path)| path);
                let excludes = Excludes::new(&source.settings.exclude);
                self.remembered.insert(mounts.filter(|path| !is_excluded(&excludes, path)).collect())
            }
        };
        let begins = |path: &&AbsPath| path.as_bytes().starts_with(removed.as_bytes());
        let below = remembered.range(removed.clone()..).take_while(begins).filter(|path| path.starts_with(removed));
        self.vanished.extend(below.cloned());
        Ok(())
    }

    /// Stops the run if files have gone with a file system, and nobody has allowed that.
    pub fn check(self, before: Before<'_>, source: &Source, consent: &Consent) -> Result<()> {
        let Mounts { mut vanished, mut unmounted, moved, .. } = self;
        unmounted.retain(|path, removed_files| {
            removed_files.is_some() && !moved.contains(path) && !consent.allows_missing(path)
        });
        let is_below = |path: &AbsPath| unmounted.keys().any(|at| path.starts_with(at));
        vanished.retain(|path| !moved.contains(path) && !is_below(path) && !consent.allows_missing(path));
        if vanished.is_empty() && unmounted.is_empty() {
            return Ok(());
        }
        let mut removed: u64 = unmounted.values().flatten().sum();
        for path in &vanished {
            removed += before.index.count_files_below(before.source_id, path, None)?;
        }
        let what = match (vanished.len(), unmounted.len()) {
            (1, 0) => "was a mount point and does not exist",
            (_, 0) => "were mount points and do not exist",
            (0, 1) => "was a mount point; nothing is mounted there and files below it are gone",
            (0, _) => "were mount points; nothing is mounted there and files below them are gone",
            _ => "were mount points; they do not exist, or nothing is mounted there and files below them are gone",
        };
        let mut paths: Vec<_> = unmounted.into_keys().collect();
        paths.sort();
        paths.extend(vanished);
        let mut named = paths.iter().take(MAX_NAMED).map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", ");
        if let Some(more) = paths.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
            named.push_str(&format!(" and {more} more"));
        }
        consent.note(Stop { removed, paths, roots: Vec::new() });
        Err(consent.missing(source, format_args!("{named} {what} on the client")))
    }
}

// What is excluded since the last pull is gone because a person wants that.
fn is_excluded(excludes: &Excludes, path: &AbsPath) -> bool {
    let mut next = path.split();
    while let Some((parent, name)) = next {
        if excludes.within(&parent).excludes(name.as_bytes(), true) {
            return true;
        }
        next = parent.split();
    }
    false
}
